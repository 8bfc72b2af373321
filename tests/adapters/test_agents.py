"""Conversations with tools and environments: who answers what, where they end, what is told of failures."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from grpo import DiffersFromPolicy, GRPOConfig, GRPOTrainer, ImportanceCorrection
from grpo_adapters.huggingface import (
    AgentSampler,
    CausalLMPolicy,
    Completion,
    CompletionBatch,
    Conversation,
    ConversationReward,
    FunctionReward,
    SamplingConfig,
    TextEnvironmentError,
    character_tokenizer,
    parse_message,
)
from grpo_adapters.huggingface.text.conversations import Message

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789+*=?!.:;<>{}[]()\"'_- ,/\nABCDEFGHIJKLMNOPQRSTUVWXYZ|"
TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool['function']['name'] }},{% endfor %}"
    "{% for message in messages %}{{ message['role'][0] }}:{{ message['content'] }};{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


def policy_of(tokenizer: PreTrainedTokenizerBase, sampling: SamplingConfig) -> CausalLMPolicy:
    """A small model with random weights."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=512, eos_token_id=tokenizer.eos_token_id
    )
    return CausalLMPolicy(GPT2LMHeadModel(config), tokenizer, sampling=sampling)


class Scripted:
    """A policy that says what it is told to, turn by turn, in place of what its model would."""

    def __init__(self, *turns: str, cut: bool = False) -> None:
        tokenizer = character_tokenizer(CHARACTERS, chat_template=TEMPLATE)
        tokenizer.eos_token = ";"
        self.policy = policy_of(tokenizer, SamplingConfig(max_new_tokens=64))
        self.turns, self.cut = turns, cut
        self.rounds = 0

    def talk(
        self, sampler: AgentSampler, states: Sequence[Any] = ("hello?",), group_size: int = 1
    ) -> list[list[Conversation]]:
        """Conversations in which the policy's turns are the scripted ones."""
        self.policy.turns = lambda sampling: self  # type: ignore[method-assign, assignment, return-value]
        return sampler.sample(self.policy, [asked(state) for state in states], group_size)

    def complete(self, conversations: Sequence[int], contexts: Sequence[tuple[int, ...]]) -> list[Completion]:
        """The turn that is next in the script, in each conversation."""
        self.rounds += 1
        text = self.turns[min(self.rounds, len(self.turns)) - 1]
        token_ids = tuple(self.policy.tokenizer(text if self.cut else f"{text};")["input_ids"])
        return [Completion(token_ids, text, not self.cut) for _ in contexts]

    def read(self, context: Sequence[int]) -> str:
        """Token ids as text."""
        return str(self.policy.tokenizer.decode(list(context)))


def asked(state: Any) -> Any:
    return [{"role": "user", "content": state}] if isinstance(state, str) else state


def call(name: str, /, **arguments: Any) -> str:
    pairs = ", ".join(f'"{key}": {value!r}'.replace("'", '"') for key, value in arguments.items())
    return f'<tool_call>{{"name": "{name}", "arguments": {{{pairs}}}}}</tool_call>'


def add(first: int, second: int) -> int:
    """Add two numbers.

    Args:
        first: one.
        second: the other.
    """
    return first + second


def sleep(seconds: float) -> str:
    """Sleep.

    Args:
        seconds: how long.
    """
    time.sleep(seconds)
    return "slept"


def fail() -> None:
    """Fail."""
    raise KeyError("nothing there")


def strange() -> object:
    """Return what is no text."""
    return object()


class Countdown:
    """Answers with a number that goes down to 0, and a reward at each step."""

    def __init__(self, start: int = 3) -> None:
        self.number = start

    def reset(self, state: Any) -> list[Message] | None:
        return None

    def step(self, message: Message) -> tuple[list[Message], float, bool]:
        self.number -= 1
        return [{"role": "user", "content": str(self.number)}], float(self.number), self.number == 0


