"""Reward functions: what they are given, how they are added up, and what is said of those that go wrong."""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo import NonFiniteError, PartialRewards, RewardModel, check_reward_model
from grpo.data._part_state import load_part_states, part_states
from grpo.models._random_states import RestoresRandomStates
from grpo_adapters.huggingface import (
    Completion,
    FormatReward,
    FunctionReward,
    OverlongPenalty,
    RewardFunctionError,
    math_reward,
)
from grpo_adapters.huggingface.rewards.ready_rewards import final_answer

ONE, TWO, THREE = Completion((5,), "one"), Completion((6, 7), "two"), Completion((8, 9, 10), "three")
QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count."}]
ROWS = [{"prompt": "a", "answer": "1"}, {"prompt": QUESTION, "answer": "2"}]


def lengths(completion_ids: Sequence[Sequence[int]]) -> list[int]:
    return [len(token_ids) for token_ids in completion_ids]


def returning(values: Any, name: str = "judge") -> Callable[..., Any]:
    def function(**arguments: Any) -> Any:
        return values

    function.__name__ = name
    return function


def rewards_of(function: Any, states: Sequence[Any] = ("a", "b"), actions: Sequence[Any] = (ONE, TWO)) -> list[float]:
    rewards = FunctionReward(function).compute_rewards(states, actions)
    assert isinstance(rewards, torch.Tensor)
    return rewards.tolist()


def test_functions_get_prompts_completions_token_ids_and_columns_by_keyword() -> None:
    seen: dict[str, Any] = {}

    def recording(**arguments: Any) -> list[float]:
        seen.update(arguments)
        return [0.0, 0.0]

    rewards_of(recording, ROWS)
    assert seen == {
        "prompts": ["a", QUESTION],
        "completions": ["one", [{"role": "assistant", "content": "two"}]],
        "completion_ids": [[5], [6, 7]],
        "answer": ["1", "2"],
    }


def test_a_function_gets_only_what_its_signature_names() -> None:
    def right(completions: list[str], answer: list[str], *, bonus: float = 0.5) -> list[float]:
        return [bonus + (completion == own) for completion, own in zip(completions, answer, strict=True)]

    states = [{"prompt": "a", "answer": "one", "more": 1}, {"prompt": "b", "answer": "?", "more": 2}]
    assert rewards_of(right, states) == [1.5, 0.5]
    assert rewards_of(functools.partial(right, bonus=0.0), states) == [1.0, 0.0]


def test_an_answer_that_the_prompt_began_belongs_to_the_completion() -> None:
    def recording(prompts: Any, completions: Any) -> list[float]:
        assert prompts == [[{"role": "user", "content": "Count."}]]
        assert completions == [[{"role": "assistant", "content": "I say two"}]]
        return [1.0]

    begun = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "I say "}]
    assert rewards_of(recording, [begun], [TWO]) == [1.0]
    assert len(begun) == 2


def test_a_function_that_changes_what_it_is_given_changes_nothing_for_the_next() -> None:
    def clears(completions: list[Any], codes: list[Any], **columns: Any) -> list[float]:
        for argument in (*completions, *codes, completions, codes):
            argument.clear()
        return [0.0]

    def counts(completions: list[Any], codes: list[Any], **columns: Any) -> list[float]:
        return [float(len(completions[0]) + len(codes[0]))]

    row = {"prompt": [{"role": "user", "content": "open"}], "codes": [1, 2]}
    reward = FunctionReward([clears, counts])
    rewards = reward.compute_rewards([row], [Completion((3,), "x")])
    assert isinstance(rewards, torch.Tensor)
    assert rewards.tolist() == [3.0]
    assert row["codes"] == [1, 2]


def test_a_function_that_changes_messages_changes_no_state() -> None:
    def careless(prompts: list[Any], completions: list[Any]) -> list[float]:
        for prompt, completion in zip(prompts, completions, strict=True):
            prompt[0]["content"] = "gone"
            prompt += completion
        return [0.0, 0.0]

    state = [dict(message) for message in QUESTION]
    rewards_of(careless, [state, state])
    assert state == QUESTION


