"""Who gets the credit: from an experience to the advantages of its decisions.

Here belong pure functions from rewards to advantages, one small class around each for a trainer to take, and what
credit is given for besides the reward, such as the divergence from a reference policy. A new estimator is one such
class in a file of its own.
"""
