"""Networks that mix observations or keep something, and memories that are none: each is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pytest
import torch
from gym_environments import ScriptedEnv, SpacesEnv
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from recurrence import NUM_ENVS, Forgets, Remembers, fragments, played, recurrent, simulated
from torch import Tensor, nn

from grpo_adapters.gym import (
    GRU,
    LSTM,
    DictEncoder,
    EpisodeSampler,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
    Player,
    evaluate,
)


class OverTheBatch(nn.Module):
    """A GRU that takes observations side by side for steps one after the other."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.layers = nn.GRU(3, num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        units: Tensor = self.layers(features)[0]
        return units


class Attention(nn.Module):
    """Attends to the other observations."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(3, 1)
        self.head = nn.Linear(3, 1)

    def forward(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.layer(features, features, features)[0])
        return outputs


class FrozenNormalization(nn.BatchNorm1d):
    """Stays in evaluation mode."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.training = False
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        return self


class Keeps(nn.Module):
    """Keeps its last units for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 2)
        self.last: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        if self.last is None or len(self.last) != len(features):
            self.last = features.new_zeros(len(features), 2)
        self.last = self.cell(features, self.last)
        return self.last


class CountsRows(nn.Module):
    """Divides by how many observations there are."""

    def forward(self, features: Tensor) -> Tensor:
        return features[:, :2] / len(features)


class Grows(nn.Module):
    """Remembers everything."""

    def forward(self, units: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        known = units[:, None] if state is None else torch.cat((state, units[:, None]), 1)
        return known.mean(1), known


class Mixes(nn.Module):
    """Remembers the mean over the environments."""

    def forward(self, units: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        state = torch.zeros_like(units) if state is None else state
        return units + state, units.mean(0).expand(len(units), -1)


class Unpaired(nn.Module):
    def forward(self, units: Tensor, state: Any) -> Tensor:
        return units


class Flat(nn.Module):
    def forward(self, units: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        return units.sum(1), units


class Strange(nn.Module):
    def forward(self, units: Tensor, state: Any) -> tuple[Tensor, Any]:
        return units, ["a list"]


class BeginsElsewhere(nn.Module):
    """Takes None for ones, and zeros for zeros."""

    def forward(self, units: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        state = torch.ones_like(units) if state is None else state
        return units + state, state


class NeedsState(nn.Module):
    def forward(self, units: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return units + torch.tanh(state), units


class Inconsistent(GRU):
    def over_sequences(self, units: Tensor, sequences: Any, state: Any) -> tuple[Tensor, Any]:
        outputs, last = super().over_sequences(units, sequences, state)
        return outputs + 1, last


not_a_module: Any = "mlp"


def with_memory(memory: Any, **options: Any) -> Callable[[], Any]:
    return lambda: GymPolicy(ScriptedEnv(), memory=memory, **options)


class Halves(nn.Module):
    """Writes over what it is given."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mul_(0.5)[:, :2]


