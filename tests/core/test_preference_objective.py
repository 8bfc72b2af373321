"""Losses on pairs: constants worked out by hand, extreme margins, laws of each loss by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo import (
    DPOObjective,
    HingePreferenceLoss,
    IdentityPreferenceLoss,
    PairLogProbs,
    PreferenceLoss,
    PreferenceObjective,
    RobustPreferenceLoss,
    SigmoidPreferenceLoss,
    Terms,
    hinge_preference_loss,
    identity_preference_loss,
    robust_preference_loss,
    sigmoid_preference_loss,
    supervised_loss,
)

LOSSES: dict[str, PreferenceLoss] = {
    "sigmoid": SigmoidPreferenceLoss(beta=0.5),
    "smoothed": SigmoidPreferenceLoss(beta=0.5, label_smoothing=0.2),
    "hinge": HingePreferenceLoss(beta=0.5),
    "identity": IdentityPreferenceLoss(beta=0.5),
    "robust": RobustPreferenceLoss(beta=0.5, label_noise=0.2),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
MARGINS = st.floats(-30, 30)
BETAS = st.floats(0.01, 5)


def pairs_of(
    chosen: list[float],
    rejected: list[float],
    reference_chosen: list[float] | None = None,
    reference_rejected: list[float] | None = None,
    lengths: tuple[list[int], list[int]] | None = None,
    dtype: torch.dtype = torch.float64,
) -> PairLogProbs:
    nothing = [0.0] * len(chosen)
    given_lengths = lengths or ([1] * len(chosen), [1] * len(chosen))
    return PairLogProbs(
        torch.tensor(chosen, dtype=dtype, requires_grad=True),
        torch.tensor(rejected, dtype=dtype, requires_grad=True),
        torch.tensor(reference_chosen or nothing, dtype=dtype),
        torch.tensor(reference_rejected or nothing, dtype=dtype),
        *(torch.tensor(own) for own in given_lengths),
    )


# β m = 1 where β = 0.5 and m = 2: -log σ(1) = 0.3132617, -log σ(-1) = 1.3132617
@pytest.mark.parametrize(
    ("function", "margin", "expected"),
    [
        (lambda m: sigmoid_preference_loss(m, beta=0.5), 0.0, 0.6931472),
        (lambda m: sigmoid_preference_loss(m, beta=0.5), 2.0, 0.3132617),
        (lambda m: sigmoid_preference_loss(m, beta=0.5), -2.0, 1.3132617),
        (lambda m: sigmoid_preference_loss(m, beta=0.5, label_smoothing=0.2), 2.0, 0.5132617),
        (lambda m: sigmoid_preference_loss(m, beta=0.5, label_smoothing=0.2), -2.0, 1.1132617),
        (lambda m: sigmoid_preference_loss(m, beta=0.5, label_smoothing=0.5), -2.0, 0.8132617),
        (lambda m: hinge_preference_loss(m, beta=0.5), -1.0, 1.5),
        (lambda m: hinge_preference_loss(m, beta=0.5), 0.0, 1.0),
        (lambda m: hinge_preference_loss(m, beta=0.5), 1.5, 0.25),
        (lambda m: hinge_preference_loss(m, beta=0.5), 2.5, 0.0),
        (lambda m: identity_preference_loss(m, beta=0.25), 0.0, 4.0),
        (lambda m: identity_preference_loss(m, beta=0.25), 2.0, 0.0),
        (lambda m: identity_preference_loss(m, beta=0.25), 3.0, 1.0),
        (lambda m: robust_preference_loss(m, beta=0.5, label_noise=0.0), 2.0, 0.3132617),
        (lambda m: robust_preference_loss(m, beta=0.5, label_noise=0.2), 2.0, -0.0200716),
        (lambda m: robust_preference_loss(m, beta=0.5, label_noise=0.2), -2.0, 1.6465950),
    ],
)
def test_constants_of_the_functions(function: Callable[[Tensor], Tensor], margin: float, expected: float) -> None:
    loss = function(torch.tensor([margin, margin], dtype=torch.float64))
    torch.testing.assert_close(loss, torch.full((2,), expected, dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (lambda m: sigmoid_preference_loss(m, beta=0.5), -0.5 * 0.2689414),
        (
            lambda m: sigmoid_preference_loss(m, beta=0.5, label_smoothing=0.2),
            0.5 * (-0.8 * 0.2689414 + 0.2 * 0.7310586),
        ),
        (lambda m: hinge_preference_loss(m, beta=0.25), -0.25),
        (lambda m: hinge_preference_loss(m, beta=0.75), 0.0),
        (lambda m: identity_preference_loss(m, beta=0.125), -4.0),
        (
            lambda m: robust_preference_loss(m, beta=0.5, label_noise=0.2),
            0.5 * (-0.8 * 0.2689414 - 0.2 * 0.7310586) / 0.6,
        ),
    ],
)
def test_slopes_of_the_functions(function: Callable[[Tensor], Tensor], slope: float) -> None:
    """At m = 2, where σ(-1) = 0.2689414 and σ(1) = 0.7310586."""
    margin = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    [gradient] = torch.autograd.grad(function(margin).sum(), margin)
    assert gradient.item() == pytest.approx(slope, abs=1e-7)


def test_supervised_loss_is_per_decision() -> None:
    log_probs = torch.tensor([-6.0, -1.0, -5.0], requires_grad=True)
    loss = supervised_loss(log_probs, torch.tensor([3, 1, 2]))
    torch.testing.assert_close(loss.detach(), torch.tensor([2.0, 1.0, 2.5]))
    [gradient] = torch.autograd.grad(loss.sum(), log_probs)
    torch.testing.assert_close(gradient, torch.tensor([-1 / 3, -1.0, -0.5]))


def test_log_ratios_and_margin() -> None:
    pairs = pairs_of([-1.0], [-4.0], [-3.0], [-5.0])
    assert pairs.chosen_log_ratio.tolist() == [2.0]
    assert pairs.rejected_log_ratio.tolist() == [1.0]
    assert pairs.margin.tolist() == [1.0]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (SigmoidPreferenceLoss(beta=0.5), 0.3132617),
        (SigmoidPreferenceLoss(beta=0.5, label_smoothing=0.2), 0.5132617),
        (HingePreferenceLoss(beta=0.25), 0.5),
        (RobustPreferenceLoss(beta=0.5, label_noise=0.2), -0.0200716),
    ],
)
def test_constants_of_the_losses(loss: PreferenceLoss, expected: float) -> None:
    """Log-ratios of 1 and -1: the margin is 2."""
    pairs = pairs_of([-3.0], [-4.0], [-4.0], [-3.0], ([3], [2]))
    assert loss(pairs).tolist() == pytest.approx([expected], abs=1e-7)


def test_the_identity_loss_takes_log_ratios_per_decision() -> None:
    """Log-ratios of 6 in three decisions and of -1 in two: 2 + 0.5, led to 2."""
    pairs = pairs_of([-3.0], [-4.0], [-9.0], [-3.0], ([3], [2]))
    assert IdentityPreferenceLoss(beta=0.25)(pairs).tolist() == [0.25]


@pytest.mark.parametrize("name", ["sigmoid", "smoothed", "hinge", "robust"])
def test_only_the_identity_loss_looks_at_lengths(name: str) -> None:
    one, many = (pairs_of([-2.0], [-4.0], lengths=own) for own in (([1], [1]), ([5], [2])))
    assert torch.equal(LOSSES[name](one), LOSSES[name](many))
    assert not torch.equal(LOSSES["identity"](one), LOSSES["identity"](many))


def test_the_defaults() -> None:
    assert DPOObjective() == DPOObjective(loss=SigmoidPreferenceLoss(beta=0.1, label_smoothing=0.0), sft_coefficient=0)
    assert HingePreferenceLoss().beta == IdentityPreferenceLoss().beta == 0.1
    assert RobustPreferenceLoss(label_noise=0.1).beta == 0.1


def test_metrics_of_the_objective() -> None:
    pairs = pairs_of([-1.0, -3.0, -2.0], [-3.0, -1.0, -2.0], [-2.0, -2.0, -1.0], [-2.5, -1.5, -1.0])
    terms = DPOObjective(loss=SigmoidPreferenceLoss(beta=0.5))(pairs)
    expected = {
        "rewards/chosen": [0.5, -0.5, -0.5],
        "rewards/rejected": [-0.25, 0.25, -0.5],
        "rewards/margins": [0.75, -0.75, 0.0],
        "rewards/accuracies": [1.0, 0.0, 0.0],
        "logps/chosen": [-1.0, -3.0, -2.0],
        "logps/rejected": [-3.0, -1.0, -2.0],
    }
    assert {name: values.tolist() for name, values in terms.metrics.items()} == expected
    assert not any(values.requires_grad for values in terms.metrics.values())
    assert torch.equal(terms.loss, SigmoidPreferenceLoss(beta=0.5)(pairs))


def test_the_supervised_part_is_added_by_its_coefficient() -> None:
    pairs = pairs_of([-6.0, -1.0], [-3.0, -2.0], lengths=([3, 1], [1, 4]))
    plain = DPOObjective(loss=HingePreferenceLoss())(pairs)
    terms = DPOObjective(loss=HingePreferenceLoss(), sft_coefficient=0.25)(pairs)
    assert "sft_loss" not in plain.metrics
    assert terms.metrics["sft_loss"].tolist() == [2.0, 1.0]
    assert not terms.metrics["sft_loss"].requires_grad
    torch.testing.assert_close(terms.loss - plain.loss, torch.tensor([0.5, 0.25], dtype=torch.float64))


@every_loss
def test_rewards_are_reported_by_the_beta_of_the_loss(loss: PreferenceLoss) -> None:
    pairs = pairs_of([-1.0], [-3.0], [-2.0], [-2.0], ([4], [2]))
    assert DPOObjective(loss=loss)(pairs).metrics["rewards/margins"].tolist() == [loss.beta * 2.0]


@every_loss
@every_dtype
@pytest.mark.parametrize("margin", [-1e30, -1e5, -200.0, 0.0, 200.0, 1e5, 1e30])
def test_extreme_margins_stay_finite(loss: PreferenceLoss, dtype: torch.dtype, margin: float) -> None:
    if isinstance(loss, IdentityPreferenceLoss) and dtype == torch.float32:
        margin = max(min(margin, 1e18), -1e18)  # whose square still is a float32
    pairs = pairs_of([margin / 2], [-margin / 2], dtype=dtype)
    terms = DPOObjective(loss=loss, sft_coefficient=0.1)(pairs)
    gradients = torch.autograd.grad(terms.loss.sum(), (pairs.chosen, pairs.rejected))
    assert all(own.isfinite().all() for own in (terms.loss, *gradients, *terms.metrics.values()))
    assert all(own.dtype == dtype for own in (terms.loss, *gradients, *terms.metrics.values()))


@given(margin=MARGINS, beta=BETAS)
def test_smoothing_of_one_half_and_no_smoothing(margin: float, beta: float) -> None:
    """ε = 0.5 cannot tell the actions apart; ε = 0 is plain DPO for smoothing and for the robust loss."""
    m = torch.tensor([margin], dtype=torch.float64)
    half = [sigmoid_preference_loss(own, beta=beta, label_smoothing=0.5) for own in (m, -m)]
    torch.testing.assert_close(*half)
    plain = sigmoid_preference_loss(m, beta=beta)
    torch.testing.assert_close(sigmoid_preference_loss(m, beta=beta, label_smoothing=1e-15), plain)
    torch.testing.assert_close(robust_preference_loss(m, beta=beta, label_noise=0.0), plain)


@given(margin=MARGINS, beta=BETAS, noise=st.floats(0, 0.45))
def test_the_robust_loss_is_unbiased_under_flipped_labels(margin: float, beta: float, noise: float) -> None:
    """Its expectation, the right label with 1 - ε and the wrong one with ε, is DPO's loss on the right label."""
    m = torch.tensor([margin], dtype=torch.float64)
    right, wrong = (robust_preference_loss(own, beta=beta, label_noise=noise) for own in (m, -m))
    expected = (1 - noise) * right + noise * wrong
    torch.testing.assert_close(expected, sigmoid_preference_loss(m, beta=beta), rtol=1e-9, atol=1e-9)


