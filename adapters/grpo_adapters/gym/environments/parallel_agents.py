"""PettingZoo's parallel environments: many agents at once, by one policy or by several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from grpo import World
from grpo_adapters.gym.actions.action_batches import one_by_one
from grpo_adapters.gym.environments.checks import check_count, check_seed, seed_from
from grpo_adapters.gym.environments.vector_environments import EnvironmentFailedError
from grpo_adapters.gym.observations.encoder import check_same_spaces
from grpo_adapters.gym.playing.agent_groups import AgentGroup
from grpo_adapters.gym.playing.agent_players import AgentPlayer
from grpo_adapters.gym.playing.stepwise import StepwisePolicy

MASK, SEEN = "action_mask", "observation"
"""In PettingZoo's games an observation with a mask is a dictionary of these two."""
LONGEST_WAIT = 10
"""How many rollouts' lengths to wait for a group that has decided nothing."""


class ParallelAgents:
    """Plays copies of a parallel environment of PettingZoo's with a policy for each group of agents.

    An agent's episode ends where it terminates or is truncated, whether others go on or not; agents may join in the
    midst. When all have left, the environment begins anew. Masks are honoured, be they in ``infos[agent]`` or in the
    observations, as in PettingZoo's games.

    Attributes:
        samplers: an :class:`AgentGroup` for each group, by name: what policies are built from and trainers sample by.

    Args:
        make_environment: makes a ``pettingzoo.ParallelEnv``.
        num_steps: steps in each copy in a rollout. A rollout goes on until each group has decided something.
        num_envs: copies side by side.
        groups: names of the agents that share a policy, by the name of the group; each agent is in one. None for all in
            one, called ``"agents"``.
        seed: copy i is first reset with ``seed + i``.

    Raises:
        TypeError: if ``make_environment`` does not make a parallel environment.
        ValueError: if groups leave out or repeat an agent, or agents of a group have different spaces.
    """

    def __init__(
        self,
        make_environment: Callable[[], Any],
        num_steps: int,
        *,
        num_envs: int = 1,
        groups: Mapping[str, Sequence[str]] | None = None,
        seed: int = 0,
    ) -> None:
        num_steps = check_count(num_steps, "num_steps", "steps in each environment in a rollout")
        num_envs = check_count(num_envs, "num_envs", "environments to play side by side")
        self.environments = [_made(make_environment) for _ in range(num_envs)]
        if len(set(map(id, self.environments))) < num_envs:
            raise ValueError(
                f"make_environment returned the same environment more than once for num_envs={num_envs}, so that the "
                f"episodes of the copies would be one: let it make a new one each time"
            )
        self.num_steps = num_steps
        self._seed = check_seed(seed, "seed")
        self._next_seed: int | None = self._seed
        everyone = list(self.environments[0].possible_agents)
        groups = {"agents": everyone} if groups is None else groups
        _check_groups(groups, everyone)
        self.samplers = {name: AgentGroup(self, name, agents) for name, agents in groups.items()}
        self._spaces = self._spaces_in(0)
        for copy in range(1, num_envs):
            self._check_spaces(copy)
        self._group_of = {agent: group for group in self.samplers.values() for agent in group.agents}
        self._players: list[dict[str, AgentPlayer]] = []
        self._has_begun = False

    def observation_space_of(self, agent: str) -> gymnasium.Space[Any]:
        """What an agent observes, without its mask."""
        space: gymnasium.Space[Any] = self.environments[0].observation_space(agent)
        return space[SEEN] if isinstance(space, spaces.Dict) and set(space) == {SEEN, MASK} else space

    def action_space_of(self, agent: str) -> gymnasium.Space[Any]:
        """What an agent may do."""
        space: gymnasium.Space[Any] = self.environments[0].action_space(agent)
        return space

    def _spaces_in(self, copy: int) -> dict[str, tuple[Any, Any]]:
        environment = self.environments[copy]
        agents = environment.possible_agents
        return {agent: (environment.observation_space(agent), environment.action_space(agent)) for agent in agents}

    def _check_spaces(self, copy: int) -> None:
        """Those of a copy must be what they were in the first one, when this was made."""
        for agent, spaces_now in self._spaces_in(copy).items():
            if agent in self._spaces and spaces_now != self._spaces[agent]:
                raise ValueError(
                    f"agent {agent} of environment {copy} has the spaces {spaces_now}, expected "
                    f"{self._spaces[agent]}, as in environment 0 when ParallelAgents was made: let make_environment "
                    f"make copies that are alike, and keep to their spaces"
                )

    def join_world(self, world: World) -> None:
        """Play other episodes than other processes do, from a seed that follows from this one's."""
        if world.rank > 0:
            self.begin_anew_from(world.own_seed(self._seed) % 2**31)
            self._seed = self.next_seed

    def forget(self) -> None:
        """Begin new episodes in the next rollout."""
        self._has_begun = False

    def cut(self, step: int) -> None:
        """Begin new episodes in the next rollout, from seeds that follow from this one's and ``step``."""
        self.begin_anew_from(seed_from(self._seed, step))

    def begin_anew_from(self, seed: int) -> None:
        """Begin new episodes in the next rollout, copy i from ``seed + i``."""
        self._next_seed = seed
        self.forget()

    @property
    def next_seed(self) -> int:
        """What new episodes would begin with now."""
        if self._next_seed is not None:
            return self._next_seed
        counts = [int(group.get_metrics()["num_episodes"]) for group in self.samplers.values()]
        return seed_from(self._seed, *counts, 1)

    @torch.no_grad()
    def play(self, policies: Mapping[str, StepwisePolicy]) -> None:
        """A rollout, of which each group keeps its part until its trainer takes it.

        Args:
            policies: of all groups, by name; each is set to evaluation.

        Raises:
            ValueError: if a group has no policy, a policy was built for other spaces, or agents do what they must not.
            EnvironmentFailedError: if an environment raises; the next rollout starts from new episodes.
            NonFiniteError: if an observation or a reward is not finite, likewise.
        """
        if policies.keys() != self.samplers.keys():
            raise ValueError(f"policies are of {sorted(policies)}, expected one for each of {sorted(self.samplers)}")
        for name, group in self.samplers.items():
            check_same_spaces(policies[name], group)
            policies[name].eval()
            group.begin_rollout()
        has_begun, self._has_begun = self._has_begun, False  # whatever fails below, the next rollout starts anew
        if not has_begun:
            self._begin(policies)
        for players in self._players:
            for agent, player in players.items():
                player.begin_rollout(policies[self._group_of[agent].name])
        noises = {name: self._noise(policies[name], len(group.agents)) for name, group in self.samplers.items()}
        step = 0
        while step < self.num_steps or not all(map(self._has_played, self.samplers.values())):
            if step == LONGEST_WAIT * self.num_steps:
                idle = [name for name, group in self.samplers.items() if not self._has_played(group)]
                raise ValueError(f"no agent of {idle} took a step in {step} steps: leave the group out, or look why")
            self._step(policies, {name: next(noise) for name, noise in noises.items()}, step)
            step += 1
        for name, group in self.samplers.items():
            group.hand_over(policies[name], self._players_of(group))
        self._has_begun = True

    def _players_of(self, group: AgentGroup) -> list[AgentPlayer]:
        return [players[agent] for players in self._players for agent in group.agents]

    def _has_played(self, group: AgentGroup) -> bool:
        return any(part.rewards for player in self._players_of(group) for part in player.parts)

    def _noise(self, policy: StepwisePolicy, num_agents: int) -> Iterator[torch.Tensor]:
        """For every agent of a group in every copy, step by step, drawn for a rollout at once."""
        shape = (self.num_steps, len(self.environments), num_agents)
        while True:
            yield from policy.distribution.noise(shape, policy.generator)

    def _begin(self, policies: Mapping[str, StepwisePolicy]) -> None:
        seed, self._next_seed = self._next_seed, None
        self._players = [
            {
                agent: AgentPlayer(f"agent {agent} of environment {copy}", policies[group.name].distribution.sizes)
                for agent, group in self._group_of.items()
            }
            for copy in range(len(self.environments))
        ]
        for copy in range(len(self.environments)):
            self._reset(copy, None if seed is None else seed + copy, 0)

    def _reset(self, copy: int, seed: int | None, step: int) -> None:
        environment = self.environments[copy]
        try:
            observations, infos = environment.reset() if seed is None else environment.reset(seed=seed)
        except Exception as error:
            raise self._failed(error, copy, "reset") from error
        self._check_spaces(copy)
        if not environment.agents:
            raise ValueError(f"environment {copy} has no agents after reset, expected some of {list(self._group_of)}")
        self._observe(copy, observations, infos, step)

    def _observe(self, copy: int, observations: Mapping[str, Any], infos: Mapping[str, Any], step: int) -> None:
        """Let the agents that are there see what they are to decide on."""
        for agent in self.environments[copy].agents:
            if agent not in self._group_of:
                raise ValueError(
                    f"environment {copy} let agent {agent} join at step {step} of the rollout, expected one of "
                    f"possible_agents, {list(self._group_of)}: name all that may ever join there"
                )
            features, mask = self._encoded(copy, agent, observations, step)
            told = infos.get(agent, {}).get(MASK) if mask is None else mask
            self._players[copy][agent].observe(features, told, step)

    def _encoded(self, copy: int, agent: str, observations: Mapping[str, Any], step: int) -> tuple[Any, Any]:
        """Features of an agent's observation, and the mask that comes with it."""
        if agent not in observations:
            raise ValueError(
                f"environment {copy} gave agent {agent} no observation at step {step} of the rollout, expected one for "
                f"each agent that is in agents or was truncated"
            )
        seen = observations[agent]
        mask = None
        if isinstance(seen, Mapping) and set(seen) == {SEEN, MASK}:
            seen, mask = seen[SEEN], seen[MASK]
        return self._group_of[agent].encoder.single(seen), mask

    def _step(self, policies: Mapping[str, StepwisePolicy], noise: Mapping[str, torch.Tensor], step: int) -> None:
        decisions: list[dict[str, torch.Tensor]] = [{} for _ in self.environments]
        actions: list[dict[str, Any]] = [{} for _ in self.environments]
        for name, group in self.samplers.items():
            acting = [
                (copy, agent)
                for copy, environment in enumerate(self.environments)
                for agent in environment.agents
                if self._group_of[agent] is group
            ]
            if not acting:
                continue
            drawn = noise[name][[copy for copy, _ in acting], [group.agents.index(agent) for _, agent in acting]]
            decided = group.decide(policies[name], [self._players[copy][agent] for copy, agent in acting], drawn)
            played = one_by_one(policies[name].distribution.actions(decided))
            for (copy, agent), decision, action in zip(acting, decided, played, strict=True):
                decisions[copy][agent], actions[copy][agent] = decision, action
        for copy in range(len(self.environments)):
            self._step_copy(copy, decisions[copy], actions[copy], step)

    def _step_copy(self, copy: int, decisions: Mapping[str, torch.Tensor], actions: dict[str, Any], step: int) -> None:
        environment = self.environments[copy]
        try:
            observations, rewards, terminations, truncations, infos = environment.step(actions)
        except Exception as error:
            raise self._failed(error, copy, f"step {step} of the rollout") from error
        for agent, decision in decisions.items():
            if agent not in rewards or (agent not in environment.agents and agent not in terminations):
                raise ValueError(
                    f"agent {agent} of environment {copy} acted at step {step} of the rollout and is gone without a "
                    f"reward or a termination: tell both at the step after which it leaves"
                )
            player = self._players[copy][agent]
            player.act(decision, _number(rewards[agent], f"agent {agent} of environment {copy}", step), step)
            terminated, truncated = bool(terminations.get(agent)), bool(truncations.get(agent))
            if (terminated or truncated) is (agent in environment.agents):
                raise ValueError(
                    f"agent {agent} of environment {copy} has terminated={terminated} and truncated={truncated} after "
                    f"step {step} of the rollout, but is{' still' if terminated or truncated else ' no longer'} in "
                    f"agents: an agent leaves when its episode ends, and only then"
                )
            if terminated or truncated:
                after: Any = player.features
                if not terminated or agent in observations:
                    after, _ = self._encoded(copy, agent, observations, step + 1)
                self._group_of[agent].statistics.add(*player.end(after, terminated=terminated, step=step))
        if environment.agents:
            self._observe(copy, observations, infos, step + 1)
        else:
            self._reset(copy, None, step + 1)

    def _failed(self, error: Exception, copy: int, when: str) -> EnvironmentFailedError:
        return EnvironmentFailedError(
            f"environment {copy} raised {type(error).__name__} at {when}: {error} (the next rollout starts anew)"
        )


