"""How rows or whole samples are packed into minibatches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import EpisodePolicy, FunctionRewards

from grpo import GRPOConfig, GRPOObjective, GRPOTrainer, SampleClippedSurrogate, Segments
from grpo.training._shared_units import packed


@pytest.mark.parametrize(
    ("sizes", "chosen", "num_rows", "expected"),
    [
        ([6, 3, 3, 6], [0, 1, 2, 3], 4, [[0], [1], [2], [3]]),
        ([6, 3, 3, 6], [0, 1, 2, 3], 6, [[0], [1, 2], [3]]),
        ([6, 3, 3, 6], [0, 1, 2, 3], 7, [[0, 1], [2, 3]]),
        ([6, 3, 3, 6], [2, 0, 1, 3], 4, [[2, 0], [1], [3]]),
        ([6, 3, 3, 6], [1, 2], 4, [[1, 2]]),
        ([6, 3, 3, 6], [3, 1], None, [[3, 1]]),
        ([1, 2, 1, 4], [0, 1, 2, 3], 4, [[0, 1, 2], [3]]),
        ([2, 2, 2, 2, 2], [0, 1, 2, 3, 4], 3, [[0, 1], [2], [3, 4]]),
        ([2, 2, 2, 2], [3, 2, 1, 0], 4, [[3, 2], [1, 0]]),
        ([1, 1, 1, 1, 1], [4, 3, 2, 1, 0], 2, [[4, 3], [2, 1], [0]]),
    ],
)
def test_a_sample_goes_into_the_pack_that_its_first_row_falls_into(
    sizes: list[int], chosen: list[int], num_rows: int | None, expected: list[list[int]]
) -> None:
    packs = packed(Segments.of_lengths(sizes), torch.tensor(chosen), num_rows)
    assert [pack.tolist() for pack in packs] == expected


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), num_rows=st.integers(1, 20))
def test_packs_hold_everything_once_and_are_nearly_of_the_size(sizes: list[int], num_rows: int) -> None:
    chosen = torch.randperm(len(sizes))
    packs = packed(Segments.of_lengths(sizes), chosen, num_rows)
    assert torch.equal(torch.cat(packs), chosen)
    assert len(packs) <= math.ceil(sum(sizes) / num_rows)
    assert all(sum(sizes[unit] for unit in pack.tolist()) < num_rows + max(sizes) for pack in packs)


def test_updates_of_whole_samples() -> None:
    """Samples of 3, 6, 3 and 6 rows: with four rows an update each is one by itself, or two short ones are together."""
    policy = EpisodePolicy()
    objective = GRPOObjective(surrogate=SampleClippedSurrogate())
    config = GRPOConfig(batch_size=4, num_epochs_per_update=3)
    rewards = FunctionRewards(lambda state, action: float(len(action)))
    trainer = GRPOTrainer(config, policy, rewards, objective=objective)
    short, long = (1, 1, 0), (1, 1, 1, 1, 1, 0)
    experience = trainer.collector.score([0], [[long, short, short, long]])
    generator = torch.Generator().manual_seed(config.seed)
    units = Segments.of_lengths([6, 3, 3, 6])
    expected = sum(len(packed(units, torch.randperm(4, generator=generator), 4)) for _ in range(3))
    assert trainer.update(experience)["num_updates"] == expected
