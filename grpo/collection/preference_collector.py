"""From states to preferences, by groups of a policy's own actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from torch import Tensor

from grpo.collection._reward_metrics import rollout_metrics
from grpo.collection.experience_collector import ExperienceCollector
from grpo.data._equality import are_equal
from grpo.data.experience import Experience
from grpo.data.needs import NOTHING
from grpo.data.preferences import Preference
from grpo.models._random_states import RestoresRandomStates
from grpo.models.policy import ActionsT, PolicyModel, StatesT
from grpo.models.reward_model import RewardModel
from grpo.rollout.sampler import Sampler


@dataclass(frozen=True, slots=True)
class CollectedPreferences:
    """Pairs from groups of scored actions, at most one a group.

    Attributes:
        preferences: the pairs, of this process.
        metrics: of all processes: what the rewards were like, ``num_samples`` and ``num_decisions`` of all groups,
            ``num_pairs``, ``num_groups_zero_std`` (groups without a pair, since their rewards are all equal) and
            ``num_groups_identical`` (without one, since all that were rewarded less are the same action as the best,
            where rewards differ by chance).
    """

    preferences: list[Preference[Any, Any]]
    metrics: dict[str, float]


def pair_best_with_worst(experience: Experience) -> CollectedPreferences:
    """The best action of each group as chosen, the worst that is not the same one as rejected.

    Args:
        experience: groups of scored actions; rewards per decision are summed up.

    Returns:
        A preference for each group with unequal rewards, and metrics of all groups.

    Example:
        >>> import torch
        >>> from grpo import PairBatch, Segments
        >>> states, actions, groups = ["s"] * 3 + ["t"] * 2, [1, 2, 3, 4, 5], Segments.of_lengths([3, 2])
        >>> batch, rewards = PairBatch(states, actions, Segments(5, 1)), torch.tensor([0.0, 2.0, 1.0, 1.0, 1.0])
        >>> collected = pair_best_with_worst(Experience(states, actions, batch, groups, rewards))
        >>> [(pair.state, pair.chosen, pair.rejected) for pair in collected.preferences]
        [('s', 2, 1)]
        >>> collected.metrics["num_groups_zero_std"]
        1.0
    """
    states, actions, rewards = experience.states, experience.actions, experience.sample_rewards
    has_spread = (rewards.std > 0).tolist()
    preferences: list[Preference[Any, Any]] = []
    first = 0
    values = rewards.values.cpu().split(rewards.groups.lengths.tolist())
    for group_rewards, differs in zip(values, has_spread, strict=True):
        if differs:
            *lower, best = (
                _without_its_batch(actions[first + place]) for place in group_rewards.argsort(stable=True).tolist()
            )
            rejected = [
                action
                for action in lower[: int((group_rewards < group_rewards.max()).sum())]
                if not are_equal(action, best)
            ]
            preferences += [
                Preference(_without_its_batch(states[first]), chosen=best, rejected=action) for action in rejected[:1]
            ]
        first += len(group_rewards)
    counts = {
        "num_samples": len(experience.samples),
        "num_decisions": experience.samples.total,
        "num_pairs": len(preferences),
        "num_groups_zero_std": has_spread.count(False),
        "num_groups_identical": has_spread.count(True) - len(preferences),
    }
    everyone = experience.world.totals(*counts.values())
    metrics = {name: float(count) for name, count in zip(counts, everyone, strict=True)}
    return CollectedPreferences(preferences, rollout_metrics(experience) | metrics)


def check_group_size(group_size: int) -> int:
    """The size of groups that pairs can be made of.

    Raises:
        ValueError: if it is too small.
    """
    if not isinstance(group_size, int) or group_size < 2:
        raise ValueError(f"group_size is {group_size!r}, expected at least 2: a pair has two actions")
    return group_size


def _without_its_batch(entry: Any) -> Any:
    """An entry that does not keep the whole batch in memory that it was part of."""
    return entry.clone() if isinstance(entry, Tensor) else entry


class PreferenceCollector(Generic[StatesT, ActionsT]):
    """Makes preferences of a policy's own actions, so that DPO can train it wherever there is a reward model.

    Args:
        policy: samples.
        reward_model: scores.
        sampler: makes the actions; None for the policy itself, or the sampler that it was built for.
        group_size: actions sampled for each state, at least 2, of which the best and the worst make a pair.

    Raises:
        TypeError: if a model lacks a method; the message names each.
        ValueError: if groups are too small.

    References:
        Best against worst of several samples: Yuan et al. 2024, arXiv:2401.10020; Guo et al. 2024, arXiv:2402.04792.

    Example:
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> collector = PreferenceCollector(SoftmaxPolicy(num_arms=2), StationaryBandit([0.0, 1.0]), group_size=16)
        >>> [preference] = collector.collect(["the only state"]).preferences
        >>> int(preference.chosen), int(preference.rejected)
        (1, 0)
    """

    def __init__(
        self,
        policy: PolicyModel[StatesT, ActionsT],
        reward_model: RewardModel[StatesT, ActionsT],
        *,
        sampler: Sampler[StatesT, ActionsT] | None = None,
        group_size: int = 8,
    ) -> None:
        self._collector = ExperienceCollector(
            policy, reward_model, sampler=sampler, group_size=check_group_size(group_size), needs=NOTHING
        )
        self._models = (policy, reward_model, self._collector.sampler)

    def collect(self, states: StatesT, **generation_kwargs: Any) -> CollectedPreferences:
        """Sample a group of actions for each of the S states, score them, and pair the best with the worst.

        Args:
            states: S states.
            generation_kwargs: handed on to the policy's ``generate_actions``.

        Raises:
            TypeError, ValueError: if a model returned what it must not; random generators are then as they were.
        """
        with RestoresRandomStates(self._models):
            self._collector.begin()
            try:
                return pair_best_with_worst(self._collector.collect(states, **generation_kwargs))
            except BaseException:
                self._collector.abandon()
                raise

    def score(self, states: StatesT, groups: Sequence[ActionsT]) -> CollectedPreferences:
        """The same for actions that are already there.

        Args:
            states: S states.
            groups: the actions given to each state; the groups may differ in size, and one of 1 gives no pair.

        Raises:
            TypeError, ValueError: as ``collect`` does.
        """
        with RestoresRandomStates(self._models):
            return pair_best_with_worst(self._collector.score(states, groups))

    def state_dict(self) -> dict[str, Any]:
        """What changes in the reward model and the sampler, copied; a policy's state is told by its trainer."""
        return self._collector.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this collector, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of one that was constructed otherwise; this one is then as it was.
        """
        self._collector.load_state_dict(state_dict)
