"""Credit along an episode, decision by decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from grpo.advantages.estimator import AdvantageEstimate
from grpo.config._frozen_model import Fraction, FrozenModel
from grpo.data.evaluation import ValueEstimates
from grpo.data.experience import Experience
from grpo.data.needs import NOTHING, Needs, needs_of
from grpo.data.segments import Segments
from grpo.data.shared_segments import SharedSegments


def episode_returns(rewards: Tensor, episodes: Segments, *, discount: float | Tensor) -> Tensor:
    """Discounted return of the whole episode, Σ_l γ^l r_l from its first decision on, at each of its decisions.

    Args:
        rewards: r, [D].
        episodes: the D decisions cut into episodes.
        discount: γ in [0, 1], or one for each decision, [D]: what the return of the next is worth.

    Returns:
        [D], equal within an episode.

    Example:
        >>> episode_returns(torch.tensor([1.0, 1.0, 5.0]), Segments.of_lengths([2, 1]), discount=0.5)
        tensor([1.5000, 1.5000, 5.0000])
    """
    return episodes.expand(rewards_to_go(rewards, episodes, discount=discount)[episodes.starts])


def rewards_to_go(rewards: Tensor, episodes: Segments, *, discount: float | Tensor) -> Tensor:
    """Discounted return from each decision on, G_t = Σ_l γ^l r_{t+l}: what came before a decision is not its doing.

    Args:
        rewards: r, [D].
        episodes: the D decisions cut into episodes.
        discount: γ in [0, 1], or one for each decision, [D]: what the return of the next is worth.

    Returns:
        [D].

    References:
        Sutton and Barto 2018, "Reinforcement Learning", section 13.3.

    Example:
        >>> rewards_to_go(torch.tensor([1.0, 1.0, 5.0]), Segments.of_lengths([2, 1]), discount=0.5)
        tensor([1.5000, 1.0000, 5.0000])
    """
    return episodes.discounted_sum(rewards, discount)


def generalized_advantages(
    rewards: Tensor, values: ValueEstimates, episodes: Segments, *, discount: float | Tensor, gae_lambda: float
) -> Tensor:
    """GAE, A_t = Σ_l (γλ)^l δ_{t+l} with δ_t = r_t + γV(s_{t+1}) - V(s_t), the sum ending with the episode.

    Args:
        rewards: r, [D].
        values: V(s_t) and V of the true successor, 0 where the episode terminated.
        episodes: the D decisions cut into episodes, or the pieces of them that were sampled.
        discount: γ in [0, 1], or one for each decision, [D]: what the return of the next is worth.
        gae_lambda: λ in [0, 1]: 0 trusts the critic, 1 the rewards.

    Returns:
        [D].

    References:
        Schulman et al. 2016, arXiv:1506.02438, eq. 16.

    Example:
        >>> values = ValueEstimates(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0]))
        >>> generalized_advantages(torch.tensor([1.0, 1.0]), values, Segments(1, 2), discount=0.5, gae_lambda=0.5)
        tensor([ 0.7500, -1.0000])
    """
    if isinstance(discount, Tensor):
        errors = rewards + discount * values.next_values - values.values
    else:
        errors = torch.add(rewards, values.next_values, alpha=discount) - values.values
    return episodes.discounted_sum(errors, discount * gae_lambda)


def discount_by_turns(experience: Experience, discount: float) -> float | Tensor:
    """γ after the last decision of each turn and 1 within it, [D]; γ itself where every decision is a turn."""
    turns = experience.turns
    if turns.uniform_length == 1 or discount == 1:
        return discount
    discounts = torch.ones(turns.total, dtype=experience.rewards.dtype, device=turns.device)
    discounts[turns.last] = discount
    return discounts


class GeneralizedAdvantage(FrozenModel):
    """Credits a decision by :func:`generalized_advantages`, as PPO does. The policy must have a critic.

    Attributes:
        discount: γ in [0, 1], from one turn to the next where batches tell of turns (:class:`grpo.HasTurns`).
        gae_lambda: λ in [0, 1], from one decision to the next.

    Example:
        >>> from grpo import PairBatch
        >>> batch = PairBatch(["s"], ["ab"], Segments(1, 2))  # one sample of two decisions
        >>> values = ValueEstimates(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0]))
        >>> experience = Experience(["s"], ["ab"], batch, Segments(1, 1), torch.tensor([3.0]), values=values)
        >>> estimate = GeneralizedAdvantage(discount=0.5, gae_lambda=0.5).estimate(experience)
        >>> estimate.advantages, estimate.returns
        (tensor([0.2500, 1.0000]), tensor([1.2500, 3.0000]))
    """

    discount: Fraction = 0.99
    gae_lambda: Fraction = 0.95
    needs: ClassVar[Needs] = replace(NOTHING, critic=True)

    def __call__(self, experience: Experience) -> Tensor:
        """Advantages of the decisions, [D]."""
        return self.estimate(experience).advantages

    def estimate(self, experience: Experience) -> AdvantageEstimate:
        """Advantages of the decisions, [D]; the critic should have expected the λ-return A + V."""
        values = values_of(experience)
        advantages = generalized_advantages(
            experience.decision_rewards,
            values,
            experience.episodes,
            discount=discount_by_turns(experience, self.discount),
            gae_lambda=self.gae_lambda,
        )
        return AdvantageEstimate(advantages, returns=advantages + values.values)


def values_of(experience: Experience) -> ValueEstimates:
    """The critic's values, which must be there."""
    if experience.values is None:
        raise ValueError(
            "experience has no values of a critic: the policy must have one (grpo.ActorCriticPolicy), and the "
            "estimator or its baseline must not declare grpo.Needs(critic=False)"
        )
    return experience.values


