"""How good a policy is: episodes that it was not trained on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from grpo import NonFiniteError
from grpo_adapters.gym.actions.action_batches import one_by_one
from grpo_adapters.gym.environments.checks import allows_something, check_count, check_seed, warn_if_endless
from grpo_adapters.gym.environments.evaluation_slots import Slots, slots_for
from grpo_adapters.gym.memory.memory_records import beginning, begun_anew, check_remembered, put_back
from grpo_adapters.gym.memory.memory_states import rows_of
from grpo_adapters.gym.observations.columns import finite_rows, not_finite_parts, placed, tensors
from grpo_adapters.gym.observations.encoder import Features, check_same_spaces
from grpo_adapters.gym.playing.players import one_observed
from grpo_adapters.gym.playing.stepwise import Decided, StepwisePolicy
from grpo_adapters.gym.policies.gym_policy import GymPolicy

NORMAL_QUANTILE = 1.96
NOISE_STEPS = 64


@dataclass(frozen=True)
class EvaluationResult:
    """Returns and lengths of the episodes that a policy was evaluated on.

    Attributes:
        returns: undiscounted, [n].
        lengths: in steps, [n].
        seeds: what each episode's environment was reset with, [n]; None where episodes had no seed of their own.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    seeds: NDArray[np.int64] | None = None

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Unbiased standard deviation of the returns; 0 of a single one."""
        return float(self.returns.std(ddof=1)) if len(self.returns) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence interval of the mean return, by the normal approximation."""
        half = NORMAL_QUANTILE * self.std / math.sqrt(len(self.returns))
        return self.mean - half, self.mean + half

    def to_metrics(self) -> dict[str, float]:
        """``mean_return``, ``std_return``, the interval from ``mean_return_low`` to ``_high``, and ``mean_length``."""
        low, high = self.interval
        return {
            "mean_return": self.mean,
            "std_return": self.std,
            "mean_return_low": low,
            "mean_return_high": high,
            "mean_length": float(self.lengths.mean()),
        }

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.mean:.2f} ± {self.std:.2f} over {len(self.returns)} episodes, "
            f"95% interval of the mean [{low:.2f}, {high:.2f}]"
        )


def evaluate(
    policy: StepwisePolicy,
    environment: gymnasium.Env[Any, Any] | gymnasium.vector.VectorEnv[Any, Any, Any] | Callable[[], Any],
    num_episodes: int = 100,
    *,
    seed: int = 10_000,
    deterministic: bool = True,
    num_envs: int | None = None,
) -> EvaluationResult:
    """Play whole episodes and learn nothing from them.

    Episode i is reset with ``seed + i`` and played to its end, whatever is played beside it: returns are those of one
    environment played alone, up to the rounding of the network. So they are in vectors of gymnasium's single
    environments too. Other vectors (EnvPool's, and those that compute all environments at once) reset by themselves:
    each of k environments then plays its first n/k episodes, rounded up in the first ones, so that short episodes count
    no more than long ones.

    Args:
        policy: the policy; left in the mode that it was in, where its ``training`` tells, else in that of evaluation.
        environment: one environment; a vector environment, but not one that a sampler goes on with; or a function that
            makes an environment, for several side by side, which are closed in the end. Made with
            ``render_mode="human"`` it shows itself.
        num_episodes: n.
        seed: of the first episode.
        deterministic: play the most probable action, or draw one. What is drawn follows from the policy's generator,
            once a call, and from the episode.
        num_envs: for a function, how many environments are played side by side, so that the network decides for all
            of them at once; 8 for None.

    Returns:
        Return, length and seed of each episode, with their mean and its interval.

    Raises:
        TypeError: if ``environment`` is something else, ``num_episodes`` no integer, or the seed none of at least 0.
        ValueError: if ``num_episodes`` or ``num_envs`` is below 1, the policy was built for other spaces, or a mask
            allows nothing.
        NonFiniteError: if an observation or a reward is not finite.

    Warns:
        UserWarning: of an episode that has gone on for 10,000 steps, where the environment has no time limit.

    Example:
        >>> policy = GymPolicy(gymnasium.make("CartPole-v1"))
        >>> result = evaluate(policy, lambda: gymnasium.make("CartPole-v1"), num_episodes=3, num_envs=2)
        >>> result.seeds.tolist()
        [10000, 10001, 10002]
    """
    num_episodes = check_count(num_episodes, "num_episodes", "episodes to play")
    seed = check_seed(seed, "seed")
    slots = slots_for(environment, num_envs, num_episodes, seed)
    was_training = getattr(policy, "training", False)
    try:
        check_same_spaces(policy, slots.environment)
        policy.eval()
        return _play(policy, slots, num_episodes, seed, None if deterministic else _Noise(policy))
    finally:
        if was_training:
            policy.train()
        slots.close()


