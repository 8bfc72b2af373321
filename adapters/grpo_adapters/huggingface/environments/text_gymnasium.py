"""Environments of gymnasium's interface that speak."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from grpo_adapters.huggingface.environments.openings import opening_with, seed_of
from grpo_adapters.huggingface.text.conversations import Message


class TextGymnasiumEnvironment:
    """An environment of gymnasium's interface as a partner of one conversation.

    Args:
        make: makes an environment.
        action: from the model's message to an action.
    """

    def __init__(self, make: Callable[[], Any], action: Callable[[Message], Any]) -> None:
        self._environment = make()
        self._action = action

    def reset(self, state: Any) -> list[Message]:
        """Begin with the seed and the options of the state; what is observed stands behind its prompt."""
        options = state.get("options") if isinstance(state, Mapping) else None
        observation, _ = self._environment.reset(seed=seed_of(state), options=options)
        return opening_with(state, _checked(observation))

    def step(self, message: Message) -> tuple[list[Message], float, bool, bool]:
        """Take the action that the message stands for."""
        observation, reward, terminated, truncated, _ = self._environment.step(self._action(message))
        answer: Message = {"role": "user", "content": _checked(observation)}
        return [answer], float(reward), bool(terminated or truncated), bool(truncated and not terminated)

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()


def text_gymnasium_environment(
    make: Callable[[], Any], *, action: Callable[[Message], Any] | None = None
) -> Callable[[], TextGymnasiumEnvironment]:
    """Lets a model talk to an environment of gymnasium's interface, with observations that are strings.

    The columns ``seed`` and ``options`` of a state are those of the reset; an integer as state is a seed. Without one,
    conversations of a group may begin in different ways. A truncated episode is a conversation that has not ended.

    Args:
        make: makes an environment, such as ``lambda: gymnasium.make("...")``.
        action: from the model's message to an action; None for its content.

    Returns:
        What an :class:`AgentSampler` takes as ``environment``.

    Example:
        >>> from grpo_adapters.huggingface import AgentSampler
        >>> class Echo:
        ...     def reset(self, *, seed=None, options=None):
        ...         return "Say something.", {}
        ...     def step(self, action):
        ...         return f"You said {action}.", float(len(action)), False, True, {}
        ...     def close(self):
        ...         pass
        >>> sampler = AgentSampler(text_gymnasium_environment(Echo))
    """
    return lambda: TextGymnasiumEnvironment(make, action or (lambda message: message["content"]))


def _checked(observation: Any) -> str:
    if not isinstance(observation, str):
        raise TypeError(
            f"the observation is a {type(observation).__name__}, expected a string: write it as one in a "
            f"gymnasium.ObservationWrapper"
        )
    return observation
