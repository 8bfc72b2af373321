"""A small training on several processes, any part of which fails when it is told to."""

from __future__ import annotations

import copy
import hashlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from grpo import (
    AdaptiveKLCoefficient,
    Callback,
    Decisions,
    Evaluation,
    Experience,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    KLPenaltySurrogate,
    Run,
    TensorBatch,
    Terms,
    World,
)

NUM_STATES, NUM_ACTIONS = 5, 4
GIVES_NUMBERS = ("log-probs", "reward", "estimator", "objective", "backward")


class FaultError(RuntimeError):
    """What a part raises when it is told to."""


@dataclass(frozen=True)
class Fault:
    """What happens to one rank, once.

    Attributes:
        kind: what happens.
        rank: to which process.
        seed: of the place, among those that a step comes through.
        place: by name; None for any.
        seconds: for which a rank hangs.
    """

    kind: str
    rank: int
    seed: int
    place: str | None = None
    seconds: float = 10.0


class Faults:
    """The places of a training, and the one that fails.

    Args:
        tell: is told right before a fault happens, and where.
    """

    def __init__(self, tell: Callable[[str], None] = lambda place: None) -> None:
        self.passed: Counter[str] = Counter()
        self._tell = tell
        self._armed: tuple[str, str, int] | None = None
        self._seconds = 0.0
        self._pauses = random.Random(os.getpid())

    def arm(self, fault: Fault, passed: Mapping[str, int]) -> None:
        """Let one of the places that a step has come through fail when it is come to again."""
        draws = random.Random(fault.seed)
        names = GIVES_NUMBERS if fault.kind == "NaN" else sorted(passed)
        places = [name for name in names if passed.get(name) and fault.place in (None, name)]
        if places:
            place = draws.choice(places)
            self._armed = (fault.kind, place, draws.randint(1, passed[place]))
            self._seconds = fault.seconds
        self.passed.clear()

    def at(self, place: str) -> bool:
        """Come through a place; whether what it gives is to be spoilt."""
        self.passed[place] += 1
        if self._pauses.random() < 0.05:
            time.sleep(0.01 * self._pauses.random())  # ranks are never equally fast
        if self._armed is None or self._armed[1:] != (place, self.passed[place]):
            return False
        (kind, _, _), self._armed = self._armed, None
        self._tell(place)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang":
            time.sleep(self._seconds)
        if kind == "raise":
            raise FaultError(f"told to fail in {place}")
        if kind == "out of memory":
            raise torch.OutOfMemoryError(f"told to fail in {place}")
        return kind == "NaN"


class Policy(nn.Module):
    """A small network with a generator of its own, and a count of what it has seen."""

    seen: Tensor

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self.faults = faults
        self.generator = torch.Generator().manual_seed(5)
        self.network = nn.Sequential(nn.Embedding(NUM_STATES, 8), nn.Tanh(), nn.Linear(8, NUM_ACTIONS))
        self.register_buffer("seen", torch.zeros(NUM_ACTIONS))

    def generate_actions(self, states: Sequence[int], num_actions_per_state: int, **kwargs: Any) -> list[list[int]]:
        self.faults.at("generate_actions")
        probabilities = self.network(torch.tensor(states)).softmax(-1)
        drawn = probabilities.multinomial(num_actions_per_state, replacement=True, generator=self.generator)
        groups: list[list[int]] = drawn.tolist()
        return groups

    def encode_actions(self, states: Sequence[int], actions: Sequence[int]) -> TensorBatch:
        return TensorBatch(torch.tensor(states), torch.tensor(actions))

    def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
        spoilt = self.faults.at("log-probs")
        log_probs = self.network(batch.observations).log_softmax(-1).gather(1, batch.actions[:, None]).squeeze(1)
        return Evaluation(log_probs * float("nan") if spoilt else log_probs)

    def get_log_probabilities(self, states: Sequence[int], actions: Sequence[int]) -> Tensor:
        return self.evaluate_actions(self.encode_actions(states, actions)).log_probs

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())

    def update_statistics(self, batch: TensorBatch) -> None:
        self.seen += torch.bincount(batch.actions, minlength=NUM_ACTIONS)
        self.faults.at("update_statistics")


