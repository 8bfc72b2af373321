"""GRPO: the trainer with group-relative advantages for a clipped surrogate."""

from __future__ import annotations

import torch

from grpo.advantages.estimator import AdvantageEstimator
from grpo.advantages.group_relative import GroupRelative
from grpo.config.grpo import GRPOConfig
from grpo.config.rollout import TrainerConfig
from grpo.data.needs import needs_of
from grpo.distributed.world import World
from grpo.models.policy import ActionsT, PolicyModel, StatesT
from grpo.models.reward_model import RewardModel
from grpo.objectives.grpo_objective import GRPOObjective, Objective
from grpo.objectives.surrogates import ClippedSurrogate
from grpo.rollout.sampler import Sampler
from grpo.training._other_names import tells_other_names
from grpo.training._presets import check_config, check_estimator, check_objective
from grpo.training.trainer import Trainer

DEFAULT_KL_COEFFICIENT = 0.04
OBJECTIVE_SETTINGS = GRPOConfig.model_fields.keys() - TrainerConfig.model_fields.keys()


class GRPOTrainer(Trainer[StatesT, ActionsT]):
    """Group relative policy optimisation: sample a group of actions for a state, and reinforce those above its mean.

    Args:
        config: how to run, and the numbers of the objective.
        policy: the policy to train, a :class:`grpo.PolicyModel` or :class:`grpo.SequentialPolicy`.
        reward_model: scores its actions.
        reference_policy: the policy to stay near to, usually ``copy.deepcopy(policy)``; only changed by
            ``config.reference_sync``.
        optimizer: over the policy's parameters; None for AdamW at ``config.learning_rate`` without weight decay.
        sampler: makes the actions; None for the policy itself, or the sampler that it was built for.
        advantage_estimator: any function of an experience in place of :class:`grpo.GroupRelative`.
        objective: in place of the :class:`grpo.GRPOObjective` that the config describes.
        world: the processes that train it together, each with a share of the states; None for this one alone.

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

    @tells_other_names
    def __init__(
        self,
        config: GRPOConfig,
        policy: PolicyModel[StatesT, ActionsT],
        reward_model: RewardModel[StatesT, ActionsT],
        reference_policy: PolicyModel[StatesT, ActionsT] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        sampler: Sampler[StatesT, ActionsT] | None = None,
        advantage_estimator: AdvantageEstimator | None = None,
        objective: Objective | None = None,
        world: World | None = None,
    ) -> None:
        check_config(config, GRPOConfig)
        check_estimator(config, advantage_estimator, frozenset())
        check_objective(config, objective, OBJECTIVE_SETTINGS)
        if advantage_estimator is None:
            advantage_estimator = GroupRelative()
        if objective is None:
            is_in_the_loss = reference_policy is not None and not needs_of(advantage_estimator).reference
            objective = _objective_of(config, DEFAULT_KL_COEFFICIENT if is_in_the_loss else 0.0)
        super().__init__(
            config,
            policy,
            reward_model,
            reference_policy,
            optimizer,
            sampler=sampler,
            advantage_estimator=advantage_estimator,
            objective=objective,
            world=world,
        )


def _objective_of(config: GRPOConfig, default_kl_coefficient: float) -> GRPOObjective:
    return GRPOObjective(
        surrogate=ClippedSurrogate(clip_low=config.clip_low, clip_high=config.clip_high, dual_clip=config.dual_clip),
        kl_coefficient=default_kl_coefficient if config.kl_coefficient is None else config.kl_coefficient,
        kl_estimator=config.kl_estimator,
        kl_importance_correction=config.kl_importance_correction,
        entropy_coefficient=config.entropy_coefficient,
    )
