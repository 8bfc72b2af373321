"""Around a step: where its states come from, how long a run goes on, what looks at it, and how it is saved and resumed.

Here belong the loop, its callbacks, evaluation, and checkpoints. What a step does is decided in the rooms below, and
nothing here reaches into one.
"""
