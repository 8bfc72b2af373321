"""What policies, reward models and samplers of adapters tell of their settings is compared where a run goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from language_models import PROMPTS, build_model, build_policy
from peft import LoraConfig

from grpo import CheckpointError, Checkpoints, GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, Run, Until
from grpo.data._settings import settings_of
from grpo_adapters.gym import (
    DiagonalGaussian,
    EnvironmentReward,
    FragmentSampler,
    GymActorCritic,
    JointDistribution,
    NormalizedReward,
    StateDependentExploration,
)
from grpo_adapters.gym.networks.perceptrons import MLP
from grpo_adapters.huggingface import (
    AgentSampler,
    ConversationReward,
    FormatReward,
    FunctionReward,
    OverlongPenalty,
    SamplingConfig,
)
from grpo_adapters.huggingface.engines import EngineSampler


def length(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def differently(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [-float(len(ids)) for ids in completion_ids]


differently.__name__ = "length"


def language_run(folder: Path, sampling: Any = None, adapter: Any = None, reward: Any = None, **options: Any) -> Run:
    adapters = LoraConfig(**{"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True} | (adapter or {}))
    drawn = SamplingConfig(**{"max_new_tokens": 4} | (sampling or {}))
    policy = build_policy(sampling=drawn, peft_config=adapters, **options)
    trainer = GRPOTrainer(GRPOConfig(group_size=2), policy, reward or FunctionReward(length, [1.0]))
    return Run(trainer, PROMPTS[:1], folder=folder, checkpoints=Checkpoints(every=1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sampling": {"temperature": 0.5}}, r"policy\.sampling\.temperature .'1\.0' before, '0\.5' now"),
        ({"sampling": {"max_new_tokens": 5}}, r"policy\.sampling\.max_new_tokens .'4' before, '5' now"),
        ({"adapter": {"lora_alpha": 32}}, r"policy\.adapters\.default\.lora_alpha .'8' before, '32' now"),
        ({"disable_dropout": False}, r"policy\.disable_dropout .'True' before, 'False' now"),
        (
            {"reward": FunctionReward(differently)},
            r"reward_model\.functions\.length .'length' before, 'differently' now",
        ),
    ],
)
def test_a_language_model_does_not_go_on_unnoticed_with_other_settings(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    language_run(tmp_path)(Until(steps=1))
    assert language_run(tmp_path).resume()
    with pytest.raises(CheckpointError, match=f"set up otherwise: {message}"):
        language_run(tmp_path, **changed).resume()
    with pytest.warns(UserWarning, match=f"goes on with other settings: {message}"):
        assert language_run(tmp_path, **changed).resume(override=True)


def test_adapters_do_not_go_on_unnoticed_over_another_model(tmp_path: Path) -> None:
    language_run(tmp_path)(Until(steps=1))
    other = build_model("gpt2")
    with torch.no_grad():
        other.transformer.h[-1].mlp.c_fc.weight.mul_(1.5)
    with pytest.raises(CheckpointError, match=r"set up otherwise: policy\.adapters\.base_weights .* before, .* now"):
        language_run(tmp_path, model=other).resume()


def test_weights_of_rewards_can_be_changed_on_purpose(tmp_path: Path) -> None:
    language_run(tmp_path)(Until(steps=1))
    changed = language_run(tmp_path, reward=FunctionReward(length, [2.0]))
    with pytest.raises(CheckpointError, match=r"reward_model\.weights\.length .'1\.0' before, '2\.0' now"):
        changed.resume()
    with (
        pytest.warns(UserWarning, match=r"FunctionReward goes on with the weights \[2\.0\]"),
        pytest.warns(UserWarning, match=r"goes on with other settings: reward_model\.weights\.length"),
    ):
        assert changed.resume(override=True)
    changed(Until(steps=2))
    assert changed.metrics["reward"] == 2 * changed.metrics["rewards/length/mean"]


def test_adapters_of_another_rank_are_named(tmp_path: Path) -> None:
    language_run(tmp_path)(Until(steps=1))
    with pytest.raises(CheckpointError, match=r"policy\.adapters\.default\.r .'2' before, '4' now"):
        language_run(tmp_path, adapter={"r": 4}).resume()
    with pytest.raises(CheckpointError, match=r"lora_A.* is .*\[2, .*, expected .*\[4, .*more differ") as refused:
        language_run(tmp_path, adapter={"r": 4}).resume(override=True)
    assert len(str(refused.value)) < 500


def gym_run(folder: Path, num_steps: int = 4, **options: Any) -> Run:
    sampler = FragmentSampler(gymnasium.make_vec("Pendulum-v1", num_envs=2), num_steps=num_steps)
    policy = GymActorCritic(sampler, hidden_sizes=(4,), **options)
    trainer = PPOTrainer(PPOConfig(), policy, EnvironmentReward())
    return Run(trainer, sampler.states, folder=folder, checkpoints=Checkpoints(every=1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"distribution": partial(DiagonalGaussian, squash=False)}, r"policy\.distribution\.squash .'True' before"),
        ({"normalize_observations": True}, r"policy\.normalize_observations .'False' before, 'True' now"),
        ({"num_steps": 5}, r"sampler\.num_steps .'4' before, '5' now"),
    ],
)
def test_a_policy_of_gymnasium_does_not_go_on_unnoticed_with_other_settings(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    gym_run(tmp_path)(Until(steps=1))
    assert gym_run(tmp_path).resume()
    with pytest.raises(CheckpointError, match=message):
        gym_run(tmp_path, **changed).resume()


ANY: Any = dict
SPACE = Box(-1, 1, (2,))


@pytest.mark.parametrize(
    ("part", "name", "text"),
    [
        (DiagonalGaussian(SPACE, 0.5, state_dependent_std=True), "initial_log_std", "-0.6931471805599453"),
        (StateDependentExploration(SPACE, resample_every=3), "resample_every", "3"),
        (JointDistribution(Dict(one=SPACE, two=Discrete(3))), "one.squash", "True"),
        (NormalizedReward(discount=0.9), "discount", "0.9"),
        (
            MLP(2, (3,), 1, output_gain=1.0, generator=torch.Generator(), activation=ANY),
            "activation",
            "dict",
        ),
        (FunctionReward(FormatReward("a+")), "functions.format_reward.pattern", "'a+'"),
        (FunctionReward(OverlongPenalty(8, 4)), "functions.overlong_penalty.buffer", "4"),
        (ConversationReward(per="turn"), "per", "'turn'"),
        (AgentSampler(ANY, max_turns=3), "max_turns", "3"),
        (
            AgentSampler(ANY, engine=EngineSampler("http://127.0.0.1:8000", request_options={"a": 1})),
            "engine.request_options",
            "{'a': 1}",
        ),
    ],
)
def test_what_changes_results_is_told(part: Any, name: str, text: str) -> None:
    assert settings_of("part", part)[f"part.{name}"] == text
