"""Checks of a model, as every kit makes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from grpo.collection._scored_samples import check_partial_rewards
from grpo.conformance._values import value_of
from grpo.data._protocols import missing_methods
from grpo.data.batches import select_entries
from grpo.data.segments import Segments
from grpo.models._checks import check_rewards
from grpo.models._random_states import RestoresRandomStates
from grpo.models.reward_model import PartialRewards, RewardModel


class ConformanceError(ValueError):
    """A model breaks its protocol.

    Attributes:
        problems: everything that was found wrong, in the order of the checks.
    """

    def __init__(self, model: object, problems: list[str]) -> None:
        self.problems = problems
        listed = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, 1))
        count = f"{len(problems)} check{'s' if len(problems) > 1 else ''}"
        super().__init__(f"{type(model).__name__} fails {count}:\n{listed}")


FAILED: Final = object()
TOLERANCE = 1e-4
HALF_PRECISION_TOLERANCE = 5e-2


class Checks:
    """A model under test and what was found wrong with it."""

    def __init__(self, model: Any, protocol: type) -> None:
        self.model = model
        self.problems: list[str] = []
        self.missing = missing_methods(model, protocol)
        for name in self.missing:
            parameters = inspect.signature(getattr(protocol, name)).parameters.values()
            signature = ", ".join(str(parameter.replace(annotation=parameter.empty)) for parameter in parameters)
            self.add(f"{name} is missing: add def {name}({signature})")

    def add(self, problem: str) -> None:
        """Note a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def raise_problems(self) -> None:
        """Raise what was found, if anything was."""
        if self.problems:
            raise ConformanceError(self.model, self.problems)

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What the method returns; FAILED where it is missing or raises, which is noted."""
        if method in self.missing:
            return FAILED
        return self.result_of(method, getattr(self.model, method), *arguments, **options)

    def result_of(self, source: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What the function returns; FAILED where it raises, which is noted; ``source`` names it."""
        try:
            return function(*arguments, **options)
        except Exception as error:
            self.add(f"{source} raised {type(error).__name__}: {error}")
            return FAILED

    def holds(self, check: Callable[..., object], *arguments: Any) -> bool:
        """Whether a check of the trainer's own passes; what it says otherwise is noted."""
        try:
            check(*arguments)
        except (TypeError, ValueError) as error:
            self.add(str(error))
            return False
        return True

    def check_modes(self, device: torch.device) -> None:
        """train, eval and to must act in place and return None or the model itself."""
        for method, arguments, mode in (("eval", (), False), ("train", (), True), ("to", (device,), None)):
            returned = self.call(method, *arguments)
            if returned is not FAILED and returned is not None and returned is not self.model:
                self.add(
                    f"{method} returned a {type(returned).__name__}, expected None or the model itself: act in place"
                )
            told = getattr(self.model, "training", None)
            if method not in self.missing and mode is not None and isinstance(told, bool) and told is not mode:
                self.add(f"after {method}() the attribute training is {told}, expected {mode}")


class RewardModelChecks(Checks):
    """What :func:`grpo.check_reward_model` does."""

    def __init__(
        self, model: RewardModel[Any, Any], states: Any, actions: Any, decisions_per_sample: Sequence[int] | None
    ) -> None:
        super().__init__(model, RewardModel)
        self.states = states
        self.actions = actions
        self.decisions_per_sample = decisions_per_sample or [1] * len(actions)

    def run(self) -> None:
        """All checks."""
        random_states = RestoresRandomStates([self.model])
        with random_states:
            self.check_modes(self.device())
            self.call("eval")
            for count in sorted({1, len(self.states)}):
                self.check_rewards(torch.arange(count))
            random_states.restore()

    def device(self) -> torch.device:
        """Where the model's parameters are, if it tells; else where the actions are."""
        parameters = self.model.parameters() if callable(getattr(self.model, "parameters", None)) else ()
        tensors = [*parameters, *([self.actions] if isinstance(self.actions, Tensor) else [])]
        return tensors[0].device if tensors else torch.device("cpu")

    def check_rewards(self, indices: Tensor) -> None:
        """One finite reward for each of these pairs, or for each of their decisions, and the batches left alone."""
        states, actions = select_entries(self.states, indices), select_entries(self.actions, indices)
        before = value_of((states, actions))
        rewards = self.call("compute_rewards", states, actions)
        if isinstance(rewards, PartialRewards):
            self.holds(check_partial_rewards, rewards, len(indices))
        elif rewards is not FAILED:
            device = rewards.device if isinstance(rewards, Tensor) else None
            samples = Segments.of_lengths(self.decisions_per_sample[: len(indices)], device)
            self.holds(check_rewards, rewards, samples)
        if value_of((states, actions)) != before:
            self.add("compute_rewards changes the batches it is given: leave them as they are")
