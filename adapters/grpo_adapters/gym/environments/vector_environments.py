"""Vector environments, whatever they do at the end of an episode, seen in one way."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch.utils.weak import WeakIdKeyDictionary

from grpo_adapters.gym.environments.checks import as_mask, check_seed
from grpo_adapters.gym.observations.encoder import Features, ObservationEncoder, spaces_of
from grpo_adapters.gym.plain_state import NotPlainError, new_array, put_state, take_state

PLAYED_BY: MutableMapping[Any, object] = WeakIdKeyDictionary()
"""Whose episodes are under way in an environment, or a vector of them, whatever it is wrapped in or equal to."""


class EnvironmentFailedError(RuntimeError):
    """An environment raised an error; the message says which one, its seed and the step."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What a step of n environments led to.

    Attributes:
        next_observations: the true successors, of the old episode where it ended, [n, ...].
        observations: what the next step is to be decided on, of the new episode where the old one ended, [n, ...].
        rewards: [n].
        terminated: bool [n].
        done: terminated or truncated, bool [n].
        real: whether the environment took the action at all, bool [n]; where it was reset instead nothing else counts.
    """

    next_observations: Features
    observations: Features
    rewards: NDArray[np.floating[Any]]
    terminated: NDArray[np.bool_]
    done: NDArray[np.bool_]
    real: NDArray[np.bool_]


class VectorEnvironments:
    """A vector environment of gymnasium's in any autoreset mode, or one of EnvPool's.

    Attributes:
        num_envs: n.
        encoder: of the observations.
        masks: which actions are allowed now, from ``info["action_mask"]``, bool [n, ...]; None where none are told.

    Args:
        envs: the vector environment.
        seed: of the first reset; environment i gets ``seed + i``. EnvPool's seed is given when it is made.

    Raises:
        TypeError: if it is no vector environment, or the seed no integer of at least 0.
        ValueError: if its autoreset mode is unknown, an EnvPool does not step all environments at once, or the same
            environment is in it more than once.
    """

    def __init__(self, envs: Any, seed: int) -> None:
        self.envs = envs
        self.seed = check_seed(seed, "seed")
        self.is_envpool = _is_envpool(envs)
        if self.is_envpool:
            self.mode, self.num_envs, self.seed = AutoresetMode.NEXT_STEP, *_envpool_settings(envs)
        elif isinstance(envs, gymnasium.vector.VectorEnv):
            self.mode, self.num_envs = _autoreset_mode(envs), envs.num_envs
            _check_are_different(envs)
        else:
            raise TypeError(
                f"envs is a {type(envs).__name__}, expected a vector environment: pass "
                f"gymnasium.make_vec('CartPole-v1', num_envs=8)"
            )
        self.encoder = ObservationEncoder(spaces_of(envs)[0])
        self.masks: NDArray[np.bool_] | None = None
        self._steps = np.zeros(self.num_envs, dtype=np.int64)
        self._was_reset = False
        self._done = np.zeros(self.num_envs, dtype=bool)
        self._everywhere = np.ones(self.num_envs, dtype=bool)
        self._player = object()

    def check_episodes_are_ours(self) -> None:
        """Raise a RuntimeError if somebody else has begun episodes in them since this did."""
        check_is_played_by(
            self._player,
            self.envs,
            f"the {self.num_envs} environments of a {type(self.envs).__name__}",
            "evaluate(...) or another sampler was given the same environments",
            "environments of its own, lambda: gymnasium.make('CartPole-v1') for instance",
        )

    def reset(self, seed: int | None = None) -> Features:
        """Start all episodes anew; what to decide on.

        Args:
            seed: environment i gets ``seed + i``. None for the first one at the first time, and then for whatever the
                environments' own generators make of it. EnvPool's episodes always follow from its own generators.

        Raises:
            EnvironmentFailedError: if one raises.
        """
        if self.is_envpool:
            seed = None
        elif seed is not None:
            self.seed = seed
        elif not self._was_reset:
            seed = self.seed
        note_player(self.envs, self._player)
        try:
            observations, infos = self.envs.reset() if seed is None else self.envs.reset(seed=seed)
        except Exception as error:
            raise EnvironmentFailedError(self._describe(error, np.ones(self.num_envs, dtype=bool))) from error
        self._was_reset = True
        self._done[:] = False
        self._steps[:] = 0
        self.masks = None
        self._take_masks(infos)
        return self.encoder(observations)

    def reset_to(self, seeds: Mapping[int, int]) -> Features:
        """Start new episodes in some environments, each from its seed; what to decide on in all.

        Only where :class:`gymnasium.vector.SyncVectorEnv` or ``AsyncVectorEnv`` holds them. The first call starts all
        of them, the others from whatever seeds.

        Raises:
            EnvironmentFailedError: if one raises.
        """
        given = [seeds.get(index) for index in range(self.num_envs)]
        asked = np.array([seed is not None for seed in given])
        options: Any = {"reset_mask": asked.copy()} if self._was_reset else None
        note_player(self.envs, self._player)
        try:
            raw, infos = self.envs.reset(seed=given, options=options)
        except Exception as error:
            raise EnvironmentFailedError(self._describe(error, asked)) from error
        self._done[asked] = False
        self._steps[asked] = 0
        if not self._was_reset:
            self.masks = None
        self._take_masks(infos, asked=asked if self._was_reset else None)
        self._was_reset = True
        return self.encoder(raw)

    def step(self, actions: Any) -> Transition:
        """Take a step in all of them.

        Raises:
            EnvironmentFailedError: if one raises.
            ValueError: if what the vector returned is not of each environment, or it begins episodes otherwise than it
                said.
        """
        if self.is_envpool:
            actions = actions.astype(self.envs.action_space.dtype, copy=False)
        try:
            raw, rewards, terminated, truncated, infos = self.envs.step(actions)
        except Exception as error:
            raise EnvironmentFailedError(self._describe(error, self._done)) from error
        rewards = self._row("rewards", rewards, "fiub")
        terminated = self._row("terminated", terminated, "biu").astype(bool, copy=False)
        done = terminated | self._row("truncated", truncated, "biu").astype(bool, copy=False)
        self._steps += 1
        real = self._everywhere
        observations = next_observations = self.encoder(raw)
        self._take_masks(infos)
        if self.mode is AutoresetMode.NEXT_STEP:
            real = ~self._done
            self._steps[self._done] = 0
            self._done = done = done & real
        elif done.any():
            next_observations = observations.copy()
            if self.mode is AutoresetMode.SAME_STEP:
                for index in np.flatnonzero(done):
                    next_observations[index] = self.encoder.single(self._final_observation(infos, int(index)))
            else:
                observations = self._reset_where(done, next_observations)
            self._steps[done] = 0
        return Transition(next_observations, observations, rewards, terminated, done, real)

    def _row(self, name: str, given: Any, kinds: str) -> NDArray[Any]:
        """Numbers, or booleans, one for each environment; ``kinds`` are the letters of NumPy's dtypes."""
        row = np.asarray(given)
        if row.shape != (self.num_envs,) or row.dtype.kind not in kinds:
            raise ValueError(
                f"{type(self.envs).__name__}.step returned {name} of shape {list(row.shape)} and dtype {row.dtype}, "
                f"expected {'numbers' if 'f' in kinds else 'bool'} [{self.num_envs}], one for each environment"
            )
        return row

    def _final_observation(self, infos: Mapping[str, Any], index: int) -> Any:
        """The last observation of an episode where the next one has begun already."""
        final, told = infos.get("final_obs"), infos.get("_final_obs")
        if final is None or len(final) != self.num_envs or not (told is None or told[index]):
            raise ValueError(
                f"{type(self.envs).__name__} ended the episode of environment {index} in AutoresetMode.SAME_STEP, but "
                f"its infos have no 'final_obs' of it, the last observation of the old episode: return it for each "
                f"environment whose episode ends, or set metadata['autoreset_mode'] to what the vector does"
            )
        return final[index]

    @property
    def were_reset(self) -> bool:
        """Whether they have begun."""
        return self._was_reset

    def state_dict(self, left_alone: tuple[type, ...] = ()) -> dict[str, Any]:
        """All that changes in the environments, and what is known of their episodes, as plain data.

        Args:
            left_alone: classes of objects that are not theirs, wherever they hold one.

        Raises:
            TypeError: if something in them cannot be taken as data.
        """
        try:
            if self.is_envpool:
                raise NotPlainError(f"{type(self.envs).__name__} holds its environments in C++")
            envs = take_state(self.envs, left_alone)
        except NotPlainError as error:
            raise TypeError(
                f"the state of a FragmentSampler holds all that changes in its environments, as plain data, but "
                f"{error}. Pass FragmentSampler(..., environments_in_state='restart'), which begins new episodes at "
                f"each checkpoint instead, or give the environment methods state_dict and load_state_dict"
            ) from error
        return {
            "envs": envs,
            "masks": None if self.masks is None else torch.tensor(self.masks),
            "steps": torch.tensor(self._steps),
            "was_reset": self._was_reset,
            "done": torch.tensor(self._done),
            "seed": self.seed,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], left_alone: tuple[type, ...] = ()) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            ValueError: if it is the state of other environments; nothing has then changed.
            RuntimeError: if an environment did not take back what it told itself.
        """
        try:
            put_state(state_dict["envs"], self.envs, left_alone)
        except ValueError as error:
            raise ValueError(
                f"the environments in a {type(self.envs).__name__} did not take their state back: {error}. Load it "
                f"into a sampler that was constructed in the same way"
            ) from error
        note_player(self.envs, self._player)
        masks = state_dict["masks"]
        self.masks = None if masks is None else new_array(masks)
        self._steps = new_array(state_dict["steps"])
        self._was_reset = state_dict["was_reset"]
        self._done = new_array(state_dict["done"])
        self.seed = state_dict["seed"]

    def _reset_where(self, done: NDArray[np.bool_], seen: Features) -> Features:
        """Start new episodes in some environments; what to decide on in all, in the others what was ``seen``."""
        try:
            raw, infos = self.envs.reset(options={"reset_mask": done.copy()})
        except Exception as error:
            raise EnvironmentFailedError(self._describe(error, done)) from error
        self._take_masks(infos, asked=done)
        observations = self.encoder(raw)
        if observations[~done].tobytes() != seen[~done].tobytes():
            raise ValueError(
                f"{type(self.envs).__name__}.reset was asked by options['reset_mask'] for new episodes in environments "
                f"{np.flatnonzero(done).tolist()}, and changed the observations of others, whose episodes go on: begin "
                f"new ones where reset_mask is true only, or set metadata['autoreset_mode'] to what the vector does"
            )
        return observations

    def _take_masks(self, infos: dict[str, Any], asked: NDArray[np.bool_] | None = None) -> None:
        """Masks of the ``asked`` environments, of all for None; an environment that tells none allows everything."""
        masks = infos.get("action_mask")
        if masks is None:
            if self.masks is not None:
                self.masks = self.masks | (self._everywhere if asked is None else asked)[:, None]
            return
        asked = self._everywhere if asked is None else asked
        told = np.asarray(infos.get("_action_mask", asked), dtype=bool)
        if masks.dtype == object:
            masks = np.stack([np.zeros_like(masks[told][0]) if mask is None else mask for mask in masks])
        allowed = as_mask(masks, num_dimensions=2) | ~told[:, None]
        self.masks = allowed if self.masks is None else np.where(asked[:, None], allowed, self.masks)

    def _describe(self, error: Exception, resetting: NDArray[np.bool_]) -> str:
        """Which environment raised, and when: a synchronous vector environment has got as far as that one."""
        index, traceback = None, error.__traceback__
        while traceback is not None:
            variables = traceback.tb_frame.f_locals
            vector = variables.get("self")
            if isinstance(vector, SyncVectorEnv):
                index = variables.get("i", index)
            elif isinstance(vector, AsyncVectorEnv):
                index = variables.get("index", index)
            traceback = traceback.tb_next
        wrong, refusal = self._refused_observation()
        if wrong is not None:
            index, error = wrong, refusal
        if index is None:
            which = f"one of {self.num_envs} environments (seeds {self.seed} to {self.seed + self.num_envs - 1})"
            when = "reset" if resetting.all() else f"steps {', '.join(map(str, self._steps))} of their episodes"
        else:
            which = f"environment {index} (seed {self.seed + index})"
            when = "reset" if resetting[index] else f"step {self._steps[index]} of its episode"
        is_shut_down = isinstance(getattr(self.envs, "unwrapped", None), AsyncVectorEnv)
        hint = "make the AsyncVectorEnv anew, it has shut down" if is_shut_down else "the next rollout starts anew"
        what = f"raised {type(error).__name__}" if wrong is None else "gave a wrong observation"
        return f"{which} {what} at {when}: {error} ({hint})"

    def _refused_observation(self) -> tuple[int | None, Any]:
        """The first environment of a synchronous vector whose observation is not of its space, and why."""
        innermost = getattr(self.envs, "unwrapped", None)
        for index, seen in enumerate(innermost._env_obs if isinstance(innermost, SyncVectorEnv) else ()):
            try:
                if seen is not None:
                    self.encoder.single(seen)
            except (TypeError, ValueError) as error:
                return index, error
        return None, None


def note_player(environments: Any, player: object) -> None:
    """Note who begins episodes in an environment, or in a vector and in those that it holds in this process."""
    for each in _all_in(environments):
        with suppress(TypeError):  # of an object that cannot be referred to weakly nothing is noted
            PLAYED_BY[each] = player


def check_is_played_by(player: object, environments: Any, described: str, cause: str, instead: str) -> None:
    """Raise a RuntimeError if somebody else has begun episodes there since this player did.

    Args:
        player: whose episodes should be under way.
        environments: an environment, a vector of them, or a simulator.
        described: what it is called.
        cause: how that may have come.
        instead: what the other one should be given.
    """
    if any(_player_of(each, player) is not player for each in _all_in(environments)):
        raise RuntimeError(
            f"the episodes under way in {described} are not those of this sampler: {cause}, and began new ones. Give "
            f"it {instead}; the next rollout begins new episodes"
        )


def _player_of(environment: Any, otherwise: object) -> object:
    try:
        return PLAYED_BY.get(environment, otherwise)
    except TypeError:
        return otherwise


def _all_in(environments: Any) -> list[Any]:
    """An environment without its wrappers, and those that it holds where it is a vector of them in this process."""
    unwrapped = getattr(environments, "unwrapped", None)
    innermost = environments if unwrapped is None else unwrapped
    held = innermost.envs if isinstance(innermost, SyncVectorEnv) else ()
    return [innermost, *(each.unwrapped for each in held)]


def _check_are_different(envs: Any) -> None:
    _, *held = _all_in(envs)
    if len(set(map(id, held))) < len(held):
        raise ValueError(
            f"envs holds the same environment more than once among its {len(held)}, so that their episodes would be "
            f"one: let each function make a new one, [lambda: gymnasium.make('CartPole-v1')] * {len(held)} for instance"
        )


def is_vector_environment(environment: Any) -> bool:
    """Whether it is a vector environment of gymnasium's or of EnvPool's."""
    return isinstance(environment, gymnasium.vector.VectorEnv) or _is_envpool(environment)


def _is_envpool(envs: Any) -> bool:
    """EnvPool makes its classes when they are first used, so that only their base classes tell where they are from."""
    return any(base.__module__.startswith("envpool.") for base in type(envs).__mro__) and hasattr(envs, "config")


def _envpool_settings(envs: Any) -> tuple[int, int]:
    """Number of environments and seed of the first."""
    num_envs, batch_size = int(envs.config["num_envs"]), int(envs.config["batch_size"])
    if batch_size not in (0, num_envs):
        raise ValueError(
            f"envs steps {batch_size} of its {num_envs} environments at a time, expected all of them: leave batch_size "
            f"out of envpool.make"
        )
    return num_envs, int(envs.config["seed"])


def _autoreset_mode(envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> AutoresetMode:
    told = envs.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(told)
    except ValueError:
        known = ", ".join(f"AutoresetMode.{mode.name}" for mode in AutoresetMode)
        raise ValueError(
            f"{type(envs).__name__} has autoreset_mode {told!r} in its metadata, expected one of {known}: set "
            f"envs.metadata['autoreset_mode'] to what it does when an episode ends"
        ) from None
