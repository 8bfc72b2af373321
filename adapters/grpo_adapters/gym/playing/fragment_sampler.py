"""Fragments of continuing environments, as PPO samples them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from grpo import World
from grpo_adapters.gym.environments.checks import check_count, check_state, seed_from
from grpo_adapters.gym.environments.vector_environments import VectorEnvironments
from grpo_adapters.gym.memory.memory_records import MemoryRecord
from grpo_adapters.gym.memory.memory_states import map_state
from grpo_adapters.gym.observations.columns import from_plain, placed, plain
from grpo_adapters.gym.observations.encoder import Features, check_same_spaces
from grpo_adapters.gym.plain_state import new_array
from grpo_adapters.gym.playing.episode_sampler import EpisodeSampler
from grpo_adapters.gym.playing.fragment_record import FragmentRecord
from grpo_adapters.gym.playing.statistics import EpisodeStatistics
from grpo_adapters.gym.playing.stepwise import StepwisePolicy
from grpo_adapters.gym.playing.trajectories import Trajectory


class FragmentSampler:
    """Plays the next ``num_steps`` steps in each of n environments, which go on where the last rollout left them.

    The states of a step are the slots of the vector environment, :attr:`states`, all of them, in order; an action is
    the fragment that was played in one. A step in which an environment did nothing but reset is in none.

    A trainer takes it as its ``sampler``, or finds it in a policy that is built from it.

    Attributes:
        envs: the vector environment.
        states: 0 to n - 1, what to pass to ``trainer.step``.
        num_steps: steps in each environment in a rollout.

    Args:
        envs: a vector environment of gymnasium's, in any autoreset mode, or of EnvPool's.
        num_steps: steps in each environment in a rollout.
        seed: of the first reset; environment i gets ``seed + i`` where each has a generator of its own.
            EnvPool's is given when it is made.
        environments_in_state: what a state holds of the environments. ``"copy"``: all that changes in them, so that
            their episodes go on; it must be made of attributes in Python. ``"restart"``: nothing, for any environments,
            as those of Box2D and those in other processes. A run then cuts the episodes under way at each checkpoint
            (:meth:`cut`), whether it is interrupted or not, and goes on with new ones. What environments keep from
            episode to episode, such as a wrapper's running mean, is not in such a state, and EnvPool's new episodes
            follow from where its own generators are: with these, a run that goes on is not the same bit for bit.

    Raises:
        TypeError: if ``envs`` is no vector environment, or the seed no integer of at least 0.
        ValueError: if ``environments_in_state`` or the autoreset mode is unknown, or ``num_steps`` is below 1, or below
            2 where environments take a step to reset.

    Example:
        >>> import gymnasium
        >>> from grpo import PPOConfig, PPOTrainer
        >>> from grpo_adapters.gym import EnvironmentReward, GymActorCritic
        >>> sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=2), num_steps=8)
        >>> policy = GymActorCritic(gymnasium.make("CartPole-v1"))
        >>> trainer = PPOTrainer(PPOConfig(), policy, EnvironmentReward(), sampler=sampler)
        >>> trainer.step(sampler.states)["num_samples"]
        2.0
    """

    def __init__(
        self,
        envs: Any,
        num_steps: int,
        *,
        seed: int = 0,
        environments_in_state: Literal["copy", "restart"] = "copy",
    ) -> None:
        if environments_in_state not in ("copy", "restart"):
            raise ValueError(f"environments_in_state is {environments_in_state!r}, expected 'copy' or 'restart'")
        num_steps = check_count(num_steps, "num_steps", "steps in each environment in a rollout")
        self.environments = VectorEnvironments(envs, seed)
        if num_steps == 1 and self.environments.mode is AutoresetMode.NEXT_STEP:
            raise ValueError(
                "num_steps is 1, expected at least 2 for AutoresetMode.NEXT_STEP, where a step that resets an "
                "environment is no decision: a rollout might have none"
            )
        self.envs = envs
        self.num_steps = num_steps
        self.environments_in_state = environments_in_state
        self._seed = self.environments.seed
        self._next_seed: int | None = None
        self.states = list(range(self.environments.num_envs))
        self.statistics = EpisodeStatistics()
        self._observations: Features | None = None
        self._memory: Any = None
        self._returns = np.zeros(len(self.states))
        self._lengths = np.zeros(len(self.states), dtype=np.int64)
        self._num_ended_at_cut = self._num_cuts_without_end = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> FragmentSampler:
        return self  # a copy of a policy plays the same environments

    @property
    def single_observation_space(self) -> Any:
        """Of one environment."""
        return self.environments.encoder.space

    @property
    def single_action_space(self) -> Any:
        """Of one environment."""
        return self.envs.action_space if self.environments.is_envpool else self.envs.single_action_space

    def get_metrics(self) -> dict[str, float]:
        """Statistics of the last 100 episodes."""
        return self.statistics.metrics()

    def join_world(self, world: World) -> None:
        """Play other episodes than other processes do, from a seed that follows from this one's.

        Raises:
            ValueError: if environments of EnvPool's, whose seed is given when they are made, have the same on two
                processes.
        """
        if self.environments.is_envpool:
            seeds = world.gather(self.environments.seed)
            if len(set(seeds)) < len(seeds):
                raise ValueError(
                    f"the environments of EnvPool's have the seeds {seeds} on the processes, expected different ones: "
                    f"make them with seed=world.own_seed(seed) % 2**31"
                )
        elif world.rank > 0:
            self._seed = self.environments.seed = world.own_seed(self._seed) % 2**31
            self._next_seed = self._seed
            self._forget_episodes()

    def restart(self) -> None:
        """Forget the last rollout: the next one begins new episodes, and no episode of it counts."""
        self._observations = None
        self.statistics.forget_rollout()

    def cut(self, step: int) -> None:
        """Let the episodes under way end here, as truncated, where the environments are not in the state.

        The next rollout begins new ones, from seeds that follow from this sampler's seed and ``step``. The last
        fragments had been cut there already, and their value bootstrapped; episodes that are cut do not count.
        """
        if self.environments_in_state == "restart":
            self._warn_of_episodes_without_end()
            self._next_seed = seed_from(self._seed, step)
            self._forget_episodes()

    def _warn_of_episodes_without_end(self) -> None:
        num_ended = int(self.statistics.metrics()["num_episodes"])
        is_without_end = num_ended == self._num_ended_at_cut and bool(self._lengths.any())
        self._num_ended_at_cut = num_ended
        self._num_cuts_without_end = self._num_cuts_without_end + 1 if is_without_end else 0
        if self._num_cuts_without_end == 2:
            warnings.warn(
                f"no episode of {len(self.states)} environments has ended between the last checkpoints, which are "
                f"{self._lengths.max()} steps apart: with environments_in_state='restart' each of them cuts all "
                f"episodes, so that longer ones never end. Save less often, as by Checkpoints(every=...) or "
                f"--checkpoint-every, or take environments that can be copied",
                stacklevel=3,
            )

    def get_settings(self) -> dict[str, Any]:
        """The steps of a rollout."""
        return {"num_steps": self.num_steps}

    def state_dict(self) -> dict[str, Any]:
        """What was played, and the environments as plain data or the seed that their next episodes begin with.

        What environments hold, such as an opponent, is in their state. Where ``environments_in_state`` is
        ``"restart"`` and the episodes under way were not :meth:`cut`, what is loaded begins new ones all the same.

        Raises:
            TypeError: if something in the environments cannot be taken as data; the message names it.
        """
        state = {
            "kind": type(self.envs).__name__,
            "num_envs": len(self.states),
            "statistics": self.statistics.state_dict(),
        }
        if self.environments_in_state == "restart":
            return {**state, "next_seed": self._next_seed_if_begun_anew()}
        return {
            **state,
            "environments": self.environments.state_dict(LEFT_ALONE),
            "memory": None if self._memory is None else map_state(torch.clone, self._memory),
            "observations": None if self._observations is None else plain(self._observations),
            "returns": torch.tensor(self._returns),
            "lengths": torch.tensor(self._lengths),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this sampler, or of one constructed in the same way, returned.

        :attr:`envs` stays the same object, and so do the environments in it.

        Raises:
            ValueError: if it is the state of a sampler of other environments; nothing has then changed.
            RuntimeError: if an environment did not take back the state that it told itself.
        """
        does_restart = self.environments_in_state == "restart"
        own = {"next_seed"} if does_restart else {"environments", "memory", "observations", "returns", "lengths"}
        check_state(state_dict, {"kind", "num_envs", "statistics"} | own, self)
        expected, came = (len(self.states), type(self.envs).__name__), (state_dict["num_envs"], state_dict["kind"])
        if came != expected:
            raise ValueError(
                f"FragmentSampler.load_state_dict was given the state of {came[0]} environments in a {came[1]}, "
                f"expected {expected[0]} in a {expected[1]}: load it into a sampler that was constructed in the same "
                f"way"
            )
        if does_restart:
            self._next_seed = state_dict["next_seed"]
            self._forget_episodes()
        else:
            self._load_environments(state_dict)
        self.statistics.load_state_dict(state_dict["statistics"])

    def _load_environments(self, state_dict: Mapping[str, Any]) -> None:
        try:
            self.environments.load_state_dict(state_dict["environments"], LEFT_ALONE)
        except RuntimeError:
            self._forget_episodes()
            raise
        observations = state_dict["observations"]
        self._observations = None if observations is None else from_plain(observations, self.environments.encoder.dtype)
        memory = state_dict["memory"]
        self._memory = None if memory is None else map_state(torch.clone, memory)
        self._returns = new_array(state_dict["returns"])
        self._lengths = new_array(state_dict["lengths"])

    def _next_seed_if_begun_anew(self) -> int:
        if self._next_seed is not None:
            return self._next_seed
        if not self.environments.were_reset:
            return self._seed
        return seed_from(self._seed, int(self.get_metrics()["num_episodes"]), 1)

    @torch.no_grad()
    def sample(
        self, policy: StepwisePolicy, states: Sequence[int], num_actions_per_state: int, **kwargs: Any
    ) -> list[list[Trajectory]]:
        """The next fragment of each environment.

        Args:
            policy: decides.
            states: all slots, :attr:`states`.
            num_actions_per_state: 1.
            kwargs: not used.

        Raises:
            ValueError: if the states are not all slots in order, more than one action is asked for, or the policy was
                built for other spaces.
            RuntimeError: if another sampler or an evaluation has begun episodes in the environments meanwhile.
            EnvironmentFailedError: if an environment raises; the next rollout starts from new episodes.
            NonFiniteError: if an observation or a reward is not finite, likewise.
        """
        self.statistics.begin_rollout()
        check_same_spaces(policy, self)
        self._check(states, num_actions_per_state)
        observations = self._observations
        self._observations = None  # whatever fails below, the next rollout then starts anew
        if observations is None:
            observations = self._start()
        self.environments.check_episodes_are_ours()
        rollout = FragmentRecord(self.num_steps, observations)
        shape, device, dtype = (self.num_steps, len(self.states)), policy.device, policy.dtype
        record = MemoryRecord(policy, self._memory, begins=torch.from_numpy(self._lengths == 0))
        noise = policy.distribution.noise(shape, policy.generator).to(device)
        for step, step_noise in enumerate(noise):
            masks = self.environments.masks
            record.store(step)
            decided = policy.decide(
                placed(rollout.store_observations(step, observations), device, dtype),
                step_noise,
                None if masks is None else rollout.store_masks(step, masks).to(device),
                record.memory,
            )
            record.remember(decided.memory)
            played = policy.distribution.actions(decided.decisions.clone())  # environments may write over it
            transition = self.environments.step(played)
            rollout.store(step, decided, transition)
            record.forget_where(torch.from_numpy(transition.done | ~transition.real))
            observations = transition.observations
        rollout.check(transition.next_observations, policy.distribution.sizes, self.environments.seed)
        fragments = rollout.trajectories(transition.next_observations, record, policy)
        for slot, fragment in enumerate(fragments):
            self._count(slot, fragment, num_ended=int(rollout.done[:, slot].sum()))
        self._observations, self._memory = observations, record.memory
        return [[fragment] for fragment in fragments]

    def _check(self, states: Sequence[int], num_actions_per_state: int) -> None:
        if num_actions_per_state != 1:
            raise ValueError(
                f"group_size is {num_actions_per_state}, but a running environment goes on in one way only: set "
                f"group_size=1 where the trainer compares no groups, as PPOTrainer does, or use an EpisodeSampler, "
                f"which plays several episodes from one seed"
            )
        if list(states) != self.states:
            raise ValueError(
                f"states are {list(states)[:10]}, but all {len(self.states)} environments step at once: pass "
                f"sampler.states, which is list(range({len(self.states)}))"
            )

    def _start(self) -> Features:
        self._forget_episodes()
        seed, self._next_seed = self._next_seed, None
        return self.environments.reset(seed)

    def _forget_episodes(self) -> None:
        self._observations = self._memory = None
        self._returns[:] = 0
        self._lengths[:] = 0

    def _count(self, slot: int, fragment: Trajectory, num_ended: int) -> None:
        """Note the episodes that ended in a fragment, the first of its pieces, and how far the last one has got."""
        for piece, rewards in enumerate(fragment.rewards.split(list(fragment.episode_lengths))):
            self._returns[slot] += rewards.double().sum().item()
            self._lengths[slot] += len(rewards)
            if piece < num_ended:
                self.statistics.add(float(self._returns[slot]), int(self._lengths[slot]))
                self._returns[slot] = self._lengths[slot] = 0


LEFT_ALONE = (FragmentSampler, EpisodeSampler)
"""What an opponent that is a policy may hold, and is not an environment's own."""
