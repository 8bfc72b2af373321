"""Families whose layers need care: caches of their own, long positions, noise in training, heads of their own."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from language_model_families import LONG_ROPE, VOCABULARY_SIZE, build_family, greedy_by_transformers
from language_models import build_tokenizer, plain_evaluation, random_completions, sampled
from models import FunctionRewards
from peft import LoraConfig
from torch import Tensor, nn

from grpo import GRPOConfig, GRPOTrainer
from grpo_adapters.huggingface import CausalLMPolicy, Completion, SamplingConfig
from grpo_adapters.huggingface.models.long_positions import length_of_switch

SWITCH = int(LONG_ROPE["original_max_position_embeddings"])
PHIMOE_ROPE = LONG_ROPE | {"rope_parameters": LONG_ROPE["rope_parameters"] | {"short_mscale": 1.0, "long_mscale": 1.3}}
LONG: dict[str, dict[str, Any]] = {
    "phi3": LONG_ROPE,
    "phimoe": PHIMOE_ROPE,
    "llama": LONG_ROPE,
}
CROSSING = ["1+2=", "a b a b 12+34 =", "7" * SWITCH, "7" * (SWITCH + 3), "7" * (SWITCH - 1), "b=0+9 " * 4]


def policy_of(model: Any, **options: Any) -> CausalLMPolicy:
    return CausalLMPolicy(
        model, build_tokenizer(), sampling=SamplingConfig(max_new_tokens=8, with_log_probs=True), **options
    )


def prefix_log_probs(model: Any, prompt: str, completion: Completion) -> Tensor:
    """Each token's log-prob from a call of just the tokens before it."""
    token_ids = [*build_tokenizer()(prompt)["input_ids"], *completion.token_ids]
    first = len(token_ids) - len(completion)
    calls = [model(input_ids=torch.tensor([token_ids[:place]])).logits[0, -1] for place in range(first, len(token_ids))]
    return torch.stack(calls).log_softmax(-1).gather(1, torch.tensor(completion.token_ids).unsqueeze(1)).squeeze(1)


