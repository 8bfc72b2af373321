"""Simulators over tensors: the same rollouts as environments one by one, on their device, checked at every step."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pytest
import torch
from gym_environments import ExactCritic, MatchingEnv, ParityActor, ScriptedEnv
from gym_simulators import Counters, TensorsOf
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation
from pretend_device import PRETENDED, pretended_device, trained
from state_laws import TrainerSteps, are_same, check_goes_on
from torch import Tensor

from batched_simulator import CartPoles
from grpo import CutsEpisodes, NonFiniteError, PPOConfig, PPOTrainer
from grpo_adapters.gym import (
    EnvironmentFailedError,
    EnvironmentReward,
    FragmentSampler,
    GymActorCritic,
    SimulatorSampler,
    TrajectoryBatch,
)

SEED = 5


def scripted() -> SyncVectorEnv:
    return SyncVectorEnv([ScriptedEnv] * 3, autoreset_mode=AutoresetMode.SAME_STEP)


def masked() -> SyncVectorEnv:
    return SyncVectorEnv(
        [lambda: FlattenObservation(MatchingEnv(masked=True))] * 3, autoreset_mode=AutoresetMode.SAME_STEP
    )


def trainer_of(sampler: Any, config: PPOConfig | None = None) -> PPOTrainer[Any, Any]:
    config = PPOConfig(batch_size=8, num_epochs_per_update=2, learning_rate=0.01) if config is None else config
    return PPOTrainer(config, GymActorCritic(sampler, hidden_sizes=(8,)), EnvironmentReward())


def play(simulator: Any) -> None:
    sampler = SimulatorSampler(simulator, 6)
    sampler.sample(GymActorCritic(sampler), sampler.states, 1)


def test_a_mask_is_ignored_where_there_are_no_choices() -> None:
    class Masked(Counters):
        def step(self, actions: Tensor) -> Any:
            *transition, info = super().step(actions)
            return *transition, info | {"action_mask": torch.zeros(4, 2, dtype=torch.bool)}

    simulator = Masked()
    simulator.single_action_space = Box(-1.0, 1.0, (2,))
    play(simulator)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 7, 30])
def test_rollouts_are_those_of_environments_one_by_one(num_steps: int) -> None:
    samplers = (
        FragmentSampler(scripted(), num_steps, seed=SEED),
        SimulatorSampler(TensorsOf(scripted()), num_steps, seed=SEED),
    )
    trainers = [
        PPOTrainer(PPOConfig(), GymActorCritic(sampler, ParityActor(), ExactCritic()), EnvironmentReward())
        for sampler in samplers
    ]
    for _ in range(min(60 // num_steps, 15)):
        expected: Any
        came: Any
        expected, came = (trainer.collector.collect(samplers[0].states) for trainer in trainers)
        for name in ("observations", "decisions", "next_observations", "terminated"):
            assert torch.equal(getattr(came.batch, name), getattr(expected.batch, name)), name
        assert came.batch.samples.same_cut(expected.batch.samples)
        assert came.batch.episodes.same_cut(expected.batch.episodes)
        assert torch.equal(came.rewards, expected.rewards)
        for own, other in zip(came.actions, expected.actions, strict=True):
            assert own.episode_lengths == other.episode_lengths
            assert all(torch.equal(getattr(own, name), getattr(other, name)) for name in ("observations", "rewards"))
            assert torch.equal(own.next_observations, other.next_observations)
            assert torch.equal(own.terminated, other.terminated)
        one_by_one: Any = TrajectoryBatch.of(list(came.actions), torch.device("cpu"), torch.float32)
        assert torch.equal(one_by_one.observations, came.batch.observations)
        assert torch.equal(one_by_one.next_observations, came.batch.next_observations)
        assert samplers[1].get_metrics() == pytest.approx(samplers[0].get_metrics())


def test_training_is_that_of_environments_one_by_one_with_masks() -> None:
    """The same noise, so the same decisions, metrics and parameters."""
    seen = []
    for sampler in (FragmentSampler(masked(), 7), SimulatorSampler(TensorsOf(masked()), 7)):
        steps = TrainerSteps(trainer_of(sampler), sampler.states)
        seen.append([steps.step() for _ in range(4)])
    assert are_same(seen[0], seen[1])


def test_rollouts_index_as_sequences_do() -> None:
    sampler = SimulatorSampler(Counters(), 3)
    [*groups] = sampler.sample(GymActorCritic(sampler), sampler.states, 1)
    rollout: Any = sampler.sample(GymActorCritic(sampler), sampler.states, 1).actions
    assert [len(group) for group in groups] == [1] * 4
    assert torch.equal(rollout[-1].observations, rollout[3].observations)
    assert [len(own.rewards) for own in rollout[1:3]] == [3, 3]
    with pytest.raises(IndexError):
        rollout[4]


def test_what_a_simulator_writes_over_is_kept() -> None:
    sampler = SimulatorSampler(Counters(), 7)
    rollout: Any = sampler.sample(GymActorCritic(sampler), sampler.states, 1).actions
    assert rollout.observations[0, :, 0].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert rollout.next_observations[:2, 0].tolist() == [5, 2]
    assert rollout[0].episode_lengths == (5, 2)
    assert not rollout.terminated.any()
    assert sampler.get_metrics() == {"num_episodes": 4, "episode_return": 5, "episode_length": 5}


@pytest.mark.parametrize("space", [Discrete(2), Box(-1, 2, (2,))])
def test_a_rollout_stays_on_its_device(space: Any) -> None:
    """However many steps it has: noise is drawn there, and what the CPU waits for is not asked at every step."""
    waited = []
    for num_steps in (4, 16):
        with pretended_device() as waits:
            simulator = Counters(device=PRETENDED)
            simulator.single_action_space = space
            sampler = SimulatorSampler(simulator, num_steps)
            trainer = trainer_of(sampler, PPOConfig(device=str(PRETENDED), batch_size=8, num_epochs_per_update=2))
            trained(trainer, trainer.policy, sampler.states)
            waits.clear()
            policy: Any = trainer.policy
            sampler.sample(policy, sampler.states, 1)
            waited.append(sum(waits.values()))
    assert waited[0] == waited[1] <= 12, waits


def test_a_policy_elsewhere_is_refused() -> None:
    with pretended_device():
        sampler = SimulatorSampler(Counters(device=PRETENDED), 4)
        with pytest.raises(
            ValueError, match=r"GymActorCritic is on cpu, but Counters gives .* on lazy:0.*device='lazy:0'"
        ):
            sampler.sample(GymActorCritic(sampler), sampler.states, 1)


def test_state_goes_on_where_the_simulator_tells_it() -> None:
    def make() -> TrainerSteps:
        sampler = SimulatorSampler(CartPoles(5), 7, seed=3)
        return TrainerSteps(trainer_of(sampler), sampler.states)

    check_goes_on(make)


def test_episodes_are_cut_where_the_simulator_tells_no_state() -> None:
    simulator = Counters()
    sampler = SimulatorSampler(simulator, 3, seed=8)
    assert isinstance(sampler, CutsEpisodes)
    trainer = trainer_of(sampler)
    trainer.step(sampler.states)
    sampler.cut(1)
    state = trainer.state_dict()
    trainer.step(sampler.states)
    other = Counters()
    again = trainer_of(SimulatorSampler(other, 3, seed=8))
    again.load_state_dict(state)
    again.step(sampler.states)
    assert simulator.seeds[0] == 8
    assert other.seeds == simulator.seeds[1:] != [8]
    assert are_same(again.state_dict(), trainer.state_dict())
    with pytest.raises(ValueError, match="the state of 4 environments, expected 5"):
        SimulatorSampler(Counters(5), 3).load_state_dict(sampler.state_dict())


def test_a_failed_step_begins_anew_and_counts_nothing() -> None:
    simulator = Counters()
    sampler = SimulatorSampler(simulator, 6)
    trainer = trainer_of(sampler)
    trainer.step(sampler.states)
    simulator.wrong = {8: (1, torch.full((4,), torch.inf))}
    with pytest.raises(NonFiniteError):
        trainer.step(sampler.states)
    assert sampler.get_metrics()["num_episodes"] == 4
    trainer.step(sampler.states)
    assert simulator.seeds == [0, None]
    assert sampler.get_metrics()["num_episodes"] == 8


def at_two(place: int, value: Any) -> Counters:
    return Counters(wrong={2: (place, value)})


BAD_OBSERVATION = torch.tensor([[0.0, 0], [0, 0], [torch.nan, 0], [0, 0]])
MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "not a simulator": (object(), TypeError, "a object, which lacks num_envs, .*reset, step"),
    "shape": (
        at_two(0, torch.zeros(4, 3)),
        ValueError,
        r"observations at step 2 of the rollout of shape \[4, 3\].*\[4, 2\]",
    ),
    "number": (at_two(0, torch.zeros(5, 2)), ValueError, r"of shape \[5, 2\], expected \[4, 2\]: num_envs is 4"),
    "dtype": (
        at_two(0, torch.zeros(4, 2).double()),
        ValueError,
        "torch.float64 on cpu, but reset returned torch.float32",
    ),
    "array": (at_two(0, torch.zeros(4, 2).numpy()), TypeError, "of type ndarray, expected a tensor.*FragmentSampler"),
    "image": (at_two(0, torch.zeros(4, 2, dtype=torch.uint8)), ValueError, "images are uint8 in both"),
    "device": (at_two(0, torch.zeros(4, 2, device="meta")), ValueError, "on meta, but reset returned .* on cpu"),
    "rewards": (at_two(1, torch.ones(4, 1)), ValueError, r"rewards of shape \[4, 1\].*step 2.*expected \[4\], on cpu"),
    "rewards elsewhere": (at_two(1, torch.ones(4, device="meta")), ValueError, "rewards .* on meta at step 2"),
    "terminated": (
        at_two(2, torch.zeros(4)),
        ValueError,
        r"terminated of shape \[4\] and dtype torch.float32.*torch.bool",
    ),
    "truncated": (at_two(3, [False] * 4), TypeError, "truncated of type list at step 2"),
    "info": (at_two(4, None), TypeError, "an info of type NoneType, expected a dictionary"),
    "final": (
        at_two(4, {"final_obs": torch.zeros(1, 2)}),
        ValueError,
        r"info\['final_obs'\] at step 2.* of shape \[1, 2\]",
    ),
    "no final": (
        Counters(wrong={4: (4, {})}),
        ValueError,
        "episode of environment 0 short at step 4 of the rollout, but its info has no 'final_obs'",
    ),
    "mask": (
        at_two(4, {"action_mask": torch.ones(4, 2)}),
        ValueError,
        r"info\['action_mask'\] a tensor of shape \[4, 2\]",
    ),
    "nothing allowed": (
        at_two(4, {"action_mask": torch.tensor([[True, True]] * 3 + [[False, False]])}),
        ValueError,
        "environment 3 gave an action_mask that allows nothing at step 3",
    ),
    "bad observation": (
        at_two(0, BAD_OBSERVATION),
        NonFiniteError,
        r"environment 2 gave the observation \[nan, 0.0\] at step 3",
    ),
    "bad reward": (
        at_two(1, torch.tensor([1, torch.inf, 1, 1])),
        NonFiniteError,
        "environment 1 gave the reward inf at step 2",
    ),
    "bad final": (
        Counters(wrong={4: (4, {"final_obs": BAD_OBSERVATION})}),
        NonFiniteError,
        r"environment 2 gave the observation \[nan, 0.0\] at step 5",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_with_environment_and_step(mistake: str) -> None:
    simulator, error, message = MISTAKES[mistake]
    with pytest.raises(error, match=message):
        play(simulator)


class OfParts(Counters):
    def __init__(self) -> None:
        super().__init__()
        self.single_observation_space = Dict(policy=Box(-1, 1, (2,)))


class NextStep(Counters):
    metadata: ClassVar = {"autoreset_mode": AutoresetMode.NEXT_STEP}


class Failing(Counters):
    def step(self, actions: Tensor) -> Any:
        raise RuntimeError("the arm came off")


class OldStep(Counters):
    def step(self, actions: Tensor) -> Any:
        return super().step(actions)[:4]


class BareReset(Counters):
    def reset(self, *, seed: int | None = None) -> Any:
        return super().reset(seed=seed)[0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (OfParts, TypeError, "observation space Dict.*expected a Box: return one tensor"),
        (NextStep, ValueError, "expected AutoresetMode.SAME_STEP"),
        (Failing, EnvironmentFailedError, "Failing raised RuntimeError at step 0 of the rollout: the arm came off"),
        (OldStep, TypeError, "OldStep.step returned 4 values, expected observations, rewards, terminated"),
        (BareReset, TypeError, "BareReset.reset returned a tensor of shape .*expected observations and an info"),
    ],
)
def test_other_interfaces_are_named(make: type[Counters], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        play(make())


def test_spaces_that_change_are_named() -> None:
    simulator = Counters()
    sampler = SimulatorSampler(simulator, 3)
    policy = GymActorCritic(sampler)
    sampler.sample(policy, sampler.states, 1)
    simulator.single_action_space = Discrete(3)
    with pytest.raises(ValueError, match=re.escape("actions Discrete(2), but SimulatorSampler plays")):
        sampler.sample(policy, sampler.states, 1)


@pytest.mark.parametrize(("states", "size"), [([0, 1, 2], 1), ([3, 2, 1, 0], 1), ([0, 1, 2, 3], 2)])
def test_all_slots_are_played_once(states: list[int], size: int) -> None:
    sampler = SimulatorSampler(Counters(), 3)
    with pytest.raises(ValueError, match=r"all 4 environments go on at once, in one way: pass sampler\.states"):
        sampler.sample(GymActorCritic(sampler), states, size)
    with pytest.raises(ValueError, match="num_steps is 0"):
        SimulatorSampler(Counters(), 0)
