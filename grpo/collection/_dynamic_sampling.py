"""Dynamic sampling: other groups in place of those from which nothing is to be learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from grpo.collection._reward_metrics import reward_metrics
from grpo.collection._scored_samples import ScoredSamples
from grpo.config.rollout import DynamicSampling
from grpo.data._checks import check_states
from grpo.data.batches import select_entries
from grpo.data.state import is_stateful


def sample_until_spread(
    first: ScoredSamples, sample: Callable[[Any], ScoredSamples], settings: DynamicSampling
) -> ScoredSamples:
    """Sample other groups in place of those whose rewards are all equal, as many rounds on all processes.

    Args:
        first: the samples of the first round.
        sample: from states to scored samples of them.
        settings: how often to sample again, and for which states.

    Returns:
        The groups with spread of all rounds, each in the place of the one that it was sampled for; where no process has
        any, those of the first. The metrics of the rewards are those of the first round, in which no group has been
        picked for its rewards.

    References:
        Yu et al. 2025 (DAPO), arXiv:2503.14476, section 3.2.
    """
    world = first.world
    rounds = [
        first
        if first.slots is not None
        else replace(first, slots=torch.arange(len(first.groups), device=first.groups.device))
    ]
    num_resampled = 0
    while len(rounds) <= settings.max_rounds:
        equal = rounds[-1].select_groups(~rounds[-1].has_spread)
        counts = world.gather(len(equal.groups))
        if sum(counts) == 0:
            break
        again, slots = _states_in_place_of(equal, counts, settings)
        samples = sample(again)
        rounds.append(replace(samples, slots=slots if samples.slots is None else slots[samples.slots.to(slots.device)]))
        num_resampled += len(again)
    return _kept(first, rounds, num_resampled)


def source_of_fresh_states(settings: DynamicSampling | None) -> object:
    """What has a state of where fresh states come from, such as the loader whose ``draw`` gives them; else None."""
    draw_states = None if settings is None else settings.draw_states
    owner = getattr(draw_states, "__self__", draw_states)
    return owner if is_stateful(owner) else None


def _states_in_place_of(equal: ScoredSamples, counts: list[int], settings: DynamicSampling) -> tuple[Any, Tensor]:
    """What this process samples in place of its groups without spread, of which each one has so many; their slots."""
    assert equal.slots is not None
    if settings.draw_states is None:
        return equal.group_states, equal.slots
    drawn = settings.draw_states(sum(counts))
    check_states(drawn, "what dynamic_sampling.draw_states returned")
    # State i of m goes where group i n/m is that it replaces, whatever process that is.
    places = torch.arange(len(drawn)) * sum(counts) // len(drawn) - sum(counts[: equal.world.rank])
    own = ((places >= 0) & (places < len(equal.groups))).nonzero().squeeze(1)
    again = drawn if len(own) == len(drawn) else select_entries(drawn, own)
    return again, equal.slots[places[own].to(equal.slots.device)]


def _kept(first: ScoredSamples, rounds: list[ScoredSamples], num_resampled: int) -> ScoredSamples:
    """The groups with spread, with the metrics of the rollout."""
    kept = ScoredSamples.joined([part.select_groups(part.has_spread) for part in rounds]).in_order()
    unscored = sum(part.metrics.get("num_unscored", 0.0) for part in rounds)
    tells_unscored = float(any("num_unscored" in part.metrics for part in rounds))
    own = (num_resampled, int((~rounds[-1].has_spread).sum()), unscored, len(kept.groups), tells_unscored)
    resampled, without_spread, unscored, num_kept, tells_unscored = map(sum, zip(*first.world.gather(own), strict=True))
    metrics = reward_metrics(first.sample_rewards) | {
        "num_groups_resampled": float(resampled),
        "num_groups_zero_std": float(without_spread),
    }
    if tells_unscored:
        metrics["num_unscored"] = float(unscored)
    return replace(kept if num_kept > 0 else first, metrics=metrics)