@pytest.mark.parametrize(
    "values",
    [
        [1, 0.5],
        (True, 0.5),
        [np.float32(1), np.float64(0.5)],
        [torch.tensor(1), torch.tensor(0.5)],
        [Fraction(1), Fraction(1, 2)],
        np.array([1, 0.5]),
        torch.tensor([1, 0.5]),
        torch.tensor([1, 0.5], dtype=torch.bfloat16),
    ],
)
def test_numbers_may_be_of_any_kind(values: Any) -> None:
    assert rewards_of(returning(values)) == [1.0, 0.5]


def test_weighted_values_are_added_up_over_the_functions_that_scored_a_sample() -> None:
    reward = FunctionReward(
        [returning([1, None, 4], "first"), returning([10, 20, None], "second"), lengths], weights=[2.0, 0.5, -1.0]
    )
    rewards = reward.compute_rewards(["a", "b", "c"], [ONE, TWO, THREE])
    assert isinstance(rewards, torch.Tensor)
    assert rewards.dtype == torch.float32
    assert rewards.tolist() == [2 + 5 - 1, 10 - 2, 8 - 3]
    assert reward.get_metrics() == {
        "rewards/first/mean": 2.5,
        "rewards/first/std": pytest.approx(math.sqrt(4.5)),
        "rewards/second/mean": 15.0,
        "rewards/second/std": pytest.approx(math.sqrt(50)),
        "rewards/lengths/mean": 2.0,
        "rewards/lengths/std": 1.0,
    }


def test_a_sample_that_no_function_scored_is_told_apart() -> None:
    reward = FunctionReward([returning([1, None, 3], "first"), returning([None, None, 2], "second")])
    rewards = reward.compute_rewards(["a", "b", "c"], [ONE, TWO, THREE])
    assert isinstance(rewards, PartialRewards)
    assert rewards.scored.tolist() == [True, False, True]
    assert rewards.values[rewards.scored].tolist() == [1.0, 5.0]
    assert reward.get_metrics()["rewards/second/std"] == 0.0


def test_metrics_are_of_the_last_call_and_of_functions_that_scored() -> None:
    values: list[list[float | None]] = [[1.0, 3.0], [None, None]]
    reward = FunctionReward([lambda **_: values.pop(0), lengths])
    assert reward.get_metrics() == {}
    reward.compute_rewards(["a", "b"], [ONE, TWO])
    assert reward.get_metrics()["rewards/lambda/mean"] == 2.0
    reward.compute_rewards(["a", "b"], [ONE, TWO])
    assert set(reward.get_metrics()) == {"rewards/lengths/mean", "rewards/lengths/std"}
    assert all(type(value) is float for value in reward.get_metrics().values())


def test_it_is_a_reward_model() -> None:
    reward = FunctionReward(lengths)
    assert isinstance(reward, RewardModel)
    check_reward_model(reward, ["a", "b"], [ONE, TWO])
    reward.to("meta")
    assert reward.compute_rewards(["a"], [ONE]).device.type == "meta"  # type: ignore[union-attr]


def meeting(count: int) -> list[Callable[..., Any]]:
    """Functions that return only once all of them have been called."""
    arrived: list[str] = []
    everyone: list[asyncio.Event] = []

    def function(name: str) -> Callable[..., Any]:
        async def guest(completions: list[str]) -> list[int]:
            if not everyone:
                everyone.append(asyncio.Event())
            arrived.append(name)
            if len(arrived) == count:
                everyone[0].set()
            await asyncio.wait_for(everyone[0].wait(), timeout=30)
            return [len(arrived)] * len(completions)

        guest.__name__ = name
        return guest

    return [function(f"guest_{index}") for index in range(count)]