def assert_drawn_with_its_log_probs(policy: CausalLMPolicy, prompts: list[str]) -> None:
    states, drawn = sampled(policy, prompts, 5)
    batch = policy.encode_actions(states, drawn)
    assert batch.sampling_log_probs is not None
    with torch.no_grad():
        found = policy.evaluate_actions(batch).log_probs
    torch.testing.assert_close(found, batch.sampling_log_probs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", LONG)
def test_log_probs_of_long_rows_are_those_of_sampling(family: str) -> None:
    """Whatever rows there are besides, also where a completion grows beyond the switch."""
    model = build_family(family, **LONG[family])
    assert length_of_switch(model) == SWITCH
    policy = policy_of(model)
    completions = random_completions(len(CROSSING), longest=20)
    with torch.no_grad():
        batch = policy.encode_actions(CROSSING, completions)
        assert int(batch.positions.min()) < SWITCH < int(batch.positions.max())
        together = policy.evaluate_actions(batch)
        alone = torch.cat([prefix_log_probs(model, *pair) for pair in zip(CROSSING, completions, strict=True)])
        rows = torch.tensor([5, 2, 0])
        chosen = policy.evaluate_actions(batch.select(rows)).log_probs
    torch.testing.assert_close(together.log_probs, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(chosen, together.log_probs[batch.rows.positions(rows)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", LONG)
def test_completions_that_grow_beyond_the_switch(family: str) -> None:
    """They are the likeliest tokens after all tokens before, beside any others, and one group shares its prompt."""
    policy = policy_of(build_family(family, **LONG[family]))
    for prompt, completion in zip(CROSSING, policy.complete(CROSSING), strict=True):
        tokens = policy.tokenizer(prompt)["input_ids"]
        for token in completion.token_ids:
            with torch.no_grad():
                assert int(policy.causal_model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()) == token
            tokens.append(token)
    assert_drawn_with_its_log_probs(policy, CROSSING)


def test_training_on_long_and_short_rows_begins_with_the_policy_that_sampled() -> None:
    policy = policy_of(build_family("phi3", **LONG_ROPE))
    rewards = FunctionRewards(lambda state, action: float(action.token_ids[0]))
    for batch_size in (5, 24):
        config = GRPOConfig(group_size=4, learning_rate=0.0, batch_size=batch_size)
        metrics = GRPOTrainer(config, policy, rewards).step(CROSSING)
        assert metrics["approx_kl"] == pytest.approx(0, abs=1e-8)


def test_layers_that_switch_at_different_lengths_are_refused() -> None:
    own = LONG_ROPE["rope_parameters"]
    model = build_family("phi3", **LONG_ROPE)
    model.config.rope_parameters = {"one": own, "other": own | {"original_max_position_embeddings": 20}}
    with pytest.raises(
        ValueError, match=r"layers of Phi3ForCausalLM switch .* different lengths, \[16, 20\]: set orig"
    ):
        length_of_switch(model)


def test_dynamic_scaling_never_begins_within_the_context() -> None:
    """So a row's log-probs are its own; beyond the context, where they would not be, rows are refused."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 8.0}
    model = build_family("llama", rope_parameters=rope)
    policy, prompts = policy_of(model), ["7" * 50, "1+2="]
    completions = random_completions(2, longest=14)
    batch = policy.encode_actions(prompts, completions)
    with torch.no_grad():
        expected, _ = plain_evaluation(model, prompts, completions)
        torch.testing.assert_close(policy.evaluate_actions(batch).log_probs, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="expected at most 64 together, the model's context"):
        policy.encode_actions(["7" * 60], [Completion((2,) * 5, "00000")])


@pytest.mark.parametrize("family", ["minimax", "recurrent_gemma"])
def test_models_with_caches_of_their_own(family: str) -> None:
    """They are sampled without one, which is said once."""
    model = build_family(family)
    with pytest.warns(UserWarning, match="does not go on from a cache of earlier tokens") as seen:
        policy = policy_of(model)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    prompts = ["1+2=", "12"]
    for prompt, completion in zip(prompts, policy.complete(prompts), strict=True):
        assert list(completion.token_ids) == greedy_by_transformers(policy, prompt)
    assert_drawn_with_its_log_probs(policy, prompts)


def test_a_model_that_has_to_be_told_positions() -> None:
    """Bamba counts from 0 again after what a cache holds."""
    policy = policy_of(build_family("bamba"))
    prompts = ["1+2=", "12+34", "b=0"]
    for prompt, completion in zip(prompts, policy.complete(prompts), strict=True):
        assert list(completion.token_ids) == greedy_by_transformers(policy, prompt)


@pytest.mark.parametrize("family", ["mamba2", "nemotron_h"])
def test_logits_that_are_wider_than_the_parameters(family: str) -> None:
    """What was rounded to bfloat16 on the way does not agree to float32."""
    policy = policy_of(build_family(family, dtype=torch.bfloat16))
    prompts = ["1+2=", "12+34", "b=0"]
    for prompt, completion in zip(prompts, policy.complete(prompts), strict=True):
        assert completion.token_ids[0] == greedy_by_transformers(policy, prompt)[0]


def log_probs_in_both_modes(policy: CausalLMPolicy, seed: int = 0) -> tuple[Tensor, Tensor]:
    prompts, completions = ["1+2=", "7", "12+34="] * 3, random_completions(9, seed=seed)
    batch = policy.encode_actions(prompts, completions)
    with torch.no_grad():
        still, moving = (mode().evaluate_actions(batch).log_probs for mode in (policy.eval, policy.train))
    return still, moving


NOISY: dict[str, dict[str, Any]] = {
    "mixtral": {"router_jitter_noise": 0.3},
    "phimoe": {"router_jitter_noise": 0.4, "input_jitter_noise": 0.1},
    "minimax_m2": {"router_jitter_noise": 0.3},
}


@pytest.mark.parametrize("family", NOISY)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_routers_are_not_noisy_in_training(family: str, gradient_checkpointing: bool) -> None:
    model = build_family(family, **NOISY[family])
    policy = policy_of(model, gradient_checkpointing=gradient_checkpointing)
    still, moving = log_probs_in_both_modes(policy)
    assert torch.equal(still, moving)
    assert policy.train().model.training
    policy.generate_actions(["1"], 2)
    assert policy.model.training
    assert torch.equal(log_probs_in_both_modes(policy)[1], still)
    noisy = policy_of(build_family(family, **NOISY[family]), disable_dropout=False)
    assert not torch.equal(*log_probs_in_both_modes(noisy))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"]])
def test_adapters_take_part_in_training_as_in_sampling(targets: Any) -> None:
    """Gemma 3n reads one layer's weight past its adapter in training, to keep it within bounds."""
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    policy = policy_of(build_family("gemma3n_text"), peft_config=config)
    assert torch.equal(*log_probs_in_both_modes(policy))


def test_training_bounds_no_weights_of_gemma_3n() -> None:
    policy = policy_of(build_family("gemma3n_text", altup_coef_clip=0.1))
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    log_probs_in_both_modes(policy)
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())


def test_what_is_still_noisy_is_told_by_name() -> None:
    """What checkpointing computes again has to be in training mode."""
    model = build_family("llama")
    kind = type(model.model.layers[0])

    class Wobbly(kind):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            made = super().forward(hidden_states, *args, **kwargs)
            return made + torch.rand_like(made) if self.training else made

    model.model.layers[1].__class__ = Wobbly
    state = torch.get_rng_state()
    with pytest.warns(
        UserWarning, match=r"LlamaForCausalLM computes other logits in training .* so does Wobbly"
    ) as seen:
        policy = policy_of(model)
    assert seen[0].filename == __file__
    assert len(seen) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in policy.model.modules())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy_of(model, disable_dropout=False)


@pytest.mark.parametrize("family", ["olmo2", "ernie4_5", "glm4", "falcon_h1", "mpt", "gpt_oss", "deepseek_v3", "xglm"])
def test_adapters_without_targets_change_the_attention(family: str) -> None:
    policy = policy_of(build_family(family), peft_config=LoraConfig(r=2))
    changed = {name for name, value in policy.get_parameters().items() if value.requires_grad}
    assert changed
    assert all("attn" in name or "attention" in name for name in changed)


def test_targets_by_default_are_said_nowhere_in_the_config_that_was_given() -> None:
    config = LoraConfig(r=2)
    policy_of(build_family("olmo2"), peft_config=config)
    assert config.target_modules is None


def test_targets_that_peft_knows_or_that_are_named_stay() -> None:
    known = policy_of(build_family("llama"), peft_config=LoraConfig(r=2))
    named = policy_of(build_family("olmo2"), peft_config=LoraConfig(r=2, target_modules=["down_proj"]))
    assert known.model.peft_config["default"].target_modules == {"q_proj", "v_proj"}
    assert named.model.peft_config["default"].target_modules == {"down_proj"}


def test_adapters_without_targets_where_there_is_no_attention() -> None:
    message = r"LoraConfig names no target_modules, and Mamba2ForCausalLM has no layers of attention .*'mixer.in_proj'"
    with pytest.raises(ValueError, match=message):
        policy_of(build_family("mamba2"), peft_config=LoraConfig(r=2))


HEADS: dict[str, dict[str, Any]] = {
    "falcon_h1": {"lm_head_multiplier": 0.25},
    "llama4_text": {},
    "modernbert-decoder": {},
    "mamba2": {},
    "minicpm3": {"dim_model_base": 8},
    "recurrent_gemma": {"logits_soft_cap": 2.0},
    "xlstm": {"output_logit_soft_cap": 2.0},
    "roberta": {"pad_token_id": 1},
}


@pytest.mark.filterwarnings("ignore:(RecurrentGemma|xLSTM)ForCausalLM does not go on from a cache")
@pytest.mark.parametrize("family", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_are_described_exactly(family: str, dtype: torch.dtype) -> None:
    model = build_family(family, dtype=dtype, **HEADS[family])
    policy = policy_of(model)
    assert policy.fuses_head
    prompts, completions = ["1+2=", "7", "12+34="], random_completions(3)
    with torch.no_grad():
        found = policy.evaluate_actions(policy.encode_actions(prompts, completions))
        log_probs, entropy = plain_evaluation(model, prompts, completions)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(found.log_probs, log_probs.float(), rtol=tolerance, atol=tolerance)
    assert found.entropy is not None
    torch.testing.assert_close(found.entropy, entropy.float(), rtol=tolerance, atol=tolerance)


def test_the_output_layer_is_as_before_after_it_was_listened_to() -> None:
    model = build_family("llama")
    model.lm_head.forward = own = lambda states: nn.functional.linear(states, model.lm_head.weight)
    policy = policy_of(model)
    policy.evaluate_actions(policy.encode_actions(["1"], [Completion((2, 3), "01")]))
    assert model.lm_head.forward is own
    assert model(input_ids=torch.tensor([[1, 2]])).logits.shape == (1, 2, VOCABULARY_SIZE)