def test_a_tool_is_called_and_its_answer_read() -> None:
    scripted = Scripted(f"see {call('add', first=2, second=3)}", "it is 5")
    [[conversation]] = scripted.talk(AgentSampler(tools=[add]))
    first, second = conversation.turns
    assert scripted.read(first.context) == "add,u:hello?;a:"
    said = f"see {call('add', first=2, second=3)};"
    assert scripted.read(second.context) == f"add,u:hello?;a:{said}t:5;a:"
    assert second.context[: len(first)] == first.token_ids
    assert conversation.ended
    assert conversation.text == "it is 5"
    assert [message["role"] for message in conversation.messages] == ["assistant", "tool", "assistant"]
    assert conversation.messages[1] == {"role": "tool", "name": "add", "content": "5"}


def test_several_calls_run_at_once_and_are_answered_in_order() -> None:
    here, there = threading.Event(), asyncio.Event()

    async def first() -> str:
        """Wait for the second."""
        here.set()
        await there.wait()
        return "1"

    async def second() -> str:
        """Wait for the third, and let the first go on."""
        await asyncio.to_thread(here.wait)
        there.set()
        return "2"

    def third() -> int:
        """Wait for the first."""
        here.wait()
        return 3

    sampler = AgentSampler(tools=[first, second, third])
    [[conversation]] = Scripted(call("first") + call("second") + call("third"), "done").talk(sampler)
    assert [message["content"] for message in conversation.messages[1:4]] == ["1", "2", "3"]
    assert sampler.get_metrics()["tools/mean_calls"] == 3


FAILURES = [
    (call("multiply", first=2), "error: there is no tool 'multiply'; tools are add, sleep, fail, strange"),
    (call("add", first=2), "error: add was called with wrong arguments: second: Missing required argument"),
    (call("add", first="x", second=2), "error: add was called with wrong arguments: first: Input should be a valid in"),
    (call("add", first=1, second=2, third=3), "error: add was called with wrong arguments: third: Unexpected keyword"),
    ('<tool_call>{"name": "add", "arguments": [1, 2]}</tool_call>', "error: add takes arguments by name, as a JSON ob"),
    (
        '<tool_call>{"name": "add", "argum</tool_call>',
        'error: the call \'{"name": "add", "argum\' cannot be read; tools',
    ),
    (call("fail"), "error: fail raised KeyError: 'nothing there'"),
    (call("sleep", seconds=1), "error: sleep took longer than 0.5 seconds"),
    (call("strange"), "error: strange returned a object, which cannot be written as text"),
    ('<tool_call>{"name": "add"}</tool_call>', "error: add was called with wrong arguments: first: Missing required"),
    (call("wait", timeout=1, function="x"), "error: wait took longer than 0.5 seconds"),
    (call("leave"), "error: leave raised RuntimeError: SystemExit: 3"),
    (call("leave_soon"), "error: leave_soon raised RuntimeError: SystemExit: 4"),
    (call("promise"), "7"),
    (call("give_up"), "error: give_up raised RuntimeError: TimeoutError: nobody is there"),
    (call("half"), "error: half returned a str, which cannot be written as text"),
]


def wait(timeout: float, function: str) -> None:
    """Wait.

    Args:
        timeout: seconds.
        function: anything, by a name that others use.
    """
    threading.Event().wait(timeout)


def leave() -> None:
    """Leave."""
    sys.exit(3)


async def leave_soon() -> None:
    """Leave, in the event loop."""
    sys.exit(4)


def promise() -> Any:
    """Promise a seven."""
    return asyncio.sleep(0, 7)


def give_up() -> None:
    """Give up soon."""
    raise TimeoutError("nobody is there")


def half() -> str:
    """Say half of a character."""
    return "\ud800"


