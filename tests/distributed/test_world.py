"""The world of several processes: sums, exchanges, and failures that all of them hear of."""

from __future__ import annotations

import copy
import os
import pickle
import time
from contextlib import suppress
from typing import Any

import numpy
import pytest
import torch
from processes import answers_of_ranks, on_ranks
from torch._C._distributed_c10d import HashStore

from grpo import RankError, RankLostError, UpdateConfig, World
from grpo.training._agreement import check_same_settings


def sums(world: World) -> Any:
    own = torch.tensor([1.0, float(world.rank)], dtype=torch.float64)
    begun = [world.begin_sum(torch.full((1000,), float(world.rank + place))) for place in range(3)]
    return (
        world.sum(own).tolist(),
        world.maximum(own).tolist(),
        [float(sum_.wait()[7]) for sum_ in begun],
        own.tolist(),
    )


@pytest.mark.parametrize("size", [1, 2, 4])
def test_sums_over_ranks(size: int) -> None:
    ranks = sum(range(size))
    for rank, (total, largest, begun, own) in enumerate(on_ranks(size, sums)):
        assert total == [size, ranks]
        assert largest == [1, size - 1]
        assert begun == [ranks, ranks + size, ranks + 2 * size]
        assert own == [1, rank]


def exchanges(world: World) -> Any:
    own = {"rank": world.rank, "long": "ü" * 2000 * world.rank}
    return world.gather(own), world.broadcast(own, world.size - 1)["rank"], world.any(world.rank == world.size - 1)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_exchanges_of_any_length(size: int) -> None:
    for told, last, flag in on_ranks(size, exchanges):
        assert told == [{"rank": rank, "long": "ü" * 2000 * rank} for rank in range(size)]
        assert last == size - 1
        assert flag


def shares(world: World, count: int) -> Any:
    return world.share(list(range(count))), world.share(torch.arange(count)).tolist()


@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_shares_are_consecutive_parts(count: int) -> None:
    parts = on_ranks(4, shares, count)
    assert [entry for part, _ in parts for entry in part] == list(range(count))
    assert all(part == of_tensor for part, of_tensor in parts)
    assert max(len(part) for part, _ in parts) - min(len(part) for part, _ in parts) <= 1


