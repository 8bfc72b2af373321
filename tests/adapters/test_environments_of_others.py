"""Environments of TRL's, gymnasium's and SkyRL's interfaces as partners of a model."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
from chat_families import QWEN3, Message, call, read, rendered, talk

from grpo_adapters.huggingface import (
    AgentSampler,
    Conversation,
    TextEnvironmentError,
    Tool,
    text_gymnasium_environment,
    trl_environment,
)

ROW = {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Reach "}], "goal": 5}


class Counter:
    """Counts what it is told to; as TRL's documentation describes such a class."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1

    def reset(self, goal: int, **row: Any) -> str | None:
        self.goal, self.count = goal, 0
        return f"{goal}!" if "prompt" in row else f"Reach {goal}!"

    def add(self, number: int) -> str:
        """Add to the count.

        Args:
            number: to add.
        """
        self.count += number
        return f"It is {self.count}."

    async def double(self) -> int:
        """Double the count."""
        self.count *= 2
        return self.count

    def get_reward(self) -> float:
        return float(self.count == self.goal)

    def _hidden(self) -> None: ...


class Silent(Counter):
    """One that tells nothing at the beginning, and gives no reward."""

    get_reward = None  # type: ignore[assignment]

    def reset(self, goal: int = 1, **row: Any) -> None:
        super().reset(goal)


def first_words(conversation: Conversation) -> str:
    return read(QWEN3, conversation.turns[0].context)


def test_environments_of_trl() -> None:
    Counter.made = 0
    sampler = AgentSampler(trl_environment(Counter))
    for _ in range(2):  # as with TRL, an environment serves one conversation after the other
        both = talk(sampler, call("add", number=2) + call("add", number=3), "Done.", states=[ROW], group_size=2)
        assert [own.reward for own in both] == [1.0, 1.0]
        assert [turn.reward for turn in both[0].turns] == [0.0, 1.0]
        assert [own["content"] for own in both[0].messages] == ["", "It is 2.", "It is 5.", "Done."]
    assert Counter.made == 2
    told: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Reach 5!"}]
    environment = Counter()
    schemas = [Tool(environment.add).schema, Tool(environment.double).schema]
    assert first_words(both[0]) == rendered(QWEN3, told, schemas)
    assert both[0].ended
    [cut] = talk(AgentSampler(trl_environment(Counter), max_turns=1), call("add", number=5), states=[ROW])
    assert (cut.reward, cut.ended) == (1.0, False)


def test_several_environments_of_trl() -> None:
    sampler = AgentSampler(trl_environment({"counts": Counter, "silent": Silent}))
    rows = [ROW | {"environment": "counts"}, ROW | {"environment": "silent"}, {"goal": 3, "environment": "counts"}]
    counts, silent, unprompted = talk(sampler, call("double"), "Done.", states=rows)
    assert "Reach 5!<|im_end|>" in first_words(counts)
    assert "Reach <|im_end|>" in first_words(silent)
    assert "<|im_start|>user\nReach 3!<|im_end|>" in first_words(unprompted)
    assert silent.reward == 0.0
    with pytest.raises(
        TextEnvironmentError, match="column 'environment' is 'maze', expected one of 'counts', 'silent'"
    ):
        talk(sampler, "Done.", states=[ROW | {"environment": "maze"}])


class Guess(gymnasium.Env[str, str]):
    """Tells whether a guess is too low; three guesses."""

    observation_space = gymnasium.spaces.Text(100)
    action_space = gymnasium.spaces.Text(100)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.number = int(self.np_random.integers(1, 9)) if options is None else options["number"]
        self.left = 3
        return "Which number?", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        right = int(action) == self.number
        return ("Right." if right else f"{self.left} left."), float(right), right, self.left == 0, {}


def test_text_environments_of_gymnasium() -> None:
    sampler = AgentSampler(text_gymnasium_environment(Guess))
    rows = [{"prompt": "Play. ", "options": {"number": number}} for number in (3, 4, 9)]
    first, second, never = talk(sampler, "3", "<think>\nHm.\n</think>\n\n4", "5", states=rows)
    assert [len(own.turns) for own in (first, second, never)] == [1, 2, 3]
    assert [own.reward for own in (first, second, never)] == [1.0, 1.0, 0.0]
    assert [own.ended for own in (first, second, never)] == [True, True, False]
    assert "<|im_start|>user\nPlay. Which number?<|im_end|>" in first_words(first)
    assert second.messages[1] == {"role": "user", "content": "2 left."}


def test_a_seed_makes_the_same_beginning() -> None:
    numbers: list[int] = []

    class Noted(Guess):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            numbers.append(self.number)
            return super().step(str(self.number))

    talk(AgentSampler(text_gymnasium_environment(Noted)), "?", states=[{"seed": 4}, 7], group_size=8)
    assert (len(set(numbers[:8])), len(set(numbers[8:]))) == (1, 1)


class Numbers(Guess):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return 3, {}


def test_what_is_no_text() -> None:
    with pytest.raises(TextEnvironmentError, match="the observation is a int, expected a string: write it as one"):
        talk(AgentSampler(text_gymnasium_environment(Numbers)), "3")
