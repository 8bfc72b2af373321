"""Completions are drawn from what their log-probs are computed of, end where they should, and cost little."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from language_models import (
    CHARACTERS,
    FAMILIES,
    HEEDLESS,
    PROMPTS,
    VOCABULARY_SIZE,
    ShareOf,
    build_model,
    build_policy,
    build_tokenizer,
    plain_evaluation,
    sampled,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedTokenizerFast,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from grpo import GRPOConfig, GRPOTrainer
from grpo_adapters.huggingface import Completion, SamplingConfig
from grpo_adapters.huggingface.decoding.decoder import DecodingTraits, GrowingLayer
from grpo_adapters.huggingface.decoding.generation import Drawing, sample_completions
from grpo_adapters.huggingface.decoding.sampling import draw_tokens, next_token_probabilities

MORE_PROMPTS = [*PROMPTS, "0", "ab ab ab ab ab ab 1"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tie_word_embeddings", [False, True])
def test_the_likeliest_completions_are_those_of_transformers(family: str, tie_word_embeddings: bool) -> None:
    """All prompts in one batch against each alone by ``generate``; windows are shorter than what is generated."""
    model = build_model(family, seed=1, tie_word_embeddings=tie_word_embeddings)
    policy = build_policy(model=model, sampling=SamplingConfig(max_new_tokens=12))
    completions = policy.complete(MORE_PROMPTS)
    for prompt, completion in zip(MORE_PROMPTS, completions, strict=True):
        token_ids = torch.tensor([policy.tokenizer(prompt)["input_ids"]])
        mask = torch.ones_like(token_ids)
        generated = model.generate(token_ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert list(completion.token_ids) == generated[0, token_ids.shape[1] :].tolist()
        assert completion.ended == (completion.token_ids[-1] == 0)
    if not tie_word_embeddings:
        assert max(len(set(completion.token_ids)) for completion in completions) > 2


@pytest.mark.filterwarnings("ignore:.*(RecurrentGemma|Rwkv)ForCausalLM does not go on from a cache")
@pytest.mark.parametrize(
    ("family", "std"), [*((family, std) for family in HEEDLESS for std in (0.4, 0.1)), ("rwkv", 0.02)]
)
def test_models_that_cannot_leave_padding_out(family: str, std: float) -> None:
    """Also where that hardly shows, since weights are still near 0, but will after training."""
    model = build_model(family, seed=1, std=std)
    policy = build_policy(model=model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.4 / std)
    for prompt, completion in zip(MORE_PROMPTS, policy.complete(MORE_PROMPTS), strict=True):
        assert completion == likeliest_alone(policy, prompt)


@pytest.mark.parametrize("family", FAMILIES)
def test_models_that_leave_padding_out_take_all_prompts_at_once(family: str) -> None:
    policy = build_policy(family)
    counts: list[int] = []
    embeddings = policy.causal_model.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, inputs, output: counts.append(len(inputs[0])))
    policy.generate_actions(MORE_PROMPTS, 2, max_new_tokens=1)
    assert counts == [len(MORE_PROMPTS)]


@pytest.mark.filterwarnings("ignore:MambaForCausalLM does not go on from a cache:UserWarning")  # in float64
@pytest.mark.parametrize("family", FAMILIES)
def test_completions_in_double_precision(family: str) -> None:
    """Some models make NaN of padding in float64."""
    exact = build_policy(model=build_model(family, dtype=torch.float64)).complete(PROMPTS)
    assert exact == build_policy(family).complete(PROMPTS)


def likeliest_alone(policy: Any, prompt: str) -> Completion:
    token_ids = policy.tokenizer(prompt)["input_ids"]
    new: list[int] = []
    while len(new) < policy.sampling.max_new_tokens and 0 not in new:
        with torch.no_grad():
            logits = policy.causal_model(input_ids=torch.tensor([[*token_ids, *new]]), use_cache=False).logits
        new.append(int(logits[0, -1].argmax()))
    return Completion(tuple(new), policy.tokenizer.decode(new, skip_special_tokens=True), 0 in new)


def assert_drawn_from(probabilities: Tensor, counts: Tensor) -> None:
    """Each count is within 5 standard deviations of its mean, and nothing came that cannot."""
    total = counts.sum()
    deviation = (total * probabilities * (1 - probabilities)).sqrt()
    assert ((counts - total * probabilities).abs() <= 5 * deviation + 1e-9).all(), (counts / total, probabilities)


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.2}, {"temperature": 2.0, "top_k": 5}],
)
@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_tokens_come_as_often_as_their_probabilities_say(family: str, settings: dict[str, Any]) -> None:
    policy = build_policy(family, sampling=SamplingConfig(max_new_tokens=1, **settings))
    count = 3000
    prompts = ["1+2=", "a b 7"]
    for prompt, group in zip(prompts, policy.generate_actions(prompts, count), strict=True):
        token_ids = torch.tensor([policy.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            logits = policy.causal_model(token_ids).logits[0, -1]
        [probabilities] = next_token_probabilities(logits.unsqueeze(0), policy.sampling)
        drawn = torch.tensor([completion.token_ids[0] for completion in group])
        assert_drawn_from(probabilities, drawn.bincount(minlength=VOCABULARY_SIZE))


def test_pairs_of_tokens_come_as_often_as_their_log_probs_say() -> None:
    policy = build_policy("llama", sampling=SamplingConfig(max_new_tokens=2, temperature=0.8))
    [group] = policy.generate_actions(["1+2="], 4000)
    counts = Counter(group)
    completions = list(counts)
    states = ["1+2="] * len(completions)
    log_probs, _ = plain_evaluation(policy.causal_model, states, completions, 0.8)
    lengths = [len(completion) for completion in completions]
    probabilities = torch.stack([part.sum().exp().detach() for part in log_probs.split(lengths)])
    often = probabilities * 4000 >= 5
    assert often.sum() > 10
    grouped = torch.cat((probabilities[often], (1 - probabilities[often].sum()).unsqueeze(0)))
    came = torch.tensor([counts[completion] for completion in completions])[often]
    assert_drawn_from(grouped, torch.cat((came, 4000 - came.sum().unsqueeze(0))))


PROBABILITIES = [0.2, 0.5, 0.0, 0.3]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.2, 0.5, 0.0, 0.3]),
        ({"temperature": 0.5}, [4 / 38, 25 / 38, 0.0, 9 / 38]),
        ({"top_k": 2}, [0.0, 0.625, 0.0, 0.375]),
        ({"top_k": 1}, [0.0, 1.0, 0.0, 0.0]),
        ({"top_k": 100}, [0.2, 0.5, 0.0, 0.3]),
        ({"top_p": 0.4}, [0.0, 1.0, 0.0, 0.0]),
        ({"top_p": 0.6}, [0.0, 0.625, 0.0, 0.375]),
        ({"top_p": 0.9}, [0.2, 0.5, 0.0, 0.3]),
        ({"top_p": 1e-9}, [0.0, 1.0, 0.0, 0.0]),
        ({"min_p": 0.5}, [0.0, 0.625, 0.0, 0.375]),
        ({"min_p": 0.3}, [0.2, 0.5, 0.0, 0.3]),
        ({"min_p": 1.0}, [0.0, 1.0, 0.0, 0.0]),
        ({"top_k": 2, "top_p": 0.62}, [0.0, 1.0, 0.0, 0.0]),  # of what top_k left the likeliest has 0.625
        ({"temperature": 0.5, "min_p": 0.3}, [0.0, 25 / 34, 0.0, 9 / 34]),
    ],
)
def test_filters(settings: dict[str, Any], expected: list[float]) -> None:
    logits = torch.tensor([PROBABILITIES]).log() + 3
    found = next_token_probabilities(logits, SamplingConfig(**settings))
    torch.testing.assert_close(found, torch.tensor([expected]))
    assert ((found == 0) == (torch.tensor([expected]) == 0)).all()


@given(
    logits=st.lists(st.integers(-60, 60), min_size=2, max_size=12, unique=True),
    temperature=st.floats(0.1, 5),
    top_k=st.none() | st.integers(1, 14),
    top_p=st.floats(0.01, 1),
    min_p=st.none() | st.floats(0.01, 1),
)
def test_filters_are_those_of_transformers(
    logits: list[int], temperature: float, top_k: int | None, top_p: float, min_p: float | None
) -> None:
    scores = torch.tensor([logits]) / 10
    warpers: list[Any] = [TemperatureLogitsWarper(temperature)]

    def warped() -> Tensor:
        filtered: Any = LogitsProcessorList(warpers)
        probabilities: Tensor = filtered(None, scores).softmax(-1)
        return probabilities

    if top_k is not None:
        warpers.append(TopKLogitsWarper(top_k))
    assume((warped().sort(descending=True).values.cumsum(-1) - top_p).abs().min() > 1e-5)
    warpers.append(TopPLogitsWarper(top_p))
    if min_p is not None:
        assume((warped() - min_p * warped().max()).abs().min() > 1e-6 or min_p == 1)
        warpers.append(MinPLogitsWarper(min_p))
    expected = warped()
    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    torch.testing.assert_close(next_token_probabilities(scores, sampling), expected, rtol=1e-5, atol=1e-7)


@given(
    rows=st.lists(st.lists(st.floats(-20, 20), min_size=5, max_size=5), min_size=1, max_size=4),
    top_k=st.none() | st.integers(1, 6),
    top_p=st.floats(0.01, 1),
    min_p=st.none() | st.floats(0.01, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_filters_leave_probabilities(
    rows: list[list[float]], top_k: int | None, top_p: float, min_p: float | None, dtype: torch.dtype
) -> None:
    """They sum to 1, the likeliest is always among them, no other order arises, and rows know nothing of each other."""
    logits = torch.tensor(rows, dtype=dtype)
    sampling = SamplingConfig(top_k=top_k, top_p=top_p, min_p=min_p)
    found = next_token_probabilities(logits, sampling)
    torch.testing.assert_close(found.sum(-1), torch.ones(len(rows)))
    for row, probabilities in zip(logits.float().softmax(-1), found, strict=True):
        dropped, kept = row[probabilities == 0], row[probabilities > 0]
        assert kept.max() == row.max()
        assert len(dropped) == 0 or dropped.max() <= kept.min()
    alone = torch.cat([next_token_probabilities(row.unsqueeze(0), sampling) for row in logits])
    torch.testing.assert_close(found, alone)


def test_temperature_zero_draws_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0], [2.0, -1.0, 1.9]])
    assert draw_tokens(logits, SamplingConfig(temperature=0.0)).tolist() == [1, 0]
    assert draw_tokens(logits, SamplingConfig(temperature=0.0, top_k=1, top_p=0.1)).tolist() == [1, 0]


class Scripted(nn.Module):
    """Continues each prompt, a single token that is the number of its script, by that script, again and again.

    Args:
        scripts: the token ids of each.
        size: of the vocabulary.
    """

    def __init__(self, scripts: Sequence[Sequence[int]], size: int = VOCABULARY_SIZE) -> None:
        super().__init__()
        self.scripts = scripts
        self.size = size
        self.calls: list[int] = []

    def forward(self, input_ids: Tensor, use_cache: bool = False, **kwargs: Any) -> Any:
        assert not use_cache
        self.calls.append(len(input_ids))
        following = [self.scripts[int(row[0])][(len(row) - 1) % len(self.scripts[int(row[0])])] for row in input_ids]
        logits = 100 * nn.functional.one_hot(torch.tensor(following), self.size).float()
        return SimpleNamespace(logits=logits.unsqueeze(1))


def run_scripts(
    scripts: Sequence[str | Sequence[int]],
    *,
    num_completions: int = 1,
    tokenizer: Any = None,
    end_tokens: Sequence[int] = (0,),
    **settings: Any,
) -> tuple[list[Completion], list[int]]:
    """What comes of scripts, texts or token ids, and how many rows each call of the model had."""
    tokenizer = tokenizer or build_tokenizer()
    token_ids = [tokenizer(script)["input_ids"] if isinstance(script, str) else script for script in scripts]
    model = Scripted(token_ids, len(tokenizer))
    sampling = SamplingConfig(**({"max_new_tokens": 12} | settings))
    drawing = Drawing(model, tokenizer, end_tokens, sampling, torch.Generator().manual_seed(0), DecodingTraits())
    groups = sample_completions(drawing, [[index] for index in range(len(scripts))], num_completions)
    return [completion for group in groups for completion in group], model.calls


@pytest.mark.parametrize(
    ("stop_strings", "text"),
    [
        (("=",), "12="),
        (("2=3",), "12=3"),
        (("2=", "1"), "1"),
        (("=34", "2=3", "nowhere"), "12=3"),
        (("12=34+",), "12=34+"),
        (("41",), "12=34+ 12=34"),
        (("+ 12=34+",), "12=34+ 12=34"),
    ],
)
def test_stop_strings(stop_strings: tuple[str, ...], text: str) -> None:
    [completion], _ = run_scripts(["12=34+ "], stop_strings=stop_strings)
    assert completion.text == text
    assert build_tokenizer().decode(list(completion.token_ids)) == text
    assert completion.ended == any(string in text for string in stop_strings)


def subword_tokenizer(tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(["<end>", *tokens])}))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def test_a_stop_string_may_begin_and_end_within_tokens() -> None:
    """A completion ends with the token in which the string ends, all of which stays."""
    tokenizer = subword_tokenizer(["xab", "bcy", "z"])
    [completion], _ = run_scripts([[3, 1, 2, 3, 0]], tokenizer=tokenizer, stop_strings=["abbc"])
    assert completion == Completion((3, 1, 2), "zxabbcy", True)


def test_a_stop_string_of_characters_that_are_several_tokens() -> None:
    """Each byte is a token: the string has come with the last byte of its last character, not before."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<end>", *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    text = "aé🙂🙂ü🙂b"
    [completion], _ = run_scripts([text], tokenizer=tokenizer, stop_strings=["🙂ü"], max_new_tokens=40)
    assert completion.text == "aé🙂🙂ü"
    assert len(completion.token_ids) == len("aé🙂🙂ü".encode())
    assert completion.ended
    [cut], _ = run_scripts([text], tokenizer=tokenizer, stop_strings=["🙂b"], max_new_tokens=12)
    assert not cut.ended
    assert len(cut.token_ids) == 12


