"""Exploration whose noise is a function of the state."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from grpo_adapters.gym.actions.distributions import DiagonalGaussian


class StateDependentExploration(DiagonalGaussian):
    """Gaussians whose noise is a random linear function of latents of the state, drawn anew every so many steps (gSDE).

    The outputs are means and latents z, in this order. What is drawn is ``mean + z E`` with E a matrix of normal noise
    with the standard deviations of :attr:`log_std`; between two draws of E the same state is met by the same action, so
    that exploration is smooth. As a distribution of one action it is a Gaussian with variance ``z² σ²``.

    A policy's own network gives its last hidden units as latents; one of yours ends with K + L outputs.

    Args:
        space: the action space, of K numbers.
        initial_std: standard deviation to start from, for latents that are 1 in the mean square.
        num_latents: L; of a policy's own network, units of the last hidden layer, or of the trunk.
        resample_every: steps for which noise stays the same.

    Raises:
        ValueError: if ``num_latents`` or ``resample_every`` is below 1.

    Example:
        >>> import gymnasium
        >>> from grpo_adapters.gym import GymActorCritic
        >>> policy = GymActorCritic(gymnasium.make("Pendulum-v1"), distribution=StateDependentExploration)
        >>> policy.get_parameters()["distribution.log_std"].shape
        torch.Size([64, 1])

    References:
        Raffin, Kober and Stulp 2021, arXiv:2005.05719.
    """

    SMALLEST_VARIANCE = 1e-6

    def __init__(
        self, space: spaces.Box, initial_std: float = 1.0, *, num_latents: int = 64, resample_every: int = 8
    ) -> None:
        super().__init__(space, initial_std)
        for name, value in (("num_latents", num_latents), ("resample_every", resample_every)):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        self.num_latents, self.resample_every = num_latents, resample_every
        std = initial_std / math.sqrt(num_latents)
        self.log_std: Any = nn.Parameter(torch.full((num_latents, self.num_dimensions), math.log(std)))
        self.num_outputs = self.num_dimensions + num_latents

    def get_settings(self) -> dict[str, Any]:
        """Whether it squashes, and for how long noise stays the same."""
        return {**super().get_settings(), "resample_every": self.resample_every}

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal noise for E, [*shape, L * K], the same for some steps along the first dimension."""
        num_steps, *others = shape
        drawn = torch.randn(
            (-(-num_steps // self.resample_every), *others, self.num_latents * self.num_dimensions),
            generator=generator,
            device=generator.device,
        )
        return drawn.repeat_interleave(self.resample_every, 0)[:num_steps]

    def sample(self, outputs: Tensor, noise: Tensor, masks: Tensor | None) -> Tensor:
        """What is drawn before squashing, u, [n, K]."""
        means, latents = outputs.split([self.num_dimensions, self.num_latents], -1)
        assert self.log_std is not None
        matrix = noise.unflatten(-1, (self.num_latents, self.num_dimensions)) * self.log_std.exp()
        drawn: Tensor = means + torch.einsum("...l,...lk->...k", latents, matrix)
        return drawn

    def _means_and_log_std(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        means, latents = outputs.split([self.num_dimensions, self.num_latents], -1)
        assert self.log_std is not None
        variances = latents.square() @ self.log_std.exp().square()
        return means, (variances + self.SMALLEST_VARIANCE).log() / 2
