"""PPO: the trainer with a critic's advantages for a clipped or penalised surrogate."""

from __future__ import annotations

from typing import Any

import torch

from grpo.advantages.estimator import AdvantageEstimator
from grpo.advantages.temporal import GeneralizedAdvantage
from grpo.config.ppo import PPOConfig
from grpo.config.rollout import TrainerConfig
from grpo.distributed.world import World
from grpo.models.policy import ActionsT, ActorCriticPolicy, PolicyModel, StatesT
from grpo.models.reward_model import RewardModel
from grpo.objectives.grpo_objective import Objective
from grpo.objectives.ppo_objective import PPOObjective
from grpo.objectives.surrogates import ClippedSurrogate
from grpo.rollout.sampler import Sampler
from grpo.training._other_names import tells_other_names
from grpo.training._presets import check_config, check_estimator, check_objective
from grpo.training.trainer import Trainer

ESTIMATOR_SETTINGS = frozenset({"discount", "gae_lambda"})
OBJECTIVE_SETTINGS = PPOConfig.model_fields.keys() - TrainerConfig.model_fields.keys() - ESTIMATOR_SETTINGS


class PPOTrainer(Trainer[StatesT, ActionsT]):
    """Proximal policy optimisation: several epochs on a rollout, none of them far from the policy that sampled it.

    The penalty in place of the clip is ``objective=PPOObjective(surrogate=KLPenaltySurrogate(...))``.

    Args:
        config: how to run, and the numbers of the estimator and the objective.
        policy: the policy to train, a :class:`grpo.ActorCriticPolicy`.
        reward_model: scores its actions.
        reference_policy: the policy to stay near to where ``config.kl_coefficient`` is above 0; only changed by
            ``config.reference_sync``.
        optimizer: over the policy's parameters; None for AdamW at ``config.learning_rate`` without weight decay.
        sampler: makes the actions; None for the policy itself, or the sampler that it was built for.
        advantage_estimator: any function of an experience in place of :class:`grpo.GeneralizedAdvantage`.
        objective: in place of the :class:`grpo.PPOObjective` that the config describes.
        world: the processes that train it together, each with a share of the states; None for this one alone.

    Raises:
        TypeError: if a model lacks a method, or the policy a critic; the message names each.
        ValueError: as :class:`grpo.GRPOTrainer` does.

    References:
        Schulman et al. 2017, arXiv:1707.06347.

    Example:
        >>> import gymnasium
        >>> from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic
        >>> sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=2), num_steps=32)
        >>> trainer = PPOTrainer(PPOConfig(), GymActorCritic(sampler), EnvironmentReward())
        >>> trainer.step(sampler.states)["num_samples"]
        2.0
    """

    @tells_other_names
    def __init__(
        self,
        config: PPOConfig,
        policy: ActorCriticPolicy[StatesT, ActionsT, Any],
        reward_model: RewardModel[StatesT, ActionsT],
        reference_policy: PolicyModel[StatesT, ActionsT] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        sampler: Sampler[StatesT, ActionsT] | None = None,
        advantage_estimator: AdvantageEstimator | None = None,
        objective: Objective | None = None,
        world: World | None = None,
    ) -> None:
        check_config(config, PPOConfig)
        check_estimator(config, advantage_estimator, ESTIMATOR_SETTINGS)
        check_objective(config, objective, OBJECTIVE_SETTINGS)
        if advantage_estimator is None:
            advantage_estimator = GeneralizedAdvantage(discount=config.discount, gae_lambda=config.gae_lambda)
        if objective is None:
            objective = PPOObjective(
                surrogate=ClippedSurrogate(clip_low=config.clip_low, clip_high=config.clip_high),
                value_coefficient=config.value_coefficient,
                value_clip=config.value_clip,
                entropy_coefficient=config.entropy_coefficient,
                kl_coefficient=config.kl_coefficient,
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
