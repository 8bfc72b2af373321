"""REINFORCE: the trainer with sampled returns for the plain score function."""

from __future__ import annotations

from typing import Any

import torch

from grpo.advantages.estimator import AdvantageEstimator
from grpo.advantages.kl_rewards import KLPenalizedRewards
from grpo.advantages.temporal import GeneralizedAdvantage, MonteCarlo
from grpo.config.reinforce import ReinforceConfig
from grpo.data.needs import needs_of
from grpo.distributed.world import World
from grpo.models._evaluator import Evaluator
from grpo.models.policy import ActionsT, PolicyModel, StatesT
from grpo.models.reward_model import RewardModel
from grpo.objectives.grpo_objective import GRPOObjective, Objective
from grpo.objectives.ppo_objective import PPOObjective
from grpo.objectives.surrogates import ScoreFunctionSurrogate
from grpo.rollout.sampler import Sampler
from grpo.training._other_names import tells_other_names
from grpo.training._presets import check_config, check_estimator, check_objective
from grpo.training.trainer import Trainer


class ReinforceTrainer(Trainer[StatesT, ActionsT]):
    """REINFORCE: make each action more likely the higher the return that followed it, once per rollout.

    Args:
        config: how to run, and the numbers of the estimator and the objective.
        policy: the policy to train.
        reward_model: scores its actions.
        reference_policy: the policy that an objective or estimator of your own may keep it near to; only changed by
            ``config.reference_sync``.
        optimizer: over the policy's parameters; None for AdamW at ``config.learning_rate`` without weight decay.
        sampler: makes the actions; None for the policy itself, or the sampler that it was built for.
        advantage_estimator: any function of an experience in place of :class:`grpo.MonteCarlo` with rewards to go.
        objective: in place of a :class:`grpo.GRPOObjective` with a :class:`grpo.ScoreFunctionSurrogate`, or a
            :class:`grpo.PPOObjective` with it where the estimator reads a critic's values, which are then trained.
        world: the processes that train it together, each with a share of the states; None for this one alone.

    Raises:
        TypeError: if a model lacks a method; the message names each.
        ValueError: as :class:`grpo.GRPOTrainer` does.

    References:
        Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".

    Example:
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> policy, bandit = SoftmaxPolicy(num_arms=3), StationaryBandit([0.1, 0.5, 0.9])
        >>> trainer = ReinforceTrainer(ReinforceConfig(group_size=16, learning_rate=0.1), policy, bandit)
        >>> for _ in range(100):
        ...     metrics = trainer.step(["the only state"])
        >>> policy.probabilities().argmax().item()
        2
    """

    @tells_other_names
    def __init__(
        self,
        config: ReinforceConfig,
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
        check_config(config, ReinforceConfig)
        check_estimator(config, advantage_estimator, {"discount"})
        check_objective(config, objective, {"entropy_coefficient"})
        if advantage_estimator is None:
            advantage_estimator = MonteCarlo(discount=config.discount)
        if objective is None:
            objective_class = PPOObjective if _trains_critic(advantage_estimator, policy) else GRPOObjective
            objective = objective_class(
                surrogate=ScoreFunctionSurrogate(), entropy_coefficient=config.entropy_coefficient
            )
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


def _trains_critic(estimator: object, policy: PolicyModel[Any, Any]) -> bool:
    """Whether the estimator reads a critic: where it may, as with a baseline that is a plain function, it is
    trained.
    """
    critic = needs_of(estimator).critic
    inner = estimator
    while isinstance(inner, KLPenalizedRewards):
        inner = inner.estimator
    tells_returns = isinstance(inner, MonteCarlo | GeneralizedAdvantage)
    return bool(critic) or (critic is None and tells_returns and Evaluator(policy).has_critic)
