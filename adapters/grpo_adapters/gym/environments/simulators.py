"""Simulators of many environments at once, over tensors that are checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor
from typing_extensions import Protocol

from grpo_adapters.gym.environments.checks import check_seed
from grpo_adapters.gym.environments.vector_environments import (
    EnvironmentFailedError,
    check_is_played_by,
    note_player,
)
from grpo_adapters.gym.observations.observation_parts import is_image

FINAL = ("final_obs", "final_observation")
"""What simulators call the true successors: gymnasium's name, and the older one, which ManiSkill has."""


class Simulator(Protocol):
    """n environments that are computed at once, over tensors on one device: what simulators on a GPU are.

    It is gymnasium's interface of vector environments in ``AutoresetMode.SAME_STEP``, with tensors for arrays: where an
    episode ends, ``step`` returns the first observation of the next one, and ``info["final_obs"]`` tells the last one
    of the old. It may have ``state_dict`` and ``load_state_dict`` besides (:class:`grpo.Stateful`), its generator's
    state included.

    Attributes:
        num_envs: n.
        single_observation_space: of one environment, a Box; an attribute will do.
        single_action_space: of one environment.
    """

    num_envs: int

    @property
    def single_observation_space(self) -> gymnasium.Space[Any]:
        """Of one environment."""
        ...

    @property
    def single_action_space(self) -> gymnasium.Space[Any]:
        """Of one environment."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begin all episodes anew: observations [n, *shape] and an info.

        Args:
            seed: of everything that is random from here on; None to go on with what there is.
        """
        ...

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Take a step in all environments; those whose episode ends begin a new one.

        Args:
            actions: as the space has them, [n] or [n, K], on the device of the observations.

        Returns:
            Observations to decide on next, [n, *shape]; rewards [n]; whether the episode ended by its own rules, and
            whether it was cut short, bool [n] each; and an info, in which ``"final_obs"``, [n, *shape], holds in the
            rows of episodes that ended their last observation. It may be left out at steps that cut no episode short.
            ``"action_mask"``, bool [n, number of choices], tells which choices are allowed next. All tensors
            are copied before the next step, and may be written over in it.
        """
        ...


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """What a step of a simulator led to.

    Attributes:
        observations: to decide on next, [n, *shape].
        rewards: [n].
        terminated: bool [n].
        done: terminated or truncated, bool [n].
        final: true successors where an episode ended, [n, *shape]; None where they are not told.
    """

    observations: Tensor
    rewards: Tensor
    terminated: Tensor
    done: Tensor
    final: Tensor | None


class CheckedSimulator:
    """A simulator whose tensors are held against what it said of them.

    Attributes:
        masks: which choices are allowed now, bool [n, number of choices]; None where none are told.
        device: of the observations, once they were seen.

    Args:
        simulator: the simulator.

    Raises:
        TypeError: if it lacks something, or its observations are no Box.
        ValueError: if it resets otherwise than in the step that ends an episode.
    """

    def __init__(self, simulator: Simulator) -> None:
        names = ("num_envs", "single_observation_space", "single_action_space", "reset", "step")
        missing = [name for name in names if not hasattr(simulator, name)]
        if missing:
            raise TypeError(
                f"simulator is a {type(simulator).__name__}, which lacks {', '.join(missing)}, expected a "
                f"grpo_adapters.gym.Simulator: wrap it in a class of a few lines that has them"
            )
        space = simulator.single_observation_space
        if not isinstance(space, gymnasium.spaces.Box):
            raise TypeError(
                f"simulator {type(simulator).__name__} has the observation space {space}, expected a Box: return one "
                f"tensor, that of the policy's part or all parts concatenated"
            )
        mode = (getattr(simulator, "metadata", None) or {}).get("autoreset_mode")
        if mode is not None and AutoresetMode(mode) is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"simulator {type(simulator).__name__} has autoreset_mode {mode}, expected AutoresetMode.SAME_STEP: it "
                f"must begin a new episode in the step that ends one, and tell the old one's last observation in "
                f"info['final_obs']"
            )
        self.simulator = simulator
        self.num_envs = int(simulator.num_envs)
        self.shape = (self.num_envs, *space.shape)
        self.dtype = torch.uint8 if is_image(space) else torch.float32
        self.masks: Tensor | None = None
        self.device: torch.device | None = None
        self._given_dtype: torch.dtype | None = None
        self._player = object()

    def reset(self, seed: int | None) -> Tensor:
        """Begin all episodes anew; what to decide on.

        Raises:
            TypeError, ValueError: if what came is not as expected.
            EnvironmentFailedError: if the simulator raises.
        """
        note_player(self.simulator, self._player)
        try:
            given = self.simulator.reset(seed=None if seed is None else check_seed(seed, "seed"))
        except Exception as error:
            raise EnvironmentFailedError(self._failed(error, "reset")) from error
        if not isinstance(given, tuple) or len(given) != 2:
            raise TypeError(f"{self._name}.reset returned {_said(given)}, expected observations and an info")
        observations, info = given
        self.device = self._given_dtype = None
        self._check_observations(observations, "reset returned observations")
        self.device, self._given_dtype = observations.device, observations.dtype
        self._take_masks(info)
        return observations

    def step(self, actions: Tensor, number: int) -> SimulatedStep:
        """Take step ``number`` of a rollout.

        Raises:
            TypeError, ValueError: if what came is not as expected.
            EnvironmentFailedError: if the simulator raises.
        """
        try:
            given = self.simulator.step(actions)
        except Exception as error:
            raise EnvironmentFailedError(self._failed(error, f"step {number} of the rollout")) from error
        if not isinstance(given, tuple) or len(given) != 5:
            raise TypeError(
                f"{self._name}.step returned {_said(given)}, expected observations, rewards, terminated, truncated and "
                f"an info"
            )
        observations, rewards, terminated, truncated, info = given
        where = f"at step {number} of the rollout"
        self._check_observations(observations, f"step returned observations {where}")
        self._check_row(rewards, "rewards", where)
        self._check_row(terminated, "terminated", where, torch.bool)
        self._check_row(truncated, "truncated", where, torch.bool)
        self._take_masks(info)
        final = next((info[name] for name in FINAL if name in info), None)
        if final is not None:
            self._check_observations(final, f"step returned info['final_obs'] {where}")
            self._check_is_other(final, observations, terminated | truncated, where)
        elif (truncated & ~terminated).any():
            slot = int((truncated & ~terminated).nonzero()[0])
            raise ValueError(
                f"{self._name} cut the episode of environment {slot} short {where}, but its info has no 'final_obs', "
                f"[n, *shape], whose value stands for what would have come: return it, or where the simulator does not "
                f"know it, the observations that the step was decided on"
            )
        return SimulatedStep(observations, rewards, terminated, terminated | truncated, final)

    def go_on(self, observations: Tensor | None, masks: Tensor | None) -> None:
        """Go on from a simulator that has taken a state back: what is to be decided on, and what is allowed."""
        self.masks = masks
        note_player(self.simulator, self._player)
        if observations is not None:
            self.device, self._given_dtype = observations.device, observations.dtype

    def _check_observations(self, given: Any, what: str) -> None:
        if not isinstance(given, Tensor):
            raise TypeError(
                f"{self._name}.{what} of type {type(given).__name__}, expected a tensor of shape {list(self.shape)}: "
                f"for vector environments of arrays there is FragmentSampler"
            )
        if given.shape != self.shape:
            raise ValueError(
                f"{self._name}.{what} of shape {list(given.shape)}, expected {list(self.shape)}: num_envs is "
                f"{self.num_envs}, and single_observation_space has the shape {list(self.shape[1:])}"
            )
        if (given.dtype == torch.uint8) != (self.dtype == torch.uint8):
            raise ValueError(
                f"{self._name}.{what} of dtype {given.dtype}, but single_observation_space is "
                f"{self.simulator.single_observation_space}: images are uint8 in both, and nothing else is"
            )
        if self.device is not None and (given.device, given.dtype) != (self.device, self._given_dtype):
            raise ValueError(
                f"{self._name}.{what} of {given.dtype} on {given.device}, but reset returned {self._given_dtype} on "
                f"{self.device}: expected the same at all steps"
            )

    def _check_is_other(self, final: Tensor, observations: Tensor, done: Tensor, where: str) -> None:
        if final.data_ptr() == observations.data_ptr() and done.any():
            raise ValueError(
                f"{self._name}.step returned the same memory as observations and as info['final_obs'] {where}, so that "
                f"the first observations of new episodes stand for the last ones of the old: return a clone that was "
                f"made before new episodes began"
            )

    def check_episodes_are_ours(self) -> None:
        """Raise a RuntimeError if another sampler has begun episodes in the simulator since this did."""
        check_is_played_by(
            self._player,
            self.simulator,
            f"simulator {self._name}",
            "another sampler was given the same simulator",
            "a simulator of its own",
        )

    def _check_row(self, given: Any, name: str, where: str, dtype: torch.dtype | None = None) -> None:
        expected = f"expected [{self.num_envs}]{'' if dtype is None else f', {dtype}'}, on {self.device}"
        if not isinstance(given, Tensor):
            raise TypeError(
                f"{self._name}.step returned {name} of type {type(given).__name__} {where}, {expected}, a tensor"
            )
        if given.shape != self.shape[:1] or given.device != self.device or dtype not in (None, given.dtype):
            raise ValueError(
                f"{self._name}.step returned {name} of shape {list(given.shape)} and dtype {given.dtype} on "
                f"{given.device} {where}, {expected}: convert it in the simulator's step"
            )

    def _take_masks(self, info: Any) -> None:
        if not isinstance(info, dict):
            raise TypeError(f"{self._name} returned an info of type {type(info).__name__}, expected a dictionary")
        self.masks = info.get("action_mask")
        if self.masks is not None and not (
            isinstance(self.masks, Tensor)
            and self.masks.dtype == torch.bool
            and self.masks.device == self.device
            and self.masks.shape[:1] == self.shape[:1]
        ):
            raise ValueError(
                f"{self._name} returned info['action_mask'] {_said(self.masks)}, expected a bool tensor "
                f"[{self.num_envs}, number of choices] on {self.device}"
            )

    @property
    def _name(self) -> str:
        return type(self.simulator).__name__

    def _failed(self, error: Exception, when: str) -> str:
        return f"{self._name} raised {type(error).__name__} at {when}: {error} (the next rollout starts anew)"


def _said(given: Any) -> str:
    """What came, to name in an error."""
    if isinstance(given, Tensor):
        return f"a tensor of shape {list(given.shape)} and dtype {given.dtype} on {given.device}"
    return f"{len(given)} values" if isinstance(given, tuple) else f"a {type(given).__name__}"
