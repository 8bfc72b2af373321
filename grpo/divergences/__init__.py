"""How far one policy is from another: estimators of the divergence, and coefficients that follow it.

Here belongs what is computed from two log-probs of the same decisions, whatever is done with it later: a penalty in
the loss or in the rewards, a weight, a number to stop at.
"""