Baseline = Callable[[Experience, Tensor], Tensor]


@NOTHING
def mean_baseline(experience: Experience, returns: Tensor) -> Tensor:
    """The mean of all returns, at each decision, [D].

    A decision's own return is one of them, so the expected gradient is shorter than without a baseline: by the factor
    1 - 1/n where the returns are those of n independent samples of one decision each.

    Args:
        experience: what was sampled.
        returns: of each decision, [D].

    Returns:
        The same number at each decision, [D].

    Example:
        >>> from grpo import PairBatch
        >>> batch = PairBatch(["s", "s"], [0, 1], Segments(2, 1))
        >>> experience = Experience(["s", "s"], [0, 1], batch, Segments(1, 2), torch.tensor([4.0, 1.0]))
        >>> mean_baseline(experience, torch.tensor([4.0, 1.0])), MonteCarlo(baseline=mean_baseline)(experience)
        (tensor([2.5000, 2.5000]), tensor([ 1.5000, -1.5000]))
    """
    everything = SharedSegments.whole(len(returns), returns.device, experience.world)
    total, count = everything.sums(returns, torch.ones_like(returns))
    return everything.expand(total / count)


@replace(NOTHING, critic=True)
def value_baseline(experience: Experience, returns: Tensor) -> Tensor:
    """What the critic expects, [D]. It does not depend on the action, so it leaves the expected gradient as it is.

    Args:
        experience: what was sampled, with the critic's values.
        returns: of each decision, [D]; not looked at.

    Returns:
        V(s) at each decision, [D].

    Example:
        >>> from grpo import PairBatch
        >>> batch = PairBatch(["s"], [0], Segments(1, 1))
        >>> values = ValueEstimates(torch.tensor([0.5]), torch.tensor([0.0]))
        >>> experience = Experience(["s"], [0], batch, Segments(1, 1), torch.tensor([2.0]), values=values)
        >>> value_baseline(experience, torch.tensor([2.0])), MonteCarlo(baseline=value_baseline)(experience)
        (tensor([0.5000]), tensor([1.5000]))
    """
    return values_of(experience).values