class Reward:
    """Noisy, with a generator of its own and with the global ones."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.generator = torch.Generator().manual_seed(6)

    def compute_rewards(self, states: Sequence[int], actions: Sequence[int]) -> Tensor:
        spoilt = self.faults.at("reward")
        right = (torch.tensor(actions) == torch.tensor(states) % NUM_ACTIONS).float()
        noise = torch.randn(len(right), generator=self.generator) + torch.randn(len(right)) + random.random()
        return right + 0.1 * noise * (float("nan") if spoilt else 1.0)

    def train(self) -> None: ...

    def eval(self) -> None: ...

    def to(self, device: Any) -> None: ...


@dataclass(frozen=True)
class Estimator(GroupRelative):
    """The usual one."""

    faults: Faults = field(default_factory=Faults)

    def __call__(self, experience: Experience) -> Tensor:
        spoilt = self.faults.at("estimator")
        return super().__call__(experience) * (float("nan") if spoilt else 1.0)


class Objective(GRPOObjective):
    """The usual one."""

    faults: Any = None

    def __call__(self, evaluation: Evaluation, decisions: Decisions) -> Terms:
        spoilt = self.faults.at("objective")
        terms = super().__call__(evaluation, decisions)
        return Terms(terms.loss * float("nan"), terms.metrics) if spoilt else terms


class Optimizer(torch.optim.AdamW):
    """One that fails before its step, or after it."""

    faults: Faults

    def step(self, closure: Any = None) -> Any:
        self.faults.at("optimizer")
        result = super().step(closure)
        self.faults.at("optimizer")
        return result


class NotesState(Callback):
    """Notes what there is after each step, and then may fail."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.last: dict[str, str] = {}

    def start(self, run: Run) -> None:
        self.last = digests(run.trainer)

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        self.last = digests(run.trainer)
        self.faults.at("callback")


class SameStates:
    """The states of all ranks, the same in each step; each takes its share, of which only the last is never empty."""

    def __init__(self, world: World, seed: int, *, may_be_none: bool) -> None:
        count = random.Random(f"{seed}").randint(1 if may_be_none else 2 * world.size, 4 * world.size)
        self.states = [place % NUM_STATES for place in range(count)]

    def next_states(self, step: int) -> list[int]:
        return self.states


def training(world: World, faults: Faults, seed: int, *, skips: bool, may_be_empty: bool) -> tuple[Run, NotesState]:
    """A training whose settings follow from a seed; if it ``may_be_empty`` ranks but the last may have no samples."""
    draws = random.Random(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    policy = Policy(faults)
    reference = copy.deepcopy(policy)
    config = GRPOConfig(
        group_size=4,
        batch_size=draws.choice([None, 6, 8]),
        micro_batch_size=draws.choice([None, 3]),
        num_epochs_per_update=draws.choice([1, 2]),
        max_grad_norm=draws.choice([None, 0.1]),
        non_finite="skip" if skips else "raise",
    )
    surrogate = KLPenaltySurrogate(coefficient=AdaptiveKLCoefficient(target=0.003))
    optimizer = Optimizer(policy.parameters(), lr=0.05)
    optimizer.faults = faults
    list(policy.parameters())[-2].register_post_accumulate_grad_hook(partial(_fail_in_backward, faults))
    trainer = GRPOTrainer(
        config,
        policy,
        Reward(faults),
        reference,
        optimizer,
        advantage_estimator=Estimator(faults=faults),
        objective=Objective(surrogate=surrogate, kl_coefficient=0.02, faults=faults),
        world=world,
    )
    callback = NotesState(faults)
    return Run(trainer, SameStates(world, seed, may_be_none=may_be_empty), callbacks=[callback]), callback


def _fail_in_backward(faults: Faults, parameter: Tensor) -> None:
    if faults.at("backward"):
        assert parameter.grad is not None
        parameter.grad.mul_(float("nan"))


def digests(trainer: Any) -> dict[str, str]:
    """Of each part of a trainer's state, and of the global generators, by name; equal where they are bit by bit."""
    state = {**trainer.state_dict(), "torch": torch.get_rng_state(), "python": random.getstate()}
    state["policy"] = trainer.policy.state_dict()
    state |= {f"part {name}": part for name, part in state.pop("parts").items()}
    return {name: hashlib.sha256(repr(_plain(part)).encode()).hexdigest() for name, part in state.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return str(value.dtype), list(value.shape), value.detach().contiguous().flatten().view(torch.uint8).tolist()
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
