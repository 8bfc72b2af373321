"""Agents that remember: each has a memory of its own, which begins with its episode, whoever comes and leaves."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from parallel_environments import AGENTS, LIVES, Comers
from recurrence import MEMORIES, Forgets, Remembers, one_step, recurrent, step_by_step, value_of
from state_laws import are_same

from grpo import PPOConfig, PPOTrainer
from grpo_adapters.gym import GRU, EnvironmentReward, GymActorCritic, GymPolicy, ParallelAgents

EACH = {agent: [agent] for agent in AGENTS}
TWO = {"first": ["ann", "cat"], "second": ["bob"]}
WINDOWS: list[dict[str, Any]] = [{}, {"window": 1}, {"window": 2}, {"window": 3, "burn_in": 1}]
PRECISE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def begins(observation: Any) -> bool:
    """Whether an episode of the agent that it tells begins with it."""
    _, agent, _, step = observation.tolist()
    return bool(step == LIVES[AGENTS[int(agent)]][0])


def policies_of(agents: ParallelAgents, memory: str = "lstm", **options: Any) -> dict[str, GymActorCritic]:
    return {name: recurrent(sampler, memory, **options) for name, sampler in agents.samplers.items()}


def part_of(sampler: Any, policy: Any) -> Any:
    """What a group played in a rollout."""
    [[trajectory]] = sampler.sample(policy, [0], 1)
    return trajectory


def slots_of(trajectory: Any) -> list[int]:
    """The first steps of each agent in each copy, and the end of all."""
    who = trajectory.observations[:, :2]
    changes = (who[1:] != who[:-1]).any(1).nonzero().view(-1) + 1
    return [0, *changes.tolist(), len(who)]


@pytest.mark.parametrize("options", WINDOWS, ids=str)
@pytest.mark.parametrize(
    ("memory", "groups"), [*((memory, None) for memory in MEMORIES), ("lstm", TWO), ("own", EACH)], ids=str
)
def test_evaluation_equals_a_loop_over_the_steps_of_each_agent(
    memory: str, groups: Any, options: dict[str, Any]
) -> None:
    agents = ParallelAgents(Comers, 4, num_envs=2, groups=groups)
    policies = policies_of(agents, memory, **options)
    states: dict[Any, Any] = {}
    for _ in range(3):
        agents.play(policies)
        for name, policy in policies.items():
            trajectory = part_of(agents.samplers[name], policy)
            batch = policy.encode_actions([0], [trajectory])
            evaluation, estimates = policy.evaluate_actions(batch), policy.estimate_values(batch)
            assert evaluation.values is not None
            assert torch.equal(evaluation.values, estimates.values)
            slots = slots_of(trajectory)
            assert batch.rows.longest <= options.get("window", 4)
            assert options or batch.rows.starts.tolist() == slots[:-1]
            expected: list[Any] = [None] * len(trajectory)
            for start, end in pairwise(slots):
                slot = tuple(trajectory.observations[start, :2].tolist())
                own = trajectory.observations[start:end], trajectory.decisions[start:end]
                found = step_by_step(policy, *own, states.get(slot), begins=begins)
                torch.testing.assert_close(evaluation.log_probs[start:end], found[0], **PRECISE)
                torch.testing.assert_close(evaluation.values[start:end], found[1], **PRECISE)
                expected[start:end] = [*found[1][1:], None]
                states[slot] = found[2][-1]
                for last in torch.tensor(trajectory.episode_lengths).cumsum(0) - 1:
                    if start <= last < end:
                        piece = int(torch.searchsorted(batch.episodes.last, last))
                        after = trajectory.next_observations[piece].double()
                        units, _ = one_step(policy, after, found[2][int(last) - start + 1])
                        expected[int(last)] = 0 if trajectory.terminated[piece] else value_of(policy, units)
            next_values = torch.stack([torch.as_tensor(value).double() for value in expected])
            torch.testing.assert_close(estimates.next_values, next_values, **PRECISE)


def trainers_of(agents: ParallelAgents, **config: Any) -> dict[str, PPOTrainer[Any, Any]]:
    settings = {"batch_size": 3, "num_epochs_per_update": 2, "learning_rate": 0.01, "seed": 0} | config
    return {
        name: PPOTrainer(PPOConfig(**settings), policy, EnvironmentReward(), sampler=agents.samplers[name])
        for name, policy in policies_of(agents, "own", window=3, burn_in=1).items()
    }


def step(agents: ParallelAgents, trainers: dict[str, PPOTrainer[Any, Any]]) -> dict[str, dict[str, float]]:
    agents.play({name: trainer.policy for name, trainer in trainers.items()})  # type: ignore[misc]
    return {name: trainer.step([0]) for name, trainer in trainers.items()}


def test_the_size_of_micro_batches_changes_nothing() -> None:
    parameters = []
    for size in (None, 1):
        agents = ParallelAgents(Comers, 4, num_envs=2, groups=TWO)
        trainers = trainers_of(agents, micro_batch_size=size)
        for _ in range(3):
            step(agents, trainers)
        parameters.append({name: trainer.policy.get_parameters() for name, trainer in trainers.items()})
    for group, own in parameters[0].items():
        for name, parameter in own.items():
            torch.testing.assert_close(parameter, parameters[1][group][name], rtol=1e-9, atol=1e-11)


def test_a_run_that_was_interrupted_goes_on_as_one_that_was_not() -> None:
    agents, again = (ParallelAgents(Comers, 4, num_envs=2, groups=TWO, seed=3) for _ in range(2))
    trainers, others = trainers_of(agents), trainers_of(again)
    step(agents, trainers)
    agents.samplers["first"].cut(1)
    for name, trainer in trainers.items():
        others[name].load_state_dict(trainer.state_dict())
    for _ in range(2):
        assert are_same(step(agents, trainers), step(again, others))
    states = [{name: trainer.state_dict() for name, trainer in own.items()} for own in (trainers, others)]
    assert are_same(*states)


def test_what_episodes_begin_with_is_of_the_present_weights() -> None:
    """Of one that was away when they changed, and of one whose episode begins with the rollout."""
    agents = ParallelAgents(Comers, 5)
    [sampler] = agents.samplers.values()
    policy = recurrent(sampler, "own")
    sampler.sample(policy, [0], 1)
    memory: Any = policy.memory
    with torch.no_grad():
        memory.beginning += 1
    trajectory = part_of(sampler, policy)
    assert trajectory.memory.begins.all()
    assert torch.equal(trajectory.memory.states["sum"], memory.beginning.expand(3, -1))


def test_another_memory_plays_new_episodes_only() -> None:
    agents = ParallelAgents(Comers, 3)
    [sampler] = agents.samplers.values()
    sampler.sample(GymActorCritic(sampler, memory=GRU(4, 3)), [0], 1)
    other = GymActorCritic(sampler, memory=GRU(4, 5))
    for policy in (other, GymActorCritic(sampler)):
        sampler.restart()
        sampler.sample(GymActorCritic(sampler, memory=GRU(4, 3)), [0], 1)
        with pytest.raises(ValueError, match=r"go on with what a policy remembers as .*call sampler\.restart\(\)"):
            sampler.sample(policy, [0], 1)
        sampler.restart()
        sampler.sample(policy, [0], 1)


@pytest.mark.parametrize(("kind", "message"), [(Remembers, "add initial_memory"), (Forgets, "return Decided")])
def test_policies_that_remember_by_halves(kind: type[GymPolicy], message: str) -> None:
    [sampler] = ParallelAgents(Comers, 3).samplers.values()
    with pytest.raises(TypeError, match=message):
        sampler.sample(kind(sampler), [0], 1)


class Recall:
    """Each of two agents is shown a cue of its own at the first of three steps, and is paid for telling it last."""

    possible_agents = ("left", "right")

    def __init__(self) -> None:
        self.agents: list[str] = []
        self.generator = np.random.default_rng()

    def observation_space(self, agent: str) -> Any:
        return Box(-1, 1, (2,))

    def action_space(self, agent: str) -> Any:
        return Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        self.agents, self.steps = list(self.possible_agents), 0
        self.cues = {agent: int(self.generator.integers(2)) for agent in self.agents}
        return self.seen(), {}

    def seen(self) -> dict[str, Any]:
        shown = self.steps == 0
        return {agent: np.array([(2 * cue - 1) * shown, shown], np.float32) for agent, cue in self.cues.items()}

    def step(self, actions: dict[str, Any]) -> Any:
        self.steps += 1
        is_over = self.steps == 3
        rewards = {agent: float(is_over and int(actions[agent]) == cue) for agent, cue in self.cues.items()}
        if is_over:
            self.agents = []
        over = dict.fromkeys(self.possible_agents, is_over)
        return self.seen(), rewards, over, dict.fromkeys(over, False), {}


def test_each_agent_recalls_what_it_was_shown() -> None:
    agents = ParallelAgents(Recall, 30, num_envs=8)
    [sampler] = agents.samplers.values()
    torch.manual_seed(0)
    policy = GymActorCritic(sampler, memory=GRU(2, 16), hidden_sizes=(16,))
    config = PPOConfig(batch_size=4, num_epochs_per_update=4, learning_rate=0.01)
    trainer = PPOTrainer(config, policy, EnvironmentReward(), sampler=sampler)
    for _ in range(12):
        metrics = trainer.step([0])
    assert metrics["episode_return"] > 0.9  # 0.5 without a memory