class Accumulates(nn.Module):
    """Adds to the state that it is given, in its place."""

    def initial_state(self, num_rows: int) -> Tensor:
        return torch.zeros(num_rows, 3)

    def forward(self, units: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state += units
        return state, state


class Begins(nn.Module):
    """Adds what episodes begin with, as a function tells it, if it is one."""

    def __init__(self, beginning: Any) -> None:
        super().__init__()
        self.initial_state = beginning

    def forward(self, units: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return units + state, state


class KeepsInside(nn.Module):
    """Its state is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, units: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return units + self.calls, units


CAMERA = SpacesEnv(
    spaces.Dict(camera=spaces.Box(0, 255, (8, 8), np.uint8), speed=spaces.Box(-1, 1, (3,))), spaces.Discrete(2)
)
TABLES = SpacesEnv(spaces.Box(-1, 1, (4, 4)), spaces.Discrete(2))


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (
            lambda: GymPolicy(ScriptedEnv(), nn.LSTM(3, 2)),
            TypeError,
            "actor LSTM returned a tuple, expected a tensor. A network with a state, as nn.LSTM is, belongs",
        ),
        (
            lambda: GymPolicy(ScriptedEnv(), OverTheBatch(2)),
            ValueError,
            "actor OverTheBatch gives an observation something else where those beside it change: it mixes rows, so "
            "that what is sampled cannot be evaluated again (in evaluation mode). Put what remembers steps into",
        ),
        (
            lambda: GymActorCritic(ScriptedEnv(), critic=OverTheBatch(1)),
            ValueError,
            "critic OverTheBatch gives an observation something else where",
        ),
        (
            lambda: GymActorCritic(ScriptedEnv(), critic=Attention()),
            ValueError,
            "critic Attention gives an observation something else where",
        ),
        (
            lambda: GymPolicy(ScriptedEnv(), trunk=nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))),
            ValueError,
            "trunk Sequential gives an observation something else where those beside it change: it mixes rows, so that "
            "what is sampled cannot be evaluated again (in training mode)",
        ),
        (
            lambda: GymPolicy(ScriptedEnv(), Keeps()),
            ValueError,
            "actor Keeps gives the same observations something else when it is asked again: it keeps something of its "
            "own from call to call (in evaluation mode)",
        ),
        (
            lambda: GymPolicy(ScriptedEnv(), CountsRows()),
            ValueError,
            "actor CountsRows gives an observation something else alone than among others",
        ),
        (
            lambda: GymPolicy(ScriptedEnv(), Halves()),
            ValueError,
            "actor Halves writes over what it is given, which is read again: let it make something new, by x = x / 2 "
            "instead of x /= 2, or nn.ReLU() instead of nn.ReLU(inplace=True)",
        ),
        (
            lambda: GymActorCritic(ScriptedEnv(), critic=nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 1))),
            ValueError,
            "critic Sequential writes over what it is given",
        ),
        (lambda: GymPolicy(ScriptedEnv(), trunk=Halves()), ValueError, "trunk Halves writes over what it is given"),
        (
            lambda: GymPolicy(CAMERA, trunk=DictEncoder(CAMERA.observation_space, encoders={"speed": Halves()})),
            ValueError,
            "trunk DictEncoder writes over what it is given",
        ),
        (
            lambda: GymPolicy(
                CAMERA, trunk=DictEncoder(CAMERA.observation_space, encoders={"speed": nn.BatchNorm1d(3)})
            ),
            ValueError,
            "trunk DictEncoder gives an observation something else where those beside it change",
        ),
        (with_memory(Accumulates()), ValueError, "memory Accumulates writes over what it is given"),
        (
            with_memory(nn.LSTM(3, 4)),
            ValueError,
            "memory LSTM returned state[0] of shape [1, 4] for 4 observations, expected 4 rows: its first dimension "
            "must be that of the observations. LSTM and GRU of grpo_adapters.gym, around those of PyTorch's, are such",
        ),
        (
            with_memory(Grows()),
            ValueError,
            "memory Grows has a state that changes its kind: its rows are [('state', [1, 3], torch.float32)] before a "
            "step and [('state', [2, 3], torch.float32)] after it. Keep its shape",
        ),
        (
            with_memory(Mixes()),
            ValueError,
            "memory Mixes gives an observation something else where those beside it change: it mixes rows",
        ),
        (with_memory(Unpaired()), TypeError, "memory Unpaired returned a Tensor, expected (units [n, U], state) ->"),
        (with_memory(Flat()), ValueError, "memory Flat returned units of shape [4] for 4 observations"),
        (with_memory(Strange()), TypeError, "memory Strange returned a list as state, expected a tensor, or a tuple"),
        (
            with_memory(BeginsElsewhere()),
            ValueError,
            "memory BeginsElsewhere begins otherwise from None than from zeros: give it a method initial_state(n)",
        ),
        (
            with_memory(KeepsInside()),
            ValueError,
            "memory KeepsInside gives something else when it is asked the same again: keep nothing in the module from "
            "call to call, but in the state",
        ),
        (
            with_memory(Begins(lambda num_rows: torch.arange(num_rows).float().unsqueeze(1).expand(-1, 3))),
            ValueError,
            "memory Begins.initial_state gives another state in another row or at another time, expected the state of",
        ),
        (
            with_memory(Begins(lambda num_rows: torch.rand(1, 3).expand(num_rows, -1))),
            ValueError,
            "memory Begins.initial_state gives another state in another row or at another time",
        ),
        (
            with_memory(Begins(lambda num_rows: torch.zeros(1, 3))),
            ValueError,
            "memory Begins.initial_state(4) returned state of shape [1, 3], expected the state of n episodes that",
        ),
        (
            with_memory(Begins(torch.zeros(3))),
            TypeError,
            "memory Begins.initial_state(4) raised TypeError: 'Tensor' object is not callable; expected the state of n",
        ),
        (with_memory(NeedsState()), ValueError, "give it initial_state(n) if it cannot begin from None"),
        (
            with_memory(Inconsistent(3, 4)),
            ValueError,
            "memory Inconsistent.over_sequences gives something else than its single steps: leave it out",
        ),
        (with_memory(LSTM(5, 4)), ValueError, "memory LSTM cannot take units of shape [4, 3]"),
        (
            lambda: GymPolicy(TABLES, memory=LSTM(16, 4)),
            ValueError,
            "memory LSTM takes units [n, U], but observations have features of shape [4, 4]: pass a trunk that "
            "makes units of them, such as nn.Flatten()",
        ),
        (
            lambda: GymPolicy(ScriptedEnv(), window=4),
            ValueError,
            "window is 4 and burn_in 0, but there is no memory: pass memory=LSTM(...), say",
        ),
        (
            with_memory("gru"),
            TypeError,
            "memory is 'gru', expected a torch.nn.Module: pass an instance, such as GRU(inputs, units)",
        ),
        (with_memory(GRU), TypeError, "memories.GRU'>, expected a torch.nn.Module: pass an instance"),
        (lambda: GymPolicy(ScriptedEnv(), not_a_module), TypeError, "actor is 'mlp', expected a torch.nn.Module"),
        (lambda: GymPolicy(ScriptedEnv(), trunk=not_a_module), TypeError, "trunk is 'mlp', expected a torch.nn.Module"),
        (lambda: GymActorCritic(ScriptedEnv(), critic=not_a_module), TypeError, "critic is 'mlp', expected a"),
        (with_memory(GRU(3, 4), window=2.5), TypeError, "window is 2.5, expected a whole number of steps"),
        (with_memory(GRU(3, 4), window=4, burn_in=1.0), TypeError, "burn_in is 1.0, expected a whole number of steps"),
        (with_memory(GRU(3, 4), window=0), ValueError, "window is 0, expected at least 1"),
        (with_memory(GRU(3, 4), window=4, burn_in=4), ValueError, "burn_in is 4 and window 4, expected fewer steps"),
        (with_memory(GRU(3, 4), burn_in=1), ValueError, "burn_in is 1 and window None, expected fewer steps"),
        (with_memory(GRU(3, 4), window=4, burn_in=-1), ValueError, "burn_in is -1 and window 4, expected fewer steps"),
    ],
)
def test_what_is_refused(build: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        build()


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Dropout(0.5), nn.Linear(8, 2)),
        nn.Sequential(nn.Linear(3, 8), FrozenNormalization(8), nn.Linear(8, 2)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)),
    ],
    ids=["dropout", "frozen", "spectral"],
)
def test_what_is_taken_is_left_as_it_was(network: Any) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    GymPolicy(ScriptedEnv(), network)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_fixes_are_right() -> None:
    GymPolicy(ScriptedEnv(), memory=LSTM(3, 2))
    GymPolicy(TABLES, trunk=nn.Flatten(), memory=LSTM(16, 4))
    GymPolicy(ScriptedEnv(), trunk=nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)))


@pytest.mark.parametrize("which", [[0, 1, 2], True, [[True, False, True]]])
def test_a_player_is_told_where_episodes_begin_by_a_mask(which: Any) -> None:
    player = Player(GymPolicy(ScriptedEnv(), memory=GRU(3, 4)))
    player(np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"Player\.begin was given .*, expected a bool for each environment"):
        player.begin(which)
    player.begin([True, False, True])


def test_a_running_environment_goes_on_with_what_its_policy_remembers() -> None:
    sampler = fragments(3)
    played(recurrent(sampler), sampler, 1)
    message = (
        r"the environments go on with what a policy remembers as \[\('state\[0\]', \[3, 1, 6\]\), .*, but this "
        r"GymActorCritic remembers \[\('state', \[3, 1, 6\]\)\]: call sampler.restart\(\) before another policy plays"
    )
    other = recurrent(sampler, "gru")
    with pytest.raises(ValueError, match=message):
        played(other, sampler, 1)
    sampler.restart()
    played(other, sampler, 1)
    with pytest.raises(ValueError, match="but this GymPolicy remembers None"):
        sampler.sample(GymPolicy(sampler), sampler.states, 1)


def test_trajectories_of_a_policy_that_remembers_nothing() -> None:
    sampler = fragments(3)
    [rollout] = played(GymActorCritic(sampler), sampler, 1)
    with pytest.raises(TypeError, match="a trajectory holds no memory, but the policy that evaluates it has one"):
        recurrent(sampler).encode_actions(sampler.states, rollout)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Remembers, "Remembers.decide returned a memory, but Remembers does not tell how episodes begin: add initial_"),
        (Forgets, "Forgets.decide returned no memory, though it was given one: return Decided"),
    ],
)
def test_policies_that_remember_by_halves(kind: type[GymPolicy], message: str) -> None:
    policy, sampler, simulator = kind(ScriptedEnv()), fragments(3), simulated(3)
    for play in (
        lambda: sampler.sample(policy, sampler.states, 1),
        lambda: EpisodeSampler(ScriptedEnv, 2).sample(policy, [0], 1),
        lambda: simulator.sample(policy, simulator.states, 1),
        lambda: evaluate(policy, ScriptedEnv(), 1),
    ):
        with pytest.raises(TypeError, match=message):
            play()


def test_after_a_failure_nothing_is_remembered() -> None:
    sampler = FragmentSampler(SyncVectorEnv([lambda: ScriptedEnv(fails_at=(5, 0, 2))] * NUM_ENVS), 3, seed=5)
    policy = recurrent(sampler)
    with pytest.raises(RuntimeError, match="the wheel came off"):
        sampler.sample(policy, sampler.states, 1)
    assert sampler._memory is None
