"""Language models with a critic: values belong to tokens, are trained and saved, and all algorithms learn with them."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from language_models import (
    FAMILIES,
    PROMPTS,
    ShareOf,
    build_model,
    build_policy,
    plain_evaluation,
    random_completions,
    sampled,
)
from models import FunctionRewards, parameter_values
from peft import LoraConfig
from torch import Tensor

from grpo import (
    GRPOConfig,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    Trainer,
    check_policy_model,
)
from grpo_adapters.huggingface import (
    CausalLMActorCritic,
    CausalLMPolicy,
    Completion,
    CompletionBatch,
    SamplingConfig,
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft

LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


def with_values(critic: Any, spread: float = 0.5) -> Any:
    """The actor-critic with a value head that is not at 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in critic.value_head.parameters():
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return critic


def build_critic(family: str = "llama", **options: Any) -> Any:
    return with_values(build_policy(family, kind=CausalLMActorCritic, **options))


def batch_of(policy: CausalLMPolicy, count: int = 8) -> tuple[list[str], list[Completion], CompletionBatch]:
    states, completions = [PROMPTS[index % len(PROMPTS)] for index in range(count)], random_completions(count)
    return states, completions, policy.encode_actions(states, completions)


def plain_values(critic: Any, states: list[str], completions: list[Completion]) -> Tensor:
    """Values of each token from a forward pass of each sample alone: those of the states that choose the token."""
    parts = []
    for prompt, completion in zip(states, completions, strict=True):
        token_ids = torch.tensor([[*critic.tokenizer(prompt)["input_ids"], *completion.token_ids]])
        hidden = critic.causal_model.base_model(input_ids=token_ids).last_hidden_state[0]
        parts.append(critic.value_head(hidden[-len(completion) - 1 : -1]).squeeze(1))
    return torch.cat(parts)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("overhead", [0.0, math.inf])
