"""Rewards from plain Python functions, with the signature that TRL gives them."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from grpo import JoinsWorld, NonFiniteError, PartialRewards, RewardModel, Stateful, World
from grpo_adapters.huggingface.event_loop import is_async, run_together
from grpo_adapters.huggingface.text.conversations import Action, Conversation
from grpo_adapters.huggingface.text.states import Exchange, columns_of, exchanges_of, own_copy

OWN_ARGUMENTS = ("prompts", "completions", "completion_ids", "environment_rewards")
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class RewardFunctionError(RuntimeError):
    """A reward function raised an error; the message says which one, and on what."""


class FunctionReward:
    """Scores completions by one or several functions. A reward model for language models.

    A function is called with keyword arguments, lists with an entry for each of N samples, and returns N numbers, with
    None for a sample that it cannot score::

        def length_reward(prompts, completions, completion_ids, **columns) -> list[float | None]: ...

    ``prompts`` are strings or lists of chat messages; ``completions`` are strings for the former and lists of one
    message, ``[{"role": "assistant", "content": text}]``, for the latter, and of all that was said for conversations;
    ``completion_ids`` are lists of the model's own token ids; ``environment_rewards``, for conversations only, is what
    environments gave; the columns are those of the rows that states are. A function without ``**columns`` gets what
    its signature names. Those that are ``async def`` run at the same time, always in the same event loop, in a thread
    of its own.

    The reward of a sample is the sum of weight times value over the functions that scored it. A sample that none
    scored is left out of its group.

    Args:
        functions: one function or several, of different names.
        weights: of each function; None for 1 each.

    Raises:
        TypeError: if a function is none.
        ValueError: if there is no function, or the weights are not finite numbers, one for each.

    Example:
        >>> from grpo_adapters.huggingface import Completion
        >>> def says_paris(completions, **columns):
        ...     return [float("Paris" in completion) for completion in completions]
        >>> def brief(completion_ids):
        ...     return [-len(token_ids) for token_ids in completion_ids]
        >>> reward = FunctionReward([says_paris, brief], weights=[1.0, 0.1])
        >>> reward.compute_rewards(["France?", "France?"], [Completion((5,), "Paris"), Completion((8, 9), "Lyon.")])
        tensor([ 0.9000, -0.2000])
        >>> reward.get_metrics()["rewards/says_paris/mean"]
        0.5
    """

    def __init__(
        self, functions: Callable[..., Any] | Sequence[Callable[..., Any]], weights: Sequence[float] | None = None
    ) -> None:
        listed = list(functions) if isinstance(functions, Sequence) and not isinstance(functions, str) else [functions]
        self._functions = _named(listed)
        self._weights = _checked_weights(weights, list(self._functions))
        self._device = torch.device("cpu")
        self._metrics: dict[str, float] = {}

    def compute_rewards(self, states: Sequence[Any], actions: Sequence[Action]) -> Tensor | PartialRewards:
        """Rewards of the samples, float32 of shape [N], with which samples were scored where some were not.

        Args:
            states: N strings, lists of chat messages, or rows ``{"prompt": ..., other columns}``.
            actions: N completions, or conversations.

        Raises:
            RewardFunctionError: if a function raises.
            TypeError: if a state or an action is of a wrong kind, or a function returns no list of numbers.
            ValueError: if the rows lack a column that a function asks for, or a function returns a wrong number of
                values; if no sample was scored; :class:`grpo.NonFiniteError` if a value is NaN or infinite.
        """
        exchanges = exchanges_of(states, actions)
        arguments = _arguments(exchanges, actions, columns_of(states))
        returned = self._call(arguments, exchanges)
        scores = torch.tensor(
            [_checked_values(name, returned[name], exchanges) for name in self._functions], dtype=torch.float64
        )
        scored = ~scores.isnan()
        self._metrics = _statistics(self._functions, scores, scored)
        rewards = (scores * self._weights[:, None]).nansum(0).to(self._device, torch.float32)
        scored = scored.any(0)
        if scored.all():
            return rewards
        if not scored.any():
            raise ValueError(
                f"none of {len(exchanges)} samples was scored: {', '.join(self._functions)} returned None for each, "
                f"the first of which is {exchanges[0]}"
            )
        return PartialRewards(rewards, scored.to(self._device))

    def join_world(self, world: World) -> None:
        """Let functions that do join."""
        for function in self._functions.values():
            if isinstance(function, JoinsWorld):
                function.join_world(world)

    def get_metrics(self) -> dict[str, float]:
        """``rewards/{function}/mean`` and ``/std`` of the values of the last step, unweighted, where it scored any."""
        return dict(self._metrics)

    def get_settings(self) -> dict[str, Any]:
        """The functions, each by its name, and their weights."""
        functions = {f"functions.{name}": function for name, function in self._functions.items()}
        weights = zip(self._functions, self._weights.tolist(), strict=True)
        return {**functions, **{f"weights.{name}": weight for name, weight in weights}}

    def state_dict(self) -> dict[str, Any]:
        """What changes from call to call, copied: the metrics, and what functions tell of themselves; and the weights.

        A function that is an object tells by ``state_dict``, if it is :class:`grpo.Stateful`. Where generators of
        functions are is with a trainer, which finds them in :attr:`generators`.
        """
        return {
            "metrics": dict(self._metrics),
            "functions": self._function_states(),
            "weights": self._weights.tolist(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this object, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of other functions; nothing has changed then.

        Warns:
            UserWarning: if it is the state of other weights; those of this object stay.
        """
        own = {name: sorted(state) for name, state in self._function_states().items()}
        told = state_dict.get("functions") if isinstance(state_dict, Mapping) else None
        came = {name: sorted(state) for name, state in told.items()} if isinstance(told, Mapping) else None
        if came != own or not state_dict.keys() >= {"metrics", "weights"}:
            raise ValueError(
                f"FunctionReward.load_state_dict was given states of the functions {came}, expected {own}: pass what "
                f"state_dict() of one with the same functions returned"
            )
        if state_dict["weights"] != self._weights.tolist():
            warnings.warn(
                f"FunctionReward goes on with the weights {self._weights.tolist()}, and its state is one with "
                f"{state_dict['weights']}: construct it with the same weights unless that is meant",
                stacklevel=2,
            )
        for name, state in state_dict["functions"].items():
            if "state" in state:
                cast("Any", self._functions[name]).load_state_dict(copy.deepcopy(state["state"]))
        self._metrics = dict(state_dict["metrics"])

    def _function_states(self) -> dict[str, dict[str, Any]]:
        """The states of all functions, empty for those that have none."""
        states: dict[str, dict[str, Any]] = {name: {} for name in self._functions}
        for name, function in self._functions.items():
            if isinstance(function, Stateful):
                states[name]["state"] = copy.deepcopy(function.state_dict())
        return states

    @property
    def generators(self) -> list[Any]:
        """The random generators of functions that keep one in an attribute ``generator``, PyTorch's or NumPy's."""
        return [cast("Any", function).generator for function in self._functions.values() if _draws(function)]

    def train(self) -> None:
        """Nothing to switch."""

    def eval(self) -> None:
        """Nothing to switch."""

    def to(self, device: torch.device | str) -> None:
        """Give the rewards on this device, and move reward models that are among the functions."""
        self._device = torch.empty(0, device=device).device
        for function in self._functions.values():
            if isinstance(function, RewardModel):
                function.to(device)

    def _call(self, arguments: Mapping[str, list[Any]], exchanges: Sequence[Exchange]) -> dict[str, Any]:
        """What each function returns: first of those that block, then of those that run together."""
        chosen = {name: own_copy(_chosen(name, function, arguments)) for name, function in self._functions.items()}
        returned: dict[str, Any] = {}
        together: dict[str, Callable[..., Any]] = {}
        for name, function in self._functions.items():
            if is_async(function):
                together[name] = function
                continue
            try:
                returned[name] = function(**chosen[name])
            except Exception as error:
                raise _raised(name, error, exchanges) from error

        async def awaited(name: str, function: Callable[..., Any]) -> Any:
            try:
                return await function(**chosen[name])
            except Exception as error:
                raise _raised(name, error, exchanges) from error

        if together:
            values = run_together([awaited(name, function) for name, function in together.items()])
            returned.update(zip(together, values, strict=True))
        return returned


