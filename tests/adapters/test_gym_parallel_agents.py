"""Many agents at once: every step of each is there once, whoever leaves, and each policy learns from its own."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from parallel_environments import AGENTS, LIVES, Comers, Pursuit
from state_laws import are_same

from grpo import CutsEpisodes, GeneralizedAdvantage, NonFiniteError, PPOConfig, PPOTrainer
from grpo_adapters.gym import (
    EnvironmentFailedError,
    EnvironmentReward,
    GymActorCritic,
    ParallelAgents,
)

SEED = 7
EACH = {agent: [agent] for agent in AGENTS}
TEAMS = {"hunters": ["hunter_0", "hunter_1"], "hare": ["hare"]}


def trainers_of(agents: ParallelAgents, **settings: Any) -> dict[str, Any]:
    config = PPOConfig(**{"batch_size": 16, "num_epochs_per_update": 2, "learning_rate": 0.01, **settings})
    return {
        name: PPOTrainer(config, GymActorCritic(sampler, hidden_sizes=(8,)), EnvironmentReward(), sampler=sampler)
        for name, sampler in agents.samplers.items()
    }


def step(agents: ParallelAgents, trainers: dict[str, Any]) -> dict[str, dict[str, float]]:
    agents.play({name: trainer.policy for name, trainer in trainers.items()})
    return {name: trainer.step(trainer.sampler.states) for name, trainer in trainers.items()}


def expected(num_steps: int) -> tuple[dict[tuple[int, int], list[Any]], dict[tuple[int, int], list[int]]]:
    """What each agent of two copies sees in so many steps, and after which of its steps an episode of it ends."""
    longest = max(join + lasts for join, lasts, _ in LIVES.values())
    seen, ends = defaultdict(list), defaultdict(list)
    for seed in (SEED, SEED + 1):
        for at in range(num_steps):
            episode, place = divmod(at, longest)
            for number, (join, lasts, _) in enumerate(LIVES.values()):
                if join <= place < join + lasts:
                    seen[seed, number].append([seed, number, episode, place])
                    if place == join + lasts - 1:
                        ends[seed, number].append(len(seen[seed, number]))
    return seen, ends


def check_part(trajectory: Any) -> None:
    """What one rollout holds of each episode: consecutive steps, their rewards and what came after them."""
    pieces = zip(
        trajectory.observations.split(list(trajectory.episode_lengths)),
        trajectory.next_observations,
        trajectory.terminated,
        strict=True,
    )
    for observations, after, terminated in pieces:
        assert observations[:, 3].diff().eq(1).all()
        assert observations[:, :3].unique(dim=0).shape[0] == 1
        assert after.tolist() == (observations[-1] + torch.tensor([0.0, 0, 0, 1])).tolist()
        join, lasts, terminates = LIVES[AGENTS[int(after[1])]]
        assert bool(terminated) is (terminates and int(after[3]) == join + lasts)
    numbers = trajectory.observations[:, 1]
    assert torch.equal(trajectory.rewards, numbers + 0.25 * trajectory.decisions)


@pytest.mark.parametrize("groups", [None, {"first": ["ann", "cat"], "second": ["bob"]}, EACH])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_every_step_of_every_agent_is_there_once(num_steps: int, groups: Any) -> None:
    agents = ParallelAgents(Comers, num_steps, num_envs=2, groups=groups, seed=SEED)
    policies = {name: GymActorCritic(sampler) for name, sampler in agents.samplers.items()}
    seen: Any = defaultdict(list)
    ends: Any = defaultdict(list)
    lengths: Any = defaultdict(int)
    for _ in range(6):
        agents.play(policies)
        for name, sampler in agents.samplers.items():
            trajectory: Any = sampler.sample(policies[name], sampler.states, 1)[0][0]
            check_part(trajectory)
            for own in trajectory.observations.tolist():
                seen[int(own[0]), int(own[1])].append(own)
            for own, after, terminated in zip(
                trajectory.observations.split(list(trajectory.episode_lengths)),
                trajectory.next_observations,
                trajectory.terminated,
                strict=True,
            ):
                slot = int(own[0, 0]), int(own[0, 1])
                lengths[slot] += len(own)
                join, lasts, _ = LIVES[AGENTS[slot[1]]]
                if int(after[3]) == join + lasts:
                    ends[slot].append(lengths[slot])
                assert bool(terminated) <= (int(after[3]) == join + lasts)
    scripts = [expected(number) for number in range(6 * num_steps, 6 * num_steps + 30)]
    assert any(dict(seen) == own and dict(ends) == own_ends for own, own_ends in scripts)
    counts = sum(sampler.get_metrics()["num_episodes"] for sampler in agents.samplers.values())
    assert counts == sum(map(len, ends.values()))


def test_statistics_are_of_agents() -> None:
    agents = ParallelAgents(Comers, 12, groups=EACH)
    step(agents, trainers_of(agents))
    lengths = {name: sampler.get_metrics()["episode_length"] for name, sampler in agents.samplers.items()}
    assert lengths == {name: lasts for name, (_, lasts, _) in LIVES.items()}


def test_advantages_end_where_an_agent_does() -> None:
    agents = ParallelAgents(Comers, 5)
    [sampler] = agents.samplers.values()
    [trainer] = trainers_of(agents).values()
    experience = trainer.collector.collect(sampler.states)
    [trajectory] = experience.actions
    advantages = GeneralizedAdvantage(discount=1.0, gae_lambda=1.0)(experience)
    assert experience.values is not None
    first = trajectory.episode_lengths[0]
    returns = trajectory.rewards[:first].flip(0).cumsum(0).flip(0)  # of ann, who terminates after two steps
    assert first == 2
    assert torch.allclose(advantages[:first], returns - experience.values.values[:first])


@pytest.mark.parametrize("where", ["infos", "observations"])
def test_masks_are_honoured_wherever_they_are_told(where: str) -> None:
    agents = ParallelAgents(lambda: Comers(where), 20)
    [trainer] = trainers_of(agents).values()
    [sampler] = agents.samplers.values()
    assert sampler.single_observation_space.shape == (4,)
    trainer.step(sampler.states)
    policy: Any = trainer.policy
    trajectory: Any = sampler.sample(policy, sampler.states, 1)[0][0]
    assert trajectory.masks is not None
    is_bob = trajectory.observations[:, 1] == 1
    assert trajectory.masks[is_bob].tolist() == [[True, False]] * int(is_bob.sum())
    assert trajectory.masks[~is_bob].all()


def test_hunters_and_a_hare_learn_against_each_other() -> None:
    """Each gains at least two of ten points against the others as they were at first."""
    agents = ParallelAgents(Pursuit, 20, num_envs=8, groups=TEAMS)
    trainers = trainers_of(agents, learning_rate=0.02)
    first = step(agents, trainers)
    policies = {name: copy.deepcopy(trainer.policy) for name, trainer in trainers.items()}
    for _ in range(25):
        metrics = step(agents, trainers)
    assert set(metrics["hare"]) == set(first["hare"])
    assert metrics["hunters"]["num_decisions"] == 2 * metrics["hare"]["num_decisions"] == 320
    for name, trainer in trainers.items():
        returns = []
        for policy in (policies[name], trainer.policy):
            trial = ParallelAgents(Pursuit, 200, num_envs=2, groups=TEAMS)
            trial.play({**policies, name: policy})
            returns.append(trial.samplers[name].get_metrics()["episode_return"])
        assert returns[1] > returns[0] + 2


def test_a_run_that_was_interrupted_goes_on_as_one_that_was_not() -> None:
    agents = ParallelAgents(Pursuit, 7, num_envs=2, groups=TEAMS, seed=3)
    trainers = trainers_of(agents)
    again = ParallelAgents(Pursuit, 7, num_envs=2, groups=TEAMS, seed=3)
    others = trainers_of(again)
    assert isinstance(agents.samplers["hare"], CutsEpisodes)
    step(agents, trainers)
    for sampler in agents.samplers.values():
        sampler.cut(1)
    for name, trainer in trainers.items():
        others[name].load_state_dict(trainer.state_dict())
    assert are_same(step(agents, trainers), step(again, others))
    state = [{name: trainer.state_dict() for name, trainer in own.items()} for own in (trainers, others)]
    assert are_same(state[0], state[1])


def test_each_group_takes_its_part_once_and_from_its_policy() -> None:
    agents = ParallelAgents(Comers, 3, groups=EACH)
    policies = {name: GymActorCritic(sampler) for name, sampler in agents.samplers.items()}
    sampler = agents.samplers["ann"]
    with pytest.raises(RuntimeError, match=r"'ann' have played nothing since the last step: call play\(policies\)"):
        sampler.sample(policies["ann"], [0], 1)
    with pytest.raises(ValueError, match=r"policies are of \['ann'\], expected one for each of"):
        agents.play({"ann": policies["ann"]})
    agents.play(policies)
    with pytest.raises(ValueError, match="played by another GymActorCritic than the one that is to learn"):
        sampler.sample(policies["bob"], [0], 1)
    with pytest.raises(ValueError, match=r"pass sampler\.states and group_size=1"):
        sampler.sample(policies["ann"], [0], 2)
    sampler.sample(policies["ann"], [0], 1)
    with pytest.raises(RuntimeError, match="have played nothing"):
        sampler.sample(policies["ann"], [0], 1)


class Unequal(Comers):
    def observation_space(self, agent: str) -> Any:
        return Box(-1, 1, (4 + (agent == "bob"),))


class Growing(Comers):
    def action_space(self, agent: str) -> Any:
        return Discrete(2 + (self.episode > 0))


class Empty(Comers):
    def alive(self) -> list[str]:
        return []


def vanish(environment: Comers, observations: Any, rewards: Any, *others: Any) -> None:
    environment.agents.remove("bob")
    for told in (observations, rewards, *others):
        told.pop("bob")


def leave_silently(environment: Comers, *result: Any) -> None:
    environment.agents.remove("bob")


def stay(environment: Comers, observations: Any, rewards: Any, terminations: Any, *others: Any) -> None:
    terminations["bob"] = True


def join(environment: Comers, *result: Any) -> None:
    environment.agents.append("dan")


def hide(environment: Comers, observations: Any, *others: Any) -> None:
    observations.pop("bob")


def blind(environment: Comers, observations: Any, *others: Any) -> None:
    observations["bob"] = np.full(4, np.nan, dtype=np.float32)


def overpay(environment: Comers, observations: Any, rewards: Any, *others: Any) -> None:
    rewards["bob"] = np.inf


def pay_in_words(environment: Comers, observations: Any, rewards: Any, *others: Any) -> None:
    rewards["bob"] = "2.5"


def fail(environment: Comers, *result: Any) -> None:
    raise RuntimeError("the net is torn")


MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "vanishes": (
        vanish,
        ValueError,
        "bob of environment 0 acted at step 2 .* gone without a reward or a termination",
    ),
    "leaves silently": (
        leave_silently,
        ValueError,
        "bob .*=False and truncated=False after step 2.*no longer in",
    ),
    "stays": (stay, ValueError, "bob .* terminated=True .* after step 2 of the rollout, but is still in agents"),
    "joins": (join, ValueError, "let agent dan join at step 3 of the rollout, expected one of possible_agents"),
    "hides": (hide, ValueError, "gave agent bob no observation at step 3"),
    "not finite": (blind, NonFiniteError, r"agent bob of environment 0 was given the observation \[nan.* at step 3"),
    "reward": (overpay, NonFiniteError, "agent bob of environment 0 was given the reward inf at step 2"),
    "reward in words": (
        pay_in_words,
        ValueError,
        "agent bob of environment 0 was given the reward '2.5' at step 2 of the rollout, expected a number",
    ),
    "fails": (
        fail,
        EnvironmentFailedError,
        "environment 0 raised RuntimeError at step 2 .*: the net is torn",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_the_agent_and_the_step(mistake: str) -> None:
    change, error, message = MISTAKES[mistake]
    agents = ParallelAgents(lambda: Comers(wrong={2: change}), 6, num_envs=2)
    [sampler] = agents.samplers.values()
    policy = GymActorCritic(sampler)
    with pytest.raises(error, match=message):
        sampler.sample(policy, sampler.states, 1)
    for environment in agents.environments:
        environment.wrong = {}
    assert len(sampler.sample(policy, sampler.states, 1)[0][0]) > 0


def test_spaces_and_groups_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="agents ann and bob are to share a policy, but their observation_spaces are"):
        ParallelAgents(Unequal, 3)
    assert ParallelAgents(Unequal, 3, groups=EACH).samplers["bob"].single_observation_space.shape == (5,)
    for groups in (
        {"some": ["ann", "bob"]},
        {"twice": ["ann", "bob", "cat", "ann"]},
        {"all": list(AGENTS), "none": []},
    ):
        with pytest.raises(ValueError, match=r"expected each of the agents .* in one of them"):
            ParallelAgents(Comers, 3, groups=groups)
    others: list[Any] = [lambda: gymnasium.make("CartPole-v1"), Comers()]
    for other in others:
        with pytest.raises(TypeError, match=r"expected a function that makes a pettingzoo\.ParallelEnv"):
            ParallelAgents(other, 3)
    with pytest.raises(ValueError, match="num_steps is 0"):
        ParallelAgents(Comers, 0)
    agents = ParallelAgents(Growing, 6)
    [sampler] = agents.samplers.values()
    policy = GymActorCritic(sampler)
    with pytest.raises(ValueError, match=r"agent ann of environment 0 has .*Discrete\(3\)\), expected .*Discrete\(2\)"):
        sampler.sample(policy, sampler.states, 1)
    empty = ParallelAgents(Empty, 6).samplers["agents"]
    with pytest.raises(ValueError, match="environment 0 has no agents after reset"):
        empty.sample(GymActorCritic(empty), empty.states, 1)
