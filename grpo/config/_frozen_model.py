"""What all settings are made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from grpo.data._protocols import shown

Fraction = Annotated[float, Field(ge=0, le=1)]

KNOWN_ELSEWHERE_AS = {
    "n_epochs": "num_epochs_per_update",
    "ppo_epochs": "num_epochs_per_update",
    "num_iterations": "num_epochs_per_update",
    "minibatch_size": "batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "num_generations": "group_size",
    "lr": "learning_rate",
    "eps": "adam_epsilon",
    "gamma": "discount",
    "lam": "gae_lambda",
    "clip_range": "clip_low",
    "clip_coef": "clip_low",
    "cliprange": "clip_low",
    "epsilon": "clip_low",
    "epsilon_high": "clip_high",
    "delta": "dual_clip",
    "clip_range_vf": "value_clip",
    "cliprange_value": "value_clip",
    "vf_coef": "value_coefficient",
    "ent_coef": "entropy_coefficient",
    "beta": "kl_coefficient",
    "kl_coef": "kl_coefficient",
    "normalize_advantage": "advantage_normalization",
    "norm_adv": "advantage_normalization",
    "mask_truncated_completions": "mask_truncated",
    "loss_type": "loss_averaging",
    "loss_agg_mode": "loss_averaging",
    "sync_ref_model": "reference_sync",
    "max_completion_length": "max_new_tokens",
    "stop": "stop_strings",
}
"""What other libraries call a setting, and what it is called here; where it is two, the first of them."""


def _takes_bool(annotation: Any) -> bool:
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return any(isinstance(part, bool) for part in parts)
    return annotation in (bool, Any) or any(map(_takes_bool, parts))


class FrozenModel(BaseModel):
    """Base of all settings: immutable, keyword-only, no unknown key, no NaN and no infinity.

    Example:
        >>> class Penalty(FrozenModel):
        ...     weight: float = 0.1
        >>> Penalty(weight=0.5)
        Penalty(weight=0.5)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _name_what_is_known(cls, given: Any) -> Any:
        unknown = [name for name in given if name not in cls.model_fields] if isinstance(given, dict) else []
        if unknown:
            raise ValueError(f"{cls.__name__} has no setting {unknown[0]!r}: {cls._hint(str(unknown[0]))}")
        for name, value in given.items() if isinstance(given, dict) else ():
            if isinstance(value, bool) and not _takes_bool(cls.model_fields[name].annotation):
                raise ValueError(f"{cls.__name__}.{name} is {value}, expected another value: it is no switch")
        return given

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """The settings, functions by their names."""
        return ((name, shown(value)) for name, value in super().__repr_args__())

    @classmethod
    def _hint(cls, unknown: str) -> str:
        meant = KNOWN_ELSEWHERE_AS.get(unknown)
        if meant in cls.model_fields:
            return f"it is called {meant} here"
        near = difflib.get_close_matches(unknown, cls.model_fields, n=1)
        return f"did you mean {near[0]}?" if near else f"expected some of {', '.join(sorted(cls.model_fields))}"
