"""Training from end to end: the algorithms learn, and a seed decides everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gym_environments import MatchingEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from grpo import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, ReinforceConfig, ReinforceTrainer, Trainer
from grpo_adapters.gym import (
    GRU,
    EnvironmentReward,
    EpisodeSampler,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
    StackedUnits,
    evaluate,
)

Run = tuple[GymPolicy, list[dict[str, float]]]


def steps(trainer: Trainer[Any, Any], states: Callable[[int], Any], num_steps: int) -> Run:
    return trainer.policy, [trainer.step(states(step)) for step in range(num_steps)]  # type: ignore[return-value]


def ppo(seed: int, mode: AutoresetMode = AutoresetMode.NEXT_STEP, *, masked: bool = False, num_steps: int = 25) -> Run:
    envs = SyncVectorEnv([lambda: MatchingEnv(masked=masked)] * 8, autoreset_mode=mode)
    sampler = FragmentSampler(envs, 16, seed=seed)
    policy = GymActorCritic(sampler, hidden_sizes=(16,), normalize_observations=True, seed=seed)
    config = PPOConfig(batch_size=32, num_epochs_per_update=4, learning_rate=0.01, discount=0.9, seed=seed)
    return steps(PPOTrainer(config, policy, EnvironmentReward()), lambda step: sampler.states, num_steps)


def grpo(seed: int, num_steps: int = 25) -> Run:
    policy = GymPolicy(EpisodeSampler(MatchingEnv), hidden_sizes=(16,), seed=seed)
    trainer = GRPOTrainer(GRPOConfig(group_size=8, learning_rate=0.02, seed=seed), policy, EnvironmentReward())
    return steps(trainer, lambda step: range(8 * step, 8 * step + 8), num_steps)


def reinforce(seed: int, num_steps: int = 25) -> Run:
    policy = GymPolicy(EpisodeSampler(MatchingEnv), hidden_sizes=(16,), seed=seed)
    trainer = ReinforceTrainer(
        ReinforceConfig(learning_rate=0.02, discount=0.5, seed=seed), policy, EnvironmentReward()
    )
    return steps(trainer, lambda step: range(64 * step, 64 * step + 64), num_steps)


@pytest.mark.parametrize("run", [ppo, grpo, reinforce])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_few_steps_teach_to_match(run: Callable[[int], Run], seed: int) -> None:
    """Chance gives a return of 1, three are the most."""
    policy, metrics = run(seed)
    assert metrics[0]["episode_return"] < 1.6
    assert evaluate(policy, MatchingEnv(), 50).mean > 2.8


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_other_modes_learn_as_well(mode: AutoresetMode) -> None:
    policy, _ = ppo(0, mode)
    assert evaluate(policy, MatchingEnv(), 50).mean > 2.8


def test_masks_are_honoured_in_training() -> None:
    """The environment refuses what it forbids; a policy that has learnt keeps its probabilities."""
    policy, metrics = ppo(0, masked=True)
    assert evaluate(policy, MatchingEnv(masked=True), 50).mean > 2.8
    assert all(abs(step["approx_kl"]) < 1 for step in metrics)


@pytest.mark.parametrize("normalize", [False, True])
def test_ppo_on_continuous_actions(normalize: bool) -> None:
    class Target(gymnasium.Env[Any, Any]):
        """Eight steps; the reward is minus the distance of the action from a place that is observed."""

        def __init__(self) -> None:
            self.observation_space = gymnasium.spaces.Box(-1, 1, (1,))
            self.action_space = gymnasium.spaces.Box(-2, 2, (1,))
            self.steps = 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.steps = 0
            return self._show(), {}

        def step(self, action: Any) -> Any:
            reward = -abs(float(action[0]) - float(self.place[0]))
            self.steps += 1
            return self._show(), reward, False, self.steps == 8, {}

        def _show(self) -> Any:
            self.place = self.np_random.uniform(-1, 1, 1).astype("float32")
            return self.place

    sampler = FragmentSampler(SyncVectorEnv([Target] * 16), 32, seed=0)
    policy = GymActorCritic(sampler, normalize_observations=normalize)
    before = evaluate(policy, Target(), 30).mean
    config = PPOConfig(batch_size=64, num_epochs_per_update=5, learning_rate=3e-3, discount=0.0)
    steps(PPOTrainer(config, policy, EnvironmentReward()), lambda step: sampler.states, 15)
    assert before < -3
    assert evaluate(policy, Target(), 30).mean > -1.5
    assert policy.get_parameters()["distribution.log_std"].item() < -0.1


@pytest.mark.parametrize("run", [ppo, grpo, reinforce])
def test_the_same_seed_gives_the_same_bits(run: Callable[..., Run]) -> None:
    torch.manual_seed(1)
    policy, metrics = run(3, num_steps=3)
    torch.manual_seed(2)
    again, metrics_again = run(3, num_steps=3)
    assert metrics == metrics_again
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in policy.state_dict().items())
    other, other_metrics = run(4, num_steps=3)
    assert metrics != other_metrics
    assert any(not torch.equal(value, other.get_parameters()[name]) for name, value in policy.get_parameters().items())


class Recall(gymnasium.Env[Any, Any]):
    """Shows one of two cues, then nothing for two steps, and rewards the action of that cue at the last."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Discrete(3)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.cue, self.steps = int(self.np_random.integers(2)), 0
        return np.int64(self.cue), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        is_over = self.steps == 3
        return np.int64(2), float(is_over and action == self.cue), is_over, False, {}


@pytest.mark.parametrize(
    ("memory", "best"), [(lambda: GRU(3, 16), 1.0), (lambda: StackedUnits(3), 1.0), (lambda: None, 0.5)]
)
def test_what_was_shown_is_remembered(memory: Callable[[], Any], best: float) -> None:
    torch.manual_seed(0)
    envs = SyncVectorEnv([Recall] * 16, autoreset_mode=AutoresetMode.SAME_STEP)
    sampler = FragmentSampler(envs, 12)
    policy = GymActorCritic(sampler, memory=memory(), hidden_sizes=(16,))
    config = PPOConfig(batch_size=None, num_epochs_per_update=8, learning_rate=0.01, discount=0.9)
    steps(PPOTrainer(config, policy, EnvironmentReward()), lambda step: sampler.states, 20)
    assert abs(evaluate(policy, Recall, 200).mean - best) < 0.15
