"""What flows through a step: states and actions in batches, evaluations, experience, decisions, preferences.

Here belongs what is passed from room to room, flat over samples, rows or decisions, with the segments that cut it and
the checks that it is what it says. Nothing here calls a model.
"""
