"""Environments of SkyRL-Gym."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpo_adapters.huggingface.environments.openings import messages_of
from grpo_adapters.huggingface.text.conversations import Message


class SkyRLEnvironment:
    """An environment of SkyRL-Gym as a partner of one conversation.

    Args:
        make: from a state to an environment.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        self._environment: Any = None

    def reset(self, state: Any) -> list[Message]:
        """Begin with the prompt of the state."""
        self._environment = self._make(state)
        messages, _ = self._environment.init(messages_of(state))
        return list(messages)

    def step(self, message: Message) -> tuple[list[Message], float, bool]:
        """Answer the text of the message."""
        output = self._environment.step(message["content"])
        return list(output["observations"]), float(output["reward"]), bool(output["done"])

    def close(self) -> None:
        """Close the environment."""
        if self._environment is not None:
            self._environment.close()


def skyrl_environment(make: Callable[[Any], Any]) -> Callable[[], SkyRLEnvironment]:
    """Lets a model talk to environments of SkyRL-Gym.

    Args:
        make: from a state to an environment, since such environments take what they score by when they are made:
            ``lambda row: skyrl_gym.make("gsm8k", extras=row)``.

    Returns:
        What an :class:`AgentSampler` takes as ``environment``.

    Example:
        >>> from grpo_adapters.huggingface import AgentSampler
        >>> class IsFive:
        ...     def init(self, prompt):
        ...         return prompt, {}
        ...     def step(self, action):
        ...         return {"observations": [], "reward": float(action == "5"), "done": True, "metadata": {}}
        ...     def close(self):
        ...         pass
        >>> sampler = AgentSampler(skyrl_environment(lambda row: IsFive()))
    """
    return lambda: SkyRLEnvironment(make)
