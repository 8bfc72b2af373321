"""Language models as policies: log-probs are those of the plain model, whatever is padded, cut or switched off."""

from __future__ import annotations

import copy
import inspect
import math
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from datasets import Dataset  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from language_models import (
    CHAT_TEMPLATE,
    FAMILIES,
    PROMPTS,
    VOCABULARY_SIZE,
    ShareOf,
    build_model,
    build_policy,
    build_tokenizer,
    plain_evaluation,
    random_completions,
    sampled,
)
from models import FunctionRewards, parameter_values
from peft import LoraConfig, PeftModel
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoTokenizer

from grpo import Evaluation, GRPOConfig, GRPOObjective, GRPOTrainer, check_policy_model
from grpo_adapters.huggingface import CausalLMPolicy, Completion, CompletionBatch, SamplingConfig
from grpo_adapters.huggingface.models.token_log_probs import token_log_probs
from grpo_adapters.huggingface.policies.length_buckets import length_buckets

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft

POLICY_MODULE = "grpo_adapters.huggingface.policies.causal_lm_policy"
EXACT_IN_DOUBLE = ["gpt2", "gpt_neox", "opt"]
"""Families whose layers never round to float32 on the way."""
LORA_TARGETS = {
    "gpt2": ["c_attn"],
    "gpt_neox": ["query_key_value"],
    "llama": ["q_proj", "v_proj"],
    "gemma3": ["q_proj"],
}
DROPOUTS: dict[str, dict[str, Any]] = {
    "gpt2": {"attn_pdrop": 0.5, "embd_pdrop": 0.5, "resid_pdrop": 0.5},
    "llama": {"attention_dropout": 0.5},
    "qwen3": {"attention_dropout": 0.5},
    "gemma2": {"attention_dropout": 0.5},
    "gemma3": {"attention_dropout": 0.5},
    "gpt_neox": {"attention_dropout": 0.5, "hidden_dropout": 0.5},
    "mistral": {"attention_dropout": 0.5},
    "opt": {"attention_dropout": 0.5, "dropout": 0.5},
    "bloom": {"attention_dropout": 0.5, "hidden_dropout": 0.5},
    "cohere": {"attention_dropout": 0.5},
    "granite": {"attention_dropout": 0.5},
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def lora(family: str = "gpt_neox", **options: Any) -> LoraConfig:
    """Adapters whose second factor starts at random, so that they change the model from the start."""
    settings: dict[str, Any] = {"fan_in_fan_out": family == "gpt2", "init_lora_weights": False, "lora_dropout": 0.5}
    return LoraConfig(r=2, target_modules=LORA_TARGETS[family], **(settings | options))


def gradients(policy_or_model: Any, values: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Of a sum of the values with different weights for each."""
    named = policy_or_model.named_parameters() if hasattr(policy_or_model, "named_parameters") else None
    parameters = dict(named) if named is not None else policy_or_model.get_parameters()
    parameters = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    weights = torch.linspace(1, 2, len(values[0]), dtype=values[0].dtype)
    loss = sum((weights.roll(shift) * value).sum() for shift, value in enumerate(values))
    assert isinstance(loss, Tensor)
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: part for name, part in zip(parameters, found, strict=True) if part is not None}


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Each tensor is equal but for rounding in comparison with its largest entry."""
    assert found.keys() == expected.keys()
    assert any(value.abs().max() > 1e-2 for value in expected.values())
    for name, value in expected.items():
        error = (found[name] - value).abs().max().item()
        assert error <= tolerance * max(value.abs().max().item(), 1.0), f"{name}: {error:.1e}"


def both(evaluation: Evaluation) -> tuple[Tensor, Tensor]:
    assert evaluation.entropy is not None
    return evaluation.log_probs, evaluation.entropy


def states_and_completions(count: int = 8, seed: int = 0) -> tuple[list[str], list[Completion]]:
    return [PROMPTS[index % len(PROMPTS)] for index in range(count)], random_completions(count, seed=seed)


def assert_evaluates_as_the_plain_model(policy: Any, tolerance: float, count: int = 8) -> None:
    states, completions = states_and_completions(count)
    model, temperature = policy.causal_model, policy.sampling.temperature
    found = both(policy.evaluate_actions(policy.encode_actions(states, completions)))
    expected = plain_evaluation(model, states, completions, temperature)
    for name, value, wanted in zip(("log-probs", "entropy"), found, expected, strict=True):
        assert value.dtype == model.dtype
        assert (value - wanted).abs().max() <= tolerance * wanted.abs().max().clamp(min=1), name
    assert_near(gradients(model, found), gradients(model, expected), tolerance)


@every_family
@pytest.mark.parametrize("overhead", [0.0, math.inf])
def test_evaluations_are_those_of_the_plain_model(family: str, overhead: float) -> None:
    """Every row alone, or all of them padded to the longest; sliding windows are shorter than the rows."""
    with patch("grpo_adapters.huggingface.policies.row_layout.call_overhead", return_value=overhead):
        policy = build_policy(family, sampling=SamplingConfig(temperature=0.7))
    assert policy.fuses_head
    assert_evaluates_as_the_plain_model(policy, 1e-5)


@pytest.mark.parametrize("family", EXACT_IN_DOUBLE)
@pytest.mark.parametrize("overhead", [0.0, 8.0, math.inf])
def test_evaluations_in_double_precision(family: str, overhead: float) -> None:
    with patch("grpo_adapters.huggingface.policies.row_layout.call_overhead", return_value=overhead):
        policy = build_policy(model=build_model(family, dtype=torch.float64), sampling=SamplingConfig(temperature=1.3))
    assert_evaluates_as_the_plain_model(policy, 1e-10)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "cohere", "granite"])
