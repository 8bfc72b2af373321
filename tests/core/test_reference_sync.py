"""A reference policy that follows: when, how far, and which references cannot."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models import FunctionRewards, SequencePolicy, TablePolicy, WalkerPolicy

from grpo import GRPOConfig, GRPOTrainer, ReferenceSync
from grpo.training._reference_sync import mix_parameters


def grade(state: int, action: int) -> float:
    return float(action == state)


def build_trainer(policy: Any, reference: Any, sync: ReferenceSync, **settings: Any) -> GRPOTrainer[Any, Any]:
    config = GRPOConfig(reference_sync=sync, learning_rate=0.1, kl_coefficient=None, **settings)
    return GRPOTrainer(config, policy, FunctionRewards(grade), reference)


@pytest.mark.parametrize(("mixing", "every"), [(0.25, 1), (0.25, 3), (1.0, 2)])
def test_by_the_formula(mixing: float, every: int) -> None:
    torch.manual_seed(0)
    policy, reference = TablePolicy(), TablePolicy()
    with torch.no_grad():
        reference.logits.mul_(0.5)
    trainer = build_trainer(policy, reference, ReferenceSync(mixing=mixing, every=every))
    expected = reference.logits.detach().clone()
    for step in range(1, 7):
        trainer.step([0, 1, 2])
        if step % every == 0:
            expected = mixing * policy.logits.detach() + (1 - mixing) * expected
        torch.testing.assert_close(reference.logits.detach(), expected)
    assert (reference.logits.detach() == policy.logits.detach()).all() == (mixing == 1)


def test_the_defaults_are_those_of_the_peers() -> None:
    assert ReferenceSync() == ReferenceSync(mixing=0.6, every=512)
    assert GRPOConfig().reference_sync is None
    config = GRPOConfig(reference_sync=ReferenceSync(every=2))
    assert GRPOConfig.model_validate_json(config.model_dump_json()) == config


def test_every_parameter_follows_frozen_ones_and_other_precisions_too() -> None:
    policy, reference = WalkerPolicy(), WalkerPolicy(spread=0.5)
    reference.logits = reference.logits.detach().bfloat16()
    policy.values.requires_grad_(False)
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(
        GRPOConfig(reference_sync=ReferenceSync(mixing=1.0, every=1)),
        policy,
        FunctionRewards(lambda state, walk: float(len(walk))),
        reference,
    )
    trainer.step([0, 1])
    assert torch.equal(reference.values, policy.values)
    assert torch.equal(reference.logits, policy.logits.detach().bfloat16())


def test_integers_are_copied_and_what_is_there_twice_moves_once() -> None:
    weight, count = torch.tensor([0.0, 4.0]), torch.tensor(0)
    reference = {"weight": weight, "tied": weight, "count": count}
    new = torch.tensor([1.0, 2.0])
    mix_parameters(reference, {"weight": new, "tied": new, "count": torch.tensor(7)}, 0.5)
    assert torch.equal(weight, torch.tensor([0.5, 3.0]))
    assert count.item() == 7


def test_a_reference_made_for_inference_cannot_follow() -> None:
    with torch.inference_mode():
        reference = TablePolicy()
        reference.logits = torch.zeros_like(reference.logits)
    with pytest.raises(ValueError, match="reference_sync changes the reference policy, but its parameters"):
        GRPOTrainer(
            GRPOConfig(reference_sync=ReferenceSync()), TablePolicy(), FunctionRewards(lambda *_: 0.0), reference
        )


def test_a_failed_step_moves_no_reference_and_does_not_count() -> None:
    policy, reference = TablePolicy(), TablePolicy()
    trainer = build_trainer(policy, reference, ReferenceSync(every=2), num_epochs_per_update=2)
    trainer.step([0, 1])
    before, log_probs = reference.logits.detach().clone(), policy.get_log_probabilities
    policy.get_log_probabilities = lambda states, actions: torch.full((len(actions),), torch.nan)  # type: ignore
    with pytest.raises(ValueError, match="nan"):
        trainer.step([0, 1])
    assert torch.equal(reference.logits, before)
    policy.get_log_probabilities = log_probs  # type: ignore[method-assign]
    trainer.step([0, 1])
    assert not torch.equal(reference.logits, before)


def test_there_must_be_a_reference_policy() -> None:
    with pytest.raises(ValueError, match="reference_sync needs a reference policy, but there is none"):
        build_trainer(TablePolicy(), None, ReferenceSync())


class SwitchedOff(TablePolicy):
    """A reference that computes with the policy's weights and has none of its own."""

    def get_parameters(self) -> dict[str, torch.Tensor]:
        return {}


class Renamed(TablePolicy):
    def get_parameters(self) -> dict[str, torch.Tensor]:
        return {"other": self.logits}


@pytest.mark.parametrize(
    ("reference", "names"),
    [
        (SwitchedOff(), "logits"),
        (Renamed(), "logits, other"),
        (TablePolicy(num_states=4), "logits"),
        (SequencePolicy(), "logits, transitions"),
    ],
)
def test_a_reference_must_have_the_same_parameters_of_its_own(reference: Any, names: str) -> None:
    with pytest.raises(ValueError, match=f"of the policy's names and shapes, but they differ in {names}: pass copy"):
        build_trainer(TablePolicy(), reference, ReferenceSync())
    build_trainer(TablePolicy(), copy.deepcopy(TablePolicy()), ReferenceSync())


@pytest.mark.parametrize("bad", [{"mixing": 0.0}, {"mixing": 1.1}, {"mixing": None}, {"every": 0}, {"alpha": 1}])
def test_wrong_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ReferenceSync(**bad)


class Counting(torch.nn.Module):
    """A table with a running mean and a count of its steps beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = TablePolicy()
        self.mean: torch.Tensor
        self.count: torch.Tensor
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))
        self.mask: torch.Tensor
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.generate_actions = self.table.generate_actions
        self.get_log_probabilities = self.table.get_log_probabilities
        self.get_parameters = self.table.get_parameters


def test_buffers_follow_as_parameters_do() -> None:
    policy, reference = Counting(), Counting()
    trainer = build_trainer(policy, reference, ReferenceSync(mixing=0.5, every=2))
    for _ in range(2):
        policy.mean.add_(1.0)
        policy.count.add_(1)
        assert reference.mean.tolist() == [0.0, 0.0]
        trainer.step([0, 1, 2])
    assert reference.mean.tolist() == [1.0, 1.0]
    assert reference.count.item() == 2
    assert reference.mask.tolist() == [0.0, -torch.inf]
