"""Checks of what trackers are given. They do not depend on the tracker, so that any can replace any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from numbers import Integral, Real

from torch import Tensor

from grpo_adapters.tracking.interface import Cell


def check_metrics(metrics: Mapping[str, float], reserved: AbstractSet[str]) -> dict[str, float]:
    """The metrics as Python's own floats."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics is a {type(metrics).__name__}, expected a mapping from names to numbers")
    return {check_name(name, "metric", reserved): _check_number(name, value) for name, value in metrics.items()}


def _check_number(name: str, value: object) -> float:
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    hint = "pass value.item()" if isinstance(value, Tensor) else "pass float(value), or leave it out"
    raise TypeError(f"metric {name!r} is {value!r}, a {type(value).__name__}, expected a number: {hint}")


def check_name(name: object, role: str, reserved: AbstractSet[str] = frozenset()) -> str:
    """A name that is text, and not reserved."""
    if not isinstance(name, str):
        raise TypeError(f"{role} name is {name!r}, expected text")
    if not name:
        raise ValueError(f"{role} name is empty, expected text")
    if name in reserved:
        raise ValueError(f"{role} name is {name!r}, which the tracker writes itself: choose another, 'my/{name}'")
    return name


def check_step(step: int) -> int:
    """The step as Python's own integer, at least 0."""
    if not isinstance(step, Integral) or isinstance(step, bool):
        raise TypeError(f"step is {step!r}, expected an integer of at least 0: pass int(step)")
    if step < 0:
        raise ValueError(f"step is {step}, expected at least 0")
    return int(step)


def check_table(
    name: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], reserved: AbstractSet[str]
) -> tuple[list[str], list[list[Cell]]]:
    """Columns and rows of a table, cells as Python's own."""
    if isinstance(columns, str):
        raise TypeError(f"columns of table {name!r} is the text {columns!r}, expected a sequence of names")
    columns = [check_name(column, f"table {name!r}: column", reserved) for column in columns]
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(f"columns of table {name!r} are {columns}, expected at least one, and different names")
    return columns, [_check_row(name, columns, index, row) for index, row in enumerate(rows)]


def _check_row(name: str, columns: Sequence[str], index: int, row: Sequence[Cell]) -> list[Cell]:
    if isinstance(row, str) or not isinstance(row, Sequence):
        raise TypeError(
            f"row {index} of table {name!r} is {row!r}, expected a sequence of {len(columns)} cells: "
            f"make rows of columns by zip(prompts, completions, rewards)"
        )
    if len(row) != len(columns):
        raise ValueError(f"row {index} of table {name!r} has {len(row)} cells, expected one for each of {columns}")
    return [_check_cell(name, column, index, cell) for column, cell in zip(columns, row, strict=True)]


def _check_cell(name: str, column: str, index: int, cell: object) -> Cell:
    if cell is None or isinstance(cell, bool | str):
        return cell
    if isinstance(cell, Integral):
        return int(cell)
    if isinstance(cell, Real):
        return float(cell)
    hint = "cell.item() or cell.tolist()" if isinstance(cell, Tensor) else "str(cell)"
    raise TypeError(
        f"column {column!r} of row {index} of table {name!r} is a {type(cell).__name__}, expected text, a number, a "
        f"truth value or None: pass {hint}"
    )


def step_in(state_dict: object, name: str, owner: object) -> int:
    """The step that a tracker's state holds under a name."""
    step = state_dict.get(name) if isinstance(state_dict, Mapping) else None
    if not isinstance(step, int):
        raise ValueError(
            f"{type(owner).__name__}.load_state_dict was given {state_dict!r:.200}, expected a step {name!r}: pass "
            f"what state_dict() of a {type(owner).__name__} returned"
        )
    return step


def check_run(state_dict: object, run: str, owner: object, how: str) -> None:
    """A state must be of the run that a tracker logs to."""
    came = state_dict.get("run") if isinstance(state_dict, Mapping) else None
    if came != run:
        raise ValueError(
            f"{type(owner).__name__}.load_state_dict was given the state of run {came!r}, but this tracker logs to "
            f"{run!r}: make one that goes on with that run, by {how}"
        )
