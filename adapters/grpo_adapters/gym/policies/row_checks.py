"""Whether a network treats each observation by itself, found by what rows give alone, together, or beside others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn

from grpo_adapters.gym.observations.columns import Columns, FeatureTensors, tensors
from grpo_adapters.gym.observations.encoder import ObservationEncoder

NUM_ROWS = 4
"""Different rows that are compared, three at a time."""
REACH = 10.0
"""What is observed with bounds beyond is tried within them."""


def probed_observations(encoder: ObservationEncoder) -> FeatureTensors:
    """:data:`NUM_ROWS` observations of a space that differ, always the same ones."""
    space = batch_space(encoder.space, NUM_ROWS)
    space.seed(0)
    observations = tensors(encoder(space.sample()))
    if isinstance(observations, Columns):
        return Columns({name: _within_reach(part) for name, part in observations.items()})
    return _within_reach(observations)


def _within_reach(part: Tensor) -> Tensor:
    return part.clamp(-REACH, REACH) if part.is_floating_point() else part


def check_network(role: str, network: nn.Module, inputs: Any) -> None:
    """A network without a memory must give each of :data:`NUM_ROWS` rows the same alone and together, and leave them.

    Raises:
        ValueError: if it does not.
    """

    def compute(rows: list[int]) -> list[Tensor]:
        own = inputs[rows]
        with inputs_left(role, network, [part for _, part in own.items()] if isinstance(own, Columns) else [own]):
            return [network(own)]

    fix = (
        "Put what remembers steps into memory=, as LSTM of grpo_adapters.gym, and take nn.LayerNorm for what "
        "normalises over a batch"
    )
    check_rows(role, network, compute, fix)


@contextmanager
def inputs_left(role: str, network: nn.Module, inputs: Sequence[Tensor]) -> Iterator[None]:
    """Raise a ValueError if a network writes over what it is given here, which is read again elsewhere."""
    before = [tensor.clone() for tensor in inputs]
    yield
    if not all(own.equal(tensor) for own, tensor in zip(before, inputs, strict=True)):
        raise ValueError(
            f"{role} {type(network).__name__} writes over what it is given, which is read again: let it make something "
            f"new, by x = x / 2 instead of x /= 2, or nn.ReLU() instead of nn.ReLU(inplace=True)"
        )


def check_rows(role: str, network: nn.Module, compute: Callable[[list[int]], Sequence[Tensor]], fix: str) -> None:
    """A network must give a row the same alone and together, and the same when it is asked again.

    It is tried in training mode and in evaluation mode, and left in the one that it was in, with its buffers.

    Args:
        role: what to call it.
        network: the network.
        compute: what it makes of the rows at an index, of :data:`NUM_ROWS`: tensors with these rows.
        fix: what to do about it.

    Raises:
        ValueError: if it does not.
    """
    was_training = network.training

    def asked(rows: list[int]) -> list[Tensor]:
        torch.manual_seed(0)
        with _buffers_kept(network):
            return [tensor.clone() for tensor in compute(rows)]

    with torch.no_grad(), torch.random.fork_rng():
        try:
            for mode in ("evaluation", "training"):
                network.train(mode == "training")
                problem = _problem(asked, tries_alone=mode == "evaluation")
                if problem is not None:
                    raise ValueError(f"{role} {type(network).__name__} {problem} (in {mode} mode). {fix}")
        finally:
            network.train(was_training)


def _problem(asked: Callable[[list[int]], list[Tensor]], *, tries_alone: bool) -> str | None:
    """What is wrong with what is made of rows."""
    together = asked([0, 1, 2])
    if _differ(together, asked([0, 1, 2]), slice(None), together):
        return (
            "gives the same observations something else when it is asked again: it keeps something of its own from "
            "call to call"
        )
    first_changed, last_changed = asked([3, 1, 2]), asked([0, 1, 3])
    if _differ(together, first_changed, slice(1, 3), together) or _differ(
        together, last_changed, slice(0, 2), together
    ):
        return (
            "gives an observation something else where those beside it change: it mixes rows, so that what is sampled "
            "cannot be evaluated again"
        )
    if tries_alone and _differ([tensor[1:2] for tensor in together], asked([1]), slice(None), together):
        return "gives an observation something else alone than among others"
    return None


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def _differ(left: Sequence[Tensor], right: Sequence[Tensor], rows: slice, whole: Sequence[Tensor]) -> bool:
    """Whether rows of tensors differ by more than rounding, which is small beside how much rows of a whole differ."""
    return any(
        bool(((own[rows].double() - other[rows].double()).abs() > _rounding(values.double())).any())
        for own, other, values in zip(left, right, whole, strict=True)
    )


def _rounding(values: Tensor) -> Tensor:
    if values.numel() == 0:
        return values.new_zeros(())
    return 1e-3 * (values - values[:1]).abs().max() + 1e-5 * values.abs().max()