@pytest.mark.parametrize("num_tokens", [1, 3, 1000])
def test_chunks_of_logits_change_nothing(family: str, num_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    in_chunks = partial(token_log_probs, chunk_bytes=4 * VOCABULARY_SIZE * num_tokens)
    monkeypatch.setattr(f"{POLICY_MODULE}.token_log_probs", in_chunks)
    assert_evaluates_as_the_plain_model(build_policy(family), 1e-5)


@pytest.mark.parametrize("family", LORA_TARGETS)
def test_evaluations_with_adapters_and_a_head_that_is_not_trained(family: str) -> None:
    assert_evaluates_as_the_plain_model(build_policy(family, peft_config=lora(family)), 5e-5)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_entropy_is_left_out_where_nobody_wants_it(family: str) -> None:
    policy = build_policy(family, with_entropy=False)
    states, completions = states_and_completions()
    evaluation = policy.evaluate_actions(policy.encode_actions(states, completions))
    assert evaluation.entropy is None
    expected, _ = plain_evaluation(policy.causal_model, states, completions)
    assert (evaluation.log_probs - expected).abs().max() <= 1e-5
    found = gradients(policy.causal_model, (evaluation.log_probs,))
    assert_near(found, gradients(policy.causal_model, (expected,)), 1e-5)


POLICIES: dict[tuple[str, float], Any] = {}


def policy_of(family: str, overhead: float) -> Any:
    if (family, overhead) not in POLICIES:
        with patch("grpo_adapters.huggingface.policies.row_layout.call_overhead", return_value=overhead):
            POLICIES[family, overhead] = build_policy(family)
    return POLICIES[family, overhead]


@settings(max_examples=40)
@given(
    family=st.sampled_from(["gpt2", "gemma3", "mamba", "lfm2"]),
    overhead=st.sampled_from([0.0, 5.0, 20.0, math.inf]),
    seed=st.integers(0, 100),
    order=st.permutations(range(7)),
    count=st.integers(1, 7),
)
def test_selected_rows_in_any_order(family: str, overhead: float, seed: int, order: list[int], count: int) -> None:
    policy = policy_of(family, overhead)
    states, completions = states_and_completions(7, seed)
    batch = policy.encode_actions(states, completions)
    rows = torch.tensor(order[:count])
    selected = batch.select(rows)
    chosen = [states[row] for row in order[:count]], [completions[row] for row in order[:count]]
    assert selected.targets.tolist() == [token for one in chosen[1] for token in one.token_ids]
    assert selected.samples.lengths.tolist() == [len(one) for one in chosen[1]]
    assert selected.truncated.tolist() == [not one.ended for one in chosen[1]]
    with torch.no_grad():
        found = both(policy.evaluate_actions(selected))
        expected = plain_evaluation(policy.causal_model, *chosen)
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), overhead=st.floats(0, 100) | st.just(math.inf))
def test_buckets_hold_each_row_once_and_little_padding(lengths: list[int], overhead: float) -> None:
    buckets = [bucket.tolist() for bucket in length_buckets(torch.tensor(lengths), overhead)]
    assert sorted(row for bucket in buckets for row in bucket) == list(range(len(lengths)))
    paddings = [sum(max(lengths[row] for row in bucket) - lengths[row] for row in bucket) for bucket in buckets]
    assert max(paddings) <= overhead
    if len(buckets) == 1:
        assert buckets[0] == list(range(len(lengths)))
    longest = [max(lengths[row] for row in bucket) for bucket in buckets]
    assert longest == sorted(longest, reverse=True)


