"""Bandits and language models on the device, to which a trainer's config moves whatever lies elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from device_models import MovableRewards, TableOnDevice
from language_models import PROMPTS, VOCABULARY_SIZE, ShareOf, build_model, build_policy, build_tokenizer
from peft import LoraConfig
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification

from grpo import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    PreferenceCollector,
    check_policy_model,
    with_reference_log_probs,
)
from grpo_adapters.bandit import (
    ContextualBandit,
    ContextualSoftmaxPolicy,
    GaussianRewards,
    SoftmaxPolicy,
    StationaryBandit,
)
from grpo_adapters.huggingface import (
    CausalLMActorCritic,
    CausalLMPolicy,
    Completion,
    FunctionReward,
    SamplingConfig,
    SequenceClassificationReward,
)
from grpo_adapters.huggingface.decoding.sampling import cumulative_sums, fixed_point_sums

pytestmark = pytest.mark.usefixtures("deterministic")

LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
LANGUAGE_POLICIES: dict[str, dict[str, Any]] = {
    "all parameters": {},
    "adapters": {"peft_config": LORA},
    "value head": {"kind": CausalLMActorCritic},
}


class Share(ShareOf):
    """The share of a character, on a device."""

    device: Any = "cpu"

    def to(self, device: Any) -> None:
        self.device = device

    def compute_rewards(self, states: Sequence[Any], actions: Sequence[Completion]) -> Tensor:
        return super().compute_rewards(states, actions).to(self.device)


def language_policy(device: torch.device | str, dtype: torch.dtype, **options: Any) -> Any:
    return build_policy(model=build_model("qwen3", dtype=dtype).to(device), **options)


@pytest.mark.parametrize("generator_device", ["none", "cpu", "same"])
def test_a_bandit(device: torch.device, generator_device: str) -> None:
    """With PyTorch's global generator, and with one of its own on either device."""
    own = {"none": None, "cpu": torch.Generator(), "same": torch.Generator(device)}[generator_device]
    policy = SoftmaxPolicy(4, own)
    config = GRPOConfig(device=str(device), group_size=16, learning_rate=0.3)
    trainer = GRPOTrainer(config, policy, StationaryBandit([0.0, 0.0, 1.0, 0.0]))
    for _ in range(10):
        trainer.step(["the only state"])
    assert policy.probabilities().argmax().item() == 2
    assert policy.probabilities().device == device
    check_policy_model(policy, ["one state", "another"], num_samples=500)


def test_a_bandit_with_contexts(device: torch.device) -> None:
    policy = ContextualSoftmaxPolicy(nn.Linear(3, 3))
    rewards = ContextualBandit(lambda contexts: contexts, GaussianRewards(std=0.0))
    trainer = GRPOTrainer(GRPOConfig(device=str(device), learning_rate=0.1), policy, rewards)
    contexts = torch.eye(3, device=device)
    before = trainer.step(contexts)["reward"]
    for _ in range(20):
        after = trainer.step(contexts)["reward"]
    assert after > before + 0.2


@pytest.mark.parametrize("options", LANGUAGE_POLICIES.values(), ids=LANGUAGE_POLICIES)
def test_a_language_model(device: torch.device, dtype: torch.dtype, options: dict[str, Any]) -> None:
    policy = language_policy("cpu", dtype, **options)
    settings: dict[str, Any] = {"device": str(device), "group_size": 3, "batch_size": 8, "micro_batch_size": 3}
    trainer: Any
    if options.get("kind") is CausalLMActorCritic:
        trainer = PPOTrainer(PPOConfig(**settings, num_epochs_per_update=2), policy, Share())
    else:
        config = GRPOConfig(**settings, kl_coefficient=0.05, learning_rate=1e-2)
        trainer = GRPOTrainer(config, policy, Share(), policy.reference())
    trained = {name: value.clone() for name, value in policy.get_parameters().items() if value.requires_grad}
    metrics = [trainer.step(PROMPTS, top_p=0.9, top_k=8) for _ in range(2)][-1]
    assert metrics["skipped_updates"] == 0
    parameters = policy.get_parameters()
    assert {value.device for value in parameters.values()} == {device}
    assert {parameters[name].dtype for name in trained} <= {dtype, torch.float32}
    assert any(not torch.equal(parameters[name], value) for name, value in trained.items())


@pytest.mark.parametrize("options", LANGUAGE_POLICIES.values(), ids=LANGUAGE_POLICIES)
def test_a_language_model_conforms(device: torch.device, options: dict[str, Any]) -> None:
    policy = language_policy(device, torch.float32, **options, sampling=SamplingConfig(max_new_tokens=1))
    check_policy_model(policy, PROMPTS[:2], num_samples=300)


def test_log_probs_are_those_of_the_tokens_that_were_drawn(device: torch.device, dtype: torch.dtype) -> None:
    """A batch of all samples, by way of the cache, against each sample alone and all its logits."""
    policy = language_policy(device, dtype)
    groups = policy.generate_actions(PROMPTS, 3)
    states = [prompt for prompt in PROMPTS for _ in range(3)]
    actions = [action for group in groups for action in group]
    found = policy.get_log_probabilities(states, actions)
    expected = []
    for state, action in zip(states, actions, strict=True):
        prompt = policy.tokenizer(state)["input_ids"]
        tokens = torch.tensor([[*prompt, *action.token_ids]], device=device)
        logits = policy.model(input_ids=tokens).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        expected.append(logits.gather(1, tokens[0, len(prompt) :, None]).sum())
    tolerance: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.3}
    torch.testing.assert_close(found, torch.stack(expected), **tolerance)


