"""What games of several turns have in common."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grpo import PolicyEvaluation
from grpo_adapters.huggingface import AgentSampler, ConversationReward, TextEnvironment

NUM_HELD_OUT = 150

Message = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Game:
    """A game: its rules, and how it is played well.

    Attributes:
        characters: that everything is written in.
        all_rows: gives different games, in random order, with what the model reads first as ``prompt``.
        environment: a partner for one game.
        tools: that the model may call.
        parse: from what the model wrote to a message.
        expert: from all messages so far to what is best said next.
        max_turns: of the model.
        longest_turn: in tokens, with the one that ends it.
        learning_rate: of the training, at its beginning.
    """

    characters: str
    all_rows: Callable[[random.Random], list[Row]]
    environment: Callable[[], TextEnvironment]
    tools: tuple[Callable[..., str], ...]
    parse: Callable[[str], Message]
    expert: Callable[[Sequence[Message]], str]
    max_turns: int
    longest_turn: int
    learning_rate: float

    def make_rows(self, seed: int) -> tuple[list[Row], list[Row]]:
        """Games to train on, and others that are held out."""
        rows = self.all_rows(random.Random(seed))  # noqa: S311
        return rows[NUM_HELD_OUT:], rows[:NUM_HELD_OUT]

    def sampler(self) -> AgentSampler:
        """Has a model play."""
        return AgentSampler(self.environment, self.tools, max_turns=self.max_turns, parse=self.parse)

    def accuracy(self, rows: Sequence[Row]) -> PolicyEvaluation:
        """Tells the fraction of games that a policy wins by its likeliest tokens, as ``reward``."""
        return PolicyEvaluation(rows, ConversationReward(), sampler=self.sampler(), generation_kwargs={"top_k": 1})

    async def solved(self, row: Row) -> list[Message]:
        """All messages of a game that the expert plays."""
        environment, messages, is_over = self.environment(), list(row["prompt"]), False
        environment.reset(row)
        while not is_over:
            said = self.parse(self.expert(messages))
            if "tool_calls" in said:
                [call], [tool] = said["tool_calls"], self.tools
                answers = [{"role": "tool", "content": tool(**call["function"]["arguments"])}]
            else:
                answers, _, is_over = await environment.step(said)
            messages += [said, *answers]
        return messages
