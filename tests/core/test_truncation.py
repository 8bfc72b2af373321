"""``mask_truncated``: samples that were cut short weigh nothing, anywhere, and steps made of them are left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import (
    FunctionRewards,
    SequencePolicy,
    TablePolicy,
    TruncatingEpisodePolicy,
    TruncatingPaddedBatch,
    TruncatingSequencePolicy,
    WalkerPolicy,
)

from grpo import Experience, GRPOConfig, GRPOTrainer, HasTruncations, check_policy_model

CUT: tuple[int, ...] = (1, 2, 3)
ENDED: tuple[int, ...] = (2, 0)
every_policy = pytest.mark.parametrize("policy_class", [TruncatingSequencePolicy, TruncatingEpisodePolicy])


def build_trainer(policy: Any, **settings: Any) -> GRPOTrainer[Any, Any]:
    config = GRPOConfig(**({"mask_truncated": True, "learning_rate": 0.1} | settings))
    return GRPOTrainer(config, policy, FunctionRewards(lambda state, action: float(len(action)) + action[0]))


def score(trainer: GRPOTrainer[Any, Any], *groups: list[tuple[int, ...]]) -> Experience:
    return trainer.collector.score([1] * len(groups), list(groups))


def test_protocol() -> None:
    policy = TruncatingSequencePolicy()
    assert isinstance(policy.encode_actions([1], [ENDED]), HasTruncations)
    assert not isinstance(SequencePolicy().encode_actions([1], [ENDED]), HasTruncations)
    check_policy_model(policy, [1, 2], num_samples=0)


@every_policy
@pytest.mark.parametrize("mask_truncated", [False, True])
def test_metrics_by_hand(policy_class: type[Any], mask_truncated: bool) -> None:
    """Three of four were cut short; the entropy is that of the decisions that count, two of eleven."""
    trainer = build_trainer(policy_class(), mask_truncated=mask_truncated, loss_averaging="per_decision")
    experience = score(trainer, [CUT, ENDED], [CUT, CUT])
    entropy = trainer.policy.evaluate_actions(experience.batch).entropy.detach()  # type: ignore[attr-defined]
    metrics = trainer.update(experience)
    assert metrics["frac_truncated"] == 0.75
    assert metrics["reward"] == (4 + 4 + 4 + 4) / 4
    assert metrics["num_decisions"] == 11
    assert metrics["entropy"] == pytest.approx((entropy[3:5] if mask_truncated else entropy).mean().item())


@every_policy
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"micro_batch_size": 1},
        {"batch_size": 2},
        {"num_epochs_per_update": 2},
        {"mask_truncated": "decisions", "batch_size": 2},
    ],
)
def test_where_everything_is_masked_nothing_moves(policy_class: type[Any], settings: dict[str, Any]) -> None:
    """Nor does the optimizer's momentum, which would move parameters even without a gradient."""
    policy = policy_class()
    trainer = build_trainer(policy, **settings)
    trainer.update(score(trainer, [ENDED, (1, 0)]))
    before = policy.transitions.detach().clone()
    experience = score(trainer, [CUT, (3, 3, 3)])
    metrics = trainer.update(experience)
    assert torch.equal(policy.transitions, before)
    assert metrics["num_updates"] == 0
    assert metrics["skipped_updates"] == trainer.config.num_updates(len(experience.batch.rows))
    assert all(value == value for value in metrics.values())
    assert trainer.num_steps == 2


def test_an_optimiser_step_of_masked_samples_is_left_out_and_the_others_are_made() -> None:
    """With one sample a step and the same advantages, it is as if the masked ones were not there."""
    changes = []
    for group in ([ENDED, CUT, CUT, CUT], [ENDED]):
        policy = TruncatingSequencePolicy()
        before = policy.transitions.detach().clone()
        trainer = GRPOTrainer(
            GRPOConfig(mask_truncated=True, batch_size=1, learning_rate=0.1),
            policy,
            FunctionRewards(lambda state, action: 0.0),
            advantage_estimator=lambda experience: torch.ones(len(experience.samples)),
        )
        metrics = trainer.update(score(trainer, group))
        assert metrics["num_updates"] == 1
        assert metrics["skipped_updates"] == len(group) - 1
        changes.append(policy.transitions.detach() - before)
    assert torch.equal(changes[0], changes[1])
    assert changes[0].any()


