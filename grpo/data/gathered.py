"""The experience of all processes together, for what looks at more than a process's own samples."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor

from grpo.data.batches import join_groups
from grpo.data.evaluation import ValueEstimates
from grpo.data.experience import Experience
from grpo.data.segments import Segments

COLUMNS = ("rewards", "old_log_probs", "reference_log_probs", "sampling_log_probs")
CUTS = ("samples", "rows", "episodes", "turns")


@dataclass(frozen=True)
class GatheredBatch:
    """How the samples of all processes are cut; they can be looked at, and not evaluated."""

    samples: Segments
    rows: Segments
    episodes: Segments
    turns: Segments
    truncated: Tensor | None
    sampling_log_probs: Tensor | None

    def select(self, rows: Tensor) -> Self:
        """Nothing that could be evaluated."""
        raise TypeError("the samples of other processes cannot be evaluated here, only looked at")


def gather_experience(experience: Experience) -> Experience:
    """The samples of all processes, in the order of ranks; the same on each of them.

    Raises:
        TypeError: if states or actions cannot be sent.
    """
    world = experience.world
    if world.is_alone:
        return experience
    parts = [part for part in world.gather(_sendable(experience)) if part["groups"]]
    device = experience.samples.device
    cuts = {name: Segments.of_lengths(list(chain(*(part[name] for part in parts))), device) for name in CUTS}
    columns = {name: joined_columns([part[name] for part in parts], device) for name in COLUMNS}
    rewards = columns["rewards"]
    assert rewards is not None
    truncated = joined_columns([part["truncated"] for part in parts], device)
    values = [joined_columns([part["values"][place] for part in parts], device) for place in range(2)]
    return Experience(
        states=join_groups([part["states"] for part in parts]),
        actions=join_groups([part["actions"] for part in parts]),
        batch=GatheredBatch(**cuts, truncated=truncated, sampling_log_probs=columns["sampling_log_probs"]),
        groups=Segments.of_lengths(list(chain(*(part["groups"] for part in parts))), device),
        rewards=rewards,
        old_log_probs=columns["old_log_probs"],
        reference_log_probs=columns["reference_log_probs"],
        values=None if values[0] is None or values[1] is None else ValueEstimates(values[0], values[1]),
        sampling_log_probs=columns["sampling_log_probs"],
        metrics=experience.metrics,
    )


def own_part(values: Tensor, experience: Experience) -> Tensor:
    """Of values of all processes' samples, or of all their decisions, those of this process's.

    Args:
        values: [N] or [D], over all processes.
        experience: of this process.
    """
    counts = experience.world.gather((len(experience.samples), experience.samples.total))
    place = 0 if len(values) == sum(count[0] for count in counts) else 1
    first = sum(count[place] for count in counts[: experience.world.rank])
    return values[first : first + counts[experience.world.rank][place]]


def _sendable(experience: Experience) -> dict[str, Any]:
    """What another process needs of an experience, on the CPU."""
    values = experience.values
    cuts = {"samples": experience.samples, "rows": experience.batch.rows}
    cuts |= {"episodes": experience.episodes, "turns": experience.turns, "groups": experience.groups}
    tensors = {name: getattr(experience, name) for name in (*COLUMNS, "truncated")}
    return {
        "states": experience.states,
        "actions": experience.actions,
        "values": (None, None) if values is None else (values.values.cpu(), values.next_values.cpu()),
        **{name: cut.lengths.tolist() for name, cut in cuts.items()},
        **{name: None if tensor is None else tensor.cpu() for name, tensor in tensors.items()},
    }


def joined_columns(parts: list[Tensor | None], device: torch.device) -> Tensor | None:
    """A column of all processes, from those that have it; None where none has."""
    known = [part.to(device) for part in parts if part is not None]
    return torch.cat(known) if known else None
