"""Groups of whole episodes from one start."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from grpo import NonFiniteError
from grpo_adapters.gym.actions.action_batches import one_by_one
from grpo_adapters.gym.environments.checks import (
    allows_something,
    as_mask,
    check_count,
    check_reset,
    check_seed,
    check_state,
    check_step,
    not_finite,
    nothing_allowed,
    warn_if_endless,
)
from grpo_adapters.gym.environments.vector_environments import EnvironmentFailedError
from grpo_adapters.gym.memory.memory_records import StepsRemembered, beginning, begun_anew, check_remembered
from grpo_adapters.gym.memory.memory_states import rows_of
from grpo_adapters.gym.observations.columns import FeatureTensors, finite_rows, placed, tensors
from grpo_adapters.gym.observations.encoder import Features, ObservationEncoder, check_same_spaces, spaces_of
from grpo_adapters.gym.playing.statistics import EpisodeStatistics
from grpo_adapters.gym.playing.stepwise import StepwisePolicy
from grpo_adapters.gym.playing.trajectories import Trajectory

NOISE_STEPS = 256


class EpisodeSampler:
    """Plays a group of whole episodes from each seed; episodes of a group start from the same state.

    The states of a step are seeds for ``reset``; an action is the whole episode. Several environments are played side
    by side, and each starts the next episode as soon as it is done.

    A trainer takes it as its ``sampler``, or finds it in a policy that is built from it.

    Attributes:
        num_envs: environments that are played side by side.

    Args:
        make_environment: makes an environment: ``lambda: gymnasium.make("CartPole-v1")``. Its episodes must end;
            gymnasium's ``max_episode_steps`` sees to that.
        num_envs: environments to play side by side, so that the network decides for all of them at once.

    Raises:
        TypeError: if ``make_environment`` does not make an environment.
        ValueError: if it makes the same one twice, or ``num_envs`` is below 1.

    Example:
        >>> import gymnasium
        >>> from grpo import GRPOConfig, GRPOTrainer
        >>> from grpo_adapters.gym import EnvironmentReward, GymPolicy
        >>> policy = GymPolicy(gymnasium.make("CartPole-v1"))
        >>> sampler = EpisodeSampler(lambda: gymnasium.make("CartPole-v1"), num_envs=4)
        >>> trainer = GRPOTrainer(GRPOConfig(group_size=2), policy, EnvironmentReward(), sampler=sampler)
        >>> trainer.step([0, 1, 2])["num_episodes"]
        6.0
    """

    def __init__(self, make_environment: Callable[[], gymnasium.Env[Any, Any]], num_envs: int = 16) -> None:
        num_envs = check_count(num_envs, "num_envs", "environments to play side by side")
        if not callable(make_environment):
            raise TypeError(
                f"make_environment is a {type(make_environment).__name__}, expected a function that makes an "
                f"environment: pass lambda: gymnasium.make('CartPole-v1')"
            )
        self.environments = [make_environment() for _ in range(num_envs)]
        if not isinstance(self.environments[0], gymnasium.Env):
            raise TypeError(f"make_environment made a {type(self.environments[0]).__name__}, expected a gymnasium.Env")
        if len(set(map(id, self.environments))) < num_envs:
            raise ValueError(
                "make_environment returned one environment twice, expected a new one each time: episodes are played "
                "side by side; make the environment inside the function"
            )
        self.num_envs = num_envs
        self.observation_space, self.action_space = spaces_of(self.environments[0])
        self.encoder = ObservationEncoder(self.observation_space)
        self.statistics = EpisodeStatistics()

    def __deepcopy__(self, memo: dict[int, Any]) -> EpisodeSampler:
        return self  # a copy of a policy plays the same environments

    def get_metrics(self) -> dict[str, float]:
        """Statistics of the last 100 episodes."""
        return self.statistics.metrics()

    def restart(self) -> None:
        """Forget the last rollout: its episodes do not count."""
        self.statistics.forget_rollout()

    def state_dict(self) -> dict[str, Any]:
        """The statistics; what an environment plays is up to the seed that it is reset to."""
        return {"statistics": self.statistics.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            ValueError: if it is the state of something else.
        """
        check_state(state_dict, {"statistics"}, self)
        self.statistics.load_state_dict(state_dict["statistics"])

    @torch.no_grad()
    def sample(
        self, policy: StepwisePolicy, states: Sequence[int], num_actions_per_state: int, **kwargs: Any
    ) -> list[list[Trajectory]]:
        """A group of episodes from each seed.

        Args:
            policy: decides.
            states: seeds.
            num_actions_per_state: episodes from each.
            kwargs: not used.

        Raises:
            TypeError: if the states are no seeds.
            EnvironmentFailedError: if an environment raises.
            NonFiniteError: if an observation or a reward is not finite.
            ValueError: if an action mask allows nothing, or the policy was built for other spaces.
        """
        self.statistics.begin_rollout()
        check_same_spaces(policy, self)
        seeds = [check_seed(state, "a state") for state in states for _ in range(num_actions_per_state)]
        episodes = self._play(policy, seeds)
        for trajectory in episodes:
            self.statistics.add(float(trajectory.rewards.sum()), len(trajectory))
        return [
            episodes[start : start + num_actions_per_state] for start in range(0, len(episodes), num_actions_per_state)
        ]

    def _play(self, policy: StepwisePolicy, seeds: Sequence[int]) -> list[Trajectory]:
        """An episode from each seed."""
        waiting = deque(_Episode(seed, policy.distribution.sizes) for seed in seeds)
        episodes = list(waiting)
        playing = [(environment, waiting.popleft()) for environment in self.environments[: len(seeds)]]
        for environment, episode in playing:
            episode.start(environment, self.encoder)
        noise: Iterator[torch.Tensor] = iter(())
        device, dtype = policy.device, policy.dtype
        memory = beginning(policy, len(playing))
        while playing:
            step_noise = next(noise, None)
            if step_noise is None:
                noise = iter(policy.distribution.noise((NOISE_STEPS, self.num_envs), policy.generator).to(device))
                step_noise = next(noise)
            observations = tensors(np.stack([episode.observations[-1] for _, episode in playing]))
            masks = _stacked([episode.masks[-1] for _, episode in playing], policy.distribution.sizes)
            for row, (_, episode) in enumerate(playing):
                num_steps = len(episode.rewards)
                episode.remembered.store(policy, num_steps, memory, row, begins=num_steps == 0)
            decided = policy.decide(
                placed(observations, device, dtype),
                step_noise[: len(playing)],
                None if masks is None else masks.to(device),
                memory,
            )
            check_remembered(policy, memory, decided.memory)
            decisions = decided.decisions.cpu()
            actions = one_by_one(policy.distribution.actions(decisions))
            going_on: list[tuple[int, bool]] = []
            still_playing = []
            for row, (environment, episode) in enumerate(playing):
                is_over = episode.step(environment, self.encoder, decisions[row], actions[row])
                if is_over:
                    if not waiting:
                        continue
                    episode = waiting.popleft()
                    episode.start(environment, self.encoder)
                still_playing.append((environment, episode))
                going_on.append((row, is_over))
            playing = still_playing
            if decided.memory is not None and playing:
                rows, begun = zip(*going_on, strict=True)
                memory = begun_anew(policy, rows_of(decided.memory, list(rows)), torch.tensor(begun))
        _warn_if_starts_differ(episodes)
        return _trajectories(episodes)


