"""A run as it goes on, on the screen."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from grpo import Callback, Run, Until
from grpo_adapters.progress.curve import Curve

SHOWN = ("episode_return", "reward", "rewards/accuracies", "loss")
"""The first of these that a step tells is shown: where episodes are played in fragments, ``reward`` is that of one."""
BOUNDS = ("steps", "decisions", "samples", "seconds")
SECONDS_BETWEEN_REFRESHES = 0.25
SECONDS_BETWEEN_LINES = 5.0
WARNINGS_SHOWN = 3


class Progress(Callback):
    """Shows how far a run is, its reward and last evaluation with their curves, and what its time goes into.

    A terminal and a notebook have a display that is drawn anew at most four times a second; anywhere else lines are
    printed, at most one every five seconds besides the first and the last. Of several processes the first shows.

    Args:
        until: what the run is called with, for how much is left; None where that is not known.
        console: to write to; None for the standard output.

    Example:
        >>> from grpo import GRPOConfig, GRPOTrainer
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> trainer = GRPOTrainer(GRPOConfig(), SoftmaxPolicy(2), StationaryBandit([0.0, 1.0]))
        >>> until = Until(steps=20)
        >>> run = Run(trainer, ["the only state"], callbacks=[Progress(until)])

        ``run(until)`` then shows it.
    """

    def __init__(self, until: Until | None = None, *, console: Console | None = None) -> None:
        if until is not None and not isinstance(until, Until):
            raise TypeError(f"until is {until!r}, expected the grpo.Until that the run is called with, or None")
        self.until = until
        self.console = Console() if console is None else console
        self._display: _LiveDisplay | _NotebookDisplay | _Lines | None = None
        self._begin(0.0, 0.0)

    def warn(self, text: str) -> None:
        """Show a warning: for ``grpo.WatchForTrouble(progress.warn)``."""
        self._warnings.append(text)
        if self._display is not None:
            self._display.warn(text)

    def start(self, run: Run) -> None:
        """Begin to show."""
        self._begin(self._fraction(run), run.seconds)
        self._display = _display_for(self.console) if run.world.rank == 0 else None
        self._draw(run, at_once=True)

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Take in what a step told, and show it if the last time is long enough ago."""
        name = next((name for name in SHOWN if name in metrics), None)
        if name is not None:
            self._curve_of(name).add(metrics[name])
        self._phases.update(run.trainer.phases.seconds)
        self._draw(run)

    def after_evaluation(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Take in what an evaluation told."""
        name = next((name for name in metrics if not name.endswith(("_low", "_high", "_std"))), None)
        if name is not None:
            self._curve_of(name).add(metrics[name])
            self._evaluated_at[name] = run.num_steps
        self._draw(run)

    def end(self, run: Run) -> None:
        """Show the end."""
        self._draw(run, at_once=True)
        self._close()

    def on_error(self, run: Run, error: BaseException) -> None:
        """Leave the screen to the error."""
        self._close()

    def _begin(self, fraction: float | None, seconds: float) -> None:
        self._first_fraction, self._first_seconds = fraction, seconds
        self._drawn_at = -1e9
        self._curves: dict[str, Curve] = {}
        self._evaluated_at: dict[str, int] = {}
        self._phases: Counter[str] = Counter()
        self._warnings: list[str] = []

    def _curve_of(self, name: str) -> Curve:
        return self._curves.setdefault(name, Curve())

    def _draw(self, run: Run, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._display is None or (not at_once and now - self._drawn_at < self._display.seconds_between):
            return
        self._drawn_at = now
        self._display.draw(self, run)

    def _close(self) -> None:
        if self._display is not None:
            self._display.close()
            self._display = None

    def _fraction(self, run: Run) -> float | None:
        """How much of the run is done, by the bound that it is nearest to; None where there is none."""
        done = {"steps": run.num_steps, "decisions": run.num_decisions, "samples": run.num_samples}
        bounds = {name: getattr(self.until, name, None) for name in BOUNDS}
        fractions = [
            {**done, "seconds": run.seconds}[name] / bound for name, bound in bounds.items() if bound is not None
        ]
        return min(1.0, max(fractions)) if fractions else None

    def _seconds_left(self, run: Run) -> float | None:
        fraction = self._fraction(run)
        if fraction is None or fraction <= (self._first_fraction or 0.0):
            return None
        spent = run.seconds - self._first_seconds
        return spent * (1.0 - fraction) / (fraction - (self._first_fraction or 0.0))

    def _how_far(self, run: Run) -> str:
        total = getattr(self.until, "steps", None)
        parts = [f"step {run.num_steps:,}" + (f" of {total:,}" if total is not None else "")]
        for name in ("decisions", "samples"):
            bound = getattr(self.until, name, None)
            if bound is not None:
                parts.append(f"{getattr(run, f'num_{name}'):,} of {bound:,} {name}")
        left = self._seconds_left(run)
        parts.append(_clock(run.seconds))
        if run.stopped_by is not None:
            parts.append(f"ended: {run.stopped_by}")
        elif left is not None:
            parts.append(f"{_clock(left)} left")
        return " · ".join(parts)

    def _time_shares(self, run: Run) -> str:
        total = run.seconds - self._first_seconds
        if total <= 0 or not self._phases:
            return ""
        shares = {name: seconds / total for name, seconds in self._phases.items()}
        shares["other"] = max(0.0, 1.0 - sum(shares.values()))
        return " · ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)

    def line(self, run: Run) -> str:
        """All of it in one line."""
        values = [f"{_short(name)} {_number(curve.last)}" for name, curve in self._curves.items()]
        return " · ".join([self._how_far(run), *values])

    def panel(self, run: Run) -> Panel:
        """All of it as a panel of rich."""
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="bold", no_wrap=True)
        rows.add_column(justify="right", no_wrap=True)
        rows.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
        for name, curve in self._curves.items():
            note = f"  at step {self._evaluated_at[name]:,}" if name in self._evaluated_at else ""
            rows.add_row(_short(name), _number(curve.last), Text(str(curve), style="cyan").append(note, style="dim"))
        shares = self._time_shares(run)
        whole = Table.grid(expand=True)
        fraction = self._fraction(run)
        if fraction is not None:
            whole.add_row(ProgressBar(total=1.0, completed=fraction))
        whole.add_row(Text(self._how_far(run)))
        whole.add_row(rows)
        if shares:
            whole.add_row(Text(shares, style="dim"))
        for text in self._warnings[-WARNINGS_SHOWN:]:
            whole.add_row(Text(f"warning: {text}", style="yellow"))
        title = type(run.trainer).__name__ + ("" if run.folder is None else f" in {run.folder}")
        return Panel(whole, title=Text(title), title_align="left", border_style="dim")


class _LiveDisplay:
    """A display in a terminal."""

    seconds_between = SECONDS_BETWEEN_REFRESHES

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def draw(self, progress: Progress, run: Run) -> None:
        self._live.update(progress.panel(run), refresh=True)

    def warn(self, text: str) -> None:
        """It is in the panel."""

    def close(self) -> None:
        self._live.stop()


class _NotebookDisplay:
    """A display below a notebook's cell, which needs no widgets."""

    seconds_between = SECONDS_BETWEEN_REFRESHES

    def __init__(self, console: Console) -> None:
        self._handle: Any = None

    def draw(self, progress: Progress, run: Run) -> None:
        from IPython.display import display  # here, since only a notebook has it

        if self._handle is None:
            self._handle = display(progress.panel(run), display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(progress.panel(run))

    def warn(self, text: str) -> None:
        """It is in the panel."""

    def close(self) -> None:
        """What was drawn last stays."""


class _Lines:
    """Lines, where nothing can be drawn anew."""

    seconds_between = SECONDS_BETWEEN_LINES

    def __init__(self, console: Console) -> None:
        self._console = console

    def draw(self, progress: Progress, run: Run) -> None:
        self._print(progress.line(run))

    def warn(self, text: str) -> None:
        self._print(f"warning: {text}")

    def close(self) -> None:
        """Nothing is left to do."""

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def _display_for(console: Console) -> _LiveDisplay | _NotebookDisplay | _Lines:
    if console.is_jupyter:
        return _NotebookDisplay(console)
    return _LiveDisplay(console) if console.is_terminal and not console.is_dumb_terminal else _Lines(console)


def _short(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
