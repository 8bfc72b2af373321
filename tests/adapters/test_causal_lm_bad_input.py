"""Bad input to language models: what is wrong, where, and how to go on; nothing has changed, the next step works."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from language_models import (
    CHARACTERS,
    CONTEXT,
    PROMPTS,
    VOCABULARY_SIZE,
    ShareOf,
    build_model,
    build_policy,
    build_tokenizer,
    plain_evaluation,
    random_completions,
)
from models import parameter_values
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from grpo import GRPOConfig, GRPOTrainer, NonFiniteError, PPOConfig, PPOTrainer
from grpo_adapters.huggingface import (
    CausalLMActorCritic,
    CausalLMPolicy,
    Completion,
    SamplingConfig,
    character_tokenizer,
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft

LORA = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
PROMPT_TUNING = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
PREFIX_TUNING = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
BODY = GPT2Config(vocab_size=VOCABULARY_SIZE, n_embd=8, n_layer=1, n_head=1)
ENCODER_DECODER = T5Config(vocab_size=VOCABULARY_SIZE, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)


def bidirectional(initializer_range: float) -> BertLMHeadModel:
    config = BertConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=initializer_range,
    )
    return BertLMHeadModel(config)


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: CausalLMPolicy(build_model()),
        TypeError,
        r"tokenizer is a NoneType, expected a transformers tokenizer: .*AutoTokenizer\.from_pretrained",
    ),
    (
        lambda: CausalLMPolicy(build_model(), CHARACTERS),  # type: ignore[arg-type]
        TypeError,
        r"tokenizer is a str, expected a transformers tokenizer",
    ),
    (
        lambda: CausalLMPolicy(build_model(), character_tokenizer(CHARACTERS + "xyz")),
        ValueError,
        rf"the tokenizer has {VOCABULARY_SIZE + 3} tokens, the model embeds {VOCABULARY_SIZE}: .*"
        rf"resize_token_embeddings\({VOCABULARY_SIZE + 3}\)",
    ),
    (
        lambda: build_policy(dtype=torch.bfloat16),
        ValueError,
        r"dtype=torch\.bfloat16 is for a model that is loaded here: call model\.to\(torch\.bfloat16\)",
    ),
    (
        lambda: build_policy(peft_config={"r": 8}),
        TypeError,
        r"peft_config is a dict, expected a peft\.PeftConfig, such as peft\.LoraConfig",
    ),
    (
        lambda: build_policy(peft_config=PROMPT_TUNING),
        ValueError,
        r"PromptTuningConfig learns a prompt and no weights: .*peft\.LoraConfig",
    ),
    (lambda: build_policy(peft_config=PREFIX_TUNING), ValueError, r"PrefixTuningConfig learns a prompt"),
    (
        lambda: build_policy(model=get_peft_model(build_model(), PROMPT_TUNING)),
        ValueError,
        r"PromptTuningConfig learns a prompt",
    ),
    (
        lambda: build_policy(model=get_peft_model(build_model(), LORA), peft_config=LORA),
        ValueError,
        r"the model has adapters already, which will be trained: leave out peft_config",
    ),
    (
        lambda: CausalLMPolicy(42, build_tokenizer()),  # type: ignore[arg-type]
        TypeError,
        r"model is a int, expected .*AutoModelForCausalLM",
    ),
    (
        lambda: CausalLMPolicy(GPT2Model(BODY), build_tokenizer()),
        TypeError,
        r"GPT2Model.*AutoModelForCausalLM",
    ),
    (
        lambda: CausalLMPolicy(T5ForConditionalGeneration(ENCODER_DECODER), build_tokenizer()),
        TypeError,
        r"T5ForConditionalGeneration.*AutoModelForCausalLM",
    ),
    (
        lambda: CausalLMPolicy(bidirectional(0.5), build_tokenizer()),
        TypeError,
        r"BertLMHeadModel.*\bis_decoder",
    ),
    (
        lambda: CausalLMPolicy(bidirectional(0.02), build_tokenizer()),
        TypeError,
        r"BertLMHeadModel.*\bis_decoder",
    ),
    (
        lambda: PPOTrainer(PPOConfig(), build_policy(), ShareOf()),
        TypeError,
        r"needs a critic, but policy CausalLMPolicy has none",
    ),
]


@pytest.mark.parametrize(("build", "error", "message"), WRONG)
def test_wrong_models(build: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_a_refused_method_leaves_the_model_as_it_was() -> None:
    model = build_model()
    with pytest.raises(ValueError, match="learns a prompt"):
        build_policy(model=model, peft_config=PROMPT_TUNING)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert trainer_of(build_policy(model=model)).step(PROMPTS)["num_updates"] == 1


def test_a_name_that_is_not_to_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for tokenizer in (None, build_tokenizer()):
        with pytest.raises(OSError, match=r"nobody/no-such-model.* hf download nobody/no-such-model") as raised:
            CausalLMPolicy("nobody/no-such-model", tokenizer)
        assert "HF_HOME" in str(raised.value)


def test_folders_without_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"there is no folder .*nowhere"):
        CausalLMPolicy(tmp_path / "nowhere", build_tokenizer())
    build_model().save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"holds no tokenizer: .*tokenizer="):
        CausalLMPolicy(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"holds no weights"):
        CausalLMPolicy(tmp_path, build_tokenizer())


def test_a_folder_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With adapters and a value head too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    build_policy().save_pretrained(tmp_path / "base")
    critic = CausalLMActorCritic("~/base", peft_config=LORA)
    with torch.no_grad():
        critic.value_head.weight.fill_(1.0)
    critic.save_pretrained("~/adapters")
    assert (tmp_path / "adapters" / "adapter_config.json").is_file()
    loaded = CausalLMActorCritic("~/adapters")
    assert loaded.value_head.weight.all()
    trainable = {name for name, value in loaded.get_parameters().items() if value.requires_grad}
    assert trainable == {name for name, value in critic.get_parameters().items() if value.requires_grad}


def test_code_that_comes_with_a_model_is_never_executed(tmp_path: Path) -> None:
    """Neither the model's nor the tokenizer's, unless that is asked for."""
    policy = build_policy()
    policy.save_pretrained(tmp_path)
    executed = tmp_path / "executed"
    code = (
        f"open({str(executed)!r}, 'w').close()\nfrom transformers import GPT2Config as Own, GPT2LMHeadModel as Model\n"
    )
    (tmp_path / "own.py").write_text(code)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(OSError, match=r"needs Python code that comes with it.* trust_remote_code=True"):
        CausalLMPolicy(tmp_path, build_tokenizer())
    with pytest.raises(OSError, match=r"trust_remote_code=True"):
        CausalLMPolicy(tmp_path)
    assert not executed.exists()


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    policy = build_policy()
    policy.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(policy.causal_model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="pickle"):
        CausalLMPolicy(tmp_path)


def trainer_of(policy: Any, **config: Any) -> GRPOTrainer[Any, Any]:
    return GRPOTrainer(GRPOConfig(**({"group_size": 2} | config)), policy, ShareOf())


def of_lengths(*lengths: int) -> list[str]:
    return ["1" * length for length in lengths]


CHAT = [{"role": "user", "content": "1+2="}]
WRONG_STATES: list[tuple[Any, type[Exception], str]] = [
    (["1", ""], ValueError, r"the prompt of state 1 has no token: .* such as its beginning-of-text token '<end>'"),
    ([{"prompt": ""}], ValueError, r"the prompt of state 0 has no token"),
    (
        of_lengths(3, CONTEXT - 7),
        ValueError,
        rf"the prompt of state 1 has {CONTEXT - 7} tokens, expected at most {CONTEXT - 8}, .*lower max_new_tokens.*'11",
    ),
    (
        ["1", CHAT],
        ValueError,
        r"state 1 is made of chat messages, but the tokenizer has no chat template: .* string",
    ),
    (["1", 7], TypeError, r"state 1 is a int, expected a string, a list of chat messages"),
    ([None], TypeError, r"state 0 is a NoneType, expected a string"),
    ([b"1"], TypeError, r"state 0 is a bytes, expected a string"),
    ([{"question": "1"}], TypeError, r"state 0 is a row with the columns \['question'\], expected"),
    ([{"prompt": None}], TypeError, r"column 'prompt' of state 0 is a NoneType, expected"),
    ([CHAT[0]], TypeError, r"a chat message alone is no state, put it in a list"),
    ([[{"role": "user"}]], TypeError, r"message 0 of state 0 has content of type NoneType"),
    ([[]], TypeError, r"state 0 is an empty list"),
    ([["1"]], TypeError, r"message 0 of state 0 is '1', expected"),
    ("1+2=", TypeError, r"states is a str, expected a batch"),
    ([], ValueError, r"states is empty"),
]


@pytest.mark.parametrize(("states", "error", "message"), WRONG_STATES)
def test_wrong_states(states: Any, error: type[Exception], message: str) -> None:
    policy = build_policy()
    trainer = trainer_of(policy)
    before = parameter_values(policy.get_parameters())
    with pytest.raises(error, match=message):
        trainer.step(states)
    assert all(torch.equal(value, before[name]) for name, value in policy.get_parameters().items())
    assert trainer.step(PROMPTS)["num_updates"] == 1


def test_the_longest_prompt_that_there_is_room_for() -> None:
    policy = build_policy()
    policy.causal_model.generation_config.eos_token_id = None
    metrics = trainer_of(policy).step(of_lengths(CONTEXT - 8, 2))
    assert metrics["num_updates"] == 1


def test_no_room_for_a_prompt() -> None:
    trainer = trainer_of(build_policy())
    for tokens in (CONTEXT, CONTEXT + 1):
        with pytest.raises(ValueError, match=rf"max_new_tokens is {tokens}, expected less than the model's context"):
            trainer.step(PROMPTS, max_new_tokens=tokens)
    assert trainer.step(PROMPTS)["num_updates"] == 1


def completion_of(*token_ids: int) -> Completion:
    return Completion(token_ids, "")


WRONG_ACTIONS: list[tuple[Any, type[Exception], str]] = [
    ([completion_of(2), completion_of()], ValueError, r"completion 1 has no token, expected at least one"),
    ([completion_of(2), "12"], TypeError, r"1 is a str, expected a Completion"),
    ([completion_of(2), (2, 3)], TypeError, r"1 is a tuple, expected a Completion"),
    ([completion_of(2)], ValueError, r"\b2\b.*\b1\b"),
    ([completion_of(2), completion_of(3, VOCABULARY_SIZE)], ValueError, rf"completion 1 .*\b{VOCABULARY_SIZE}\b"),
    ([completion_of(2), completion_of(-1)], ValueError, r"completion 1 .*-1"),
    (
        [completion_of(2), completion_of(*[2] * CONTEXT)],
        ValueError,
        rf"completion 1 have . and {CONTEXT} tokens",
    ),
]


@pytest.mark.parametrize(("actions", "error", "message"), WRONG_ACTIONS)
def test_wrong_actions(actions: Any, error: type[Exception], message: str) -> None:
    policy = build_policy()
    with pytest.raises(error, match=message):
        policy.get_log_probabilities(["1", "2"], actions)
    assert policy.get_log_probabilities(["1"], [completion_of(2)]).shape == (1,)


def endless_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)


def test_a_tokenizer_without_an_end_or_padding() -> None:
    tokenizer = endless_tokenizer()
    assert tokenizer.pad_token is None
    assert tokenizer.eos_token is None
    model = build_model()
    model.generation_config.eos_token_id = None
    with pytest.warns(
        UserWarning, match="neither the tokenizer nor the model has an end token: .*stop_strings"
    ) as seen:
        policy = build_policy(model=model, tokenizer=tokenizer)
    assert len(seen) == 1
    assert seen[0].filename == str(Path(build_policy.__code__.co_filename))
    metrics = [trainer_of(policy).step(PROMPTS) for _ in range(2)]
    assert metrics[0]["completions/min_length"] == metrics[0]["completions/max_length"] == 8
    with pytest.raises(ValueError, match="the prompt of state 0 has no token"):
        policy.complete([""])


@pytest.mark.parametrize(
    ("tokenizer", "end", "stop_strings"),
    [(endless_tokenizer(), 0, ()), (build_tokenizer(), None, ()), (endless_tokenizer(), None, ("7",))],
)
def test_one_kind_of_end_is_enough(tokenizer: Any, end: int | None, stop_strings: tuple[str, ...]) -> None:
    model = build_model()
    model.generation_config.eos_token_id = end
    sampling = SamplingConfig(max_new_tokens=30, stop_strings=stop_strings)
    policy = build_policy(model=model, tokenizer=tokenizer, sampling=sampling)
    [group] = policy.generate_actions(["1"], 40)
    assert any(completion.ended for completion in group)


def test_a_tokenizer_may_be_smaller_than_the_model() -> None:
    """Embeddings are often rounded up; the tokens beyond the tokenizer have no text."""
    policy = build_policy(model=build_model(vocab_size=VOCABULARY_SIZE + 7))
    assert trainer_of(policy).step(PROMPTS)["num_updates"] == 1
    completions = [group[0] for group in policy.generate_actions(PROMPTS, 1)]
    assert policy.get_log_probabilities(PROMPTS, completions).shape == (4,)


def test_completions_that_are_nothing_but_their_end() -> None:
    """A step works: each completion is one decision, and nobody knows better than another."""
    model = build_model("gpt_neox")
    with torch.no_grad():
        model.gpt_neox.final_layer_norm.weight.zero_()
        model.gpt_neox.final_layer_norm.bias.fill_(1.0)
        model.get_output_embeddings().weight.zero_()
        model.get_output_embeddings().weight[0] = 5.0
    policy = build_policy(model=model)
    before = parameter_values(policy.get_parameters())
    trainer = trainer_of(policy)
    metrics = trainer.step(PROMPTS)
    assert metrics["completions/max_length"] == 1
    assert metrics["num_decisions"] == 8
    assert metrics["frac_reward_zero_std"] == 1
    assert metrics["loss"] == 0
    assert all(torch.equal(value, before[name]) for name, value in policy.get_parameters().items())
    assert policy.complete(PROMPTS) == [Completion((0,), "", True)] * 4


def test_a_temperature_of_0_is_for_evaluation() -> None:
    policy = build_policy(sampling=SamplingConfig(temperature=0.0, max_new_tokens=8))
    before = parameter_values(policy.get_parameters())
    trainer = trainer_of(policy)
    with pytest.raises(ValueError, match=r"temperature=0 is for evaluation: .*no log-probs"):
        trainer.step(PROMPTS)
    assert all(torch.equal(value, before[name]) for name, value in policy.get_parameters().items())
    [group] = policy.generate_actions(PROMPTS[:1], 3)
    assert set(group) == set(policy.complete(PROMPTS[:1]))


class Transformed(GPT2LMHeadModel):
    """Makes something of its logits that no config tells."""

    factor = 1.5

    def forward(self, input_ids: Any = None, past_key_values: Any = None, **options: Any) -> Any:
        output = super().forward(input_ids, past_key_values, **options)
        return SimpleNamespace(logits=output.logits * self.factor, past_key_values=output.past_key_values)


class HardlyTransformed(Transformed):
    factor = 1.05


def transformed(kind: type[Transformed], dtype: torch.dtype = torch.float32) -> Any:
    model = build_model()
    model.__class__ = kind
    return model.to(dtype)


@pytest.mark.parametrize("kind", [Transformed, HardlyTransformed])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_logits_that_are_not_those_of_the_head(kind: type[Transformed], dtype: torch.dtype) -> None:
    """They are computed in full, which is said once, and log-probs are theirs."""
    model = transformed(kind, dtype)
    with pytest.warns(UserWarning, match=r"the logits of \w*Transformed are not a linear layer.*more memory") as seen:
        policy = build_policy(model=model)
    assert len(seen) == 1
    assert seen[0].filename == str(Path(build_policy.__code__.co_filename))
    assert not policy.fuses_head
    states, completions = PROMPTS * 2, random_completions(8)
    evaluation = policy.evaluate_actions(policy.encode_actions(states, completions))
    log_probs, entropy = plain_evaluation(policy.causal_model, states, completions)
    tolerance = 1e-5 if dtype != torch.bfloat16 else 0.2
    torch.testing.assert_close(
        evaluation.log_probs, log_probs.to(evaluation.log_probs.dtype), atol=tolerance, rtol=1e-5
    )
    torch.testing.assert_close(evaluation.entropy, entropy.to(evaluation.log_probs.dtype), atol=tolerance, rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trainer_of(policy, micro_batch_size=3).step(PROMPTS)["num_updates"] == 1


def test_a_critic_needs_the_hidden_states() -> None:
    with (
        pytest.warns(UserWarning, match="are not a linear layer"),
        pytest.raises(TypeError, match=r"Transformed is no body with a linear head, .*: use CausalLMPolicy"),
    ):
        build_policy(model=transformed(Transformed), kind=CausalLMActorCritic)


def test_adapters_on_the_head_itself() -> None:
    """The head is then no plain linear layer, and the reference is the model without them all the same."""
    config = LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
    with pytest.warns(UserWarning, match="are not a linear layer"):
        policy = build_policy("llama", peft_config=config)
    states, completions = PROMPTS * 2, random_completions(8)
    batch = policy.encode_actions(states, completions)
    log_probs, _ = plain_evaluation(policy.causal_model, states, completions)
    torch.testing.assert_close(policy.evaluate_actions(batch).log_probs, log_probs, atol=1e-5, rtol=1e-5)
    expected, _ = plain_evaluation(build_model("llama"), states, completions)
    found = policy.reference().evaluate_actions(batch).log_probs
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - log_probs).abs().max() > 1e-2


@pytest.mark.parametrize("target", ["wte", "embed_tokens"])
def test_adapters_on_embeddings_that_are_the_head_too(target: str) -> None:
    family = {"wte": "gpt2", "embed_tokens": "gemma2"}[target]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # by peft
        warnings.filterwarnings("ignore", message=".*are not a linear layer")
        config = LoraConfig(r=2, target_modules=[target], init_lora_weights=False)
        policy = build_policy(family, peft_config=config)
    states, completions = PROMPTS * 2, random_completions(8)
    batch = policy.encode_actions(states, completions)
    log_probs, _ = plain_evaluation(policy.causal_model, states, completions)
    torch.testing.assert_close(policy.evaluate_actions(batch).log_probs, log_probs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("non_finite", ["raise", "skip"])
def test_a_model_whose_weights_are_no_numbers(non_finite: str) -> None:
    policy = build_policy()
    trainer = trainer_of(policy, non_finite=non_finite)
    weight = policy.causal_model.transformer.h[0].mlp.c_fc.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = torch.nan
    before = parameter_values(policy.get_parameters())
    if non_finite == "raise":
        with pytest.raises(NonFiniteError, match="logits"):
            trainer.step(PROMPTS)
    else:
        assert trainer.step(PROMPTS) == {"num_updates": 0.0, "skipped_updates": 1.0}
    for name, value in policy.get_parameters().items():
        torch.testing.assert_close(value.detach(), before[name], equal_nan=True, rtol=0, atol=0)
    with torch.no_grad():
        weight.copy_(kept)
    assert trainer.step(PROMPTS)["num_updates"] == 1


def test_a_bonus_for_entropy_that_is_not_told() -> None:
    policy = build_policy(with_entropy=False)
    trainer = trainer_of(policy, entropy_coefficient=0.1)
    with pytest.raises(ValueError, match="entropy"):
        trainer.step(PROMPTS)
    assert trainer_of(policy).step(PROMPTS)["num_updates"] == 1


def test_rewards_that_are_no_numbers() -> None:
    class FailsAtFirst(ShareOf):
        calls = 0

        def compute_rewards(self, states: Any, actions: Any) -> torch.Tensor:
            self.calls += 1
            rewards = super().compute_rewards(states, actions)
            return rewards * torch.nan if self.calls == 1 else rewards

    policy = build_policy()
    before = parameter_values(policy.get_parameters())
    trainer = GRPOTrainer(GRPOConfig(group_size=2), policy, FailsAtFirst())
    with pytest.raises(NonFiniteError, match="compute_rewards returned nan for sample 0"):
        trainer.step(PROMPTS)
    assert all(torch.equal(value, before[name]) for name, value in policy.get_parameters().items())
    assert trainer.step(PROMPTS)["num_updates"] == 1


def test_a_whole_model_does_not_go_where_an_adapter_would_be_loaded_in_its_place(tmp_path: Path) -> None:
    build_model().save_pretrained(tmp_path / "base")
    build_tokenizer().save_pretrained(tmp_path / "base")
    adapted = CausalLMPolicy(tmp_path / "base", peft_config=LORA)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.save_pretrained(tmp_path / "adapter")
    whole = build_policy()
    with pytest.raises(ValueError, match=r"adapter holds an adapter, which would be loaded .*: take another folder"):
        whole.save_pretrained(tmp_path / "adapter")
    whole.save_pretrained(tmp_path / "base")


def test_an_adapter_that_was_merged_is_not_written_as_one_without_weights(tmp_path: Path) -> None:
    policy = build_policy(peft_config=LORA)
    merged = policy.model.merge_and_unload()
    with pytest.raises(ValueError, match=r"has no weights left.*save what merge_and_unload\(\) returned"):
        policy.save_pretrained(tmp_path / "taught")
    assert not (tmp_path / "taught").exists()
    merged.save_pretrained(tmp_path / "merged")
    policy.tokenizer.save_pretrained(tmp_path / "merged")
    assert CausalLMPolicy(tmp_path / "merged").get_parameters()


def test_a_config_of_adapters_stays_as_it_was_given_and_serves_again() -> None:
    given = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    before = given.to_dict()
    for name in ("first", "second"):
        model = build_model()
        model.name_or_path = name
        build_policy(model=model, peft_config=given)
    assert given.to_dict() == before
