"""The laws of a step, on the device, in both precisions."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
import torch
from device_models import (
    MovableRewards,
    SentenceBatch,
    SentencesOnDevice,
    SequentialTableOnDevice,
    TableOnDevice,
    share_of_ones,
)
from devices import TOLERANCES
from torch import Tensor

from grpo import (
    GroupedRewards,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    PolicyModel,
    PPOConfig,
    PPOTrainer,
    SampleClippedSurrogate,
    Segments,
    Trainer,
    ValueEstimates,
    generalized_advantages,
    group_centered_advantages,
    group_normalized_advantages,
    leave_one_out_advantages,
)

pytestmark = pytest.mark.usefixtures("deterministic")

STATES = [1, 2, 3, 4, 1]


def trainer_of(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    objective: Any = None,
    **settings: Any,
) -> GRPOTrainer[Any, Any]:
    policy = SentencesOnDevice(device, dtype)
    config = GRPOConfig(**({"group_size": 6, "learning_rate": 0.05} | settings))
    return GRPOTrainer(config, policy, MovableRewards(share_of_ones, device), objective=objective)


def values_of(model: PolicyModel[Any, Any]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.get_parameters().items()}


def gradients_of(trainer: Trainer[Any, Any]) -> list[Tensor]:
    return [value.grad.clone() for value in trainer.policy.get_parameters().values() if value.grad is not None]


@pytest.mark.parametrize("micro_batch_size", [1, 7])
@pytest.mark.parametrize("per_sample_ratio", [False, True])
def test_micro_batches_change_nothing(
    device: torch.device, dtype: torch.dtype, micro_batch_size: int, per_sample_ratio: bool
) -> None:
    found: list[list[Any]] = []
    objective = GRPOObjective(surrogate=SampleClippedSurrogate()) if per_sample_ratio else None
    settings: dict[str, Any] = {"max_grad_norm": None, "num_epochs_per_update": 1}
    for size in (None, micro_batch_size):
        trainer = trainer_of(device, dtype, objective=objective, micro_batch_size=size, **settings)
        metrics = trainer.step(STATES)
        found.append([metrics["loss"], *gradients_of(trainer)])
    assert max(gradient.abs().max() for gradient in found[0][1:]) > 1e-2
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, **TOLERANCES[dtype])


def test_the_order_of_rows_changes_nothing(device: torch.device, dtype: torch.dtype) -> None:
    trainer = trainer_of(device, dtype, max_grad_norm=None, learning_rate=0.0)
    groups: Any = trainer.policy.generate_actions(STATES, 6)
    found = []
    for order in (slice(None), slice(None, None, -1)):
        experience = trainer.collector.score(STATES[order], [group[order] for group in groups[order]])
        found.append((trainer.update(experience)["loss"], *gradients_of(trainer)))
    for forwards, backwards in zip(*found, strict=True):
        torch.testing.assert_close(backwards, forwards, **TOLERANCES[dtype])


def test_on_policy_the_ratio_is_one(device: torch.device, dtype: torch.dtype) -> None:
    """The collector notes old log-probs, so that it is computed; the gradient is REINFORCE's."""
    trainer = trainer_of(device, dtype, max_grad_norm=None)
    experience = trainer.collector.collect(STATES)
    assert experience.old_log_probs is not None
    metrics = trainer.update(experience)
    assert (metrics["approx_kl"], metrics["clip_fraction"]) == (0.0, 0.0)
    [gradient] = gradients_of(trainer)
    policy = SentencesOnDevice(device, dtype)
    samples, batch = experience.samples, cast("SentenceBatch", experience.batch)
    advantages = samples.expand(group_normalized_advantages(experience.sample_rewards))
    log_probs = policy.evaluate_actions(batch).log_probs.float()
    weight = samples.expand(1 / samples.lengths.float()) / len(samples)
    (-weight * advantages * log_probs).sum().backward()
    torch.testing.assert_close(gradient, policy.tables["transitions"].grad, **TOLERANCES[dtype])


def test_a_minimal_policy_takes_the_same_steps(device: torch.device, dtype: torch.dtype) -> None:
    found = []
    for kind in (TableOnDevice, SequentialTableOnDevice):
        policy = kind(device, dtype)
        rewards = MovableRewards(lambda state, action: float(state == action), device)
        trainer = GRPOTrainer(GRPOConfig(learning_rate=0.1, batch_size=8), policy, rewards)
        metrics = [trainer.step(torch.arange(3, device=device)) for _ in range(3)]
        found.append((metrics, values_of(policy)["logits"]))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


