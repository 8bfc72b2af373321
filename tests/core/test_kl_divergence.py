"""KL estimators: zero on agreement, k3 never negative, and the same expectation, which is the divergence."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo import kl_k1, kl_k2, kl_k3

Estimator = Callable[[Tensor, Tensor], Tensor]
every_estimator = pytest.mark.parametrize("estimator", [kl_k1, kl_k2, kl_k3])
log_prob = st.floats(-30, 0)
logits = st.lists(st.floats(-2, 2), min_size=4, max_size=4)


@pytest.mark.parametrize(("estimator", "expected"), [(kl_k1, 0.5), (kl_k2, 0.125), (kl_k3, 0.10653066)])
def test_constants(estimator: Estimator, expected: float) -> None:
    # d = -1.5 - (-1) = -0.5; e^-0.5 + 0.5 - 1 = 0.10653066
    value = estimator(torch.tensor([-1.0]), torch.tensor([-1.5]))
    torch.testing.assert_close(value, torch.tensor([expected]))


@every_estimator
@given(value=log_prob)
def test_zero_where_both_agree(estimator: Estimator, value: float) -> None:
    log_probs = torch.tensor([value])
    assert estimator(log_probs, log_probs.clone()).item() == 0


@given(log_prob, log_prob)
def test_k3_is_never_negative(left: float, right: float) -> None:
    assert kl_k3(torch.tensor([left]), torch.tensor([right])).item() >= 0


@given(logits, logits)
def test_k1_and_k3_have_the_divergence_as_expectation(left: list[float], right: list[float]) -> None:
    log_p = torch.tensor(left, dtype=torch.float64).log_softmax(0)
    log_q = torch.tensor(right, dtype=torch.float64).log_softmax(0)
    divergence = (log_p.exp() * (log_p - log_q)).sum()
    for estimator in (kl_k1, kl_k3):
        torch.testing.assert_close((log_p.exp() * estimator(log_p, log_q)).sum(), divergence)


@given(logits)
def test_the_gradient_of_k2_is_that_of_the_divergence_in_expectation(reference: list[float]) -> None:
    log_q = torch.tensor(reference, dtype=torch.float64).log_softmax(0)
    parameters = torch.tensor([0.3, -0.2, 0.9, 0.0], dtype=torch.float64, requires_grad=True)
    log_p = parameters.log_softmax(0)
    [expected] = torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(), parameters, retain_graph=True)
    [of_k2] = torch.autograd.grad((log_p.detach().exp() * kl_k2(log_p, log_q)).sum(), parameters, retain_graph=True)
    torch.testing.assert_close(of_k2, expected)
    [of_k1] = torch.autograd.grad((log_p.detach().exp() * kl_k1(log_p, log_q)).sum(), parameters)
    torch.testing.assert_close(of_k1, torch.zeros_like(of_k1))


@every_estimator
def test_log_ratios_beyond_the_clamp_stay_finite_and_have_no_gradient(estimator: Estimator) -> None:
    log_probs = torch.tensor([-1000.0, -0.5], requires_grad=True)
    value = estimator(log_probs, torch.tensor([-0.5, -1000.0]))
    assert value.isfinite().all()
    [gradient] = torch.autograd.grad(value.sum(), log_probs)
    assert not gradient.any()
