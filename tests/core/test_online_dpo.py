"""Online DPO: pairs of the policy's own actions, with all that is sampled counted, and steps that fail undone."""

from __future__ import annotations

import copy
import re
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from grpo import DPOConfig, DPOTrainer, OnlineDPOTrainer, PreferenceCollector
from grpo_adapters.bandit import GaussianRewards, SoftmaxPolicy, StationaryBandit, seeded_generator
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, GymPolicy

STATES = 4 * ["the only state"]


def made(**settings: Any) -> OnlineDPOTrainer[Any, Any]:
    policy = SoftmaxPolicy(5, generator=seeded_generator("policy", 0))
    bandit = StationaryBandit(torch.arange(5.0), GaussianRewards(1.0), seed=0)
    return OnlineDPOTrainer(DPOConfig(learning_rate=0.1), policy, bandit, copy.deepcopy(policy), **settings)


def parameters_of(trainer: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten().clone() for tensor in trainer.policy.get_parameters().values()])


def test_steps_are_those_of_a_collector_and_dpo() -> None:
    online, apart = made(group_size=4), made()
    collector = PreferenceCollector(apart.policy, apart.collector.reward_model, group_size=4)
    trainer: DPOTrainer[Any, Any] = DPOTrainer(DPOConfig(learning_rate=0.1), apart.policy, copy.deepcopy(apart.policy))
    before = parameters_of(online)
    for _ in range(5):
        metrics = online.step(STATES)
        collected = collector.collect(STATES)
        expected = trainer.step(collected.preferences) | collected.metrics
        assert metrics == expected
    assert torch.equal(parameters_of(online), parameters_of(trainer))
    assert not torch.equal(parameters_of(online), before)
    assert online.last_experience is not None
    assert online.last_experience.sample_rewards.values.mean().item() == pytest.approx(metrics["reward"])


class Counting(gymnasium.Env[np.int64, np.int64]):
    """Episodes of one to four steps, drawn at the reset; the last one may be rewarded. Counts all steps."""

    observation_space = gymnasium.spaces.Discrete(5)
    action_space = gymnasium.spaces.Discrete(2)
    rewarded = True
    num_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 5))
        return np.int64(self.left), {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        type(self).num_steps += 1
        self.left -= 1
        return np.int64(self.left), float(action * self.rewarded), self.left == 0, False, {}


class Indifferent(Counting):
    rewarded = False
    num_steps = 0


@pytest.mark.parametrize("environment", [Counting, Indifferent])
def test_what_is_sampled_counts_whether_or_not_it_is_in_a_pair(environment: type[Counting]) -> None:
    environment.num_steps = 0
    policy = GymPolicy(EpisodeSampler(environment, 4))
    trainer: OnlineDPOTrainer[Any, Any] = OnlineDPOTrainer(
        DPOConfig(), policy, EnvironmentReward(), copy.deepcopy(policy)
    )
    before = parameters_of(trainer)
    for num_rounds in (1, 2):
        steps = environment.num_steps
        metrics = trainer.step([7 * num_rounds, 8 * num_rounds, 9 * num_rounds])
        assert metrics["num_decisions"] == environment.num_steps - steps > 0
        assert metrics["num_samples"] == 3 * 8
        assert metrics["num_episodes"] == num_rounds * 3 * 8
        assert (metrics["num_pairs"] > 0) == (metrics["num_updates"] > 0) == environment.rewarded
        assert trainer.num_steps == num_rounds
        assert trainer.phases.seconds["sampling"] > 0
    assert torch.equal(parameters_of(trainer), before) == (not environment.rewarded)


def test_a_training_goes_on_from_its_state() -> None:
    first, second = made(), made()
    for _ in range(3):
        first.step(STATES)
    second.load_state_dict(first.state_dict())
    assert [first.step(STATES) for _ in range(3)] == [second.step(STATES) for _ in range(3)]
    assert torch.equal(parameters_of(first), parameters_of(second))


@pytest.mark.parametrize("fails_at", ["reward_model", "objective"])
def test_a_step_that_fails_leaves_all_as_it_was(fails_at: str) -> None:
    trainer, other = made(), made()
    trainer.step(STATES)
    other.step(STATES)

    def fail(*arguments: Any) -> Any:
        raise RuntimeError("on purpose")

    with pytest.MonkeyPatch.context() as patch:
        if fails_at == "objective":
            patch.setattr(trainer, "objective", fail)
        else:
            patch.setattr(trainer.collector.reward_model, "compute_rewards", fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            trainer.step(STATES)
    assert trainer.num_steps == 1
    assert trainer.last_experience is None
    generators = (trainer.policy, trainer.collector.reward_model), (other.policy, other.collector.reward_model)
    for mine, theirs in zip(*generators, strict=True):
        assert torch.equal(mine.generator.get_state(), theirs.generator.get_state())  # type: ignore[attr-defined]
    assert trainer.step(STATES) == other.step(STATES)


def test_groups_of_one_are_refused() -> None:
    expected = "group_size is 1, expected at least 2: a pair has two actions"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        made(group_size=1)
