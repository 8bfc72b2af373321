"""What must hold for a step on pairs with any policy: symmetry, partition, order, upgrade, determinism, the optimum.

With plain SGD at learning rate 1 and no bound on its norm, the change of the parameters is minus the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import EpisodePolicy, SequencePolicy, SequentialTablePolicy, TablePolicy, parameter_values
from torch import Tensor

from grpo import (
    DPOConfig,
    DPOObjective,
    DPOTrainer,
    HingePreferenceLoss,
    IdentityPreferenceLoss,
    PairLogProbs,
    Preference,
    PreferenceLoss,
    RobustPreferenceLoss,
    SigmoidPreferenceLoss,
    Terms,
    with_reference_log_probs,
)

Policy = TablePolicy | SequencePolicy
Pairs = list[Preference[int, Any]]
BETA = 0.3
LOSSES: dict[str, PreferenceLoss] = {
    "sigmoid": SigmoidPreferenceLoss(beta=BETA),
    "smoothed": SigmoidPreferenceLoss(beta=BETA, label_smoothing=0.2),
    "hinge": HingePreferenceLoss(beta=BETA),
    "identity": IdentityPreferenceLoss(beta=BETA),
    "robust": RobustPreferenceLoss(beta=BETA, label_noise=0.2),
}
OBJECTIVES = {name: DPOObjective(loss=loss) for name, loss in LOSSES.items()} | {
    "with likelihood": DPOObjective(loss=LOSSES["sigmoid"], sft_coefficient=0.5)
}
POLICIES: list[type[Policy]] = [TablePolicy, SequentialTablePolicy, SequencePolicy, EpisodePolicy]
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
every_policy = pytest.mark.parametrize("policy_class", POLICIES)


def moved(policy: Policy, scale: float = 0.5) -> Policy:
    """The policy away from where it started."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in policy.get_parameters().values():
            tensor.add_(scale * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
    return policy


def pairs_for(policy_class: type[Policy], num_pairs: int = 9, seed: int = 0) -> Pairs:
    """Pairs of different actions of the policy, sequences of different lengths, none as probable as the other."""
    torch.manual_seed(seed)
    policy = policy_class()
    pairs: Pairs = []
    while len(pairs) < num_pairs:
        state = len(pairs) % 3
        chosen, rejected = policy.generate_actions([state], 2)[0]
        if transitions(chosen) != transitions(rejected):
            pairs.append(Preference(state, chosen, rejected))
    return pairs


def transitions(action: Any) -> list[tuple[int, int]]:
    """What the log-prob of an action is a sum over."""
    sequence = action if isinstance(action, tuple) else (action,)
    return sorted(zip((-1, *sequence), sequence, strict=False))


def swapped(pairs: Pairs) -> Pairs:
    return [replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in pairs]


def trainer_of(policy: Policy, objective: Any, *, with_reference: bool = True, **settings: Any) -> DPOTrainer[Any, Any]:
    return DPOTrainer(
        DPOConfig(max_grad_norm=None, **settings),
        policy,
        type(policy)() if with_reference else None,
        optimizer=torch.optim.SGD(policy.get_parameters().values(), lr=1.0),
        objective=objective,
    )


def step(
    policy_class: type[Policy], objective: Any, pairs: Pairs, *, scale: float = 0.5, **settings: Any
) -> tuple[Tensor, dict[str, float]]:
    """Minus the change that a step on the pairs makes, and its metrics."""
    policy = moved(policy_class(), scale)
    before = parameter_values(policy.get_parameters())
    metrics = trainer_of(policy, objective, **settings).step(pairs)
    after = policy.get_parameters()
    return torch.cat([(before[name] - after[name]).flatten() for name in before]).detach(), metrics


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 1e-6
    assert (actual - expected).abs().max() <= 1e-9 * expected.abs().max()


@every_policy
@every_objective
@pytest.mark.parametrize("settings", [{}, {"batch_size": 4, "num_epochs_per_update": 2}])
def test_partition_into_micro_batches_changes_nothing(
    policy_class: type[Policy], objective: DPOObjective, settings: dict[str, int]
) -> None:
    pairs = pairs_for(policy_class)
    whole, whole_metrics = step(policy_class, objective, pairs, **settings)
    for micro_batch_size in (1, 3, 7, 9):
        split, metrics = step(policy_class, objective, pairs, micro_batch_size=micro_batch_size, **settings)
        assert_close(split, whole)
        assert metrics == pytest.approx(whole_metrics, rel=1e-9, abs=1e-12)


@given(
    policy_class=st.sampled_from(POLICIES),
    objective=st.sampled_from(list(OBJECTIVES.values())),
    num_pairs=st.integers(1, 12),
    seed=st.integers(0, 100),
    micro_batch_size=st.integers(1, 13),
    batch_size=st.none() | st.integers(1, 13),
)
def test_partition_of_any_pairs(
    policy_class: type[Policy],
    objective: DPOObjective,
    num_pairs: int,
    seed: int,
    micro_batch_size: int,
    batch_size: int | None,
) -> None:
    pairs = pairs_for(policy_class, num_pairs, seed)
    whole, whole_metrics = step(policy_class, objective, pairs, batch_size=batch_size)
    split, metrics = step(policy_class, objective, pairs, batch_size=batch_size, micro_batch_size=micro_batch_size)
    assert (split - whole).abs().max() <= 1e-9 * whole.abs().max() + 1e-14
    assert metrics == pytest.approx(whole_metrics, rel=1e-9, abs=1e-12)


@every_policy
@every_objective
def test_the_gradient_is_that_of_a_plain_loop(policy_class: type[Policy], objective: DPOObjective) -> None:
    """Pair by pair, each action's log-prob asked by itself, averaged at the end."""
    pairs = pairs_for(policy_class)
    gradient, metrics = step(policy_class, objective, pairs)
    policy, reference = moved(policy_class()), policy_class()
    losses, margins = [], []
    for pair in pairs:
        actions = [pair.chosen, pair.rejected]
        own = policy.get_log_probabilities([pair.state] * 2, actions)
        theirs = reference.get_log_probabilities([pair.state] * 2, actions).detach()
        lengths = torch.tensor([len(action) if isinstance(action, tuple) else 1 for action in actions])
        alone = PairLogProbs(*own.view(2, 1), *theirs.view(2, 1), *lengths.view(2, 1))
        losses.append(objective(alone).loss)
        margins.append(BETA * alone.margin.item())
    loss = torch.cat(losses).mean()
    expected = torch.autograd.grad(loss, list(policy.get_parameters().values()))
    assert_close(gradient, torch.cat([own.flatten() for own in expected]))
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-12)
    assert metrics["rewards/margins"] == pytest.approx(sum(margins) / len(margins), rel=1e-12)
    assert metrics["rewards/accuracies"] == sum(margin > 0 for margin in margins) / len(margins)


