"""A memory that attends to the last steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grpo_adapters.gym.memory.memories import StackedUnits


class WindowTransformer(StackedUnits):
    """A transformer over the units of the last ``length`` steps, as a policy's ``memory``.

    What it gives at a step depends on these steps alone, each known by its age, and not on what came before. Its state
    is that of :class:`StackedUnits`. Layers normalise their inputs, and there is no dropout.

    Args:
        num_inputs: units that it is given.
        num_units: units that it computes with and gives, a multiple of ``num_heads``.
        length: steps that it attends to, at least 2, the present one among them.
        num_layers: one upon the other.
        num_heads: of the attention in each.

    Raises:
        ValueError: if ``length`` is below 2, or ``num_units`` no multiple of ``num_heads``.

    References:
        Vaswani et al. 2017, arXiv:1706.03762; normalisation of inputs: Xiong et al. 2020, arXiv:2002.04745.

    Example:
        >>> memory = WindowTransformer(4, 16, length=8)
        >>> units, state = memory(torch.zeros(3, 4))
        >>> units.shape, state[0].shape
        (torch.Size([3, 16]), torch.Size([3, 7, 4]))
    """

    def __init__(
        self, num_inputs: int, num_units: int, *, length: int, num_layers: int = 1, num_heads: int = 4
    ) -> None:
        super().__init__(length)
        if num_units % num_heads != 0:
            raise ValueError(f"num_units is {num_units}, expected a multiple of num_heads, which is {num_heads}")
        self.embedding = nn.Linear(num_inputs, num_units)
        self.ages = nn.Parameter(0.02 * torch.randn(length, num_units))
        self.blocks = nn.ModuleList(_Block(num_units, num_heads) for _ in range(num_layers))
        self.normalization = nn.LayerNorm(num_units)

    def read(self, recent: Tensor, is_there: Tensor) -> Tensor:
        """Units [n, num_units] of the present step, the last of [n, length, num_inputs]."""
        units = self.embedding(recent) + self.ages
        for block in self.blocks:
            units = block(units, is_there)
        present: Tensor = self.normalization(units[:, -1])
        return present


class _Block(nn.Module):
    """Attention to all steps that are there, and a perceptron, each added to its inputs."""

    def __init__(self, num_units: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before_attention = nn.LayerNorm(num_units)
        self.projections = nn.Linear(num_units, 3 * num_units)
        self.output = nn.Linear(num_units, num_units)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(num_units), nn.Linear(num_units, 4 * num_units), nn.GELU(), nn.Linear(4 * num_units, num_units)
        )

    def forward(self, units: Tensor, is_there: Tensor) -> Tensor:
        """[n, length, num_units], where steps are there, bool [n, length]."""
        heads = self.projections(self.before_attention(units)).unflatten(2, (3, self.num_heads, -1))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=is_there[:, None, None, :]
        )
        units = units + self.output(attended.transpose(1, 2).flatten(2))
        result: Tensor = units + self.perceptron(units)
        return result
