"""Tasks of verifiers, as the package scores them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import verifiers.v1 as vf
from chat_families import QWEN3, call, read, talk

from grpo_adapters.huggingface import AgentSampler, TextEnvironmentError, verifiers_environment


class SumData(vf.TaskData):
    answer: str


class SumTask(vf.Task[SumData]):
    """Rewards the answer, and half of it having been worked out with a tool."""

    @vf.reward(weight=1.0)
    async def correct(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == self.data.answer)

    @vf.reward(weight=0.5)
    async def calculated(self, trace: vf.Trace) -> float:
        calls = [call for message in trace.assistant_messages for call in message.tool_calls or ()]
        answers = {message.tool_call_id: message.content for message in trace.tool_messages}
        return float(bool(calls) and all(answers[call.id] == "5" for call in calls))

    @vf.metric
    async def turns(self, trace: vf.Trace) -> float:
        return float(trace.num_turns)


class Sums(vf.Taskset[SumTask]):
    def load(self) -> Iterator[SumTask]:
        for first in (2, 3):
            yield SumTask(SumData(prompt=f"{first} + 3?", system_prompt="Be brief.", answer=str(first + 3)))


def add(first: int, second: int) -> int:
    """Add two numbers.

    Args:
        first: one.
        second: the other.
    """
    return first + second


def test_tasks_are_asked_and_scored() -> None:
    tasks = list(Sums(vf.TasksetConfig()))
    five, six = talk(AgentSampler(verifiers_environment(), [add]), call("add", first=2, second=3), "5", states=tasks)
    assert (five.reward, six.reward) == (1.5, 0.5)
    assert [turn.reward for turn in five.turns] == [0.0, 1.5]
    opening = read(QWEN3, five.turns[0].context)
    assert "Be brief." in opening
    assert "<|im_start|>user\n2 + 3?<|im_end|>" in opening
    [cut] = talk(
        AgentSampler(verifiers_environment(), [add], max_turns=1), call("add", first=2, second=3), states=tasks[:1]
    )
    assert (cut.reward, cut.ended) == (0.5, False)


class Contained(SumTask):
    NEEDS_CONTAINER = True


class Prepared(SumTask):
    async def setup(self, trace: Any, runtime: Any) -> None: ...


class Looked(SumTask):
    @vf.reward(weight=1.0)
    async def looked(self, trace: vf.Trace, runtime: Any) -> float:
        return 1.0


class Stopped(SumTask):
    @vf.stop
    async def enough(self, trace: vf.Trace) -> bool:
        return True


REFUSED = [(Contained, "a container"), (Prepared, "a runtime"), (Looked, "a runtime"), (Stopped, "to stop or change")]


@pytest.mark.parametrize(("kind", "needs"), REFUSED)
def test_what_cannot_be_done_is_refused(kind: type[SumTask], needs: str) -> None:
    task = kind(SumData(prompt="2 + 3?", answer="5"))
    with pytest.raises(TextEnvironmentError, match=f"task {kind.__name__} needs {needs}"):
        talk(AgentSampler(verifiers_environment()), "5", states=[task])


def test_other_states_are_refused() -> None:
    with pytest.raises(TextEnvironmentError, match="the state is a str, expected a verifiers"):
        talk(AgentSampler(verifiers_environment()), "5")
