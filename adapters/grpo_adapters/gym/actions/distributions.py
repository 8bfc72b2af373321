"""What a network's outputs mean: distributions over the actions of gymnasium's spaces.

All of them sample by reparameterisation: noise that does not depend on the network can be drawn for a whole rollout at
once, and what is drawn at a step is a function of outputs and noise.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Protocol

FORBIDDEN_LOGIT = -1e8
LARGEST_RANGE = 1e6  # bounds beyond are not meant to be reached
QUADRATURE_POINTS = 16
LOWEST_LOG_STD, HIGHEST_LOG_STD = -10.0, 2.0


class ActionDistribution(Protocol):
    """A family of distributions over actions. *Decisions* are what is stored and evaluated, actions what is played."""

    num_outputs: int
    """Numbers that the network must give for each decision."""
    sizes: list[int]
    """Options of each choice, which an action mask lists one after the other; none where masks make no sense."""

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise for ``shape`` decisions, [*shape, K], on the generator's device; the first dimension is time."""
        ...

    def sample(self, outputs: Tensor, noise: Tensor, masks: Tensor | None) -> Tensor:
        """Decisions from outputs [n, num_outputs] and noise [n, K], masks [n, sum of sizes]."""
        ...

    def mode(self, outputs: Tensor, masks: Tensor | None) -> Tensor:
        """The most probable decisions; of a squashed Gaussian the median."""
        ...

    def log_probs_and_entropy(self, outputs: Tensor, decisions: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-probs [n] of the decisions and entropies [n], nats, differentiable."""
        ...

    def played(self, decisions: Tensor) -> Any:
        """The decisions as actions of the space, a tensor or several as the space has them, where decisions are."""
        ...

    def actions(self, decisions: Tensor) -> Any:
        """The decisions as a vector environment takes them, an array or several as the space has them."""
        ...


class Categorical(nn.Module):
    """One choice of ``n``: the outputs are logits. For Discrete spaces.

    Args:
        space: the action space.

    Raises:
        TypeError: if it is another.

    Example:
        >>> distribution = Categorical(spaces.Discrete(3, start=5))
        >>> logits, masks = torch.tensor([[0.0, 9.0, 1.0]]), torch.tensor([[True, False, True]])
        >>> decisions = distribution.mode(logits, masks)
        >>> decisions, distribution.actions(decisions)
        (tensor([2]), array([7]))
    """

    def __init__(self, space: spaces.Discrete) -> None:
        super().__init__()
        check_kind(self, "a Discrete", space, isinstance(space, spaces.Discrete))
        self.num_outputs = int(space.n)
        self.sizes = [self.num_outputs]
        self.start = int(space.start)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Gumbel noise, [*shape, n]."""
        return gumbel_noise((*shape, self.num_outputs), generator)

    def sample(self, outputs: Tensor, noise: Tensor, masks: Tensor | None) -> Tensor:
        """Choices, int64 [n]: the largest of logits plus Gumbel noise (Gumbel 1954)."""
        return (masked(outputs, masks) + noise).argmax(-1)

    def mode(self, outputs: Tensor, masks: Tensor | None) -> Tensor:
        """The most probable choices, int64 [n]."""
        return masked(outputs, masks).argmax(-1)

    def log_probs_and_entropy(self, outputs: Tensor, decisions: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies, [n] each; what a mask forbids has probability 0."""
        log_probs = masked(outputs, masks).log_softmax(-1)
        chosen = log_probs.gather(-1, decisions.unsqueeze(-1)).squeeze(-1)
        return chosen, -(log_probs.exp() * log_probs).sum(-1)

    def played(self, decisions: Tensor) -> Tensor:
        """The choices counted from the start of the space."""
        return decisions + self.start if self.start else decisions

    def actions(self, decisions: Tensor) -> NDArray[Any]:
        """The choices counted from the start of the space."""
        choices: NDArray[Any] = self.played(decisions).cpu().numpy()
        return choices


class MultiCategorical(nn.Module):
    """Several independent choices: the outputs are the logits of all of them. For MultiDiscrete and MultiBinary spaces.

    Args:
        space: the action space, of K choices in any shape; those of a MultiBinary are between 0 and 1.

    Raises:
        TypeError: if it is another.

    Example:
        >>> distribution = MultiCategorical(spaces.MultiDiscrete([2, 3]))
        >>> logits = torch.tensor([[0.0, 1.0, 5.0, 0.0, 0.0]])  # two for the first choice, three for the second
        >>> distribution.mode(logits, None)
        tensor([[1, 0]])
    """

    def __init__(self, space: spaces.MultiDiscrete | spaces.MultiBinary) -> None:
        super().__init__()
        is_known = isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary)
        check_kind(self, "a MultiDiscrete or MultiBinary", space, is_known)
        self.shape, self.dtype = tuple(space.shape), space.dtype
        if isinstance(space, spaces.MultiBinary):
            self.sizes, starts = [2] * math.prod(self.shape), np.zeros(self.shape, np.int64)
        else:
            self.sizes, starts = [int(size) for size in space.nvec.reshape(-1)], np.asarray(space.start, np.int64)
        self.num_outputs = sum(self.sizes)
        self.starts: Tensor
        self.register_buffer("starts", torch.from_numpy(starts), persistent=False)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Gumbel noise, [*shape, sum of sizes]."""
        return gumbel_noise((*shape, self.num_outputs), generator)

    def sample(self, outputs: Tensor, noise: Tensor, masks: Tensor | None) -> Tensor:
        """Choices, int64 [n, K]."""
        return self._largest(masked(outputs, masks) + noise)

    def mode(self, outputs: Tensor, masks: Tensor | None) -> Tensor:
        """The most probable choices, int64 [n, K]."""
        return self._largest(masked(outputs, masks))

    def _largest(self, scores: Tensor) -> Tensor:
        return torch.stack([part.argmax(-1) for part in scores.split(self.sizes, -1)], -1)

    def log_probs_and_entropy(self, outputs: Tensor, decisions: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies, [n] each, summed over the choices."""
        parts = [part.log_softmax(-1) for part in masked(outputs, masks).split(self.sizes, -1)]
        chosen = [part.gather(-1, own.unsqueeze(-1)) for part, own in zip(parts, decisions.unbind(-1), strict=True)]
        entropy = torch.stack([-(part.exp() * part).sum(-1) for part in parts]).sum(0)
        return torch.cat(chosen, -1).sum(-1), entropy

    def played(self, decisions: Tensor) -> Tensor:
        """The choices counted from the starts of the space, [n, *shape]."""
        return decisions.reshape(*decisions.shape[:-1], *self.shape) + self.starts.to(decisions)

    def actions(self, decisions: Tensor) -> NDArray[Any]:
        """The choices counted from the starts of the space, [n, *shape]."""
        choices: NDArray[Any] = self.played(decisions).cpu().numpy().astype(self.dtype, copy=False)
        return choices


class DiagonalGaussian(nn.Module):
    """Independent Gaussians: the outputs are means; the log of the standard deviations is a parameter. For Box spaces.

    With ``state_dependent_std`` the outputs are means, and then what is added to the log of ``initial_std``.

    A dimension with two finite bounds, not more than a million apart, is squashed: a Gaussian ``u`` is drawn and
    stored, and ``tanh(u)``, scaled to the bounds, is played; its density is that of the action. Other dimensions
    are played as drawn, clipped to bounds that are finite, and so are all without ``squash``: the density is that of
    ``u`` then.

    Args:
        space: the action space, of K numbers in any shape.
        initial_std: standard deviation of ``u`` to start from, above 0.
        state_dependent_std: whether the network gives the standard deviations too; between e^-10 and e^2.
        squash: whether to squash to two finite bounds, and not to clip.

    Raises:
        TypeError: if the space is another.
        ValueError: if ``initial_std`` is not finite and above 0, or the space leaves nothing to choose.

    References:
        Squashing: Haarnoja et al. 2018, arXiv:1801.01290, appendix C.

    Example:
        >>> distribution = DiagonalGaussian(spaces.Box(0, 10, (1,)), initial_std=0.5)
        >>> means, noise = torch.tensor([[0.0], [90.0]]), torch.tensor([[0.0], [1.0]])
        >>> decisions = distribution.sample(means, noise, masks=None)
        >>> decisions.tolist(), distribution.played(decisions).tolist()
        ([[0.0], [90.5]], [[5.0], [10.0]])
    """

    def __init__(
        self, space: spaces.Box, initial_std: float = 1.0, *, state_dependent_std: bool = False, squash: bool = True
    ) -> None:
        super().__init__()
        check_kind(self, "a Box of floating-point numbers", space, is_continuous(space))
        if not 0 < initial_std < math.inf:
            raise ValueError(
                f"initial_std is {initial_std}, expected a finite standard deviation above 0: 1.0 is the default"
            )
        self.shape = tuple(space.shape)
        self.num_dimensions = math.prod(self.shape)
        self.num_outputs = 2 * self.num_dimensions if state_dependent_std else self.num_dimensions
        self.sizes: list[int] = []
        self.initial_log_std = math.log(initial_std)
        self.squash = bool(squash)
        self.log_std: Any = None
        if not state_dependent_std:
            self.log_std = nn.Parameter(torch.full((self.num_dimensions,), self.initial_log_std))
        self.low, self.high, self.dtype = space.low, space.high, space.dtype
        if (space.low >= space.high).any():
            raise ValueError(
                f"action space {space} leaves nothing to choose where low is not below high: take these dimensions "
                f"out of it by gymnasium.wrappers.TransformAction"
            )
        with np.errstate(over="ignore"):
            squashed = (space.high - space.low < LARGEST_RANGE) & squash
        self.squashes = bool(squashed.any())
        half_range = np.where(squashed, (np.where(squashed, space.high, 1) - np.where(squashed, space.low, 0)) / 2, 1.0)
        self.squashed: Tensor
        self.log_half_range: Tensor
        self.bounds: Tensor
        self.register_buffer("bounds", torch.from_numpy(np.stack((space.low, space.high))), persistent=False)
        self.register_buffer("squashed", torch.from_numpy(squashed.reshape(-1)), persistent=False)
        self.register_buffer(
            "log_half_range", torch.from_numpy(np.log(half_range).reshape(-1)).float(), persistent=False
        )
        points, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_POINTS)
        self.points: Tensor
        self.point_weights: Tensor
        self.register_buffer("points", torch.from_numpy(points).float(), persistent=False)
        self.register_buffer("point_weights", torch.from_numpy(weights / weights.sum()).float(), persistent=False)

    def get_settings(self) -> dict[str, Any]:
        """Whether it squashes and, where the network gives standard deviations, what they are measured by."""
        return {"squash": self.squash, **({"initial_log_std": self.initial_log_std} if self.log_std is None else {})}

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal noise, [*shape, K]."""
        return torch.randn((*shape, self.num_dimensions), generator=generator, device=generator.device)

    def sample(self, outputs: Tensor, noise: Tensor, masks: Tensor | None) -> Tensor:
        """What is drawn before squashing, u, [n, K]."""
        means, log_std = self._means_and_log_std(outputs)
        return torch.addcmul(means, log_std.exp(), noise)

    def mode(self, outputs: Tensor, masks: Tensor | None) -> Tensor:
        """The means before squashing, [n, K]."""
        return outputs[..., : self.num_dimensions]

    def _means_and_log_std(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """[n, K] each; the latter [K] where it is the same in all states."""
        if self.log_std is not None:
            return outputs, self.log_std
        means, added = outputs.chunk(2, -1)
        return means, (added + self.initial_log_std).clamp(LOWEST_LOG_STD, HIGHEST_LOG_STD)

    def log_probs_and_entropy(self, outputs: Tensor, decisions: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-densities of the actions and their entropies, [n] each, summed over the dimensions."""
        means, log_std = self._means_and_log_std(outputs)
        std = log_std.exp()
        deviation = (decisions - means) / std
        log_probs = -deviation.square() / 2 - log_std - math.log(2 * math.pi) / 2
        entropy = (log_std + (1 + math.log(2 * math.pi)) / 2).expand_as(means)
        if self.squashes:
            log_probs = log_probs - self._log_slope(decisions)
            at_points = self._log_slope(means.unsqueeze(-2) + self.points.unsqueeze(-1) * std.unsqueeze(-2))
            entropy = entropy + torch.einsum("p,npk->nk", self.point_weights, at_points)
        return log_probs.sum(-1), entropy.sum(-1)

    def _log_slope(self, drawn: Tensor) -> Tensor:
        """Log |da/du| where squashed, 0 elsewhere; 1 - tanh(u)² written so that it does not vanish."""
        slope = 2 * (math.log(2) - drawn - nn.functional.softplus(-2 * drawn)) + self.log_half_range
        return torch.where(self.squashed, slope, 0.0)

    def played(self, decisions: Tensor) -> Tensor:
        """The actions within their bounds, [n, *shape]."""
        decisions = decisions.reshape(*decisions.shape[:-1], *self.shape)
        low, high = self.bounds.to(decisions).unbind(0)
        within = low + (high - low) * ((torch.tanh(decisions) + 1) / 2)
        return torch.where(self.squashed.view(self.shape).to(decisions.device), within, decisions).clamp(low, high)

    def actions(self, decisions: Tensor) -> NDArray[Any]:
        """The actions within their bounds, [n, *shape], in the precision of the space."""
        rounded = self.played(decisions).cpu().numpy().astype(self.dtype)
        actions: NDArray[Any] = np.clip(rounded, self.low, self.high)
        return actions


def is_continuous(space: Any) -> TypeGuard[spaces.Box]:
    """Whether it is a Box of floating-point numbers."""
    return isinstance(space, spaces.Box) and bool(np.issubdtype(space.dtype, np.floating))


def check_kind(distribution: nn.Module, expected: str, space: Any, fits: bool) -> None:
    """Raise a TypeError unless a distribution ``fits`` its action space."""
    if not fits:
        raise TypeError(
            f"{type(distribution).__name__} was given the action space {space}, expected {expected}: leave out "
            f"distribution=, or wrap the environment in gymnasium.wrappers.TransformAction"
        )


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise: the logarithm of an exponential variable, negated."""
    return torch.empty(shape, device=generator.device).exponential_(generator=generator).log_().neg_()


def masked(logits: Tensor, masks: Tensor | None) -> Tensor:
    """Logits with those of forbidden choices so low that their probability is exactly 0."""
    if masks is None:
        return logits
    if masks.shape != logits.shape:
        raise ValueError(
            f"action_mask of {len(logits)} environments has shape {list(masks.shape)}, expected {list(logits.shape)}: "
            f"an entry for each option of each choice"
        )
    return torch.where(masks, logits, FORBIDDEN_LOGIT)