def test_async_functions_run_at_the_same_time() -> None:
    assert rewards_of([*meeting(3), lengths]) == [9 + 1, 9 + 2]


def test_async_functions_work_inside_a_running_loop() -> None:
    async def as_in_a_notebook() -> list[float]:
        return rewards_of(meeting(2))

    assert asyncio.run(as_in_a_notebook()) == [4.0, 4.0]


def test_async_functions_find_the_same_loop_at_every_step() -> None:
    loops, threads = [], []

    class Judge:
        async def __call__(self, completions: list[str]) -> list[float]:
            loops.append(asyncio.get_running_loop())
            threads.append(threading.get_ident())
            return [0.0] * len(completions)

    reward = FunctionReward(Judge())
    for _ in range(2):
        reward.compute_rewards(["a"], [ONE])
    assert loops[0] is loops[1]
    assert threads[0] != threading.get_ident()
    assert reward.get_metrics()["rewards/Judge/mean"] == 0.0


def test_the_others_stop_when_an_async_function_raises() -> None:
    stopped = threading.Event()

    async def endless(completions: list[str]) -> list[float]:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return []

    async def broken(completions: list[str]) -> list[float]:
        await asyncio.sleep(0)
        raise ConnectionError("no route")

    with pytest.raises(
        RewardFunctionError, match=r"reward function broken raised ConnectionError: no route; it was gi"
    ):
        rewards_of([endless, broken])
    assert stopped.wait(30)


def test_the_error_that_a_function_raised_is_the_cause() -> None:
    def broken(completions: list[str]) -> list[float]:
        return [1 / (len(completion) - 3) for completion in completions]

    with pytest.raises(
        RewardFunctionError, match=r"broken raised ZeroDivisionError.* 2 samples, .* prompt 'a', compl"
    ) as told:
        rewards_of(broken)
    assert isinstance(told.value.__cause__, ZeroDivisionError)


async def forgotten() -> list[float]:
    return [1.0, 2.0]


LONG = "w" * 1000
WRONG: list[tuple[Any, type[Exception], str]] = [
    (
        returning([1.0]),
        ValueError,
        r"reward function judge returned 1 values, expected a list of 2 numbers, one for ea",
    ),
    (returning(1.0), TypeError, r"judge returned a float, expected a list of 2 numbers$"),
    (returning({"a": 1, "b": 2}), TypeError, r"judge returned a dict, expected a list of 2"),
    (returning(None), TypeError, r"judge returned a NoneType, expected a list"),
    (returning("12"), TypeError, r"judge returned a str, expected a list"),
    (lambda **_: forgotten(), TypeError, r"lambda returned a coroutine, expected .*: define it by async def"),
    (returning(torch.ones(2, 1)), ValueError, r"judge returned shape \[2, 1\], expected \[2\]"),
    (returning(np.ones(())), ValueError, r"judge returned shape \[\], expected \[2\]"),
    (returning(torch.ones(3)), ValueError, r"judge returned 3 values, expected a list of 2"),
    (
        returning([0.0, "1.0"]),
        TypeError,
        r"judge returned '1\.0' for sample 1 \(prompt 'b', completion 'two'\), expected a finite number, or None where",
    ),
    (returning([[1.0], [2.0]]), TypeError, r"judge returned \[1\.0\] for sample 0"),
    (returning([1.0, 1j]), TypeError, r"judge returned 1j for sample 1"),
    (returning([torch.ones(2), 0.0]), TypeError, r"judge returned tensor\(\[1., 1.\]\) for sample 0"),
    (
        returning([0.0, math.nan]),
        NonFiniteError,
        r"judge returned nan for sample 1 .*: return None where it cannot tel",
    ),
    (returning(torch.tensor([0.0, math.nan])), NonFiniteError, r"judge returned nan for sample 1"),
    (returning([-math.inf, 0.0]), NonFiniteError, r"judge returned -inf for sample 0"),
    (returning([10**400, 0.0]), NonFiniteError, r"judge returned 1000\d+ for sample 0"),
    (
        [returning([None, None]), returning([None, None], "other")],
        ValueError,
        r"none of 2 samples was scored: judge, other returned None for each, the first of which is prompt 'a', complet",
    ),
    (
        math_reward,
        RewardFunctionError,
        r"math_reward raised ValueError: math_reward found neither a column 'answer' nor 'solution': name one",
    ),
    (
        lambda completions, trainer_state: [],
        ValueError,
        r"lambda asks for 'trainer_state', but the states have no columns: give states as rows .*\"trainer_state\"",
    ),
]