def test_a_stop_string_far_from_the_beginning() -> None:
    [completion], _ = run_scripts(["1" * 29 + "2=3"], stop_strings=["2="], max_new_tokens=60)
    assert completion.text == "1" * 29 + "2="


def test_each_row_ends_by_its_own_stop_string() -> None:
    completions, _ = run_scripts(["1=2", "34", "5 67+"], stop_strings=["=", "67"], max_new_tokens=6)
    assert [completion.text for completion in completions] == ["1=", "343434", "5 67"]
    assert [completion.ended for completion in completions] == [True, False, True]


def test_end_tokens_end_and_have_no_text() -> None:
    completions, _ = run_scripts([[3, 4, 0, 5], [6, 7]], end_tokens=[0, 7], max_new_tokens=5)
    assert completions == [Completion((3, 4, 0), "12", True), Completion((6, 7), "45", True)]


def test_an_end_with_the_last_token_is_an_end() -> None:
    completions, _ = run_scripts([[3, 4, 0], [3, 4, 5, 0], "12="], stop_strings=["2="], max_new_tokens=3)
    assert [completion.ended for completion in completions] == [True, False, True]
    assert [len(completion) for completion in completions] == [3, 3, 3]


def test_without_end_tokens_completions_go_on() -> None:
    [completion], _ = run_scripts([[3, 0, 4]], end_tokens=[], max_new_tokens=7)
    assert completion == Completion((3, 0, 4, 3, 0, 4, 3), "12121", False)


