"""The distribution that an action space has, also where actions are made of several."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor, nn

from grpo_adapters.gym.actions.action_batches import nested
from grpo_adapters.gym.actions.distributions import (
    ActionDistribution,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    check_kind,
    is_continuous,
)
from grpo_adapters.gym.observations.nested_spaces import NESTED, parts_of


class JointDistribution(nn.Module):
    """Independent distributions over the parts of an action, one after the other. For Dict and Tuple spaces.

    The outputs are those of the parts end to end, in the order of :attr:`names`; so are masks of discrete parts, and so
    are decisions, which are numbers in float32 where a part is continuous.

    Attributes:
        names: paths of the parts, ``"arm/grip"`` or ``"0"``.

    Args:
        space: a Dict or a Tuple, nested as it may be, of what :func:`distribution_for` takes.

    Raises:
        TypeError: if the space is another, or a part is not supported; the message names it.
        ValueError: if a part leaves nothing to choose; the message names it.

    Example:
        >>> space = spaces.Dict(steer=spaces.Box(-1, 1, (2,)), gear=spaces.Discrete(5))
        >>> distribution = JointDistribution(space)
        >>> distribution.names, distribution.num_outputs
        (['steer', 'gear'], 7)
        >>> sorted(distribution.actions(torch.tensor([[0.0, 0.0, 4.0]])).items())
        [('gear', array([4])), ('steer', array([[0., 0.]], dtype=float32))]
    """

    def __init__(self, space: spaces.Dict | spaces.Tuple[Any]) -> None:
        super().__init__()
        check_kind(self, "a Dict or Tuple", space, isinstance(space, NESTED))
        self.space = space
        found = parts_of(space)
        self.names = list(found)
        if not found:
            raise TypeError(f"action space {space} has no parts, expected something to decide: name a key")
        self.distributions = nn.ModuleList(_distribution_for_part(part, name) for name, part in found.items())
        self.num_outputs = sum(part.num_outputs for part in self._parts)
        self.sizes = [size for part in self._parts for size in part.sizes]
        self._widths = [len(part.sizes) or part.num_outputs for part in self._parts]
        self._is_mixed = any(isinstance(part, DiagonalGaussian) for part in self._parts)

    @property
    def _parts(self) -> list[Any]:
        return list(self.distributions)

    def get_settings(self) -> dict[str, Any]:
        """The distributions of the parts."""
        return dict(zip(self.names, self._parts, strict=True))

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """The noise of the parts end to end, [*shape, K]."""
        return torch.cat([part.noise(shape, generator) for part in self._parts], -1)

    def sample(self, outputs: Tensor, noise: Tensor, masks: Tensor | None) -> Tensor:
        """Decisions, [n, K]."""
        noises = noise.split([part.num_outputs for part in self._parts], -1)
        given = zip(self._parts, self._outputs(outputs), noises, self._masks(masks), strict=True)
        return self._joined([part.sample(*own) for part, *own in given], outputs)

    def mode(self, outputs: Tensor, masks: Tensor | None) -> Tensor:
        """The most probable decisions, [n, K]."""
        given = zip(self._parts, self._outputs(outputs), self._masks(masks), strict=True)
        return self._joined([part.mode(*own) for part, *own in given], outputs)

    def log_probs_and_entropy(self, outputs: Tensor, decisions: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies, [n] each, summed over the parts."""
        given = zip(self._parts, self._outputs(outputs), self._decisions(decisions), self._masks(masks), strict=True)
        log_probs, entropies = zip(*[part.log_probs_and_entropy(*own) for part, *own in given], strict=True)
        return torch.stack(log_probs).sum(0), torch.stack(entropies).sum(0)

    def played(self, decisions: Tensor) -> Any:
        """The actions of the parts, tensors put together as the space has them."""
        own = zip(self._parts, self._decisions(decisions), strict=True)
        return nested(self.space, dict(zip(self.names, [part.played(part_own) for part, part_own in own], strict=True)))

    def actions(self, decisions: Tensor) -> Any:
        """The actions of the parts, put together as the space has them."""
        own = zip(self._parts, self._decisions(decisions), strict=True)
        return nested(
            self.space, dict(zip(self.names, [part.actions(part_own) for part, part_own in own], strict=True))
        )

    def _outputs(self, outputs: Tensor) -> tuple[Tensor, ...]:
        own: tuple[Tensor, ...] = outputs.split([part.num_outputs for part in self._parts], -1)
        return own

    def _masks(self, masks: Tensor | None) -> list[Tensor | None]:
        if masks is None:
            return [None] * len(self._parts)
        sizes = [sum(part.sizes) for part in self._parts]
        if masks.shape[-1] != sum(sizes):
            raise ValueError(
                f"action_mask of {len(masks)} environments has shape {list(masks.shape)}, expected "
                f"[{len(masks)}, {sum(sizes)}]: an entry for each option of each choice in {self.names}"
            )
        ends = accumulate(sizes)
        return [masks[..., end - size : end] if size else None for size, end in zip(sizes, ends, strict=True)]

    def _joined(self, decisions: list[Tensor], outputs: Tensor) -> Tensor:
        columns = [part.unsqueeze(-1) if part.dim() < outputs.dim() else part for part in decisions]
        return torch.cat([column.to(outputs.dtype) for column in columns] if self._is_mixed else columns, -1)

    def _decisions(self, decisions: Tensor) -> list[Tensor]:
        own = []
        for part, columns in zip(self._parts, decisions.split(self._widths, -1), strict=True):
            choices = columns.long() if part.sizes else columns
            own.append(choices.squeeze(-1) if isinstance(part, Categorical) else choices)
        return own


def distribution_for(space: gymnasium.Space[Any]) -> ActionDistribution:
    """The distribution over an action space.

    Args:
        space: of actions: Discrete, MultiDiscrete, MultiBinary, a bounded Box, or a Dict or Tuple of these.

    Returns:
        :class:`Categorical`, :class:`MultiCategorical`, :class:`DiagonalGaussian` or :class:`JointDistribution`.

    Raises:
        TypeError: if there is none for the space.

    Example:
        >>> distribution_for(spaces.Discrete(3)).num_outputs
        3
    """
    if isinstance(space, NESTED):
        return JointDistribution(space)
    return _distribution_for_part(space, "")


def _distribution_for_part(space: gymnasium.Space[Any], name: str) -> Categorical | MultiCategorical | DiagonalGaussian:
    if isinstance(space, spaces.Discrete):
        return Categorical(space)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return MultiCategorical(space)
    if is_continuous(space):
        try:
            return DiagonalGaussian(space)
        except ValueError as error:
            raise ValueError(f"the part {name!r} of the action: {error}" if name else str(error)) from error
    raise TypeError(
        f"action space {space}{f' of the part {name!r}' if name else ''} is not supported, expected a Discrete, "
        f"MultiDiscrete, MultiBinary, Box of floating-point numbers, or a Dict or Tuple of these: wrap the environment "
        f"in gymnasium.wrappers.TransformAction"
    )