def _named(functions: Sequence[Any]) -> dict[str, Callable[..., Any]]:
    """The functions by name."""
    if not functions:
        raise ValueError("functions is empty, expected at least one reward function")
    named: dict[str, Callable[..., Any]] = {}
    for index, function in enumerate(functions):
        if not callable(function) or isinstance(function, nn.Module | type):
            raise TypeError(
                f"functions[{index}] is {function!r:.100}, expected a function f(prompts, completions, **columns) that "
                f"returns a list of numbers; a model of Hugging Face is one as SequenceClassificationReward(model)"
            )
        name = _name_of(function)
        if name in named:
            raise ValueError(
                f"functions[{index}] has the name {name!r} of another, and metrics are told apart by name: give it "
                f"another, by function.__name__ = '...' if need be"
            )
        named[name] = function
    return named


def _name_of(function: Any) -> str:
    if isinstance(function, functools.partial) and not hasattr(function, "__name__"):
        return _name_of(function.func)
    return str(getattr(function, "__name__", type(function).__name__)).strip("<>")


def _checked_weights(weights: Sequence[float] | None, names: Sequence[str]) -> Tensor:
    if weights is None:
        return torch.ones(len(names), dtype=torch.float64)
    checked = torch.as_tensor(weights, dtype=torch.float64)
    if checked.shape != (len(names),):
        raise ValueError(f"weights is {weights!r}, expected {len(names)}, one for each function: {', '.join(names)}")
    if not checked.isfinite().all():
        raise ValueError(f"weights is {weights!r}, expected finite numbers")
    return checked