@dataclass
class _Episode:
    """An episode under way."""

    seed: int
    sizes: Sequence[int]
    observations: list[Features] = field(default_factory=list)
    masks: list[NDArray[np.bool_] | None] = field(default_factory=list)
    decisions: list[torch.Tensor] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    remembered: StepsRemembered = field(default_factory=StepsRemembered)
    terminated: bool = False

    def start(self, environment: gymnasium.Env[Any, Any], encoder: ObservationEncoder) -> None:
        """Reset the environment to this episode's seed."""
        try:
            returned = environment.reset(seed=self.seed)
        except Exception as error:
            raise EnvironmentFailedError(self._failed(error, "reset")) from error
        observation, info = check_reset(returned, self._name)
        self._observe(encoder.single(observation), info, is_over=False)

    def step(
        self, environment: gymnasium.Env[Any, Any], encoder: ObservationEncoder, decision: torch.Tensor, action: Any
    ) -> bool:
        """Play an action; whether the episode is over."""
        try:
            returned = environment.step(action)
        except Exception as error:
            raise EnvironmentFailedError(self._failed(error, f"step {len(self.rewards)}")) from error
        observation, reward, self.terminated, truncated, info = check_step(returned, self._name)
        self.decisions.append(decision)
        self.rewards.append(reward)
        warn_if_endless(environment, len(self.rewards))
        if not np.isfinite(reward):
            raise NonFiniteError(not_finite("reward", reward, self._name, len(self.rewards) - 1))
        self._observe(encoder.single(observation), info, is_over=self.terminated or truncated)
        return self.terminated or truncated

    def _observe(self, observation: Features, info: Mapping[str, Any], *, is_over: bool) -> None:
        if not finite_rows(observation, 0):
            raise NonFiniteError(not_finite("observation", observation, self._name, len(self.rewards)))
        self.observations.append(observation)
        if not is_over:
            told = info.get("action_mask")
            mask = None if told is None else as_mask(told)
            self.masks.append(mask)
            if mask is not None and not allows_something(mask, self.sizes):
                raise ValueError(nothing_allowed(self._name, len(self.rewards)))

    @property
    def _name(self) -> str:
        return f"the environment (seed {self.seed})"

    def _failed(self, error: Exception, when: str) -> str:
        return f"{self._name} raised {type(error).__name__} at {when} of its episode: {error}"

    def trajectory(self, observations: FeatureTensors, last: Features) -> Trajectory:
        """The episode, when it is over, with what was observed at its steps, and at the end."""
        return Trajectory(
            observations=observations,
            decisions=torch.stack(self.decisions),
            rewards=torch.tensor(self.rewards),
            episode_lengths=(len(self.rewards),),
            next_observations=tensors(np.stack([last])),
            terminated=torch.tensor([self.terminated]),
            masks=_stacked(self.masks, self.sizes),
            memory=self.remembered.stored(len(self.rewards)),
        )


