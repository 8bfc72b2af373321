"""The training loop: orchestration only. What is sampled, credited and minimised is decided elsewhere."""

from __future__ import annotations

import math
import warnings
from functools import partial, reduce
from operator import add
from typing import Any, Generic

import torch
from torch import Tensor

from grpo.advantage_estimator import AdvantageEstimator
from grpo.config import TrainerConfig
from grpo.evaluator import Evaluator, locate
from grpo.experience import ActionBatch, Decisions, Experience
from grpo.experience_collector import ExperienceCollector
from grpo.grpo_objective import Objective
from grpo.metrics import UpdateMetrics, reward_metrics
from grpo.minibatches import LossWeights, MicroBatch, iterate_minibatches
from grpo.policy_base import ActionsT, PolicyModel, StatesT
from grpo.reward_model_base import RewardModel
from grpo.rollback import RestoresRandomStates, RestoresTraining, drop_gradients
from grpo.validation import (
    NonFiniteError,
    check_advantages,
    check_optimizer,
    check_parameters,
    check_reference,
    check_terms,
    require_methods,
)


class Trainer(Generic[StatesT, ActionsT]):
    """Trains a policy on what a reward model says of its actions, by an estimator and an objective of your choice.

    Args:
        config: how to run.
        policy: the policy to train, a :class:`grpo.PolicyModel` or :class:`grpo.SequentialPolicy`.
        reward_model: scores its actions.
        reference_policy: the policy that an objective may keep it near to; never changed.
        optimizer: over the policy's parameters; None for AdamW at ``config.learning_rate`` without weight decay.
        advantage_estimator: from an experience to advantages.
        objective: from evaluations and advantages to losses.

    Raises:
        TypeError: if a model lacks a method; the message names each.
        ValueError: if the optimizer holds none of the policy's parameters, the reference policy shares trainable
            ones with it, or groups are too small for the estimator.
    """

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
        _check_callable("advantage_estimator", advantage_estimator)
        _check_callable("objective", objective)
        evaluator = Evaluator(policy)
        reference = Evaluator(reference_policy, "reference_policy") if reference_policy is not None else None
        require_methods(reward_model, RewardModel, "reward_model")
        smallest = getattr(advantage_estimator, "minimum_group_size", 1)
        if config.group_size < smallest:
            raise ValueError(
                f"group_size is {config.group_size}, expected at least {smallest} for {advantage_estimator}: an action "
                f"is compared with the others of its group; raise group_size or pass another advantage_estimator"
            )
        if reference_policy is None and getattr(objective, "requires_reference", False):
            raise ValueError(
                f"{objective!r} needs a reference policy, but there is none: pass "
                f"reference_policy=copy.deepcopy(policy), or set kl_coefficient to 0"
            )
        models = [model for model in (policy, reward_model, reference_policy) if model is not None]
        if config.device is not None:
            for model in models:
                model.to(config.device)
        all_parameters = check_parameters(policy.get_parameters(), "policy")
        parameters = {name: tensor for name, tensor in all_parameters.items() if tensor.requires_grad}
        if reference_policy is not None:
            check_reference(parameters, check_parameters(reference_policy.get_parameters(), "reference_policy"))

        self.config = config
        self.advantage_estimator = advantage_estimator
        self.objective = objective
        self.optimizer = _optimizer_over(parameters, optimizer, config.learning_rate)
        self.collector: ExperienceCollector[StatesT, ActionsT] = ExperienceCollector(
            config, evaluator, reward_model, reference if getattr(objective, "requires_reference", True) else None
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self._policy = evaluator
        self._parameters = parameters
        doubles = any(parameter.dtype == torch.float64 for parameter in parameters.values())
        self._weights_dtype = torch.float64 if doubles else torch.float32
        self._random_models = [*models, self]

    def step(self, states: StatesT, **generation_kwargs: Any) -> dict[str, float]:
        """Sample actions for the states, score them, and update the policy.

        Args:
            states: S states, a list or a tensor.
            generation_kwargs: handed on to the policy's ``generate_actions``.

        Returns:
            The metrics of the step, each defined in the glossary of the documentation.

        Raises:
            TypeError, ValueError: if a model returned what it must not. Parameters, optimizer and random generators
                are then as they were before the step.
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
        if experience.old_log_probs is None and num_updates > 1:
            raise ValueError(
                f"experience has no old_log_probs, but this trainer makes {num_updates} updates of it: "
                f"collect it with this trainer's collector"
            )
        rewards = reward_metrics(experience)
        try:
            advantages = check_advantages(self.advantage_estimator(experience), experience.samples)
        except NonFiniteError:
            if self.config.non_finite == "raise":
                raise
            return rewards | {"num_updates": 0.0, "skipped_updates": 1.0}
        weights = LossWeights.of(self.config.loss_averaging, experience.samples, self._weights_dtype)
        metrics = UpdateMetrics()
        self._policy.policy.train()
        with torch.enable_grad(), RestoresTraining(self.optimizer, self._parameters.values(), num_updates):
            for minibatch in iterate_minibatches(
                experience.batch,
                self.config,
                whole_samples=bool(getattr(self.objective, "requires_whole_samples", False)),
                generator=self.generator,
            ):
                try:
                    self._accumulate_gradients(experience, advantages, weights, minibatch, metrics)
                    metrics.end_step(self._apply_gradients(experience, minibatch))
                except NonFiniteError:
                    if self.config.non_finite == "raise":
                        raise
                    metrics.skip_step()
        return (
            rewards
            | metrics.result()
            | {
                "learning_rate": self.optimizer.param_groups[0]["lr"] if self.optimizer is not None else 0.0,
                "num_samples": float(len(experience.samples)),
                "num_decisions": float(experience.samples.total),
            }
        )

    def _accumulate_gradients(
        self,
        experience: Experience,
        advantages: Tensor,
        weights: LossWeights,
        minibatch: list[MicroBatch],
        metrics: UpdateMetrics,
    ) -> None:
        drop_gradients(self.optimizer, self._parameters.values())
        denominator = reduce(add, [micro_batch.take(weights.denominator).sum() for micro_batch in minibatch])
        for micro_batch in minibatch:
            evaluation = self._policy.evaluate(
                experience.batch, micro_batch.rows, requires_gradient=self.optimizer is not None
            )
            decisions = Decisions(
                micro_batch.take(advantages).to(evaluation.log_probs.dtype),
                micro_batch.take(experience.old_log_probs),
                micro_batch.take(experience.reference_log_probs),
                micro_batch.samples,
            )
            terms = check_terms(
                self.objective(evaluation, decisions),
                micro_batch.samples,
                partial(locate, experience.batch, micro_batch.rows),
                requires_gradient=self.optimizer is not None,
            )
            weight = (micro_batch.take(weights.numerator) / denominator).to(terms.loss.dtype)
            loss = torch.dot(weight, terms.loss)
            if self.optimizer is not None:
                loss.backward()
            metrics.add_micro_batch(loss, terms.metrics, weight)

    def _apply_gradients(self, experience: Experience, minibatch: list[MicroBatch]) -> float | None:
        """Make the optimiser step; the norm of the gradient before it was scaled down, None without parameters."""
        if self.optimizer is None:
            return None
        held = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in held if parameter.grad is not None]
        if not gradients:
            raise ValueError(
                f"no gradient reached a parameter that the optimizer holds: {self._policy.source} must compute "
                f"log-probs from the very tensors in get_parameters"
            )
        norm = torch.nn.utils.get_total_norm(gradients)
        grad_norm: float = norm.item()
        if not math.isfinite(grad_norm):
            raise NonFiniteError(self._describe_bad_gradient(experience.batch, minibatch))
        if self.config.max_grad_norm is not None and grad_norm > self.config.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(held, self.config.max_grad_norm, norm)
        self.optimizer.step()
        return grad_norm

    def _describe_bad_gradient(self, batch: ActionBatch, minibatch: list[MicroBatch]) -> str:
        """Name the parameters whose gradient is not finite, and the first row that makes it so by itself."""
        named = self._parameters.items()
        bad = [name for name, tensor in named if tensor.grad is not None and not tensor.grad.isfinite().all()]
        message = f"gradient of {', '.join(bad[:3]) or 'a parameter that the optimizer holds'} is not finite"
        parameters = [tensor for tensor in self._parameters.values() if tensor.requires_grad]
        for micro_batch in minibatch if parameters else ():
            rows = torch.arange(len(batch.rows)) if micro_batch.rows is None else micro_batch.rows
            for row in rows.to(batch.rows.device).split(1):
                log_probs = self._policy.evaluate(batch, row).log_probs
                gradients = torch.autograd.grad(log_probs.sum(), parameters, allow_unused=True)
                if not all(gradient is None or gradient.isfinite().all() for gradient in gradients):
                    return f"{message}: the gradient of the log-prob is not for {locate(batch, row, 0)}"
        return f"{message}, though that of each log-prob is: the sum overflows, lower the rewards' scale"


def _check_callable(name: str, value: object) -> None:
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"{name} is {value!r}, expected an instance or a function that can be called")


def _optimizer_over(
    parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer | None, learning_rate: float
) -> torch.optim.Optimizer | None:
    if not parameters:
        warnings.warn(
            "the policy has no trainable parameters: step() samples, scores and reports, and changes nothing",
            stacklevel=4,
        )
        return None
    if optimizer is None:
        fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters.values())
        return torch.optim.AdamW(parameters.values(), lr=learning_rate, weight_decay=0.0, fused=fused)
    check_optimizer(optimizer, parameters)
    return optimizer
