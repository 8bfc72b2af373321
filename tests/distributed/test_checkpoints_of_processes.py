"""Checkpoints that several processes write: whole or not there, read by as many or as few as there are."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import answers_of_ranks, on_ranks, process_group
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from grpo import (
    Callback,
    CheckpointError,
    Checkpoints,
    GRPOConfig,
    GRPOTrainer,
    PolicyTrainer,
    RankError,
    ReinforceConfig,
    ReinforceTrainer,
    Run,
    StateLoader,
    Until,
    World,
    load_latest_weights,
)
from grpo.runs import _parts, _storage
from grpo.runs._sharded import tensors_in, whole
from grpo_adapters.bandit import ContextualSoftmaxPolicy


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
        super().__init__(GRPOConfig(learning_rate=0.1), Line(size), world=world)
        self.noise = noise

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


@settings(max_examples=6)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 4]), min_size=2, max_size=3),
    steps=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    asynchronous=st.booleans(),
)
def test_a_run_that_goes_on_with_more_or_fewer_comes_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], steps: list[int], asynchronous: bool
) -> None:
    folder = tmp_path_factory.mktemp("run")
    ends = [sum(steps[: place + 1]) for place in range(len(sizes))]
    [(weight, seen, *_)] = on_ranks(1, trains, folder / "one", ends[-1])
    for place, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        answers = on_ranks(size, trains_with, folder / "many", end, 0.0, {"asynchronous": asynchronous})
        changed = place > 0 and sizes[place - 1] != size
        for rank, (_, own_seen, resumed, told) in enumerate(answers):
            assert own_seen == seen[:end]
            assert resumed == (place > 0)
            assert len(told) == (changed and rank == 0)
            assert all(f"with {size} ranks, and was saved by {sizes[place - 1]}" in text for text in told)
        if place == len(sizes) - 1:
            assert answers[0][0] == pytest.approx(weight, rel=1e-9)


def draws(world: World, folder: Path) -> Any:
    run = make_run(world, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.resume()
    return torch.rand(1, generator=run.trainer.policy.generator).item(), torch.rand(1).item()


def test_other_ranks_draw_anew_and_apart(tmp_path: Path) -> None:
    on_ranks(1, trains, tmp_path, 2)
    drawn = on_ranks(4, draws, tmp_path)
    assert len({number for pair in drawn for number in pair}) == 8
    assert on_ranks(4, draws, tmp_path) == drawn


def test_a_single_process_takes_the_weights_of_several(tmp_path: Path) -> None:
    [(weight, *_), *_] = on_ranks(4, trains, tmp_path, 3)
    policy = Line()
    assert load_latest_weights(policy, tmp_path) == 3
    assert policy.weight.tolist() == weight


def test_what_is_the_same_on_all_is_stored_once(tmp_path: Path) -> None:
    on_ranks(4, trains_with, tmp_path, 2, 0.0, {"size": 200_000})
    latest = tmp_path / "checkpoints" / "step-000000002"
    sizes = {path.name: path.stat().st_size for path in latest.iterdir()}
    assert sum(sizes.values()) < 1.1 * 3 * 200_000 * 8  # weights and two moments
    assert max(sizes.values()) < 1.1 * 200_000 * 8  # shared out
    for rank in range(4):
        assert sizes[f"state-{rank:05d}.pt"] < 50_000


FILES = ("state-00000.pt", "state-00001.pt", "pieces-00001.json", "__0_0.distcp", "manifest.json", "SHA256SUMS")


def resumes(world: World, folder: Path) -> Any:
    """The step that a run goes on from, or what is raised, and what is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = make_run(world, folder)
        try:
            run.resume()
            told = str(run.num_steps)
        except (CheckpointError, RankError) as error:
            told = str(error)
        world.agree()
    return told, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_all_take_the_one_before_where_any_part_is_damaged(tmp_path: Path, file: str, damage: str) -> None:
    on_ranks(2, trains, tmp_path, 4)
    path = tmp_path / "checkpoints" / "step-000000004" / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        half = len(content) // 2
        path.write_bytes(
            content[:-1] if damage == "cut" else content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        )
    for size in (1, 2):
        shutil.copytree(tmp_path, tmp_path / str(size), ignore=shutil.ignore_patterns("[12]"))
        for rank, (told, warned) in enumerate(on_ranks(size, resumes, tmp_path / str(size))):
            assert told == "2"
            not_whole = [text for text in warned if "step-000000004 is not whole" in text]
            assert len(not_whole) == (rank == 0)


