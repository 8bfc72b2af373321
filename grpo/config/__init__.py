"""Settings: frozen, keyword-only, ranges checked, unknown keys refused; one file an algorithm.

Here belong numbers and choices that a user writes down before a training, and the schedules that some of them follow.
What changes in the course of a training, and what computes, belongs elsewhere.
"""
