"""Policies that remember in simulators over tensors: as in environments one by one, and on their device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gym_simulators import Counters
from pretend_device import PRETENDED, pretended_device, trained
from recurrence import MEMORIES, NUM_ENVS, fragments, one_step, played, recurrent, simulated, step_by_step, value_of
from state_laws import TrainerSteps, check_goes_on
from torch import Tensor, nn

from batched_simulator import CartPoles
from grpo import NonFiniteError, PPOConfig, PPOTrainer
from grpo_adapters.gym import (
    GRU,
    EnvironmentReward,
    GymActorCritic,
    Rollout,
    SimulatorSampler,
    StackedUnits,
    TrajectoryBatch,
)

WINDOWS: list[dict[str, Any]] = [{}, {"window": 1}, {"window": 3}, {"window": 4, "burn_in": 2}]
PRECISE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def rollouts(policy: GymActorCritic, sampler: SimulatorSampler, count: int) -> list[Rollout]:
    return [sampler.sample(policy, sampler.states, 1).actions for _ in range(count)]  # type: ignore[misc]


def check_same(came: Any, expected: Any) -> None:
    """Batches with the same rows and the same memory before each."""
    for name in ("observations", "decisions", "next_observations", "terminated"):
        assert torch.equal(getattr(came, name), getattr(expected, name)), name
    assert came.rows.same_cut(expected.rows)
    assert came.samples.same_cut(expected.samples)
    for name in ("begins", "burn_in", "burn_in_begins", "starts", "states"):
        own, other = getattr(came.windows, name), getattr(expected.windows, name)
        assert isinstance(own, Tensor | tuple)
        pairs = zip(own, other, strict=True) if isinstance(own, tuple) else [(own, other)]
        assert all(torch.equal(one, two) for one, two in pairs), name


@pytest.mark.parametrize("options", WINDOWS, ids=str)
@pytest.mark.parametrize("num_steps", [1, 4, 7])
def test_rollouts_are_those_of_environments_one_by_one(num_steps: int, options: dict[str, Any]) -> None:
    sampler, simulator = fragments(num_steps), simulated(num_steps)
    policies = [recurrent(own, **options) for own in (sampler, simulator)]
    several = zip(played(policies[0], sampler, 4), rollouts(policies[1], simulator, 4), strict=True)
    for fragments_of_step, rollout in several:
        expected = policies[0].encode_actions(sampler.states, fragments_of_step)
        came = policies[1].encode_actions(sampler.states, rollout)
        check_same(came, expected)
        check_same(policies[1].encode_actions(sampler.states, list(rollout)), expected)
        assert torch.equal(
            policies[1].evaluate_actions(came).log_probs, policies[0].evaluate_actions(expected).log_probs
        )


@pytest.mark.parametrize("options", WINDOWS, ids=str)
@pytest.mark.parametrize("memory", MEMORIES)
def test_evaluation_equals_a_loop_over_the_steps_of_several_rollouts(memory: str, options: dict[str, Any]) -> None:
    sampler = simulated(7)
    policy = recurrent(sampler, memory, **options)
    states: list[Any] = [None] * NUM_ENVS
    for rollout in rollouts(policy, sampler, 3):
        batch: Any = policy.encode_actions(sampler.states, rollout)
        log_probs = policy.evaluate_actions(batch).log_probs.split(7)
        estimates = policy.estimate_values(batch)
        values, next_values = estimates.values.split(7), estimates.next_values.split(7)
        for slot, fragment in enumerate(rollout):
            found = step_by_step(policy, fragment.observations, fragment.decisions, states[slot])
            torch.testing.assert_close(log_probs[slot], found[0], **PRECISE)
            torch.testing.assert_close(values[slot], found[1], **PRECISE)
            end = fragment.episode_lengths[0] - 1
            units, _ = one_step(policy, fragment.next_observations[0].double(), found[2][end + 1])
            after = 0 if fragment.terminated[0] else value_of(policy, units)
            torch.testing.assert_close(next_values[slot][end], torch.as_tensor(after).double(), **PRECISE)
            states[slot] = found[2][-1]


def trainer_of(sampler: Any, **config: Any) -> PPOTrainer[Any, Any]:
    policy = recurrent(sampler, "own", window=3, burn_in=1, normalize_observations=True)
    settings = {"batch_size": 4, "num_epochs_per_update": 2, "learning_rate": 0.01, "seed": 0}
    return PPOTrainer(PPOConfig(**(settings | config)), policy, EnvironmentReward())


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_training_is_that_of_environments_one_by_one(micro_batch_size: int | None) -> None:
    """The same noise, so the same decisions, metrics and parameters."""
    seen = []
    for sampler in (fragments(7), simulated(7)):
        trainer = trainer_of(sampler, micro_batch_size=micro_batch_size)
        metrics = [trainer.step(sampler.states) for _ in range(4)]
        assert metrics[0]["num_decisions"] == 7 * NUM_ENVS
        seen.append((metrics, trainer.policy.get_parameters()))
    for own, other in zip(*(metrics for metrics, _ in seen), strict=True):
        assert own == pytest.approx(other, rel=1e-9, abs=1e-12)
    for name, parameter in seen[0][1].items():
        torch.testing.assert_close(seen[1][1][name], parameter, **PRECISE)


@pytest.mark.parametrize("make", [fragments, simulated])
def test_what_episodes_begin_with_is_of_the_present_weights(make: Callable[[int], Any]) -> None:
    """Also where they begin with a rollout, after an update of a learnt beginning."""
    sampler = make(3)
    policy = recurrent(sampler, "own")
    sampler.sample(policy, sampler.states, 1)
    memory: Any = policy.memory
    with torch.no_grad():
        memory.beginning += 1
    fragments = [group[0] for group in sampler.sample(policy, sampler.states, 1)]
    begun = [fragment for fragment in fragments if fragment.observations[0, 2] == 0]
    assert 0 < len(begun) < NUM_ENVS
    for fragment in begun:
        assert torch.equal(fragment.memory.states["sum"][0], memory.beginning)


def test_state_goes_on_bitwise() -> None:
    def make() -> TrainerSteps:
        sampler = SimulatorSampler(CartPoles(5), 7, seed=3)
        return TrainerSteps(trainer_of(sampler), sampler.states)

    check_goes_on(make)


def test_episodes_that_begin_anew_remember_nothing() -> None:
    """After a failure, a restart, or a cut; and another memory plays only then."""
    simulator = Counters()
    sampler = SimulatorSampler(simulator, 3)
    policy = GymActorCritic(sampler, memory=GRU(2, 4))
    other = GymActorCritic(sampler, memory=GRU(2, 5))

    def begins_anew() -> bool:
        [rollout] = rollouts(policy, sampler, 1)
        assert rollout.memory is not None
        return not rollout.memory.states.any() and bool(rollout.memory.begins.all())

    assert begins_anew()
    assert not begins_anew()
    sampler.restart()
    assert begins_anew()
    sampler.cut(1)
    assert begins_anew()
    with pytest.raises(ValueError, match=r"go on with what a policy remembers as .*call sampler\.restart\(\)"):
        rollouts(other, sampler, 1)
    sampler.restart()
    rollouts(other, sampler, 1)
    sampler.restart()
    simulator.wrong = {simulator.num_steps + 1: (1, torch.full((4,), torch.nan))}
    with pytest.raises(NonFiniteError):
        rollouts(policy, sampler, 1)
    assert begins_anew()


def test_rollouts_of_a_policy_that_remembers_nothing() -> None:
    sampler = simulated(3)
    [rollout] = rollouts(GymActorCritic(sampler), sampler, 1)
    with pytest.raises(TypeError, match="a trajectory holds no memory, but the policy that evaluates it has one"):
        recurrent(sampler).encode_actions(sampler.states, rollout)
    with_memory = rollouts(recurrent(sampler), sampler, 1)
    plain = TrajectoryBatch.of(with_memory[0], torch.device("cpu"), torch.float32)
    assert plain.windows is None


@pytest.mark.parametrize("memory", ["stack", "own"])
def test_a_rollout_stays_on_its_device(memory: str) -> None:
    """However many steps it has, and where episodes end in it."""
    waited = []
    for num_steps in (4, 16):
        with pretended_device() as waits:
            sampler = SimulatorSampler(Counters(device=PRETENDED), num_steps)
            kept: Any = StackedUnits(3) if memory == "stack" else MEMORIES["own"]()
            policy = GymActorCritic(sampler, trunk=nn.Linear(2, 4), memory=kept, window=2, burn_in=1)
            config = PPOConfig(device=str(PRETENDED), batch_size=8)
            trained(PPOTrainer(config, policy, EnvironmentReward()), policy, sampler.states)
            waits.clear()
            sampler.sample(policy, sampler.states, 1)
            waited.append(sum(waits.values()))
    assert waited[0] == waited[1] <= 13, waits
