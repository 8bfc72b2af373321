"""No operation mixes devices: what a GPU would refuse is found by a device that is pretended, also without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from device_models import MovableRewards, SentencesOnDevice, TableOnDevice, share_of_ones
from language_models import PROMPTS, build_model, build_policy
from peft import LoraConfig
from pretend_device import PRETENDED, pretended_device, trained
from torch import Tensor, nn

from grpo import (
    AdaptiveKLCoefficient,
    ClippedImportanceSurrogate,
    DPOConfig,
    DPOTrainer,
    DynamicSampling,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    KLPenalizedRewards,
    KLPenaltySurrogate,
    MonteCarlo,
    NonFiniteError,
    PartialRewards,
    PPOConfig,
    PPOTrainer,
    PreferenceCollector,
    ReferenceSync,
    ReinforceConfig,
    ReinforceTrainer,
    SampleClippedSurrogate,
    Segments,
    batch_normalized_advantages,
    check_policy_model,
    check_reward_model,
    group_centered_advantages,
    group_time_baseline,
    leave_one_out_advantages,
    with_reference_log_probs,
)
from grpo_adapters.bandit import (
    ContextualBandit,
    ContextualSoftmaxPolicy,
    GaussianRewards,
    SoftmaxPolicy,
    StationaryBandit,
)
from grpo_adapters.huggingface import CausalLMActorCritic, FunctionReward, SamplingConfig

STATES = [1, 2, 3, 4]
THERE = str(PRETENDED)


def test_the_pretended_device_refuses_mixtures() -> None:
    with pretended_device():
        there, here = torch.arange(3.0).to(PRETENDED), torch.ones(3)
        assert there.device == PRETENDED
        assert (there + 1).sum().item() == 6.0
        assert there[torch.tensor([2, 0])].tolist() == [2.0, 0.0]
        mixtures: list[Callable[[], Tensor]] = [
            lambda: there + here,
            lambda: torch.cat((there, here)),
            lambda: here[there.long()],
        ]
        for mix in mixtures:
            with pytest.raises(RuntimeError, match="on lazy:0 and on the CPU"):
                mix()
        with pytest.raises(RuntimeError, match="with a generator on cpu for tensors elsewhere"):
            torch.rand(3, device=PRETENDED, generator=torch.Generator())
        weight = there.clone().requires_grad_()
        (weight * there).sum().backward()
        assert weight.grad is not None
        assert weight.grad.tolist() == there.tolist()


def test_segments_stay_where_their_lengths_belong() -> None:
    with pretended_device() as waits:
        assert Segments.of_lengths([], PRETENDED).device == PRETENDED
        waits.clear()
        segments = Segments.of_lengths(torch.tensor([2, 1, 4]).to(PRETENDED))
        assert (segments.total, segments.longest, segments.device) == (7, 4, PRETENDED)
        assert waits == {"copy": 1, "tolist": 1}


def objective(surrogate: Any) -> dict[str, Any]:
    return {"objective": GRPOObjective(surrogate=surrogate)}


def estimator(estimator: Any) -> dict[str, Any]:
    return {"advantage_estimator": estimator}


FOLLOWING = AdaptiveKLCoefficient(target=0.01)
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "in parts": ({"batch_size": 8, "micro_batch_size": 3, "num_epochs_per_update": 2}, {}),
    "reference": ({"kl_coefficient": 0.1, "reference_sync": ReferenceSync(every=1)}, {"reference": True}),
    "GSPO": ({"batch_size": 8}, objective(SampleClippedSurrogate())),
    "CISPO": ({"batch_size": 8}, objective(ClippedImportanceSurrogate())),
    "Dr. GRPO": ({"loss_averaging": 6, "mask_truncated": True}, estimator(GroupRelative(group_centered_advantages))),
    "RLOO": ({}, estimator(GroupRelative(leave_one_out_advantages))),
    "batch normalised": ({}, estimator(GroupRelative(batch_normalized_advantages))),
    "dynamic sampling": ({"dynamic_sampling": DynamicSampling(max_rounds=2), "group_size": 2}, {}),
    "early stop": ({"batch_size": 8, "target_kl": 0.01}, {}),
    "per minibatch": ({"batch_size": 8, "advantage_normalization": "per_minibatch"}, {}),
    "penalised": ({"batch_size": 8}, objective(KLPenaltySurrogate(coefficient=FOLLOWING))),
    "in the reward": (
        {},
        estimator(KLPenalizedRewards(MonteCarlo(baseline=group_time_baseline), FOLLOWING)) | {"reference": True},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_grpo_and_its_relatives(name: str) -> None:
    settings, parts = SETTINGS[name]
    parts = dict(parts)
    with pretended_device():
        policy = SentencesOnDevice("cpu")
        reference = SentencesOnDevice(PRETENDED) if parts.pop("reference", False) else None
        config = GRPOConfig(**({"device": THERE} | settings))
        trained(GRPOTrainer(config, policy, MovableRewards(share_of_ones), reference, **parts), policy, STATES)


def test_ppo_and_reinforce() -> None:
    with pretended_device():
        policy = SentencesOnDevice("cpu")
        config = PPOConfig(device=THERE, group_size=4, batch_size=8, value_clip=0.2, num_epochs_per_update=2)
        trained(PPOTrainer(config, policy, MovableRewards(share_of_ones)), policy, STATES)
        reinforce = ReinforceTrainer(ReinforceConfig(device=THERE), policy, MovableRewards(share_of_ones))
        trained(reinforce, policy, STATES)


def test_preferences() -> None:
    with pretended_device():
        policy = SentencesOnDevice(PRETENDED)
        pairs = PreferenceCollector(policy, MovableRewards(share_of_ones, PRETENDED), group_size=6).collect(STATES)
        reference = SentencesOnDevice(PRETENDED)
        trainer = DPOTrainer(DPOConfig(batch_size=2, micro_batch_size=1), policy, reference)
        trained(trainer, policy, pairs.preferences)
        assert trainer.evaluate(with_reference_log_probs(pairs.preferences, reference))["loss"] < 1


class SomeScored(MovableRewards):
    """Scores two of three samples."""

    def compute_rewards(self, states: Any, actions: Any) -> Any:
        values = super().compute_rewards(states, actions)
        return PartialRewards(values, torch.arange(len(values), device=values.device) % 3 > 0)


@pytest.mark.parametrize("states_are_there", [False, True])
def test_a_minimal_policy(states_are_there: bool) -> None:
    with pretended_device():
        policy = TableOnDevice("cpu")
        rewards = SomeScored(lambda state, action: float(state == action))
        states = torch.arange(3).to(PRETENDED if states_are_there else "cpu")
        config = GRPOConfig(device=THERE, learning_rate=0.1, dynamic_sampling=DynamicSampling(max_rounds=1))
        assert trained(GRPOTrainer(config, policy, rewards), policy, states)["num_unscored"] > 0


def test_the_conformance_kit() -> None:
    with pretended_device():
        check_policy_model(TableOnDevice(PRETENDED), torch.arange(3), num_samples=200)
        check_policy_model(SentencesOnDevice(PRETENDED), STATES[:2], num_samples=200)
        check_reward_model(MovableRewards(share_of_ones, PRETENDED), STATES, [(1, 0)] * 4)


def test_rewards_left_elsewhere_are_told() -> None:
    with pretended_device():
        trainer = GRPOTrainer(GRPOConfig(), SentencesOnDevice(PRETENDED), MovableRewards(share_of_ones))
        with pytest.raises(ValueError, match=r"compute_rewards on device cpu, expected lazy:0: call .to\('lazy:0'\)"):
            trainer.step(STATES)


class BadPolicy(SentencesOnDevice):
    """Whose log-probs are NaN where gradients are wanted."""

    def evaluate_actions(self, batch: Any) -> Any:
        evaluation = super().evaluate_actions(batch)
        evaluation.log_probs[7] = float("nan")
        return evaluation


def test_errors_find_the_sample() -> None:
    with pretended_device():
        trainer = GRPOTrainer(GRPOConfig(device=THERE), BadPolicy("cpu"), MovableRewards(share_of_ones))
        with pytest.raises(NonFiniteError, match=r"log-probs with nan for sample \d"):
            trainer.step(STATES)


@pytest.mark.parametrize("generator_is_there", [None, False, True])
def test_bandits(generator_is_there: bool | None) -> None:
    with pretended_device():
        generator = None
        if generator_is_there is not None:
            generator = torch.Generator(PRETENDED if generator_is_there else "cpu")
        policy: Any = SoftmaxPolicy(4, generator)
        trained(
            GRPOTrainer(GRPOConfig(device=THERE), policy, StationaryBandit([0.1, 0.5, 0.9, 0.2])), policy, ["s"] * 3
        )
        policy = ContextualSoftmaxPolicy(nn.Linear(3, 3), generator)
        rewards = ContextualBandit(lambda contexts: contexts, GaussianRewards())
        trained(GRPOTrainer(GRPOConfig(device=THERE), policy, rewards), policy, torch.eye(3).to(PRETENDED))


LANGUAGE_POLICIES: dict[str, dict[str, Any]] = {
    "all parameters": {},
    "adapters": {"peft_config": LoraConfig(r=2, target_modules=["q_proj"])},
    "value head": {"kind": CausalLMActorCritic},
}


@pytest.mark.parametrize("name", LANGUAGE_POLICIES)
def test_language_models(name: str) -> None:
    options = LANGUAGE_POLICIES[name]
    rewards = FunctionReward(
        lambda completions: [float("7" in completion) - len(completion) for completion in completions]
    )
    settings: dict[str, Any] = {"device": THERE, "batch_size": 3, "micro_batch_size": 2}
    sampling = SamplingConfig(max_new_tokens=3, top_p=0.9, top_k=9, min_p=0.01, stop_strings=("7",))
    with pretended_device():
        policy: Any = build_policy(model=build_model("qwen3"), sampling=sampling, **options)
        trainer: Any
        if name == "value head":
            trainer = PPOTrainer(PPOConfig(**settings, num_epochs_per_update=1), policy, rewards)
        else:
            policy.to(PRETENDED)
            config = GRPOConfig(**settings, group_size=2, kl_coefficient=0.1)
            trainer = GRPOTrainer(config, policy, rewards, policy.reference())
        trained(trainer, policy, PROMPTS[:2], num_steps=1)
        assert policy.generator.device == PRETENDED
