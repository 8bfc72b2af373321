"""Reward models of Hugging Face: what they read, that padding changes nothing, and what is refused when loading."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from grpo import RewardModel, check_reward_model
from grpo_adapters.huggingface import (
    Completion,
    FunctionReward,
    ModelNotFoundError,
    SequenceClassificationReward,
    UnsafeModelError,
)
from grpo_adapters.huggingface.models.loading import load_pretrained

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<user>", "<assistant>", "<end>"]
WORDS = [*SPECIAL, *(f"w{number}" for number in range(40))]
TEMPLATE = (
    "[CLS]{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    " <{{ message.role }}> {{ message.content }} <end>{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "num_labels": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PROMPTS = ["w1 w2", "w3", "w4 w5 w6 w7 w8 w9"]
COMPLETIONS = [Completion((1,), f" {text}") for text in ("w10", "w11 w12 w13 w14", "w15 w16")]
CHAT = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]


def tokenizer_of(kind: str, **options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of words: that of an encoder, of a decoder with a chat template, or plain."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [("[CLS]", 1), ("[SEP]", 2)]
    if kind == "encoder":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
        )
        named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    elif kind == "plain":
        named = {"pad_token": "[PAD]"}
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A", pair="[CLS] $A $B:1", special_tokens=special
        )
        named = {"bos_token": "[CLS]", "eos_token": "<end>", "pad_token": "[PAD]", "chat_template": TEMPLATE}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", model_input_names=names, **(named | options)
    )


def encoder(**options: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**(SIZES | options)))


def decoder(**options: Any) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    return LlamaForSequenceClassification(LlamaConfig(**(SIZES | options)))


def pairs_reward(**options: Any) -> SequenceClassificationReward:
    return SequenceClassificationReward(encoder(), tokenizer_of("encoder"), **options)


def chat_reward(**options: Any) -> SequenceClassificationReward:
    return SequenceClassificationReward(decoder(pad_token_id=0), tokenizer_of("decoder"), **options)


def words_read(reward: SequenceClassificationReward, states: list[Any], actions: list[Completion]) -> list[str]:
    """What the model is given, one text for each sample, padding left out; one sample at a time."""
    texts: list[str] = []

    def note(module: nn.Module, positional: Any, inputs: dict[str, Any]) -> None:
        row = inputs["input_ids"][0][inputs["attention_mask"][0] > 0]
        texts.append(" ".join(WORDS[token] for token in row))

    reward.batch_size = 1
    reward.model.register_forward_pre_hook(note, with_kwargs=True)
    for state, action in zip(states, actions, strict=True):
        reward.compute_rewards([state], [action])
    return texts


def test_pairs_are_scored_as_the_model_cards_of_encoders_do() -> None:
    reward, tokenizer = pairs_reward(), tokenizer_of("encoder")
    assert reward.pairs
    with torch.no_grad():
        expected = [
            reward.model(**tokenizer(prompt, completion.text, return_tensors="pt")).logits[0, 0]
            for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)
        ]
    torch.testing.assert_close(reward.compute_rewards(PROMPTS, COMPLETIONS), torch.stack(expected))
    torch.testing.assert_close(reward.compute_rewards(CHAT, COMPLETIONS), torch.stack(expected))
    rows = [{"prompt": prompt, "answer": 1} for prompt in PROMPTS]
    torch.testing.assert_close(reward.compute_rewards(rows, COMPLETIONS), torch.stack(expected))


def test_chats_are_scored_as_the_model_cards_of_decoders_do() -> None:
    reward, tokenizer = chat_reward(), tokenizer_of("decoder")
    assert not reward.pairs
    expected = []
    for prompt, completion in zip(CHAT, COMPLETIONS, strict=True):
        conversation = [*prompt, {"role": "assistant", "content": completion.text}]
        token_ids = tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            expected.append(reward.model(token_ids).logits[0, 0])
    rewards = reward.compute_rewards(CHAT, COMPLETIONS)
    assert rewards.dtype == torch.float32
    assert not rewards.requires_grad
    torch.testing.assert_close(rewards, torch.stack(expected))


def test_what_the_model_reads() -> None:
    assert words_read(chat_reward(), [CHAT[0], "w1 w2"], COMPLETIONS[:2]) == [
        "[CLS] <user> w1 w2 <end> <assistant> w10 <end>",
        "[CLS] w1 w2 w11 w12 w13 w14",
    ]
    begun = [*CHAT[0], {"role": "assistant", "content": "w20"}]
    assert words_read(chat_reward(), [begun], COMPLETIONS[:1]) == ["[CLS] <user> w1 w2 <end> <assistant> w20 w10 <end>"]
    assert words_read(pairs_reward(), ["w1 w2"], COMPLETIONS[:1]) == ["[CLS] w1 w2 [SEP] w10 [SEP]"]
    assert words_read(pairs_reward(pairs=False), ["w1 w2"], COMPLETIONS[:1]) == ["[CLS] w1 w2 w10 [SEP]"]


def test_what_is_too_long_loses_the_beginning_of_the_prompt_first() -> None:
    prompt = " ".join(f"w{number}" for number in range(20))
    short, long = Completion((1,), " w30 w31"), Completion((1,), " ".join(f"w{number}" for number in range(20, 40)))
    assert words_read(pairs_reward(max_length=8), [prompt, prompt], [short, long]) == [
        "[CLS] w17 w18 w19 [SEP] w30 w31 [SEP]",
        "[CLS] [SEP] w35 w36 w37 w38 w39 [SEP]",
    ]
    chat = [{"role": "user", "content": prompt}]
    assert words_read(chat_reward(max_length=8), [chat, prompt], [short, long]) == [
        "[CLS] w18 w19 <end> <assistant> w30 w31 <end>",
        "[CLS] w33 w34 w35 w36 w37 w38 w39",
    ]


@pytest.mark.parametrize(
    ("model_limit", "tokenizer_limit", "expected"), [(32, 16, 16), (16, 32, 16), (32, int(1e30), 32), (1024, 512, 512)]
)
def test_the_limit_is_the_least_of_the_models_and_the_tokenizers(
    model_limit: int, tokenizer_limit: int, expected: int
) -> None:
    tokenizer = tokenizer_of("encoder", model_max_length=tokenizer_limit)
    model = encoder(max_position_embeddings=model_limit)
    reward = SequenceClassificationReward(model, tokenizer)
    assert reward.max_length == expected
    assert SequenceClassificationReward(model, tokenizer, max_length=9).max_length == 9
    endless = Completion((1,), "w1 " * 5000)
    assert reward.compute_rewards(["w2"], [endless]).isfinite().all()


REWARDS: dict[str, Callable[..., SequenceClassificationReward]] = {"pairs": pairs_reward, "chat": chat_reward}


@cache
def built_reward(kind: str) -> SequenceClassificationReward:
    """One for all examples of Hypothesis."""
    return REWARDS[kind]()


texts = st.lists(st.sampled_from(WORDS[7:]), min_size=1, max_size=12).map(" ".join)


@pytest.mark.parametrize("kind", REWARDS)
@given(samples=st.lists(st.tuples(texts, texts), min_size=1, max_size=9), batch_size=st.integers(1, 10))
def test_neither_the_batch_nor_the_order_changes_a_reward(
    kind: str, samples: list[tuple[str, str]], batch_size: int
) -> None:
    states: list[Any] = [[{"role": "user", "content": prompt}] for prompt, _ in samples]
    actions = [Completion((1,), text) for _, text in samples]
    reward = built_reward(kind)
    reward.batch_size = 1
    alone = reward.compute_rewards(states, actions)
    reward.batch_size = batch_size
    torch.testing.assert_close(reward.compute_rewards(states, actions), alone, rtol=1e-5, atol=1e-6)
    backwards = reward.compute_rewards(states[::-1], actions[::-1]).flip(0)
    torch.testing.assert_close(backwards, alone, rtol=1e-5, atol=1e-6)


def test_rows_are_filled_up_with_the_token_that_the_model_looks_for() -> None:
    alone = SequenceClassificationReward(decoder(pad_token_id=0), tokenizer_of("decoder"), batch_size=1)
    expected = alone.compute_rewards(CHAT, COMPLETIONS)
    other = SequenceClassificationReward(decoder(pad_token_id=0), tokenizer_of("decoder", pad_token="w39"))
    torch.testing.assert_close(other.compute_rewards(CHAT, COMPLETIONS), expected)
    told = SequenceClassificationReward(decoder(pad_token_id=None), tokenizer_of("decoder"))
    assert told.model.config.pad_token_id == 0
    torch.testing.assert_close(told.compute_rewards(CHAT, COMPLETIONS), expected)


def test_without_a_padding_token_the_end_token_serves_and_it_is_said() -> None:
    tokenizer = tokenizer_of("decoder", pad_token=None)
    with pytest.warns(
        UserWarning, match=r"neither the reward model nor its tokenizer has a padding token: its end"
    ) as told:
        reward = SequenceClassificationReward(decoder(pad_token_id=None), tokenizer)
    assert told[0].filename == __file__
    together = reward.compute_rewards(CHAT, COMPLETIONS)
    reward.batch_size = 1
    torch.testing.assert_close(reward.compute_rewards(CHAT, COMPLETIONS), together)


def test_it_is_a_frozen_reward_model() -> None:
    reward = SequenceClassificationReward(encoder(hidden_dropout_prob=0.5).train(), tokenizer_of("encoder"))
    assert isinstance(reward, RewardModel)
    check_reward_model(reward, PROMPTS, COMPLETIONS)
    assert not reward.train().model.training
    first, second = (reward.compute_rewards(PROMPTS, COMPLETIONS) for _ in range(2))
    assert torch.equal(first, second)
    reward.to("cpu").eval()


def test_a_label_chooses_the_output() -> None:
    model = encoder(num_labels=3)
    reward = SequenceClassificationReward(model, tokenizer_of("encoder"), label=2)
    inputs = tokenizer_of("encoder")(PROMPTS[0], COMPLETIONS[0].text, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits[:, 2]
    torch.testing.assert_close(reward.compute_rewards(PROMPTS[:1], COMPLETIONS[:1]), expected)


def with_adapters(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
@pytest.mark.parametrize("wrap", [with_adapters, lambda model: torch.compile(model, backend="eager")])
def test_a_model_with_adapters_or_a_compiled_one_reads_the_same(wrap: Callable[[Any], Any]) -> None:
    expected = pairs_reward().compute_rewards(PROMPTS, COMPLETIONS)
    reward = SequenceClassificationReward(wrap(encoder()), tokenizer_of("encoder"))
    torch.testing.assert_close(reward.compute_rewards(PROMPTS, COMPLETIONS), expected)


class Strict(LlamaForSequenceClassification):
    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        return super().forward(input_ids, attention_mask)


def test_a_model_is_given_only_what_it_reads() -> None:
    tokenizer = tokenizer_of("decoder")
    assert "token_type_ids" in tokenizer("w1")
    build: Any = Strict
    strict = build(LlamaConfig(**(SIZES | {"pad_token_id": 0})))
    assert SequenceClassificationReward(strict, tokenizer).compute_rewards(CHAT, COMPLETIONS).isfinite().all()


def test_half_precision_gives_rewards_in_full() -> None:
    reward = chat_reward()
    reward.model.to(torch.bfloat16)
    assert reward.compute_rewards(CHAT, COMPLETIONS).dtype == torch.float32


@pytest.mark.parametrize("states", [PROMPTS, CHAT])
def test_its_score_can_be_one_of_several(states: list[Any]) -> None:
    def brief(completions: list[Any]) -> list[float]:
        return [-1.0] * len(completions)

    reward = chat_reward()
    both = FunctionReward([reward, brief], weights=[2.0, 1.0])
    both.to("cpu")
    rewards = both.compute_rewards(states, COMPLETIONS)
    torch.testing.assert_close(rewards, 2 * reward.compute_rewards(states, COMPLETIONS) - 1)
    assert "rewards/SequenceClassificationReward/mean" in both.get_metrics()


SYSTEM = [{"role": "system", "content": "w1"}, {"role": "user", "content": "w2"}]
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: SequenceClassificationReward(encoder(num_labels=2), tokenizer_of("encoder")),
        ValueError,
        r"BertForSequenceClassification has num_labels=2, expected 1, the reward: tell which .* by label=0 to 1",
    ),
    (lambda: pairs_reward(label=1), ValueError, r"label is 1, expected 0 to 0: BertForSequenceClassification has 1"),
    (lambda: pairs_reward(batch_size=0), ValueError, r"batch_size is 0, expected at least 1"),
    (lambda: pairs_reward(max_length=3), ValueError, r"max_length is 3, expected at least 8 tokens"),
    (lambda: pairs_reward(dtype=torch.float16), ValueError, r"dtype=torch\.float16 is for a model that is loaded here"),
    (lambda: SequenceClassificationReward(encoder()), TypeError, r"tokenizer is a NoneType, expected a transformers"),
    (
        lambda: SequenceClassificationReward(nn.Linear(1, 1), tokenizer_of("encoder")),
        TypeError,
        r"model is a Linear, expected a name, a folder, or a model that AutoModelForSequenceClassification loads",
    ),
    (
        lambda: SequenceClassificationReward(
            LlamaForCausalLM(LlamaConfig(**SIZES)), tokenizer_of("decoder")
        ).compute_rewards(PROMPTS, COMPLETIONS),
        TypeError,
        r"LlamaForCausalLM puts out logits of shape \[3, \d+, 47\], expected .*AutoModelForSequenceClassification",
    ),
    (
        lambda: SequenceClassificationReward(
            decoder(pad_token_id=None), tokenizer_of("decoder", pad_token=None, eos_token=None)
        ),
        ValueError,
        r"neither the reward model nor its tokenizer has a padding token or an end token: set model\.config\.pad_token",
    ),
    (
        lambda: pairs_reward().compute_rewards([SYSTEM], COMPLETIONS[:1]),
        ValueError,
        r"the prompt of sample 0 has 2 chat messages, but this reward model reads pairs",
    ),
    (
        lambda: pairs_reward(pairs=False).compute_rewards([CHAT[0]], COMPLETIONS[:1]),
        ValueError,
        r"the prompt of sample 0 is made of chat messages, but the reward model's tokenizer has no chat template: set",
    ),
    (
        lambda: chat_reward().compute_rewards([CHAT[0], SYSTEM], COMPLETIONS[:2]),
        ValueError,
        r"chat template refuses the messages of sample 1, prompt 'w2', completion ' w11 w12 w13 w14': no system role",
    ),
    (
        lambda: SequenceClassificationReward(decoder(), tokenizer_of("plain")).compute_rewards(
            ["w1", ""], [Completion((1,), ""), Completion((1,), "")]
        ),
        ValueError,
        r"sample 1 has no token for the reward model to read: prompt '', completion ''",
    ),
]


@pytest.mark.parametrize(("act", "error", "message"), WRONG)
def test_what_goes_wrong_says_how_to_go_on(act: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        act()


def saved(folder: Path, model: Any, tokenizer: Any = None) -> Path:
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def test_a_folder_is_loaded_with_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "reward", decoder(pad_token_id=0), tokenizer_of("decoder"))
    expected = chat_reward().compute_rewards(CHAT, COMPLETIONS)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (folder, str(folder), "~/reward"):
        reward = SequenceClassificationReward(name)
        torch.testing.assert_close(reward.compute_rewards(CHAT, COMPLETIONS), expected)
    half = SequenceClassificationReward(folder, dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16


def test_a_model_without_the_head_is_no_reward_model(tmp_path: Path) -> None:
    folder = saved(tmp_path, LlamaForCausalLM(LlamaConfig(**SIZES)), tokenizer_of("decoder"))
    with pytest.raises(
        ValueError, match=r"has no weights for score\.weight of LlamaForSequenceClassification, so they "
    ):
        SequenceClassificationReward(folder)
    model = load_pretrained(AutoModelForSequenceClassification, folder, allow_new_weights=True)
    assert isinstance(model, LlamaForSequenceClassification)


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    folder = saved(tmp_path, GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2)))
    assert isinstance(load_pretrained(AutoModelForCausalLM, folder), GPT2LMHeadModel)


@pytest.mark.parametrize("auto_class", [AutoModelForSequenceClassification, AutoTokenizer])
def test_a_name_that_is_nowhere_says_what_to_download(auto_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = r"'someone/rewarding' is no folder here.*run: hf download someone/rewarding --local-dir .*set HF_HOME"
    with pytest.raises(ModelNotFoundError, match=message):
        load_pretrained(auto_class, "someone/rewarding")


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", Path("/nowhere"), "some/deep/folder"])
def test_a_folder_that_is_not_there_is_no_name_to_look_up(name: Any) -> None:
    with pytest.raises(ModelNotFoundError, match=r"there is no folder '.*': pass the folder that holds config\.json"):
        load_pretrained(AutoTokenizer, name)


def pickled(folder: Path) -> None:
    model = decoder()
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def pickled_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    torch.save({}, folder / "adapter_model.bin")


def damaged(folder: Path) -> None:
    saved(folder, decoder())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


def unknown(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))


BROKEN: list[tuple[Callable[[Path], Any], type[Exception], str]] = [
    (lambda folder: None, ModelNotFoundError, r"folder '.*' holds no config\.json, so no model: pass the folder"),
    (
        lambda folder: decoder().config.save_pretrained(folder),
        ModelNotFoundError,
        r"folder '.*' holds no weights: put mo",
    ),
    (lambda folder: saved(folder, decoder()), ModelNotFoundError, r"holds no tokenizer: .* or pass tokenizer="),
    (damaged, ModelNotFoundError, r"weights of '.*' cannot be read \(.*\): download them anew"),
    (
        pickled,
        UnsafeModelError,
        r"the weights of folder '.*' are pickled, and to load a pickle is to run what is in it",
    ),
    (pickled_adapter, UnsafeModelError, r"the weights of folder '.*' are pickled"),
    (unknown, ValueError, r"does not recognize this architecture"),
]


@pytest.mark.parametrize(("prepare", "error", "message"), BROKEN)
def test_a_broken_folder_says_what_is_missing(
    prepare: Callable[[Path], Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    with pytest.raises(error, match=message):
        SequenceClassificationReward(tmp_path)


def test_pickles_from_the_hub_are_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--someone--rewarding"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123")
    pickled(repository / "snapshots" / "0123")
    with pytest.raises(UnsafeModelError, match=r"the weights of 'someone/rewarding' are not there as safetensors"):
        load_pretrained(AutoModelForSequenceClassification, "someone/rewarding", cache_dir=tmp_path)


def with_code(folder: Path, marker: Path) -> Path:
    """A model that is made by code in its folder, which writes a file when it runs."""
    folder.mkdir()
    auto_map = {"AutoConfig": "custom.CustomConfig", "AutoModelForSequenceClassification": "custom.CustomModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "custom-reward", "auto_map": auto_map}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["custom.Own", None]}}))
    (folder / "custom.py").write_text(f"open({str(marker)!r}, 'w').close()\nraise RuntimeError('it ran')\n")
    return folder


@pytest.mark.parametrize("auto_class", [AutoModelForSequenceClassification, AutoTokenizer])
def test_code_that_comes_with_a_model_runs_only_if_the_user_says_so(
    auto_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    marker = tmp_path / "it-ran"
    folder = with_code(tmp_path / "reward", marker)
    with pytest.raises(
        UnsafeModelError, match=rf"'{re.escape(str(folder))}' needs Python code that comes with it, which "
    ):
        load_pretrained(auto_class, folder)
    with pytest.raises(UnsafeModelError, match=r"read that code, then pass trust_remote_code=True"):
        SequenceClassificationReward(folder)
    assert not marker.exists()
    with pytest.raises(RuntimeError, match="it ran"):
        load_pretrained(auto_class, folder, trust_remote_code=True)
    assert marker.exists()


def test_scoring_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat_reward().compute_rewards(CHAT, COMPLETIONS)
