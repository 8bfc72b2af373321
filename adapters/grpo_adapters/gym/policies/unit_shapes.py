"""What a policy's networks make of a few observations, tried before anything is played."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from grpo_adapters.gym.memory.memory_checks import check_memory
from grpo_adapters.gym.observations.columns import Columns, FeatureTensors, placed, tensors
from grpo_adapters.gym.policies.row_checks import NUM_ROWS, check_network, probed_observations

if TYPE_CHECKING:
    from grpo_adapters.gym.policies.gym_policy import GymPolicy


def require_modules(**networks: Any) -> None:
    """Networks that a user may pass must be modules.

    Raises:
        TypeError: if one is something else, and not None.
    """
    for role, network in networks.items():
        if network is not None and not isinstance(network, nn.Module):
            example = "GRU(inputs, units)" if role == "memory" else "nn.Linear(inputs, outputs)"
            raise TypeError(f"{role} is {network!r}, expected a torch.nn.Module: pass an instance, such as {example}")


def shape_of_units(policy: GymPolicy) -> tuple[int, ...]:
    """The shape of the features of one observation, or of what the trunk makes of them.

    Raises:
        TypeError: if the trunk returns no tensor.
        ValueError: if it cannot take the features, or does not make units [n, U] of them.
    """
    if policy.trunk is None:
        return policy.encoder.shape
    shape = _shape_for_two("trunk", policy.trunk, _two_features(policy), policy.device)
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(
            f"trunk returned shape {list(shape)} for 2 observations, but units [n, U] are expected: end it with "
            f"nn.Flatten() or a linear layer"
        )
    return shape[1:]


def check_trunk(policy: GymPolicy, trunk: nn.Module) -> None:
    """A trunk must give each observation the same alone and together.

    Raises:
        ValueError: if it does not.
    """
    check_network("trunk", trunk, _probed_features(policy))


def state_of_memory(policy: GymPolicy, memory: nn.Module, unit_shape: tuple[int, ...]) -> Any:
    """A state such as the memory behind the trunk keeps it.

    Raises:
        TypeError, ValueError: if it does not take the units, or is no memory.
    """
    if len(unit_shape) != 1:
        raise ValueError(
            f"memory {type(memory).__name__} takes units [n, U], but observations have features of shape "
            f"{list(unit_shape)}: pass a trunk that makes units of them, such as nn.Flatten()"
        )
    return check_memory(memory, probed_units(policy, with_memory=False))


def check_head(
    policy: GymPolicy, role: str, network: nn.Module, shapes: set[tuple[int, ...]], fix: str, *, is_own: bool
) -> None:
    """What an actor or a critic makes of two observations must have one of the shapes.

    Args:
        policy: whose it is.
        role: what to call it.
        network: the actor or critic.
        shapes: that are right.
        fix: what to do about others.
        is_own: whether it is the user's, and not known to treat each observation by itself.

    Raises:
        TypeError: if it returns no tensor.
        ValueError: if the shape is another, or an observation gets something else alone than among others.
    """
    sees_features = policy.trunk is None and policy.memory is None
    units = _two_features(policy) if sees_features else torch.zeros_like(probed_units(policy)[:2])
    shape = _shape_for_two(role, network, units, policy.device)
    if shape not in shapes:
        raise ValueError(f"{role} returned shape {list(shape)} for 2 observations, but {fix}")
    if is_own:
        check_network(role, network, probed_units(policy))


@torch.no_grad()
def probed_units(policy: GymPolicy, *, with_memory: bool = True) -> Any:
    """Units of observations that differ, as at the beginning of an episode."""
    modes = [(module, module.training) for module in (policy.trunk, policy.memory) if module is not None]
    for module, _ in modes:
        module.eval()
    features = _probed_features(policy)
    units = features if policy.trunk is None else policy.trunk(features)
    if policy.memory is not None and with_memory:
        units, _ = policy.memory(units, policy.initial_memory(NUM_ROWS))
    for module, was_training in modes:
        module.train(was_training)
    return units


@torch.no_grad()
def _probed_features(policy: GymPolicy) -> Any:
    return policy.features(placed(probed_observations(policy.encoder), policy.device, policy.dtype))


def _two_features(policy: GymPolicy) -> FeatureTensors:
    zeros = np.zeros((2, *policy.encoder.shape), dtype=policy.encoder.dtype)
    features: FeatureTensors = policy.features(placed(tensors(zeros), policy.device, policy.dtype))
    return features


@torch.no_grad()
def _shape_for_two(role: str, network: nn.Module, features: FeatureTensors, device: torch.device) -> tuple[int, ...]:
    """The shape of what a network makes of two observations, or of their units."""
    dtype = next((parameter.dtype for parameter in network.parameters()), torch.float32)
    was_training = network.training
    try:
        outputs = network.eval()(placed(features, device, dtype))
    except RuntimeError as error:
        came = features if isinstance(features, Columns) else f"shape {list(features.shape)}"
        raise ValueError(f"{role} cannot take 2 observations as features of {came}: {error}") from error
    finally:
        network.train(was_training)
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"{role} {type(network).__name__} returned a {type(outputs).__name__}, expected a tensor. A network "
            f"with a state, as nn.LSTM is, belongs into memory=: pass GymPolicy(..., memory=LSTM(...))"
        )
    return tuple(outputs.shape)
