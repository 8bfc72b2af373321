"""Checkpoints: what is damaged is never loaded, what does not fit is refused, what cannot be written is told."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import resource
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from state_laws import are_same
from torch import Tensor, nn

from grpo import (
    BestWeights,
    Callback,
    CheckpointError,
    Checkpoints,
    Evaluate,
    GRPOConfig,
    GRPOTrainer,
    ReferenceSync,
    ReinforceConfig,
    ReinforceTrainer,
    Run,
    Until,
    load_best_weights,
)
from grpo.runs import _checkpoint_writer, _files
from grpo.runs._latest import latest_whole
from grpo.runs._plain_data import from_plain, to_plain
from grpo.runs._storage import read_manifest, read_state, write_state
from grpo_adapters.bandit import ContextualSoftmaxPolicy, SoftmaxPolicy, StationaryBandit

FILES = ("state.pt", "manifest.json", "SHA256SUMS")
MEANS = [0.1, 0.5, 0.9]


def make_trainer(policy: Any = None, **settings: Any) -> GRPOTrainer[Any, Any]:
    config = GRPOConfig(**{"group_size": 4, "learning_rate": 0.1} | settings)
    return GRPOTrainer(config, SoftmaxPolicy(3) if policy is None else policy, StationaryBandit(MEANS))


def make_run(folder: Path, trainer: Any = None, callbacks: Any = (), **settings: Any) -> Run:
    torch.manual_seed(1)
    return Run(
        make_trainer() if trainer is None else trainer,
        ["state"],
        folder=folder,
        checkpoints=Checkpoints(**{"every": 2} | settings),
        callbacks=callbacks,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def steps_in(folder: Path) -> list[int]:
    return [int(name.removeprefix("step-")) for name in names(folder / "checkpoints")]


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1 << position % 3]) + content[position + 1 :]


@pytest.fixture(autouse=True)
def _no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder of two checkpoints, of small states."""
    for step in (1, 2):
        write_state(tmp_path / f"step-{step:09d}", {"x": torch.tensor([step])}, {"step": step})
    return tmp_path


