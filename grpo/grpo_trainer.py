"""GRPO: the trainer with group-relative advantages and a clipped surrogate."""

from __future__ import annotations

import warnings

import torch

from grpo.advantage_estimator import GROUP_FUNCTIONS, AdvantageEstimator, GroupRelative
from grpo.config import GRPOConfig, TrainerConfig
from grpo.grpo_objective import GRPOObjective, Objective
from grpo.policy_base import ActionsT, PolicyModel, StatesT
from grpo.reward_model_base import RewardModel
from grpo.surrogate import ClippedImportanceSurrogate, ClippedSurrogate, ScoreFunctionSurrogate
from grpo.trainer import Trainer

DEFAULT_KL_COEFFICIENT = 0.04


class GRPOTrainer(Trainer[StatesT, ActionsT]):
    """Group relative policy optimisation: sample a group of actions for a state, and reinforce those above its mean.

    Args:
        config: how to run, and the numbers of the objective.
        policy: the policy to train, a :class:`grpo.PolicyModel` or :class:`grpo.SequentialPolicy`.
        reward_model: scores its actions.
        reference_policy: the policy to stay near to, usually ``copy.deepcopy(policy)``; never changed.
        optimizer: over the policy's parameters; None for AdamW at ``config.learning_rate`` without weight decay.
        advantage_estimator: any function of an experience in place of :class:`grpo.GroupRelative`.
        objective: in place of the :class:`grpo.GRPOObjective` that the config describes.

    Raises:
        TypeError: if a model lacks a method; the message names each.
        ValueError: if ``config`` sets numbers of an objective while ``objective`` is given, or a KL coefficient without
            a reference policy; if the optimizer holds none of the policy's parameters; if the reference policy
            shares trainable ones with it; if groups are too small for the estimator.

    References:
        Shao et al. 2024, arXiv:2402.03300.

    Example:
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> policy = SoftmaxPolicy(num_arms=3)
        >>> bandit = StationaryBandit([0.1, 0.9, 0.3])
        >>> trainer = GRPOTrainer(GRPOConfig(group_size=16, learning_rate=0.1), policy, bandit)
        >>> for _ in range(100):
        ...     metrics = trainer.step(["the only state"])
        >>> policy.probabilities().argmax().item()
        1
    """

    def __init__(
        self,
        config: GRPOConfig,
        policy: PolicyModel[StatesT, ActionsT],
        reward_model: RewardModel[StatesT, ActionsT],
        reference_policy: PolicyModel[StatesT, ActionsT] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        advantage_estimator: AdvantageEstimator | None = None,
        objective: Objective | None = None,
    ) -> None:
        if not isinstance(config, GRPOConfig):
            raise TypeError(f"config is {config!r}, expected a grpo.GRPOConfig")
        if isinstance(objective, ClippedSurrogate | ClippedImportanceSurrogate | ScoreFunctionSurrogate):
            raise TypeError(f"objective is a surrogate: pass objective=GRPOObjective(surrogate={objective!r})")
        if any(function is advantage_estimator for function in GROUP_FUNCTIONS):
            name = getattr(advantage_estimator, "__name__", "")
            raise TypeError(
                f"advantage_estimator is {name}, a function of rewards in groups: pass GroupRelative({name})"
            )
        if objective is None:
            objective = _objective_of(config, has_reference=reference_policy is not None)
        else:
            _refuse_objective_settings(config)
            if reference_policy is not None and not getattr(objective, "requires_reference", True):
                warnings.warn(
                    "reference_policy is not used: the objective has kl_coefficient=0, set it on the objective",
                    stacklevel=2,
                )
        super().__init__(
            config,
            policy,
            reward_model,
            reference_policy,
            optimizer,
            advantage_estimator=GroupRelative() if advantage_estimator is None else advantage_estimator,
            objective=objective,
        )


def _objective_of(config: GRPOConfig, *, has_reference: bool) -> GRPOObjective:
    if config.kl_coefficient is None:
        kl_coefficient = DEFAULT_KL_COEFFICIENT if has_reference else 0.0
    else:
        kl_coefficient = config.kl_coefficient
    return GRPOObjective(
        surrogate=ClippedSurrogate(clip_low=config.clip_low, clip_high=config.clip_high, dual_clip=config.dual_clip),
        kl_coefficient=kl_coefficient,
        kl_estimator=config.kl_estimator,
        kl_importance_correction=config.kl_importance_correction,
        entropy_coefficient=config.entropy_coefficient,
    )


def _refuse_objective_settings(config: GRPOConfig) -> None:
    of_objective = GRPOConfig.model_fields.keys() - TrainerConfig.model_fields.keys()
    given = sorted(of_objective & config.model_fields_set)
    if given:
        raise ValueError(
            f"config sets {', '.join(given)}, which the objective passed beside it replaces: set them on the objective"
        )
