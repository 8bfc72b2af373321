"""Playing by a policy in a loop of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from grpo import NonFiniteError
from grpo_adapters.gym.actions.action_batches import one_by_one
from grpo_adapters.gym.environments.checks import allows_something, as_mask
from grpo_adapters.gym.memory.memory_records import begun_anew
from grpo_adapters.gym.memory.memory_states import map_state, tensors_of
from grpo_adapters.gym.observations.columns import finite_rows, placed, tensors
from grpo_adapters.gym.observations.nested_spaces import batch_of_one

if TYPE_CHECKING:
    from grpo_adapters.gym.policies.gym_policy import GymPolicy


class Player:
    """Plays by a policy in a loop of yours, and remembers for it from step to step.

    Args:
        policy: decides; with a memory or without.
        deterministic: the most probable actions, or drawn ones.

    Example:
        >>> import gymnasium
        >>> from grpo_adapters.gym import GRU, GymPolicy
        >>> environment = gymnasium.make("CartPole-v1")
        >>> player = Player(GymPolicy(environment, memory=GRU(4, 8)))
        >>> observation, info = environment.reset(seed=0)
        >>> player.begin()
        >>> player.act(observation, info) in environment.action_space
        True
    """

    def __init__(self, policy: GymPolicy, *, deterministic: bool = True) -> None:
        self.policy = policy
        self.deterministic = deterministic
        self._memory: Any = None

    def begin(self, which: Any = None) -> None:
        """Episodes begin: all that was remembered is forgotten.

        Args:
            which: in which of the n environments, bool [n]; None for all.
        """
        if which is None:
            self._memory = None
            return
        begun = np.asarray(which)
        if begun.dtype != bool or begun.ndim != 1:
            raise ValueError(
                f"Player.begin was given {which!r}, expected a bool for each environment, or nothing for all of them"
            )
        if self._memory is not None:
            self._check_count(len(begun))
            self._memory = begun_anew(self.policy, self._memory, torch.from_numpy(begun.copy()))

    def __call__(self, observations: Any, masks: Any = None) -> Any:
        """Actions for the next observations of n environments, always the same ones, in the same order.

        Args:
            observations: n observations, as a vector environment gives them.
            masks: which choices are allowed, [n, number of choices]; None for all.

        Raises:
            NonFiniteError: if an observation is not finite.
            ValueError: if a mask allows nothing, or there are more or fewer observations than before.
        """
        if self._memory is not None:
            self._check_count(len(self.policy.encoder(observations)))
        actions, memory = decide_once(self.policy, observations, masks, self._memory, deterministic=self.deterministic)
        self._memory = None if memory is None else map_state(torch.clone, memory)  # it may hold what was observed
        return actions

    def act(self, observation: Any, info: dict[str, Any]) -> Any:
        """The action for the next observation of one environment; a mask in ``info["action_mask"]`` is honoured."""
        return one_by_one(self(*one_observed(self.policy, observation, info)))[0]

    def _check_count(self, count: int) -> None:
        known = len(next(tensors_of(self._memory))[1])
        if count != known:
            raise ValueError(
                f"Player was given {count} environments, but remembers {known}: call begin() where others begin"
            )


def one_observed(policy: GymPolicy, observation: Any, info: dict[str, Any]) -> tuple[Any, Any]:
    """One observation as a batch, and its mask, None where there is none."""
    masks = None if "action_mask" not in info else np.asarray(info["action_mask"])[None]
    return batch_of_one(policy.observation_space, observation), masks


@contextmanager
def _in_evaluation_mode(policy: GymPolicy) -> Iterator[None]:
    """As samplers and :func:`evaluate` decide, with each module left in the mode that it was in."""
    training = [module for module in policy.modules() if module.training]
    policy.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check_mask_shape(masks: NDArray[np.bool_], expected: tuple[int, int]) -> None:
    if masks.shape != expected:
        raise ValueError(
            f"predict was given masks of shape {list(masks.shape)}, expected {list(expected)}, whether each choice is "
            f"allowed; write deterministic=... with its name"
        )


@torch.no_grad()
def decide_once(
    policy: GymPolicy, observations: Any, masks: Any, memory: Any, *, deterministic: bool
) -> tuple[Any, Any]:
    """Actions for n observations as an environment gives them, and what is remembered then."""
    encoded = policy.encoder(observations)
    if not finite_rows(encoded).all():
        raise NonFiniteError(
            f"predict was given observations that are not finite: {observations}, expected finite numbers"
        )
    features = placed(tensors(encoded), policy.device, policy.dtype)
    allowed = None
    if masks is not None:
        choices = as_mask(masks, num_dimensions=0)
        _check_mask_shape(choices, (len(features), sum(policy.distribution.sizes)))
        if not allows_something(choices, policy.distribution.sizes).all():
            raise ValueError(f"predict was given masks that allow nothing: {masks}, expected a choice for each")
        allowed = torch.from_numpy(choices).to(policy.device)
    noise = None
    if not deterministic:
        noise = policy.distribution.noise((1, len(features)), policy.generator)[0].to(policy.device)
    with _in_evaluation_mode(policy):
        decided = policy.decide(features, noise, allowed, memory)
    return policy.distribution.actions(decided.decisions), decided.memory