def loaded_steps(folder: Path) -> tuple[int | None, list[str]]:
    """The step of the checkpoint that is loaded, and what is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = latest_whole(folder)
    if found is not None:
        path, manifest, state = found
        assert manifest["step"] == state["x"].item() == int(path.name[-9:])
    return None if found is None else found[1]["step"], [str(warning.message) for warning in caught]


@pytest.mark.parametrize("damage", [lambda content, position: content[:position], flipped], ids=["cut", "flipped"])
@pytest.mark.parametrize("file", FILES)
def test_what_is_damaged_anywhere_is_never_loaded(two: Path, file: str, damage: Callable[[bytes, int], bytes]) -> None:
    latest = two / "step-000000002"
    content = (latest / file).read_bytes()
    positions = list(range(len(content)))
    if len(content) > 500:
        positions = positions[:200:2] + positions[200:-200:9] + positions[-200::2]
    for position in positions:
        (latest / file).write_bytes(damage(content, position))
        step, warned = loaded_steps(two)
        assert step == 1, position
        assert len(warned) == 1
        assert str(latest) in warned[0]
        assert "not whole" in warned[0]
    (latest / file).write_bytes(content)
    assert loaded_steps(two) == (2, [])


def without(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).unlink()


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def with_another_state(folder: Path) -> None:
    shutil.copy(folder.with_name("step-000000001") / "state.pt", folder / "state.pt")


def replaced_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


@pytest.mark.parametrize("damage", [*map(without, FILES), emptied, with_another_state, replaced_by_a_file])
def test_what_is_not_whole_is_left_out(two: Path, damage: Callable[[Path], object]) -> None:
    damage(two / "step-000000002")
    step, warned = loaded_steps(two)
    assert step == 1
    assert len(warned) == 1
    (two / "step-000000001" / "state.pt").unlink()
    assert loaded_steps(two)[0] is None


def test_what_was_not_finished_is_no_checkpoint(two: Path) -> None:
    shutil.copytree(two / "step-000000002", two / ".unfinished-step-000000003")
    shutil.copytree(two / "step-000000002", two / ".replaced-step-000000004")
    (two / "step-3").mkdir()
    assert loaded_steps(two) == (2, [])


@pytest.mark.parametrize("file", FILES)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path: Path, file: str) -> None:
    make_run(tmp_path / "whole")(Until(steps=8))
    make_run(tmp_path / "cut")(Until(steps=6))
    damaged = tmp_path / "cut" / "checkpoints" / "step-000000006" / file
    damaged.write_bytes(damaged.read_bytes()[:-1])
    run = make_run(tmp_path / "cut")
    with pytest.warns(UserWarning, match=rf"step-000000006 is not whole: {file} .* the one before it is taken"):
        assert run.resume()
    assert run.num_steps == 4
    assert steps_in(tmp_path / "cut") == [4]
    run(Until(steps=8))
    for name in ("metrics.jsonl", "checkpoints/step-000000006/state.pt"):
        if name.endswith(".jsonl"):
            assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        else:
            states = [read_state((tmp_path / part / name).parent) for part in ("cut", "whole")]
            assert are_same(*(state["trainer"] for state in states))


def test_a_run_without_a_whole_checkpoint_is_not_written_over(tmp_path: Path) -> None:
    make_run(tmp_path)(Until(steps=4))
    for path in (tmp_path / "checkpoints").iterdir():
        (path / "state.pt").write_bytes(b"")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    run = make_run(tmp_path)
    with (
        pytest.warns(UserWarning, match="not whole"),
        pytest.raises(CheckpointError, match=r"no checkpoint that is whole.*choose another folder, or delete this one"),
    ):
        run.resume()
    with pytest.raises(FileExistsError, match="holds a run already"):
        run(Until(steps=4))
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="no checkpoint that is whole"):
        make_run(tmp_path).resume()
    (tmp_path / "run.json").unlink()
    with pytest.raises(FileExistsError, match="holds a run already"):
        make_run(tmp_path)(Until(steps=1))
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == {path: content for path, content in before.items() if path in after}
    assert tmp_path / "metrics.jsonl" in after


def test_checkpoints_without_a_description_are_not_written_over(tmp_path: Path) -> None:
    make_run(tmp_path)(Until(steps=4))
    for path in tmp_path.glob("*.json*"):
        path.unlink()
    with pytest.raises(FileExistsError, match="holds a run already"):
        make_run(tmp_path)(Until(steps=1))
    with pytest.raises(CheckpointError, match=r"metrics.jsonl has 0 bytes, but had \d+"):
        make_run(tmp_path).resume()


def test_files_that_are_too_short_are_told_before_any_is_changed(tmp_path: Path) -> None:
    make_run(tmp_path)(Until(steps=5))
    shutil.rmtree(tmp_path / "checkpoints" / "step-000000005")
    (tmp_path / "times.jsonl").write_bytes(b"")
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    run = make_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"times\.jsonl has 0 bytes, but had \d+ .* put the file of that run"):
        run.resume()
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics
    assert run.num_steps == run.trainer.num_steps == 0


class RunsCode:
    """A pickle that makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_loading_never_runs_code(tmp_path: Path, write: Callable[[Any, Path], object]) -> None:
    make_run(tmp_path)(Until(steps=4))
    harmed = tmp_path / "harmed"
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        state = checkpoint / "state.pt"
        write({"trainer": RunsCode(harmed)}, state)
        sums = (checkpoint / "SHA256SUMS").read_text().splitlines()
        digest = hashlib.sha256(state.read_bytes()).hexdigest()
        (checkpoint / "SHA256SUMS").write_text(f"{digest}  state.pt\n{sums[1]}\n")
    with pytest.raises(CheckpointError, match="not what this library writes, and is not loaded, since it might"):
        make_run(tmp_path).resume()
    assert not harmed.exists()


