"""The law of state: after ``load_state_dict(state_dict())`` everything goes on as if nothing had happened."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from models import parameter_values
from torch import Tensor
from typing_extensions import Protocol

from grpo import Stateful


class Training(Protocol):
    """Something that goes on from step to step."""

    def step(self) -> Any:
        """Go on, and tell what can be seen of it."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any) -> None: ...


class TrainerSteps:
    """A trainer that is given the same states again and again."""

    def __init__(self, trainer: Any, states: Any) -> None:
        self.trainer = trainer
        self.states = states

    def step(self) -> Any:
        metrics = self.trainer.step(self.states)
        models = [self.trainer.policy, self.trainer.reference_policy]
        return metrics, [parameter_values(model.get_parameters()) for model in models if model is not None]

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.trainer.state_dict()
        return state

    def load_state_dict(self, state_dict: Any) -> None:
        self.trainer.load_state_dict(state_dict)


def check_goes_on(make: Callable[[], Training], *, num_before: int = 2, num_after: int = 2) -> None:
    """The law, in the same object and in a fresh one, and that a state shares no memory with either."""
    training = make()
    _run(training, 0, num_before)
    state = training.state_dict()
    taken = copy.deepcopy(state)
    expected = _run(training, 1, num_after)
    assert are_same(state, taken), "to go on has changed the state that was taken"

    training.load_state_dict(state)
    assert are_same(_run(training, 1, num_after), expected), "the same object goes on differently"
    assert are_same(state, taken), "to go on has changed the state that was loaded"

    assert not are_same(_run(make(), 1, num_after), expected), "the test tells nothing: no state is needed"
    fresh = make()
    fresh.load_state_dict(_saved_and_loaded(state))
    assert are_same(fresh.state_dict(), taken)
    assert are_same(_run(fresh, 1, num_after), expected), "a fresh object goes on differently"

    fresh.load_state_dict(state)
    _spoil(state)
    assert are_same(fresh.state_dict(), taken), "the object shares memory with the state that was loaded"


def check_refuses(training: Stateful, state: Any, *names: str) -> None:
    """A state of something else is refused, by an error with these names, and nothing has changed."""
    before = copy.deepcopy(training.state_dict())
    with pytest.raises(ValueError, match=re.escape(names[0])) as caught:
        training.load_state_dict(state)
    missing = [name for name in names if name not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    assert are_same(training.state_dict(), before), "something has changed"


def are_same(one: Any, other: Any) -> bool:
    """Whether nested containers hold the same, tensors bit by bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return (
            isinstance(other, Mapping)
            and one.keys() == other.keys()
            and all(are_same(one[name], other[name]) for name in one)
        )
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(are_same, one, other))
    return bool(one == other)


def _run(training: Training, seed: int, num_steps: int) -> list[Any]:
    torch.manual_seed(seed)
    return [copy.deepcopy(training.step()) for _ in range(num_steps)]


def _saved_and_loaded(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _spoil(state: Any) -> None:
    """Change everything in a state that can be changed in place."""
    if isinstance(state, Tensor):
        state.fill_(1)
    elif isinstance(state, Mapping):
        for value in state.values():
            _spoil(value)
        if isinstance(state, dict):
            state.clear()
    elif isinstance(state, list | tuple):
        for value in state:
            _spoil(value)
        if isinstance(state, list):
            state.clear()
