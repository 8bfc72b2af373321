"""The training loop: orchestration only. What is sampled, credited and minimised is decided elsewhere."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from grpo.advantage_estimator import AdvantageEstimator, normalized_advantages
from grpo.config import TrainerConfig
from grpo.decisions import Decisions, Terms
from grpo.evaluator import Evaluator
from grpo.experience import ActionBatch, Experience
from grpo.experience_collector import ExperienceCollector
from grpo.grpo_objective import Objective
from grpo.kl_divergence import kl_k3
from grpo.masks import require_truncated
from grpo.metrics import UpdateMetrics, model_metrics, rollout_metrics, value_metrics
from grpo.minibatches import LossWeights, MicroBatch, iterate_minibatches
from grpo.policy_base import ActionsT, FollowsData, PolicyModel, StatesT
from grpo.policy_trainer import PolicyTrainer
from grpo.protocols import missing_methods, require_methods
from grpo.requirements import Requirements, check_requirements
from grpo.reward_model_base import RewardModel
from grpo.rollback import RestoresRandomStates
from grpo.validation import NonFiniteError, check_advantages, check_terms, check_value_targets

EARLY_STOP_TOLERANCE = 1.5


class Trainer(PolicyTrainer[StatesT, ActionsT]):
    """Trains a policy on what a reward model says of its actions, by an estimator and an objective of your choice.

    Args:
        config: how to run.
        policy: the policy to train, a :class:`grpo.PolicyModel` or :class:`grpo.SequentialPolicy`.
        reward_model: scores its actions.
        reference_policy: the policy that an objective or estimator may keep it near to; only changed by
            ``config.reference_sync``.
        optimizer: over the policy's parameters; None for AdamW at ``config.learning_rate`` without weight decay.
        advantage_estimator: from an experience to advantages.
        objective: from evaluations and advantages to losses.

    Raises:
        TypeError: if a model lacks a method; the message names each.
        ValueError: if the optimizer holds none of the policy's parameters, the reference policy shares trainable
            ones with it, or has none to follow with, or groups are too small for the estimator.
    """

    config: TrainerConfig

    def __init__(
        self,
        config: TrainerConfig,
        policy: PolicyModel[StatesT, ActionsT],
        reward_model: RewardModel[StatesT, ActionsT],
        reference_policy: PolicyModel[StatesT, ActionsT] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        advantage_estimator: AdvantageEstimator,
        objective: Objective,
    ) -> None:
        if not isinstance(config, TrainerConfig):
            raise TypeError(f"config is {config!r}, expected a grpo.TrainerConfig or grpo.GRPOConfig")
        evaluator = Evaluator(policy)
        reference = Evaluator(reference_policy, "reference_policy") if reference_policy is not None else None
        require_methods(reward_model, RewardModel, "reward_model")
        check_requirements(
            config, evaluator, advantage_estimator, objective, has_reference=reference_policy is not None
        )
        models = [model for model in (policy, reward_model, reference_policy) if model is not None]
        super().__init__(config, evaluator, reference_policy, optimizer, models)
        required = Requirements.of(advantage_estimator, objective)
        self.reward_model = reward_model
        self.advantage_estimator = advantage_estimator
        self.objective = objective
        self.collector: ExperienceCollector[StatesT, ActionsT] = ExperienceCollector(
            config,
            evaluator,
            reward_model,
            reference if required.reference else None,
            requires_values=required.values,
            requires_old_log_probs=required.old_log_probs,
        )
        self._adapts_to_kl = bool(getattr(objective, "adapts_to_kl", False))

    def step(self, states: StatesT, **generation_kwargs: Any) -> dict[str, float]:
        """Sample actions for the states, score them, and update the policy.

        Args:
            states: S states, a list or a tensor.
            generation_kwargs: handed on to the policy's ``generate_actions``.

        Returns:
            The metrics of the step, each defined in the glossary of the documentation.

        Raises:
            TypeError, ValueError: if a model returned what it must not. Parameters, optimizer and random generators
                are then as they were before the step, unless ``config.undo_failed_updates`` is false.
        """
        with RestoresRandomStates(self._random_models):
            try:
                experience = self.collector.collect(states, **generation_kwargs)
            except NonFiniteError:
                if self.config.non_finite == "raise":
                    raise
                return {"num_updates": 0.0, "skipped_updates": 1.0}
            return self._update(experience)

    def update(self, experience: Experience) -> dict[str, float]:
        """Update the policy on an experience; ``step`` is this on what the collector collects.

        Args:
            experience: samples of the policy as it is now.

        Returns:
            The metrics of the update.

        Raises:
            TypeError, ValueError: as ``step`` does.
        """
        with RestoresRandomStates(self._random_models):
            return self._update(experience)

    def _update(self, experience: Experience) -> dict[str, float]:
        num_updates = self.config.num_updates(len(experience.batch.rows))
        if experience.old_log_probs is None and (num_updates > 1 or self.collector.requires_old_log_probs):
            raise ValueError(
                f"experience has no old_log_probs, but this trainer, which makes {num_updates} updates of it, reads "
                f"them: collect it with this trainer's collector"
            )
        measured = rollout_metrics(experience) | model_metrics(self.policy, self.reward_model)
        try:
            advantages = check_advantages(self.advantage_estimator(experience), experience.samples)
        except NonFiniteError:
            if self.config.non_finite == "raise":
                raise
            return measured | {"num_updates": 0.0, "skipped_updates": 1.0}
        decisions = self._decisions(experience, advantages)
        measured |= value_metrics(decisions)
        if hasattr(self.advantage_estimator, "get_metrics"):
            measured |= model_metrics(self.advantage_estimator, taken=measured.keys())
        weights = LossWeights.of(self.config.loss_averaging, experience.samples, self._weights_dtype)
        if self.config.mask_truncated:
            weights = weights.where(experience.samples.expand(~require_truncated(experience)))
        metrics = UpdateMetrics(taken=measured.keys())
        follows_data = not missing_methods(self.policy, FollowsData)
        copies = self.config.undo_failed_updates and (num_updates > 1 or self._adapts_to_kl or follows_data)
        with self._updating(copies=copies):
            minibatches = iterate_minibatches(
                experience.batch,
                decisions,
                weights,
                self.config,
                whole_samples=bool(getattr(self.objective, "requires_whole_samples", False)),
                generator=self.generator,
            )
            terms_of = partial(self._terms, experience.batch)
            self._minimise(experience.batch, minibatches, terms_of, metrics, self._has_moved_too_far)
            policy_kl = self._measure_kl(experience)
            if follows_data:
                cast("FollowsData", self.policy).update_statistics(experience.batch)
        if policy_kl:
            cast("Any", self.objective).adapt_to_kl(policy_kl["policy_kl"])
        if hasattr(self.advantage_estimator, "adapt_to_experience"):
            self.advantage_estimator.adapt_to_experience(experience)
        self._end_step()
        return (
            measured
            | policy_kl
            | metrics.result()
            | {
                "learning_rate": self._learning_rate,
                "num_samples": float(len(experience.samples)),
                "num_decisions": float(experience.samples.total),
            }
        )

    def _decisions(self, experience: Experience, advantages: Tensor) -> Decisions:
        """What the objective is told of all decisions."""
        critic, returns = experience.values, None
        if critic is not None and hasattr(self.advantage_estimator, "value_targets"):
            targets = self.advantage_estimator.value_targets(experience, advantages)
            returns = check_value_targets(targets, experience.samples)
        if self.config.advantage_normalization == "per_step":
            advantages = normalized_advantages(advantages)
        return Decisions(
            advantages.to(self._weights_dtype),
            experience.old_log_probs,
            experience.reference_log_probs,
            experience.samples,
            returns=returns,
            old_values=None if critic is None else critic.values,
            step=self.num_steps,
        )

    def _terms(self, batch: ActionBatch, micro_batch: MicroBatch) -> Terms:
        trains = self.optimizer is not None
        evaluation = self._evaluator.evaluate(batch, micro_batch.rows, requires_gradient=trains)
        return check_terms(
            self.objective(evaluation, micro_batch.decisions),
            micro_batch.decisions.samples,
            partial(self._evaluator.locate, batch, micro_batch.rows),
            requires_gradient=trains,
        )

    def _has_moved_too_far(self, metrics: UpdateMetrics) -> bool:
        """Whether the policy is so far from the one that sampled that the rest of the update is left out."""
        if self.config.target_kl is None:
            return False
        return metrics.average_of_micro_batches("approx_kl") > EARLY_STOP_TOLERANCE * self.config.target_kl

    def _measure_kl(self, experience: Experience) -> dict[str, float]:
        """How far the step has moved the policy, ``policy_kl``, where the objective wants to know."""
        if not self._adapts_to_kl:
            return {}
        assert experience.old_log_probs is not None
        self._evaluator.policy.eval()
        try:
            log_probs = self._evaluator.log_probs(experience.batch, self.config.micro_batch_size)
        except NonFiniteError:
            if self.config.non_finite == "raise":
                raise
            return {}
        return {"policy_kl": kl_k3(experience.old_log_probs, log_probs).mean().item()}