def _arguments(
    exchanges: Sequence[Exchange], actions: Sequence[Action], columns: Mapping[str, list[Any]]
) -> dict[str, list[Any]]:
    taken = sorted(columns.keys() & set(OWN_ARGUMENTS))
    if taken:
        raise ValueError(f"the rows have a column {taken[0]!r}, which is what reward functions call theirs: rename it")
    environment_rewards = [action.reward for action in actions if isinstance(action, Conversation)]
    return {
        "prompts": [exchange.prompt for exchange in exchanges],
        "completions": [exchange.completion for exchange in exchanges],
        "completion_ids": [list(action.token_ids) for action in actions],
        **({"environment_rewards": environment_rewards} if environment_rewards else {}),
        **columns,
    }


def _chosen(name: str, function: Callable[..., Any], arguments: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Those of the arguments that a function takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C, and does not tell
        return dict(arguments)
    named = [parameter for parameter in parameters if parameter.kind not in VARIADIC]
    for parameter in named:
        if parameter.default is inspect.Parameter.empty and parameter.name not in arguments:
            columns = [argument for argument in arguments if argument not in OWN_ARGUMENTS]
            raise ValueError(
                f"reward function {name} asks for {parameter.name!r}, but the states have "
                f"{f'the columns {columns}' if columns else 'no columns'}: give states as rows "
                f'{{"prompt": ..., "{parameter.name}": ...}}'
            )
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return dict(arguments)
    return {parameter.name: arguments[parameter.name] for parameter in named if parameter.name in arguments}


def _raised(name: str, error: Exception, exchanges: Sequence[Exchange]) -> RewardFunctionError:
    return RewardFunctionError(
        f"reward function {name} raised {type(error).__name__}: {error}; it was given {len(exchanges)} samples, the "
        f"first of which is {exchanges[0]}"
    )


def _checked_values(name: str, values: Any, exchanges: Sequence[Exchange]) -> list[float]:
    """The values of the samples, NaN where there is none."""
    expected = f"expected a list of {len(exchanges)} numbers"
    if isinstance(values, Tensor) or type(values).__module__.partition(".")[0] == "numpy":
        if len(values.shape) != 1:
            raise ValueError(f"reward function {name} returned shape {list(values.shape)}, expected [{len(exchanges)}]")
        values = values.tolist()
    if not isinstance(values, list | tuple):
        if inspect.iscoroutine(values):
            values.close()
        hint = ": define it by async def" if inspect.isawaitable(values) else ""
        raise TypeError(f"reward function {name} returned a {type(values).__name__}, {expected}{hint}")
    if len(values) != len(exchanges):
        raise ValueError(f"reward function {name} returned {len(values)} values, {expected}, one for each completion")
    return [_checked_value(name, index, value, exchanges[index]) for index, value in enumerate(values)]


def _checked_value(name: str, index: int, value: Any, exchange: Exchange) -> float:
    if value is None:
        return math.nan
    where = f"reward function {name} returned {value!r:.60} for sample {index} ({exchange}), expected a finite number"
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{where}, or None where it cannot tell") from None
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise NonFiniteError(f"{where}: return None where it cannot tell")
    return number


def _statistics(names: Iterable[str], scores: Tensor, scored: Tensor) -> dict[str, float]:
    """Mean and unbiased standard deviation of each function's scores [F, N] where ``scored``."""
    statistics: dict[str, float] = {}
    for name, values, own in zip(names, scores, scored, strict=True):
        if own.any():
            statistics[f"rewards/{name}/mean"] = values[own].mean().item()
            statistics[f"rewards/{name}/std"] = values[own].std().item() if own.sum() > 1 else 0.0
    return statistics


def _draws(function: object) -> bool:
    generator = getattr(function, "generator", None)
    return isinstance(generator, torch.Generator) or hasattr(generator, "bit_generator")
