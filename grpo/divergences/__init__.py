"""How far one policy is from another: estimators of the divergence, the probability ratio, and coefficients that
follow.

Here belongs what is computed from two log-probs of the same decisions, whatever is done with it later: a penalty in
the loss or in the rewards, a weight, a number to stop at.
"""
