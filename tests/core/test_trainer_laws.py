"""What must hold for a step of any policy: partition, padding, on-policy, upgrade, determinism.

With plain SGD at learning rate 1 and no bound on its norm, the change of the parameters is minus the gradient.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import (
    EpisodePolicy,
    SequencePolicy,
    SequentialTablePolicy,
    TablePolicy,
    TruncatingEpisodePolicy,
    TruncatingSequencePolicy,
    cut_short,
    parameter_values,
)
from off_policy_updates import (
    AVERAGINGS,
    OBJECTIVES,
    Policy,
    build_trainer,
    collect_off_policy,
    every_averaging,
    every_objective,
    every_policy,
    update,
)

from grpo import (
    Experience,
    GRPOObjective,
    Objective,
)


@every_policy
@every_objective
@every_averaging
@pytest.mark.parametrize("micro_batch_size", [1, 3, 7])
def test_partition_into_micro_batches_changes_nothing(
    policy_class: type[Policy], objective: Objective, averaging: Any, micro_batch_size: int
) -> None:
    whole, whole_metrics = update(policy_class, objective, loss_averaging=averaging)
    split, metrics = update(policy_class, objective, loss_averaging=averaging, micro_batch_size=micro_batch_size)
    assert whole.abs().max() > 1e-3
    assert (split - whole).abs().max() <= 1e-6 * whole.abs().max()
    assert metrics == pytest.approx(whole_metrics, rel=1e-6, abs=1e-9)


@given(
    policy_class=st.sampled_from([TablePolicy, SequencePolicy, EpisodePolicy]),
    objective=st.sampled_from(list(OBJECTIVES.values())),
    averaging=st.sampled_from(AVERAGINGS),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    seed=st.integers(0, 100),
    micro_batch_size=st.integers(1, 30),
)
def test_partition_of_any_rollout(
    policy_class: type[Policy],
    objective: Objective,
    averaging: Any,
    sizes: list[int],
    seed: int,
    micro_batch_size: int,
) -> None:
    whole, whole_metrics = update(policy_class, objective, sizes, seed, loss_averaging=averaging)
    split, metrics = update(
        policy_class, objective, sizes, seed, loss_averaging=averaging, micro_batch_size=micro_batch_size
    )
    assert (split - whole).abs().max() <= 1e-6 * whole.abs().max() + 1e-12
    assert metrics == pytest.approx(whole_metrics, rel=1e-6, abs=1e-9)


@given(
    policy_class=st.sampled_from([TruncatingSequencePolicy, TruncatingEpisodePolicy]),
    objective=st.sampled_from(list(OBJECTIVES.values())),
    averaging=st.sampled_from(AVERAGINGS),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    seed=st.integers(0, 100),
    micro_batch_size=st.integers(1, 30),
    batch_size=st.none() | st.integers(1, 30),
    masks=st.sampled_from([True, "decisions"]),
)
def test_partition_where_samples_are_masked(
    policy_class: type[Policy],
    objective: Objective,
    averaging: Any,
    sizes: list[int],
    seed: int,
    micro_batch_size: int,
    batch_size: int | None,
    masks: Any,
) -> None:
    settings = {"loss_averaging": averaging, "mask_truncated": masks, "batch_size": batch_size}
    whole, whole_metrics = update(policy_class, objective, sizes, seed, **settings)
    split, metrics = update(policy_class, objective, sizes, seed, micro_batch_size=micro_batch_size, **settings)
    assert (split - whole).abs().max() <= 1e-6 * whole.abs().max() + 1e-12
    assert metrics == pytest.approx(whole_metrics, rel=1e-6, abs=1e-9)


@every_objective
@given(seed=st.integers(0, 1000))
def test_order_of_samples_changes_nothing(objective: Objective, seed: int) -> None:
    """Groups in another order, and samples of a group in another order, give the same gradient."""
    policy = SequencePolicy()
    experience = collect_off_policy(policy)
    generator = torch.Generator().manual_seed(seed)
    sizes = experience.groups.lengths.tolist()
    members = torch.arange(sum(sizes)).split(sizes)
    group_order = torch.randperm(len(sizes), generator=generator).tolist()
    order = torch.cat([members[g][torch.randperm(sizes[g], generator=generator)] for g in group_order])
    positions = experience.samples.positions(order)
    assert experience.old_log_probs is not None
    assert experience.reference_log_probs is not None
    shuffled = Experience(
        [experience.states[index] for index in order.tolist()],
        [experience.actions[index] for index in order.tolist()],
        experience.batch.select(order),
        experience.groups.select(torch.tensor(group_order)),
        experience.rewards[order],
        experience.old_log_probs[positions],
        experience.reference_log_probs[positions],
    )
    changes = []
    for given_experience in (experience, shuffled):
        policy = SequencePolicy()
        before = policy.transitions.detach().clone()
        build_trainer(policy, objective).update(given_experience)
        changes.append(policy.transitions.detach() - before)
    torch.testing.assert_close(changes[1], changes[0], rtol=1e-6, atol=1e-9)


@every_averaging
@pytest.mark.parametrize("masked", [False, True])
def test_loss_is_averaged_as_the_formula_says(averaging: Any, masked: bool) -> None:
    """REINFORCE's gradient by a plain loop over samples and decisions; what is masked counts in a group's mean only."""
    policy_class = TruncatingSequencePolicy if masked else SequencePolicy
    gradient, metrics = update(policy_class, OBJECTIVES["reinforce"], loss_averaging=averaging, mask_truncated=masked)
    policy = SequencePolicy()
    experience = collect_off_policy(policy)
    lengths = experience.samples.lengths.tolist()
    rewards = experience.rewards.split(experience.groups.lengths.tolist())
    advantages = torch.cat([(group - group.mean()) / group.std() for group in rewards])
    log_probs = policy.evaluate_actions(experience.batch).log_probs.split(lengths)  # type: ignore[arg-type]
    losses = [-advantage * part for advantage, part in zip(advantages, log_probs, strict=True)]
    if masked:
        cut = cut_short(experience.actions).tolist()  # type: ignore[arg-type]
        assert 0 < sum(cut) < len(cut)
        assert metrics["frac_truncated"] == pytest.approx(sum(cut) / len(cut))
        losses = [part for part, is_cut in zip(losses, cut, strict=True) if not is_cut]
    if averaging == "per_sample":
        loss = torch.stack([part.mean() for part in losses]).mean()
    elif averaging == "per_decision":
        loss = torch.cat(losses).mean()
    else:
        loss = torch.cat(losses).sum() / (len(losses) * averaging)
    [expected] = torch.autograd.grad(loss, policy.transitions)
    torch.testing.assert_close(gradient, expected.flatten())


@every_objective
@pytest.mark.parametrize("policy_class", [SequencePolicy, EpisodePolicy])
def test_a_minibatch_holds_whole_samples_where_the_objective_asks_for_it(
    policy_class: type[SequencePolicy], objective: GRPOObjective
) -> None:
    policy = policy_class()
    experience = collect_off_policy(policy)
    trainer = build_trainer(policy, objective, batch_size=6)
    seen: list[int] = []

    def spy(evaluation: Any, decisions: Any) -> Any:
        seen.extend(decisions.samples.lengths.tolist())
        return objective(evaluation, decisions)

    spy.needs = objective.needs  # type: ignore[attr-defined]
    trainer.objective = spy
    trainer.update(experience)
    if objective.needs.whole_samples or policy_class is SequencePolicy:
        assert sorted(seen) == sorted(experience.samples.lengths.tolist())
    assert sum(seen) == experience.samples.total


@every_policy
@pytest.mark.parametrize("objective", ["clipped", "cispo", "sapo", "reinforce"])
def test_on_policy_the_gradient_is_that_of_reinforce(policy_class: type[Policy], objective: str) -> None:
    """Sampled from the policy itself, with its log-probs noted or not, all surrogates take the same step."""
    changes = []
    for name, noted in ((objective, False), (objective, True), ("reinforce", False)):
        torch.manual_seed(0)
        policy = policy_class()
        before = parameter_values(policy.get_parameters())
        trainer = build_trainer(policy, OBJECTIVES[name])
        experience = trainer.collector.collect([0, 1, 2])
        if not noted:
            experience = replace(experience, old_log_probs=None)
        metrics = trainer.update(experience)
        assert metrics["approx_kl"] == 0
        changes.append([before[name] - tensor.detach() for name, tensor in policy.get_parameters().items()])
    torch.testing.assert_close(changes[0], changes[2])
    torch.testing.assert_close(changes[1], changes[2])


def test_old_log_probs_cost_no_evaluation_where_there_is_one_update() -> None:
    for epochs, evaluations in ((1, 1), (2, 3)):
        policy = TablePolicy()
        calls: list[int] = []
        evaluate = policy.get_log_probabilities
        policy.get_log_probabilities = lambda s, a, e=evaluate, c=calls: (c.append(len(a)), e(s, a))[1]  # type: ignore
        build_trainer(policy, OBJECTIVES["clipped"], num_epochs_per_update=epochs).step([0, 1])
        assert len(calls) == evaluations


@given(padding=st.integers(0, 3))
def test_padding_never_reaches_an_evaluation(padding: int) -> None:
    policy, padded = SequencePolicy(), SequencePolicy(padding=padding)
    torch.manual_seed(0)
    actions = policy.generate_actions([1, 2], 3)
    pairs = [(state, action) for state, group in zip([1, 2], actions, strict=True) for action in group]
    alone = torch.cat(
        [policy.evaluate_actions(policy.encode_actions([state], [action])).log_probs for state, action in pairs]
    )
    states, flat = zip(*pairs, strict=True)
    together = padded.evaluate_actions(padded.encode_actions(states, flat))
    torch.testing.assert_close(together.log_probs, alone)
    assert together.entropy is not None
    assert together.entropy.shape == together.log_probs.shape == (sum(len(action) for action in flat),)


@given(
    states=st.lists(st.integers(0, 2), min_size=1, max_size=5),
    batch_size=st.none() | st.integers(1, 30),
    micro_batch_size=st.none() | st.integers(1, 30),
    epochs=st.integers(1, 3),
)
def test_a_minimal_policy_and_the_same_written_as_sequential_take_identical_steps(
    states: list[int], batch_size: int | None, micro_batch_size: int | None, epochs: int
) -> None:
    results = []
    for policy_class in (TablePolicy, SequentialTablePolicy):
        torch.manual_seed(0)
        policy = policy_class()
        trainer = build_trainer(
            policy,
            OBJECTIVES["clipped with KL"],
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            num_epochs_per_update=epochs,
        )
        results.append(([trainer.step(states) for _ in range(3)], policy.logits.detach()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


@every_policy
def test_the_same_seed_gives_bitwise_the_same_metrics_and_parameters(policy_class: type[Policy]) -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        policy = policy_class()
        trainer = build_trainer(policy, OBJECTIVES["clipped"], batch_size=4, num_epochs_per_update=2)
        metrics = [trainer.step([0, 1, 2]) for _ in range(4)]
        results.append((metrics, [tensor.detach() for tensor in policy.get_parameters().values()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(left, right) for left, right in zip(results[0][1], results[1][1], strict=True))


@every_averaging
def test_gradients_of_rows_spread_over_processes_add_up(averaging: Any) -> None:
    """Each process weighs its own rows with the denominator of all of them."""
    from grpo.training._minibatches import LossWeights

    policy = SequencePolicy()
    experience = collect_off_policy(policy)
    weights = LossWeights.of(averaging, experience.samples, torch.float64)
    whole, _ = update(SequencePolicy, OBJECTIVES["reinforce"], loss_averaging=averaging)
    advantages = torch.cat([(group - group.mean()) / group.std() for group in experience.rewards.split([5, 2, 4])])
    shards = (torch.arange(0, 4), torch.arange(4, 11))
    positions = [experience.samples.positions(rows) for rows in shards]
    denominator = sum(weights.denominator[part].sum() for part in positions)
    total = torch.zeros_like(policy.transitions)
    for rows, part in zip(shards, positions, strict=True):
        log_probs = policy.evaluate_actions(experience.batch.select(rows)).log_probs  # type: ignore[arg-type]
        loss = -(weights.numerator[part] / denominator * experience.samples.expand(advantages)[part] * log_probs).sum()
        total += torch.autograd.grad(loss, policy.transitions)[0]
    torch.testing.assert_close(total.flatten(), whole)


def test_metrics_are_averages_whatever_the_weights_sum_to() -> None:
    """Averaging by a constant weighs all decisions alike, as averaging per decision does; only the loss is scaled."""
    [by_constant, per_decision] = [
        update(SequencePolicy, OBJECTIVES["clipped with KL"], loss_averaging=averaging)[1]
        for averaging in (7, "per_decision")
    ]
    for name in ("approx_kl", "kl", "clip_fraction", "entropy"):
        assert by_constant[name] == pytest.approx(per_decision[name])
    assert by_constant["loss"] != pytest.approx(per_decision["loss"])


@every_policy
@pytest.mark.parametrize("micro_batch_size", [1, 3, 100])
def test_old_and_reference_log_probs_are_those_of_the_whole_batch(
    policy_class: type[Policy], micro_batch_size: int
) -> None:
    policy = policy_class()
    trainer = build_trainer(
        policy, OBJECTIVES["clipped with KL"], num_epochs_per_update=2, micro_batch_size=micro_batch_size
    )
    experience = trainer.collector.collect([0, 1, 2])
    summed = policy.get_log_probabilities(experience.states, experience.actions)  # type: ignore[arg-type]
    for log_probs in (experience.old_log_probs, experience.reference_log_probs):
        assert log_probs is not None
        torch.testing.assert_close(experience.samples.sum(log_probs), summed.detach())
