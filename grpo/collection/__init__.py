"""From states to experience: actions sampled and scored, sampled again where nothing is to be learnt, paired.

Here belongs everything that happens before anything is learnt: what is asked of the sampler, the reward model and the
policies, once each, and how their answers come together.
"""