def test_groups_are_in_the_order_of_prompts() -> None:
    completions, _ = run_scripts([[3, 0], [4, 4, 0], [5, 0]], num_completions=3)
    assert [completion.text for completion in completions] == ["1"] * 3 + ["22"] * 3 + ["3"] * 3


def test_rows_that_have_ended_leave_the_batch() -> None:
    """Not one by one: once an eighth has ended. What the others get is not changed by it."""
    scripts = [[3] * length + [0] for length in range(1, 17)]
    completions, calls = run_scripts(scripts, max_new_tokens=30)
    assert [len(completion) for completion in completions] == list(range(2, 18))
    # After step t the rows of lengths up to t are gone, if they are an eighth of those that are left.
    assert calls == [16, 16, 16, 14, 14, 12, 12, 10, 10, 8, 7, 6, 5, 4, 3, 2, 1]


def test_what_is_drawn_for_a_row_that_has_ended_is_no_part_of_it() -> None:
    """One row of 16 is too few to leave, so it draws on, and ends again and again."""
    completions, calls = run_scripts([[0], *[[4, 5, 6, 7]] * 15], stop_strings=["9"], max_new_tokens=6)
    assert calls == [16] * 6
    assert completions[0] == Completion((0,), "", True)
    assert completions[1:] == [Completion((4, 5, 6, 7, 4, 5), "234523", False)] * 15
    completions, _ = run_scripts([[3, 11], *[[4]] * 15], stop_strings=["19"], max_new_tokens=7)
    assert completions[0] == Completion((3, 11), "19", True)


