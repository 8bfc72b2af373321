"""What each of several processes does differently in a run that all of them make."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Sequence
from typing import Any

import torch

from grpo.data._generators import generators_of, seed_generator
from grpo.data._part_state import each_once
from grpo.data._protocols import type_name
from grpo.data.state import is_stateful
from grpo.distributed.seeds import derived_seed
from grpo.distributed.world import World
from grpo.runs._plain_data import to_plain


def require_same_source(source: Any, world: World) -> None:
    """Raise a ValueError if the source of another process is elsewhere, or of other rows or another seed."""
    own = repr(to_plain(source.state_dict())) if is_stateful(source) and not world.is_alone else ""
    digests = world.gather(hashlib.sha256(own.encode()).hexdigest())
    _require_equal(digests, "the source of states is another, or elsewhere")


def require_same_number(counts: Sequence[int]) -> None:
    """Raise a ValueError if processes have drawn different numbers of states."""
    _require_equal(counts, f"the number of states is another ({', '.join(map(str, counts))} by rank)")


def as_of_other_ranks(state: dict[str, Any], trainer: Any) -> dict[str, Any]:
    """A run's state that other ranks wrote, with this process's own sampler, whose episodes nobody else plays."""
    own = trainer.state_dict()["parts"]
    kept = {role: own[role] for role in ("sampler",) if role in own}
    return {**state, "trainer": {**state["trainer"], "parts": {**state["trainer"]["parts"], **kept}}}


def begin_anew_what_is_of_a_rank(trainer: Any, num_ranks: int) -> str:
    """Go on from the state of other ranks; what is told of it."""
    renew_generators(trainer, trainer.world.rank)
    sampler = getattr(trainer, "sampler", None)
    also = f", and {type_name(sampler)} begins anew" if is_stateful(sampler) else ""
    return (
        f"the run goes on with {trainer.world.size} ranks, and was saved by {num_ranks}: states go on where they were, "
        f"random generators are derived anew from seed, step and rank{also}"
    )


def renew_generators(trainer: Any, rank: int) -> None:
    """Let what a process draws follow from seed, step and rank: the models' own generators, and those of everything."""
    owned = each_once(trainer._owned)
    for role, part in owned.items():
        for place, generator in enumerate(generators_of(part)):
            seed_generator(generator, _seed(trainer, rank, f"{role} {place}" if place else role))
    random.seed(_seed(trainer, rank, "Python"))
    torch.manual_seed(_seed(trainer, rank, "PyTorch"))
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(_seed(trainer, rank, "NumPy") % 2**32)


def _seed(trainer: Any, rank: int, purpose: str) -> int:
    return derived_seed(f"{purpose} of rank {rank} at step {trainer.num_steps}", trainer.config.seed)


def _require_equal(values: Sequence[Any], what: str) -> None:
    for rank, value in enumerate(values):
        if value != values[0]:
            raise ValueError(
                f"{what} on rank {rank} than on rank 0: give the runs of all processes the same states, with the same "
                f"seed; each takes its share of every batch"
            )
