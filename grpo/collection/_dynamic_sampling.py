"""Dynamic sampling: other groups in place of those from which nothing is to be learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from grpo.collection._reward_metrics import reward_metrics
from grpo.collection._scored_samples import ScoredSamples
from grpo.config.rollout import DynamicSampling
from grpo.data._checks import check_states


def sample_until_spread(
    first: ScoredSamples, sample: Callable[[Any], ScoredSamples], settings: DynamicSampling
) -> ScoredSamples:
    """Sample other groups in place of those whose rewards are all equal.

    Args:
        first: the samples of the first round.
        sample: from states to scored samples of them.
        settings: how often to sample again, and for which states.

    Returns:
        The groups with spread of all rounds; where there are none, those of the first. The metrics of the rewards are
        those of the first round, in which no group has been picked for its rewards.

    References:
        Yu et al. 2025 (DAPO), arXiv:2503.14476, section 3.2.
    """
    rounds = [first]
    num_resampled = 0
    while len(rounds) <= settings.max_rounds and not rounds[-1].has_spread.all():
        equal = rounds[-1].select_groups(~rounds[-1].has_spread)
        if settings.draw_states is None:
            again = equal.group_states
        else:
            again = settings.draw_states(len(equal.groups))
            check_states(again, "what dynamic_sampling.draw_states returned")
        rounds.append(sample(again))
        num_resampled += len(again)
    metrics = reward_metrics(first.sample_rewards) | {
        "num_groups_resampled": float(num_resampled),
        "num_groups_zero_std": float((~rounds[-1].has_spread).sum()),
    }
    unscored = [part.metrics["num_unscored"] for part in rounds if "num_unscored" in part.metrics]
    if unscored:
        metrics["num_unscored"] = sum(unscored)
    kept = ScoredSamples.joined([part.select_groups(part.has_spread) for part in rounds])
    return replace(kept if len(kept.groups) > 0 else first, metrics=metrics)
