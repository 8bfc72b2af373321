"""From states to experience: sampling, scoring, old and reference log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

import torch
from torch import Tensor

from grpo.batches import join_groups, repeat_entries
from grpo.config import TrainerConfig
from grpo.dynamic_sampling import sample_until_spread
from grpo.evaluator import Evaluator
from grpo.experience import ActionBatch, Experience
from grpo.policy_base import ActionsT, StatesT
from grpo.reward_model_base import RewardModel
from grpo.scored_samples import ScoredSamples, require_scored
from grpo.segments import Segments
from grpo.validation import check_groups, check_rewards, check_states


class ExperienceCollector(Generic[StatesT, ActionsT]):
    """Samples a group of actions for every state, scores them, and notes what the policies thought of them.

    Args:
        config: group size, rows per evaluation, and how many updates a rollout is for.
        policy: the policy that samples.
        reward_model: scores the samples.
        reference: evaluates the samples too, if given.
        requires_values: whether to ask the policy's critic.
        requires_old_log_probs: whether to note the policy's log-probs even for a single update.
    """

    def __init__(
        self,
        config: TrainerConfig,
        policy: Evaluator,
        reward_model: RewardModel[StatesT, ActionsT],
        reference: Evaluator | None = None,
        *,
        requires_values: bool = False,
        requires_old_log_probs: bool = False,
    ) -> None:
        self.config = config
        self.policy = policy
        self.reward_model = reward_model
        self.reference = reference
        self.requires_values = requires_values
        self.requires_old_log_probs = requires_old_log_probs

    @torch.no_grad()
    def collect(self, states: StatesT, **generation_kwargs: Any) -> Experience:
        """Sample ``group_size`` actions for each of the S states and score them.

        Args:
            states: S states.
            generation_kwargs: handed on to ``generate_actions``.
        """
        scored = require_scored(self._sample(states, generation_kwargs))
        settings = self.config.dynamic_sampling
        if settings is not None:
            scored = sample_until_spread(
                self._checked(scored), lambda own: self._checked(self._sample(own, generation_kwargs)), settings
            )
        return self._evaluate(scored)

    @torch.no_grad()
    def score(self, states: StatesT, groups: Sequence[ActionsT]) -> Experience:
        """Experience from actions that are already there, taken for samples of the policy as it is now.

        Args:
            states: S states.
            groups: the actions given to each state, at least one each; the groups may differ in size.
        """
        check_states(states)
        check_groups("score was given", groups, len(states), None)
        self.policy.policy.eval()
        sizes = Segments.of_lengths([len(group) for group in groups])
        return self._evaluate(require_scored(self._score(states, groups, sizes)))

    def _sample(self, states: StatesT, generation_kwargs: dict[str, Any]) -> ScoredSamples:
        check_states(states)
        self.policy.policy.eval()
        groups = self.policy.policy.generate_actions(states, self.config.group_size, **generation_kwargs)
        check_groups("generate_actions returned", groups, len(states), self.config.group_size)
        return self._score(states, groups, Segments(len(states), self.config.group_size))

    def _score(self, states: StatesT, groups: Any, sizes: Segments) -> ScoredSamples:
        sample_states, actions = repeat_entries(states, sizes), join_groups(groups)
        self.reward_model.eval()
        rewards = self.reward_model.compute_rewards(sample_states, actions)
        return ScoredSamples.of(sample_states, actions, sizes, rewards)

    def _checked(self, scored: ScoredSamples) -> ScoredSamples:
        """The samples with rewards that are known to be theirs, encoded for it only where rewards are per decision."""
        num_samples = len(scored.actions)
        if isinstance(scored.rewards, Tensor) and scored.rewards.shape == (num_samples,):
            return scored.checked(Segments(num_samples, 1, scored.rewards.device))
        return scored.checked(self.policy.encode(scored.states, scored.actions).samples)

    def _evaluate(self, scored: ScoredSamples) -> Experience:
        """What the policies think of the samples, and whether the rewards are theirs."""
        batch = self.policy.encode(scored.states, scored.actions)
        rewards = check_rewards(scored.rewards, batch.samples)
        old_log_probs = None
        if self.requires_old_log_probs or self.config.num_updates(len(batch.rows)) > 1:
            old_log_probs = self.policy.log_probs(batch, self.config.micro_batch_size)
        groups = scored.groups
        return Experience(
            states=scored.states,
            actions=scored.actions,
            batch=batch,
            groups=groups if groups.device == batch.samples.device else groups.to(batch.samples.device),
            rewards=rewards,
            old_log_probs=old_log_probs,
            reference_log_probs=self._reference_log_probs(scored, batch),
            values=self.policy.estimate_values(batch) if self.requires_values else None,
            metrics=scored.metrics,
        )

    def _reference_log_probs(self, scored: ScoredSamples, batch: ActionBatch) -> Tensor | None:
        if self.reference is None:
            return None
        self.reference.policy.eval()
        reference_batch = self.reference.encode(scored.states, scored.actions)
        self.reference.check_same_cut(reference_batch, batch)
        return self.reference.log_probs(reference_batch, self.config.micro_batch_size)