class LargestTensor(TorchDispatchMode):
    """Notes how many entries the largest tensor has that any operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.num_entries = max(self.num_entries, tensor.numel())
        return result


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_logits_of_all_tokens_are_never_made(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With chunks of 10 tokens neither evaluation nor its backward pass makes anything as large as [D, V]."""
    vocabulary = 2048
    in_chunks = partial(token_log_probs, chunk_bytes=4 * vocabulary * 10)
    monkeypatch.setattr(f"{POLICY_MODULE}.token_log_probs", in_chunks)
    policy = build_policy(model=build_model(family, vocab_size=vocabulary))
    states, completions = states_and_completions(16)
    batch = policy.encode_actions(states, completions)
    num_logits = batch.samples.total * vocabulary
    assert policy.causal_model.get_output_embeddings().weight.numel() < num_logits / 2
    with LargestTensor() as largest:
        log_probs, entropy = both(policy.evaluate_actions(batch))
        (log_probs.sum() + entropy.sum()).backward()
    assert 0 < largest.num_entries < num_logits / 2


def test_chunks_are_small_by_default() -> None:
    bound = inspect.signature(token_log_probs).parameters["chunk_bytes"].default
    assert 2**20 <= bound <= 2**29


def build_trainer(policy: Any, rewards: Any = None, **config: Any) -> GRPOTrainer[Any, Any]:
    """With plain SGD at learning rate 1, so that the change of the parameters is minus the gradient."""
    trainable = [parameter for parameter in policy.get_parameters().values() if parameter.requires_grad]
    return GRPOTrainer(
        GRPOConfig(**({"group_size": 4, "max_grad_norm": None} | config)),
        policy,
        rewards or FunctionRewards(lambda state, action: sum(action.token_ids) / len(action) - len(state)),
        optimizer=torch.optim.SGD(trainable, lr=1.0),
    )


KINDS_OF_TRAINING: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"peft_config": lora()},
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("kind", KINDS_OF_TRAINING)
def test_partition_into_micro_batches_changes_nothing(kind: str) -> None:
    results = []
    for micro_batch_size in (None, 1, 3):
        torch.manual_seed(0)
        model = build_model("gpt_neox", dtype=torch.float64)
        policy = build_policy(model=model, **KINDS_OF_TRAINING[kind])
        policy.model.double()
        before = parameter_values(policy.get_parameters())
        entropy = GRPOObjective(entropy_coefficient=0.1)
        trainer = build_trainer(policy, micro_batch_size=micro_batch_size)
        trainer.objective = entropy
        metrics = trainer.step(PROMPTS)
        after = policy.get_parameters()
        results.append(({name: before[name] - after[name].detach() for name in before}, metrics))
    (whole, whole_metrics), *others = results
    for split, metrics in others:
        assert_near(split, whole, 1e-9)
        assert metrics == pytest.approx(whole_metrics, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "mamba", "cohere"])
