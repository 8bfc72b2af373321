"""Runs that are used wrongly: nothing is lost, hidden or written twice, and the message says what to do."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo import (
    BestWeights,
    Callback,
    CallbackError,
    CheckpointError,
    Checkpoints,
    EarlyStopping,
    Evaluate,
    GRPOConfig,
    GRPOTrainer,
    PolicyEvaluation,
    Run,
    SampleLog,
    StateLoader,
    Until,
    load_best_weights,
)
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit

MEANS = [0.1, 0.2, 0.9]


def make_run(folder: Path | None = None, states: Any = None, learning_rate: float = 0.1, **arguments: Any) -> Run:
    config = GRPOConfig(group_size=4, learning_rate=learning_rate)
    trainer = GRPOTrainer(config, SoftmaxPolicy(3), StationaryBandit(MEANS, seed=1))
    return Run(trainer, ["state"] if states is None else states, folder=folder, **arguments)


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def any_value(value: Any) -> Any:
    return value


class Does(Callback):
    """What a function does after each step."""

    def __init__(self, function: Callable[[Run, Any], object]) -> None:
        self.function = function

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        self.function(run, metrics)


def test_a_run_that_is_called_again_keeps_its_samples(tmp_path: Path) -> None:
    run = make_run(tmp_path, callbacks=[SampleLog(1, 1)])
    run(Until(steps=3))
    run(Until(steps=5))
    assert steps_in(tmp_path / "samples.jsonl") == [1, 2, 3, 4, 5]


def test_a_sample_log_that_serves_two_runs_writes_into_the_folder_of_each(tmp_path: Path) -> None:
    log = SampleLog(1, 1)
    for name in ("a", "b"):
        make_run(tmp_path / name, callbacks=[log])(Until(steps=2))
    assert steps_in(tmp_path / "a" / "samples.jsonl") == steps_in(tmp_path / "b" / "samples.jsonl") == [1, 2]


def test_a_callback_that_removes_itself_or_changes_metrics_hides_nothing_from_the_next() -> None:
    seen = []

    def once(run: Run, metrics: dict[str, float]) -> None:
        metrics["reward"] = 99.0
        run.callbacks.pop(0)

    run = make_run(callbacks=[Does(once), Does(lambda run, metrics: seen.append((run.num_steps, metrics["reward"])))])
    run(Until(steps=2))
    assert [step for step, _ in seen] == [1, 2]
    assert all(reward <= 1 for _, reward in seen)


@pytest.mark.parametrize("call", [lambda run, _: run(Until(steps=9)), lambda run, _: run.resume()])
def test_a_run_is_not_called_from_its_own_callbacks(call: Callable[[Run, Any], object], tmp_path: Path) -> None:
    run = make_run(tmp_path, callbacks=[Does(call)])
    with pytest.raises(CallbackError, match="goes on already"):
        run(Until(steps=3))
    assert run.num_steps == 1
    run.callbacks.clear()
    run(Until(steps=3))
    assert steps_in(tmp_path / "metrics.jsonl") == [1, 2, 3]


def test_two_runs_do_not_write_into_one_folder_at_the_same_time(tmp_path: Path) -> None:
    refused = []

    def another(run: Run, _: Any) -> None:
        with pytest.raises(FileExistsError, match=r"another run writes into .* now: wait until it is over"):
            make_run(tmp_path, checkpoints=Checkpoints(every=1)).resume()
        refused.append(run.num_steps)

    make_run(tmp_path, checkpoints=Checkpoints(every=1), callbacks=[Does(another)])(Until(steps=2))
    assert refused == [1, 2]
    resumed = make_run(tmp_path, checkpoints=Checkpoints(every=1))
    assert resumed.resume()
    resumed(Until(steps=3))
    assert steps_in(tmp_path / "metrics.jsonl") == [1, 2, 3]


def test_settings_that_were_changed_on_purpose_are_those_of_the_folder_from_then_on(tmp_path: Path) -> None:
    make_run(tmp_path, checkpoints=Checkpoints(every=1))(Until(steps=2))
    changed = make_run(tmp_path, learning_rate=0.5, checkpoints=Checkpoints(every=1))
    with pytest.warns(UserWarning, match="learning_rate"):
        changed.resume(override=True)
    changed(Until(steps=2))  # no step is left
    assert make_run(tmp_path, learning_rate=0.5, checkpoints=Checkpoints(every=1)).resume()


def test_two_evaluations_of_one_name_are_told() -> None:
    def score(value: float) -> Callable[[Any], dict[str, float]]:
        return lambda policy: {"score": value}

    with pytest.raises(CallbackError, match="two Evaluate callbacks tell 'evaluation/score'"):
        make_run(callbacks=[Evaluate(score(1.0), 1), Evaluate(score(2.0), 1)])(Until(steps=1))
    run = make_run(callbacks=[Evaluate(score(1.0), 1), Evaluate(score(2.0), 1, name="other")])
    run(Until(steps=1))
    assert run.evaluation == {"evaluation/score": 1.0, "other/score": 2.0}


@pytest.mark.parametrize("make", [BestWeights, lambda name: EarlyStopping(name, patience=3)])
def test_a_metric_that_never_comes_is_told(make: Callable[[str], Callback], tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", callbacks=[make("rewrad")])
    with pytest.warns(UserWarning, match=r"has seen no number called 'rewrad', and has done nothing: .* reward"):
        run(Until(steps=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_run(tmp_path / "b", callbacks=[make("reward")])(Until(steps=1))


def test_a_slip_in_the_name_of_a_metric_is_told_before_the_run_is_over(tmp_path: Path) -> None:
    told_before_step_2: list[str] = []
    evaluates = Evaluate(lambda policy: {"score": 1.0}, 2)
    run = make_run(tmp_path, callbacks=[BestWeights("rewrad"), evaluates, EarlyStopping("evaluation/scores", bar=2.0)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(Until(steps=1))
        told_before_step_2 += [str(warning.message) for warning in caught]
        run(Until(steps=4))
    assert len(told_before_step_2) == len(caught) == 2
    assert "'evaluation/scores', and has done nothing: expected one of evaluation/score" in told_before_step_2[0]
    assert "'rewrad', and has done nothing: expected one of reward" in told_before_step_2[1]


def test_two_that_would_write_over_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CallbackError, match="two BestWeights, of 'reward' and 'evaluation/score', would write over"):
        make_run(tmp_path / "a", callbacks=[BestWeights("reward"), BestWeights("evaluation/score")])(Until(steps=1))
    with pytest.raises(CallbackError, match="two SampleLogs of a run would write into one file"):
        make_run(tmp_path / "b", callbacks=[SampleLog(1), SampleLog(2)])(Until(steps=1))


def test_a_callback_with_half_a_state_is_refused() -> None:
    class Half(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {}

    with pytest.raises(TypeError, match="callback Half has state_dict, but no load_state_dict"):
        make_run(callbacks=[Half()])


def test_best_weights_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no .*best: choose the folder of a run that had BestWeights"):
        load_best_weights(SoftmaxPolicy(3), tmp_path)


def bandit_evaluation(**settings: Any) -> PolicyEvaluation:
    return PolicyEvaluation(["state"], StationaryBandit(MEANS), group_size=4, **settings)


def ending() -> Callable[[int], Any]:
    batches = iter([["state"]])
    return lambda step: next(batches)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: make_run().stop(any_value(None)), TypeError, "reason is None, expected a text"),
        (lambda: make_run(states=ending())(Until(steps=5)), ValueError, r"end after 1 steps: .*Until\(steps=1\)"),
        (lambda: StateLoader([1, 2], 1).draw(0), ValueError, "count is 0, expected an integer of at least 1"),
        (lambda: StateLoader(iter([1]), 1, shuffle=False).epoch, TypeError, "without a length"),
        (lambda: bandit_evaluation(pass_at=2), TypeError, r"pass_at is 2, expected a sequence of integers: pass \(2,"),
        (lambda: bandit_evaluation(pass_at=(1.5,)), ValueError, r"pass_at holds \[1.5\].*integers"),
        (
            lambda: bandit_evaluation(pass_at=(1,), is_success=lambda rewards: 5 * rewards)(SoftmaxPolicy(3)),
            TypeError,
            r"is_success returned .* expected a bool tensor of shape \[4\]",
        ),
        (
            lambda: make_run(callbacks=[Evaluate(lambda policy: {"score": any_value(torch.tensor(1.0))}, 1)])(
                Until(steps=1)
            ),
            CallbackError,
            r"returned tensor\(1.\) as 'score', a Tensor, expected a float: call float\(...\)",
        ),
        (lambda: BestWeights(any_value(None)), TypeError, "metric is None, expected the name"),
        (lambda: EarlyStopping("reward", bar=float("nan")), ValueError, "bar is nan, expected a number"),
        (lambda: EarlyStopping("reward", bar=any_value("5")), ValueError, "bar is '5', expected a number"),
        (lambda: EarlyStopping("reward", patience=any_value(1.5)), ValueError, "patience is 1.5, expected an integer"),
        (lambda: SampleLog(any_value(1.5)), ValueError, "every is 1.5, expected an integer"),
        (lambda: SampleLog(1, 0), ValueError, "count is 0, expected an integer"),
    ],
)
def test_bad_input_is_named(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