class Rows:
    """Rows as a data set has them, a slice of which is a dictionary of columns."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, key: Any) -> Any:
        return {"row": list(range(5))[key]}


def test_a_share_of_a_data_set_is_a_list_of_its_rows() -> None:
    world = World(HashStore(), 1, 2)
    assert world.share(Rows()) == [{"row": 2}, {"row": 3}, {"row": 4}]
    assert world.share(numpy.arange(4)).tolist() == [2, 3]


@pytest.mark.parametrize("batch", [{"a": [1]}, {1, 2}, iter([1]), "text", 3])
@pytest.mark.parametrize("world", [World(), World(HashStore(), 1, 2)])
def test_what_cannot_be_shared_is_told(world: World, batch: Any) -> None:
    with pytest.raises(TypeError, match=rf"World.share got a {type(batch).__name__}, expected a batch .*in a list"):
        world.share(batch)


def fails_sometimes(world: World, failing: int, before: int) -> Any:
    """Sums and fails again and again; what it saw, after which all are together again."""
    seen = []
    for attempt in range(3):
        try:
            with world.together():
                for _ in range(before):
                    world.sum(torch.ones(100_000))
                if world.rank == failing:
                    raise KeyError(f"attempt {attempt}")
                time.sleep(0.02 * world.rank)
                pending = [world.begin_sum(torch.ones(1000)) for _ in range(3)]
                for part in pending:
                    part.wait()
        except (KeyError, RankError) as error:
            seen.append(f"{type(error).__name__}: {error}")
        assert world.sum(torch.ones(1)).item() == world.size
    return seen


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_failure_is_raised_on_all_and_all_go_on(size: int, before: int) -> None:
    for rank, seen in enumerate(on_ranks(size, fails_sometimes, 1, before)):
        told = "KeyError: 'attempt {}'" if rank == 1 else "RankError: rank 1 failed: KeyError: 'attempt {}'"
        assert seen == [told.format(attempt) for attempt in range(3)]


def fails_at_the_same_time(world: World) -> str:
    try:
        with world.together():
            if world.rank < 2:
                raise ValueError(f"of {world.rank}")
    except (ValueError, RankError) as error:
        assert world.sum(torch.ones(1)).item() == world.size
        return str(error)
    return "nothing"


def test_several_failures_at_once() -> None:
    first, second, *others = on_ranks(4, fails_at_the_same_time)
    assert (first, second) == ("of 0", "of 1")
    assert set(others) <= {"rank 0 failed: ValueError: of 0", "rank 1 failed: ValueError: of 1"}


def hangs(world: World, seconds: float) -> None:
    world.sum(torch.ones(1))
    if world.rank == 1:
        time.sleep(seconds)
    world.sum(torch.ones(1))


def test_a_rank_that_hangs_ends_the_others_in_time() -> None:
    began = time.monotonic()
    answers = answers_of_ranks(2, hangs, 4.0, timeout=1.0)
    assert time.monotonic() - began < 15
    for _, error, _ in answers:
        assert isinstance(error, RankLostError)
        assert "rank 1 did not come" in str(error)
        assert "within 1 s" in str(error)


def dies(world: World) -> None:
    world.sum(torch.ones(1))
    if world.rank == 1:
        os._exit(3)
    world.sum(torch.ones(1))


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_that_dies_ends_the_others(size: int) -> None:
    began = time.monotonic()
    answers = answers_of_ranks(size, dies)
    assert time.monotonic() - began < 20
    for rank, (_, error, _) in enumerate(answers):
        assert isinstance(error, ProcessLookupError if rank == 1 else RankLostError)
        assert rank == 1 or "start all processes again" in str(error)


def part_ways(world: World, what: str) -> None:
    world.sum(torch.ones(2))
    if what == "count":
        world.sum(torch.ones(2 + world.rank))
    elif what == "width":
        world.sum(torch.ones(2, dtype=(torch.int64, torch.float64)[world.rank]))
    elif what == "operation" and world.rank == 1:
        world.agree()
    elif what == "operation":
        world.gather(1)
    elif what == "place" and world.rank == 1:
        check_same_settings(UpdateConfig(), None, world)
    elif what == "place":
        world.gather(1)
    else:
        assert what == "after a failure"
        with suppress(KeyError, RankError), world.together():
            if world.rank == 1:
                raise KeyError("first")
        part_ways(world, "count")


@pytest.mark.parametrize(
    ("what", "first", "second"),
    [
        ("count", "a sum of 2 float64 numbers in part_ways", "a sum of 3 float64 numbers in part_ways"),
        ("width", "a sum of 2 int64 numbers in part_ways", "a sum of 2 float64 numbers in part_ways"),
        ("operation", "an exchange in part_ways", "a maximum of 1 float64 numbers in part_ways"),
        ("place", "an exchange in part_ways", "an exchange in grpo.training._agreement._require_same"),
        ("after a failure", "a sum of 2 float64 numbers", "a sum of 3 float64 numbers"),
    ],
)
def test_ranks_that_part_ways_are_told_where(what: str, first: str, second: str) -> None:
    for _, error, _ in answers_of_ranks(2, part_ways, what, timeout=5.0):
        assert isinstance(error, RankLostError)
        assert f"do different things: rank 0 is at {first}" in str(error)
        assert f"rank 1 at {second}" in str(error)


def go_each_a_way_to_one_sum(world: World) -> float:
    def elsewhere() -> float:
        return world.sum(torch.ones(1)).item()

    return elsewhere() if world.rank == 0 else world.sum(torch.ones(1)).item()


def test_functions_may_differ_where_the_sum_is_one() -> None:
    assert on_ranks(2, go_each_a_way_to_one_sum) == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "expected a rank from 0"),
        ({"size": 2}, "without a store"),
        ({"store": object(), "size": 2, "rank": 2}, "expected a rank from 0"),
        ({"timeout": 0.0}, "above 0"),
    ],
)
def test_bad_worlds(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        World(**arguments)


def test_one_process_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert World.from_environment().is_alone
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RuntimeError, match=r"WORLD_SIZE.*torchrun"):
        World.from_environment()


def test_copies() -> None:
    world = World(HashStore(), 1, 2)
    assert copy.deepcopy(world) is world
    assert pickle.loads(pickle.dumps(world)).is_alone


def dies_after_another_failed(world: World) -> str:
    world.sum(torch.ones(1))
    try:
        with world.together():
            if world.rank == 1:
                raise KeyError("first")
    except KeyError:
        os._exit(3)
    except RankError:
        world.sum(torch.ones(1))
    return "went on"


def test_a_rank_that_is_gone_after_it_failed_ends_the_others() -> None:
    (_, error, _), _ = answers_of_ranks(2, dies_after_another_failed, timeout=2.0)
    assert isinstance(error, RankLostError)
    assert "rank 1" in str(error)