def test_the_policy_that_learns_is_the_one_that_sampled(family: str) -> None:
    """Old log-probs are those of the first update, and its ratio is 1, exactly in the same micro-batches."""
    policy = build_policy(family, sampling=SamplingConfig(temperature=0.8, max_new_tokens=8))
    trainer = build_trainer(policy, num_epochs_per_update=2, micro_batch_size=5)
    experience = trainer.collector.collect(PROMPTS)
    assert experience.old_log_probs is not None
    expected, _ = plain_evaluation(policy.causal_model, list(experience.states), list(experience.actions), 0.8)
    assert (experience.old_log_probs - expected).abs().max() <= 1e-5
    single = build_trainer(policy).step(PROMPTS)
    assert single["approx_kl"] == 0
    assert single["clip_fraction"] == 0


@pytest.mark.parametrize("options", [{}, {"peft_config": lora("llama")}, {"autocast_dtype": torch.bfloat16}])
def test_the_same_seed_gives_bitwise_the_same_metrics_and_parameters(options: dict[str, Any]) -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        policy = build_policy("llama", seed=3, **options)
        trainer = build_trainer(policy, batch_size=6, micro_batch_size=4, num_epochs_per_update=2)
        metrics = [trainer.step(PROMPTS) for _ in range(2)]
        results.append((metrics, parameter_values(policy.get_parameters())))
        torch.rand(7)
    assert results[0][0] == results[1][0]
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())


@every_family
def test_conformance(family: str) -> None:
    sampling = SamplingConfig(temperature=0.9, max_new_tokens=2)
    check_policy_model(build_policy(family, sampling=sampling), PROMPTS[:2], num_samples=600)


@pytest.mark.parametrize("family", LORA_TARGETS)
def test_conformance_with_adapters(family: str) -> None:
    policy = build_policy(family, peft_config=lora(family), sampling=SamplingConfig(max_new_tokens=2))
    check_policy_model(policy, PROMPTS[:2], num_samples=600)


def test_the_conformance_kit_sees_completions_that_are_not_sampled_from_their_log_probs() -> None:
    policy = build_policy(sampling=SamplingConfig(max_new_tokens=2, top_k=2))
    with pytest.raises(ValueError, match="not sampled as often"):
        check_policy_model(policy, PROMPTS[:1], num_samples=600)


