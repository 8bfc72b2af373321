"""The training loop: orchestration only.

What is sampled, credited and minimised is decided elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from grpo.advantages._checks import check_estimate
from grpo.advantages.estimator import AdvantageEstimate, AdvantageEstimator, estimate_of
from grpo.advantages.normalization import normalized_advantages
from grpo.collection._dynamic_sampling import source_of_fresh_states
from grpo.collection._reward_metrics import rollout_metrics
from grpo.collection.experience_collector import ExperienceCollector
from grpo.config.rollout import TrainerConfig
from grpo.data._protocols import those_with, type_name
from grpo.data.action_batches import ActionBatch
from grpo.data.adapts import adapts
from grpo.data.decisions import Decisions, Terms
from grpo.data.experience import Experience
from grpo.data.gathered import gather_experience, own_part
from grpo.data.needs import Needs, needs_of
from grpo.distributed.world import World
from grpo.divergences.estimators import kl_k3
from grpo.models._masks import require_truncated
from grpo.models.policy import ActionsT, PolicyModel, ReportsMetrics, StatesT
from grpo.models.reward_model import RewardModel
from grpo.objectives._checks import check_terms
from grpo.objectives.grpo_objective import Objective
from grpo.rollout.sampler import Sampler, correction_for
from grpo.training._agreement import check_is_not_averaged, check_parts, check_world
from grpo.training._all_samples import terms_of_all
from grpo.training._compiled_gradient import CompiledTerms, compiled_gradient
from grpo.training._metrics import StepMetrics, value_metrics
from grpo.training._minibatches import LossWeights, MicroBatch, iterate_minibatches
from grpo.training._optimization import level_of_caller, move_all
from grpo.training._other_names import tells_other_names
from grpo.training._policy_statistics import PolicyStatistics
from grpo.training._requirements import check_requirements, warn_of_untold_states
from grpo.training._rollback import UndoesFailedStep
from grpo.training._sampling_gap import SamplingGap
from grpo.training.policy_trainer import PolicyTrainer

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
        sampler: makes the actions; None for the policy itself, or the sampler that it was built for.
        advantage_estimator: from an experience to advantages.
        objective: from evaluations and advantages to losses.
        world: the processes that train it together, each with a share of the states; None for this one alone.

    Attributes:
        last_experience: what the last step learnt from, to look at; None before the first step and while one is under
            way.

    Raises:
        TypeError: if a model lacks a method; the message names each.
        ValueError: if the optimizer holds none of the policy's parameters, the reference policy shares trainable
            ones with it, or has none to follow with, or groups are too small for the estimator.

    Warns:
        UserWarning: if there is a reference policy which neither estimator nor objective reads.

    Example:
        >>> from grpo import GRPOObjective, GroupRelative, leave_one_out_advantages
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> estimator = GroupRelative(leave_one_out_advantages)
        >>> models = SoftmaxPolicy(num_arms=3), StationaryBandit([0.1, 0.5, 0.9])
        >>> trainer = Trainer(TrainerConfig(), *models, advantage_estimator=estimator, objective=GRPOObjective())
        >>> trainer.step(["the only state"])["num_samples"]
        8.0
    """

    config: TrainerConfig

    @tells_other_names
    def __init__(
        self,
        config: TrainerConfig,
        policy: PolicyModel[StatesT, ActionsT],
        reward_model: RewardModel[StatesT, ActionsT],
        reference_policy: PolicyModel[StatesT, ActionsT] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        sampler: Sampler[StatesT, ActionsT] | None = None,
        advantage_estimator: AdvantageEstimator,
        objective: Objective,
        world: World | None = None,
    ) -> None:
        if not isinstance(config, TrainerConfig):
            raise TypeError(f"config is {config!r:.100}, expected a grpo.TrainerConfig or grpo.GRPOConfig")
        check_is_not_averaged(policy)
        self._needs = needs = check_requirements(
            config, policy, advantage_estimator, objective, has_reference=reference_policy is not None
        )
        self.collector: ExperienceCollector[StatesT, ActionsT] = ExperienceCollector(
            policy,
            reward_model,
            reference_policy,
            sampler=sampler,
            group_size=config.group_size,
            dynamic_sampling=config.dynamic_sampling,
            rows_per_call=config.micro_batch_size,
            needs=needs | Needs(critic=False, reference=False, old_log_probs=True),
            world=check_world(world),
        )
        super().__init__(config, policy, reference_policy, optimizer, world=world)
        if config.device is not None:
            move_all([reward_model], config.device)
        self.reward_model = reward_model
        self.advantage_estimator = advantage_estimator
        self.objective = objective
        self.sampler = self.collector.sampler
        self._sampling_gap = SamplingGap(self.sampler, correction_for(self.sampler, config.importance_correction))
        self.phases = self.collector.phases
        self.last_experience: Experience | None = None
        self._objective_looks_at_all = bool(needs_of(objective).all_samples)
        self._compiled = compiled_gradient(self._evaluator, objective) if config.compile_updates else None
        self._models["reward_model"] = reward_model
        check_parts({"reward_model": reward_model, **self._parts}, self.world)
        self._join_world([reward_model, self.sampler])
        self._reporting = those_with(ReportsMetrics, [policy, reward_model, self.sampler])
        self._statistics = PolicyStatistics(policy, self.world)
        self._adapting = list(filter(adapts, (advantage_estimator, objective)))
        warn_of_untold_states(self._adapting)

    @property
    def _asked(self) -> Needs:
        return replace(self._needs, group_size=self.config.group_size)

    @property
    def _parts(self) -> dict[str, object]:
        parts = {
            "sampler": self.sampler,
            "advantage_estimator": self.advantage_estimator,
            "objective": self.objective,
        }
        source = source_of_fresh_states(self.config.dynamic_sampling)
        return parts if source is None else {**parts, "draw_states": source}

    def step(self, states: StatesT, **generation_kwargs: Any) -> dict[str, float]:
        """Sample actions for the states, score them, and update the policy.

        Args:
            states: S states, a list or a tensor. One process of several is given its share, which may be empty.
            generation_kwargs: handed on to the sampler, and by it to the policy's ``generate_actions``.

        Returns:
            The metrics of the step, each defined in the glossary of the documentation.

        Raises:
            TypeError, ValueError: if a model returned what it must not. Parameters, buffers, optimizer and random
                generators are then as they were before the step, unless ``config.undo_failed_updates`` is false.
        """
        return self._step(states, generation_kwargs)

    def update(self, experience: Experience) -> dict[str, float]:
        """Update the policy on an experience; ``step`` is this on what the collector collects.

        Args:
            experience: samples of the policy as it is now.

        Returns:
            The metrics of the update.

        Raises:
            TypeError, ValueError: as ``step`` does.
        """
        if not isinstance(experience, Experience):
            raise TypeError(
                f"update takes a grpo.Experience, which the trainer's collector makes, got a {type_name(experience)}: "
                f"step(states) collects one itself"
            )
        return self._step(None, {}, experience)

    def _step(
        self, states: StatesT | None, generation_kwargs: Mapping[str, Any], experience: Experience | None = None
    ) -> dict[str, float]:
        """The whole step, from states to metrics; from the experience on where it is given."""
        metrics, config = StepMetrics(self.world), self.config
        self.last_experience = None
        compiled = (
            nullcontext() if self._compiled is None else self._compiled.for_a_step(self._optimization.differentiated)
        )
        with self._whole_step(metrics, self.collector) as undo, compiled:
            starts = experience is None and self._statistics.are_wanted()
            if experience is None:
                with torch.no_grad():
                    samples = self.collector.sample(cast("StatesT", states), **generation_kwargs)
                    batch = self.collector.encode(samples)
                    num_rows = self._num_rows(batch)
                    reads_old = self._reads_old_log_probs(num_rows) or starts
                    experience = self.collector.evaluate(samples, batch, old_log_probs=reads_old)
                    if starts:
                        self._statistics.update(batch)
                        experience = replace(experience, values=self.collector.estimate_values(batch))
            else:
                experience = replace(experience, world=self.world)
                num_rows = self._num_rows(experience.batch)
            self.phases.begin("updating")
            self._note_rollout(experience, num_rows, metrics)
            everything = gather_experience(experience) if self._looks_at_all else experience
            estimate = self._estimate(experience, everything)
            metrics.note_reported(f"{type_name(self.advantage_estimator)}.estimate", estimate.metrics)
            decisions = self._decisions(experience, estimate)
            metrics.note(value_metrics(decisions, self.world))
            weights = self._loss_weights(experience)
            batch, whole_samples = experience.batch, self._needs.whole_samples
            undo.before_updates(may_fail_later=self._may_fail_after_an_update(num_rows))
            self._evaluator.policy.train()
            for minibatch in iterate_minibatches(
                batch, decisions, weights, config, whole_samples, self.generator, self.world
            ):
                if minibatch is None:  # no decision of it has any weight
                    metrics.skip()
                    continue
                with self._left_out_where_not_finite(metrics):
                    self._accumulate(minibatch, partial(self._terms, batch), metrics)
                    if self._has_moved_too_far(metrics):
                        break
                    metrics.end_update(self._make_update(batch, minibatch, undo))
            self._finish(experience, everything, undo, metrics, moves_statistics=not starts)
        self.last_experience = experience
        return metrics.result()

    def _terms(self, batch: ActionBatch, micro_batch: MicroBatch) -> Terms | CompiledTerms:
        """What the objective makes of some rows."""
        if self._compiled is None or not self._trains:
            return self._terms_as_they_come(batch, micro_batch)
        instead = partial(self._terms_as_they_come, batch, micro_batch)
        return self._compiled(self.objective, batch, micro_batch, self._optimization.differentiated, instead)

    def _terms_as_they_come(self, batch: ActionBatch, micro_batch: MicroBatch) -> Terms:
        evaluation = self._evaluator.evaluate(batch, micro_batch.rows, requires_gradient=self._trains)
        if self._all_take_part and self._objective_looks_at_all:
            terms: Any = terms_of_all(self.objective, evaluation, micro_batch, self.world)
        else:
            terms = self.objective(evaluation, micro_batch.decisions)
        return self._checked(terms, batch, micro_batch)

    @property
    def _all_take_part(self) -> bool:
        looks_at_all = not self.world.is_alone and self._objective_looks_at_all
        return bool(looks_at_all) or super()._all_take_part

    def _evaluate_nothing(self) -> Tensor | None:
        nothing = super()._evaluate_nothing()
        if self._objective_looks_at_all:
            terms_of_all(self.objective, None, None, self.world)
        return nothing

    def _num_rows(self, batch: ActionBatch) -> int:
        """Rows of all processes."""
        [num_rows] = self.world.totals(len(batch.rows))
        return int(num_rows)

    def _reads_old_log_probs(self, num_rows: int) -> bool:
        """Whether anything reads the log-probs of the policy that sampled: it is no longer the one of later updates."""
        return self._needs.old_log_probs or self._needs.step_kl or self.config.num_updates(num_rows) > 1

    @property
    def _looks_at_all(self) -> bool:
        """Whether the estimator, or a part that adapts, may look at samples of other processes."""
        if self.world.is_alone:
            return False
        parts = {id(part): part for part in (self.advantage_estimator, *self._adapting)}
        return any(needs_of(part).all_samples is not False for part in parts.values())

    def _estimate(self, experience: Experience, everything: Experience) -> AdvantageEstimate:
        """What the estimator makes of the samples of this process."""
        if everything is experience or needs_of(self.advantage_estimator).all_samples is False:
            return check_estimate(estimate_of(self.advantage_estimator, experience), experience.samples)
        estimate = check_estimate(estimate_of(self.advantage_estimator, everything), everything.samples)
        returns = None if estimate.returns is None else own_part(estimate.returns, experience)
        return AdvantageEstimate(own_part(estimate.advantages, experience), returns, estimate.metrics)

    def _note_rollout(self, experience: Experience, num_rows: int, metrics: StepMetrics) -> None:
        """What was collected, and whether it tells what this trainer reads."""
        if experience.old_log_probs is None and self._reads_old_log_probs(num_rows):
            raise ValueError(
                f"experience has no old_log_probs, but this trainer, which makes "
                f"{self.config.num_updates(num_rows)} updates of it, reads them: collect it with "
                f"this trainer's collector"
            )
        metrics.note(rollout_metrics(experience))
        num_samples, num_decisions = self.world.totals(len(experience.samples), experience.samples.total)
        metrics.note({"num_samples": float(num_samples), "num_decisions": float(num_decisions)})
        metrics.note(self._sampling_gap.metrics(experience))
        metrics.note({"learning_rate": self._optimization.learning_rate})
        metrics.note_reports(self._reporting)

    def _decisions(self, experience: Experience, estimate: AdvantageEstimate) -> Decisions:
        """What the objective is told of all decisions."""
        if self._needs.value_targets and estimate.returns is None:
            raise TypeError(
                f"{self.objective!r} trains a critic, but {self.advantage_estimator!r} does not tell it what to "
                f"expect: give it a method estimate(experience) that returns grpo.AdvantageEstimate(advantages, "
                f"returns), or use grpo.GeneralizedAdvantage"
            )
        advantages = estimate.advantages
        if self.config.advantage_normalization == "per_step":
            advantages = normalized_advantages(advantages, world=self.world)
        critic, weights = experience.values, self._sampling_gap.weights(experience)
        return Decisions(
            advantages.to(self._weights_dtype),
            experience.old_log_probs,
            experience.reference_log_probs,
            experience.samples,
            returns=None if critic is None else estimate.returns,
            old_values=None if critic is None else critic.values,
            importance_weights=None if weights is None else weights.to(self._weights_dtype),
            step=self.num_steps,
        )

    def _loss_weights(self, experience: Experience) -> LossWeights:
        averaging, masks = self.config.loss_averaging, self.config.mask_truncated
        weights = LossWeights.of(averaging, experience.samples, self._weights_dtype)
        if not masks:
            return weights
        kept = experience.samples.expand(~require_truncated(experience))
        return weights.where(kept, keeps_denominator=masks == "decisions" and averaging != "per_decision")

    def _may_fail_after_an_update(self, num_rows: int) -> bool:
        calls_back = self._statistics.follow or self._needs.step_kl or bool(self._adapting)
        return calls_back or super()._may_fail_after_an_update(num_rows)

    @property
    def _trains(self) -> bool:
        return self.optimizer is not None

    def _checked(self, terms: object, batch: ActionBatch, micro_batch: MicroBatch) -> Terms:
        return check_terms(
            terms,
            micro_batch.decisions.samples,
            partial(self._evaluator.locate, batch, micro_batch.rows),
            requires_gradient=self._trains,
        )

    def _has_moved_too_far(self, metrics: StepMetrics) -> bool:
        """Whether the policy is so far from the one that sampled that the rest of the update is left out."""
        if self.config.target_kl is None:
            return False
        kl = metrics.average_of_micro_batches("approx_kl")
        is_too_far = kl > EARLY_STOP_TOLERANCE * self.config.target_kl
        if is_too_far and not metrics.has_updated:
            warnings.warn(
                f"target_kl={self.config.target_kl:g} has left out a whole step: approx_kl is beyond it before "
                f"the first update, so that the policy gives other log-probs in training mode than it sampled by; turn "
                f"dropout and batch normalisation off, or leave target_kl out",
                stacklevel=level_of_caller(),
            )
        return is_too_far

    def _finish(
        self,
        experience: Experience,
        everything: Experience,
        undo: UndoesFailedStep,
        metrics: StepMetrics,
        *,
        moves_statistics: bool,
    ) -> None:
        """Let everything that follows a training follow this step."""
        if self._needs.step_kl:
            self._measure_kl(experience, metrics)
        if not self.world.is_alone:
            undo.take_buffers_of_rank_0(self.world)
        if moves_statistics:
            self._statistics.update(experience.batch)
        for part in self._adapting:
            part.adapt(experience if needs_of(part).all_samples is False else everything, metrics.result())

    def _measure_kl(self, experience: Experience, metrics: StepMetrics) -> None:
        """How far the step has moved the policy, ``policy_kl``."""
        assert experience.old_log_probs is not None
        self._evaluator.policy.eval()
        with self._left_out_where_not_finite(metrics):
            log_probs = self._evaluator.log_probs(experience.batch, self.config.micro_batch_size)
            kl = kl_k3(experience.old_log_probs, log_probs).double()
            total, count = self.world.totals(kl.sum().item(), len(kl))
            metrics.note({"policy_kl": total / count})
