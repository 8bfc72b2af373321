"""What can be wrong with an inference engine."""

from __future__ import annotations


class EngineError(RuntimeError):
    """An inference engine did not do what was asked of it."""


class EngineUnreachableError(EngineError):
    """No server answered for as long as one was waited for."""


class EngineAnswerError(EngineError):
    """An answer lacks something, such as log-probs, or cannot be had in so many attempts."""


class EngineModelError(EngineError):
    """The server has another model, another vocabulary, or less context than is needed."""


class EngineWeightsError(EngineError):
    """The policy's weights could not be handed over, or the server does not compute what the policy does."""
