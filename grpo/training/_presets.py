"""Checks of what is given in place of a trainer's preset estimator or objective."""

from __future__ import annotations

from collections.abc import Set

from grpo.advantages._checks import check_takes_experience
from grpo.advantages.kl_rewards import KLPenalizedRewards
from grpo.advantages.temporal import MonteCarlo
from grpo.config.ppo import PPOConfig
from grpo.config.reinforce import ReinforceConfig
from grpo.config.rollout import TrainerConfig
from grpo.config.update import UpdateConfig
from grpo.data._protocols import type_name
from grpo.objectives.kl_penalty import KLPenaltySurrogate
from grpo.objectives.soft_adaptive_surrogate import SoftAdaptiveSurrogate
from grpo.objectives.surrogates import ClippedImportanceSurrogate, ClippedSurrogate, ScoreFunctionSurrogate

SURROGATES = (
    ClippedSurrogate | ClippedImportanceSurrogate | ScoreFunctionSurrogate | KLPenaltySurrogate | SoftAdaptiveSurrogate
)


def check_config(config: object, expected: type[UpdateConfig]) -> None:
    """A preset reads the numbers of its own config."""
    if not isinstance(config, expected):
        raise TypeError(f"config is {config!r:.100}, expected a grpo.{expected.__name__}")


def check_estimator(config: TrainerConfig, estimator: object, settings: Set[str]) -> None:
    """An estimator of the user's own makes the ``settings`` of the preset one meaningless."""
    if estimator is not None:
        check_takes_experience("advantage_estimator", estimator)
        refuse_replaced(config, settings, "advantage_estimator")
        if isinstance(config, PPOConfig | ReinforceConfig):
            check_tells_discount(config, estimator)


def check_tells_discount(config: PPOConfig | ReinforceConfig, estimator: object) -> None:
    """A Monte-Carlo estimator that leaves γ at its default of 1 beside a config with another one may not mean it."""
    inner = estimator
    while isinstance(inner, KLPenalizedRewards):
        inner = inner.estimator
    if isinstance(inner, MonteCarlo) and "discount" not in inner.model_fields_set and config.discount != inner.discount:
        raise ValueError(
            f"advantage_estimator leaves its discount at {inner.discount:g}, and {type_name(config)} has "
            f"{config.discount:g}: say which you mean, MonteCarlo(discount={config.discount:g}, ...) or "
            f"MonteCarlo(discount={inner.discount:g}, ...)"
        )


def check_objective(config: TrainerConfig, objective: object, settings: Set[str]) -> None:
    """An objective of the user's own makes the ``settings`` of the preset one meaningless."""
    if isinstance(objective, SURROGATES):
        raise TypeError(f"objective is a surrogate: pass objective=GRPOObjective(surrogate={objective!r})")
    if objective is not None:
        refuse_replaced(config, settings, "objective")


def refuse_replaced(config: UpdateConfig, settings: Set[str], replaced_by: str) -> None:
    """What is passed in place of a part must not make settings of the config meaningless."""
    replaced = sorted(settings & config.model_fields_set)
    if replaced:
        raise ValueError(
            f"config sets {', '.join(replaced)}, which the {replaced_by} passed beside it replaces: set them on the "
            f"{replaced_by}"
        )