def _number(reward: Any, whose: str, step: int) -> float:
    given = np.asarray(reward)
    if given.shape != () or given.dtype.kind not in "fiub":
        raise ValueError(
            f"{whose} was given the reward {reward!r:.100} at step {step} of the rollout, expected a number"
        )
    return float(given)


def _made(make_environment: Callable[[], Any]) -> Any:
    environment = make_environment() if callable(make_environment) else make_environment
    names = ("possible_agents", "observation_space", "action_space", "reset", "step")
    missing = [name for name in names if not hasattr(environment, name)]
    if missing or hasattr(environment, "agent_iter") or not callable(make_environment):
        raise TypeError(
            f"make_environment made a {type(environment).__name__}, expected a function that makes a "
            f"pettingzoo.ParallelEnv: pass simple_spread_v3.parallel_env, say, or wrap an environment of turns in "
            f"pettingzoo.utils.conversions.aec_to_parallel"
        )
    return environment


def _check_groups(groups: Mapping[str, Sequence[str]], everyone: Sequence[str]) -> None:
    """Each agent must be in one group."""
    named = [agent for agents in groups.values() for agent in agents]
    if sorted(named) != sorted(everyone) or not all(groups.values()):
        raise ValueError(
            f"groups are { ({name: list(agents) for name, agents in groups.items()}) }, expected each of the agents "
            f"{list(everyone)} in one of them, and no group without any"
        )
