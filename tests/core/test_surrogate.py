"""Surrogates: constants worked out by hand, and their gradients where the policy has not moved."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo import (
    ClippedImportanceSurrogate,
    ClippedSurrogate,
    Decisions,
    SampleClippedSurrogate,
    ScoreFunctionSurrogate,
    Segments,
    Surrogate,
    clipped_importance_surrogate,
    clipped_surrogate,
    probability_ratio,
    sample_probability_ratio,
)
from grpo.data.needs import needs_of

SURROGATES: list[Surrogate] = [
    ClippedSurrogate(),
    SampleClippedSurrogate(),
    ClippedImportanceSurrogate(),
    ScoreFunctionSurrogate(),
]
every_surrogate = pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda surrogate: type(surrogate).__name__)


def decisions(advantages: list[float], old: list[float] | None, lengths: list[int] | None = None) -> Decisions:
    return Decisions(
        torch.tensor(advantages),
        None if old is None else torch.tensor(old),
        None,
        Segments.of_lengths(lengths or [1] * len(advantages)),
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 2.0, -2.0),
        (1.3, 2.0, -2.5),  # above 1.25 with A > 0: clipped
        (0.5, 2.0, -1.0),  # below with A > 0: not
        (1.3, -2.0, 2.6),  # above with A < 0: not
        (0.5, -2.0, 1.6),  # below 0.8 with A < 0: clipped
        (9.0, -2.0, 6.0),  # bounded by 3 where A < 0
        (9.0, 2.0, -2.5),
    ],
)
def test_clipped_surrogate_constants(ratio: float, advantage: float, expected: float) -> None:
    loss = clipped_surrogate(
        torch.tensor([ratio]), torch.tensor([advantage]), clip_low=0.2, clip_high=0.25, dual_clip=3.0
    )
    torch.testing.assert_close(loss, torch.tensor([expected]))


def test_sample_ratio_is_the_geometric_mean_of_each_sample() -> None:
    log_probs, old = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -1.0, -0.7])
    ratio = sample_probability_ratio(log_probs, old, Segments.of_lengths([2, 1]))
    torch.testing.assert_close(ratio, torch.tensor([math.exp(-0.25), math.exp(-0.25), math.exp(0.2)]))


def test_surrogate_losses_and_metrics() -> None:
    log_probs = torch.tensor([math.log(0.6), math.log(0.2)])
    given_ = decisions([1.0, -1.0], [math.log(0.4), math.log(0.4)])  # ratios 1.5 and 0.5
    clipped = ClippedSurrogate()(log_probs, given_)
    torch.testing.assert_close(clipped.loss, torch.tensor([-1.2, 0.8]))
    assert clipped.metrics["clip_fraction"].tolist() == [1.0, 1.0]
    assert clipped.metrics["clip_fraction_low"].tolist() == [0.0, 1.0]
    assert clipped.metrics["clip_fraction_high"].tolist() == [1.0, 0.0]
    torch.testing.assert_close(clipped.metrics["approx_kl"], torch.tensor([0.5 - math.log(1.5), -0.5 - math.log(0.5)]))
    cispo = ClippedImportanceSurrogate(max_ratio=1.2)(log_probs, given_)
    torch.testing.assert_close(cispo.loss, torch.tensor([-1.2 * math.log(0.6), 0.5 * math.log(0.2)]))
    assert cispo.metrics["clip_fraction"].tolist() == [1.0, 0.0]
    reinforce = ScoreFunctionSurrogate()(log_probs, given_)
    torch.testing.assert_close(reinforce.loss, torch.tensor([-math.log(0.6), math.log(0.2)]))


def test_gspo_clips_a_sample_as_a_whole() -> None:
    log_probs = torch.tensor([0.1, -0.1, 0.01])
    terms = SampleClippedSurrogate(clip_low=0.001, clip_high=0.002)(
        log_probs, decisions([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [2, 1])
    )
    torch.testing.assert_close(terms.loss, torch.tensor([-1.0, -1.0, -1.002]))
    assert terms.metrics["clip_fraction"].tolist() == [0.0, 0.0, 1.0]


@every_surrogate
@given(
    log_probs=st.lists(st.floats(-5, 0, width=32), min_size=1, max_size=6),
    advantages=st.lists(st.floats(-5, 5, width=32), min_size=6, max_size=6),
    noted=st.booleans(),
)
def test_where_the_policy_has_not_moved_the_gradient_is_that_of_reinforce(
    surrogate: Surrogate, log_probs: list[float], advantages: list[float], noted: bool
) -> None:
    """The ratio is 1, whether old log-probs were noted or are left out."""
    current = torch.tensor(log_probs, requires_grad=True)
    given_ = decisions(advantages[: len(log_probs)], log_probs if noted else None, [len(log_probs)])
    terms = surrogate(current, given_)
    [gradient] = torch.autograd.grad(terms.loss.sum(), current)
    # GSPO gives every decision of a sample the mean of their gradients
    advantage = given_.advantages
    whole = needs_of(surrogate).whole_samples
    expected = advantage.mean().expand_as(advantage) if whole else advantage
    torch.testing.assert_close(gradient, -expected, rtol=1e-5, atol=1e-5)
    assert all(not values.any() for values in terms.metrics.values())


@given(st.floats(-200, 0), st.floats(-200, 0))
def test_ratios_stay_finite_with_no_gradient_beyond_the_clamp(new: float, old: float) -> None:
    log_probs = torch.tensor([new], requires_grad=True)
    ratio = probability_ratio(log_probs, torch.tensor([old]))
    [gradient] = torch.autograd.grad(ratio.sum(), log_probs)
    assert ratio.isfinite().all()
    assert bool(gradient) == (abs(torch.tensor(new) - torch.tensor(old)) <= 20)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"clip_low": -0.1}, "clip_low"),
        ({"clip_low": 1.1}, "clip_low"),
        ({"clip_high": -0.1}, "clip_high"),
        ({"dual_clip": 1.1}, r"more than 1 \+ clip_high = 1.2"),
        ({"clip": 0.2}, "clip"),
    ],
)
def test_bounds_out_of_range_are_refused(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClippedSurrogate(**bad)


def test_terms_are_elementwise() -> None:
    """A decision's loss does not depend on the other samples, so that any split gives the same sum."""
    log_probs = torch.randn(6, generator=torch.Generator().manual_seed(0))
    old = torch.randn(6, generator=torch.Generator().manual_seed(1))
    advantages = torch.randn(6, generator=torch.Generator().manual_seed(2))
    for surrogate in SURROGATES:
        whole = surrogate(log_probs, Decisions(advantages, old, None, Segments(3, 2))).loss
        parts: list[Tensor] = [
            surrogate(log_probs[i : i + 2], Decisions(advantages[i : i + 2], old[i : i + 2], None, Segments(1, 2))).loss
            for i in (0, 2, 4)
        ]
        torch.testing.assert_close(torch.cat(parts), whole)


def test_no_gradient_flows_through_the_weight_of_cispo() -> None:
    log_probs = torch.tensor([-1.0, -2.0], requires_grad=True)
    ratio = probability_ratio(log_probs, torch.tensor([-1.5, -1.5]))
    loss = clipped_importance_surrogate(log_probs, ratio, torch.tensor([1.0, -3.0]), max_ratio=1.2)
    [gradient] = torch.autograd.grad(loss.sum(), log_probs)
    torch.testing.assert_close(gradient, torch.tensor([-1.2, 3 * math.exp(-0.5)]))


def test_clip_fraction_counts_what_the_dual_clip_bounds() -> None:
    terms = ClippedSurrogate(dual_clip=3.0)(torch.tensor([2.0]), decisions([-1.0], [0.0]))
    assert terms.metrics["clip_fraction"].tolist() == [1.0]
