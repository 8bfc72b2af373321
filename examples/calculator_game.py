"""A language model works with a calculator.

To work out ``(12+34)*5`` it writes what it wants to know, ``12+34=``, reads ``0046``, goes on with ``0046*5=``, reads
``0230``, and tells that.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from text_games import Game, Message, Row

NUM_PROBLEMS = 10_000


def calculator(expression: str) -> str:
    """Add or multiply two numbers.

    Args:
        expression: the numbers with + or * between them, such as 12+34.
    """
    parts = re.fullmatch(r"(\d+)([+*])(\d+)", expression)
    if parts is None:
        return "E"
    first, second = int(parts[1]), int(parts[3])
    result = first + second if parts[2] == "+" else first * second
    return f"{result:04}" if result < 10_000 else "E"


def parse(text: str) -> Message:
    """A message, with a call of the calculator where the text ends with ``=``."""
    message: Message = {"role": "assistant", "content": text}
    if text.endswith("="):
        function = {"name": "calculator", "arguments": {"expression": text.removesuffix("=")}}
        message["tool_calls"] = [{"type": "function", "function": function}]
    return message


class Examiner:
    """Wants the right result."""

    def reset(self, state: Row) -> None:
        self.answer = state["answer"]

    async def step(self, message: Message) -> tuple[list[Message], float, bool]:
        return [], float(message["content"] == self.answer), True


def all_rows(generator: random.Random) -> list[Row]:
    """Different problems, each with a sum and a product."""
    problems: set[str] = set()
    while len(problems) < NUM_PROBLEMS:
        first, second = (f"{generator.randrange(100):02}" for _ in range(2))
        inner, outer = generator.sample("+*", 2)
        problems.add(f"({first}{inner}{second}){outer}{generator.randrange(10)}")
    shuffled = sorted(problems)
    generator.shuffle(shuffled)
    return [{"prompt": [{"role": "user", "content": own}], "answer": result(own)} for own in shuffled]


def result(problem: str) -> str:
    """The right answer."""
    without_brackets = re.sub(r"\((.+)\)", lambda inner: calculator(inner[1]), problem)
    return calculator(without_brackets)


def expert(messages: Sequence[Message]) -> str:
    """Asks for what is in brackets, then for the whole, then tells it."""
    problem, *read = [str(own["content"]) for own in messages if own["role"] != "assistant"]
    if not read:
        return problem[problem.index("(") + 1 : problem.index(")")] + "="
    return re.sub(r"\(.+\)", read[0], problem) + "=" if len(read) == 1 else read[1]


CALCULATOR = Game(
    characters="0123456789+*()=E",
    all_rows=all_rows,
    environment=Examiner,
    tools=(calculator,),
    parse=parse,
    expert=expert,
    max_turns=4,
    longest_turn=8,
    learning_rate=2e-4,
)
