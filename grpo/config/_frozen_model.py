"""What all settings are made of."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]


class FrozenModel(BaseModel):
    """Base of all settings: immutable, keyword-only, no unknown key, no NaN and no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _name_what_is_known(cls, given: Any) -> Any:
        unknown = [name for name in given if name not in cls.model_fields] if isinstance(given, dict) else []
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), cls.model_fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(sorted(cls.model_fields))}"
            raise ValueError(f"{cls.__name__} has no setting {unknown[0]!r}: {hint}")
        return given
