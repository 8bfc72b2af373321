"""Who makes the actions, and what is done where that is not the policy which is trained.

Here belong the seam behind which actions come from, be it the policy, an environment, an inference engine or an agent,
and the weights that correct for a sampler whose log-probs are not the policy's.
"""