def test_nothing_is_computed_after_all_have_ended() -> None:
    _, calls = run_scripts([[3, 0], [4, 5, 0]])
    assert len(calls) == 3
    _, calls = run_scripts(["1"], max_new_tokens=5)
    assert len(calls) == 5


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "lfm2"])
def test_a_prompt_is_computed_once_for_its_group(family: str) -> None:
    policy = build_policy(family)
    shapes: list[tuple[int, ...]] = []
    embeddings = policy.causal_model.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(inputs[0].shape)))
    policy.generate_actions(PROMPTS, 5)
    longest = max(len(policy.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS)
    assert shapes[0] == (len(PROMPTS), longest)
    assert all(shape[1] == 1 and shape[0] <= 5 * len(PROMPTS) for shape in shapes[1:])
    assert 1 <= len(shapes) - 1 <= 7


def test_logits_are_made_of_last_tokens_only() -> None:
    policy = build_policy("llama")
    shapes: list[tuple[int, ...]] = []
    head = policy.causal_model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    policy.generate_actions(PROMPTS, 2)
    assert all(shape[1] == 1 for shape in shapes)


@pytest.mark.parametrize("family", ["gpt2", "mamba"])
def test_seeds(family: str) -> None:
    texts: list[list[list[Completion]]] = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(texts))
        state = torch.get_rng_state()
        policy = build_policy(family, seed=seed)
        rounds = [sampled(policy)[1] for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), state)
        assert rounds[0] != rounds[1]
        texts.append(rounds)
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@pytest.mark.parametrize("family", ["gpt2", "opt", "qwen3"])
def test_several_end_tokens_of_the_generation_config(family: str) -> None:
    model = build_model(family)
    model.generation_config.eos_token_id = [4, 9, 10_000]
    policy = build_policy(model=model, sampling=SamplingConfig(max_new_tokens=20))
    _, completions = sampled(policy, count=10)
    ends = Counter(completion.token_ids[-1] for completion in completions if completion.ended)
    assert ends.keys() >= {4, 9}
    assert ends.keys() <= {0, 4, 9}
    for completion in completions:
        assert not {0, 4, 9} & set(completion.token_ids[:-1])
        assert completion.ended == (completion.token_ids[-1] in {0, 4, 9})
        assert len(completion) <= 20
        assert len(completion) == 20 or completion.ended
        assert completion.text == "".join(CHARACTERS[token - 2] for token in completion.token_ids if token > 1)


