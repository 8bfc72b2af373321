"""A trunk with an encoder for each part of an observation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from grpo_adapters.gym.networks.image_networks import image_network
from grpo_adapters.gym.networks.perceptrons import HIDDEN_GAIN, linear
from grpo_adapters.gym.observations.columns import Columns, FeatureTensors
from grpo_adapters.gym.observations.encoder import ObservationEncoder
from grpo_adapters.gym.observations.observation_parts import ObservationPart, is_image


class DictEncoder(nn.Module):
    """Encodes each part of an observation by a network of its own, and joins them by a linear layer.

    Images go through a :class:`NatureCNN`, small ones through an :class:`ImpalaCNN`; choices and the characters of
    texts become embeddings, learnt vectors; all else stays as it is.

    Args:
        space: a Dict, also one whose features are flattened, or a Tuple, nested as it may be; or a Text.
        encoders: networks by path (``"arm/camera"``, ``"0"``) in place of those that are built here; each maps its part
            [n, ...], images from 0 to 1, to [n, any number].
        embedding_size: numbers in each vector of a choice or a character.
        num_units: U.
        generator: of the weights; None for one seeded with 0.

    Raises:
        TypeError: if a part is not supported.
        ValueError: if ``encoders`` names a part that is not there, or an encoder cannot take its part.

    Example:
        >>> space = spaces.Dict(camera=spaces.Box(0, 255, (64, 64, 3), "uint8"), gear=spaces.Discrete(5))
        >>> encoder = DictEncoder(space, num_units=128)
        >>> encoder(Columns({"camera": torch.rand(2, 64, 64, 3), "gear": torch.tensor([0, 4])})).shape
        torch.Size([2, 128])
    """

    def __init__(
        self,
        space: gymnasium.Space[Any],
        *,
        encoders: Mapping[str, nn.Module] | None = None,
        embedding_size: int = 16,
        num_units: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(space)
        given = {} if encoders is None else dict(encoders)
        if unknown := sorted(given.keys() - self.encoder.parts.keys()):
            raise ValueError(
                f"encoders name the parts {unknown} of the observation, expected some of {list(self.encoder.parts)}"
            )
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        networks = [
            given[name] if name in given else _network(name, part.space, embedding_size, generator)
            for name, part in self.encoder.parts.items()
        ]
        self.networks = nn.ModuleList(networks)
        num_inputs = self._joined(self._examples()).shape[1]
        self.last = linear(num_inputs, num_units, HIDDEN_GAIN, generator)

    def forward(self, features: FeatureTensors) -> Tensor:
        """Units [n, U] for columns of n observations, or for the flattened features of a Dict."""
        return torch.relu(self.last(self._joined(features)))

    def _joined(self, features: FeatureTensors) -> Tensor:
        columns = features if isinstance(features, Columns) else self.encoder.by_key(features)
        encoded = []
        for name, network in zip(self.encoder.parts, self.networks, strict=True):
            part = columns[name]
            units = network(part)
            if units.dim() != 2 or len(units) != len(part):
                raise ValueError(
                    f"the encoder of {name!r} gave shape {list(units.shape)} for {len(part)} observations, expected "
                    f"[{len(part)}, any number]: end it with nn.Flatten()"
                )
            encoded.append(units)
        return torch.cat(encoded, dim=1)

    def _examples(self) -> Columns:
        """Two observations of zeros."""
        parts = self.encoder.parts.items()
        return Columns({name: torch.zeros(2, *part.shape, dtype=_dtype(part)) for name, part in parts})


def _dtype(part: ObservationPart) -> torch.dtype:
    return torch.int64 if part.dtype == np.int64 else torch.float32


class _Embeddings(nn.Module):
    """A learnt vector for each option of each of several choices, end to end.

    Args:
        sizes: options of each choice.
        size: numbers in a vector.
        generator: of the vectors.
    """

    def __init__(self, sizes: list[int], size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.sizes = sizes
        self.vectors = nn.Parameter(torch.randn(sum(sizes), size, generator=generator) / math.sqrt(size))
        self.starts: Tensor
        starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("starts", starts, persistent=False)

    def forward(self, choices: Tensor) -> Tensor:
        """[n, choices * size] for numbers [n] or [n, choices], or for one-hot features [n, sum of sizes]."""
        if choices.is_floating_point():
            tables = zip(choices.split(self.sizes, dim=1), self.vectors.split(self.sizes), strict=True)
            return torch.cat([hot @ table for hot, table in tables], dim=1)
        return self.vectors[choices.reshape(len(choices), -1) + self.starts].flatten(1)


class _Text(nn.Module):
    """A learnt vector for each character, end to end; what lies behind a text's end is 0."""

    def __init__(self, num_characters: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_characters + 1, size, padding_idx=0)
        with torch.no_grad():
            nn.init.normal_(self.embedding.weight[1:], std=1 / math.sqrt(size), generator=generator)

    def forward(self, characters: Tensor) -> Tensor:
        """[n, length * size] for [n, length]."""
        vectors: Tensor = self.embedding(characters)
        return vectors.flatten(1)


def _network(name: str, space: gymnasium.Space[Any], embedding_size: int, generator: torch.Generator) -> nn.Module:
    if is_image(space):
        try:
            return image_network(space, generator, num_units=256)
        except (TypeError, ValueError) as error:
            message = f"the part {name!r} of the observation: {error}, in encoders={{{name!r}: ...}}"
            raise type(error)(message) from error
    if isinstance(space, spaces.Discrete):
        return _Embeddings([int(space.n)], embedding_size, generator)
    if isinstance(space, spaces.MultiDiscrete):
        return _Embeddings(space.nvec.tolist(), embedding_size, generator)
    if isinstance(space, spaces.Text):
        return _Text(len(space.character_list), embedding_size, generator)
    return nn.Flatten()
