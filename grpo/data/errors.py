"""What a step may stop with, besides ``TypeError`` and ``ValueError``."""


class NonFiniteError(ValueError):
    """A reward, log-prob, entropy, loss or gradient is NaN or infinite."""
