"""Runs that begin or go on."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from pydantic import BaseModel, PositiveFloat, PositiveInt
from rich.console import Console
from rich.text import Text

from grpo import Callback, CheckpointError, Run, RunInterrupted, Track, Until, WatchForTrouble, World
from grpo_adapters.cli.arguments import parse
from grpo_adapters.cli.errors import UsageError, as_usage_errors
from grpo_adapters.cli.kinds import Kind, kind_called
from grpo_adapters.cli.options import RunOptions, explained
from grpo_adapters.cli.processes import by_all, was_started_again
from grpo_adapters.cli.records import CONFIG, read_record
from grpo_adapters.cli.toml_files import from_text, read_toml, require_known, to_toml
from grpo_adapters.progress import Progress
from grpo_adapters.tracking import make_trackers

USAGE = "say what to train: gym ENVIRONMENT, lm MODEL, or file.py:function"
TRACKING = "tracking"


@explained
class ResumeOptions(BaseModel, frozen=True, extra="forbid"):
    """Go on with a run from its latest checkpoint, with the settings that it was begun with.

    Attributes:
        folder: of the run.
        override: settings to change on purpose, key=value, with the keys of the folder's config.toml.
        until_steps: end after so many steps instead, those before included.
        until_decisions: end after so many decisions instead.
        until_seconds: end after so many seconds of wall time instead.
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]]
    override: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    until_steps: PositiveInt | None = None
    until_decisions: PositiveInt | None = None
    until_seconds: PositiveFloat | None = None


def train(words: Sequence[str]) -> int:
    """Begin a run; the exit status."""
    return by_all(lambda world: _train(words, world))


def resume(words: Sequence[str]) -> int:
    """Go on with a run; the exit status."""
    return by_all(lambda world: _resume(words, world))


def _train(words: Sequence[str], world: World) -> int:
    if not words:
        raise UsageError(USAGE)
    name = words[0] if words[0] in ("gym", "lm") else "module"
    if name == "module" and ":" not in words[0] and not words[0].startswith("-"):
        raise UsageError(f"there is no training {words[0]!r}: {USAGE}")
    kind = kind_called(name)
    options = kind.parse(words if name == "module" else words[1:])
    if was_started_again() and (options.folder / CONFIG).is_file():
        return _resume([str(options.folder)], world)
    if name != "module":
        _require_no_run(options.folder)
    _use_threads(options)
    options = kind.resolve(options)
    _require_end(options)
    with _trackers(options, world, goes_on=False) as callbacks:
        progress = Progress(options.until)
        run = kind.build(options, [*callbacks, WatchForTrouble(progress.warn), progress], world)
        assert run.folder is not None
        with world.together(), as_usage_errors():
            if world.rank == 0:
                _require_no_run(run.folder)
                store(options, name, run.folder)
        return _carry_out(run, options.until, kind.name(options))


def _resume(words: Sequence[str], world: World) -> int:
    asked = parse(ResumeOptions, words, command="resume", required=("folder",))
    name, before = stored(asked.folder)
    kind = kind_called(name)
    settings = before | overrides(asked.override, before, kind) | _other_ends(asked)
    options = kind.load(settings)
    _require_end(options)
    _use_threads(options)
    with _trackers(options, world, goes_on=True) as callbacks:
        progress = Progress(options.until)
        run = kind.build(options, [*callbacks, WatchForTrouble(progress.warn), progress], world)
        if run.folder is None or run.folder.resolve() != asked.folder.resolve():
            raise UsageError(f"the run writes to {run.folder}, not to {asked.folder}: call it where that is the same")
        try:
            found = run.resume(override=bool(asked.override))
        except (CheckpointError, FileExistsError, FileNotFoundError) as error:
            by_command = "say it by --override key=value"
            raise UsageError(str(error).replace("call run.resume(override=True)", by_command)) from error
        with world.together():
            if world.rank == 0:
                store(options, name, asked.folder)
        _say(f"goes on from step {run.num_steps:,}" if found else "no checkpoint was written yet: begins anew")
        return _carry_out(run, options.until, kind.name(options))


def store(options: RunOptions, name: str, folder: Path) -> None:
    """Write the settings of a run into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in options if key != "folder"}
    (folder / CONFIG).write_text(to_toml({"kind": name, **settings}), encoding="utf-8")


def stored(folder: Path) -> tuple[str, dict[str, Any]]:
    """The kind of training that a folder holds, and its settings.

    Raises:
        UsageError: if it was not begun by this command.
    """
    if not (folder / CONFIG).is_file():
        read_record(folder)
        raise UsageError(f"the run in {folder} was begun by a script: go on with it there, by run.resume()")
    settings = read_toml(folder / CONFIG)
    return settings.pop("kind", "?"), settings | {"folder": folder}


def overrides(words: Sequence[str], settings: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """The settings that ``key=value`` says."""
    changed = {}
    for word in words:
        key, separator, value = word.partition("=")
        key = key.strip().replace("-", "_")
        if not separator:
            raise UsageError(f"--override {word} says nothing: expected key=value")
        require_known([key], list(type(kind.load(settings)).model_fields), "--override")
        changed[key] = from_text(value)
    return changed


def _other_ends(asked: ResumeOptions) -> dict[str, Any]:
    """Ends that take the place of those that the run was begun with."""
    ends = {name: getattr(asked, name) for name in ("until_steps", "until_decisions", "until_seconds")}
    return ends if any(value is not None for value in ends.values()) else {}


def _require_no_run(folder: Path) -> None:
    if (folder / "run.json").exists():
        raise UsageError(
            f"{folder} holds a run already: choose another --folder, or go on with that one by anygrpo resume {folder}"
        )


def _require_end(options: RunOptions) -> None:
    if options.until_steps is None and options.until_decisions is None and options.until_seconds is None:
        raise UsageError("the run has no end: give --until-steps, --until-decisions or --until-seconds")


def _use_threads(options: RunOptions) -> None:
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)


@contextmanager
def _trackers(options: RunOptions, world: World, *, goes_on: bool) -> Iterator[list[Callback]]:
    """Callbacks that tell the trackers which were asked for."""
    with ExitStack() as stack:
        if not options.trackers:
            yield []
            return
        if world.rank > 0:
            yield [Track(None)]
            return
        config = {name: str(value) for name, value in options}
        with as_usage_errors():
            made = make_trackers(options.trackers, options.folder / TRACKING, config=config, append=goes_on)
        yield [Track(stack.enter_context(made))]


def _carry_out(run: Run, until: Until, name: str) -> int:
    """Train, and say how it ended."""
    assert run.folder is not None
    _say(f"{name}, in {run.folder}")
    with _short_warnings():
        try:
            run(until)
        except RunInterrupted as interrupted:
            _say(
                f"{interrupted.signal_name} ended the run after step {run.num_steps:,}, which is saved. Go on with:\n"
                f"anygrpo resume {run.folder}"
            )
            return RunInterrupted.EXIT_CODE
        except FileExistsError as error:
            raise UsageError(str(error)) from error
    best = "" if not (run.folder / "best").is_dir() else "; the best weights are in best/"
    _say(
        f"ended after step {run.num_steps:,}: {run.stopped_by}{best}. To look at it:\n"
        f"anygrpo evaluate {run.folder}\nanygrpo plot {run.folder}\nanygrpo show {run.folder}"
    )
    return 0


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Warnings as a line, where they are to be shown."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        yield


def _say(text: str) -> None:
    Console().print(Text(text), soft_wrap=True)
