"""What all trainings can be told."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import tyro
from pydantic import BaseModel, NonNegativeInt, PositiveFloat, PositiveInt

from grpo import Callback, Checkpoints, Run, Until
from grpo_adapters.tracking import TrackerName

ModelT = TypeVar("ModelT", bound=type[BaseModel])


class RunOptions(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """What a run can be told, whatever it trains.

    Attributes:
        folder: for everything that the run writes; it must not hold another run.
        until_steps: end after so many steps of the trainer, each with all its updates.
        until_decisions: end once so many decisions were learnt from: actions in an environment, tokens of a language
            model.
        until_seconds: end after so many seconds of wall time.
        checkpoint_every: steps between two checkpoints; 0 for a twentieth of the run.
        trackers: where metrics are logged besides the folder.
        seed: of everything that is random.
        num_threads: of PyTorch on the CPU; None for as many as there are cores. Small networks run fastest on one.
    """

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("run")
    until_steps: PositiveInt | None = None
    until_decisions: PositiveInt | None = None
    until_seconds: PositiveFloat | None = None
    checkpoint_every: Annotated[NonNegativeInt, tyro.conf.arg(metavar="STEPS")] = 0
    trackers: tuple[TrackerName, ...] = ()
    seed: int = 0
    num_threads: PositiveInt | None = None

    @property
    def until(self) -> Until:
        """When the run is over."""
        return Until(steps=self.until_steps, decisions=self.until_decisions, seconds=self.until_seconds)

    def run_of(self, trainer: Any, states: Any, callbacks: Sequence[Callback]) -> Run:
        """The run of a trainer, in the folder and with the checkpoints of these options."""
        checkpoints = Checkpoints(every=self.checkpoint_every)
        return Run(trainer, states, folder=self.folder, checkpoints=checkpoints, callbacks=callbacks)

    def part(self, config: type[BaseModel]) -> dict[str, Any]:
        """Those of the settings that another class of settings has as well."""
        return {name: getattr(self, name) for name in config.model_fields if name in type(self).model_fields}


def explained(options: ModelT) -> ModelT:
    """Give each setting the sentence that the docstring of its class, or of a base, has for it, as plain text."""
    for name, field in cast("type[BaseModel]", options).model_fields.items():
        for owner in options.__mro__:
            found = re.search(
                rf"^    {name}: (.+?)(?=^    \w+: |^\S|\Z)",
                inspect.cleandoc(owner.__doc__ or ""),
                re.DOTALL | re.MULTILINE,
            )
            if found is not None:
                field.description = _plain(found[1])
                break
    options.model_rebuild(force=True)
    return options


def _plain(text: str) -> str:
    r"""Without the marks of reStructuredText.

    Example:
        >>> _plain("either ``1`` or\n    more, for :class:`grpo.Run`")
        'either 1 or more, for grpo.Run'
    """
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "")
    return " ".join(text.split())
