"""What environments gave for the turns of conversations, as rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from grpo_adapters.huggingface.text.conversations import Action, Conversation

Per = Literal["conversation", "turn"]


class ConversationReward:
    """The rewards that environments gave, as a reward model.

    Args:
        per: ``"conversation"`` for the sum over its turns, a reward a sample, as group-relative advantages take it;
            ``"turn"`` for the reward of each turn at its last token, a reward a decision, so that a turn can be
            credited for what came of it: ``grpo.MonteCarlo(baseline=grpo.group_time_baseline)``.

    Raises:
        ValueError: if ``per`` is something else.

    Example:
        >>> from grpo_adapters.huggingface import Completion, Turn
        >>> turns = (Turn((2,), Completion((3, 4), "a"), 1.0), Turn((2, 3, 4, 5), Completion((6,), "b"), 0.5))
        >>> ConversationReward().compute_rewards(["state"], [Conversation(turns, ())])
        tensor([1.5000])
        >>> ConversationReward(per="turn").compute_rewards(["state"], [Conversation(turns, ())])
        tensor([0.0000, 1.0000, 0.5000])
    """

    def __init__(self, per: Per = "conversation") -> None:
        if per not in get_args(Per):
            raise ValueError(f"per is {per!r}, expected one of {', '.join(map(repr, get_args(Per)))}")
        self._per = per
        self._device = torch.device("cpu")

    def compute_rewards(self, states: Sequence[Any], actions: Sequence[Action]) -> Tensor:
        """Rewards of N conversations, [N], or of all their tokens, [D].

        Raises:
            TypeError: if an action is no conversation.
        """
        conversations = [_conversation(action, index) for index, action in enumerate(actions)]
        if self._per == "conversation":
            return torch.tensor([conversation.reward for conversation in conversations], device=self._device)
        turns = [turn for conversation in conversations for turn in conversation.turns]
        per_token = [value for turn in turns for value in (*[0.0] * (len(turn.completion) - 1), turn.reward)]
        return torch.tensor(per_token, device=self._device)

    def get_settings(self) -> dict[str, Any]:
        """What a reward is of."""
        return {"per": self._per}

    def train(self) -> None:
        """Nothing to switch."""

    def eval(self) -> None:
        """Nothing to switch."""

    def to(self, device: torch.device | str) -> None:
        """Give the rewards on this device."""
        self._device = torch.empty(0, device=device).device


def _conversation(action: object, index: int) -> Conversation:
    if not isinstance(action, Conversation):
        raise TypeError(
            f"action {index} is a {type(action).__name__}, expected a Conversation: sample with an AgentSampler"
        )
    return action
