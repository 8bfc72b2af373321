"""Fragments of simulators that compute thousands of environments at once, on their own device."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from grpo import EqualGroups, Segments, Stateful, World
from grpo_adapters.gym.environments.checks import check_count, check_seed, check_state, seed_from
from grpo_adapters.gym.environments.simulators import CheckedSimulator, Simulator
from grpo_adapters.gym.memory.memory_records import MemoryRecord
from grpo_adapters.gym.observations.columns import placed
from grpo_adapters.gym.observations.encoder import check_same_spaces
from grpo_adapters.gym.playing.simulator_steps import SimulatedSteps
from grpo_adapters.gym.playing.statistics import WINDOW, EpisodeStatistics
from grpo_adapters.gym.playing.stepwise import StepwisePolicy
from grpo_adapters.gym.playing.trajectories import Rollout, Trajectory


class SimulatorSampler:
    """Plays the next ``num_steps`` steps in each of the n environments of a simulator, and never leaves its device.

    It is a :class:`FragmentSampler` over tensors: episodes go on where the last rollout left them, the states of a step
    are the slots, all of them, in order, and an action is the fragment that was played in one. The policy must be where
    the simulator is.

    Attributes:
        simulator: what it plays.
        states: 0 to n - 1, what to pass to ``trainer.step``.
        num_steps: steps in each environment in a rollout.

    Args:
        simulator: a :class:`Simulator`. If it is :class:`grpo.Stateful`, its state is in this one's; else a run cuts
            the episodes under way at each checkpoint (:meth:`cut`) and begins new ones.
        num_steps: steps in each environment in a rollout.
        seed: of the first reset.

    Raises:
        TypeError: if ``simulator`` is none, or the seed no integer of at least 0.
        ValueError: if ``num_steps`` is below 1, or the simulator resets in another way than it must.

    Example:
        >>> import torch
        >>> from gymnasium.spaces import Box, Discrete
        >>> from grpo import PPOConfig, PPOTrainer
        >>> from grpo_adapters.gym import EnvironmentReward, GymActorCritic
        >>> class Guess:  # is the number above zero?
        ...     num_envs, single_observation_space, single_action_space = 1000, Box(-1, 1, (1,)), Discrete(2)
        ...     generator = torch.Generator()
        ...     def reset(self, *, seed=None):
        ...         if seed is not None:
        ...             self.generator.manual_seed(seed)
        ...         return self.ask(), {}
        ...     def ask(self):
        ...         self.numbers = 2 * torch.rand(1000, 1, generator=self.generator) - 1
        ...         return self.numbers
        ...     def step(self, actions):
        ...         rewards = ((self.numbers[:, 0] > 0) == actions).float()
        ...         return self.ask(), rewards, torch.ones(1000, dtype=bool), torch.zeros(1000, dtype=bool), {}
        >>> sampler = SimulatorSampler(Guess(), num_steps=4)
        >>> trainer = PPOTrainer(PPOConfig(), GymActorCritic(sampler), EnvironmentReward(), sampler=sampler)
        >>> trainer.step(sampler.states)["num_decisions"]
        4000.0
    """

    def __init__(self, simulator: Simulator, num_steps: int, *, seed: int = 0) -> None:
        num_steps = check_count(num_steps, "num_steps", "steps in each environment in a rollout")
        self._checked = CheckedSimulator(simulator)
        self._seed = check_seed(seed, "seed")
        self._next_seed: int | None = self._seed
        self.simulator = simulator
        self.num_steps = num_steps
        self.states = list(range(self._checked.num_envs))
        self.statistics = EpisodeStatistics(max(WINDOW, len(self.states)))
        self._observations: Tensor | None = None
        self._memory: Any = None
        self._progress = torch.zeros(2, len(self.states), dtype=torch.float64)

    def __deepcopy__(self, memo: dict[int, Any]) -> SimulatorSampler:
        return self  # a copy of a policy plays the same environments

    @property
    def single_observation_space(self) -> Any:
        """Of one environment."""
        return self.simulator.single_observation_space

    @property
    def single_action_space(self) -> Any:
        """Of one environment."""
        return self.simulator.single_action_space

    def get_metrics(self) -> dict[str, float]:
        """Statistics of the last 100 episodes, or of as many as there are environments where these are more."""
        return self.statistics.metrics()

    def join_world(self, world: World) -> None:
        """Play other episodes than other processes do, from a seed that follows from this one's."""
        if world.rank > 0:
            self._seed = self._next_seed = world.own_seed(self._seed) % 2**31
            self._observations = None

    def restart(self) -> None:
        """Forget the last rollout: the next one begins new episodes, and no episode of it counts."""
        self._observations = None
        self.statistics.forget_rollout()

    def cut(self, step: int) -> None:
        """Let the episodes under way end here, as truncated, where the simulator tells no state.

        The next rollout begins new ones, from a seed that follows from this sampler's seed and ``step``.
        """
        if not self._is_stateful:
            self._next_seed = seed_from(self._seed, step)
            self._observations = None

    @property
    def _is_stateful(self) -> bool:
        return isinstance(self.simulator, Stateful)

    def get_settings(self) -> dict[str, Any]:
        """The steps of a rollout."""
        return {"num_steps": self.num_steps}

    def state_dict(self) -> dict[str, Any]:
        """What was played, and the simulator's state, or the seed that its next episodes begin with."""
        state = {"num_envs": len(self.states), "statistics": self.statistics.state_dict()}
        if not isinstance(self.simulator, Stateful):
            return {**state, "next_seed": self._next_seed_if_begun_anew()}
        parts = {
            "simulator": self.simulator.state_dict(),
            "observations": self._observations,
            "memory": self._memory,
            "masks": self._checked.masks,
            "progress": self._progress,
            "next_seed": self._next_seed,
        }
        return {**state, **copy.deepcopy(parts)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this sampler, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of a sampler of other environments; nothing has then changed.
        """
        own = {"simulator", "observations", "memory", "masks", "progress"} if self._is_stateful else set()
        check_state(state_dict, {"num_envs", "statistics", "next_seed"} | own, self)
        if state_dict["num_envs"] != len(self.states):
            raise ValueError(
                f"SimulatorSampler.load_state_dict was given the state of {state_dict['num_envs']} environments, "
                f"expected {len(self.states)}: load it into a sampler that was constructed in the same way"
            )
        self._observations = None
        if isinstance(self.simulator, Stateful):
            parts = copy.deepcopy(dict(state_dict))
            self.simulator.load_state_dict(parts["simulator"])
            self._observations, self._memory = parts["observations"], parts["memory"]
            self._progress = parts["progress"]
            self._checked.go_on(parts["observations"], parts["masks"])
        self._next_seed = state_dict["next_seed"]
        self.statistics.load_state_dict(state_dict["statistics"])

    def _next_seed_if_begun_anew(self) -> int:
        if self._next_seed is not None:
            return self._next_seed
        return seed_from(self._seed, int(self.get_metrics()["num_episodes"]), 1)

    @torch.no_grad()
    def sample(
        self, policy: StepwisePolicy, states: Sequence[int], num_actions_per_state: int, **kwargs: Any
    ) -> EqualGroups[Trajectory]:
        """The next fragment of each environment.

        Args:
            policy: decides.
            states: all slots, :attr:`states`.
            num_actions_per_state: 1.
            kwargs: not used.

        Raises:
            ValueError: if the states are not all slots in order, more than one action is asked for, the policy was
                built for other spaces or is on another device, or tensors of the simulator are not as they must be.
            RuntimeError: if another sampler has begun episodes in the simulator meanwhile.
            EnvironmentFailedError: if the simulator raises; the next rollout starts from new episodes.
            NonFiniteError: if an observation or a reward is not finite, likewise.
        """
        self.statistics.begin_rollout()
        check_same_spaces(policy, self)
        if num_actions_per_state != 1 or list(states) != self.states:
            raise ValueError(
                f"SimulatorSampler was given {len(states)} states, from {list(states)[:10]}, and group_size "
                f"{num_actions_per_state}, but all {len(self.states)} environments go on at once, in one way: pass "
                f"sampler.states, and set group_size=1"
            )
        observations = self._observations
        self._observations = None  # whatever fails below, the next rollout then starts anew
        if observations is None:
            observations = self._start()
        self._checked.check_episodes_are_ours()
        self._check_device(policy, observations)
        steps = SimulatedSteps(self.num_steps, observations, self._checked.dtype)
        record = MemoryRecord(policy, self._memory, begins=(self._progress[1] == 0).to(observations.device))
        noise = policy.distribution.noise(
            (self.num_steps, len(self.states)), _generator_on(observations.device, policy.generator)
        )
        for number, step_noise in enumerate(noise):
            masks = self._checked.masks
            steps.store_observations(number, observations, masks)
            record.store(number)
            features = placed(observations.to(self._checked.dtype), policy.device, policy.dtype)
            decided = policy.decide(features, step_noise, masks, record.memory)
            record.remember(decided.memory)
            played = policy.distribution.played(decided.decisions.clone())  # the simulator may write over it
            step = self._checked.step(played, number)
            steps.store(number, decided.decisions, step)
            record.forget_where(step.done)
            observations = step.observations
        rollout = steps.rollout(policy.distribution.sizes, record.whole(self.num_steps))
        self._count(rollout, steps.done)
        self._observations, self._memory = observations, record.memory
        return EqualGroups(rollout)

    def _start(self) -> Tensor:
        self._progress.zero_()
        self._memory = None
        seed, self._next_seed = self._next_seed, None
        return self._checked.reset(seed)

    def _check_device(self, policy: StepwisePolicy, observations: Tensor) -> None:
        if policy.device != observations.device:
            raise ValueError(
                f"{type(policy).__name__} is on {policy.device}, but {type(self.simulator).__name__} gives its tensors "
                f"on {observations.device}, and a rollout does not leave its device: set device="
                f"'{observations.device}' in the trainer's config, or make the simulator on {policy.device}"
            )

    def _count(self, rollout: Rollout, done: Tensor) -> None:
        """Note the episodes that ended: the first part of each environment began in an earlier rollout."""
        wide = torch.float32 if rollout.rewards.device.type == "mps" else torch.float64
        self._progress = self._progress.to(rollout.rewards.device, wide)
        returns_here = Segments.of_lengths(rollout.lengths).sum(rollout.rewards.flatten().to(wide))
        played = torch.stack((returns_here, rollout.lengths.to(wide)))
        slots, steps = rollout.ends // self.num_steps, rollout.ends % self.num_steps
        is_first = slots.diff(prepend=slots.new_full((1,), -1)) > 0
        played[:, is_first] += self._progress
        has_ended = done.t().flatten()[rollout.ends]
        is_last = steps == self.num_steps - 1
        self._progress = played[:, is_last] * ~has_ended[is_last]
        in_turn = steps[has_ended].argsort(stable=True)
        returns, lengths = played[:, has_ended][:, in_turn[-self.statistics.window :]].tolist()
        self.statistics.add_last(returns, [int(length) for length in lengths], len(in_turn))


def _generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator on a device that follows from another, and is the same one where that is there."""
    if generator.device.type == device.type:
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
