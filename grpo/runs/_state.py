"""The state of a run, to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.data.state import is_stateful, load_state, require_keys, states_of
from grpo.distributed.errors import RankError, RankLostError
from grpo.models._random_states import global_random_states, set_global_random_states
from grpo.runs._ending import COUNTERS
from grpo.runs._storage import CheckpointError
from grpo.runs.state_sources import SOURCE

if TYPE_CHECKING:
    from grpo.runs.run import Run

NAMES = {"trainer", "parts", "counters", "metrics", "evaluation", "folder", "random"}


def state_of(run: Run) -> dict[str, Any]:
    """All that a run consists of, copied."""
    source_before = {} if run._drawn is None else run._drawn.source_before
    return {
        "trainer": run.trainer.state_dict(),
        "parts": states_of(_stateful_parts(run)) | source_before,
        "counters": {**{name: getattr(run, name) for name in COUNTERS}, "evaluated": list(run._evaluation_of_step)},
        "metrics": dict(run.metrics),
        "evaluation": dict(run.evaluation),
        "folder": None if run._run_folder is None else run._run_folder.state_dict(),
        "random": global_random_states(),
    }


def load_into(run: Run, state: Mapping[str, Any]) -> None:
    """Put into a run what :func:`state_of` took out of one that was constructed in the same way.

    Raises:
        ValueError: if it is the state of another; the run may be half changed then.
    """
    require_keys(state, NAMES, run)
    parts = _stateful_parts(run)
    if state["parts"].keys() != parts.keys():
        raise ValueError(
            f"state_dict holds the states of {sorted(state['parts'])}, expected {sorted(parts)}: give the run the same "
            f"source of states and the same callbacks"
        )
    run.trainer.load_state_dict(state["trainer"])
    for name, part in parts.items():
        load_state(part, state["parts"][name], name)
    run._drawn = None
    _count_from(run, state)
    if run._run_folder is not None and state["folder"] is not None:
        run.world.any(False)  # so that no file is cut before all have taken their states
        run._run_folder.load_state_dict(state["folder"])
    set_global_random_states(state["random"])


def with_other_callbacks(run: Run, state: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The state for a run whose callbacks are others than when it was saved, and what is told of that.

    Each takes the state of the next one of its class; one that had none begins anew.
    """
    saved, parts, told = dict(state["parts"]), {}, []
    for name, part in _stateful_parts(run).items():
        same = [other for other in saved if _class_of(other) == _class_of(name)]
        if same:
            parts[name] = saved.pop(same[0])
        else:
            parts[name] = part.state_dict()
            told.append(f"{_class_of(name)} begins anew")
    told += [f"{_class_of(name)} is left out" for name in saved]
    return {**state, "parts": parts}, told


def _class_of(name: str) -> str:
    """A part's name without its place."""
    return name.rpartition(" ")[2]


def load_or_leave(run: Run, path: Path, state: Mapping[str, Any]) -> None:
    """Put into a run the state of a checkpoint; if it does not fit, nothing has changed.

    Raises:
        CheckpointError: if it does not fit; ``path`` names the checkpoint.
        RankError, RankLostError: if another process is at fault.
    """
    before = run.state_dict()
    try:
        with run.world.together():
            run.load_state_dict(state)
    except Exception as error:
        run.trainer.load_state_dict(before["trainer"])
        for name, part in _stateful_parts(run).items():
            with suppress(ValueError):  # a file that was cut stays cut
                load_state(part, before["parts"][name], name)
        run._drawn = None
        _count_from(run, before)
        set_global_random_states(before["random"])
        if isinstance(error, RankError | RankLostError):
            raise
        raise CheckpointError(f"{path} does not fit this run: {error}") from error


def _count_from(run: Run, state: Mapping[str, Any]) -> None:
    for name in COUNTERS:
        setattr(run, name, state["counters"][name])
    run.metrics, run.evaluation = dict(state["metrics"]), dict(state["evaluation"])
    of_step = state["counters"].get("evaluated", run.evaluation)  # earlier versions did not tell
    run._evaluation_of_step = {name: run.evaluation[name] for name in of_step}


def _stateful_parts(run: Run) -> dict[str, Any]:
    """What has a state besides the trainer, by name."""
    named: dict[str, Any] = {SOURCE: run._source}
    named |= {f"{place} {type(callback).__name__}": callback for place, callback in enumerate(run.callbacks)}
    return {name: part for name, part in named.items() if is_stateful(part)}
