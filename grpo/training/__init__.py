"""From experience, or preferences, to a policy that has changed: the trainers, and what an optimiser step is made of.

Here belong minibatches, the weights of the loss, gradients, metrics, and what a failed step puts back. A step reads
top to bottom in ``trainer.py``; what is sampled, credited and minimised is decided in the rooms below.
"""
