"""What language models are sampled and scored with draws other numbers on each process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch._C._distributed_c10d import HashStore

from grpo import World
from grpo.training._agreement import sample_apart
from grpo_adapters.huggingface import AgentSampler, FunctionReward
from grpo_adapters.huggingface.engines import EngineSampler

T = TypeVar("T")


class Noise:
    """A reward function with a generator."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(4)

    def __call__(self, completions: Any, **columns: Any) -> list[float]:
        return torch.rand(len(completions), generator=self.generator).tolist()


class Nowhere:
    """An environment that nobody enters."""

    def reset(self, state: Any) -> list[dict[str, Any]]:
        return []

    def step(self, message: Any) -> Any: ...


def on_both(function: Callable[[World], T]) -> list[T]:
    """What it returns on two ranks, each a thread."""
    store = HashStore()
    with ThreadPoolExecutor(2) as ranks:
        running = [ranks.submit(function, World(store, rank, 2, timeout=30)) for rank in range(2)]
        return [each.result() for each in running]


def seeds(world: World) -> tuple[int | None, int | None, list[float]]:
    engine, within, noise = EngineSampler("http://localhost:1", seed=5), EngineSampler("http://localhost:1"), Noise()
    for part in (engine, AgentSampler(Nowhere, engine=within)):
        part.join_world(world)
    sample_apart([FunctionReward(noise)], world)
    return engine.seed, within.seed, noise([0] * 4)


def test_seeds_of_engines_and_reward_functions_differ() -> None:
    first, second = on_both(seeds)
    assert first[:2] == (5, 0)
    assert first[2] == Noise()([0] * 4)
    assert len({*first[:2], *second[:2]}) == 4
    assert not set(first[2]) & set(second[2])


def seed_of_none(world: World) -> int | None:
    engine = EngineSampler("http://localhost:1", seed=None)
    engine.join_world(world)
    return engine.seed


def test_an_engine_without_a_seed_keeps_none() -> None:
    assert on_both(seed_of_none) == [None, None]
