"""What is asked of an inference engine, in whatever words it understands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Protocol

from grpo_adapters.huggingface.decoding.sampling import SamplingConfig
from grpo_adapters.huggingface.engines.server import Server


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt to be continued.

    Attributes:
        prompt: token ids.
        count: completions that are wanted.
        sampling: how.
        end_tokens: that end a completion.
        model: the name of the model, or adapter, that is to answer.
        seed: of the engine's random numbers for this; None for any.
        options: put into the request besides.
    """

    prompt: tuple[int, ...]
    count: int
    sampling: SamplingConfig
    end_tokens: tuple[int, ...] = ()
    model: str = ""
    seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def common(self) -> dict[str, Any]:
        """What engines call alike. What is left out they take from the model's generation config, so nothing is."""
        return {
            "n": self.count,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "min_p": self.sampling.min_p or 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": list(self.sampling.stop_strings),
            "skip_special_tokens": False,  # stop strings may be special tokens
            "stop_token_ids": list(self.end_tokens),
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion as an engine tells it.

    Attributes:
        token_ids: that were drawn.
        log_probs: that they were drawn with, nats; None where the engine does not say.
        ended: by itself; false where it was cut at the maximum number of tokens.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...] | None
    ended: bool


@dataclass(frozen=True, slots=True)
class Served:
    """What a server has.

    Attributes:
        models: names of models, the one that it was started with first.
        max_length: tokens of prompt and completion together, at most; None where it does not say.
    """

    models: tuple[str, ...]
    max_length: int | None


class Dialect(Protocol):
    """The routes of an engine. Versions of weights are names that no two sets of weights share."""

    def request(self, question: Question) -> tuple[str, dict[str, Any]]:
        """The route to ask, and the JSON to send there."""
        ...

    def answers(self, body: Any) -> list[Answer]:
        """What was answered.

        Raises:
            KeyError, TypeError, ValueError: if it is not what the route answers with.
            InterruptedAnswerError: if the engine gave up on it.
        """
        ...

    async def served(self, server: Server) -> Served:
        """What the server has."""
        ...

    async def versions(self, server: Server) -> set[str]:
        """The versions of the weights that the server has."""
        ...

    async def made_by(self, server: Server, body: Any) -> str:
        """The version of the weights that an answer was made with."""
        ...

    async def load_folder(self, server: Server, folder: Path, version: str) -> None:
        """Have the server take over all weights from a folder that it can read."""
        ...

    async def load_adapter(self, server: Server, folder: Path, version: str) -> None:
        """Have the server take over an adapter, whose name is the version, from a folder that it can read."""
        ...

    async def begin(self, server: Server) -> None:
        """Make the server ready for work."""
        ...

    async def end(self, server: Server) -> None:
        """Let the server go, until it is needed again."""
        ...


class InterruptedAnswerError(Exception):
    """An engine gave up on a completion, as when it was told to."""
