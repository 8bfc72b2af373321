"""Policies that remember: what is learnt from is what was sampled, step by step, and no episode knows of another."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from gym_environments import MatchingEnv, ParityActor, ScriptedEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from recurrence import (
    MEMORIES,
    NUM_ENVS,
    begins,
    fragments,
    one_step,
    played,
    recurrent,
    step_by_step,
    value_of,
)
from torch import nn

from grpo import PPOConfig, PPOTrainer, check_policy_model
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, FragmentSampler, GymPolicy, Player, evaluate

WINDOWS: list[dict[str, Any]] = [{}, {"window": 1}, {"window": 3}, {"window": 4, "burn_in": 2}]
PRECISE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("options", WINDOWS, ids=str)
@pytest.mark.parametrize("memory", MEMORIES)
def test_evaluation_equals_a_loop_over_the_steps_of_several_rollouts(memory: str, options: dict[str, Any]) -> None:
    sampler = fragments(7)
    policy = recurrent(sampler, memory, **options)
    states: list[Any] = [None] * NUM_ENVS
    for rollout in played(policy, sampler, 3):
        batch = policy.encode_actions(sampler.states, rollout)
        evaluation, estimates = policy.evaluate_actions(batch), policy.estimate_values(batch)
        assert evaluation.values is not None
        log_probs = evaluation.log_probs.split(7)
        values, next_values = estimates.values.split(7), estimates.next_values.split(7)
        torch.testing.assert_close(evaluation.values, estimates.values, **PRECISE)
        for slot, fragment in enumerate(rollout):
            found = step_by_step(policy, fragment.observations, fragment.decisions, states[slot])
            torch.testing.assert_close(log_probs[slot], found[0], **PRECISE)
            torch.testing.assert_close(values[slot], found[1], **PRECISE)
            expected = found[1].roll(-1)
            ends = torch.tensor(fragment.episode_lengths).cumsum(0) - 1
            for end, after, is_terminated in zip(ends, fragment.next_observations, fragment.terminated, strict=True):
                units, _ = one_step(policy, after.double(), found[2][end + 1])
                expected[end] = 0 if is_terminated else value_of(policy, units)
            torch.testing.assert_close(next_values[slot], expected, **PRECISE)
            states[slot] = found[2][-1]


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("options", WINDOWS, ids=str)
def test_in_every_mode_environments_reset_in(mode: AutoresetMode, options: dict[str, Any]) -> None:
    """A step that only resets is none, and nothing is remembered of it."""
    sampler = fragments(7, mode)
    policy = recurrent(sampler, **options)
    states: list[Any] = [None] * NUM_ENVS
    for rollout in played(policy, sampler, 4):
        batch = policy.encode_actions(sampler.states, rollout)
        log_probs = policy.evaluate_actions(batch).log_probs.split([len(fragment) for fragment in rollout])
        assert batch.rows.longest <= options.get("window", 7)
        for slot, fragment in enumerate(rollout):
            expected, _, found = step_by_step(policy, fragment.observations, fragment.decisions, states[slot])
            torch.testing.assert_close(log_probs[slot], expected, **PRECISE)
            states[slot] = found[-1]


@pytest.mark.parametrize("memory", MEMORIES)
def test_what_is_evaluated_is_what_was_drawn_from(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = fragments(9)
    policy = recurrent(sampler, memory, precise=False, window=4, burn_in=1)
    drawn_from = []
    draw = policy.distribution.sample

    def sample(outputs: torch.Tensor, noise: torch.Tensor, masks: Any) -> torch.Tensor:
        decisions = draw(outputs, noise, masks)
        drawn_from.append(outputs.log_softmax(-1).gather(-1, decisions[:, None])[:, 0])
        return decisions

    monkeypatch.setattr(policy.distribution, "sample", sample)
    for number, rollout in enumerate(played(policy, sampler, 3)):
        log_probs = policy.evaluate_actions(policy.encode_actions(sampler.states, rollout)).log_probs
        own = drawn_from[9 * number : 9 * number + 9]
        torch.testing.assert_close(log_probs, torch.stack(own, 1).view(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory", MEMORIES)
def test_episodes_begin_anew_in_groups(memory: str) -> None:
    sampler = EpisodeSampler(ScriptedEnv, num_envs=2)
    policy = recurrent(sampler, memory, window=2)
    episodes = [episode for group in sampler.sample(policy, range(6), 2) for episode in group]
    log_probs = policy.evaluate_actions(policy.encode_actions(range(12), episodes)).log_probs
    for episode, own in zip(episodes, log_probs.split([len(episode) for episode in episodes]), strict=True):
        observations: Any = episode.observations
        assert begins(observations[0])
        expected, _, _ = step_by_step(policy, episode.observations, episode.decisions, None)
        torch.testing.assert_close(own, expected, **PRECISE)


@pytest.mark.parametrize("memory", ["lstm", "transformer", "own"])
def test_a_decision_depends_on_the_steps_before_it_in_its_episode_alone(memory: str) -> None:
    sampler = fragments(12)
    policy = recurrent(sampler, memory)
    batch = policy.encode_actions(sampler.states, played(policy, sampler, 2)[-1])
    observations: Any = batch.observations
    observations.requires_grad_()
    log_probs = policy.evaluate_actions(batch).log_probs
    episodes = batch.episodes.ids
    for step, log_prob in enumerate(log_probs):
        [gradient] = torch.autograd.grad(log_prob, observations, retain_graph=True)
        reached = gradient.abs().sum(1) > 0
        allowed = (episodes == episodes[step]) & (torch.arange(len(log_probs)) <= step)
        if memory == "transformer":
            allowed &= torch.arange(len(log_probs)) > step - 3
        assert torch.equal(reached, allowed)


def trainer_of(sampler: Any, *, seed: int = 0, window: int | None = 3, **config: Any) -> PPOTrainer[Any, Any]:
    policy = recurrent(sampler, window=window, burn_in=1 if window else 0, normalize_observations=True, seed=seed)
    settings = {"batch_size": 4, "num_epochs_per_update": 2, "learning_rate": 0.01, "seed": 0}
    return PPOTrainer(PPOConfig(**(settings | config)), policy, EnvironmentReward())


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_the_size_of_micro_batches_changes_nothing(micro_batch_size: int, mode: AutoresetMode) -> None:
    parameters = []
    for size in (None, micro_batch_size):
        trainer = trainer_of(fragments(11, mode), micro_batch_size=size)
        for _ in range(2):
            trainer.step(range(NUM_ENVS))
        parameters.append(trainer.policy.get_parameters())
    for name, parameter in parameters[0].items():
        torch.testing.assert_close(parameter, parameters[1][name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("options", WINDOWS, ids=str)
def test_rows_in_any_order(options: dict[str, Any]) -> None:
    sampler = fragments(11)
    policy = recurrent(sampler, **options)
    batch = policy.encode_actions(sampler.states, played(policy, sampler, 2)[-1])
    whole = policy.evaluate_actions(batch).log_probs
    rows = torch.randperm(len(batch.rows), generator=torch.Generator().manual_seed(0))[: len(batch.rows) // 2 + 1]
    part = policy.evaluate_actions(batch.select(rows)).log_probs
    torch.testing.assert_close(part, whole[batch.rows.positions(rows)], **PRECISE)
    again = batch.select(rows).select(torch.tensor([0]))
    torch.testing.assert_close(
        policy.evaluate_actions(again).log_probs, whole[batch.rows.positions(rows[:1])], **PRECISE
    )


@pytest.mark.parametrize("num_before", [0, 1, 2])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_what_is_loaded_goes_on_bitwise(mode: AutoresetMode, num_before: int) -> None:
    def go_on(trainer: PPOTrainer[Any, Any]) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
        metrics = [trainer.step(range(NUM_ENVS)) for _ in range(3)]
        policy: Any = trainer.policy
        return metrics, [value.clone() for value in policy.state_dict().values()]

    trainer = trainer_of(fragments(7, mode))
    for _ in range(num_before):
        trainer.step(range(NUM_ENVS))
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    expected = go_on(trainer)
    for other in (trainer_of(fragments(7, mode), seed=1), trainer):
        other.load_state_dict(state)
        metrics, tensors = go_on(other)
        assert metrics == expected[0]
        assert all(torch.equal(one, two) for one, two in zip(tensors, expected[1], strict=True))


@pytest.mark.parametrize("memory", ["lstm", "own"])
def test_conformance_of_episodes(memory: str) -> None:
    policy = recurrent(EpisodeSampler(MatchingEnv, num_envs=50), memory, precise=False, window=2, burn_in=1)
    check_policy_model(policy, [0, 5], num_samples=400)


@pytest.mark.parametrize("memory", [None, "gru", "transformer"])
def test_conformance_of_running_environments(memory: str | None) -> None:
    sampler = FragmentSampler(SyncVectorEnv([MatchingEnv] * 4), 5)
    policy = GymPolicy(sampler) if memory is None else recurrent(sampler, memory, precise=False)
    check_policy_model(policy, sampler.states, num_actions_per_state=1, num_samples=400)


def vector(mode: AutoresetMode, num_envs: int) -> SyncVectorEnv:
    return SyncVectorEnv([ScriptedEnv] * num_envs, autoreset_mode=mode)


class Streams(SyncVectorEnv):
    """A vector that is not known to take seeds for some of its environments."""

    @property
    def unwrapped(self) -> Any:
        return None


@pytest.mark.parametrize("deterministic", [True, False])
def test_evaluation_remembers_and_forgets_as_one_environment_played_alone(deterministic: bool) -> None:
    policy = recurrent(ScriptedEnv())
    results = []
    vectors = [(vector(mode, 2), None) for mode in AutoresetMode]
    places: list[tuple[Any, int | None]] = [(ScriptedEnv(), None), (ScriptedEnv, 3), *vectors]
    for environment, num_envs in places:
        policy.generator.manual_seed(3)
        results.append(evaluate(policy, environment, 9, deterministic=deterministic, num_envs=num_envs))
    assert len(set(results[0].returns)) > 4
    for result in results[1:]:
        assert result.returns.tolist() == results[0].returns.tolist()


class Counts(nn.Module):
    """Counts the steps of an episode."""

    def forward(self, units: torch.Tensor, state: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        count = (torch.zeros_like(units[:, :1]) if state is None else state) + 1
        return count, count


@pytest.mark.parametrize("mode", AutoresetMode)
def test_evaluation_of_vectors_that_reset_by_themselves(mode: AutoresetMode) -> None:
    """Actions are the parity of the steps that were counted, so that one too many would change all rewards."""
    policy = GymPolicy(ScriptedEnv(), ParityActor(), memory=Counts())
    result = evaluate(policy, Streams([ScriptedEnv] * 2, autoreset_mode=mode), 8, seed=0)
    player, expected = Player(policy), []
    for slot in range(2):
        environment = ScriptedEnv()
        environment.reset(seed=slot)
        for episode in range(4):
            if episode > 0:
                environment.reset()
            expected.append(total_reward(player, environment, environment._observation(), {}))
    by_episode = torch.tensor(expected).view(2, 4).T.flatten()
    torch.testing.assert_close(torch.tensor(result.returns), by_episode.double())


def total_reward(player: Player, environment: Any, observation: Any, info: Any) -> float:
    player.begin()
    total, is_over = 0.0, False
    while not is_over:
        observation, reward, terminated, truncated, info = environment.step(player.act(observation, info))
        total, is_over = total + reward, terminated or truncated
    return total


def test_a_player_remembers_for_several_environments() -> None:
    policy = recurrent(ScriptedEnv())
    seeds: list[int | None] = [0, 1, 2]
    alone = []
    for seed in seeds:
        environment = ScriptedEnv()
        alone.append(total_reward(Player(policy), environment, *environment.reset(seed=seed)))
    envs = vector(AutoresetMode.DISABLED, 3)
    player = Player(policy)
    observations, _ = envs.reset(seed=seeds)
    totals, running = torch.zeros(3), torch.ones(3, dtype=torch.bool)
    for _ in range(5):
        observations, rewards, terminated, truncated, _ = envs.step(player(observations))
        totals += torch.from_numpy(rewards) * running
        done = terminated | truncated
        running &= ~torch.from_numpy(done)
        if done.any():
            observations, _ = envs.reset(options={"reset_mask": done})
            player.begin(done)
    assert totals.tolist() == alone
    with pytest.raises(ValueError, match=r"was given 2 environments, but remembers 3: call begin\(\)"):
        player(observations[:2])
    with pytest.raises(TypeError, match=r"predict forgets what came before, .*: ask a Player\(policy\)"):
        policy.predict(observations)
