"""What looks at a run while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from grpo.data.state import require_whole_state
from grpo.distributed.errors import RankError, RankLostError

if TYPE_CHECKING:
    from grpo.runs.run import Run


class CallbackError(RuntimeError):
    """A callback has raised an error, which is this one's cause; the run was saved before, if it is at all."""

    @classmethod
    def of(cls, source: str, num_steps: int, error: Exception) -> Self:
        """Tell whose error it was, and after which step."""
        return cls(f"{source} raised {type(error).__name__} after step {num_steps}: {error}")


class Callback:
    """Is told what happens in a run. Override what you want to know; the rest does nothing.

    A callback sees the run, its trainer and its metrics, and may stop it by :meth:`grpo.Run.stop`. It never reaches
    into a step. If what it does depends on more than the present, it is :class:`grpo.Stateful`: its state is saved with
    the run.

    Example:
        >>> class PrintsReward(Callback):
        ...     def after_step(self, run, metrics):
        ...         print(run.num_steps, round(metrics["reward"], 2))
    """

    def start(self, run: Run) -> None:
        """A run begins, or goes on after it was resumed."""

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        """A step has ended; ``metrics`` are its own."""

    def after_evaluation(self, run: Run, metrics: Mapping[str, float]) -> None:
        """The policy was evaluated; ``metrics`` by the names that :attr:`grpo.Run.evaluation` has them under."""

    def end(self, run: Run) -> None:
        """The run is over, or was stopped or interrupted; :attr:`grpo.Run.stopped_by` says why."""

    def on_error(self, run: Run, error: BaseException) -> None:
        """A step or a callback has failed; the error goes on its way afterwards."""


CALLBACK_METHODS = ("start", "after_step", "after_evaluation", "end", "on_error")


def require_callbacks(callbacks: Any) -> list[Callback]:
    """The callbacks in a list.

    Raises:
        TypeError: if one is none, or would lose its state.
    """
    if isinstance(callbacks, Callback):
        raise TypeError(f"callbacks is a {type(callbacks).__name__}, expected a sequence of them: pass [callback]")
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks is {callbacks!r}, expected a sequence of callbacks: pass [] for none")
    for callback in callbacks:
        missing = [name for name in CALLBACK_METHODS if not callable(getattr(callback, name, None))]
        if missing or isinstance(callback, type):
            raise TypeError(
                f"callback {callback!r} lacks {', '.join(missing) or 'an instance'}: inherit from grpo.Callback, and "
                f"pass an instance"
            )
        require_whole_state(callback, "callback")
    return list(callbacks)


def tell(run: Run, event: str, *arguments: Mapping[str, float]) -> None:
    """Call a method of all callbacks of a run.

    Raises:
        CallbackError: if one raises.
        RankError, RankLostError: as the callback raises them, since another process is at fault.
    """
    for callback in tuple(run.callbacks):
        try:
            getattr(callback, event)(run, *map(dict, arguments))
        except (CallbackError, RankError, RankLostError):
            raise
        except Exception as error:
            raise CallbackError.of(f"{type(callback).__name__}.{event}", run.num_steps, error) from error


def tell_error(run: Run, error: BaseException) -> None:
    """Tell all callbacks of a run that it has failed; what they raise is noted on the error."""
    for callback in tuple(run.callbacks):
        try:
            callback.on_error(run, error)
        except Exception as another:
            error.add_note(f"{type(callback).__name__}.on_error failed too: {type(another).__name__}: {another}")


def fulfils(condition: Callable[[Mapping[str, float]], bool] | None, run: Run) -> bool:
    """Whether a run is to end by the condition that it was given, which is first asked after a step.

    Raises:
        CallbackError: if the condition raises.
    """
    if condition is None or run.num_steps == 0:
        return False
    try:
        return bool(condition(run.metrics | run.evaluation))
    except Exception as error:
        raise CallbackError.of("Until.condition", run.num_steps, error) from error