@pytest.mark.parametrize(("said", "answer"), FAILURES)
def test_what_goes_wrong_is_told_to_the_model_and_counted(said: str, answer: str) -> None:
    sampler = AgentSampler(
        tools=[add, sleep, fail, strange, wait, leave, leave_soon, promise, give_up, half], timeout=0.5
    )
    [[conversation]] = Scripted(said, "sorry").talk(sampler)
    assert conversation.messages[1]["content"].startswith(answer)
    assert conversation.ended
    assert sampler.get_metrics()["tools/failure_fraction"] == answer.startswith("error")


@pytest.mark.parametrize("arguments", ["[" * 100_000, '{"half of a character": "\\ud800"}'])
def test_a_call_that_is_no_text_or_too_deep_cannot_be_read(arguments: str) -> None:
    said = f'{{"name": "add", "arguments": {arguments}}}'
    [own] = parse_message(f"<tool_call>{said}</tool_call>")["tool_calls"]
    assert own["function"] == {"name": "", "arguments": said}


def test_an_error_within_a_tool_is_not_one_of_its_arguments() -> None:
    def checked(number: int) -> str:
        """Check.

        Args:
            number: any.
        """
        return str(GRPOConfig(group_size=number))

    [[conversation]] = Scripted(call("checked", number=-1), "sorry").talk(AgentSampler(tools=[checked]))
    assert conversation.messages[1]["content"].startswith("error: checked raised ValidationError: 1 validation error")


def test_an_environment_answers_until_it_is_over() -> None:
    scripted = Scripted("x")
    sampler = AgentSampler(Countdown)
    [[conversation], [other]] = scripted.talk(sampler, ["hello?", "9"])
    assert [turn.reward for turn in conversation.turns] == [2.0, 1.0, 0.0]
    assert conversation.reward == 3.0
    assert scripted.read(conversation.turns[-1].context) == "u:hello?;a:x;u:2;a:x;u:1;a:"
    assert scripted.read(other.turns[0].context) == "u:9;a:"
    assert conversation.messages[-1] == {"role": "user", "content": "0"}
    assert sampler.get_metrics() == {
        "conversations/mean_turns": 3.0,
        "conversations/mean_rows": 1.0,
        "conversations/mean_reward": 3.0,
        "tools/mean_calls": 0.0,
        "tools/failure_fraction": 0.0,
    }


def test_environments_with_tools_of_their_own_and_closing() -> None:
    closed = []

    class Shop:
        def __init__(self) -> None:
            self.bought: list[str] = []

        def get_tools(self) -> list[Callable[..., Any]]:
            return [self.buy]

        def buy(self, name: str) -> str:
            """Buy something.

            Args:
                name: of what.
            """
            self.bought.append(name)
            return "yours"

        async def reset(self, state: Any) -> list[Message]:
            return [{"role": "user", "content": f"buy {state['goods']}"}]

        async def step(self, message: Message) -> tuple[list[Message], float, bool]:
            return [], float(self.bought == ["tea"]), True

        def close(self) -> None:
            closed.append(self)

    scripted = Scripted(call("buy", name="tea"), "done")
    groups = scripted.talk(AgentSampler(Shop, tools=[add]), [{"prompt": "unread", "goods": "tea"}], 2)
    assert [conversation.reward for conversation in groups[0]] == [1.0, 1.0]
    assert scripted.read(groups[0][0].turns[0].context) == "add,buy,u:buy tea;a:"
    assert len(closed) == 2


def test_an_environment_changes_no_row() -> None:
    class Lock:
        def reset(self, state: Any) -> None:
            self.missing, self.state = state["code"], state
            self.state["visited"] = True

        def step(self, message: Message) -> tuple[list[Message], float, bool]:
            self.missing.pop()
            return [{"role": "user", "content": "next"}], 1.0, not self.missing

    row = {"prompt": asked("open"), "code": [1, 2]}
    [group] = Scripted("x").talk(AgentSampler(Lock), [row], 2)
    assert [conversation.reward for conversation in group] == [2.0, 2.0]
    assert row == {"prompt": asked("open"), "code": [1, 2]}