def test_an_unknown_token_has_no_text() -> None:
    [completion], _ = run_scripts([[3, 1, 4, 0]])
    assert completion.text == "12"


@given(
    steps=st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=8),
    room=st.integers(0, 12),
    seed=st.integers(0, 100),
)
def test_a_layer_with_room_holds_what_any_layer_would(steps: list[tuple[int, bool]], room: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers: tuple[Any, Any] = (DynamicLayer(), GrowingLayer())  # type: ignore[no-untyped-call]
    batch = 3

    def update(length: int) -> None:
        keys, values = torch.randn(2, batch, 2, length, 4, generator=generator).unbind()
        returned = [layer.update(keys, values[..., :3]) for layer in layers]
        for plain, growing in zip(*returned, strict=True):
            assert torch.equal(plain, growing)

    update(4)
    layers[1].capacity = 4 + room
    for length, reorders in steps:
        if reorders:
            rows = torch.randint(0, batch, (int(torch.randint(1, 5, (1,), generator=generator)),), generator=generator)
            for layer in layers:
                layer.reorder_cache(rows)
            batch = len(rows)
        update(length)
        assert layers[0].get_seq_length() == layers[1].get_seq_length()
        assert layers[0].get_mask_sizes(1) == layers[1].get_mask_sizes(1)


def test_a_layer_with_room_does_not_copy_what_it_holds() -> None:
    layer = GrowingLayer()  # type: ignore[no-untyped-call]
    layer.update(torch.ones(2, 1, 5, 3), torch.ones(2, 1, 5, 3))
    layer.capacity = 20
    places = set()
    for _ in range(10):
        keys, values = layer.update(torch.ones(2, 1, 1, 3), torch.ones(2, 1, 1, 3))
        places.add((keys.data_ptr(), values.data_ptr()))
    assert len(places) == 1
    assert keys.shape == (2, 1, 15, 3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_room_is_made_for_all_layers_that_grow(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And completions are the same without."""
    model = build_model(family)
    expected = sampled(build_policy(model=model))[1]
    made: list[Tensor] = []
    with_room = GrowingLayer._with_room

    def noted(layer: GrowingLayer, kept: Tensor) -> Tensor:
        made.append(kept)
        return with_room(layer, kept)

    monkeypatch.setattr(GrowingLayer, "_with_room", noted)
    assert sampled(build_policy(model=model))[1] == expected
    assert len(made) >= 2
    monkeypatch.setattr(GrowingLayer, "update", DynamicLayer.update)
    assert sampled(build_policy(model=model))[1] == expected


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({}, {"gradient_checkpointing": True}),
        ({"attn_pdrop": 0.5, "embd_pdrop": 0.5, "resid_pdrop": 0.5}, {"disable_dropout": False}),
    ],
)
def test_completions_right_after_training(config: dict[str, Any], options: dict[str, Any]) -> None:
    """A trainer leaves a policy in training mode, in which layers may drop units or forget their keys and values."""
    policy = build_policy(model=build_model(**config), **options)
    expected = policy.complete(PROMPTS)
    policy.train()
    assert policy.complete(PROMPTS) == expected
    assert policy.causal_model.training
    [group] = policy.generate_actions(PROMPTS[:1], 3, top_k=1)
    assert set(group) == {expected[0]}
    assert policy.causal_model.training


def trainer_of(policy: Any) -> GRPOTrainer[Any, Any]:
    return GRPOTrainer(GRPOConfig(group_size=2), policy, ShareOf())


def test_sampling_settings_of_a_single_step() -> None:
    policy = build_policy(sampling=SamplingConfig(max_new_tokens=8, temperature=0.5))
    trainer = trainer_of(policy)
    metrics = trainer.step(PROMPTS, max_new_tokens=3)
    assert metrics["completions/max_length"] <= 3
    assert trainer.step(PROMPTS, max_new_tokens=1, temperature=0.5)["num_decisions"] == 8
    assert trainer.step(PROMPTS)["completions/max_length"] > 3
    assert policy.sampling == SamplingConfig(max_new_tokens=8, temperature=0.5)
    greedy = policy.complete(PROMPTS)
    [group] = policy.generate_actions(PROMPTS[:1], 4, top_k=1)
    assert set(group) == {greedy[0]}
    [stopped] = policy.complete(PROMPTS[:1], stop_strings=[greedy[0].text[1]])
    assert stopped.ended
    assert len(stopped) == 1 + greedy[0].text.index(greedy[0].text[1])
    drawn = {policy.complete(PROMPTS[:1], temperature=3.0)[0] for _ in range(5)}
    assert len(drawn) > 1


WRONG_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 3}, "max_tokens"),
    ({"max_new_tokens": 0}, "max_new_tokens"),
    ({"max_new_tokens": 2.5}, "max_new_tokens"),
    ({"top_p": 0.0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": 0}, "top_k"),
    ({"min_p": -0.1}, "min_p"),
    ({"stop_strings": "="}, "stop_strings"),
    ({"stop_strings": [""]}, "stop_strings"),
    ({"temperature": 1.5}, r"temperature=1\.5 is not the policy's 1\.0.*SamplingConfig"),
    ({"temperature": 0.0}, r"temperature=0\.0 is not the policy's"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG_SETTINGS)
def test_wrong_settings_of_a_step(settings: dict[str, Any], message: str) -> None:
    policy = build_policy()
    trainer = trainer_of(policy)
    before = {name: value.detach().clone() for name, value in policy.get_parameters().items()}
    state = policy.generator.get_state()
    with pytest.raises(ValueError, match=message):
        trainer.step(PROMPTS, **settings)
    assert all(torch.equal(value, before[name]) for name, value in policy.get_parameters().items())
    assert torch.equal(policy.generator.get_state(), state)
    assert trainer.step(PROMPTS)["num_updates"] == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1.0},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"top_p": math.nan},
        {"top_k": 1.5},
        {"sample": True},
    ],
)
def test_wrong_sampling(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        SamplingConfig(**settings)
