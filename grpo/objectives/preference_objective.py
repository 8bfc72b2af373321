"""Losses on pairs of actions of which one was preferred.

They are pure functions per pair, with an objective around them for a trainer to take.

The implicit reward of an action is β Δ, where Δ = log π(a|s) - log π_ref(a|s) is the log-ratio of the whole sample; the
margin of a pair is Δ of the chosen less Δ of the rejected action.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid
from typing_extensions import Protocol, runtime_checkable

from grpo.config._frozen_model import FrozenModel
from grpo.data.decisions import Terms
from grpo.data.preferences import PairLogProbs


def sigmoid_preference_loss(margin: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO's loss, -(1 - ε) log σ(β m) - ε log σ(-β m), per pair.

    Args:
        margin: m = Δ_chosen - Δ_rejected, [P], nats.
        beta: β > 0.
        label_smoothing: ε in [0, 0.5], how likely a label is taken to be wrong; 0 for plain DPO.

    Returns:
        The loss of each pair, [P], to be minimised.

    References:
        Rafailov et al. 2023, arXiv:2305.18290, eq. 7; with ε (conservative DPO): Mitchell 2023, "A note on DPO with
        noisy preferences & relationship to IPO".

    Example:
        >>> sigmoid_preference_loss(torch.tensor([0.0, 10.0]), beta=0.1)
        tensor([0.6931, 0.3133])
    """
    loss = -logsigmoid(beta * margin)
    if label_smoothing == 0:
        return loss
    return (1 - label_smoothing) * loss - label_smoothing * logsigmoid(-beta * margin)


def hinge_preference_loss(margin: Tensor, *, beta: float) -> Tensor:
    """SLiC's loss, max(0, 1 - β m), on DPO's margin, per pair.

    Args:
        margin: m = Δ_chosen - Δ_rejected, [P], nats.
        beta: β > 0.

    Returns:
        The loss of each pair, [P], to be minimised.

    References:
        Zhao et al. 2023, arXiv:2305.10425; on DPO's margin: Liu et al. 2024, arXiv:2309.06657.

    Example:
        >>> hinge_preference_loss(torch.tensor([-5.0, 4.0, 20.0]), beta=0.1)
        tensor([1.5000, 0.6000, 0.0000])
    """
    return (1 - beta * margin).relu()


def identity_preference_loss(margin: Tensor, *, beta: float) -> Tensor:
    """IPO's loss, (m - 1/(2β))², per pair: the margin is led to a number and not beyond.

    Args:
        margin: m = Δ_chosen - Δ_rejected, [P], nats. :class:`IdentityPreferenceLoss` takes Δ per decision.
        beta: β > 0, the paper's τ.

    Returns:
        The loss of each pair, [P], to be minimised.

    References:
        Azar et al. 2023, arXiv:2310.12036, eq. 17.

    Example:
        >>> identity_preference_loss(torch.tensor([0.0, 5.0, 7.0]), beta=0.1)
        tensor([25.,  0.,  4.])
    """
    return (margin - 1 / (2 * beta)).square()


def robust_preference_loss(margin: Tensor, *, beta: float, label_noise: float) -> Tensor:
    """Robust DPO's loss, (-(1 - ε) log σ(β m) + ε log σ(-β m)) / (1 - 2ε), per pair.

    Where a fraction ε of the labels is wrong at random, its expectation is DPO's loss on the right ones.

    Args:
        margin: m = Δ_chosen - Δ_rejected, [P], nats.
        beta: β > 0.
        label_noise: ε in [0, 0.5).

    Returns:
        The loss of each pair, [P], to be minimised; it may be negative.

    References:
        Chowdhury et al. 2024, arXiv:2403.00409.

    Example:
        >>> robust_preference_loss(torch.tensor([0.0, 10.0]), beta=0.1, label_noise=0.25)
        tensor([ 0.6931, -0.1867])
    """
    right, wrong = -logsigmoid(beta * margin), -logsigmoid(-beta * margin)
    return ((1 - label_noise) * right - label_noise * wrong) / (1 - 2 * label_noise)


def supervised_loss(chosen_log_probs: Tensor, chosen_lengths: Tensor) -> Tensor:
    """Negative log-likelihood of the chosen action per decision, -log π(a|s) by the number of decisions, per pair.

    Args:
        chosen_log_probs: log π(a|s) of each whole chosen action, [P], nats.
        chosen_lengths: its decisions, [P].

    Returns:
        The loss of each pair, [P], nats a decision.

    References:
        Pang et al. 2024, arXiv:2404.19733, eq. 1.

    Example:
        >>> supervised_loss(torch.tensor([-6.0, -1.0]), torch.tensor([3, 1]))
        tensor([2., 1.])
    """
    return -chosen_log_probs / chosen_lengths


@runtime_checkable
class PreferenceLoss(Protocol):
    """Anything that turns the log-probs of pairs into a loss for each pair."""

    @property
    def beta(self) -> float:
        """β, the scale of the implicit rewards, by which they are reported."""
        ...

    def __call__(self, pairs: PairLogProbs, /) -> Tensor:
        """The loss of each pair, [P]."""
        ...


class SigmoidPreferenceLoss(FrozenModel):
    """DPO's loss, :func:`sigmoid_preference_loss`.

    Attributes:
        beta: β > 0.
        label_smoothing: ε in [0, 0.5].

    Example:
        >>> chosen, rejected, reference, length = (torch.tensor([number]) for number in (-1.0, -3.0, -2.0, 1.0))
        >>> pairs = PairLogProbs(chosen, rejected, reference, reference, length, length)  # with a margin of 1 + 1
        >>> SigmoidPreferenceLoss(beta=0.5)(pairs)  # -log σ(0.5 * 2)
        tensor([0.3133])
    """

    beta: PositiveFloat = 0.1
    label_smoothing: float = Field(0.0, ge=0, le=0.5)

    def __call__(self, pairs: PairLogProbs) -> Tensor:
        """The loss of each pair, [P]."""
        return sigmoid_preference_loss(pairs.margin, beta=self.beta, label_smoothing=self.label_smoothing)


