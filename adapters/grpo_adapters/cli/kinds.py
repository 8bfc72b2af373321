"""The kinds of training that the command knows."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import tyro
from pydantic import BaseModel, PositiveInt

from grpo import Callback, Run, World
from grpo_adapters.cli.errors import UsageError
from grpo_adapters.cli.options import RunOptions, explained

MODULES = {"gym": "gym_training", "lm": "language_model_training", "module": "module_training"}


@explained
class EvaluationOptions(BaseModel, frozen=True, extra="forbid"):
    """How a trained policy is evaluated.

    Attributes:
        folder: of the run.
        episodes: episodes to play, in an environment.
        latest: take the weights of the latest checkpoint, and not those that an evaluation found best.
        render: show the episodes in a window.
        video: folder for films of the first episodes.
        num_videos: how many of them are filmed.
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]]
    episodes: PositiveInt = 100
    latest: Annotated[bool, tyro.conf.FlagConversionOff] = False
    render: bool = False
    video: Path | None = None
    num_videos: PositiveInt = 3


@dataclass(frozen=True)
class Kind:
    """A kind of training.

    Attributes:
        parse: from the words of a command line to options.
        load: from settings that were stored to options.
        resolve: fills in what the options leave open.
        build: from options, nothing in them left open, more callbacks, and the processes that train together, to a run.
        evaluate: from options, what is asked for, and what gives a policy its weights, to what is to be told.
        name: what a run of these options trains, in words.
    """

    parse: Callable[[Sequence[str]], RunOptions]
    load: Callable[[Mapping[str, Any]], RunOptions]
    resolve: Callable[[Any], RunOptions]
    build: Callable[[Any, Sequence[Callback], World], Run]
    evaluate: Callable[[Any, EvaluationOptions, Callable[[Any], None]], str]
    name: Callable[[Any], str]


def kind_called(name: str) -> Kind:
    """The kind of that name; its libraries are imported here."""
    if not isinstance(name, str) or name not in MODULES:
        raise UsageError(f"there is no training of the kind {name!r}, expected one of {', '.join(MODULES)}")
    try:
        module = importlib.import_module(f"grpo_adapters.cli.{MODULES[name]}")
    except ModuleNotFoundError as error:
        raise UsageError(str(error)) from error
    return cast("Kind", module.KIND)