class RunsCode:
    """A pickle that makes a folder where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("file", ["state-00001.pt", "__0_0.distcp", ".metadata"])
def test_loading_never_runs_code(tmp_path: Path, file: str) -> None:
    """Neither where a file is another with a checksum that is right, nor by metadata that DCP would unpickle."""
    on_ranks(2, trains, tmp_path, 2)
    latest = tmp_path / "checkpoints" / "step-000000002"
    harmed = tmp_path / "harmed"
    if file == "__0_0.distcp":
        pieces = json.loads((latest / "pieces-00000.json").read_text())
        torch.save({"x": RunsCode(harmed)}, latest / file)
        for piece in pieces:
            piece |= {"start": 0, "length": (latest / file).stat().st_size}
        (latest / "pieces-00000.json").write_text(json.dumps(pieces))
    else:
        (latest / file).write_bytes(pickle.dumps(RunsCode(harmed)))
    names = [line.split()[1] for line in (latest / "SHA256SUMS").read_text().splitlines()]
    sums = [f"{hashlib.sha256((latest / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (latest / "SHA256SUMS").write_text("".join(sums))
    for told, _ in on_ranks(2, resumes, tmp_path):
        assert told == "2" if file == ".metadata" else "not what this library writes, and is not loaded" in told
    assert not harmed.exists()


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def with_a_full_disk(world: World, folder: Path, on_failure: str, asynchronous: bool) -> Any:
    """What is raised and warned of where rank 1 cannot write after the first checkpoint."""
    write = _storage.write_data

    def fails(path: Path, data: Any) -> str:
        if world.rank == 1 and "step-000000002" in str(path):
            raise OSError(28, "No space left on device")
        return write(path, data)

    patch = pytest.MonkeyPatch()
    patch.setattr(_parts, "write_data", fails)
    raised = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run = make_run(world, folder, on_failure=on_failure, asynchronous=asynchronous)
            run(Until(steps=5))
        except (OSError, RankError) as error:
            raised = str(error)
        finally:
            patch.undo()
        world.agree()
    return raised, [str(warning.message) for warning in caught], run.num_steps


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_disk_that_is_full_for_one_stops_all(tmp_path: Path, asynchronous: bool) -> None:
    first, second = on_ranks(2, with_a_full_disk, tmp_path, "stop", asynchronous)
    assert second[0] == "[Errno 28] No space left on device"
    assert first[0] == "rank 1 failed: OSError: [Errno 28] No space left on device"
    assert first[2] == second[2]
    assert steps_in(tmp_path)[:1] == ["step-000000000"]
    assert not (tmp_path / "checkpoints" / "step-000000002").exists()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_all_go_on_without_a_checkpoint_where_they_are_to(tmp_path: Path, asynchronous: bool) -> None:
    first, second = on_ranks(2, with_a_full_disk, tmp_path, "continue", asynchronous)
    assert first == ("", [], 5)
    assert (second[0], second[2]) == ("", 5)
    assert len(second[1]) == 1
    assert "a checkpoint could not be written into" in second[1][0]
    assert steps_in(tmp_path) == [f"step-{step:09d}" for step in (0, 4, 5)]


def dies_while_it_writes(world: World, folder: Path) -> None:
    write = _storage.write_bytes

    def dies(path: Path, content: bytes) -> str:
        if world.rank == 1 and "step-000000004" in str(path):
            os._exit(1)
        return write(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_parts, "write_bytes", dies)
        make_run(world, folder)(Until(steps=5))


def test_what_one_was_killed_while_writing_is_not_there(tmp_path: Path) -> None:
    answers_of_ranks(2, dies_while_it_writes, tmp_path)
    assert steps_in(tmp_path)[1:] == ["step-000000000", "step-000000002"]
    assert steps_in(tmp_path)[0].startswith(".unfinished-step-000000004")
    for told, warned in on_ranks(2, resumes, tmp_path):
        assert (told, warned) == ("2", [])
    assert steps_in(tmp_path) == ["step-000000000", "step-000000002"]


def trains_in_the_background(world: World, folder: Path) -> Any:
    class StopsWhenItIsThere(Callback):
        def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
            time.sleep(0.02)
            if (folder / "checkpoints" / "step-000000007").exists():
                run.stop("seen")

    run = make_run(world, folder, asynchronous=True, every=7)
    run.callbacks.append(StopsWhenItIsThere())
    run(Until(steps=500))
    return run.num_steps, run.stopped_by


def test_what_is_written_in_the_background_is_there_soon(tmp_path: Path) -> None:
    for num_steps, reason in on_ranks(2, trains_in_the_background, tmp_path):
        assert reason == "seen"
        assert num_steps < 14


def takes_another_state(world: World, folder: Path, size: int) -> Any:
    run = make_run(world, folder, size=size)
    before = run.trainer.policy.weight.tolist()
    try:
        run.resume()
    except (CheckpointError, RankError) as error:
        world.agree()
        return str(error), run.trainer.policy.weight.tolist() == before, run.num_steps
    return "nothing", False, 0


@pytest.mark.parametrize("size", [1, 2])
def test_the_state_of_another_kind_is_refused_on_all_with_nothing_changed(tmp_path: Path, size: int) -> None:
    on_ranks(2, trains, tmp_path, 2)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for told, is_as_before, num_steps in on_ranks(size, takes_another_state, tmp_path, 4):
        assert "does not fit this run: state_dict holds the state of an optimizer over" in told
        assert (is_as_before, num_steps) == (True, 0)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


class Network(Line):
    """Lies in parts on several processes, if there are several."""

    def __init__(self, world: World) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2, bias=False)).double()
        if not world.is_alone:
            fully_shard(self.network)


class LearnsInParts(Learns):
    """Learns the same on all processes, each of which holds a part of the parameters."""

    def __init__(self, world: World) -> None:
        PolicyTrainer.__init__(self, GRPOConfig(learning_rate=0.1), Network(world), world=world)

    def step(self, states: list[float]) -> dict[str, float]:
        policy: Any = self.policy
        assert self.optimizer is not None
        self.optimizer.zero_grad()
        policy.network(torch.full((4, 3), float(self.num_steps + 1), dtype=torch.float64)).square().sum().backward()
        self.optimizer.step()
        self.num_steps += 1
        return {"seen": 0.0}


def trains_in_parts(world: World, folder: Path, steps: int) -> Any:
    """All parameters and moments, whole, and how many numbers of them this process holds."""
    with process_group(world), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = Run(LearnsInParts(world), [1.0] * 8, folder=folder, checkpoints=Checkpoints(every=2))
        run.resume()
        run(Until(steps=steps))
        state = run.trainer.state_dict()
        tensors = dict(tensors_in([state["parts"]["policy"]["state"], state["optimizer"]["state"]]))
        held = sum(part.to_local().numel() if isinstance(part, DTensor) else part.numel() for part in tensors.values())
        values = [whole(part).double().flatten() for place, part in tensors.items() if "_extra" not in place]
        return torch.cat(values).tolist(), held


@pytest.mark.parametrize("sizes", [(4, 4), (4, 2), (4, 1), (1, 2)])
def test_parts_of_tensors_are_stored_once_and_read_as_they_are_held(tmp_path: Path, sizes: tuple[int, int]) -> None:
    [(expected, all_numbers)] = on_ranks(1, trains_in_parts, tmp_path / "one", 5)
    before, after = sizes
    on_ranks(before, trains_in_parts, tmp_path / "parts", 3)
    for values, held in on_ranks(after, trains_in_parts, tmp_path / "parts", 5):
        assert values == pytest.approx(expected, rel=1e-9)
        assert held == all_numbers if after == 1 else held < all_numbers


class EachArm:
    """A sampler that draws nothing: every arm once for each state."""

    def sample(self, policy: Any, states: Any, num_actions_per_state: int, **kwargs: Any) -> Tensor:
        return torch.arange(num_actions_per_state).expand(len(states), -1)


class Means:
    """Rewards that depend on state and arm alone."""

    def compute_rewards(self, states: Any, actions: Any) -> Tensor:
        return torch.stack(
            [torch.sin(state.sum() * (1 + int(action))) for state, action in zip(states, actions, strict=True)]
        )

    def train(self) -> None: ...

    def eval(self) -> None: ...

    def to(self, device: Any) -> None: ...


def trains_really(world: World, folder: Path, steps: int, algorithm: str) -> Any:
    torch.manual_seed(2)
    policy = ContextualSoftmaxPolicy(nn.Linear(2, 3).double())
    common: Any = {"sampler": EachArm(), "world": world}
    if algorithm == "grpo":
        config = GRPOConfig(group_size=3, batch_size=8, num_epochs_per_update=2, learning_rate=0.05, max_grad_norm=0.1)
        trainer: Any = GRPOTrainer(config, policy, Means(), **common)
    else:
        trainer = ReinforceTrainer(ReinforceConfig(group_size=3, learning_rate=0.05), policy, Means(), **common)
    rows = torch.linspace(-1, 1, 14, dtype=torch.float64).reshape(7, 2)
    run = Run(trainer, StateLoader(rows, 5, seed=1), folder=folder, checkpoints=Checkpoints(every=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        run.resume()
    run(Until(steps=steps))
    return [value for parameter in policy.parameters() for value in parameter.flatten().tolist()]


@pytest.mark.parametrize("algorithm", ["grpo", "reinforce"])
def test_trainers_go_on_in_other_processes(tmp_path: Path, algorithm: str) -> None:
    [expected] = on_ranks(1, trains_really, tmp_path / "one", 6, algorithm)
    for size, steps in ((4, 2), (2, 4), (1, 5), (4, 6)):
        for values in on_ranks(size, trains_really, tmp_path / "many", steps, algorithm):
            assert steps < 6 or values == pytest.approx(expected, rel=1e-9)