@every_policy
@every_loss
def test_at_the_reference_point_swapping_flips_the_gradient(policy_class: type[Policy], loss: PreferenceLoss) -> None:
    """All margins are 0 there. It holds for IPO too, of any lengths, since swapping swaps those as well."""
    pairs, objective = pairs_for(policy_class), DPOObjective(loss=loss)
    gradient, _ = step(policy_class, objective, pairs, scale=0.0)
    flipped, _ = step(policy_class, objective, swapped(pairs), scale=0.0)
    assert_close(flipped, -gradient)
    elsewhere = [step(policy_class, objective, own)[0] for own in (pairs, swapped(pairs))]
    if not isinstance(loss, HingePreferenceLoss):  # whose slope is the same until the margin is 1 / β
        assert (elsewhere[0] + elsewhere[1]).abs().max() > 1e-3


@every_policy
@pytest.mark.parametrize(
    ("loss", "slope"),
    [
        (SigmoidPreferenceLoss(beta=BETA), BETA / 2),
        (SigmoidPreferenceLoss(beta=BETA, label_smoothing=0.2), BETA * 0.6 / 2),
        (HingePreferenceLoss(beta=BETA), BETA),
        (RobustPreferenceLoss(beta=BETA, label_noise=0.2), BETA / 2 / 0.6),
    ],
)
def test_at_the_reference_point_the_gradient_is_a_difference_of_score_functions(
    policy_class: type[Policy], loss: PreferenceLoss, slope: float
) -> None:
    """DPO's is β / 2 times the mean of ∇ log π(rejected) - ∇ log π(chosen)."""
    pairs = pairs_for(policy_class)
    gradient, metrics = step(policy_class, DPOObjective(loss=loss), pairs, scale=0.0)
    policy = policy_class()
    states: Any = [pair.state for pair in pairs]
    chosen, rejected = (
        policy.get_log_probabilities(states, [getattr(pair, side) for pair in pairs]).mean()
        for side in ("chosen", "rejected")
    )
    scores = torch.autograd.grad(chosen - rejected, list(policy.get_parameters().values()))
    assert_close(gradient, -slope * torch.cat([score.flatten() for score in scores]))
    assert metrics["rewards/margins"] == metrics["rewards/accuracies"] == 0


