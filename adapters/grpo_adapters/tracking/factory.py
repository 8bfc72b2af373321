"""Trackers by name, as a script's options name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from grpo_adapters.tracking.composite import Trackers
from grpo_adapters.tracking.interface import Tracker
from grpo_adapters.tracking.json_lines_tracker import JSONLinesTracker
from grpo_adapters.tracking.tensorboard_tracker import TensorBoardTracker
from grpo_adapters.tracking.trackio_tracker import TrackioTracker
from grpo_adapters.tracking.wandb_tracker import WandbTracker

TrackerName: TypeAlias = Literal["jsonl", "tensorboard", "trackio", "wandb"]
"""The names that :func:`make_tracker` knows, for the type of a script's option."""


def make_tracker(
    name: str,
    folder: str | Path,
    *,
    project: str = "anygrpo",
    run_name: str | None = None,
    config: Mapping[str, object] | None = None,
    append: bool = False,
) -> Tracker:
    """The tracker of that name.

    Args:
        name: ``"jsonl"``, ``"tensorboard"``, ``"trackio"`` or ``"wandb"``.
        folder: of the run. There go ``metrics.jsonl`` and its tables, the event files of TensorBoard, and the folder
            ``wandb``. Trackio has a folder of its own, see :class:`TrackioTracker`.
        project: of the run, for Weights & Biases and Trackio.
        run_name: the run's name there; None for one that is made up.
        config: settings of the training. Where a tracker knows no settings, they are the table ``config``.
        append: whether ``metrics.jsonl`` goes on with that of an earlier run; see :class:`JSONLinesTracker`.

    Raises:
        ValueError: if there is no tracker of that name; the message lists them.
        ModuleNotFoundError: if its library is not there; the message names the extra to install.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = tempfile.TemporaryDirectory()
        >>> with make_tracker("jsonl", folder.name, config={"learning_rate": 0.1}) as tracker:
        ...     tracker.log({"reward": 0.5}, step=0)
        >>> print(Path(folder.name, "metrics.jsonl").read_text(), end="")
        {"step": 0, "reward": 0.5}
        >>> make_tracker("tensorbord", folder.name)
        Traceback (most recent call last):
        ValueError: there is no tracker 'tensorbord', expected one of 'jsonl', 'tensorboard', 'trackio', 'wandb'
        >>> folder.cleanup()
    """
    if name not in BUILDERS:
        raise ValueError(f"there is no tracker {name!r}, expected one of {', '.join(map(repr, BUILDERS))}")
    return BUILDERS[name](_Run(Path(folder), project, run_name, config, append))


def make_trackers(
    names: Sequence[str],
    folder: str | Path,
    *,
    project: str = "anygrpo",
    run_name: str | None = None,
    config: Mapping[str, object] | None = None,
    append: bool = False,
) -> Trackers:
    """Several trackers of :func:`make_tracker` as one; without names, one that logs nowhere.

    Args:
        names: each at most once.
        folder: of the run, as in :func:`make_tracker`.
        project: of the run, for Weights & Biases and Trackio.
        run_name: the run's name there; None for one that is made up.
        config: settings of the training.
        append: whether JSON lines go on with those of an earlier run.

    Raises:
        TypeError: if ``names`` is text.
        ValueError: if there is no tracker of a name, or a name is there twice.
        ModuleNotFoundError: if a library is not there. The trackers that were made before are closed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, make_trackers(["jsonl", "tensorboard"], folder) as trackers:
        ...     trackers.log({"reward": 0.5}, step=1)
        ...     print(sorted(path.name.split(".")[0] for path in Path(folder).iterdir()))
        ['events', 'metrics']
    """
    if isinstance(names, str):
        raise TypeError(f"names is the text {names!r}, expected a sequence of names: pass [{names!r}]")
    if len(set(names)) < len(names):
        raise ValueError(f"names are {list(names)}, expected each at most once")
    with ExitStack() as made:
        trackers = [
            made.enter_context(
                make_tracker(name, folder, project=project, run_name=run_name, config=config, append=append)
            )
            for name in names
        ]
        made.pop_all()
    return Trackers(trackers)


@dataclass(frozen=True)
class _Run:
    """What every tracker is made from."""

    folder: Path
    project: str
    name: str | None
    config: Mapping[str, object] | None
    append: bool


def _with_config(tracker: Tracker, run: _Run) -> Tracker:
    if run.config is not None:
        with ExitStack() as on_failure:
            on_failure.enter_context(tracker)
            rows = [
                (name, value if value is None or isinstance(value, str | float | int) else str(value))
                for name, value in run.config.items()
            ]
            tracker.log_table("config", ("name", "value"), rows, step=0)
            on_failure.pop_all()
    return tracker


BUILDERS: dict[str, Callable[[_Run], Tracker]] = {
    "jsonl": lambda run: _with_config(JSONLinesTracker(run.folder / "metrics.jsonl", append=run.append), run),
    "tensorboard": lambda run: _with_config(TensorBoardTracker(run.folder), run),
    "trackio": lambda run: TrackioTracker(run.project, run.name, run.config),
    "wandb": lambda run: WandbTracker(run.project, run.name, run.config, folder=run.folder),
}