def test_what_a_later_version_wrote_is_told(tmp_path: Path) -> None:
    make_run(tmp_path)(Until(steps=4))
    checkpoint = tmp_path / "checkpoints" / "step-000000004"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    write_state(checkpoint, {}, manifest | {"format": 3, "versions": {"anygrpo": "9.0"}})
    with pytest.raises(CheckpointError, match=r"later version of this library, 9\.0, in format 3, expected 2"):
        make_run(tmp_path).resume()


def test_another_trainer_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path)(Until(steps=2))
    other = ReinforceTrainer(ReinforceConfig(), SoftmaxPolicy(3), StationaryBandit(MEANS))
    with pytest.raises(CheckpointError, match="holds a run of GRPOTrainer, expected one of ReinforceTrainer"):
        make_run(tmp_path, other).resume()


def test_changed_settings_are_named_within_settings(tmp_path: Path) -> None:
    def trainer(mixing: float) -> Any:
        policy = SoftmaxPolicy(3)
        config = GRPOConfig(reference_sync=ReferenceSync(mixing=mixing))
        return GRPOTrainer(config, policy, StationaryBandit(MEANS), copy.deepcopy(policy))

    make_run(tmp_path, trainer(0.5))(Until(steps=2))
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"otherwise: reference_sync\.mixing \(0\.5 before, 0\.25 now\)\. Set"):
        make_run(tmp_path, trainer(0.25)).resume()
    assert (tmp_path / "run.json").read_bytes() == before


def test_settings_that_were_changed_on_purpose_stay_so_though_nothing_was_saved_since(tmp_path: Path) -> None:
    make_run(tmp_path)(Until(steps=2))
    for _ in range(2):  # the first is killed before it saves
        changed = make_run(tmp_path, make_trainer(learning_rate=0.5), every=10)
        with pytest.warns(UserWarning, match=r"goes on with other settings: learning_rate \(0.1 before, 0.5 now\)"):
            assert changed.resume(override=True)
        changed.trainer.step(["state"])
        assert changed._run_folder is not None
        changed._run_folder.begin({"config": {"learning_rate": 0.5}})
        changed._run_folder.close()  # as the system does where a process is killed
    assert changed.trainer.optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(CheckpointError, match="learning_rate"):
        make_run(tmp_path, make_trainer(learning_rate=0.5)).resume()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda: SoftmaxPolicy(4), r"\[3\].*\[4\]"),
        (lambda: ContextualSoftmaxPolicy(nn.Linear(1, 3)), r"network\.(weight|logits)|tensors"),
        (lambda: SoftmaxPolicy(3).double(), r"logits is torch\.float32 in the state, torch\.float64 in the object"),
    ],
    ids=["shape", "names", "dtype"],
)
def test_another_model_is_refused_with_nothing_changed(tmp_path: Path, policy: Callable[[], Any], message: str) -> None:
    make_run(tmp_path)(Until(steps=2))
    run = make_run(tmp_path, make_trainer(policy()))
    before = copy.deepcopy(run.trainer.state_dict())
    with pytest.raises(CheckpointError, match=rf"(?s)step-000000002 does not fit this run: .*({message})"):
        run.resume(override=True)
    assert are_same(run.trainer.state_dict(), before)