@pytest.mark.parametrize(("functions", "error", "message"), WRONG)
def test_what_goes_wrong_names_the_function_and_the_sample(
    functions: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rewards_of(functions)


def test_long_texts_are_cut_in_errors() -> None:
    with pytest.raises(NonFiniteError, match=r"\(prompt 'w{60}'\.\.\., completion 'w{60}'\.\.\.\)"):
        rewards_of(returning([math.nan]), [LONG], [Completion((1,), LONG)])


UNBUILDABLE: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: FunctionReward([]), ValueError, r"functions is empty, expected at least one"),
    (
        lambda: FunctionReward("judge"),  # type: ignore[arg-type]
        TypeError,
        r"functions\[0\] is 'judge', expected a function .*SequenceClassificationReward\(model\)",
    ),
    (lambda: FunctionReward([lengths, torch.nn.Linear(1, 1)]), TypeError, r"functions\[1\] is Linear\(.* expected a f"),
    (
        lambda: FunctionReward(FormatReward),
        TypeError,
        r"functions\[0\] is <class .*FormatReward'>, expected a function",
    ),
    (lambda: FunctionReward([lengths, lengths]), ValueError, r"functions\[1\] has the name 'lengths' of another"),
    (
        lambda: FunctionReward(lengths, [1.0, 2.0]),
        ValueError,
        r"weights is \[1.0, 2.0\], expected 1, one for .*: lengths",
    ),
    (lambda: FunctionReward(lengths, [math.nan]), ValueError, r"weights is \[nan\], expected finite numbers"),
    (lambda: OverlongPenalty(10, 0), ValueError, r"buffer is 0 and max_length 10, expected 1 <= buffer <= max_length"),
    (lambda: OverlongPenalty(10, 11), ValueError, r"buffer is 11 and max_length 10"),
]