SETTINGS: dict[str, dict[str, Any]] = {
    "whole": {},
    "in parts": {"batch_size": 12, "micro_batch_size": 5, "num_epochs_per_update": 2},
    "truncations weigh nothing": {"mask_truncated": True, "loss_averaging": "per_decision", "batch_size": 9},
    "entropy": {"entropy_coefficient": 0.1, "advantage_normalization": "per_minibatch", "batch_size": 9},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_same_seed_gives_the_same_bits(device: torch.device, dtype: torch.dtype, settings: dict[str, Any]) -> None:
    found = []
    for _ in range(2):
        trainer = trainer_of(device, dtype, **settings)
        metrics = [trainer.step(STATES) for _ in range(3)]
        found.append((metrics, values_of(trainer.policy)))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        assert torch.equal(value, found[1][1][name])
    assert not torch.equal(found[0][1]["transitions"], SentencesOnDevice(device, dtype).tables["transitions"])


def test_a_state_goes_on_with_the_same_bits(device: torch.device, dtype: torch.dtype) -> None:
    """Also where it was stored, and read on a machine without the device."""
    settings = {"batch_size": 12, "num_epochs_per_update": 2, "entropy_coefficient": 0.01}
    first = trainer_of(device, dtype, **settings)
    first.step(STATES)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    expected = [first.step(STATES) for _ in range(2)]
    for place in ("cpu", device):
        file.seek(0)
        second = trainer_of(device, dtype, **settings)
        second.load_state_dict(torch.load(file, map_location=place))
        assert [second.step(STATES) for _ in range(2)] == expected
        for name, value in values_of(first.policy).items():
            assert torch.equal(value, second.policy.get_parameters()[name])


FUNCTIONS = [group_centered_advantages, group_normalized_advantages, leave_one_out_advantages]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("lengths", [[4, 4, 4], [2, 5, 3, 7]])
def test_advantages_of_a_group_sum_to_zero(device: torch.device, function: Any, lengths: list[int]) -> None:
    groups = Segments.of_lengths(lengths, device)
    rewards = torch.randn(groups.total, device=device)
    rewards[: lengths[0]] = 1 / 3
    advantages = function(GroupedRewards(rewards, groups))
    assert groups.sum(advantages).abs().max() < 1e-5
    assert advantages[: lengths[0]].count_nonzero() == 0
    assert advantages.device == rewards.device
    shifted = function(GroupedRewards(rewards + 8, groups))
    torch.testing.assert_close(shifted, advantages, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", [[6, 6], [1, 9, 3, 64]])
def test_gae_is_that_of_a_plain_loop(device: torch.device, lengths: list[int]) -> None:
    episodes = Segments.of_lengths(lengths, device)
    rewards, values, next_values = torch.randn(3, episodes.total, device=device)
    found = generalized_advantages(rewards, ValueEstimates(values, next_values), episodes, discount=0.9, gae_lambda=0.8)
    errors = (rewards + 0.9 * next_values - values).tolist()
    expected: list[float] = []
    for length in reversed(lengths):
        running = 0.0
        for _ in range(length):
            running = errors.pop() + 0.9 * 0.8 * running
            expected.insert(0, running)
    torch.testing.assert_close(found, torch.tensor(expected, device=device), rtol=1e-4, atol=1e-5)


def test_segments_sum_the_same_bits_every_time(device: torch.device) -> None:
    """In the backward pass too, where a GPU would add up in any order."""
    segments = Segments.of_lengths([1, 1000, 37, 5000, 2], device)
    values = torch.randn(segments.total, device=device, requires_grad=True)
    weights = torch.randn(segments.total, device=device)
    found = []
    for _ in range(3):
        (gradient,) = torch.autograd.grad((segments.expand(segments.mean(values).exp()) * weights).sum(), values)
        found.append((segments.sum(values).detach(), gradient))
    for again in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], again, strict=True))


def test_ppo_moves_the_critic(device: torch.device, dtype: torch.dtype) -> None:
    policy = SentencesOnDevice(device, dtype)
    before = values_of(policy)
    config = PPOConfig(group_size=4, batch_size=8, micro_batch_size=3, learning_rate=0.05, num_epochs_per_update=2)
    trainer = PPOTrainer(config, policy, MovableRewards(share_of_ones, device))
    metrics = [trainer.step(STATES) for _ in range(3)]
    assert metrics[-1]["value_loss"] < metrics[0]["value_loss"]
    assert all(not torch.equal(value, before[name]) for name, value in values_of(policy).items())


def test_the_norm_of_a_gradient_is_not_rounded(device: torch.device, dtype: torch.dtype) -> None:
    """In bfloat16 it would have 8 bits."""
    trainer = trainer_of(device, dtype, max_grad_norm=None)
    metrics = trainer.step(STATES)
    expected = torch.cat([gradient.double().flatten() for gradient in gradients_of(trainer)]).norm().item()
    assert metrics["grad_norm"] == pytest.approx(expected, rel=1e-5)
