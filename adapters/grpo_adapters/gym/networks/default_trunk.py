"""Which trunk a policy has where none is given."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import nn

from grpo_adapters.gym.networks.dict_encoder import DictEncoder
from grpo_adapters.gym.networks.image_networks import image_network
from grpo_adapters.gym.observations.encoder import ObservationEncoder
from grpo_adapters.gym.observations.observation_parts import is_image


def default_trunk(space: gymnasium.Space[Any], generator: torch.Generator) -> nn.Module | None:
    """A convolutional network for images, encoders by key where parts stay apart, none for flat features."""
    if is_image(space):
        return image_network(space, generator)
    if isinstance(space, spaces.Dict | spaces.Tuple | spaces.Text) and ObservationEncoder(space).is_structured:
        return DictEncoder(space, generator=generator)
    return None