@replace(NOTHING, group_size=2)
def group_time_baseline(experience: Experience, returns: Tensor) -> Tensor:
    """The mean of the returns in the group at the same time step, over the samples that got so far, [D].

    Samples of a group start from the same state, so it is an estimate of what that state and time were worth. A
    decision's own return is one of the n in the mean, which shortens its expected gradient by the factor 1 - 1/n.
    Where batches tell of turns (:class:`grpo.HasTurns`), time is counted in turns, and the return of a turn is that of
    its first decision, so that a long turn counts no more than a short one.

    Args:
        experience: what was sampled, in groups of at least two.
        returns: of each decision, [D].

    Returns:
        A mean for each decision, [D].

    Example:
        >>> from grpo import PairBatch
        >>> batch = PairBatch([0, 0], [0, 0], Segments.of_lengths([2, 1]))
        >>> experience = Experience([0, 0], [0, 0], batch, Segments(1, 2), torch.zeros(2))
        >>> group_time_baseline(experience, torch.tensor([4.0, 1.0, 2.0]))
        tensor([3., 1., 3.])
    """
    turns = experience.turns
    samples, turn_returns = turns.count_within(experience.samples), returns[turns.starts]
    time = torch.arange(samples.total, device=samples.device) - samples.expand(samples.starts)
    group = samples.expand(experience.groups.ids)
    cell = group * samples.longest + time
    order = cell.argsort(stable=True)
    cells = Segments.of_lengths(cell[order].unique_consecutive(return_counts=True)[1])
    centered = torch.empty_like(turn_returns)
    centered[order] = cells.center(turn_returns[order])
    return turns.expand(turn_returns - centered)


class MonteCarlo(FrozenModel):
    """Credits a decision by the return that was sampled, as REINFORCE does.

    Where an episode was cut short, nothing is added for what would have come: sample whole episodes.

    Attributes:
        discount: γ in [0, 1], from one turn to the next where batches tell of turns (:class:`grpo.HasTurns`).
        reward_to_go: whether a decision answers only for the rewards that come after it (:func:`rewards_to_go`), or
            for the whole episode (:func:`episode_returns`).
        baseline: subtracted from the return to lower the variance of the gradient: :func:`mean_baseline`,
            :func:`group_time_baseline`, :func:`value_baseline`, or your own function of an experience and its
            returns [D]; None for none. One that does not depend on the decision's own action leaves the expected
            gradient as it is. The two means contain the decision's own return, and shorten it a little.

    Example:
        >>> from grpo import PairBatch
        >>> batch = PairBatch(["s"], ["ab"], Segments(1, 2))  # one sample of two decisions
        >>> experience = Experience(["s"], ["ab"], batch, Segments(1, 1), torch.tensor([1.0, 4.0]))
        >>> MonteCarlo(discount=0.5)(experience), MonteCarlo(reward_to_go=False)(experience)
        (tensor([3., 4.]), tensor([5., 5.]))
    """

    discount: Fraction = 1.0
    reward_to_go: bool = True
    baseline: Baseline | None = None

    @property
    def needs(self) -> Needs:
        """Those of the baseline."""
        return NOTHING if self.baseline is None else replace(needs_of(self.baseline), adapts=False)

    def __call__(self, experience: Experience) -> Tensor:
        """Advantages of the decisions, [D]."""
        return self.estimate(experience).advantages

    def estimate(self, experience: Experience) -> AdvantageEstimate:
        """Advantages of the decisions, [D]; a critic should have expected the return from each decision on."""
        rewards, episodes = experience.decision_rewards, experience.episodes
        discount = discount_by_turns(experience, self.discount)
        to_go = returns = rewards_to_go(rewards, episodes, discount=discount)
        if not self.reward_to_go:
            returns = episode_returns(rewards, episodes, discount=discount)
        baseline = 0.0 if self.baseline is None else self.baseline(experience, returns)
        return AdvantageEstimate(returns - baseline, returns=to_go)