@torch.no_grad()
def _play(policy: StepwisePolicy, slots: Slots, num_episodes: int, seed: int, noise: _Noise | None) -> EvaluationResult:
    """Each episode once, in whatever slot is free, or the first ones of each slot where episodes have no seeds."""
    returns, lengths = np.zeros(num_episodes), np.zeros(num_episodes, dtype=np.int64)
    waiting = [deque(range(slot, num_episodes, slots.num_slots)) for slot in range(slots.num_slots)]
    if slots.takes_seeds:
        waiting = [deque(range(num_episodes))] * slots.num_slots
    playing: dict[int, int] = {}
    free = list(range(slots.num_slots))
    memory = beginning(policy, slots.num_slots)
    while free or playing:
        begun = {slot: waiting[slot].popleft() for slot in free if waiting[slot]}
        playing |= begun
        if not playing:
            break
        if begun:
            slots.begin({slot: seed + episode for slot, episode in begun.items()})
        numbers, features, masks = slots.observed(list(playing))
        _check(features, numbers, playing, seed)
        _check_masks(masks, policy.distribution.sizes, numbers, playing, seed)
        drawn = None if noise is None else noise.of([playing.get(slot) for slot in numbers])
        known = None if memory is None else rows_of(memory, numbers)
        decided = _decide(policy, features, masks, drawn, known)
        check_remembered(policy, memory, decided.memory)
        memory = put_back(memory, numbers, decided.memory)
        rewards, done, real = slots.step(numbers, policy.distribution.actions(decided.decisions.cpu()))
        memory = begun_anew(policy, memory, torch.from_numpy(done | ~real))
        for slot, episode in playing.items():
            if real[slot]:
                if not math.isfinite(rewards[slot]):
                    raise NonFiniteError(
                        f"{_named(slot, episode, seed)} gave the reward {rewards[slot]}, expected a number"
                    )
                returns[episode] += float(rewards[slot])
                lengths[episode] += 1
                warn_if_endless(slots.environment, lengths[episode])
        free = [slot for slot in playing if done[slot]]
        for slot in free:
            del playing[slot]
    seeds = np.arange(seed, seed + num_episodes, dtype=np.int64) if slots.takes_seeds else None
    return EvaluationResult(returns, lengths, seeds)


def _check(features: Features, numbers: list[int], playing: dict[int, int], seed: int) -> None:
    finite = finite_rows(features)
    if finite.all():
        return
    for slot, values, is_finite in zip(numbers, features, finite, strict=True):
        if slot in playing and not is_finite:
            raise NonFiniteError(
                f"{_named(slot, playing[slot], seed)} gave the observation {not_finite_parts(values)}, expected finite "
                f"numbers"
            )


def _check_masks(masks: Any, sizes: Sequence[int], numbers: list[int], playing: dict[int, int], seed: int) -> None:
    if masks is None:
        return
    for slot, allows in zip(numbers, allows_something(np.asarray(masks), sizes), strict=True):
        if slot in playing and not allows:
            raise ValueError(
                f"{_named(slot, playing[slot], seed)} gave an action_mask that allows nothing: end the episode where "
                f"no action is left"
            )


def _named(slot: int, episode: int, seed: int) -> str:
    """An environment, to name in errors."""
    return f"environment {slot}, in episode {episode} of the evaluation (from the seed {seed}),"


def _decide(policy: StepwisePolicy, features: Features, masks: Any, noise: torch.Tensor | None, memory: Any) -> Decided:
    allowed = None if masks is None else torch.from_numpy(np.asarray(masks, dtype=bool)).to(policy.device)
    observations = placed(tensors(features), policy.device, policy.dtype)
    noise = None if noise is None else noise.to(policy.device)
    return policy.decide(observations, noise, allowed, memory)


class _Noise:
    """What the actions of each episode are drawn with, whatever is played beside it."""

    def __init__(self, policy: StepwisePolicy) -> None:
        self.policy = policy
        self.seed = int(torch.randint(2**62, (), generator=policy.generator))
        self.streams: dict[int, Iterator[torch.Tensor]] = {}

    def of(self, episodes: list[int | None]) -> torch.Tensor:
        """The next noise of each episode, [n, K]; none for None, where what is drawn does not matter."""
        for episode in episodes:
            if episode is not None and episode not in self.streams:
                self.streams[episode] = self._stream(episode)
        drawn = [None if episode is None else next(self.streams[episode]) for episode in episodes]
        nothing = torch.zeros_like(next(noise for noise in drawn if noise is not None))
        return torch.stack([nothing if noise is None else noise for noise in drawn])

    def _stream(self, episode: int) -> Iterator[torch.Tensor]:
        mixed = np.random.SeedSequence([self.seed, episode]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
        while True:
            yield from self.policy.distribution.noise((NOISE_STEPS,), generator)


def act(policy: GymPolicy, observation: Any, info: dict[str, Any], *, deterministic: bool = True) -> Any:
    """The action for one observation of one environment; a mask in ``info["action_mask"]`` is honoured.

    A policy with a memory is asked by a :class:`Player`, which remembers for it.

    Args:
        policy: the policy, without a memory.
        observation: as the environment gives it.
        info: what came with it; ``{}`` where there is nothing.
        deterministic: the most probable action, or one that is drawn.

    Returns:
        An action for ``environment.step``.

    Example:
        >>> import gymnasium
        >>> environment = gymnasium.make("CartPole-v1")
        >>> policy = GymPolicy(environment)
        >>> act(policy, *environment.reset(seed=0)) in environment.action_space
        True
    """
    batch, masks = one_observed(policy, observation, info)
    return one_by_one(policy.predict(batch, masks, deterministic=deterministic))[0]
