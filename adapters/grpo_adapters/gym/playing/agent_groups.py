"""The agents of an environment that share a policy, as a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from grpo import World
from grpo_adapters.gym.environments.checks import check_state
from grpo_adapters.gym.memory.memory_records import beginning, check_remembered
from grpo_adapters.gym.memory.memory_states import joined_states, rows_of
from grpo_adapters.gym.memory.windows import StoredMemory
from grpo_adapters.gym.observations.columns import placed, tensors
from grpo_adapters.gym.observations.encoder import ObservationEncoder
from grpo_adapters.gym.playing.agent_players import AgentPlayer
from grpo_adapters.gym.playing.statistics import EpisodeStatistics
from grpo_adapters.gym.playing.stepwise import StepwisePolicy
from grpo_adapters.gym.playing.trajectories import Trajectory

if TYPE_CHECKING:
    from grpo_adapters.gym.environments.parallel_agents import ParallelAgents


class AgentGroup:
    """The agents that share a policy, in all copies of an environment: a sampler of what :class:`ParallelAgents` plays.

    There is one state a step, :attr:`states`, and one action: all that the agents of the group played in a rollout,
    agent by agent and episode by episode. So an agent that leaves early, or for long, leaves no gap. For a policy with
    a memory, a row is what one agent played in one copy, or a window of it.

    Attributes:
        name: of the group.
        agents: who is in it.
        states: what to pass to ``trainer.step``.
        statistics: of its agents' episodes.
    """

    def __init__(self, owner: ParallelAgents, name: str, agents: Sequence[str]) -> None:
        self.owner = owner
        self.name = name
        self.agents = list(agents)
        self.states = [0]
        self.statistics = EpisodeStatistics()
        self._check_spaces()
        self.encoder = ObservationEncoder(self.single_observation_space)
        self._waiting: tuple[StepwisePolicy, Trajectory] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> AgentGroup:
        return self  # a copy of a policy plays the same environments

    def _check_spaces(self) -> None:
        first, *others = self.agents
        for other in others:
            for what, told in (
                ("observation_space", self.owner.observation_space_of),
                ("action_space", self.owner.action_space_of),
            ):
                if told(first) != told(other):
                    raise ValueError(
                        f"agents {first} and {other} are to share a policy, but their {what}s are {told(first)} and "
                        f"{told(other)}: put them in groups of their own by groups=, or pad them to the same"
                    )

    @property
    def single_observation_space(self) -> gymnasium.Space[Any]:
        """Of one agent, without its mask."""
        return self.owner.observation_space_of(self.agents[0])

    @property
    def single_action_space(self) -> gymnasium.Space[Any]:
        """Of one agent."""
        return self.owner.action_space_of(self.agents[0])

    def get_metrics(self) -> dict[str, float]:
        """Statistics of the last 100 episodes of its agents."""
        return self.statistics.metrics()

    def join_world(self, world: World) -> None:
        """Play other episodes than other processes do."""
        self.owner.join_world(world)

    def restart(self) -> None:
        """Forget the last rollout: the next one begins new episodes, and no episode of this group in it counts."""
        self.owner.forget()
        self.statistics.forget_rollout()

    def cut(self, step: int) -> None:
        """Let the episodes under way end here, as truncated: the next rollout begins new ones, whose seed follows."""
        self.owner.cut(step)

    def state_dict(self) -> dict[str, Any]:
        """What was played, and the seed that the next episodes begin with."""
        return {"statistics": self.statistics.state_dict(), "next_seed": self.owner.next_seed}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned; episodes begin anew.

        Raises:
            ValueError: if it is the state of something else.
        """
        check_state(state_dict, {"statistics", "next_seed"}, self)
        self.owner.begin_anew_from(state_dict["next_seed"])
        self.statistics.load_state_dict(state_dict["statistics"])

    def sample(
        self, policy: StepwisePolicy, states: Sequence[int], num_actions_per_state: int, **kwargs: Any
    ) -> list[list[Trajectory]]:
        """What the group played in the last rollout, which is made here where it is the only group.

        Args:
            policy: that decided.
            states: :attr:`states`.
            num_actions_per_state: 1.
            kwargs: not used.

        Raises:
            RuntimeError: if there are several groups, and no rollout since the last time.
            ValueError: if another policy played, or more than one action is asked for.
        """
        if list(states) != self.states or num_actions_per_state != 1:
            raise ValueError(
                f"the agents of {self.name!r} were asked for {num_actions_per_state} actions for the states "
                f"{list(states)[:10]}, but a rollout is one action of one state: pass sampler.states and group_size=1"
            )
        if self._waiting is None and len(self.owner.samplers) == 1:
            self.owner.play({self.name: policy})
        if self._waiting is None:
            raise RuntimeError(
                f"the agents of {self.name!r} have played nothing since the last step: call play(policies) of their "
                f"ParallelAgents once, and then step the trainer of each group"
            )
        player, trajectory = self._waiting
        if player is not policy:
            raise ValueError(
                f"the agents of {self.name!r} were played by another {type(player).__name__} than the one that is to "
                f"learn from it: give play the policy of this trainer"
            )
        self._waiting = None
        return [[trajectory]]

    def begin_rollout(self) -> None:
        """Let go of what was not taken."""
        self._waiting = None
        self.statistics.begin_rollout()

    def hand_over(self, policy: StepwisePolicy, players: Sequence[AgentPlayer]) -> None:
        """Keep what players of this group played until a trainer asks for it."""
        parts = [part for player in players for part in player.played()]
        afters = [part.after for part in parts if part.after is not None]
        assert len(afters) == len(parts)
        stored = [player.remembered.stored(player.num_steps) for player in players]
        memories = [memory for memory in stored if memory is not None]
        self._waiting = (
            policy,
            Trajectory(
                observations=tensors(np.stack([seen for part in parts for seen in part.observations])),
                decisions=torch.stack([decision for part in parts for decision in part.decisions]),
                rewards=torch.tensor([reward for part in parts for reward in part.rewards], dtype=torch.float32),
                episode_lengths=tuple(len(part.rewards) for part in parts),
                next_observations=tensors(np.stack(afters)),
                terminated=torch.tensor([part.terminated for part in parts]),
                masks=stacked([mask for part in parts for mask in part.masks], policy.distribution.sizes),
                memory=StoredMemory.joined(memories) if memories else None,
            ),
        )

    def decide(self, policy: StepwisePolicy, players: Sequence[AgentPlayer], noise: torch.Tensor) -> torch.Tensor:
        """Decisions of some players, on the CPU; what is remembered of each is left with it."""
        features = tensors(np.stack([player.features for player in players if player.features is not None]))
        masks = stacked([player.mask for player in players], policy.distribution.sizes)
        memory = _memory_of(policy, players)
        for row, player in enumerate(players):
            player.remembered.store(policy, player.num_steps, memory, row, begins=player.episode_length == 0)
        decided = policy.decide(
            placed(features, policy.device, policy.dtype),
            noise.to(policy.device),
            None if masks is None else masks.to(policy.device),
            memory,
        )
        check_remembered(policy, memory, decided.memory)
        if memory is not None:
            for row, player in enumerate(players):
                player.memory = rows_of(decided.memory, slice(row, row + 1))
        return decided.decisions.cpu()


def _memory_of(policy: StepwisePolicy, players: Sequence[AgentPlayer]) -> Any:
    """What is remembered of some players, a row each; where an episode begins, what it begins with."""
    fresh = beginning(policy, len(players))
    if fresh is None:
        return None
    return joined_states(
        [
            rows_of(fresh, slice(row, row + 1)) if player.memory is None else player.memory
            for row, player in enumerate(players)
        ]
    )


def stacked(masks: Sequence[NDArray[np.bool_] | None], sizes: Sequence[int]) -> torch.Tensor | None:
    """Masks as a tensor, where any is told; one that is not told allows everything."""
    if all(mask is None for mask in masks):
        return None
    everything = np.ones(sum(sizes), dtype=bool)
    return torch.from_numpy(np.stack([everything if mask is None else mask for mask in masks]))