SCHEMA = {"type": "function", "function": {"name": "buy", "parameters": {}}}


@pytest.mark.parametrize("sampler", [AgentSampler(Countdown, tools=[add]), AgentSampler(tools=[add])])
def test_a_schema_whose_calls_nobody_answers(sampler: AgentSampler) -> None:
    with pytest.raises(ValueError, match=r"state 0 has the JSON schema .*'buy'.* whose calls nobody would answer"):
        Scripted("x").talk(sampler, [{"prompt": asked("x"), "tools": [SCHEMA]}])


def test_where_conversations_are_cut() -> None:
    class Endless:
        def reset(self, state: Any) -> None:
            return None

        def step(self, message: Message) -> tuple[list[Message], float, bool]:
            return [{"role": "user", "content": "more"}], 1.0, False

    [[conversation]] = Scripted("x").talk(AgentSampler(Endless, max_turns=4))
    assert (len(conversation.turns), conversation.ended, conversation.reward) == (4, False, 4.0)
    [[conversation]] = Scripted("x").talk(AgentSampler(Endless, max_turns=100, max_tokens=100))
    assert not conversation.ended
    assert len(conversation.turns[-1].context) + 64 <= 100
    assert len(conversation.turns[-1]) + len("u:more;a:") + 64 > 100
    [[conversation]] = Scripted("x", cut=True).talk(AgentSampler(Endless))
    assert (len(conversation.turns), conversation.ended) == (1, False)
    sampler = AgentSampler(Endless, max_tokens=70)
    with pytest.raises(ValueError, match="state 0 begins with 11 tokens, expected at most 6, so that a turn"):
        Scripted("x").talk(sampler)


def test_a_prompt_that_is_text_is_gone_on_with_as_it_stands() -> None:
    scripted = Scripted("x")
    [[conversation]] = scripted.talk(AgentSampler(Countdown), [{"prompt": "count:"}])
    assert scripted.read(conversation.turns[-1].context) == "count:x;2x;1"


def test_rewards_of_functions_and_of_environments() -> None:
    """Functions read the messages; what environments gave is an argument of theirs."""
    scripted = Scripted("x")
    groups = scripted.talk(AgentSampler(Countdown))

    def summed(environment_rewards: list[float]) -> list[float]:
        return environment_rewards

    def turns(completions: list[list[Message]]) -> list[float]:
        return [float(sum(message["role"] == "assistant" for message in own)) for own in completions]

    states = [asked("hello?")]
    rewards = FunctionReward([summed, turns]).compute_rewards(states, groups[0])
    assert torch.equal(torch.as_tensor(rewards), torch.tensor([6.0]))
    per_turn = ConversationReward(per="turn").compute_rewards(states, groups[0])
    assert per_turn.tolist() == [0.0, 2.0, 0.0, 1.0, 0.0, 0.0]


def test_training_on_conversations() -> None:
    """Rewards a turn and rewards a conversation; the log-probs are those that the model drew with."""
    policy = talker()
    rewards: list[ConversationReward] = [ConversationReward(), ConversationReward(per="turn")]
    for reward in rewards:
        config = GRPOConfig(group_size=4, learning_rate=1e-3)
        sampler = AgentSampler(Countdown, max_turns=2)
        trainer: GRPOTrainer[Any, Any] = GRPOTrainer(config, policy, reward, sampler=sampler)
        metrics = trainer.step([asked("1+1"), asked("7")])
        assert metrics["sampling/kl"] < 1e-9
        assert metrics["num_decisions"] > 8
        assert trainer.last_experience is not None
        assert isinstance(trainer.last_experience.batch, CompletionBatch)


