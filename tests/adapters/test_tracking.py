"""Trackers: what is logged can be read back, by each library's own means, and nothing else happens."""

from __future__ import annotations

import builtins
import json
import math
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from html import unescape
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from models import StepRewards, WalkerPolicy

from grpo import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, ReinforceConfig, ReinforceTrainer, Trainer
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
from grpo_adapters.tracking import (
    JSONLinesTracker,
    TensorBoardTracker,
    Tracker,
    TrackerName,
    Trackers,
    TrackioTracker,
    WandbTracker,
    make_tracker,
    make_trackers,
)

COLUMNS = ("prompt", "completion", "reward")
ROWS = [("2 + 2?", "4", 1.0), ("a|b", "<think>\nwell, *no*</think> `x` 日本 \\n", -0.5), ("", None, math.inf)]


def lines_of(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def scalars_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = accumulator(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def accumulator(folder: Path) -> Any:
    events = import_module("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(str(folder))
    events.Reload()
    return events


class ListTracker:
    """A tracker of one's own."""

    def __init__(self, name: str = "", journal: list[Any] | None = None, fails: bool = False) -> None:
        self.name = name
        self.journal = [] if journal is None else journal
        self.fails = fails

    def note(self, *what: Any) -> None:
        self.journal.append((self.name, *what))
        if self.fails:
            raise OSError(f"{self.name} failed")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.note("log", dict(metrics), step)

    def log_table(self, name: str, columns: Any, rows: Any, step: int) -> None:
        self.note("table", name, step)

    def close(self) -> None:
        self.note("close")

    def __enter__(self) -> ListTracker:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.note("exit", kind)


LOCAL: dict[str, Callable[[Path], Tracker]] = {
    "jsonl": lambda folder: JSONLinesTracker(folder / "metrics.jsonl"),
    "tensorboard": TensorBoardTracker,
    "several": lambda folder: Trackers([JSONLinesTracker(folder / "metrics.jsonl"), ListTracker()]),
    "none": lambda folder: Trackers(),
}


@pytest.fixture(params=LOCAL)
def tracker(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with LOCAL[request.param](tmp_path) as tracker:
        yield tracker


def bandit_trainer() -> Trainer[Any, Any]:
    return GRPOTrainer(GRPOConfig(group_size=4), SoftmaxPolicy(3), StationaryBandit([0.1, 0.5, 0.9], seed=0))


def walker_trainer() -> Trainer[Any, Any]:
    return PPOTrainer(PPOConfig(), WalkerPolicy(), StepRewards())


def reinforce_trainer() -> Trainer[Any, Any]:
    return ReinforceTrainer(ReinforceConfig(), WalkerPolicy(), StepRewards())


@pytest.mark.parametrize("make_trainer", [bandit_trainer, walker_trainer, reinforce_trainer])
def test_every_trainers_metrics_are_noted(make_trainer: Callable[[], Trainer[Any, Any]], tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = make_trainer()
    reported = []
    with make_trackers(["jsonl", "tensorboard"], tmp_path) as trackers:
        for step in range(3):
            reported.append(trainer.step([0, 1]))
            trackers.log(reported[-1], step)
    assert lines_of(tmp_path / "metrics.jsonl") == [{"step": step, **metrics} for step, metrics in enumerate(reported)]
    scalars = scalars_of(tmp_path)
    assert scalars.keys() == reported[0].keys() >= {"reward", "loss"}
    for name, points in scalars.items():
        assert points == [(step, float(np.float32(metrics[name]))) for step, metrics in enumerate(reported)]


def test_json_lines_are_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "metrics.jsonl"
    with JSONLinesTracker(path) as tracker:
        assert path.read_text() == ""
        for step in (0, 0, 7):
            tracker.log({"rewards/format/mean": 0.1 + step}, step)
            assert lines_of(path)[-1] == {"step": step, "rewards/format/mean": 0.1 + step}
        tracker.log({}, 8)
        tracker.log_table("completions", COLUMNS, ROWS, 8)
        tracker.log_table("completions", COLUMNS, iter(ROWS[:1]), 9)
        tracker.log_table("rewards/worst", ["a"], [], 9)
        assert len(lines_of(path)) == 4
        table = lines_of(tmp_path / "a" / "b" / "metrics.completions.jsonl")
    assert [line["step"] for line in table] == [8, 8, 8, 9]
    assert table[1] == {"step": 8, "prompt": "a|b", "completion": ROWS[1][1], "reward": -0.5}
    assert table[2] == {"step": 8, "prompt": "", "completion": None, "reward": "Infinity"}
    assert (tmp_path / "a" / "b" / "metrics.rewards%2Fworst.jsonl").read_text() == ""
    assert len(list(tmp_path.rglob("*.jsonl"))) == 3


def test_pandas_reads_json_lines(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with JSONLinesTracker(tmp_path / "metrics.jsonl") as tracker:
        for step, value in enumerate([1.5, math.nan, math.inf, -math.inf]):
            tracker.log({"rewards/mean": value, "first": 1} if step == 0 else {"rewards/mean": value}, step)
        tracker.log_table("completions", COLUMNS, ROWS, 3)
    frame = pandas.read_json(tmp_path / "metrics.jsonl", lines=True)
    assert frame["step"].tolist() == [0, 1, 2, 3]
    np.testing.assert_equal(frame["rewards/mean"].to_numpy(), [1.5, math.nan, math.inf, -math.inf])
    np.testing.assert_equal(frame["first"].to_numpy(), [1, math.nan, math.nan, math.nan])
    table = pandas.read_json(tmp_path / "metrics.completions.jsonl", lines=True)
    assert table["completion"].tolist()[1] == ROWS[1][1]
    assert table["reward"].tolist() == [1, -0.5, math.inf]


def test_json_lines_of_an_earlier_run_are_not_mixed_with(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for _ in range(2):  # an empty file is no earlier run
        JSONLinesTracker(path).close()
    with JSONLinesTracker(path) as tracker:
        tracker.log({"reward": 0.5}, 0)
        tracker.log_table("samples", ["a"], [[1]], 0)
    with pytest.raises(FileExistsError, match=r"metrics.jsonl holds .* append=True"):
        JSONLinesTracker(path)
    path.unlink()
    with JSONLinesTracker(path) as tracker, pytest.raises(FileExistsError, match=r"metrics\.samples\.jsonl holds"):
        tracker.log_table("samples", ["a"], [[1]], 0)
    assert lines_of(tmp_path / "metrics.samples.jsonl") == [{"step": 0, "a": 1}]


WHOLE = '{"step": 0, "reward": 0.5}\n'


@pytest.mark.parametrize(
    "content",
    [
        "",
        WHOLE,
        WHOLE + '{"step": 1, "rewa',
        WHOLE + '{"st',
        WHOLE + '{"step": 1, "reward": "' + "x" * 100_000,
        WHOLE.strip(),
        '{"step": 0, "re',
        "{",
    ],
)
def test_json_lines_go_on_after_a_run_that_was_killed(content: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    with JSONLinesTracker(path, append=True) as tracker:
        tracker.log({"reward": 0.7}, 1)
    earlier = [{"step": 0, "reward": 0.5}] if '"reward": 0.5' in content else []
    assert lines_of(path) == [*earlier, {"step": 1, "reward": 0.7}]


@pytest.mark.parametrize("content", ["step,reward\n0,0.5\n", "no newline", '{"reward": 0.5}\n'])
def test_json_lines_leave_other_files_alone(content: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="is not a file of a JSONLinesTracker"):
        JSONLinesTracker(path, append=True)
    assert path.read_text() == content


def test_tensorboard_shows_cells_as_they_are(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "html5lib's sanitizer is deprecated", DeprecationWarning)
        markdown_to_safe_html = import_module("tensorboard.plugin_util").markdown_to_safe_html
    markup = "# [a](b) ![c](d) **e** _f_ ~~g~~ &lt; <b>h</b> $i$ \\( \\. \\# | j\r\nk\rl \\| m"
    rows = [*ROWS, (markup, True, 3)]
    with TensorBoardTracker(tmp_path) as tracker:
        tracker.log({"rewards/format/mean": 0.25, "odd": math.nan}, 0)
        tracker.log({"rewards/format/mean": 0.5, "odd": -math.inf}, 10)
        tracker.log_table("completions", COLUMNS, rows, 10)
        tracker.log_table("completions", ["only"], [], 11)
    np.testing.assert_equal(
        scalars_of(tmp_path), {"rewards/format/mean": [(0, 0.25), (10, 0.5)], "odd": [(0, math.nan), (10, -math.inf)]}
    )
    full, empty = accumulator(tmp_path).Tensors("completions/text_summary")
    assert (full.step, empty.step) == (10, 11)
    html = markdown_to_safe_html(full.tensor_proto.string_val[0])
    cells = [unescape(re.sub(r"<br\s*/?>", "\n", cell)) for cell in re.findall(r"<td>(.*?)</td>", html, re.DOTALL)]
    shown = [text for row in rows for text in ("" if cell is None else str(cell) for cell in row)]
    shown = [text.replace("\r\n", "\n").replace("\r", "\n").removesuffix(".0") for text in shown]
    assert cells == shown
    assert re.findall(r"<th>(.*?)</th>", html) == list(COLUMNS)
    assert "<th>only</th>" in markdown_to_safe_html(empty.tensor_proto.string_val[0])


@pytest.mark.parametrize(
    ("metrics", "step", "error", "message"),
    [
        ({"loss": torch.tensor(1.0)}, 0, TypeError, r"metric 'loss' is tensor\(1.\), a Tensor, .* value.item\(\)"),
        ({"loss": "1.0"}, 0, TypeError, "metric 'loss' is '1.0', a str, expected a number"),
        ({"loss": None}, 0, TypeError, "metric 'loss' is None"),
        ({"loss": True}, 0, TypeError, "metric 'loss' is True, a bool"),
        ({"loss": 1j}, 0, TypeError, "metric 'loss' is 1j"),
        ({"rewards": {"mean": 1.0}}, 0, TypeError, "metric 'rewards' is {'mean': 1.0}, a dict"),
        ([("loss", 1.0)], 0, TypeError, "metrics is a list"),
        ({3: 1.0}, 0, TypeError, "metric name is 3"),
        ({"": 1.0}, 0, ValueError, "metric name is empty"),
        ({"step": 1.0}, 0, ValueError, "metric name is 'step'"),
        ({"loss": 1.0}, -1, ValueError, "step is -1"),
        ({"loss": 1.0}, 1.0, TypeError, "step is 1.0"),
        ({"loss": 1.0}, True, TypeError, "step is True"),
        ({"loss": 1.0}, None, TypeError, "step is None"),
    ],
)
def test_what_cannot_be_logged(
    tracker: Tracker, metrics: Any, step: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        tracker.log(metrics, step)
    assert all(path.read_text() == "" for path in tmp_path.glob("*.jsonl"))


@pytest.mark.parametrize(
    ("name", "columns", "rows", "error", "message"),
    [
        ("t", "ab", [(1, 2)], TypeError, "columns of table 't' is the text 'ab'"),
        ("t", [], [], ValueError, "at least one"),
        ("t", ["a", "a"], [], ValueError, "different names"),
        ("t", ["a", "step"], [], ValueError, "column name is 'step'"),
        ("t", ["a", 3], [], TypeError, "column name is 3"),
        ("t", ["a", "b"], [(1, 2), (1,)], ValueError, "row 1 of table 't' has 1 cells"),
        ("t", ["a", "b"], ["xy"], TypeError, "row 0 of table 't' is 'xy'"),
        ("t", ["a", "b"], [{"a": 1, "b": 2}], TypeError, "row 0 of table 't' is {"),
        ("t", ["a"], [[[1, 2]]], TypeError, r"column 'a' of row 0 of table 't' is a list, .* pass str\(cell\)"),
        ("t", ["a"], [[torch.tensor(1)]], TypeError, r"is a Tensor, .* cell.item\(\)"),
        ("", ["a"], [], ValueError, "table name is empty"),
        (None, ["a"], [], TypeError, "table name is None"),
    ],
)
def test_what_is_no_table(
    tracker: Tracker, name: Any, columns: Any, rows: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tracker.log_table(name, columns, rows, 0)
    with pytest.raises(ValueError, match="step is -1"):
        tracker.log_table("t", ["a"], [[1]], -1)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    with JSONLinesTracker(tmp_path / "metrics.jsonl") as tracker:
        tracker.log({"a": np.float32(0.5), "b": np.int64(2), "c": 3}, np.int64(1))  # type: ignore[arg-type, dict-item]
        tracker.log_table("t", ["a", "b"], [[np.float32(0.5), np.int64(2)]], 1)  # type: ignore[list-item]
    assert lines_of(tmp_path / "metrics.jsonl") == [{"step": 1, "a": 0.5, "b": 2, "c": 3}]
    assert lines_of(tmp_path / "metrics.t.jsonl") == [{"step": 1, "a": 0.5, "b": 2}]


def test_a_closed_tracker_says_so(tracker: Tracker) -> None:
    tracker.log({"loss": 1.0}, 0)
    tracker.close()
    tracker.close()
    with pytest.raises(ValueError, match=r"this \w+ is closed"):
        tracker.log({"loss": 1.0}, 1)
    with pytest.raises(ValueError, match=r"this \w+ is closed"):
        tracker.log_table("t", ["a"], [[1]], 1)
    with pytest.raises(ValueError, match=r"this \w+ is closed"):
        tracker.__enter__()


def test_a_failure_of_one_tracker_does_not_reach_the_others() -> None:
    journal: list[Any] = []
    trackers = Trackers([ListTracker("a", journal), ListTracker("b", journal, fails=True), ListTracker("c", journal)])
    with pytest.raises(OSError, match="b failed"):
        trackers.log({"loss": 1.0}, 0)
    with pytest.raises(OSError, match="b failed"):
        trackers.log_table("t", ["a"], [[1]], 0)
    with pytest.raises(OSError, match="b failed"):
        trackers.close()
    assert journal == [
        (name, *what) for what in [("log", {"loss": 1.0}, 0), ("table", "t", 0), ("close",)] for name in "abc"
    ]
    trackers.close()
    assert len(journal) == 9


def test_trackers_hear_what_ended_the_training() -> None:
    journal: list[Any] = []
    with (
        pytest.raises(OSError, match="b failed") as caught,
        Trackers([ListTracker("a", journal), ListTracker("b", journal, fails=True), ListTracker("c", journal)]),
    ):
        raise ZeroDivisionError
    assert isinstance(caught.value.__context__, ZeroDivisionError)
    assert journal == [(name, "exit", ZeroDivisionError) for name in "abc"]


@pytest.mark.parametrize("wrong", ["jsonl", JSONLinesTracker, None])
def test_trackers_are_trackers(wrong: Any) -> None:
    with pytest.raises(TypeError, match="expected Tracker objects"):
        Trackers([wrong])


def test_names_of_trackers(tmp_path: Path) -> None:
    known = "'jsonl', 'tensorboard', 'trackio', 'wandb'"
    assert known == ", ".join(map(repr, get_args(TrackerName)))
    with pytest.raises(ValueError, match=f"no tracker 'mlflow', expected one of {known}"):
        make_tracker("mlflow", tmp_path)
    with pytest.raises(ValueError, match="no tracker 'mlflow'"):
        make_trackers(["jsonl", "mlflow"], tmp_path)  # what was made before is closed, or pytest hears of an open file
    with pytest.raises(ValueError, match="at most once"):
        make_trackers(["jsonl", "jsonl"], tmp_path)
    with pytest.raises(TypeError, match=r"pass \['jsonl'\]"):
        make_trackers("jsonl", tmp_path)
    with make_trackers([], tmp_path / "nowhere") as trackers:
        trackers.log({"loss": 1.0}, 0)
    assert not (tmp_path / "nowhere").exists()


def test_settings_are_noted(tmp_path: Path) -> None:
    config = {"learning_rate": 0.1, "seed": 3, "device": torch.device("cpu"), "target_kl": None, "layers": [8, 8]}
    for append in (False, True):
        make_trackers(["jsonl", "tensorboard"], tmp_path, config=config, append=append).close()
    rows = {line["name"]: line["value"] for line in lines_of(tmp_path / "metrics.config.jsonl")}
    assert rows == {"learning_rate": 0.1, "seed": 3, "device": "cpu", "target_kl": None, "layers": "[8, 8]"}
    assert accumulator(tmp_path).Tags()["tensors"] == ["config/text_summary"]
    (tmp_path / "metrics.jsonl").unlink(missing_ok=True)
    with pytest.raises(FileExistsError, match=r"metrics\.config\.jsonl"):
        make_tracker("jsonl", tmp_path, config=config)


@pytest.mark.parametrize(
    ("make", "library", "extra"),
    [
        (lambda folder: TensorBoardTracker(folder), "tensorboard", "tensorboard"),
        (lambda folder: WandbTracker("p", folder=folder), "wandb", "wandb"),
        (lambda folder: TrackioTracker("p"), "trackio", "trackio"),
    ],
)
def test_a_missing_library_is_named(
    make: Callable[[Path], Tracker], library: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def fails(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == library or name == f"torch.utils.{library}":
            raise ModuleNotFoundError(f"No module named '{library}'", name=library)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fails)
    with pytest.raises(ModuleNotFoundError, match=re.escape(f"pip install 'anygrpo[{extra}]'")):
        make(tmp_path)
    assert list(tmp_path.iterdir()) == []


PREAMBLE = """
import json, math, sys

def hear(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect", "socket.bind", "socket.sendto"):
        address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        if not isinstance(address, (str, bytes)) or event == "socket.getaddrinfo":
            with open("network.txt", "a") as file:
                print(event, address, file=file)

sys.addaudithook(hear)
from grpo_adapters.tracking import TrackioTracker, WandbTracker, make_tracker, make_trackers
columns, rows = ["prompt", "reward"], [["a|b", 1.0], [None, math.inf], ["c", "?"]]
"""


def run_alone(script: str, folder: Path, **variables: str) -> str:
    """Run in a process of its own, which may write into the folder only, and must not reach for the network."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # for parts that are not written in Python

        def listen() -> None:
            while True:
                try:
                    connection, _ = proxy.accept()
                except OSError:
                    return
                with connection:
                    received.append(connection.recv(1000))

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        homes = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "TRACKIO", "HF_"))}
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", PREAMBLE + script],
            cwd=folder,
            env={
                **kept,
                **dict.fromkeys(homes, str(folder)),
                **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        proxy.shutdown(socket.SHUT_RDWR)
    listener.join(10)
    assert result.returncode == 0, result.stderr
    assert not received, received
    network = folder / "network.txt"
    assert not network.exists(), network.read_text()
    return result.stdout


def test_trackio_keeps_a_run_in_its_folder(tmp_path: Path) -> None:
    script = """
with TrackioTracker("project", "first", {"learning_rate": 0.1}) as first:
    with make_tracker("trackio", "unused", project="project", run_name="second") as second:
        second.log({"reward": 3.0}, 0)
        first.log({"rewards/format/mean": 0.5, "odd": math.nan}, 0)
    first.log({"rewards/format/mean": 0.75}, 7)
    first.log_table("samples", columns, rows, 7)
    for name in ("time", "step"):
        try:
            first.log({name: 1.0}, 8)
        except ValueError:
            pass
        else:
            raise AssertionError(name)

import threading
assert threading.enumerate() == [threading.main_thread()]

import trackio
from trackio.sqlite_storage import SQLiteStorage
runs = {run.name: run for run in trackio.Api().runs("project")}
logs = {name: SQLiteStorage.get_logs("project", name) for name in runs}
print("RESULT", json.dumps([runs["first"].config["learning_rate"], logs]))
"""
    output = run_alone(script, tmp_path, TRACKIO_DIR=str(tmp_path / "store"))
    learning_rate, logs = json.loads(output.split("RESULT ")[1].splitlines()[0])
    assert learning_rate == 0.1
    plain = {name: [{k: v for k, v in log.items() if k != "timestamp"} for log in own] for name, own in logs.items()}
    table = [{"prompt": "a|b", "reward": 1.0}, {"prompt": None, "reward": "Infinity"}, {"prompt": "c", "reward": "?"}]
    assert math.isnan(plain["first"][0].pop("odd"))
    assert plain == {
        "first": [
            {"step": 0, "rewards/format/mean": 0.5},
            {"step": 7, "rewards/format/mean": 0.75},
            {"step": 7, "samples": {"_type": "trackio.table", "_value": table}},
        ],
        "second": [{"step": 0, "reward": 3.0}],
    }
    assert (tmp_path / "store" / "project.db").exists()
    assert not (tmp_path / "unused").exists()


def records_of(path: Path) -> list[bytes]:
    """The records of an offline run: a log in blocks of 32 KiB, each piece with checksum, length and kind before it."""
    content, position, records, begun = path.read_bytes(), 7, [], b""
    assert content[:4] == b":W&B"
    while position < len(content):
        if 2**15 - position % 2**15 < 7:
            position += 2**15 - position % 2**15
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        begun += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            records.append(begun)
            begun = b""
    return records


def test_wandb_keeps_a_run_in_its_folder(tmp_path: Path) -> None:
    script = """
first = WandbTracker("project", "first", {"learning_rate": 0.1}, mode="offline", folder="runs/a")
second = make_tracker("wandb", "runs/b", project="project", run_name="second")
second.log({"reward": 3.0}, 0)
first.log({"rewards/format/mean": 0.5, "odd": math.nan}, 0)
first.log_table("samples", columns, rows, 0)
second.close()
first.log({"rewards/format/mean": 0.75}, 7)
for metrics, step in (({"reward": 1.0}, 6), ({"_step": 1.0}, 8)):
    try:
        first.log(metrics, step)
    except ValueError as error:
        print("RESULT", error)
try:
    with first:
        raise KeyError
except KeyError:
    pass
"""
    output = run_alone(script, tmp_path)
    earlier, reserved = (line.removeprefix("RESULT ") for line in output.splitlines() if line.startswith("RESULT"))
    assert earlier.startswith("step is 6 after 7, but Weights & Biases drops")
    assert reserved.startswith("metric name is '_step'")
    [path] = (tmp_path / "runs" / "a").rglob("*.wandb")
    assert len(list((tmp_path / "runs" / "b").rglob("*.wandb"))) == 1

    messages = import_module("wandb.proto.wandb_internal_pb2")
    records = [messages.Record.FromString(record) for record in records_of(path)]
    run = next(record.run for record in records if record.HasField("run"))
    assert (run.project, run.display_name) == ("project", "first")
    assert {item.key: json.loads(item.value_json) for item in run.config.update}["learning_rate"] == 0.1
    history = [
        {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [float(row["rewards/format/mean"]) for row in history] == [0.5, 0.75]
    assert [int(row["_step"]) for row in history] == [0, 7]
    assert math.isnan(float(json.loads(history[0]["odd"])))
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [1]
    [table] = (tmp_path / "runs" / "a").rglob("*.table.json")
    assert json.loads(table.read_text()) == {
        "columns": ["prompt", "reward"],
        "data": [["a|b", 1.0], [None, math.inf], ["c", "?"]],
    }
