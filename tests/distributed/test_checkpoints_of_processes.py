"""Checkpoints that several processes write: whole or not there, read by as many or as few as there are."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import answers_of_ranks, on_ranks
from torch import Tensor, nn

from grpo import (
    CheckpointError,
    Checkpoints,
    GRPOConfig,
    PolicyTrainer,
    RankError,
    Run,
    StateLoader,
    Until,
    World,
    load_latest_weights,
)
from grpo.runs._latest import latest_whole


class Line(nn.Module):
    """A policy of some parameters, and noise that it draws."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0, 1, size, dtype=torch.float64))
        self.generator = torch.Generator().manual_seed(5)

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        raise NotImplementedError

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        raise NotImplementedError

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())


class Learns(PolicyTrainer[Any, Any]):
    """Learns from all states of a step, wherever they are, and from noise that each process draws, if it is to."""

    def __init__(self, world: World, size: int = 3, noise: float = 0.0) -> None:
        super().__init__(GRPOConfig(learning_rate=0.1), Line(size))
        self.world = world
        self.noise = noise
        self.policy.generator.manual_seed(world.rank)

    def step(self, states: list[float]) -> dict[str, float]:
        policy: Any = self.policy
        drawn = torch.rand(3, generator=policy.generator, dtype=torch.float64).sum() * self.noise
        loss = policy.weight.square().sum() * (sum(states) + drawn)
        assert self.optimizer is not None
        self.optimizer.zero_grad()
        loss.backward()
        policy.weight.grad.copy_(self.world.sum(policy.weight.grad))
        self.optimizer.step()
        self.num_steps += 1
        return {"seen": self.world.sum(torch.tensor(float(sum(states)), dtype=torch.float64)).item()}


def make_run(world: World, folder: Path, *, noise: float = 0.0, size: int = 3, **settings: Any) -> Run:
    rows = [float(row) for row in range(1, 8)]
    checkpoints = Checkpoints(**{"every": 2, "keep_last": 9} | settings)
    return Run(Learns(world, size, noise), StateLoader(rows, batch_size=5), folder=folder, checkpoints=checkpoints)


def trains(world: World, folder: Path, steps: int, noise: float = 0.0, resume: bool = True, **settings: Any) -> Any:
    """The parameters after so many steps, those before included; what was seen in each, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = make_run(world, folder, noise=noise, **settings)
        resumed = run.resume() if resume else False
        run(Until(steps=steps))
    seen = [json.loads(line)["seen"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return run.trainer.policy.weight.tolist(), seen, resumed, [str(warning.message) for warning in caught]


def trains_with(world: World, folder: Path, steps: int, noise: float, settings: dict[str, Any]) -> Any:
    return trains(world, folder, steps, noise, **settings)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("size", [2, 4])
def test_a_run_that_goes_on_with_as_many_is_bitwise_the_same(tmp_path: Path, size: int, asynchronous: bool) -> None:
    settings = {"asynchronous": asynchronous}
    whole = on_ranks(size, trains_with, tmp_path / "whole", 7, 1.0, settings)
    on_ranks(size, trains_with, tmp_path / "cut", 5, 1.0, settings)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-000000005")
    cut = on_ranks(size, trains_with, tmp_path / "cut", 7, 1.0, settings)
    for (weight, seen, _, told), (own_weight, own_seen, resumed, own_told) in zip(whole, cut, strict=True):
        assert (own_weight, own_seen) == (weight, seen)
        assert resumed
        assert told == own_told == []
    names = [sorted(path.name for path in (tmp_path / run / "checkpoints").iterdir()) for run in ("whole", "cut")]
    assert names[0] == [f"step-{step:09d}" for step in (0, 2, 4, 6, 7)]
    assert names[1] == names[0]
    assert len({tuple(weight) for weight, *_ in whole}) == 1