def _warn_if_starts_differ(episodes: Sequence[_Episode]) -> None:
    """Episodes of one seed, which follow each other, must begin with the same observation."""
    for one, other in pairwise(episodes):
        if one.seed == other.seed and not np.array_equal(one.observations[0], other.observations[0]):
            warnings.warn(
                "two episodes of one seed began with other observations, so that groups compare starts as well: let "
                "reset(seed=...) of the environment draw from self.np_random, after super().reset(seed=seed)",
                stacklevel=2,
            )
            return


def _trajectories(episodes: Sequence[_Episode]) -> list[Trajectory]:
    """Of episodes that are over; all that was observed is moved, one episode after the other, to one place."""
    if not episodes:
        return []
    lengths = [len(episode.rewards) for episode in episodes]
    example = episodes[0].observations[0]
    memory = np.empty((sum(lengths), *example.shape), dtype=example.dtype)
    lasts = []
    for episode, end in zip(episodes, np.cumsum(lengths), strict=True):
        *observed, last = episode.observations
        lasts.append(last)
        memory[end - len(observed) : end] = observed
        observed.clear()
        episode.observations.clear()
    own = tensors(memory).split(lengths)
    return [episode.trajectory(*observed) for episode, *observed in zip(episodes, own, lasts, strict=True)]


def _stacked(masks: Sequence[NDArray[np.bool_] | None], sizes: Sequence[int]) -> torch.Tensor | None:
    """Masks as a tensor, where any is told; one that is not told allows everything."""
    if all(mask is None for mask in masks):
        return None
    everything = np.ones(sum(sizes), dtype=bool)
    return torch.from_numpy(np.stack([everything if mask is None else mask for mask in masks]))
