"""A language model looks for a key and a door.

There are nine rooms, three by three: A to C in the north, G to I in the south. ``GkC`` says that one is in room G, and
that the key is in C. One goes north, east, south or west, by ``n``, ``e``, ``s`` or ``w``, and reads where that led.
The key, once taken by ``t``, tells where the door is that it opens, by ``o``: ``CdE``.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence

from text_games import Game, Message, Row

SIZE = 3
ROOMS = "ABCDEFGHI"
STEPS = {"n": (-1, 0), "e": (0, 1), "s": (1, 0), "w": (0, -1)}


class Rooms:
    """Where one goes about, until the door opens."""

    def reset(self, state: Row) -> None:
        self.place, self.key, self.door = state["places"]
        self.has_key = False

    async def step(self, message: Message) -> tuple[list[Message], float, bool]:
        action, hint = message["content"], ""
        if action in STEPS:
            self.place = neighbour(self.place, action)
        elif action == "t" and self.place == self.key:
            self.has_key, hint = True, f"d{self.door}"
        elif action == "o" and self.place == self.door and self.has_key:
            return [], 1.0, True
        return [{"role": "user", "content": self.place + hint}], 0.0, False


def neighbour(place: str, direction: str) -> str:
    """The room that lies there, or the same one where there is only a wall."""
    row, column = divmod(ROOMS.index(place), SIZE)
    row, column = row + STEPS[direction][0], column + STEPS[direction][1]
    return ROOMS[SIZE * row + column] if 0 <= row < SIZE and 0 <= column < SIZE else place


def all_rows(generator: random.Random) -> list[Row]:
    """Every start, key and door in different rooms, in random order."""
    places = list(itertools.permutations(ROOMS, 3))
    generator.shuffle(places)
    return [{"prompt": [{"role": "user", "content": f"{own[0]}k{own[1]}"}], "places": own} for own in places]


def expert(messages: Sequence[Message]) -> str:
    """Goes where the last hint says, first to its row."""
    read = "".join(own["content"] for own in messages if own["role"] == "user")
    hint, goal = re.findall("[kd].", read)[-1]
    row, column = divmod(ROOMS.index(messages[-1]["content"][0]), SIZE)
    goal_row, goal_column = divmod(ROOMS.index(goal), SIZE)
    if row != goal_row:
        return "n" if goal_row < row else "s"
    if column != goal_column:
        return "w" if goal_column < column else "e"
    return "t" if hint == "k" else "o"


ADVENTURE = Game(
    characters=f"{ROOMS}neswtokd",
    all_rows=all_rows,
    environment=Rooms,
    tools=(),
    parse=lambda text: {"role": "assistant", "content": text},
    expert=expert,
    max_turns=12,
    longest_turn=2,
    learning_rate=5e-4,
)