class HingePreferenceLoss(FrozenModel):
    """SLiC's loss on DPO's margin, :func:`hinge_preference_loss`.

    Attributes:
        beta: β > 0.

    Example:
        >>> chosen, rejected, reference, length = (torch.tensor([number]) for number in (-1.0, -3.0, -2.0, 1.0))
        >>> pairs = PairLogProbs(chosen, rejected, reference, reference, length, length)  # with a margin of 1 + 1
        >>> DPOObjective(loss=HingePreferenceLoss(beta=0.25))(pairs).loss
        tensor([0.5000])
    """

    beta: PositiveFloat = 0.1

    def __call__(self, pairs: PairLogProbs) -> Tensor:
        """The loss of each pair, [P]."""
        return hinge_preference_loss(pairs.margin, beta=self.beta)


class IdentityPreferenceLoss(FrozenModel):
    """IPO's loss, :func:`identity_preference_loss`, on log-ratios per decision.

    A log-ratio grows with the length of the action, the number that IPO leads the margin to does not, so each action
    enters with Δ divided by its decisions.

    Attributes:
        beta: β > 0, the paper's τ.

    Example:
        >>> chosen, rejected, reference, length = (torch.tensor([number]) for number in (-1.0, -6.0, -2.0, 1.0))
        >>> pairs = PairLogProbs(chosen, rejected, reference, reference, length, 2 * length)  # a margin of 1/1 + 4/2
        >>> IdentityPreferenceLoss(beta=0.5)(pairs)  # (3 - 1)²
        tensor([4.])
    """

    beta: PositiveFloat = 0.1

    def __call__(self, pairs: PairLogProbs) -> Tensor:
        """The loss of each pair, [P]."""
        chosen = pairs.chosen_log_ratio / pairs.chosen_lengths
        rejected = pairs.rejected_log_ratio / pairs.rejected_lengths
        return identity_preference_loss(chosen - rejected, beta=self.beta)


class RobustPreferenceLoss(FrozenModel):
    """Robust DPO's loss, :func:`robust_preference_loss`.

    Attributes:
        beta: β > 0.
        label_noise: fraction of the labels that is wrong, ε in [0, 0.5).

    Example:
        >>> chosen, rejected, reference, length = (torch.tensor([number]) for number in (-1.0, -3.0, -2.0, 1.0))
        >>> pairs = PairLogProbs(chosen, rejected, reference, reference, length, length)  # with a margin of 1 + 1
        >>> SigmoidPreferenceLoss(beta=0.5)(pairs), RobustPreferenceLoss(beta=0.5, label_noise=0.25)(pairs)
        (tensor([0.3133]), tensor([-0.1867]))
    """

    beta: PositiveFloat = 0.1
    label_noise: Annotated[float, Field(ge=0, lt=0.5)]

    def __call__(self, pairs: PairLogProbs) -> Tensor:
        """The loss of each pair, [P]."""
        return robust_preference_loss(pairs.margin, beta=self.beta, label_noise=self.label_noise)


@runtime_checkable
class PreferenceObjective(Protocol):
    """Anything that turns the log-probs of pairs into a loss for each pair, and metrics.

    A function will do. The trainer averages loss and metrics over the pairs of an optimiser step.
    """

    def __call__(self, pairs: PairLogProbs, /) -> Terms:
        """Loss and metrics of each pair, [P] each."""
        ...


class DPOObjective(FrozenModel):
    """A preference loss, and the chosen actions' own likelihood where asked for.

    Attributes:
        loss: on the pairs; :class:`SigmoidPreferenceLoss` or another, or your own.
        sft_coefficient: weight of :func:`supervised_loss`, 0 for none.

    References:
        Rafailov et al. 2023, arXiv:2305.18290; with the likelihood: Pang et al. 2024, arXiv:2404.19733.

    Example:
        >>> lengths = torch.ones(1)
        >>> pairs = PairLogProbs(*(torch.tensor([x]) for x in (-1.0, -3.0, -2.0, -2.0)), lengths, lengths)
        >>> terms = DPOObjective(loss=SigmoidPreferenceLoss(beta=0.5))(pairs)
        >>> terms.loss, terms.metrics["rewards/margins"]
        (tensor([0.3133]), tensor([1.]))
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    loss: PreferenceLoss = Field(default_factory=SigmoidPreferenceLoss)
    sft_coefficient: NonNegativeFloat = 0.0

    def __call__(self, pairs: PairLogProbs) -> Terms:
        """Loss and metrics of each pair, [P] each."""
        loss = self.loss(pairs)
        with torch.no_grad():
            chosen_rewards = self.loss.beta * pairs.chosen_log_ratio
            rejected_rewards = self.loss.beta * pairs.rejected_log_ratio
            metrics = {
                "rewards/chosen": chosen_rewards,
                "rewards/rejected": rejected_rewards,
                "rewards/margins": chosen_rewards - rejected_rewards,
                "rewards/accuracies": (chosen_rewards > rejected_rewards).to(chosen_rewards.dtype),
                "logps/chosen": pairs.chosen.detach(),
                "logps/rejected": pairs.rejected.detach(),
            }
        if self.sft_coefficient > 0:
            supervised = supervised_loss(pairs.chosen, pairs.chosen_lengths)
            loss = loss + self.sft_coefficient * supervised
            metrics["sft_loss"] = supervised.detach()
        return Terms(loss, metrics)
