"""What a trainer is given stays what it was made for, and what cannot be followed is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import TablePolicy
from torch import Tensor, nn

from grpo import (
    ClippedSurrogate,
    DPOConfig,
    DPOTrainer,
    GeneralizedAdvantage,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    Needs,
    PPOObjective,
    Terms,
)
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit


def make_trainer(**parts: Any) -> GRPOTrainer[Any, Any]:
    return GRPOTrainer(GRPOConfig(group_size=2), SoftmaxPolicy(3), StationaryBandit([0.1, 0.2, 0.3]), **parts)


@pytest.mark.parametrize("name", ["config", "policy", "reward_model", "sampler"])
def test_a_part_cannot_be_replaced_under_a_trainer(name: str) -> None:
    trainer = make_trainer()
    before = getattr(trainer, name)
    with pytest.raises(AttributeError, match=rf"GRPOTrainer.{name} cannot be replaced.*make the trainer anew"):
        setattr(trainer, name, before)
    trainer.step([0])


@Needs(all_samples=True)
def looks_at_all(evaluation: Any, decisions: Any) -> Terms:
    return Terms(-evaluation.log_probs, {})


def test_an_objective_is_replaced_by_one_that_needs_no_more_and_by_no_other() -> None:
    trainer = make_trainer()
    trainer.objective = GRPOObjective(surrogate=ClippedSurrogate(clip_low=0.1, clip_high=0.1))
    for other, reason in (
        (looks_at_all, "needs all_samples=True"),
        (PPOObjective(), "needs critic=True"),
        (Follows(), "adapts from step to step"),
    ):
        with pytest.raises(ValueError, match=rf"objective cannot be replaced by .*, which {reason}: make the trainer"):
            trainer.objective = other
    with pytest.raises(ValueError, match=r"advantage_estimator cannot .* needs critic=True"):
        trainer.advantage_estimator = GeneralizedAdvantage()
    trainer.step([0])
    preferences = DPOTrainer(DPOConfig(), SoftmaxPolicy(3), SoftmaxPolicy(3))
    with pytest.raises(ValueError, match="adapts from step to step"):
        preferences.objective = Follows()  # type: ignore[assignment]


class Half(TablePolicy):
    """Its parameters are one half of a table."""

    def __init__(self, table: Tensor, rows: slice) -> None:
        super().__init__()
        self.part = nn.Parameter(table.view(-1)[rows])

    def get_parameters(self) -> dict[str, Tensor]:
        return {"part": self.part}


def test_a_reference_policy_in_the_midst_of_the_same_memory_is_refused() -> None:
    table = torch.zeros(12)
    for ours, theirs, is_shared in ((slice(0, 8), slice(4, 12), True), (slice(0, 6), slice(6, 12), False)):
        policy, reference = Half(table, ours), Half(table, theirs)
        config = GRPOConfig(group_size=2, kl_coefficient=0.1)
        if not is_shared:
            GRPOTrainer(config, policy, StationaryBandit([0.1, 0.2]), reference)
            continue
        with pytest.raises(ValueError, match=r"shares trainable parameters with the policy \(part\)"):
            GRPOTrainer(config, policy, StationaryBandit([0.1, 0.2]), reference)


class Follows:
    """Changes from step to step."""

    def adapt(self, experience: Any, metrics: Any) -> None: ...

    def __call__(self, evaluation: Any, decisions: Any) -> Terms:
        return Terms(-evaluation.log_probs, {})


def test_a_part_that_changes_without_telling_its_state_is_told_of() -> None:
    with pytest.warns(UserWarning, match="Follows changes from step to step, but does not tell its state"):
        make_trainer(objective=Follows())


def test_a_preference_objective_that_would_never_adapt_is_refused() -> None:
    with pytest.raises(TypeError, match="Follows has a method adapt, which DPOTrainer does not call"):
        DPOTrainer(DPOConfig(), SoftmaxPolicy(3), SoftmaxPolicy(3), objective=Follows())  # type: ignore[arg-type]