@every_policy
def test_labels_that_say_nothing_have_no_gradient_at_the_reference_point(policy_class: type[Policy]) -> None:
    objective = DPOObjective(loss=SigmoidPreferenceLoss(beta=BETA, label_smoothing=0.5))
    gradient, _ = step(policy_class, objective, pairs_for(policy_class), scale=0.0)
    assert gradient.abs().max() < 1e-15


@given(loss=st.sampled_from(list(LOSSES.values())), constants=st.lists(st.floats(-20, 20), min_size=9, max_size=9))
def test_a_constant_in_the_references_log_probs_of_a_pair_changes_nothing(
    loss: PreferenceLoss, constants: list[float]
) -> None:
    """A constant for both actions, of IPO one for all their decisions."""
    objective = DPOObjective(loss=loss)
    pairs = with_reference_log_probs(pairs_for(SequencePolicy), SequencePolicy())
    per_decision = isinstance(loss, IdentityPreferenceLoss)
    shifted = []
    for pair, constant in zip(pairs, constants, strict=True):
        assert pair.reference_log_probs is not None
        lengths = (len(pair.chosen), len(pair.rejected)) if per_decision else (1, 1)
        moved_log_probs = [
            own + constant * length for own, length in zip(pair.reference_log_probs, lengths, strict=True)
        ]
        shifted.append(replace(pair, reference_log_probs=(moved_log_probs[0], moved_log_probs[1])))
    gradient, metrics = step(SequencePolicy, objective, pairs, with_reference=False)
    other, other_metrics = step(SequencePolicy, objective, shifted, with_reference=False)
    assert_close(other, gradient)
    assert other_metrics["loss"] == pytest.approx(metrics["loss"], rel=1e-9)
    if not per_decision:
        assert other_metrics["rewards/margins"] == pytest.approx(metrics["rewards/margins"], rel=1e-9)


@given(objective=st.sampled_from(list(OBJECTIVES.values())), order=st.permutations(range(9)))
def test_order_of_pairs_changes_nothing(objective: DPOObjective, order: list[int]) -> None:
    pairs = pairs_for(EpisodePolicy)
    gradient, metrics = step(EpisodePolicy, objective, pairs)
    shuffled, shuffled_metrics = step(EpisodePolicy, objective, [pairs[index] for index in order], micro_batch_size=4)
    assert_close(shuffled, gradient)
    assert shuffled_metrics == pytest.approx(metrics, rel=1e-9, abs=1e-12)


@every_objective
def test_a_pair_given_twice_counts_twice(objective: DPOObjective) -> None:
    pairs = pairs_for(SequencePolicy, 3)
    gradients = [step(SequencePolicy, objective, [pair])[0] for pair in pairs]
    twice, _ = step(SequencePolicy, objective, [*pairs, pairs[0]])
    assert_close(twice, (2 * gradients[0] + gradients[1] + gradients[2]) / 4)


@given(
    num_pairs=st.integers(1, 8),
    batch_size=st.none() | st.integers(1, 9),
    micro_batch_size=st.none() | st.integers(1, 9),
    epochs=st.integers(1, 3),
)
def test_a_minimal_policy_and_the_same_written_as_sequential_take_identical_steps(
    num_pairs: int, batch_size: int | None, micro_batch_size: int | None, epochs: int
) -> None:
    pairs = pairs_for(TablePolicy, num_pairs)
    results = []
    for policy_class in (TablePolicy, SequentialTablePolicy):
        policy = policy_class()
        trainer = trainer_of(
            policy,
            OBJECTIVES["with likelihood"],
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            num_epochs_per_update=epochs,
        )
        results.append(([trainer.step(pairs) for _ in range(3)], trainer.evaluate(pairs), policy.logits.detach()))
    assert results[0][:2] == results[1][:2]
    assert torch.equal(results[0][2], results[1][2])


def test_rows_of_whole_sequences_and_of_single_tokens_take_the_same_steps() -> None:
    pairs = pairs_for(SequencePolicy)
    gradients, metrics = zip(
        *(
            step(policy_class, OBJECTIVES["identity"], pairs, batch_size=4, micro_batch_size=3)
            for policy_class in (SequencePolicy, EpisodePolicy)
        ),
        strict=True,
    )
    assert_close(gradients[1], gradients[0])
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-9, abs=1e-12)