def talker() -> CausalLMPolicy:
    """A policy whose turns end soon, by any of three tokens."""
    tokenizer = character_tokenizer(CHARACTERS, chat_template=TEMPLATE)
    sampling = SamplingConfig(max_new_tokens=8, with_log_probs=True)
    policy = policy_of(tokenizer, sampling)
    policy.causal_model.generation_config.eos_token_id = list(range(0, len(tokenizer), 3))
    return policy


class Broken:
    """Misbehaves as it is told to."""

    def __init__(self, **returned: Any) -> None:
        self.returned = returned

    def reset(self, state: Any) -> Any:
        return self._give("reset")

    def step(self, message: Message) -> Any:
        return self._give("step")

    def get_tools(self) -> Any:
        return self._give("get_tools") if "get_tools" in self.returned else []

    def _give(self, method: str) -> Any:
        given = self.returned.get(method)
        if isinstance(given, BaseException):
            raise given
        if given == "hang":
            threading.Event().wait(0.5)
        return given


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"reset": KeyError("map")}, r"Broken\.reset\(.*hello.*\) raised KeyError: 'map'"),
    ({"reset": "hang"}, r"Broken\.reset\(.*\) took longer than 0\.1 seconds"),
    ({"reset": "text"}, r"Broken\.reset returned 'text', expected a list of messages"),
    ({"reset": [{"role": "user"}]}, r"Broken\.reset returned the message \{'role': 'user'\}, expected"),
    ({"step": ValueError("no such move")}, r"Broken\.step\(.*\) raised ValueError: no such move"),
    ({"step": None}, r"Broken\.step returned None, expected three things: messages, reward, whether it is over"),
    ({"step": ([], float("nan"), True)}, r"Broken\.step returned the reward nan, expected a finite number"),
    ({"step": ([], "much", True)}, r"Broken\.step returned the reward 'much', expected a finite number"),
    ({"step": ([], 0.0, False)}, r"Broken\.step returned no message, and that it is not over"),
    ({"step": ("more", 0.0, False)}, r"Broken\.step returned 'more', expected a list of messages"),
    ({"reset": []}, r"Broken\.reset returned no message, expected at least one"),
    ({"reset": [{"role": "user", "content": "\ud800"}]}, r"Broken\.reset returned .*half of a character"),
    ({"reset": SystemExit(3)}, r"Broken\.reset\(.*\) raised RuntimeError: SystemExit: 3"),
    ({"step": ([], 0.0, "False")}, r"Broken\.step returned 'False' in the third place, expected True or False"),
    ({"step": ([], 0.0, False, {"info": 1})}, r"Broken\.step returned \{'info': 1\} in the fourth place, expected"),
    ({"step": ([], 0.0, torch.zeros(2))}, r"Broken\.step returned tensor.* in the third place, expected"),
    ({"get_tools": KeyError("box")}, r"Broken\.get_tools\(\) raised KeyError: 'box'"),
    ({"get_tools": 3}, r"Broken\.get_tools returned 3, expected a list of functions"),
]


@pytest.mark.parametrize(("returned", "message"), BROKEN)
def test_broken_environments(returned: dict[str, Any], message: str) -> None:
    with pytest.raises(TextEnvironmentError, match=message):
        Scripted("x").talk(AgentSampler(lambda: Broken(**returned), timeout=0.1))


def test_flags_of_other_libraries_are_taken() -> None:
    answers = [{"role": "user", "content": "go on"}]
    for flag in (torch.tensor(False), numpy.bool_(False), 0):
        [[conversation]] = Scripted("x").talk(
            AgentSampler(lambda flag=flag: Broken(step=(answers, 0.0, flag)), max_turns=2)  # type: ignore[misc]
        )
        assert len(conversation.turns) == 2


PARSED: list[Any] = [
    None,
    "text",
    {"content": "x"},
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": None},
    {"role": "assistant", "content": "x", "tool_calls": ["add"]},
    {"role": "assistant", "content": "x", "tool_calls": [{"name": "add", "arguments": {}}]},
    {"role": "assistant", "content": "x", "tool_calls": 3},
]