@contextmanager
def full_disk(room: int = 8192) -> Iterator[None]:
    """No file can be longer than this, in bytes; a state takes more, the lines of a few steps less."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class FullFrom(Callback):
    """Lets the disk be full from a step to another."""

    def __init__(self, first: int, last: int, room: int = 8192) -> None:
        self.first, self.last, self.room = first, last, room
        self._disk: Any = None

    def after_step(self, run: Run, metrics: Any) -> None:
        if run.num_steps in (self.first, self.last):
            assert run._run_folder is not None
            assert run._run_folder.writer is not None
            run._run_folder.writer.wait()
        if run.num_steps == self.first:
            self._disk = full_disk(self.room)
            self._disk.__enter__()
        if run.num_steps == self.last:
            self._disk.__exit__(None, None, None)

    def on_error(self, run: Run, error: BaseException) -> None:
        self._disk.__exit__(None, None, None)


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_is_told_before_the_first_step(tmp_path: Path, on_failure: str, asynchronous: bool) -> None:
    run = make_run(tmp_path, on_failure=on_failure, asynchronous=asynchronous)
    with full_disk(), pytest.raises(OSError, match="too large") as raised:
        run(Until(steps=4))
    assert any("make room there, or choose another folder" in note for note in raised.value.__notes__)
    assert run.num_steps == 0
    assert names(tmp_path / "checkpoints") == []
    again = make_run(tmp_path)
    assert not again.resume()
    again(Until(steps=2))
    assert steps_in(tmp_path) == [0, 2]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_disk_that_fills_up_stops_the_run_which_goes_on_from_before(tmp_path: Path, asynchronous: bool) -> None:
    run = make_run(tmp_path, callbacks=[FullFrom(3, 100)], asynchronous=asynchronous)
    with pytest.raises(OSError, match="too large") as raised:
        run(Until(steps=9))
    assert any("could not be written into" in note for note in raised.value.__notes__)
    assert run.num_steps == (6 if asynchronous else 4)  # told when the next one is to be written
    assert names(tmp_path / "checkpoints") == ["step-000000000", "step-000000002"]
    again = make_run(tmp_path)
    assert again.resume()
    assert again.num_steps == 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_that_is_to_goes_on_without_a_checkpoint_that_cannot_be_written(
    tmp_path: Path, asynchronous: bool
) -> None:
    run = make_run(tmp_path, callbacks=[FullFrom(3, 7)], asynchronous=asynchronous, on_failure="continue")
    with pytest.warns(UserWarning, match="could not be written into .* the training goes on without it") as caught:
        run(Until(steps=9))
    assert len(caught) == 2
    assert steps_in(tmp_path) == [8, 9]
    assert make_run(tmp_path).resume() is not None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_lines_that_cannot_be_written_are_kept_until_they_can_be(
    tmp_path: Path, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "SECONDS_BETWEEN_FLUSHES", -1.0)
    disk = FullFrom(3, 7, room=1000)
    run = make_run(tmp_path, callbacks=[disk], asynchronous=asynchronous, on_failure="continue")
    with pytest.warns(UserWarning, match="cannot be written|could not be written") as caught:
        run(Until(steps=9))
    messages = [str(warning.message) for warning in caught]
    assert sum("metrics.jsonl cannot be written" in message for message in messages) == 1
    assert sum("the training goes on without it" in message for message in messages) == 2
    make_run(tmp_path / "whole")(Until(steps=9))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_lines_that_are_lost_at_the_end_are_told(tmp_path: Path, on_failure: str) -> None:
    disk = FullFrom(1, 100, room=0)
    run = make_run(tmp_path, callbacks=[disk], every=100, on_failure=on_failure)
    try:
        if on_failure == "stop":
            with pytest.raises(OSError, match="too large"):
                run(Until(steps=3))
        else:
            with pytest.warns(UserWarning, match="could not be written into") as caught:
                run(Until(steps=3))
            assert any("lines could not" in str(warning.message) for warning in caught)
    finally:
        disk.on_error(run, OSError())
    assert run.num_steps == 3


def test_a_disk_that_is_full_at_the_end_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, callbacks=[FullFrom(5, 100)], asynchronous=True)
    try:
        with pytest.raises(OSError, match="too large"):
            run(Until(steps=6))
    finally:
        run.callbacks[0].on_error(run, OSError())


def test_a_folder_that_cannot_be_made_is_told_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = make_run(tmp_path / "file" / "run")
    with pytest.raises(OSError, match="file") as raised:
        run(Until(steps=1))
    assert any("choose a folder that it may write to" in note for note in raised.value.__notes__)
    assert run.num_steps == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_state_is_saved_as_it_was_though_training_goes_on(
    tmp_path: Path, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on = threading.Event()

    class GoesOn(Callback):
        def after_step(self, run: Run, metrics: Any) -> None:
            if run.num_steps == 4:
                went_on.set()

    def write(folder: Path, state: Any, manifest: Any) -> None:
        if asynchronous and manifest["step"] == 2:
            assert went_on.wait(20)
        write_state(folder, state, manifest)

    monkeypatch.setattr(_checkpoint_writer, "write_state", write)
    make_run(tmp_path, callbacks=[GoesOn()], asynchronous=asynchronous, keep_last=9)(Until(steps=4))
    reference = make_trainer()
    torch.manual_seed(1)
    for _ in range(2):
        reference.step(["state"])
    saved = read_state(tmp_path / "checkpoints" / "step-000000002")
    assert are_same(saved["trainer"], reference.state_dict())
    assert are_same(saved["random"]["torch"], torch.get_rng_state())


class Measures(Callback):
    """Tells values, one a step, as those of an evaluation."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def start(self, run: Run) -> None:
        if run.num_steps == 0:
            self.after_step(run, {})

    def after_step(self, run: Run, metrics: Any) -> None:
        run.note_evaluation({"value": self.values[run.num_steps]})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [6, 7]),
        ({"keep_last": 1}, [7]),
        ({"keep_last": 3, "keep_every": 3}, [0, 3, 5, 6, 7]),
        ({"keep_last": 1, "keep_best": "value"}, [4, 7]),
        ({"keep_last": 1, "keep_best": "value", "best_is": "lowest"}, [0, 7]),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("cut", [None, 0, 5])
