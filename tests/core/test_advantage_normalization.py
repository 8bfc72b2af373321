"""``advantage_normalization``: over a step or an optimiser step, by hand and under any split."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FunctionRewards, SequencePolicy, StepRewards, TablePolicy, WalkerPolicy
from torch import Tensor

from grpo import (
    Decisions,
    Evaluation,
    Experience,
    GRPOConfig,
    GRPOObjective,
    PPOConfig,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    SampleClippedSurrogate,
    Terms,
)

Normalization = Literal["per_step", "per_minibatch"]
MODES: list[Any] = ["per_step", "per_minibatch", None]


def normalized(advantages: Tensor) -> Tensor:
    return (advantages - advantages.mean()) / advantages.std()


def note_decisions(trainer: Any) -> list[Decisions]:
    """What the objective is told from now on."""
    objective, seen = trainer.objective, []

    def noting(evaluation: Evaluation, decisions: Decisions) -> Terms:
        seen.append(decisions)
        return objective(evaluation, decisions)  # type: ignore[no-any-return]

    noting.needs = objective.needs  # type: ignore[attr-defined]
    trainer.objective = noting
    return seen


def collect(trainer: Any, seed: int = 0) -> tuple[Experience, Tensor]:
    """An experience, and the advantages of it before any normalisation."""
    torch.manual_seed(seed)
    experience: Experience = trainer.collector.collect([0, 1, 2])
    return experience, trainer.advantage_estimator(experience)


def test_per_step_by_hand() -> None:
    """All decisions of the step, however it is cut into optimiser steps."""
    config = PPOConfig(advantage_normalization="per_step", batch_size=5, micro_batch_size=2, num_epochs_per_update=1)
    trainer = PPOTrainer(config, WalkerPolicy(), StepRewards())
    experience, advantages = collect(trainer)
    seen = note_decisions(trainer)
    trainer.update(experience)
    ours = torch.cat([decisions.advantages for decisions in seen])
    torch.testing.assert_close(ours.sort().values, normalized(advantages).sort().values)
    assert len(seen) > 5
    # the critic learns from what was not normalised
    assert experience.values is not None
    returns = torch.cat([decisions.returns for decisions in seen if decisions.returns is not None])
    torch.testing.assert_close(returns.sort().values, (advantages + experience.values.values).sort().values)


@pytest.mark.parametrize("micro_batch_size", [None, 1, 2, 4])
def test_per_minibatch_by_hand(micro_batch_size: int | None) -> None:
    """All decisions of the optimiser step, however it is cut into micro-batches."""
    config = PPOConfig(
        advantage_normalization="per_minibatch",
        batch_size=5,
        micro_batch_size=micro_batch_size,
        num_epochs_per_update=1,
    )
    trainer = PPOTrainer(config, WalkerPolicy(), StepRewards())
    experience, advantages = collect(trainer)
    seen = note_decisions(trainer)
    trainer.update(experience)
    assert experience.values is not None
    parts = [
        torch.cat([part.advantages for part in seen]).split(5),
        *(torch.cat([getattr(part, name) for part in seen]).split(5) for name in ("returns", "old_values")),
    ]
    for ours, returns, old_values in zip(*parts, strict=True):
        expected = normalized(returns - old_values) if len(ours) > 1 else torch.zeros(1, dtype=torch.float64)
        torch.testing.assert_close(ours, expected)
    # the critic learns from what was not normalised
    returns = torch.cat([part.returns for part in seen if part.returns is not None])
    torch.testing.assert_close(returns.sort().values, (advantages + experience.values.values).sort().values)


def test_none_leaves_advantages_alone() -> None:
    trainer = PPOTrainer(PPOConfig(advantage_normalization=None, batch_size=None), WalkerPolicy(), StepRewards())
    experience, advantages = collect(trainer)
    seen = note_decisions(trainer)
    trainer.update(experience)
    assert all(torch.equal(decisions.advantages, advantages) for decisions in seen)


def test_what_trainers_do_by_themselves() -> None:
    defaults = [make().advantage_normalization for make in (GRPOConfig, PPOConfig, ReinforceConfig)]
    assert defaults == [None, "per_minibatch", "per_step"]


def change(
    mode: Normalization | None, batch_size: int | None, micro_batch_size: int | None, seed: int, gspo: bool
) -> tuple[Tensor, dict[str, float]]:
    policy = SequencePolicy()
    before = policy.transitions.detach().clone()
    trainer = ReinforceTrainer(
        ReinforceConfig(
            advantage_normalization=mode,
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            num_epochs_per_update=2,
            group_size=3,
            max_grad_norm=None,
        ),
        policy,
        FunctionRewards(lambda state, action: sum(action) / 3 - len(action)),
        optimizer=torch.optim.SGD([policy.transitions], lr=0.2),
        objective=GRPOObjective(surrogate=SampleClippedSurrogate(clip_low=0.2, clip_high=0.2)) if gspo else None,
    )
    experience, _ = collect(trainer, seed)
    metrics = trainer.update(experience)
    return policy.transitions.detach() - before, metrics


@given(
    mode=st.sampled_from(MODES),
    batch_size=st.none() | st.integers(2, 9),
    micro_batch_size=st.integers(1, 9),
    seed=st.integers(0, 100),
    gspo=st.booleans(),
)
def test_partition_into_micro_batches_changes_nothing(
    mode: Normalization | None, batch_size: int | None, micro_batch_size: int, seed: int, gspo: bool
) -> None:
    whole, whole_metrics = change(mode, batch_size, None, seed, gspo)
    split, metrics = change(mode, batch_size, micro_batch_size, seed, gspo)
    assert (split - whole).abs().max() <= 1e-6 * whole.abs().max() + 1e-12
    assert metrics == pytest.approx(whole_metrics, rel=1e-6, abs=1e-9)


def test_modes_differ() -> None:
    changes = [change(mode, 4, None, 0, False)[0] for mode in MODES]
    assert all((changes[i] - changes[j]).abs().max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("alike", ["rows of one", "equal advantages"])
def test_without_anything_to_compare_nothing_moves(alike: str) -> None:
    """A minibatch of one row, or of equal advantages, gets exactly 0."""
    policy = TablePolicy()
    before = policy.logits.detach().clone()
    config = ReinforceConfig(
        advantage_normalization="per_minibatch", batch_size=1 if alike == "rows of one" else 3, group_size=4
    )
    rewards = FunctionRewards(lambda state, action: float(action) if alike == "rows of one" else 0.1)
    trainer = ReinforceTrainer(config, policy, rewards, optimizer=torch.optim.SGD([policy.logits], lr=1.0))
    torch.manual_seed(0)
    seen = note_decisions(trainer)
    metrics = trainer.step([0, 1, 2])
    assert torch.equal(policy.logits, before)
    assert all(not decisions.advantages.any() for decisions in seen)
    assert metrics["grad_norm"] == 0
    assert metrics["num_updates"] == len(seen) == (12 if alike == "rows of one" else 4)


def test_equal_advantages_of_a_whole_step_are_exactly_zero() -> None:
    policy = TablePolicy()
    before = policy.logits.detach().clone()
    rewards = FunctionRewards(lambda state, action: 0.1)
    trainer = ReinforceTrainer(
        ReinforceConfig(group_size=7), policy, rewards, optimizer=torch.optim.SGD([policy.logits], lr=1.0)
    )
    trainer.step([0, 1, 2])
    assert torch.equal(policy.logits, before)


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="advantage_normalization"):
        PPOConfig(advantage_normalization="per_epoch")
