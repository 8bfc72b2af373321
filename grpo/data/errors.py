"""The error of a number that is not finite."""


class NonFiniteError(ValueError):
    """A reward, log-prob, entropy, loss or gradient is NaN or infinite."""
