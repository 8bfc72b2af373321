"""What a policy and a reward model must do, what they may do besides, and how the core calls them.

Here belong the protocols that users implement, the evaluator through which the core sees every policy, and the checks
of what models return. What is computed from their answers belongs to the rooms above.
"""