@pytest.mark.parametrize(("build", "error", "message"), UNBUILDABLE)
def test_what_cannot_be_built_says_why(build: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


ODD_STATES: list[tuple[list[Any], list[Any], type[Exception], str]] = [
    (["a"], [ONE, TWO], ValueError, r"there are 1 states and 2 actions"),
    (["a", 3], [ONE, TWO], TypeError, r"state 1 is a int, expected a string, a list of chat messages .*, or a row"),
    (["a"], ["one"], TypeError, r"action 0 is a str, expected a Completion"),
    ([[]], [ONE], TypeError, r"state 0 is an empty list, expected a string"),
    ([{"question": "a"}], [ONE], TypeError, r"state 0 is a row with the columns \['question'\], expected"),
    ([{"prompt": None}], [ONE], TypeError, r"column 'prompt' of state 0 is a NoneType, expected a string"),
    (QUESTION, [ONE, TWO], TypeError, r"state 0 is a row .*: a chat message alone is no state, put it in a list"),
    (
        [["a", "b"]],
        [ONE],
        TypeError,
        r"message 0 of state 0 is 'a', expected \{\"role\": .*: each state has a prompt of",
    ),
    ([[{"role": "user"}]], [ONE], TypeError, r"message 0 of state 0 has content of type NoneType, expected a string"),
    (
        [{"prompt": "a", "x": 1}, "b"],
        [ONE, TWO],
        TypeError,
        r"state 1 is a str, state 0 a dict: give all states as row",
    ),
    (
        [{"prompt": "a", "x": 1}, {"prompt": "b", "y": 1}],
        [ONE, TWO],
        ValueError,
        r"state 1 has the columns \['prompt', 'y'\], state 0 \['prompt', 'x'\]: all rows need the same",
    ),
    (
        [{"prompt": "a", "completions": 1}],
        [ONE],
        ValueError,
        r"the rows have a column 'completions', which is .*: rename",
    ),
]


@pytest.mark.parametrize(("states", "actions", "error", "message"), ODD_STATES)
def test_odd_states_are_named(states: list[Any], actions: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rewards_of(lengths, states, actions)


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    def right(completions: list[str], solution: list[str]) -> list[float]:
        return []

    with pytest.raises(ValueError, match=r"right asks for 'solution', but the states have the columns \['answer'\]"):
        rewards_of(right, ROWS)


def test_the_overlong_penalty_follows_the_paper() -> None:
    penalty = OverlongPenalty(max_length=20480, buffer=4096)
    assert penalty([[0] * 16384, [0] * 18432, [0] * 20480, [0] * 30000]) == [0.0, -0.5, -1.0, -1.0]
    assert rewards_of(OverlongPenalty(2, 2)) == [-0.5, -1.0]


@given(st.data())
def test_laws_of_the_overlong_penalty(data: st.DataObject) -> None:
    max_length = data.draw(st.integers(1, 50))
    buffer = data.draw(st.integers(1, max_length))
    penalties = OverlongPenalty(max_length, buffer)([[0] * length for length in range(60)])
    assert all(later <= earlier for earlier, later in itertools.pairwise(penalties))
    assert penalties[max_length - buffer] == 0
    assert max(penalties[max_length:]) == -1
    inside = penalties[max_length - buffer : max_length + 1]
    assert np.diff(inside) == pytest.approx(-1 / buffer)


FORMATS = [
    ("<think>6 * 7</think><answer>42</answer>", 1.0),
    ("\n<think>6\n* 7</think>\n\n<answer>42</answer>\n", 1.0),
    ("<think></think><answer></answer>", 1.0),
    ("<think>6 * 7</think><answer>42</answer> I hope", 0.0),
    ("well, <think>6 * 7</think><answer>42</answer>", 0.0),
    ("<think>6 * 7</think> so <answer>42</answer>", 0.0),
    ("<think>6 * 7<answer>42</answer>", 0.0),
    ("<think>a</think>b</think><answer>42</answer>", 0.0),
    ("<think>a</think><answer>42</answer></answer>", 0.0),
    ("<answer>42</answer>", 0.0),
    ("", 0.0),
]


@pytest.mark.parametrize(("text", "reward"), FORMATS)
def test_format(text: str, reward: float) -> None:
    assert FormatReward()([text, [{"role": "assistant", "content": text}]]) == [reward, reward]


ANSWERS = [
    (r"so \boxed{42}", "42", 1.0),
    (r"\boxed{41} no, \boxed{42}, not 43", "42", 1.0),
    (r"\boxed{\boxed{42}}", "42", 1.0),
    (r"\boxed {42}", "42", 1.0),
    (r"\boxed{42} or \boxed{43", "42", 1.0),
    (r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{\sqrt{2}}{2}", 1.0),
    (r"\boxed{\dfrac{1}{2}}", "0.5", 1.0),
    (r"\boxed{-\frac{1}{2}}", "-.5", 1.0),
    (r"\boxed{\frac{-1}{2}}", "-1/2", 1.0),
    (r"\boxed{\frac12}", "1/2", 1.0),
    (r"\boxed{\frac{1}{0}}", "1", 0.0),
    (r"\boxed{x = 5}", "5", 1.0),
    (r"\boxed{5}", "$x=5$", 1.0),
    (r"\boxed{\text{Paris}}", "paris.", 1.0),
    (r"\boxed{\left( 1, 2 \right)}", "(1,2)", 1.0),
    (r"\boxed{\{1,2\}}", r"\{1, 2\}", 1.0),
    (r"\boxed{x^2+1}", "1", 0.0),
    (r"\boxed{1 1/2}", "11/2", 0.0),
    (r"\boxed{-1 1/2}", "-1.5", 1.0),
    (r"\boxed{1\tfrac{1}{2}}", "3/2", 1.0),
    (r"\boxed{2\frac{3}{2}}", "3.5", 0.0),
    (r"\boxed{}", "42", 0.0),
    ("6 * 7 = 42\n#### 42", "41 + 1\n#### 42", 1.0),
    ("#### 42\nnot 43", "42", 1.0),
    ("#### The answer\nis 42", "42", 1.0),
    ("<think>41</think><answer> 42 </answer>", "42", 1.0),
    ("<think>41</think><answer>x + 1</answer>", "x+1", 1.0),
    ("42 <answer>", "42", 1.0),
    ("It is 42.", "42", 1.0),
    ("It is 42.0%", "42", 1.0),
    ("It is 42%", ".42", 1.0),
    (r"It is 42\%", r"42\%", 1.0),
    ("It costs $1,234.50.", "1234.5", 1.0),
    ("It costs -$3", "-3", 1.0),
    (r"It costs \$3", "3", 1.0),
    ("It is −3", "-3", 1.0),
    ("It is 5-3", "3", 1.0),
    (r"It is -\frac{3}{4}, I think", "-0.75", 1.0),
    ("It is 3/4", "0.75", 1.0),
    ("It is 0.33", "1/3", 0.0),
    ("1e3", "1000", 0.0),
    (r"\boxed{1e3}", "1000", 1.0),
    (r"\boxed{+ 7}", "7.", 1.0),
    ("See x1", "1", 0.0),
    ("I do not know", "42", 0.0),
    ("", "42", 0.0),
    ("42", 42, 1.0),
    ("0.5", 0.5, 1.0),
    ("42", None, None),
    ("42", float("nan"), None),
    ("42", " ", None),
]


@pytest.mark.parametrize(("completion", "answer", "reward"), ANSWERS)
def test_answers(completion: str, answer: Any, reward: float | None) -> None:
    assert math_reward([completion], answer=[answer]) == [reward]
    assert math_reward([[{"role": "assistant", "content": completion}]], solution=[answer]) == [reward]


def test_rows_without_an_answer_are_left_out() -> None:
    states = [{"prompt": "6 * 7", "answer": "42"}, {"prompt": "6 * 7", "answer": None}]
    rewards = FunctionReward(math_reward).compute_rewards(states, [Completion((1,), "42"), Completion((1,), "42")])
    assert isinstance(rewards, PartialRewards)
    assert rewards.scored.tolist() == [True, False]


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**4), st.sampled_from(["{}/{}", r"\frac{{{}}}{{{}}}"]))
def test_a_fraction_is_found_however_it_is_written(numerator: int, denominator: int, form: str) -> None:
    written = form.format(numerator, denominator)
    value = Fraction(numerator, denominator)
    right = f"{value.numerator}/{value.denominator}"
    for text in (written, rf"So \boxed{{{written}}} it is.", f"First 3, so {written}", f"<answer>{written}</answer>"):
        assert math_reward([text], [right]) == [1.0], text
        assert math_reward([text], [f"{value + 1}"]) == [0.0], text


@given(st.decimals(-(10**9), 10**9, places=3))
def test_a_decimal_is_found_with_and_without_separators(value: Any) -> None:
    for written in (f"{value}", f"{value:,}", f"${value:,}$", f"{value:.6f}"):
        assert math_reward([f"It is {written}.", rf"\boxed{{{written}}}"], [f"{value}"] * 2) == [1.0, 1.0]


@given(
    st.recursive(
        st.text("ab1 \\", max_size=3).map(lambda text: text.replace("\\", "\\alpha")),
        lambda inner: st.lists(inner, max_size=3).map(lambda parts: "{" + "".join(parts) + "}"),
    )
)
def test_what_stands_in_a_box_comes_out_of_it(content: str) -> None:
    assert final_answer(rf"First \boxed{{7}} {{ and then \boxed{{{content}}} 99") == content.strip()


@given(st.text(st.sampled_from(list("\\boxed{}#<answer>/ 1,.-%$x\n")) | st.characters(), max_size=200))
def test_no_text_breaks_the_ready_rewards(text: str) -> None:
    assert math_reward([text, "1"], answer=["1", text])[0] in {0.0, 1.0}
    assert FormatReward()([text])[0] in {0.0, 1.0}


HOSTILE = [
    r"\boxed{", "{", "}", r"\boxed", r"\boxed ", "####", "#### 1\n", "<answer>", "</answer>", "<answer></answer>",
    "<think>", "</think>", "</think><answer>", "<think></think>", " ", "\n", "1", "1,", "111,", "1/", "-", "$", "%",
    ".", "1.", r"\frac{", r"\frac{1}{", r"\text{", r"\text ", r"\left", "x=", "x ",
]  # fmt: skip


@pytest.mark.parametrize("part", HOSTILE)
def test_hostile_texts_take_no_time(part: str) -> None:
    text = part * (150_000 // len(part))
    texts = [text, f"<think>{text}", f"<think></think>{text}", f"<answer>{text}</answer>", rf"\boxed{{{text}}}"]
    start = time.perf_counter()
    math_reward(texts, ["1"] * len(texts))
    math_reward(["1"] * len(texts), texts)
    FormatReward()(texts)
    assert time.perf_counter() - start < 5
    assert re.fullmatch(r"[01]\.0", str(FormatReward()([text])[0]))


class Noisy:
    """A reward function that draws."""

    __name__ = "noisy"

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        if isinstance(self.generator, torch.Generator):
            return torch.rand(len(completions), generator=self.generator).tolist()
        return [float(value) for value in self.generator.random(len(completions))]


@pytest.mark.parametrize("make", [lambda: torch.Generator().manual_seed(0), lambda: np.random.default_rng(0)])
def test_generators_of_functions_are_saved_and_put_back(make: Callable[[], Any]) -> None:
    reward = FunctionReward([lengths, Noisy(make())])
    reward.compute_rewards(["a"], [ONE])
    state = part_states({"reward": reward})

    def draw(model: FunctionReward) -> list[float]:
        rewards = model.compute_rewards(["a", "b"], [ONE, TWO])
        assert isinstance(rewards, torch.Tensor)
        return rewards.tolist()

    expected = draw(reward)
    assert draw(reward) != expected
    other = FunctionReward([lengths, Noisy(make())])
    load_part_states({"reward": other}, state)
    states = RestoresRandomStates([other])
    with states:
        assert draw(other) == expected
        states.restore()
    assert draw(other) == expected


def test_a_state_of_other_functions_is_refused_and_one_of_other_weights_told() -> None:
    def long(completions: Any) -> list[float]:
        return [float(len(completion)) for completion in completions]

    def short(completions: Any) -> list[float]:
        return [-value for value in long(completions)]

    state = FunctionReward([long, short], weights=[1.0, 2.0]).state_dict()
    FunctionReward([long, short], weights=[1.0, 2.0]).load_state_dict(state)
    with pytest.raises(ValueError, match=r"states of the functions .*'short'.*, expected {'long': \[\]}"):
        FunctionReward(long).load_state_dict(state)
    other = FunctionReward([long, short], weights=[2.0, 1.0])
    with pytest.warns(UserWarning, match=r"with the weights \[2\.0, 1\.0\], and its state is one with \[1\.0, 2\.0\]"):
        other.load_state_dict(state)
    assert other.state_dict()["weights"] == [2.0, 1.0]
