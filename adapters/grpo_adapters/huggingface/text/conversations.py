"""What a language model says in turn with others: its environment, its tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grpo_adapters.huggingface.text.completions import Completion, check_completion

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a model read, and what it then said.

    Attributes:
        context: all token ids that it read, from the beginning on.
        completion: what it said.
        reward: what the environment gave for it.
    """

    context: tuple[int, ...]
    completion: Completion
    reward: float = 0.0

    def __len__(self) -> int:
        return len(self.context) + len(self.completion)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All that had been read and said at its end."""
        return (*self.context, *self.completion.token_ids)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of a model and its environment: an action whose decisions are the model's own tokens, in all turns.

    Attributes:
        turns: of the model, at least one.
        messages: all that was said after the prompt, by the model, its tools and its environment.
        ended: whether it came to an end by itself; false where a limit cut it.

    Example:
        >>> first, second = Completion((7, 8, 1), "call"), Completion((9, 1), "5")
        >>> turns = (Turn((2, 3), first), Turn((2, 3, 7, 8, 1, 4, 5), second, reward=1.0))
        >>> conversation = Conversation(turns, ())
        >>> conversation.token_ids, conversation.reward, [len(row) for row in rows_of(turns)]
        ((7, 8, 1, 9, 1), 1.0, [2])
    """

    turns: tuple[Turn, ...]
    messages: tuple[Message, ...]
    ended: bool = True

    def __len__(self) -> int:
        return sum(len(turn.completion) for turn in self.turns)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The model's own tokens, end to end."""
        return tuple(token for turn in self.turns for token in turn.completion.token_ids)

    @property
    def text(self) -> str:
        """What the model said last."""
        return self.turns[-1].completion.text

    @property
    def reward(self) -> float:
        """The sum of the rewards of its turns."""
        return sum(turn.reward for turn in self.turns)


Action = Completion | Conversation


def rows_of(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Turns of one conversation cut where one does not go on with the very tokens that the one before ended with."""
    rows: list[list[Turn]] = []
    ids: tuple[int, ...] = ()
    for turn in turns:
        if rows and turn.context[: len(ids)] == ids:
            rows[-1].append(turn)
        else:
            rows.append([turn])
        ids = turn.token_ids
    return rows


def check_actions(actions: Sequence[object], num_states: int, num_tokens: int) -> None:
    """Actions must be completions or conversations of tokens below ``num_tokens``, one for each state.

    Raises:
        TypeError: if one is something else.
        ValueError: if there are more or fewer, or one has no token, or a token that the model does not know.
    """
    if len(actions) != num_states:
        raise ValueError(f"there are {num_states} states and {len(actions)} actions, expected one state each action")
    for index, action in enumerate(actions):
        if not isinstance(action, Conversation):
            kind = "completion" if isinstance(action, Completion) else "action"
            check_completion(action, f"{kind} {index}", num_tokens)
            continue
        if not action.turns:
            raise ValueError(f"conversation {index} has no turn, expected at least one in which the model speaks")
        for place, turn in enumerate(action.turns):
            name = f"turn {place} of conversation {index}"
            check_completion(turn.completion, name, num_tokens)
            if not turn.context or not 0 <= min(turn.context) <= max(turn.context) < num_tokens:
                raise ValueError(
                    f"{name} was said after {len(turn.context)} tokens, expected at least one, each from 0 to "
                    f"{num_tokens - 1}, which the model knows"
                )