def test_masked_samples_count_in_the_mean_of_their_group() -> None:
    """Rewards 4 and 3: alone, the second would be a group of one, without any advantage."""
    policy = TruncatingSequencePolicy()
    trainer = build_trainer(policy)
    before = policy.transitions.detach().clone()
    metrics = trainer.update(score(trainer, [CUT, (1, 0)]))
    assert metrics["loss"] == pytest.approx(1 / 2**0.5)  # minus an advantage of -1/√2
    assert not torch.equal(policy.transitions, before)


@pytest.mark.parametrize(
    ("averaging", "left_out", "decisions"),
    [
        # Losses of the samples -1, -3 and -4; the last two have two decisions. Three samples or two, four decisions.
        ("per_sample", -7 / 2, -7 / 3),
        (8, -(3 * 2 + 4 * 2) / (2 * 8), -(3 * 2 + 4 * 2) / (3 * 8)),
        ("per_decision", -(3 * 2 + 4 * 2) / 4, -(3 * 2 + 4 * 2) / 4),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"micro_batch_size": 1}])
@every_policy
def test_what_the_loss_is_divided_by(
    policy_class: type[Any], averaging: Any, left_out: float, decisions: float, settings: dict[str, int]
) -> None:
    """With ``"decisions"`` a sample that was cut short is still one of those that an average over samples counts."""
    for mask_truncated, expected in ((True, left_out), ("decisions", decisions)):
        trainer = GRPOTrainer(
            GRPOConfig(mask_truncated=mask_truncated, loss_averaging=averaging, **settings),
            policy_class(),
            FunctionRewards(lambda state, action: 0.0),
            advantage_estimator=lambda experience: torch.tensor([1.0, 3.0, 4.0]),
        )
        metrics = trainer.update(score(trainer, [CUT, ENDED, (1, 0)]))
        assert metrics["loss"] == pytest.approx(expected)
        assert metrics["num_updates"] == 1
        assert metrics["approx_kl"] == 0


def test_a_setting_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="mask_truncated"):
        GRPOConfig(mask_truncated="tokens")


def test_without_the_setting_nothing_is_masked() -> None:
    losses = []
    for policy in (SequencePolicy(), TruncatingSequencePolicy()):
        trainer = build_trainer(policy, mask_truncated=False)
        losses.append(trainer.update(score(trainer, [CUT, ENDED, (1, 0)])))
    assert losses[1].pop("frac_truncated") == pytest.approx(1 / 3)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("policy", [TablePolicy(), SequencePolicy(), WalkerPolicy()])
def test_a_batch_that_does_not_tell_is_refused(policy: Any) -> None:
    before = [tensor.detach().clone() for tensor in policy.get_parameters().values()]
    trainer = GRPOTrainer(GRPOConfig(mask_truncated=True), policy, FunctionRewards(lambda state, action: 0.0))
    with pytest.raises(ValueError, match=r"mask_truncated needs to know .*Batch does not tell"):
        trainer.step([0, 1])
    assert all(torch.equal(*pair) for pair in zip(policy.get_parameters().values(), before, strict=True))
    assert trainer.num_steps == 0


@pytest.mark.parametrize(
    ("truncated", "found"),
    [
        (torch.tensor([True]), r"of dtype torch.bool and shape \[1\] on cpu"),
        (torch.tensor([1, 0]), r"of dtype torch.int64 and shape \[2\] on cpu"),
        ([True, False], "of type list"),
    ],
)
def test_what_tells_must_tell_of_every_sample(truncated: Any, found: str) -> None:
    class Wrong(TruncatingSequencePolicy):
        def encode_actions(self, states: Any, actions: Any) -> TruncatingPaddedBatch:
            batch = super().encode_actions(states, actions)
            batch.truncated = truncated
            return batch

    message = rf"encode_actions returned a batch with truncated {found}, expected a bool tensor of shape \[2\] on cpu"
    for mask_truncated in (False, True):
        trainer = build_trainer(Wrong(), mask_truncated=mask_truncated, group_size=2)
        with pytest.raises(ValueError, match=message):
            trainer.step([1])
