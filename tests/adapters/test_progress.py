"""What a run shows of itself while it goes on."""

from __future__ import annotations

import io
import json
import math
import time
from itertools import pairwise
from typing import Any

import pytest
import torch
from rich.console import Console

from grpo import Callback, Evaluate, GRPOConfig, GRPOTrainer, Run, Until, WatchForTrouble
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
from grpo_adapters.progress import Curve, Progress, progress, sparkline


def make_run(shown: Progress, *more: Callback) -> Run:
    trainer = GRPOTrainer(GRPOConfig(learning_rate=0.1), SoftmaxPolicy(3), StationaryBandit([0.0, 0.5, 1.0]))
    return Run(trainer, ["the only state"], callbacks=[*more, shown])


def recording(*, terminal: bool = False, width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None, legacy_windows=False)


def written(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_curve_keeps_means_over_equal_stretches() -> None:
    curve = Curve(width=8)
    for value in range(1000):
        curve.add(value)
        assert len(curve.means) <= 9
    *full, partial = curve.means
    assert [later - earlier for earlier, later in pairwise(full)] == [128.0] * (len(full) - 1)
    assert full[0] == 63.5
    assert partial > full[-1]
    assert curve.last == 999


def test_a_curve_leaves_out_what_is_not_finite_and_tells_it_as_the_last() -> None:
    curve = Curve()
    for value in (1.0, math.nan, 2.0, math.inf):
        curve.add(value)
    assert curve.means == [1.0, 2.0]
    assert curve.last == math.inf
    assert sparkline([]) == ""
    assert sparkline([math.nan]) == " "


@pytest.mark.parametrize("width", [0, 3])
def test_a_curve_needs_an_even_width(width: int) -> None:
    with pytest.raises(ValueError, match=f"width is {width}, expected an even number"):
        Curve(width)


def test_lines_where_there_is_no_terminal_come_now_and_then() -> None:
    console = recording()
    until = Until(steps=40)
    make_run(Progress(until, console=console))(until)
    first, last = written(console).splitlines()
    assert first.startswith("step 0 of 40 · 0:00")
    assert last.startswith("step 40 of 40 · 0:0")
    assert "ended: steps=40" in last
    assert "reward" in last


def test_lines_come_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress._Lines, "seconds_between", 0.0)
    console = recording()
    until = Until(steps=3)
    make_run(Progress(until, console=console))(until)
    assert [line[:11] for line in written(console).splitlines()] == [f"step {n} of 3" for n in (0, 1, 2, 3, 3)]


def test_a_terminal_shows_reward_evaluation_time_and_warnings() -> None:
    console = recording(terminal=True)
    until = Until(steps=30)
    shown = Progress(until, console=console)
    run = make_run(
        shown, Evaluate(lambda policy: {"score": 0.25, "score_low": 0.0}, every=10), WatchForTrouble(shown.warn)
    )
    run.callbacks.append(WarnsAt(5, shown))
    run(until)
    display = written(console)
    for told in ("GRPOTrainer", "step 30 of 30", "evaluation/score", "0.25", "at step 30", "reward", "updating"):
        assert told in display, told
    assert "warning: look out" in display
    assert "score_low" not in display


class WarnsAt(Callback):
    def __init__(self, step: int, shown: Progress) -> None:
        self.step, self.shown = step, shown

    def after_step(self, run: Run, metrics: Any) -> None:
        if run.num_steps == self.step:
            self.shown.warn("look out")


def test_a_terminal_is_drawn_at_most_four_times_a_second() -> None:
    drawn = []

    class Counts(Progress):
        def panel(self, run: Run) -> Any:
            drawn.append(time.monotonic())
            return super().panel(run)

    until = Until(seconds=0.7)
    make_run(Counts(until, console=recording(terminal=True)))(until)
    assert 2 <= len(drawn) <= 5
    between = [later - earlier for earlier, later in pairwise(drawn[:-1])]
    assert min(between) >= 0.25


def test_a_step_costs_little() -> None:
    """A fifth of a millisecond at the most, the times that it is drawn included."""
    shown = Progress(Until(steps=10**9), console=recording(terminal=True))
    run = make_run(shown)
    run.trainer.step(["the only state"])
    shown.start(run)
    metrics = {"reward": 0.5}
    start = time.perf_counter()
    for _ in range(1000):
        shown.after_step(run, metrics)
    assert time.perf_counter() - start < 0.2
    shown.end(run)


def test_time_left_follows_from_what_this_part_of_the_run_took() -> None:
    until = Until(steps=100)
    shown = Progress(until, console=recording())
    run = make_run(shown)
    run.num_steps, run.seconds = 50, 1000.0
    shown.start(run)
    assert "left" not in shown.line(run)
    run.num_steps, run.seconds = 75, 1060.0
    assert "1:00 left" in shown.line(run)
    run.seconds += 3600 * 60
    assert "60:01:00 left" in shown.line(run)


def test_without_an_end_there_is_no_time_left() -> None:
    console = recording(terminal=True)
    make_run(Progress(console=console))(Until(steps=3))
    assert "left" not in written(console)
    assert "step 3 ·" in written(console)


def test_an_error_closes_the_display() -> None:
    console = recording(terminal=True)
    shown = Progress(console=console)
    run = make_run(shown)
    run.trainer.step = lambda states: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(Until(steps=3))
    assert shown._display is None
    assert console._live_stack == []


def test_a_notebook_has_one_display_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    shown_there: list[str] = []

    class Handle:
        def update(self, panel: Any) -> None:
            shown_there.append(panel._repr_mimebundle_([], [])["text/plain"])

    def display(panel: Any, *, display_id: bool) -> Handle:
        handle = Handle()
        handle.update(panel)
        return handle

    monkeypatch.setattr("IPython.display.display", display)
    console = Console(force_jupyter=True, width=80)
    until = Until(steps=5)
    make_run(Progress(until, console=console))(until)
    assert len(shown_there) == 2
    assert "step 5 of 5" in shown_there[-1]


def test_a_wrong_until_is_told() -> None:
    with pytest.raises(TypeError, match=r"until is 100, expected the grpo\.Until"):
        Progress(100)  # type: ignore[arg-type]


def test_it_changes_nothing_of_a_run(tmp_path: Any) -> None:
    def metrics(folder: Any, *callbacks: Callback) -> list[dict[str, float]]:
        torch.manual_seed(0)
        trainer = GRPOTrainer(GRPOConfig(), SoftmaxPolicy(3), StationaryBandit([0.0, 0.5, 1.0]))
        Run(trainer, ["the only state"], folder=folder, callbacks=callbacks)(Until(steps=5))
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    assert metrics(tmp_path / "a", Progress(console=recording(terminal=True))) == metrics(tmp_path / "b")