def test_what_is_kept(
    tmp_path: Path, settings: dict[str, Any], expected: list[int], asynchronous: bool, cut: int | None
) -> None:
    values = [-5.0, 1.0, float("nan"), 2.0, 3.0, 3.0, 2.5, 0.0]
    settings = {"every": 1, "asynchronous": asynchronous} | settings
    if cut is not None:
        first = make_run(tmp_path, callbacks=[Measures(values)], **settings)
        first(Until(steps=max(cut, 1)))
        if cut == 0:
            shutil.rmtree(tmp_path / "checkpoints" / "step-000000001")
        if steps_in(tmp_path) == []:
            return  # the first checkpoint was not kept
    run = make_run(tmp_path, callbacks=[Measures(values)], **settings)
    assert run.resume() == (cut is not None)
    run(Until(steps=7))
    assert steps_in(tmp_path) == expected


@pytest.mark.parametrize(
    ("keep_best", "expected"),
    [("valeu", [0, 0, 0, 1, 1, 1]), ("of nothing", [0, 0, 0, 0, 0, 1]), ("value", [0] * 6), ("reward", [0] * 6)],
)
def test_a_metric_that_never_comes_is_told_once(tmp_path: Path, keep_best: str, expected: list[int]) -> None:
    """With the save after step 2 where another one has nearly that name, and at the end, after step 4, otherwise."""
    told: list[int] = []

    class Notes(Measures):
        def after_step(self, run: Run, metrics: Any) -> None:
            super().after_step(run, metrics)
            told.append(len(caught))

    with warnings.catch_warnings(record=True, action="always") as caught:
        run = make_run(tmp_path, callbacks=[Notes([0.0] * 6)], every=2, keep_best=keep_best)
        run(Until(steps=4))
        told.append(len(caught))
        run(Until(steps=5))
    assert len(caught) == expected[-1]
    assert told[:6] == expected
    for warning in caught:
        assert str(warning.message).startswith(f"Checkpoints(keep_best={keep_best!r}) has seen no number called that")
        assert warning.filename == __file__


