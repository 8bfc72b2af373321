"""The networks that policies have by default."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from grpo import World
from grpo_adapters.gym.observations.columns import Columns
from grpo_adapters.gym.observations.frame_stacks import FrameStacks, gathered

HIDDEN_GAIN = math.sqrt(2)
POLICY_GAIN = 0.01
VALUE_GAIN = 1.0
ALONE = World()
NUMBERS_AT_A_TIME = 2**22


class MLP(nn.Module):
    """A multilayer perceptron with orthogonal weights, of gain √2 inside and ``output_gain`` last, and zero biases.

    Args:
        num_inputs: features of an observation, whatever their shape.
        hidden_sizes: units of the hidden layers.
        num_outputs: units of the last layer, which is linear.
        output_gain: of the last weights; a small one makes a policy start out nearly uniform.
        generator: of the weights.
        activation: behind each hidden layer.
        shows_hidden: whether the units of the last hidden layer, or the inputs if there is none, follow the outputs.

    References:
        Andrychowicz et al. 2021, arXiv:2006.05990.

    Example:
        >>> import gymnasium
        >>> from grpo_adapters.gym import GymPolicy
        >>> actor = MLP(4, (32,), 2, output_gain=0.01, generator=torch.Generator().manual_seed(0))
        >>> policy = GymPolicy(gymnasium.make("CartPole-v1"), actor)  # 4 numbers are observed, 2 actions are possible
        >>> actor(torch.ones(1, 4)).softmax(1).detach().round(decimals=1)
        tensor([[0.5000, 0.5000]])
    """

    def __init__(
        self,
        num_inputs: int,
        hidden_sizes: Sequence[int],
        num_outputs: int,
        *,
        output_gain: float,
        generator: torch.Generator,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
        shows_hidden: bool = False,
    ) -> None:
        super().__init__()
        self.activation, self.shows_hidden = activation, shows_hidden
        sizes = pairwise([num_inputs, *hidden_sizes, num_outputs])
        gains = [HIDDEN_GAIN] * len(hidden_sizes) + [output_gain]
        self.layers = nn.ModuleList(linear(*own, gain, generator) for own, gain in zip(sizes, gains, strict=True))

    def get_settings(self) -> dict[str, Any]:
        """The activation."""
        return {"activation": self.activation}

    def forward(self, features: Tensor) -> Tensor:
        """Outputs, [n, num_outputs], for features [n, ...]."""
        units = features.flatten(1)
        *hidden, last = self.layers
        for layer in hidden:
            units = self.activation(layer(units))
        outputs: Tensor = last(units)
        return torch.cat([outputs, units], dim=1) if self.shows_hidden else outputs


class PairedLinear(nn.Module):
    """Two linear layers side by side, of equal sizes, computed in one go; they share nothing.

    Args:
        num_inputs: units that each takes.
        num_outputs: units that each gives.
        generator: of the orthogonal weights.
    """

    def __init__(self, num_inputs: int, num_outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        weights = [torch.empty(num_outputs, num_inputs) for _ in range(2)]
        for weight in weights:
            nn.init.orthogonal_(weight, HIDDEN_GAIN, generator=generator)
        self.weight = nn.Parameter(torch.stack([weight.T for weight in weights]))
        self.bias = nn.Parameter(torch.zeros(2, 1, num_outputs))

    def forward(self, units: Tensor, index: int | None = None) -> Tensor:
        """[2, n, num_inputs] -> [2, n, num_outputs]; of one of the two alone, [n, num_inputs] -> [n, num_outputs]."""
        if index is None:
            return torch.baddbmm(self.bias, units, self.weight)
        return torch.addmm(self.bias[index], units, self.weight[index])


class ActorCriticMLP(nn.Module):
    """An actor and a critic, each a :class:`MLP` of its own, whose hidden layers are computed together.

    On small batches a network costs what it takes to start its operations, so that two side by side cost hardly more
    than one. Called like an actor it gives the actor's outputs.

    Args:
        num_inputs: features of an observation, whatever their shape.
        hidden_sizes: units of the hidden layers of each, at least one.
        num_outputs: units of the actor's last layer; the critic's has one.
        generator: of the weights.
    """

    def __init__(
        self, num_inputs: int, hidden_sizes: Sequence[int], num_outputs: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(
            PairedLinear(*sizes, generator=generator) for sizes in pairwise([num_inputs, *hidden_sizes])
        )
        self.actor_head = linear(hidden_sizes[-1], num_outputs, POLICY_GAIN, generator)
        self.critic_head = linear(hidden_sizes[-1], 1, VALUE_GAIN, generator)

    def forward(self, features: Tensor) -> Tensor:
        """The actor's outputs, [n, num_outputs], for features [n, ...]."""
        outputs: Tensor = self.actor_head(self._units_of(0, features))
        return outputs

    def values(self, features: Tensor) -> Tensor:
        """The critic's values, [n, 1], for features [n, ...]."""
        values: Tensor = self.critic_head(self._units_of(1, features))
        return values

    def _units_of(self, index: int, features: Tensor) -> Tensor:
        """What the hidden layers of the actor, 0, or of the critic, 1, make of features."""
        units = features.flatten(1)
        for layer in self.hidden:
            units = torch.tanh(layer(units, index))
        return units

    def both(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The actor's outputs, [n, num_outputs], and the critic's values, [n, 1], for features [n, ...]."""
        units = features.flatten(1).expand(2, -1, -1)
        for layer in self.hidden:
            units = torch.tanh(layer(units))
        actor_units, critic_units = units.unbind(0)
        return self.actor_head(actor_units), self.critic_head(critic_units)


def linear(num_inputs: int, num_outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with orthogonal weights and zero biases."""
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class RunningNormalization(nn.Module):
    """Features by the mean and the standard deviation of all that were seen so far, clipped to ±10.

    Args:
        shape: of the features of one observation.

    Example:
        >>> normalization = RunningNormalization((1,))
        >>> normalization.update(torch.tensor([[1.0], [3.0]]))
        >>> normalization(torch.tensor([[2.0], [3.0], [99.0]])).flatten()
        tensor([ 0.,  1., 10.])
    """

    CLIP = 10.0

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.mean: Tensor
        self.variance: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        """Normalised features, [n, *shape]."""
        scale = (self.variance + 1e-8).rsqrt().to(features.dtype)
        return ((features - self.mean.to(features.dtype)) * scale).clamp(-self.CLIP, self.CLIP)

    @property
    def has_statistics(self) -> bool:
        """Whether it has seen anything."""
        return bool(self.count > 0)

    @torch.no_grad()
    def update(self, features: Tensor, world: World = ALONE) -> None:
        """Take features [n, *shape] of this process, and those of the others, into account; images as bytes.

        References:
            Chan, Golub and LeVeque 1983.
        """
        parts = features.split(max(1, NUMBERS_AT_A_TIME // max(1, self.mean.numel())))
        sums = torch.stack([scaled_images(part, torch.float64).double().sum(0) for part in parts]).sum(0)
        total = world.sum(torch.stack((sums, torch.full_like(self.mean, len(features)))))
        added = total[1].flatten()[0]
        mean = total[0] / added
        count = self.count + added
        difference = mean - self.mean
        squares = [(scaled_images(part, torch.float64).double() - mean).square().sum(0) for part in parts]
        spread = world.sum(torch.stack(squares).sum(0)) + self.variance * self.count
        self.variance.copy_((spread + difference.square() * self.count * added / count) / count)
        self.mean.add_(difference * added / count)
        self.count.copy_(count)


def scaled_images(part: Tensor | FrameStacks, dtype: torch.dtype) -> Tensor:
    """Frames from 0 to 1, with channels last in memory, where convolutions want them; all else as it is."""
    pixels: Tensor = gathered(part)
    if pixels.dtype != torch.uint8:
        return pixels
    is_channels_first = pixels.dim() == 4 and pixels.shape[1] < pixels.shape[3]
    memory_format = torch.channels_last if is_channels_first else torch.preserve_format
    return pixels.to(dtype, memory_format=memory_format).div_(255)


class NormalizedColumns(nn.Module):
    """A :class:`RunningNormalization` for each part that holds floating-point numbers; all else stays as it is.

    Args:
        shapes: of the parts to normalise, by name.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.names = list(shapes)
        self.parts = nn.ModuleList(RunningNormalization(shape) for shape in shapes.values())

    def forward(self, columns: Columns) -> Columns:
        """Columns with those parts normalised."""
        normalised = {name: part(columns[name]) for name, part in zip(self.names, self.parts, strict=True)}
        return Columns(dict(columns.items()) | normalised)

    @property
    def has_statistics(self) -> bool:
        """Whether they have seen anything; of no parts there is nothing to see."""
        return all(part.has_statistics for part in self.parts)

    def update(self, columns: Columns, world: World = ALONE) -> None:
        """Take columns of this process, and those of the others, into account."""
        for name, part in zip(self.names, self.parts, strict=True):
            assert isinstance(part, RunningNormalization)
            part.update(columns[name], world)