def test_preferences(device: torch.device, dtype: torch.dtype) -> None:
    policy = language_policy(device, dtype, sampling=SamplingConfig(max_new_tokens=4))
    reward = Share()
    reward.to(device)
    preferences = PreferenceCollector(policy, reward, group_size=6).collect(PROMPTS).preferences
    assert len(preferences) > 1
    reference = policy.reference()
    trainer = DPOTrainer(DPOConfig(batch_size=2, micro_batch_size=1, learning_rate=1e-2), policy, reference)
    losses = [trainer.step(preferences)["loss"] for _ in range(6)]
    assert losses[-1] < losses[0]
    known = with_reference_log_probs(preferences, reference)
    metrics = trainer.evaluate(known)
    torch.testing.assert_close(metrics["loss"], trainer.evaluate(preferences)["loss"], rtol=1e-3, atol=1e-4)


def test_rewards_of_a_sequence_classifier(device: torch.device, dtype: torch.dtype) -> None:
    """On the same device, whatever the number of samples that are read together; among other functions too."""
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY_SIZE, "n_embd": 16, "n_layer": 1, "n_head": 2, "num_labels": 1}
    model: Any = GPT2ForSequenceClassification(GPT2Config(**sizes, pad_token_id=0, eos_token_id=0))
    model.to(dtype)
    actions = [Completion((1, 2), "01"), Completion((3,), "2"), Completion((4, 5, 6), "345")]
    found = []
    for batch_size in (1, 3):
        reward = SequenceClassificationReward(model, build_tokenizer(), batch_size=batch_size)
        both = FunctionReward([reward, lambda completions: [0.0] * len(completions)])
        both.to(device)
        found.append(both.compute_rewards(PROMPTS[:3], actions))
        assert isinstance(found[-1], Tensor)
        assert found[-1].device == device
        torch.testing.assert_close(reward.compute_rewards(PROMPTS[:3], actions), found[-1])
    torch.testing.assert_close(*found, rtol=1e-4 if dtype == torch.float32 else 3e-2, atol=1e-3)
    policy = language_policy(device, dtype)
    assert GRPOTrainer(GRPOConfig(group_size=2), policy, both).step(PROMPTS)["num_samples"] == 8


@pytest.mark.parametrize("states_are_there", [False, True])
def test_models_and_states_from_elsewhere(device: torch.device, states_are_there: bool) -> None:
    """The config's device is where the models go; states may stay where they are."""
    found = []
    for place in ("cpu", device):
        policy = TableOnDevice(place)
        rewards = MovableRewards(lambda state, action: float(state == action), place)
        trainer = GRPOTrainer(GRPOConfig(device=str(device), learning_rate=0.1), policy, rewards)
        states = torch.arange(3, device=device if states_are_there else "cpu")
        found.append([trainer.step(states) for _ in range(2)])
        assert policy.device == device
    assert found[0] == found[1]


def test_autocast_and_checkpointing(device: torch.device) -> None:
    """Parameters stay in float32; what is computed again is the same."""
    losses = []
    for checkpoints in (False, True):
        policy = CausalLMPolicy(
            build_model("llama").to(device),
            build_tokenizer(),
            sampling=SamplingConfig(max_new_tokens=6),
            autocast_dtype=torch.bfloat16,
            gradient_checkpointing=checkpoints,
        )
        reward = Share()
        reward.to(device)
        trainer = GRPOTrainer(GRPOConfig(group_size=3, batch_size=6), policy, reward)
        metrics = [trainer.step(PROMPTS) for _ in range(2)]
        assert all(value.dtype == torch.float32 for value in policy.get_parameters().values())
        losses.append([(own["loss"], own["grad_norm"]) for own in metrics])
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-3, atol=1e-5)


def test_sums_of_probabilities_are_the_same_bits_every_time(device: torch.device) -> None:
    """Those of one row of a large vocabulary too, which a GPU would add up in any order."""
    probabilities = torch.randn(1, 200_000, device=device).mul(4).softmax(-1)
    found = [cumulative_sums(probabilities) for _ in range(3)]
    assert all(torch.equal(one, found[0]) for one in found)
    torch.testing.assert_close(found[0].double(), probabilities.double().cumsum(-1), rtol=0.0, atol=1e-5)


def test_fixed_point_sums() -> None:
    probabilities = torch.randn(3, 1000).softmax(-1)
    probabilities[:, 100:200] = 0.0
    sums = fixed_point_sums(probabilities)
    assert sums.dtype == torch.float64
    torch.testing.assert_close(sums, probabilities.double().cumsum(-1), rtol=0.0, atol=1000 * 2**-40)
    assert sums.diff(dim=1)[:, 99:199].count_nonzero() == 0
