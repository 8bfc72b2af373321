"""What language models are sampled and scored with draws other numbers on each process."""

from __future__ import annotations

from typing import Any

import torch
from torch._C._distributed_c10d import HashStore

from grpo import World
from grpo_adapters.huggingface import AgentSampler, FunctionReward
from grpo_adapters.huggingface.engines import EngineSampler


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


def seeds(rank: int) -> tuple[int | None, int | None, list[float]]:
    world = World(HashStore(), rank, 2)
    engine, within, noise = EngineSampler("http://localhost:1", seed=5), EngineSampler("http://localhost:1"), Noise()
    for part in (engine, AgentSampler(Nowhere, engine=within), FunctionReward(noise)):
        part.join_world(world)
    return engine.seed, within.seed, noise([0] * 4)


def test_seeds_of_engines_and_reward_functions_differ() -> None:
    first, second = seeds(0), seeds(1)
    assert first[:2] == (5, 0)
    assert first[2] == Noise()([0] * 4)
    assert len({*first[:2], *second[:2]}) == 4
    assert not set(first[2]) & set(second[2])


def test_an_engine_without_a_seed_keeps_none() -> None:
    engine = EngineSampler("http://localhost:1", seed=None)
    engine.join_world(World(HashStore(), 1, 2))
    assert engine.seed is None
