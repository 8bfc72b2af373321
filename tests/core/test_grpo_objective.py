"""The objective: the sum of its parts, by hand."""

import math

import pytest
import torch

from grpo import Decisions, Evaluation, GRPOObjective, ScoreFunctionSurrogate, Segments, Terms


def decisions(*, reference: list[float] | None = None, old: list[float] | None = None) -> Decisions:
    return Decisions(
        torch.tensor([1.0, -2.0]),
        None if old is None else torch.tensor(old),
        None if reference is None else torch.tensor(reference),
        Segments(2, 1),
    )


def test_parts_add_up() -> None:
    log_probs = torch.tensor([-1.0, -0.5])
    objective = GRPOObjective(surrogate=ScoreFunctionSurrogate(), kl_coefficient=0.1, entropy_coefficient=0.01)
    terms = objective(Evaluation(log_probs, torch.tensor([0.7, 0.3])), decisions(reference=[-1.2, -0.5]))
    k3 = math.exp(-0.2) + 0.2 - 1
    torch.testing.assert_close(terms.loss, torch.tensor([1.0 + 0.1 * k3 - 0.007, -1.0 - 0.003]))
    torch.testing.assert_close(terms.metrics["kl"], torch.tensor([k3, 0.0]))
    torch.testing.assert_close(terms.metrics["entropy"], torch.tensor([0.7, 0.3]))


def test_importance_corrected_divergence_has_an_unbiased_gradient() -> None:
    """Sampling from an old policy, the expected gradient of ratio times k3 is the divergence's own."""
    logits = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([0.1, 0.2, -0.4], dtype=torch.float64).log_softmax(0)
    reference = torch.tensor([-0.2, 0.6, 0.0], dtype=torch.float64).log_softmax(0)
    log_probs = logits.log_softmax(0)
    [expected] = torch.autograd.grad((log_probs.exp() * (log_probs - reference)).sum(), logits, retain_graph=True)
    for corrected in (True, False):
        objective = GRPOObjective(kl_coefficient=1.0, kl_importance_correction=corrected)
        given = Decisions(torch.zeros(3, dtype=torch.float64), old, reference, Segments(3, 1))
        loss = (old.exp() * objective(Evaluation(log_probs), given).loss).sum()
        [gradient] = torch.autograd.grad(loss, logits, retain_graph=True)
        assert torch.allclose(gradient, expected) is corrected


def test_the_users_own_surrogate() -> None:
    def doubled(log_probs: torch.Tensor, given: Decisions) -> Terms:
        return Terms(-2 * given.advantages * log_probs, {"mine": given.advantages})

    terms = GRPOObjective(surrogate=doubled)(Evaluation(torch.tensor([-1.0, -1.0])), decisions())
    assert terms.loss.tolist() == [2.0, -4.0]
    assert terms.metrics["mine"].tolist() == [1.0, -2.0]


def test_a_divergence_needs_reference_log_probs() -> None:
    with pytest.raises(ValueError, match="needs a reference policy"):
        GRPOObjective(kl_coefficient=0.1)(Evaluation(torch.tensor([-1.0, -1.0])), decisions())


def test_an_entropy_bonus_needs_an_entropy() -> None:
    with pytest.raises(ValueError, match=r"return Evaluation\(log_probs, entropy\)"):
        GRPOObjective(entropy_coefficient=0.1)(Evaluation(torch.tensor([-1.0, -1.0])), decisions())
