"""Coefficients of a penalty that follow the divergence which they penalise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from grpo.data._protocols import type_name
from grpo.data.errors import NonFiniteError


class KLCoefficient(ABC):
    """A coefficient β that follows a divergence: what :class:`AdaptiveKLCoefficient` and others have in common.

    Attributes:
        value: β as it is now.
        target: the divergence to keep to, nats a decision.

    Args:
        target: the divergence to keep to, above 0.
        initial: β to start from, 1e-6 to 1e6, which bound it later too.

    Example:
        >>> class Proportional(KLCoefficient):
        ...     def factor(self, kl, num_samples):
        ...         return kl / self.target
        >>> coefficient = Proportional(target=0.25, initial=1.0)
        >>> coefficient.update(0.75)
        >>> coefficient.value
        3.0
    """

    BOUNDS: ClassVar[tuple[float, float]] = (1e-6, 1e6)

    def __init__(self, target: float, initial: float) -> None:
        low, high = self.BOUNDS
        if not (0 < target < float("inf") and low <= initial <= high):
            raise ValueError(
                f"{type_name(self)} got target={target} and initial={initial}, expected a finite target above 0 "
                f"and an initial coefficient from {low:g} to {high:g}"
            )
        self.target = target
        self.value = initial

    @abstractmethod
    def factor(self, kl: float, num_samples: int) -> float:
        """What β is multiplied by after a step of so many samples with such a divergence."""

    def update(self, kl: float, num_samples: int = 1) -> None:
        """Tell it the divergence of the step that just ended, and how many samples the step had.

        Raises:
            NonFiniteError: if the divergence is not finite; the coefficient stays as it is.
        """
        if not math.isfinite(kl):
            raise NonFiniteError(f"{type_name(self)} was told a divergence of {kl}, expected a finite number of nats")
        low, high = self.BOUNDS
        self.value = min(max(self.value * self.factor(kl, num_samples), low), high)

    def state_dict(self) -> dict[str, float]:
        """What changes in the course of a training: β."""
        return {"value": self.value}

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            ValueError: if it is not the state of a coefficient.
        """
        if not isinstance(state_dict, Mapping) or "value" not in state_dict:
            raise ValueError(f"{type_name(self)}.load_state_dict was given {state_dict!r:.100}, expected a value")
        self.value = float(state_dict["value"])

    def __repr__(self) -> str:
        return f"{type_name(self)}(target={self.target}, value={self.value})"


class AdaptiveKLCoefficient(KLCoefficient):
    """A coefficient β that follows a divergence: doubled where that is above 1.5 times its target, halved below 2/3.

    Attributes:
        value: β as it is now.
        target: the divergence to keep to, nats a decision.

    Args:
        target: the divergence to keep to, above 0.
        initial: β to start from, 1e-6 to 1e6, which bound it later too; it finds its way from any.

    References:
        Schulman et al. 2017, arXiv:1707.06347, section 4.

    Example:
        >>> coefficient = AdaptiveKLCoefficient(target=0.01, initial=1.0)
        >>> for kl in (0.02, 0.01, 0.001, 0.001):
        ...     coefficient.update(kl)
        ...     print(coefficient.value)
        2.0
        2.0
        1.0
        0.5
    """

    TOLERANCE: ClassVar[float] = 1.5
    FACTOR: ClassVar[float] = 2.0

    def __init__(self, target: float, initial: float = 1.0) -> None:
        super().__init__(target, initial)

    def factor(self, kl: float, num_samples: int) -> float:
        """2, 1/2 or 1, whatever the number of samples."""
        if kl > self.target * self.TOLERANCE:
            return self.FACTOR
        return 1 / self.FACTOR if kl < self.target / self.TOLERANCE else 1.0


class HorizonKLCoefficient(KLCoefficient):
    """A coefficient β that follows a divergence in proportion, β ← β (1 + clip(KL/target - 1, ±0.2) n/H).

    Attributes:
        value: β as it is now.
        target: the divergence to keep to, nats a decision.
        horizon: H, samples over which it moves by about a fifth at the most.

    Args:
        target: the divergence to keep to, above 0.
        horizon: H, above 0; n is the number of samples in a step.
        initial: β to start from, 1e-6 to 1e6, which bound it later too.

    References:
        Ziegler et al. 2019, arXiv:1909.08593, section 2.2.

    Example:
        >>> coefficient = HorizonKLCoefficient(target=0.01, horizon=100, initial=1.0)
        >>> for kl in (0.011, 0.05, 0.0):  # 10 % above the target, far above it, below it
        ...     coefficient.update(kl, num_samples=50)
        ...     print(round(coefficient.value, 4))
        1.05
        1.155
        1.0395
    """

    CLIP: ClassVar[float] = 0.2

    def __init__(self, target: float, horizon: float = 10_000, initial: float = 0.2) -> None:
        super().__init__(target, initial)
        if not 0 < horizon < float("inf"):
            raise ValueError(f"HorizonKLCoefficient got horizon={horizon}, expected a finite number of samples above 0")
        self.horizon = horizon

    def factor(self, kl: float, num_samples: int) -> float:
        """1 + clip(KL/target - 1, ±0.2) n/H."""
        error = min(max(kl / self.target - 1, -self.CLIP), self.CLIP)
        return 1 + error * num_samples / self.horizon