def test_the_best_of_another_metric_is_forgotten(tmp_path: Path) -> None:
    values = [1.0, 9.0, 2.0, 3.0, 4.0]
    measures = [Measures(values)]
    make_run(tmp_path, callbacks=measures, every=1, keep_last=1, keep_best="value")(Until(steps=2))
    assert steps_in(tmp_path) == [1, 2]
    run = make_run(tmp_path, callbacks=measures, every=1, keep_last=1, keep_best="value", best_is="lowest")
    assert run.resume()
    run(Until(steps=4))
    assert steps_in(tmp_path) == [2, 4]


@pytest.mark.parametrize("stops_at", [None, 3, 4])
def test_an_evaluation_of_an_earlier_step_is_not_that_of_a_checkpoint(tmp_path: Path, stops_at: int | None) -> None:
    runs: list[Run] = []

    def run() -> Run:
        evaluates = Evaluate(lambda policy: {"score": [0.0, 5.0, 1.0][runs[-1].num_steps // 3]}, 3)
        runs.append(make_run(tmp_path, callbacks=[evaluates], every=2, keep_last=1, keep_best="evaluation/score"))
        return runs[-1]

    run()(Until(steps=stops_at or 8))
    if stops_at is not None:
        goes_on = run()
        assert goes_on.resume()
        goes_on(Until(steps=8))
    assert steps_in(tmp_path) == ([3, 8] if stops_at == 3 else [6, 8])


def test_what_a_writer_that_was_killed_has_left_is_deleted(tmp_path: Path) -> None:
    make_run(tmp_path, every=1)(Until(steps=4))
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(checkpoints / "step-000000003", checkpoints / "step-000000001")  # killed before it was deleted
    shutil.copytree(checkpoints / "step-000000003", checkpoints / ".unfinished-step-000000005")
    (tmp_path / "run.json.unfinished").write_text("{")
    run = make_run(tmp_path, every=1)
    assert run.resume()
    run(Until(steps=4))
    assert names(checkpoints) == ["step-000000003", "step-000000004"]
    assert names(tmp_path) == ["checkpoints", "metrics.jsonl", "run.json", "times.jsonl"]


def test_the_best_weights_are_there_though_the_writer_was_killed_while_it_replaced_them(tmp_path: Path) -> None:
    make_run(tmp_path, callbacks=[BestWeights("value"), Measures([0.0, 1.0, 2.0])])(Until(steps=2))
    expected = SoftmaxPolicy(3)
    assert load_best_weights(expected, tmp_path)["step"] == 2
    best = tmp_path / "best"
    shutil.copytree(best, tmp_path / ".unfinished-best")
    best.rename(tmp_path / ".replaced-best")
    policy = SoftmaxPolicy(3)
    assert load_best_weights(policy, tmp_path) == {"step": 2, "metric": "value", "value": 2.0}
    assert torch.equal(policy.probabilities(), expected.probabilities())
    write_state(best, to_plain({"x": 3}), {"step": 3})
    assert read_manifest(best)["step"] == 3
    assert not [name for name in names(tmp_path) if name.startswith(".")]


class Tells(Callback):
    """Has a state of any kind."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"list": [1, {"value": self.value}]}

    def load_state_dict(self, state_dict: Any) -> None:
        self.value = state_dict["list"][1]["value"]


class Wrapped(Tensor):
    """A kind of tensor of one's own."""


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "a object"),
        ({1, 2}, "a set"),
        (torch.ones(2).as_subclass(Wrapped), "a Wrapped of torch.float32"),
        (np.array([None]), "a ndarray of object"),
        (np.zeros(2, dtype=[("a", "i4"), ("b", "f4")]), r"a ndarray of \[\('a', '<i4'\), \('b', '<f4'\)\]"),
        (np.ma.masked_array([1, 2], mask=[False, True]), "a MaskedArray of int64"),
        (np.str_("a"), "a str_ of <U1"),
        (1 << 2039, "an integer of 2040 bits"),
        (-1 << 3000, "an integer of 3001 bits"),
        ({np.str_("a"): 1}, r"names \[np\.str_\('a'\)\]"),
        ({(1, 2): 1}, r"names \[\(1, 2\)\]"),
        ({"__array__": 1}, r"names \['__array__'\], expected texts and integers, and none of"),
    ],
    ids=range(12),
)
def test_what_cannot_be_saved_is_named_before_the_first_step(tmp_path: Path, value: Any, kind: str) -> None:
    run = make_run(tmp_path, callbacks=[Tells(value)])
    with pytest.raises(TypeError, match=rf"state\.parts\.0 Tells\.list\.1\.value (is|has the) {kind}"):
        run(Until(steps=3))
    assert run.num_steps == 0
    assert names(tmp_path) == ["run.json"]