@given(margin=MARGINS, beta=BETAS, smoothing=st.floats(0, 0.5))
def test_smoothing_is_the_expectation_under_flipped_labels(margin: float, beta: float, smoothing: float) -> None:
    m = torch.tensor([margin], dtype=torch.float64)
    right, wrong = (sigmoid_preference_loss(own, beta=beta) for own in (m, -m))
    smoothed = sigmoid_preference_loss(m, beta=beta, label_smoothing=smoothing)
    torch.testing.assert_close(smoothed, (1 - smoothing) * right + smoothing * wrong)


@every_loss
@given(margins=st.lists(MARGINS, min_size=1, max_size=5))
def test_the_losses_are_those_of_each_pair_by_itself(loss: PreferenceLoss, margins: list[float]) -> None:
    zeros = [0.0] * len(margins)
    alone = [loss(pairs_of([margin], [0.0])).item() for margin in margins]
    assert loss(pairs_of(margins, zeros)).tolist() == pytest.approx(alone, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: SigmoidPreferenceLoss(beta=0), "beta"),
        (lambda: SigmoidPreferenceLoss(beta=math.nan), "beta"),
        (lambda: SigmoidPreferenceLoss(beta=math.inf), "beta"),
        (lambda: SigmoidPreferenceLoss(label_smoothing=0.6), "label_smoothing"),
        (lambda: SigmoidPreferenceLoss(label_smoothing=-0.1), "label_smoothing"),
        (lambda: HingePreferenceLoss(beta=-1), "beta"),
        (lambda: IdentityPreferenceLoss(beta=0), "beta"),
        (lambda: RobustPreferenceLoss(label_noise=0.5), "label_noise"),
        (lambda: RobustPreferenceLoss(label_noise=-0.1), "label_noise"),
        (lambda: RobustPreferenceLoss(), "label_noise"),  # type: ignore[call-arg]
        (lambda: DPOObjective(sft_coefficient=-1), "sft_coefficient"),
        (lambda: DPOObjective(loss=lambda pairs: pairs.margin), "loss"),
        (lambda: DPOObjective(beta=0.1), "beta"),  # type: ignore[call-arg]
    ],
)
def test_settings_out_of_range(build: Callable[[], Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        build()


def test_the_bounds_of_the_settings_are_allowed() -> None:
    assert SigmoidPreferenceLoss(label_smoothing=0.5).label_smoothing == 0.5
    assert RobustPreferenceLoss(label_noise=0).label_noise == 0
    assert DPOObjective(sft_coefficient=0).sft_coefficient == 0


def test_a_loss_of_ones_own() -> None:
    class Exponential:
        beta = 2.0

        def __call__(self, pairs: PairLogProbs) -> Tensor:
            return (-self.beta * pairs.margin).exp()

    objective = DPOObjective(loss=Exponential())
    assert isinstance(objective, PreferenceObjective)
    terms = objective(pairs_of([0.0], [-1.0]))
    assert isinstance(terms, Terms)
    assert terms.loss.tolist() == pytest.approx([math.exp(-2)])
    assert terms.metrics["rewards/margins"].tolist() == [2.0]
