"""The settings of checkpoints: when one is saved, how many are kept."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from grpo.config._frozen_model import FrozenModel
from grpo.runs._comparison import BestIs


class Checkpoints(FrozenModel):
    """Save a run so that it can go on, bit for bit, after it was killed.

    A checkpoint is saved before the first step, every so many steps, and at the end of the run. Before the first step,
    since what cannot be saved, and a folder that cannot be written, are then told at once.

    Attributes:
        every: steps between checkpoints.
        keep_last: how many of the latest are kept.
        keep_every: those whose step is a multiple of it are kept as well; None for none.
        keep_best: the name of a metric of an evaluation, or of a step: that checkpoint is kept as well where it was
            best; None for none. A warning says where no metric of that name comes.
        best_is: whether the ``"highest"`` or the ``"lowest"`` value of it is best.
        asynchronous: whether training goes on while a copy of the state is written; the next checkpoint waits for that.
        on_failure: what happens where one cannot be written during the run, because the disk is full, say:
            ``"stop"`` raises the error, ``"continue"`` warns and trains on. Before the first step it is raised in any
            case.

    Example:
        >>> Checkpoints(every=100, keep_best="evaluation/reward").keep_last
        2
    """

    every: PositiveInt
    keep_last: PositiveInt = 2
    keep_every: PositiveInt | None = None
    keep_best: str | None = None
    best_is: BestIs = "highest"
    asynchronous: bool = False
    on_failure: Literal["stop", "continue"] = "stop"
