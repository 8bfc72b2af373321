"""What trainers that preset an estimator and an objective check of what is given in their place."""

from __future__ import annotations

import warnings
from collections.abc import Set

from grpo.advantage_estimator import check_takes_experience
from grpo.config import TrainerConfig, UpdateConfig
from grpo.kl_penalty import KLPenaltySurrogate
from grpo.requirements import Requirements
from grpo.soft_adaptive_surrogate import SoftAdaptiveSurrogate
from grpo.surrogate import ClippedImportanceSurrogate, ClippedSurrogate, ScoreFunctionSurrogate

SURROGATES = (
    ClippedSurrogate | ClippedImportanceSurrogate | ScoreFunctionSurrogate | KLPenaltySurrogate | SoftAdaptiveSurrogate
)


def check_config(config: object, expected: type[UpdateConfig]) -> None:
    """A preset reads the numbers of its own config."""
    if not isinstance(config, expected):
        raise TypeError(f"config is {config!r}, expected a grpo.{expected.__name__}")


def check_estimator(config: TrainerConfig, estimator: object, settings: Set[str]) -> None:
    """An estimator of the user's own makes the ``settings`` of the preset one meaningless."""
    if estimator is not None:
        check_takes_experience("advantage_estimator", estimator)
        refuse_replaced(config, settings, "advantage_estimator")


def check_objective(
    config: TrainerConfig, objective: object, settings: Set[str], reference_policy: object, estimator: object
) -> None:
    """An objective of the user's own makes the ``settings`` of the preset one meaningless."""
    if isinstance(objective, SURROGATES):
        raise TypeError(f"objective is a surrogate: pass objective=GRPOObjective(surrogate={objective!r})")
    if objective is None:
        return
    refuse_replaced(config, settings, "objective")
    if reference_policy is not None and not Requirements.of(estimator, objective).reference:
        warnings.warn(
            "reference_policy is not used: the objective has kl_coefficient=0, set it on the objective", stacklevel=3
        )


def refuse_replaced(config: UpdateConfig, settings: Set[str], replaced_by: str) -> None:
    """What is passed in place of a part must not make settings of the config meaningless."""
    given = sorted(settings & config.model_fields_set)
    if given:
        raise ValueError(
            f"config sets {', '.join(given)}, which the {replaced_by} passed beside it replaces: set them on the "
            f"{replaced_by}"
        )