@pytest.mark.parametrize("family", LORA_TARGETS)
def test_a_step_changes_adapters_only(family: str) -> None:
    policy = build_policy(family, peft_config=lora(family))
    before = parameter_values(policy.get_parameters())
    build_trainer(policy).step(PROMPTS)
    changed = {name for name, value in policy.get_parameters().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert {name for name in before if "lora_" in name} == changed
    assert {name for name, value in policy.get_parameters().items() if value.requires_grad} == changed


@pytest.mark.parametrize("family", LORA_TARGETS)
def test_the_reference_of_adapters_is_the_model_without_them(family: str) -> None:
    policy = build_policy(family, peft_config=lora(family), seed=5)
    states, completions = states_and_completions()
    batch = policy.encode_actions(states, completions)
    reference = policy.reference()
    assert reference.model is policy.model
    assert dict(reference.get_parameters()) == {}
    with torch.no_grad():
        adapted = policy.evaluate_actions(batch).log_probs
        base = reference.evaluate_actions(reference.encode_actions(states, completions)).log_probs
        expected = build_policy(family).evaluate_actions(batch).log_probs
        again = policy.evaluate_actions(batch).log_probs
    assert torch.equal(base, expected)
    assert torch.equal(adapted, again)
    assert (adapted - base).abs().max() > 1e-2
    assert reference.complete(PROMPTS) == build_policy(family).complete(PROMPTS)


def test_the_policy_is_as_before_after_its_reference_failed() -> None:
    policy = build_policy(peft_config=lora("gpt2"))
    states, completions = states_and_completions()
    batch = policy.encode_actions(states, completions)
    with torch.no_grad():
        before = policy.evaluate_actions(batch).log_probs
    trainable = {name for name, value in policy.get_parameters().items() if value.requires_grad}
    broken = copy.copy(batch)
    broken.tokens = batch.tokens + VOCABULARY_SIZE
    with pytest.raises(IndexError):
        policy.reference().evaluate_actions(broken)
    with torch.no_grad():
        assert torch.equal(policy.evaluate_actions(batch).log_probs, before)
    assert {name for name, value in policy.get_parameters().items() if value.requires_grad} == trainable


@pytest.mark.parametrize("options", [{}, {"peft_config": lora()}])
def test_training_leaves_the_reference_where_it_was(options: dict[str, Any]) -> None:
    policy = build_policy("gpt_neox", **options)
    reference = policy.reference()
    states, completions = states_and_completions()
    batch = policy.encode_actions(states, completions)
    with torch.no_grad():
        before, own = (each.evaluate_actions(batch).log_probs for each in (reference, policy))
    assert torch.equal(before, own) == (not options)
    config = GRPOConfig(group_size=4, kl_coefficient=0.1, learning_rate=0.05)
    trainer = GRPOTrainer(config, policy, ShareOf(), reference_policy=reference)
    kls = [trainer.step(PROMPTS)["kl"] for _ in range(3)]
    assert kls[0] == pytest.approx(0, abs=1e-6) if not options else kls[0] > 1e-3
    assert all(math.isfinite(kl) for kl in kls)
    policy.eval()
    with torch.no_grad():
        assert torch.equal(reference.evaluate_actions(batch).log_probs, before)
        assert not torch.equal(policy.evaluate_actions(batch).log_probs, own)
    shared = {id(value) for value in policy.get_parameters().values()} & {
        id(value) for value in reference.get_parameters().values()
    }
    assert not shared
    assert not any(value.requires_grad for value in reference.get_parameters().values())


def test_a_reference_does_not_draw_from_the_policys_generator() -> None:
    policy = build_policy(peft_config=lora("gpt2"))
    expected = sampled(build_policy(model=policy.model))[1]
    policy.reference().generate_actions(PROMPTS, 2)
    assert sampled(policy)[1] == expected


def files_of(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_saving_and_loading_all_parameters(tmp_path: Path) -> None:
    policy = build_policy("llama")
    build_trainer(policy).step(PROMPTS)
    policy.save_pretrained(tmp_path)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= files_of(tmp_path)
    assert not {name for name in files_of(tmp_path) if name.endswith((".bin", ".pt", ".pth"))}
    loaded = CausalLMPolicy(tmp_path, sampling=policy.sampling)
    assert loaded.causal_model.dtype == torch.float32
    states, completions = states_and_completions()
    policy.eval()
    assert torch.equal(
        loaded.get_log_probabilities(states, completions), policy.get_log_probabilities(states, completions)
    )
    assert loaded.complete(PROMPTS) == policy.complete(PROMPTS)


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_saving_and_loading_adapters(family: str, tmp_path: Path) -> None:
    policy = build_policy(family, peft_config=lora(family))
    build_trainer(policy).step(PROMPTS)
    policy.save_pretrained(tmp_path)
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= files_of(tmp_path)
    assert "model.safetensors" not in files_of(tmp_path)
    model = PeftModel.from_pretrained(build_model(family), str(tmp_path), is_trainable=True)
    loaded = CausalLMPolicy(model, AutoTokenizer.from_pretrained(tmp_path), sampling=policy.sampling)
    states, completions = states_and_completions()
    policy.eval()
    assert torch.equal(
        loaded.get_log_probabilities(states, completions), policy.get_log_probabilities(states, completions)
    )
    before = parameter_values(loaded.get_parameters())
    build_trainer(loaded).step(PROMPTS)
    assert {name for name, value in loaded.get_parameters().items() if not torch.equal(value, before[name])} == {
        name for name in before if "lora_" in name
    }


def test_loading_a_folder_with_adapters_and_where_their_base_is(tmp_path: Path) -> None:
    """The folder of adapters is enough where it tells of a base that can be found."""
    base, adapters = tmp_path / "base", tmp_path / "adapters"
    build_policy("llama").save_pretrained(base)
    sampling = SamplingConfig(max_new_tokens=8)
    policy = CausalLMPolicy(base, peft_config=lora("llama"), sampling=sampling)
    build_trainer(policy).step(PROMPTS)
    policy.save_pretrained(adapters)
    policy.eval()
    states, completions = states_and_completions()
    loaded = CausalLMPolicy(adapters, sampling=sampling)
    assert torch.equal(
        loaded.get_log_probabilities(states, completions), policy.get_log_probabilities(states, completions)
    )
    assert {name for name, value in loaded.get_parameters().items() if value.requires_grad} == {
        name for name, value in policy.get_parameters().items() if value.requires_grad
    }
    assert torch.equal(
        loaded.reference().get_log_probabilities(states, completions),
        policy.reference().get_log_probabilities(states, completions),
    )


@pytest.mark.parametrize("options", [{}, {"peft_config": lora("llama", lora_dropout=0.0)}])
def test_gradient_checkpointing_changes_no_gradient(options: dict[str, Any]) -> None:
    states, completions = states_and_completions()
    results = []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(0)
        policy = build_policy("llama", gradient_checkpointing=gradient_checkpointing, **options).train()
        evaluation = policy.evaluate_actions(policy.encode_actions(states, completions))
        results.append(gradients(policy, both(evaluation)))
        assert policy.causal_model.is_activation_checkpointing == gradient_checkpointing
    assert_near(results[1], results[0], 1e-6)


def test_gradient_checkpointing_computes_layers_again() -> None:
    calls = []
    policy = build_policy("llama", gradient_checkpointing=True).train()
    policy.causal_model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    states, completions = states_and_completions()
    evaluation = policy.evaluate_actions(policy.encode_actions(states, completions))
    forward_calls = len(calls)
    evaluation.log_probs.sum().backward()
    assert len(calls) == 2 * forward_calls


def test_computing_in_bfloat16_while_parameters_stay_in_float32() -> None:
    policy, rough = build_policy("llama"), build_policy("llama", autocast_dtype=torch.bfloat16)
    states, completions = states_and_completions()
    with torch.no_grad():
        exact, found = (
            each.evaluate_actions(each.encode_actions(states, completions)).log_probs for each in (policy, rough)
        )
    assert found.dtype == torch.float32
    difference = (found - exact).abs()
    assert 0 < difference.max() < 0.5
    assert difference.mean() < 0.05
    build_trainer(rough).step(PROMPTS)
    assert {value.dtype for value in rough.get_parameters().values()} == {torch.float32}


def test_parameters_in_bfloat16(tmp_path: Path) -> None:
    build_policy("llama").save_pretrained(tmp_path)
    policy = CausalLMPolicy(tmp_path, dtype=torch.bfloat16, sampling=SamplingConfig(max_new_tokens=8))
    before = parameter_values(policy.get_parameters())
    assert {value.dtype for value in before.values()} == {torch.bfloat16}
    states, completions = states_and_completions()
    evaluation = policy.evaluate_actions(policy.encode_actions(states, completions))
    assert all(value.dtype == torch.float32 for value in both(evaluation))
    exact, _ = plain_evaluation(build_model("llama"), states, completions)
    assert (evaluation.log_probs - exact).abs().mean() < 0.05
    metrics = build_trainer(policy).step(PROMPTS)
    assert math.isfinite(metrics["loss"])
    assert any(not torch.equal(value, before[name]) for name, value in policy.get_parameters().items())
    assert {value.dtype for value in policy.get_parameters().values()} == {torch.bfloat16}


@pytest.mark.parametrize("options", [{}, {"peft_config": lora()}])
def test_a_copy_shares_nothing_and_draws_the_same(options: dict[str, Any]) -> None:
    policy = build_policy("gpt_neox", seed=8, **options)
    sampled(policy)
    copied = copy.deepcopy(policy)
    for name, parameter in policy.get_parameters().items():
        other = copied.get_parameters()[name]
        assert torch.equal(other, parameter)
        assert other.data_ptr() != parameter.data_ptr()
    assert sampled(copied)[1] == sampled(policy)[1]
    build_trainer(copied).step(PROMPTS)
    fresh = parameter_values(policy.get_parameters())
    assert any(not torch.equal(value, fresh[name]) for name, value in copied.get_parameters().items())


def test_moving_to_where_it_is_keeps_the_seed() -> None:
    policy = build_policy()
    generator = policy.generator
    assert policy.to("cpu") is policy
    assert policy.to(torch.device("cpu")).generator is generator
    assert policy.device == torch.device("cpu")


@pytest.mark.parametrize("family", DROPOUTS)
def test_dropout_is_off_unless_it_is_wanted(family: str) -> None:
    states, completions = states_and_completions()
    for disable_dropout in (True, False):
        torch.manual_seed(0)
        model = build_model(family, **DROPOUTS[family])
        policy = build_policy(model=model, disable_dropout=disable_dropout)
        batch = policy.encode_actions(states, completions)
        with torch.no_grad():
            still, moving = (mode().evaluate_actions(batch).log_probs for mode in (policy.eval, policy.train))
        assert torch.equal(still, moving) == disable_dropout
        assert policy.causal_model.training


@pytest.mark.parametrize(
    "name", list(dict.fromkeys((family, name) for family in DROPOUTS for name in DROPOUTS[family]))
)
def test_each_kind_of_dropout_is_off(name: tuple[str, str]) -> None:
    family, kind = name
    states, completions = states_and_completions(2)
    rates: dict[str, Any] = {kind: 0.5}
    for disable_dropout in (True, False):
        torch.manual_seed(0)
        policy = build_policy(model=build_model(family, **rates), disable_dropout=disable_dropout)
        batch = policy.encode_actions(states, completions)
        with torch.no_grad():
            still, moving = (mode().evaluate_actions(batch).log_probs for mode in (policy.eval, policy.train))
        assert torch.equal(still, moving) == disable_dropout


def test_activations_are_the_same_function_in_one_operation() -> None:
    model = build_model("gpt2", dtype=torch.float64)
    tokens = torch.arange(8).unsqueeze(0)
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        build_policy(model=model)
        torch.testing.assert_close(model(input_ids=tokens).logits, before, rtol=1e-10, atol=1e-10)
    assert {type(block.mlp.act) for block in model.transformer.h} == {torch.nn.GELU}


def test_no_layer_is_dropped() -> None:
    """OPT leaves out whole layers at random in training mode."""
    policy = build_policy(model=build_model("opt", layerdrop=0.9)).train()
    states, completions = states_and_completions()
    batch = policy.encode_actions(states, completions)
    expected, _ = plain_evaluation(build_model("opt"), states, completions)
    for _ in range(3):
        with torch.no_grad():
            found = policy.evaluate_actions(batch).log_probs
        torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


def test_dropout_of_adapters_is_off() -> None:
    states, completions = states_and_completions()
    policy = build_policy("llama", peft_config=lora("llama"))
    batch = policy.encode_actions(states, completions)
    with torch.no_grad():
        still, moving = (mode().evaluate_actions(batch).log_probs for mode in (policy.eval, policy.train))
    assert torch.equal(still, moving)


TALK = [{"role": "system", "content": "12"}, {"role": "user", "content": "1+2"}]
CHAT_STATES: list[tuple[Any, str]] = [
    ("1+2=", "1+2="),
    ({"prompt": "1+2=", "answer": "3"}, "1+2="),
    (TALK, "s12=u1+2=a"),
    ({"prompt": TALK, "answer": "3"}, "s12=u1+2=a"),
    ([*TALK, {"role": "assistant", "content": "3+"}], "s12=u1+2=a3+"),
    ({"prompt": [{"role": "user", "content": "7"}], "answer": None}, "u7=a"),
]


@pytest.mark.parametrize(("state", "text"), CHAT_STATES)
def test_states(state: Any, text: str) -> None:
    """Strings as they are, messages through the template; the assistant's own words at the end are continued."""
    tokenizer = build_tokenizer(chat_template=CHAT_TEMPLATE)
    policy = build_policy(tokenizer=tokenizer, sampling=SamplingConfig(max_new_tokens=6))
    [completion] = random_completions(1)
    batch = policy.encode_actions([state], [completion])
    expected = tokenizer(text)["input_ids"]
    assert batch.tokens[0, : len(expected)].tolist() == expected
    assert batch.positions[batch.rows.starts].tolist() == [len(expected)]
    assert batch.tokens[0, len(expected) :].tolist() == list(completion.token_ids)
    assert policy.complete([state]) == build_policy(sampling=policy.sampling).complete([text])


def test_training_on_a_table() -> None:
    rows = [{"prompt": prompt, "answer": str(index)} for index, prompt in enumerate(PROMPTS)]
    seen: list[Any] = []

    def reward(state: Any, action: Completion) -> float:
        seen.append(state)
        return float(len(action))

    metrics = []
    for states in (Dataset.from_list(rows), rows, PROMPTS):
        policy = build_policy()
        metrics.append(build_trainer(policy, FunctionRewards(reward)).step(states))
    assert metrics[0] == metrics[1] == metrics[2]
    assert seen[:16] == seen[16:32] == [row for row in rows for _ in range(4)]


def test_training_on_a_table_of_conversations() -> None:
    tokenizer = build_tokenizer(chat_template=CHAT_TEMPLATE)
    table = Dataset.from_dict({"prompt": [TALK, TALK[1:]], "answer": ["3", "4"]})
    metrics = build_trainer(build_policy(tokenizer=tokenizer), FunctionRewards(lambda *_: 1.0)).step(table)
    assert metrics["num_samples"] == 8


def test_special_tokens_come_once() -> None:
    """A tokenizer's own beginning is before a string, and before messages only where the template has it."""
    tokenizer = build_tokenizer(chat_template=CHAT_TEMPLATE)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<end> $A", special_tokens=[("<end>", 0)])
    policy = build_policy(tokenizer=tokenizer)
    completions = [Completion((2,), "0")] * 2
    batch = policy.encode_actions(["77", [{"role": "user", "content": "7"}]], completions)
    assert batch.tokens[0, :3].tolist() == [0, 9, 9]
    assert batch.tokens[1, :4].tolist() == build_tokenizer()("u7=a")["input_ids"]
    assert batch.positions[batch.rows.starts].tolist() == [3, 4]


def test_completions_that_were_cut_can_be_left_out() -> None:
    """DAPO's overlong filtering: what was cut weighs nothing, what has ended teaches as ever."""
    policy = build_policy(seed=2)
    policy.causal_model.generation_config.eos_token_id = [2, 3, 4, 5]
    before = parameter_values(policy.get_parameters())
    metrics = build_trainer(policy, mask_truncated=True).step(PROMPTS, max_new_tokens=1)
    assert 0 < metrics["frac_truncated"] < 1
    assert metrics["grad_norm"] > 0
    policy = build_policy()
    policy.causal_model.generation_config.eos_token_id = None
    policy.tokenizer.eos_token = None
    metrics = build_trainer(policy, mask_truncated=True).step(PROMPTS)
    assert metrics["frac_truncated"] == 1
    assert all(torch.equal(value, before[name]) for name, value in policy.get_parameters().items())


def test_a_batch_tells_where_everything_is() -> None:
    policy = build_policy()
    completions = [Completion((2, 3, 0), "01"), Completion((5,), "3", ended=False)]
    batch = policy.encode_actions(["7", "12="], completions)
    assert isinstance(batch, CompletionBatch)
    assert batch.tokens.tolist() == [[9, 2, 3, 0], [3, 4, 13, 5]]
    assert batch.positions[batch.rows.starts].tolist() == [1, 3]
    assert batch.samples.lengths.tolist() == [3, 1]
    assert batch.targets.tolist() == [2, 3, 0, 5]
    assert batch.truncated.tolist() == [False, True]
    assert batch.samples.lengths.tolist() == batch.rows.lengths.tolist() == [3, 1]


def test_metrics_tell_of_lengths() -> None:
    policy = build_policy()
    assert policy.get_metrics() == {}
    metrics = build_trainer(policy).step(PROMPTS)
    lengths = [metrics[f"completions/{name}_length"] for name in ("min", "mean", "max")]
    assert 1 <= lengths[0] <= lengths[1] <= lengths[2] <= 8
    policy.encode_actions(["1", "2"], [Completion((2, 3, 0), "01"), Completion((5,), "3")])
    assert policy.get_metrics() == {
        "completions/mean_length": 2,
        "completions/min_length": 1,
        "completions/max_length": 3,
    }