@every_policy
def test_the_same_seed_gives_bitwise_the_same_metrics_and_parameters(policy_class: type[Policy]) -> None:
    pairs = pairs_for(policy_class)

    def run(seed: int) -> tuple[list[dict[str, float]], list[Tensor]]:
        policy = policy_class()
        trainer = trainer_of(policy, OBJECTIVES["sigmoid"], batch_size=4, num_epochs_per_update=2, seed=seed)
        metrics = [trainer.step(pairs) for _ in range(3)]
        return metrics, [tensor.detach() for tensor in policy.get_parameters().values()]

    first, second, other = run(1), run(1), run(2)
    assert first[0] == second[0]
    assert all(torch.equal(left, right) for left, right in zip(first[1], second[1], strict=True))
    assert not all(torch.equal(left, right) for left, right in zip(first[1], other[1], strict=True))


@every_policy
@every_objective
def test_known_reference_log_probs_serve_as_well_as_the_reference_policy(
    policy_class: type[Policy], objective: DPOObjective
) -> None:
    pairs = pairs_for(policy_class)
    settings = {"batch_size": 4, "micro_batch_size": 3, "num_epochs_per_update": 2}
    live, live_metrics = step(policy_class, objective, pairs, **settings)
    known = with_reference_log_probs(pairs, policy_class(), micro_batch_size=3)
    carried, metrics = step(policy_class, objective, known, with_reference=False, **settings)
    assert torch.equal(carried, live)
    assert metrics == live_metrics


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "robust", "with likelihood"])
def test_without_a_reference_is_with_a_uniform_one(name: str) -> None:
    class Uniform(TablePolicy):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.zeros_like(self.logits)

    pairs = pairs_for(TablePolicy)
    free, metrics = step(TablePolicy, OBJECTIVES[name], pairs, with_reference=False, reference_free=True)
    known = with_reference_log_probs(pairs, Uniform())
    uniform, uniform_metrics = step(TablePolicy, OBJECTIVES[name], known, with_reference=False)
    assert_close(uniform, free)
    assert metrics["rewards/margins"] == pytest.approx(uniform_metrics["rewards/margins"])
    assert metrics["rewards/chosen"] == pytest.approx(BETA * metrics["logps/chosen"])


def weighted_counts(strengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """How often i is chosen over j, in proportion to the Bradley-Terry model's probabilities, for strengths exp r."""
    indices = range(len(strengths))
    return [(i, j, strengths[i]) for i in indices for j in indices if i != j]


@pytest.mark.parametrize("strengths", [(1, 3), (1, 2, 3)])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_on_exact_preferences_dpo_finds_the_optimum_of_the_regularised_reward(
    strengths: tuple[int, ...], beta: float
) -> None:
    """π ∝ π_ref exp(r / β), where i is preferred to j with probability exp r_i / (exp r_i + exp r_j)."""
    policy, reference = (TablePolicy(num_states=1, num_actions=len(strengths)) for _ in range(2))
    pairs = [
        Preference(0, chosen, rejected) for chosen, rejected, count in weighted_counts(strengths) for _ in range(count)
    ]
    optimizer = torch.optim.SGD([policy.logits], lr=2 / beta**2)
    trainer = DPOTrainer(DPOConfig(beta=beta, max_grad_norm=None), policy, reference, optimizer)
    for _ in range(120):
        metrics = trainer.step(pairs)
    expected = reference.logits.detach().softmax(-1) * torch.tensor([strengths], dtype=torch.float64) ** (1 / beta)
    torch.testing.assert_close(policy.logits.detach().softmax(-1), expected / expected.sum(), rtol=1e-6, atol=1e-6)
    assert metrics["grad_norm"] < 1e-6


def test_right_labels_and_robust_ones_on_flipped_labels_give_the_same_gradient() -> None:
    """Every pair four times, of which one is flipped: ε = 0.25."""
    pairs = pairs_for(SequencePolicy)
    clean, _ = step(SequencePolicy, OBJECTIVES["sigmoid"], pairs)
    noisy = [own for pair in pairs for own in (pair, pair, pair, *swapped([pair]))]
    robust = DPOObjective(loss=RobustPreferenceLoss(beta=BETA, label_noise=0.25))
    assert_close(step(SequencePolicy, robust, noisy)[0], clean)
    assert (step(SequencePolicy, OBJECTIVES["sigmoid"], noisy)[0] - clean).abs().max() > 1e-3


def test_an_objective_that_is_a_function() -> None:
    pairs = pairs_for(SequencePolicy)
    ours, _ = step(SequencePolicy, OBJECTIVES["sigmoid"], pairs, micro_batch_size=2)
    theirs, metrics = step(
        SequencePolicy,
        lambda own: Terms((1 + (-BETA * own.margin).exp()).log(), {"length": own.chosen_lengths}),
        pairs,
        micro_batch_size=2,
    )
    assert_close(theirs, ours)
    assert metrics["length"] == pytest.approx(sum(len(pair.chosen) for pair in pairs) / len(pairs))
