"""What is minimised: from evaluations and decisions, or pairs, to a loss for each.

Here belong surrogates, value losses and preference losses as pure functions that read like their formula, the small
classes around them, and the objectives that put them together. A new loss is one such class in a file of its own.
"""
