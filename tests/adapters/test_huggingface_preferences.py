"""Rows of preference datasets become pairs of completions: formats, token ids by hand, errors, and training on them."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict  # type: ignore[import-untyped]
from language_models import CHAT_TEMPLATE, CONTEXT, build_model, build_policy, build_tokenizer
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from grpo import DPOConfig, DPOTrainer, with_reference_log_probs
from grpo_adapters.huggingface import CausalLMPolicy, Completion, preferences_of

END = 0  # digits are 2 to 11, + = space a b are 12 to 16, and all else is 1
ENDING_TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] }}{{ message['content'] }}<end> {% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)
"""As CHAT_TEMPLATE, with the end token and a space where a turn ends."""
LORA = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def chat_policy(template: str = ENDING_TEMPLATE) -> Any:
    return build_policy(tokenizer=build_tokenizer(chat_template=template))


def sequence(policy: CausalLMPolicy, state: Any, completion: Completion) -> list[int]:
    """What the policy evaluates."""
    ids: list[int] = policy.encode_actions([state], [completion]).tokens[0].tolist()
    return ids


ASKED = [user("1+2")]
FORMATS: dict[str, dict[str, Any]] = {
    "explicit prompt": {"prompt": ASKED, "chosen": [assistant("3")], "rejected": [assistant("12")]},
    "answers as texts": {"prompt": ASKED, "chosen": "3", "rejected": "12"},
    "one answer as text": {"prompt": ASKED, "chosen": [assistant("3")], "rejected": "12"},
    "implicit prompt": {"chosen": [*ASKED, assistant("3")], "rejected": [*ASKED, assistant("12")]},
    "a text beside conversations": {
        "prompt": "1+2",
        "chosen": [*ASKED, assistant("3")],
        "rejected": [*ASKED, assistant("12")],
    },
}


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_conversations(row: dict[str, Any]) -> None:
    policy, given = chat_policy(), copy.deepcopy(row)
    [pair] = preferences_of([row], policy)
    assert row == given
    assert pair.state == {"prompt": ASKED}
    assert pair.chosen == Completion((5, END), "3", ended=True)
    assert pair.rejected == Completion((3, 4, END), "12", ended=True)
    asked = [1, 3, 12, 4, END, 14, 15]  # u1+2<end> a
    assert sequence(policy, pair.state, pair.chosen) == [*asked, 5, END]
    assert sequence(policy, pair.state, pair.rejected) == [*asked, 3, 4, END]


def test_strings() -> None:
    policy = build_policy()
    [pair] = preferences_of([{"prompt": "1+2=", "chosen": "3", "rejected": "12"}], policy)
    assert pair.state == {"prompt": "1+2="}
    assert sequence(policy, pair.state, pair.chosen) == [3, 12, 4, 13, 5, END]
    assert (pair.rejected.token_ids, pair.rejected.text, pair.rejected.ended) == ((3, 4, END), "12", True)
    assert pair.reference_log_probs is None


def test_an_end_token_that_is_there_is_the_only_one() -> None:
    [pair] = preferences_of([{"prompt": "1+2=", "chosen": "3<end>", "rejected": "12<end>7"}], build_policy())
    assert pair.chosen == Completion((5, END), "3")
    assert pair.rejected == Completion((3, 4, END), "12")


def test_a_model_may_have_end_tokens_of_its_own() -> None:
    policy = build_policy()
    policy.causal_model.generation_config.eos_token_id = [END, 16]
    [pair] = preferences_of([{"prompt": "1+2=", "chosen": "3b", "rejected": "12"}], policy)
    assert pair.chosen.token_ids == (5, 16)
    assert pair.rejected.token_ids == (3, 4, END)


def test_without_an_end_token_none_is_appended() -> None:
    tokenizer = build_tokenizer()
    tokenizer.eos_token = None
    with pytest.warns(UserWarning, match="neither the tokenizer nor the model has an end token"):
        policy = build_policy(tokenizer=tokenizer, model=build_model(eos_token_id=None))
    [pair] = preferences_of([{"prompt": "1+2=", "chosen": "3", "rejected": "12"}], policy)
    assert (pair.chosen.token_ids, pair.rejected.token_ids) == ((5,), (3, 4))


def test_a_template_that_ends_a_turn_by_other_means() -> None:
    [pair] = preferences_of([{"prompt": ASKED, "chosen": "3", "rejected": "12"}], chat_policy(CHAT_TEMPLATE))
    assert pair.chosen == Completion((5, 13, END), "3=")


def test_longer_conversations() -> None:
    asked = [{"role": "system", "content": "b"}, *ASKED, assistant("3"), user("4+4")]
    policy = chat_policy()
    [pair] = preferences_of([{"chosen": [*asked, assistant("8")], "rejected": [*asked, assistant("44")]}], policy)
    assert pair.state["prompt"] == asked
    told = policy.tokenizer("sb<end> u1+2<end> a3<end> u4+4<end> a8<end>")["input_ids"]
    assert sequence(policy, pair.state, pair.chosen) == told


def test_an_answer_goes_on_with_the_assistants_own_words() -> None:
    policy = chat_policy(CHAT_TEMPLATE)
    asked = [*ASKED, assistant("b=")]
    [pair] = preferences_of([{"prompt": asked, "chosen": "3", "rejected": "12"}], policy)
    assert sequence(policy, pair.state, pair.chosen) == policy.tokenizer("u1+2=ab=3=<end>")["input_ids"]


def test_rows_of_a_dataset_keep_their_further_columns() -> None:
    rows = [{"prompt": f"{a}+{a}=", "chosen": str(2 * a), "rejected": str(a), "level": a, "tag": None} for a in (1, 2)]
    first, second = preferences_of(Dataset.from_list(rows), build_policy())
    assert first.state == {"prompt": "1+1=", "level": 1, "tag": None}
    assert second.state == {"prompt": "2+2=", "level": 2, "tag": None}
    conversations = Dataset.from_list([FORMATS["implicit prompt"] | {"score": 0.5}] * 2)
    pair, same = preferences_of(iter(conversations), chat_policy())
    assert pair == same
    assert pair.state == {"prompt": ASKED, "score": 0.5}
    assert pair.chosen.token_ids == (5, END)


def merging_policy(
    vocabulary: list[str], merges: list[tuple[str, str]], pre_tokenizer: Any = None, **options: Any
) -> CausalLMPolicy:
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(vocabulary)}, merges))
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    if options.get("bos_token"):
        tokenizer.post_processor = processors.TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", 4)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", **options)
    return build_policy(tokenizer=fast)  # type: ignore[no-any-return]


def test_tokens_that_would_merge_across_the_boundary_do_not() -> None:
    """The prompt is tokenised as when the policy samples, which is what the answer has to follow."""
    policy = merging_policy(["<end>", "1", "2", "12"], [("1", "2")])
    [pair] = preferences_of([{"prompt": "21", "chosen": "2", "rejected": "12"}], policy)
    assert sequence(policy, pair.state, pair.chosen) == [2, 1, 2, END]
    assert sequence(policy, pair.state, pair.rejected) == [2, 1, 3, END]


def test_an_answer_is_tokenised_where_it_stands() -> None:
    """At the beginning of a text this tokenizer puts a space, which no answer in the middle of one has."""
    policy = merging_policy(["<end>", "▁", "1", "2"], [], pre_tokenizers.Metaspace(prepend_scheme="first"))
    [pair] = preferences_of([{"prompt": "1", "chosen": "2", "rejected": "1"}], policy)
    assert sequence(policy, pair.state, pair.chosen) == [1, 2, 3, END]


def test_the_beginning_of_text_stands_at_the_beginning_only() -> None:
    policy = merging_policy(["<end>", "1", "2", "12", "<begin>"], [("1", "2")], bos_token="<begin>")
    pairs = preferences_of(
        [{"prompt": "2", "chosen": "1", "rejected": "2"}, {"prompt": "1", "chosen": "2", "rejected": "1"}], policy
    )
    assert [sequence(policy, pair.state, pair.chosen) for pair in pairs] == [[4, 2, 1, END], [4, 1, 2, END]]


def test_neither_it_nor_a_template_changes_where_an_answer_stands() -> None:
    policy = merging_policy(
        ["<end>", "▁", "1", "2", "<begin>"],
        [],
        pre_tokenizers.Metaspace(prepend_scheme="first"),
        bos_token="<begin>",
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )
    rows = [{"prompt": prompt, "chosen": "2", "rejected": "1"} for prompt in ("1", [user("1")])]
    pairs = preferences_of(rows, policy)
    assert [sequence(policy, pair.state, pair.chosen) for pair in pairs] == [[4, 1, 2, 3, END], [1, 2, 3, END]]


@pytest.mark.parametrize(
    ("max_length", "chosen", "rejected"),
    [
        (9, Completion((7, 8, 9, 10, END), "5678"), Completion((7, 8, END), "56")),
        (8, Completion((7, 8, 9, 10), "5678", ended=False), Completion((7, 8, END), "56")),
        (7, Completion((7, 8, 9), "567", ended=False), Completion((7, 8, END), "56")),
    ],
)
def test_too_long_answers_are_cut_where_asked(max_length: int, chosen: Completion, rejected: Completion) -> None:
    rows = [{"prompt": "1+2=", "chosen": "5678", "rejected": "56"}]
    [pair] = preferences_of(rows, build_policy(), max_length=max_length)
    assert (pair.chosen, pair.rejected) == (chosen, rejected)


@pytest.mark.parametrize("max_length", [6, 5, 4, 2])
def test_pairs_of_which_nothing_is_left_to_compare_are_left_out(max_length: int) -> None:
    rows = [{"prompt": "1+2=", "chosen": "5678", "rejected": "56"}, {"prompt": "1", "chosen": "2", "rejected": "3"}]
    [pair] = preferences_of(rows, build_policy(), max_length=max_length)
    assert pair.state == {"prompt": "1"}


def test_the_context_may_be_filled_but_not_exceeded() -> None:
    policy = build_policy()
    rows = [{"prompt": "1" * (CONTEXT - 3), "chosen": "22", "rejected": "3"}]
    [pair] = preferences_of(rows, policy)
    assert len(sequence(policy, pair.state, pair.chosen)) == CONTEXT
    policy.get_log_probabilities([pair.state], [pair.chosen])
    rows[0]["chosen"] += "2"
    message = f"row 0 has 61 tokens of prompt and 4 of an answer.*context of {CONTEXT}.*max_length={CONTEXT}"
    with pytest.raises(ValueError, match=message):
        preferences_of(rows, policy)
    [pair] = preferences_of(rows, policy, max_length=CONTEXT)
    assert pair.chosen == Completion((4, 4, 4), "222", ended=False)


RIGHT = {"prompt": "1+2=", "chosen": "3", "rejected": "12"}
CHAT = FORMATS["implicit prompt"]
WRONG: list[tuple[Any, type[Exception], str]] = [
    (RIGHT, TypeError, "rows is a dict of ['chosen', 'prompt', 'rejected'], expected rows one after the other"),
    ("RIGHT", TypeError, "rows is a str, expected rows"),
    (
        DatasetDict({"train": Dataset.from_list([RIGHT])}),
        TypeError,
        "a DatasetDict of ['train'], expected .* one split",
    ),
    ([RIGHT, "1+2=3"], TypeError, 'row 1 is a str, expected {"prompt": string or messages'),
    ([RIGHT, {"prompt": "a", "chosen": "b"}], ValueError, "row 1 has no column 'rejected' but ['chosen', 'prompt']"),
    ([RIGHT, {"question": "a", "good": "b"}], ValueError, "row 1 has no column 'chosen' .* rename the column"),
    ([{"chosen": "3", "rejected": "4"}], ValueError, "row 0 has no column 'prompt' .* where an answer begins"),
    ([RIGHT, RIGHT | {"chosen": None}], TypeError, "column 'chosen' of row 1 is None, expected a string .* leave"),
    ([RIGHT | {"prompt": None}], TypeError, "column 'prompt' of row 0 is None"),
    ([RIGHT | {"rejected": 12}], TypeError, "column 'rejected' of row 0 is a int, expected a string or a list"),
    ([RIGHT | {"rejected": ""}], ValueError, "column 'rejected' of row 0 is empty, ''.* leave the row out"),
    ([RIGHT | {"prompt": ""}], ValueError, "column 'prompt' of row 0 is empty"),
    ([CHAT | {"chosen": []}], ValueError, "column 'chosen' of row 0 is empty, []"),
    ([RIGHT, RIGHT | {"rejected": "3"}], ValueError, "chosen and rejected of row 1 are the same: .* dataset.filter"),
    ([RIGHT | {"chosen": "x", "rejected": "y"}], ValueError, "row 0 are the same tokens, [1, 0], and differ as texts"),
    ([CHAT, CHAT | {"rejected": CHAT["chosen"]}], ValueError, "chosen and rejected of row 1 are the same"),
    ([CHAT | {"chosen": ["3"]}], TypeError, "column 'chosen' of row 0 holds no chat messages: message 0"),
    ([CHAT | {"chosen": "3", "prompt": "1"}], TypeError, "one answer of row 0 is a string, the other a list"),
    ([CHAT | {"chosen": [assistant("3")]}], ValueError, "column 'chosen' of row 0 has one message and .* none"),
    ([CHAT | {"prompt": ASKED}], ValueError, "column 'chosen' of row 0 has 2 messages, expected one, .* drop that"),
    ([CHAT | {"chosen": [user("1"), assistant("3")]}], ValueError, "the conversations of row 0 part at message 0"),
    ([CHAT | {"chosen": [*ASKED, *ASKED, assistant("3")]}], ValueError, "of row 0 part at message 1, before the last"),
    (
        [CHAT | {"chosen": [*ASKED, user("3")]}],
        ValueError,
        "column 'chosen' of row 0 ends in .*, expected a message of",
    ),
    ([CHAT | {"rejected": [*ASKED, assistant("")]}], ValueError, "column 'rejected' of row 0 ends in"),
]


@pytest.mark.parametrize(("rows", "kind", "message"), WRONG, ids=[message[:40] for _, _, message in WRONG])
def test_what_is_wrong_is_named(rows: Any, kind: type[Exception], message: str) -> None:
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(kind, match=pattern):
        preferences_of(rows, chat_policy())


def test_messages_need_a_chat_template() -> None:
    with pytest.raises(ValueError, match="state 1 is made of chat messages, but the tokenizer has no chat template"):
        preferences_of([RIGHT, CHAT], build_policy())


def test_a_template_must_render_the_prompt_alike_where_an_answer_follows() -> None:
    template = "{{ messages | length }}" + ENDING_TEMPLATE
    with pytest.raises(
        ValueError, match=r"renders the prompt of row 0 otherwise where an answer follows: .*'1u1.2<end> a'"
    ):
        preferences_of([CHAT], chat_policy(template))


@pytest.mark.parametrize(("rows", "policy"), [(None, build_policy()), (5, build_policy()), ([], "gpt2"), ([], None)])
def test_rows_come_first_and_the_policy_second(rows: Any, policy: Any) -> None:
    with pytest.raises(TypeError, match=r"rows is a? ?\w+, expected rows|policy is a? ?\w+, expected a CausalLMPolicy"):
        preferences_of(rows, policy)


@pytest.mark.parametrize(
    ("max_length", "told"),
    [(2.5, "2 to"), (1, f"2 to {CONTEXT}"), (0, "2 to"), (CONTEXT + 1, "the model's")],
)
def test_a_maximum_must_fit_the_model(max_length: Any, told: str) -> None:
    with pytest.raises(ValueError, match=f"max_length is {max_length}, expected .*{told}"):
        preferences_of([RIGHT], build_policy(), max_length=max_length)


def rows_of_sums() -> list[dict[str, str]]:
    return [
        {"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": f"{a}{b} a"[: 2 + a % 3]}
        for a in range(1, 5)
        for b in range(1, 4)
        if str(a + b) != f"{a}{b}"
    ]


def test_adapters_are_compared_with_the_model_beneath_them() -> None:
    policy = build_policy(peft_config=LORA)
    pairs = preferences_of(rows_of_sums(), policy)
    beneath = {name: value.clone() for name, value in policy.get_parameters().items() if not value.requires_grad}
    assert beneath
    trainer: DPOTrainer[Any, Any] = DPOTrainer(DPOConfig(learning_rate=1e-2), policy, policy.reference())
    first = trainer.step(pairs)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)
    told = with_reference_log_probs(pairs, policy.reference())
    for _ in range(10):
        trainer.step(pairs)
    assert trainer.evaluate(pairs)["rewards/accuracies"] > 0.9
    assert with_reference_log_probs(pairs, policy.reference()) == told
    assert trainer.evaluate(told) == pytest.approx(trainer.evaluate(pairs), rel=1e-6)
    assert all(torch.equal(value, policy.get_parameters()[name]) for name, value in beneath.items())


def one_step(micro_batch_size: int | None, batch_size: int | None) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Two epochs on pairs of different lengths, in double precision."""
    policy = build_policy("llama", model=build_model("llama", dtype=torch.float64))
    config = DPOConfig(
        micro_batch_size=micro_batch_size, batch_size=batch_size, num_epochs_per_update=2, sft_coefficient=0.1
    )
    trainer: DPOTrainer[Any, Any] = DPOTrainer(config, policy, policy.reference())
    metrics = trainer.step(preferences_of(rows_of_sums(), policy))
    return metrics, [value.detach() for value in policy.get_parameters().values()]


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("micro_batch_size", [1, 3, 7])
def test_how_a_step_is_split_changes_nothing(micro_batch_size: int, batch_size: int | None) -> None:
    metrics, parameters = one_step(micro_batch_size, batch_size)
    expected_metrics, expected = one_step(None, batch_size)
    assert metrics == pytest.approx(expected_metrics, rel=1e-6)
    for own, other in zip(parameters, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)