@pytest.mark.parametrize("parsed", PARSED)
def test_what_a_parser_may_return(parsed: Any) -> None:
    with pytest.raises(TypeError, match=r"parse returned .*, expected \{'role': 'assistant'"):
        Scripted("x").talk(AgentSampler(tools=[add], parse=lambda _: parsed))


def untold(first, second: int) -> int:  # type: ignore[no-untyped-def]
    """Add."""
    return int(first) + second


WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: AgentSampler(), ValueError, "was given neither an environment nor tools"),
    (lambda: AgentSampler(tools=[add, add]), ValueError, "two tools have the name 'add'"),
    (lambda: AgentSampler(tools=[untold]), TypeError, "tool untold does not tell what it is for: .*first"),
    (lambda: AgentSampler(tools=["add"]), TypeError, "tool 'add' is no function with a name"),  # type: ignore[list-item]
    (lambda: AgentSampler(Countdown, max_turns=0), ValueError, "max_turns is 0, expected at least 1"),
    (lambda: AgentSampler(Countdown, max_tokens=0), ValueError, "max_tokens is 0, expected at least 1"),
    (
        lambda: AgentSampler(Countdown, engine="http://127.0.0.1"),
        TypeError,
        "engine is 'http.*', expected an EngineSampl",
    ),
    (lambda: AgentSampler(tools=cast("Any", add)), TypeError, "tools is <function add.*, expected a list of functions"),
    (
        lambda: AgentSampler(tools=[add], parse=cast("Any", "hermes")),
        TypeError,
        "parse is 'hermes', expected a function",
    ),
    (lambda: AgentSampler(Countdown, max_turns=cast("Any", "3")), ValueError, "max_turns is '3', expected at least 1"),
    (lambda: AgentSampler(Countdown, timeout=cast("Any", None)), ValueError, "timeout is None, expected a number"),
    (lambda: AgentSampler(Countdown, timeout=0), ValueError, "timeout is 0, expected a number of seconds above 0"),
    (
        lambda: AgentSampler(cast("Any", Countdown())),
        TypeError,
        "environment is .*, expected what makes one",
    ),
    (
        lambda: Scripted("x").talk(AgentSampler(cast("Any", dict))),
        TypeError,
        "environment made a dict",
    ),
    (
        lambda: Scripted("x").talk(AgentSampler(functools.cache(Countdown)), group_size=2),
        ValueError,
        "environment made the same Countdown twice, expected a new one each time",
    ),
    (
        lambda: Scripted("x").talk(AgentSampler(tools=[add]), [{"prompt": "x", "tools": 3}]),
        TypeError,
        "column 'tools' of state 0 is a int",
    ),
    (
        lambda: Scripted("x").talk(AgentSampler(tools=[add], max_tokens=64)),
        ValueError,
        "AgentSampler has max_tokens=64, expected more than the policy's max_new_tokens=64",
    ),
    (lambda: ConversationReward("token"), ValueError, "per is 'token', expected one of 'conversation', 'turn'"),  # type: ignore[arg-type]
    (
        lambda: ConversationReward().compute_rewards(["a"], [Completion((1,), "")]),
        TypeError,
        "action 0 is a Completion, expected a Conversation",
    ),
]


def test_what_an_engine_recommends_is_done_in_conversations_too() -> None:
    class Engine:
        def turns(self) -> None: ...

        def get_importance_correction(self) -> ImportanceCorrection:
            return ImportanceCorrection(kind="mask", per="sample", max_ratio=3.0)

    sampler = AgentSampler(tools=[add], engine=Engine())
    assert isinstance(sampler, DiffersFromPolicy)
    assert sampler.get_importance_correction() == Engine().get_importance_correction()
    assert AgentSampler(tools=[add]).get_importance_correction() is None


@pytest.mark.parametrize(("make", "error", "message"), WRONG)
def test_wrong_arguments(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