def test_values_are_those_of_the_plain_model(family: str, overhead: float) -> None:
    with patch("grpo_adapters.huggingface.policies.row_layout.call_overhead", return_value=overhead):
        critic = build_critic(family)
    states, completions, batch = batch_of(critic)
    evaluation = critic.evaluate_actions(batch)
    expected = plain_values(critic, states, completions)
    torch.testing.assert_close(evaluation.values, expected, rtol=1e-5, atol=1e-5)
    log_probs, entropy = plain_evaluation(critic.causal_model, states, completions)
    torch.testing.assert_close(evaluation.log_probs, log_probs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(evaluation.entropy, entropy, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(1, 2, len(expected))
    parameters = [value for value in critic.get_parameters().values() if value.requires_grad]
    for found, wanted in zip(
        torch.autograd.grad((weights * evaluation.values).sum(), parameters, allow_unused=True),
        torch.autograd.grad((weights * expected).sum(), parameters, allow_unused=True),
        strict=True,
    ):
        assert (found is None) == (wanted is None)
        if found is not None and wanted is not None:
            assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max().clamp(min=1)


def test_the_next_value_is_that_of_the_next_token_and_0_at_the_end() -> None:
    critic = build_critic()
    _, completions, batch = batch_of(critic)
    estimates = critic.estimate_values(batch)
    assert not estimates.values.requires_grad
    assert not estimates.next_values.requires_grad
    lengths = [len(completion) for completion in completions]
    assert len(set(lengths)) > 3
    for values, after in zip(estimates.values.split(lengths), estimates.next_values.split(lengths), strict=True):
        assert after.tolist() == [*values[1:].tolist(), 0.0]
    with torch.no_grad():
        assert torch.equal(critic.evaluate_actions(batch).values, estimates.values)
    shuffled = torch.tensor([3, 0, 7])
    selected = critic.estimate_values(batch.select(shuffled))
    expected = estimates.values[batch.samples.positions(shuffled)]
    torch.testing.assert_close(selected.values, expected, rtol=1e-5, atol=1e-5)


def test_values_start_at_0() -> None:
    critic = build_policy("llama", kind=CausalLMActorCritic)
    _, _, batch = batch_of(critic)
    assert not critic.estimate_values(batch).values.any()
    assert {name for name in critic.get_parameters() if name.startswith("value_head")} == {
        "value_head.weight",
        "value_head.bias",
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_conformance(family: str) -> None:
    critic = build_critic(family, sampling=SamplingConfig(max_new_tokens=2))
    check_policy_model(critic, PROMPTS[:2], num_samples=300)


def test_conformance_with_adapters() -> None:
    critic = build_critic(sampling=SamplingConfig(max_new_tokens=2), peft_config=LORA)
    check_policy_model(critic, PROMPTS[:2], num_samples=300)


@pytest.mark.parametrize("options", [{"autocast_dtype": torch.bfloat16}, {"gradient_checkpointing": True}])
def test_values_are_in_float32(options: dict[str, Any]) -> None:
    critic = build_critic(**options).train()
    _, _, batch = batch_of(critic)
    evaluation = critic.evaluate_actions(batch)
    assert evaluation.values.dtype == evaluation.log_probs.dtype == torch.float32
    (evaluation.values.sum() + evaluation.log_probs.sum()).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in critic.get_parameters().values())


def sgd(policy: Any) -> torch.optim.Optimizer:
    trainable = [parameter for parameter in policy.get_parameters().values() if parameter.requires_grad]
    return torch.optim.SGD(trainable, lr=1.0)


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_partition_into_micro_batches_changes_nothing(micro_batch_size: int) -> None:
    results = []
    for size in (None, micro_batch_size):
        critic = build_critic(model=build_model("gpt_neox", dtype=torch.float64))
        before = parameter_values(critic.get_parameters())
        config = PPOConfig(
            group_size=2, batch_size=None, micro_batch_size=size, num_epochs_per_update=1, max_grad_norm=None
        )
        rewards = FunctionRewards(lambda state, action: sum(action.token_ids) / 20)
        metrics = PPOTrainer(config, critic, rewards, optimizer=sgd(critic)).step(PROMPTS)
        after = critic.get_parameters()
        results.append(({name: before[name] - after[name].detach() for name in before}, metrics))
    for name, change in results[0][0].items():
        assert (results[1][0][name] - change).abs().max() <= 1e-9 * change.abs().max().clamp(min=1), name
    assert results[0][0]["value_head.weight"].abs().max() > 1e-2
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("options", [{}, {"peft_config": LORA}])
def test_a_step_trains_the_value_head(options: dict[str, Any]) -> None:
    critic = build_critic(**options)
    before = parameter_values(critic.get_parameters())
    PPOTrainer(PPOConfig(), critic, ShareOf()).step(PROMPTS)
    changed = {name for name, value in critic.get_parameters().items() if not torch.equal(value, before[name])}
    assert {"value_head.weight", "value_head.bias"} <= changed
    if options:
        assert all("lora_" in name or name.startswith("value_head") for name in changed)
        assert any("lora_" in name for name in changed)
    else:
        assert len(changed) > 10


@pytest.mark.parametrize("options", [{}, {"peft_config": LORA}])
def test_a_penalty_for_leaving_the_reference(options: dict[str, Any]) -> None:
    critic = build_critic(**options)
    reference = critic.reference()
    _, _, batch = batch_of(critic)
    with torch.no_grad():
        before = reference.evaluate_actions(batch).log_probs
    trainer = PPOTrainer(
        PPOConfig(kl_coefficient=0.1, learning_rate=0.01), critic, ShareOf(), reference_policy=reference
    )
    for _ in range(2):
        metrics = trainer.step(PROMPTS)
    assert metrics["kl"] > 0
    with torch.no_grad():
        assert torch.equal(reference.evaluate_actions(batch).log_probs, before)


@pytest.mark.parametrize("options", [{}, {"peft_config": LORA}])
def test_nothing_of_a_reference_is_trained(options: dict[str, Any]) -> None:
    reference = build_critic(**options).reference()
    assert not [name for name, value in reference.get_parameters().items() if value.requires_grad]


def test_a_copy_shares_nothing() -> None:
    critic = build_critic()
    copied = copy.deepcopy(critic)
    for name, parameter in critic.get_parameters().items():
        other = copied.get_parameters()[name]
        assert torch.equal(other, parameter)
        assert other.data_ptr() != parameter.data_ptr()
    assert sampled(copied) == sampled(critic)
    assert critic.to("cpu") is critic


def same_values(found: Any, expected: Any) -> bool:
    states, completions, _ = batch_of(expected)
    with torch.no_grad():
        ours, theirs = (
            each.eval().evaluate_actions(each.encode_actions(states, completions)) for each in (found, expected)
        )
    assert theirs.values.any()
    return torch.equal(ours.log_probs, theirs.log_probs) and torch.equal(ours.values, theirs.values)


def test_saving_and_loading(tmp_path: Path) -> None:
    critic = build_critic()
    PPOTrainer(PPOConfig(), critic, ShareOf()).step(PROMPTS)
    critic.save_pretrained(tmp_path)
    assert {"model.safetensors", "value_head.safetensors", "tokenizer.json"} <= {
        file.name for file in tmp_path.iterdir()
    }
    assert same_values(CausalLMActorCritic(tmp_path), critic)
    assert same_values(CausalLMActorCritic(str(tmp_path)), critic)
    policy = CausalLMPolicy(tmp_path)
    assert not any(name.startswith("value_head") for name in policy.get_parameters())


def test_saving_and_loading_with_adapters(tmp_path: Path) -> None:
    """The value head lies beside the adapters, not beside the model that they change."""
    base, adapters = tmp_path / "base", tmp_path / "adapters"
    build_policy("llama").save_pretrained(base)
    critic = with_values(CausalLMActorCritic(base, peft_config=LORA, sampling=SamplingConfig(max_new_tokens=8)))
    PPOTrainer(PPOConfig(), critic, ShareOf()).step(PROMPTS)
    critic.save_pretrained(adapters)
    assert {"adapter_model.safetensors", "value_head.safetensors"} <= {file.name for file in adapters.iterdir()}
    assert same_values(CausalLMActorCritic(adapters), critic)
    assert not CausalLMActorCritic(base).value_head.weight.any()


def test_a_model_without_a_value_head_gets_a_new_one(tmp_path: Path) -> None:
    policy = build_policy("llama")
    policy.save_pretrained(tmp_path)
    critic = CausalLMActorCritic(tmp_path)
    assert not critic.value_head.weight.any()


def test_a_model_from_no_folder_reads_no_value_head_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_critic().save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert not build_policy("llama", kind=CausalLMActorCritic).value_head.weight.any()


def test_values_in_double_precision() -> None:
    critic = build_critic(model=build_model("gpt_neox", dtype=torch.float64))
    states, completions, batch = batch_of(critic)
    values = critic.evaluate_actions(batch).values
    critic.value_head.double()
    torch.testing.assert_close(values.double(), plain_values(critic, states, completions), rtol=1e-5, atol=1e-5)


def test_a_frozen_temperature_of_0_is_refused_for_critics_too() -> None:
    critic = build_critic(sampling=SamplingConfig(temperature=0.0, max_new_tokens=8))
    _, _, batch = batch_of(critic)
    with pytest.raises(ValueError, match="temperature=0 is for evaluation"):
        critic.evaluate_actions(batch)


LEARNING: dict[str, tuple[type[Trainer[Any, Any]], Any, type[CausalLMPolicy]]] = {
    "ppo": (
        PPOTrainer,
        PPOConfig(learning_rate=0.01, batch_size=16, num_epochs_per_update=4, group_size=4, discount=1.0),
        CausalLMActorCritic,
    ),
    "grpo": (GRPOTrainer, GRPOConfig(learning_rate=0.02, group_size=8), CausalLMPolicy),
    "grpo with a critic in vain": (GRPOTrainer, GRPOConfig(learning_rate=0.02, group_size=8), CausalLMActorCritic),
    "reinforce": (ReinforceTrainer, ReinforceConfig(learning_rate=0.02, group_size=8), CausalLMPolicy),
}


@pytest.mark.parametrize("name", LEARNING)
def test_learning_to_say_7(name: str) -> None:
    """The share of one character of 15 rises from about 1/17 to most of the text."""
    trainer_class, config, kind = LEARNING[name]
    rewards = []
    for seed in range(2):
        model = build_model("llama", std=0.1, seed=seed)
        policy = build_policy(kind=kind, model=model, sampling=SamplingConfig(max_new_tokens=5), seed=seed)
        trainer = trainer_class(config, policy, ShareOf("7"))  # type: ignore[call-arg]
        rewards.append([trainer.step(PROMPTS)["reward"] for _ in range(20)])
    for own in rewards:
        assert own[0] < 0.3
        assert sum(own[-3:]) / 3 > 0.7, own


def test_the_critic_learns_what_to_expect() -> None:
    """A reward for the prompt alone: the critic explains it, whatever is said."""
    critic = build_policy("llama", kind=CausalLMActorCritic, sampling=SamplingConfig(max_new_tokens=4))
    config = PPOConfig(learning_rate=0.01, batch_size=None, num_epochs_per_update=5, group_size=4, discount=1.0)
    trainer = PPOTrainer(config, critic, FunctionRewards(lambda state, action: len(state) / 4, dtype=torch.float32))
    explained = [trainer.step(PROMPTS)["explained_variance"] for _ in range(20)]
    assert explained[0] < 0.1
    assert explained[-1] > 0.8
