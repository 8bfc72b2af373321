"""REINFORCE: the trainer with sampled returns and the plain score function."""

from __future__ import annotations

import torch

from grpo.advantage_estimator import AdvantageEstimator
from grpo.config import ReinforceConfig
from grpo.grpo_objective import GRPOObjective, Objective
from grpo.policy_base import ActionsT, PolicyModel, StatesT
from grpo.ppo_objective import PPOObjective
from grpo.presets import check_config, check_estimator, check_objective
from grpo.reward_model_base import RewardModel
from grpo.surrogate import ScoreFunctionSurrogate
from grpo.temporal_advantages import MonteCarlo
from grpo.trainer import Trainer


class ReinforceTrainer(Trainer[StatesT, ActionsT]):
    """REINFORCE: make each action more likely the higher the return that followed it, once per rollout.

    Args:
        config: how to run, and the numbers of the estimator and the objective.
        policy: the policy to train.
        reward_model: scores its actions.
        reference_policy: the policy that an objective or estimator of your own may keep it near to; only changed by
            ``config.reference_sync``.
        optimizer: over the policy's parameters; None for AdamW at ``config.learning_rate`` without weight decay.
        advantage_estimator: any function of an experience in place of :class:`grpo.MonteCarlo` with rewards to go.
        objective: in place of a :class:`grpo.GRPOObjective` with a :class:`grpo.ScoreFunctionSurrogate`, or a
            :class:`grpo.PPOObjective` with it where the estimator reads a critic's values, which are then trained.

    Raises:
        TypeError: if a model lacks a method; the message names each.
        ValueError: as :class:`grpo.GRPOTrainer` does.

    References:
        Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
    """

    def __init__(
        self,
        config: ReinforceConfig,
        policy: PolicyModel[StatesT, ActionsT],
        reward_model: RewardModel[StatesT, ActionsT],
        reference_policy: PolicyModel[StatesT, ActionsT] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        advantage_estimator: AdvantageEstimator | None = None,
        objective: Objective | None = None,
    ) -> None:
        check_config(config, ReinforceConfig)
        check_estimator(config, advantage_estimator, {"discount"})
        check_objective(config, objective, {"entropy_coefficient"}, reference_policy, advantage_estimator)
        estimator = advantage_estimator or MonteCarlo(discount=config.discount)
        with_critic = bool(getattr(estimator, "requires_values", False))
        objective_class = PPOObjective if with_critic else GRPOObjective
        super().__init__(
            config,
            policy,
            reward_model,
            reference_policy,
            optimizer,
            advantage_estimator=estimator,
            objective=objective
            or objective_class(surrogate=ScoreFunctionSurrogate(), entropy_coefficient=config.entropy_coefficient),
        )