@pytest.mark.parametrize(
    "value",
    [
        np.float64(-0.0),
        np.float16("nan"),
        np.longdouble(1) / 3,
        np.complex64(1 - 2j),
        np.bool_(True),
        np.uint64(2**64 - 1),
        np.datetime64("2020-01-01T12:00", "ms"),
        np.timedelta64(3, "D"),
        np.void(b"ab\0"),
        np.array(3.5),
        np.array(7, dtype=">i2"),
        np.arange(6, dtype=">f4"),
        np.array([True, False]),
        np.array([b"a", b"bcd"]),
        np.array(["a", "bcd"]),
        np.array(["2020-01-01", "NaT"], dtype="datetime64[s]"),
        np.zeros((0, 3), dtype=np.int8),
        np.full(3, np.frombuffer(b"\x01\x00\xc0\x7f", dtype=np.float32)[0]),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
    ],
    ids=repr,
)
def test_numpy_comes_back_bit_by_bit(tmp_path: Path, value: Any) -> None:
    write_state(tmp_path / "state", to_plain({"value": [value]}), {})
    (back,) = from_plain(read_state(tmp_path / "state"))["value"]
    assert type(back) is type(value)
    assert back.dtype == value.dtype
    assert back.shape == value.shape
    assert back.tobytes() == value.tobytes()
    if back.size > 0:
        assert back.strides == value.strides  # sums are rounded in the order that numbers have in memory
    if isinstance(back, np.ndarray):
        back[...] = back  # can be written to


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.bool, torch.uint16])
def test_tensors_come_back_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randint(0, 2, (4, 3, 8), dtype=torch.uint8).view(torch.uint8).to(dtype).transpose(0, 2)
    for value in (tensor, nn.Parameter(tensor, requires_grad=False), torch.empty(0, 3, dtype=dtype)):
        write_state(tmp_path / "state", to_plain({"value": value}), {})
        back = read_state(tmp_path / "state")["value"]
        assert back.dtype == value.dtype
        assert back.shape == value.shape
        assert back.stride() == value.stride()
        assert torch.equal(*(part.detach().flatten().view(torch.uint8) for part in (back, value)))


ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**2039) + 1, 2**2039 - 1)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(), max_size=9)
    | st.binary(max_size=300)
    | st.sampled_from([torch.float16, torch.device("cpu"), torch.Size([2, 3])])
)
NAMES = st.text(max_size=5).filter(lambda name: name != "__array__") | st.integers(-(2**70), 2**70)
PLAIN = st.recursive(
    ATOMS,
    lambda part: st.lists(part, max_size=4) | st.tuples(part, part) | st.dictionaries(NAMES, part, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40)
@given(value=PLAIN)
def test_plain_data_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    folder = tmp_path_factory.mktemp("plain") / "state"
    write_state(folder, to_plain({"value": value}), {})
    assert repr(read_state(folder)) == repr({"value": value})
