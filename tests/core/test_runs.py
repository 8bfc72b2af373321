"""Runs: how long they go on, what is told, where states come from, and how they are interrupted and resumed."""

from __future__ import annotations

import importlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo import (
    AdaptiveKLCoefficient,
    BestWeights,
    Callback,
    CallbackError,
    CheckpointError,
    Checkpoints,
    ClippedSurrogate,
    EarlyStopping,
    Evaluate,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    KLPenaltySurrogate,
    LinearSchedule,
    PolicyEvaluation,
    ReinforceConfig,
    ReinforceTrainer,
    Run,
    RunInterrupted,
    SampleLog,
    StateLoader,
    Track,
    Trainer,
    TrainerConfig,
    Until,
    WatchForTrouble,
    group_centered_advantages,
    leave_one_out_advantages,
    load_best_weights,
    pass_at_k,
)
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit

MEANS = [0.1, 0.2, 0.9]


def make_trainer(**settings: Any) -> GRPOTrainer[Any, Any]:
    generator = torch.Generator().manual_seed(3)
    config = GRPOConfig(**{"group_size": 4, "learning_rate": 0.1, **settings})
    return GRPOTrainer(config, SoftmaxPolicy(3, generator), StationaryBandit(MEANS, seed=1))


def make_run(folder: Path | None = None, states: Any = None, **arguments: Any) -> Run:
    return Run(make_trainer(), ["state"] if states is None else states, folder=folder, **arguments)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Notes(Callback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def start(self, run: Run) -> None:
        self.events.append(("start", run.num_steps))

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        assert metrics == run.metrics
        self.events.append(("step", run.num_steps))

    def after_evaluation(self, run: Run, metrics: Mapping[str, float]) -> None:
        self.events.append(("evaluation", run.num_steps))

    def end(self, run: Run) -> None:
        self.events.append(("end", run.num_steps))

    def on_error(self, run: Run, error: BaseException) -> None:
        self.events.append((type(error).__name__, run.num_steps))


def any_value(value: Any) -> Any:
    return value


def evaluation() -> PolicyEvaluation:
    return PolicyEvaluation(["state"], StationaryBandit(MEANS, seed=1), group_size=4, pass_at=(1, 4))


@pytest.mark.parametrize(
    ("until", "steps", "reason"),
    [
        (Until(steps=3), 3, "steps=3"),
        (Until(samples=9), 3, "samples=9"),
        (Until(decisions=8), 2, "decisions=8"),
        (Until(seconds=1e-9), 1, "seconds=1e-09"),
        (Until(steps=9, condition=lambda metrics: metrics["num_samples"] == 4), 1, "condition"),
    ],
)
def test_a_run_ends_where_it_is_to(until: Until, steps: int, reason: str) -> None:
    run = make_run()
    run(until)
    assert run.num_steps == steps
    assert run.stopped_by == reason


def test_a_run_goes_on_when_it_is_called_again_and_does_what_a_loop_does() -> None:
    run, trainer = make_run(), make_trainer()
    torch.manual_seed(0)
    run(Until(steps=2))
    run(Until(steps=5))
    torch.manual_seed(0)
    metrics = [trainer.step(["state"]) for _ in range(5)]
    assert run.metrics == metrics[-1]
    assert run.num_samples == run.num_decisions == 20


def test_callbacks_are_told_in_order() -> None:
    notes = Notes()
    make_run(callbacks=[Evaluate(lambda policy: {"one": 1.0}, every=2), notes])(Until(steps=2))
    assert notes.events == [("evaluation", 0), ("start", 0), ("step", 1), ("evaluation", 2), ("step", 2), ("end", 2)]


def test_states_are_a_batch_a_function_of_the_step_or_a_source() -> None:
    seen: list[Any] = []

    class Sees(StationaryBandit):
        def compute_rewards(self, states: Any, actions: Any) -> Any:
            seen.append(states[0])
            return super().compute_rewards(states, actions)

    for states in (["same"], lambda step: [step], StateLoader(["a", "b"], 1, shuffle=False)):
        trainer = GRPOTrainer(GRPOConfig(group_size=2), SoftmaxPolicy(3), Sees(MEANS))
        Run(trainer, states)(Until(steps=2))
    assert seen == ["same", "same", 0, 1, "a", "b"]


def test_the_folder_tells_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", callbacks=[Evaluate(evaluation(), every=2), SampleLog(every=2, count=3)])
    run(Until(steps=3))
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3]
    assert metrics[-1]["reward"] == run.metrics["reward"]
    assert [line["step"] for line in lines(tmp_path / "run" / "evaluations.jsonl")] == [0, 2]
    times = lines(tmp_path / "run" / "times.jsonl")[-1]
    assert {"sampling", "scoring", "evaluating", "updating"} <= times.keys()
    assert times["sampling"] > 0
    samples = lines(tmp_path / "run" / "samples.jsonl")
    assert [sample["state"] for sample in samples] == ["state"] * 3
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["trainer"] == "GRPOTrainer"
    assert described["config"]["group_size"] == 4


@pytest.mark.parametrize(
    ("count", "states", "groups"),
    [(2, "ab", [0, 1]), (3, "abc", [0, 1, 2]), (5, "aabbc", [0, 0, 1, 1, 2]), (99, "aaaabbbbcccc", None)],
)
def test_samples_to_look_at_are_of_as_many_states_as_can_be(
    count: int, states: str, groups: list[int] | None, tmp_path: Path
) -> None:
    make_run(tmp_path, ["a", "b", "c"], callbacks=[SampleLog(every=1, count=count)])(Until(steps=1))
    samples = lines(tmp_path / "samples.jsonl")
    assert "".join(sample["state"] for sample in samples) == states
    assert groups is None or [sample["group"] for sample in samples] == groups


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path: Path) -> None:
    make_run(tmp_path)(Until(steps=1))
    with pytest.raises(FileExistsError, match=r"holds a run already: choose another folder"):
        make_run(tmp_path)(Until(steps=1))
    assert len(lines(tmp_path / "metrics.jsonl")) == 1


class Tracker:
    """Keeps what is logged, and tells it as its state."""

    def __init__(self) -> None:
        self.logged: list[Any] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.logged.append((step, {name: value for name, value in metrics.items() if not name.startswith("time/")}))

    def state_dict(self) -> dict[str, Any]:
        return {"logged": [[step, metrics] for step, metrics in self.logged]}

    def load_state_dict(self, state_dict: Any) -> None:
        self.logged = [(step, metrics) for step, metrics in state_dict["logged"]]


def full_run(folder: Path, tracker: Tracker) -> Run:
    trainer = make_trainer(learning_rate=LinearSchedule(start=0.1, end=0.0, num_steps=20), num_epochs_per_update=2)
    callbacks: list[Callback] = [
        Evaluate(evaluation(), every=3),
        BestWeights("evaluation/reward"),
        EarlyStopping("evaluation/reward", patience=50),
        SampleLog(every=2),
        Track(tracker),
    ]
    states = StateLoader(list("abcde"), batch_size=2, seed=4)
    return Run(trainer, states, folder=folder, checkpoints=Checkpoints(every=4), callbacks=callbacks)


def test_a_resumed_run_is_bitwise_the_one_that_was_not_stopped(tmp_path: Path) -> None:
    whole_tracker, tracker = Tracker(), Tracker()
    torch.manual_seed(0)
    whole = full_run(tmp_path / "whole", whole_tracker)
    whole(Until(steps=20))
    torch.manual_seed(0)
    full_run(tmp_path / "cut", Tracker())(Until(steps=10))
    for path in (tmp_path / "cut" / "checkpoints").glob("step-*10"):
        (path / "state.pt").unlink()
    torch.manual_seed(99)
    resumed = full_run(tmp_path / "cut", tracker)
    with pytest.warns(UserWarning, match=r"step-000000010 is not whole: state.pt cannot be read"):
        assert resumed.resume()
    assert resumed.num_steps == 8
    resumed(Until(steps=20))
    for name in ("metrics", "evaluations", "samples"):
        paths = [tmp_path / folder / f"{name}.jsonl" for folder in ("whole", "cut")]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    assert tracker.logged == whole_tracker.logged
    assert torch.equal(whole.trainer.policy.probabilities(), resumed.trainer.policy.probabilities())
    notes = [load_best_weights(SoftmaxPolicy(3, torch.Generator()), tmp_path / name) for name in ("whole", "cut")]
    assert notes[0] == notes[1]


def test_evaluations_change_nothing_of_the_training() -> None:
    runs = []
    for callbacks in ([], [Evaluate(evaluation(), every=1)]):
        torch.manual_seed(0)
        run = make_run(callbacks=callbacks)
        run(Until(steps=4))
        runs.append(run)
    assert runs[0].metrics == runs[1].metrics


def test_best_weights_are_those_of_the_best_step(tmp_path: Path) -> None:
    values = iter([0.0, 2.0, float("nan"), 1.0])
    kept: list[Any] = []

    class Keeps(Callback):
        def after_evaluation(self, run: Run, metrics: Mapping[str, float]) -> None:
            kept.append(run.trainer.policy.probabilities())

    evaluate = Evaluate(lambda policy: {"value": next(values)}, every=1)
    make_run(tmp_path, callbacks=[evaluate, BestWeights("evaluation/value"), Keeps()])(Until(steps=3))
    policy = SoftmaxPolicy(3, torch.Generator())
    assert load_best_weights(policy, tmp_path) == {"step": 1, "metric": "evaluation/value", "value": 2.0}
    assert torch.equal(policy.probabilities(), kept[1])


def test_early_stopping_by_bar_and_by_patience() -> None:
    values = [0.0, 1.0, 0.5, 1.0, 3.0]
    for stopping, steps in (
        (EarlyStopping("evaluation/value", patience=2), 3),
        (EarlyStopping("evaluation/value", bar=2.5), 4),
        (EarlyStopping("evaluation/value", bar=0.0, best_is="lowest"), 0),
    ):
        given = iter(values)
        run = make_run(callbacks=[Evaluate(lambda policy, given=given: {"value": next(given)}, every=1), stopping])  # type: ignore[misc]
        run(Until(steps=4))
        assert run.num_steps == steps
        assert run.stopped_by is not None
        assert "evaluation/value" in run.stopped_by


def test_a_callback_forgets_what_it_saw_of_another_run(tmp_path: Path) -> None:
    values = iter([5.0, 1.0, 2.0])
    stopping, best = EarlyStopping("evaluation/value", bar=4.0), BestWeights("evaluation/value")
    callbacks = [Evaluate(lambda policy: {"value": next(values)}, every=1), stopping, best]
    make_run(tmp_path / "one", callbacks=callbacks)(Until(steps=1))
    other = make_run(tmp_path / "other", callbacks=callbacks)
    other(Until(steps=1))
    assert (other.num_steps, stopping.best, best.best) == (1, 2.0, 2.0)
    assert load_best_weights(SoftmaxPolicy(3, torch.Generator()), tmp_path / "other")["step"] == 1


def test_a_signal_ends_the_run_after_it_was_saved(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Kills(Callback):
        def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
            if run.num_steps == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    notes = Notes()
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    run = make_run(tmp_path, checkpoints=Checkpoints(every=100), callbacks=[Kills(), notes])
    with pytest.raises(RunInterrupted) as interrupted:
        run(Until(steps=10))
    assert interrupted.value.code == RunInterrupted.EXIT_CODE == 75
    assert interrupted.value.signal_name == run.stopped_by == "SIGTERM"
    told = capfd.readouterr().err
    assert told == "SIGTERM: the run ends when the step under way is over; another signal ends it at once\n"
    assert notes.events[-1] == ("end", 3)
    assert {name: signal.getsignal(name) for name in before} == before
    again = make_run(tmp_path, checkpoints=Checkpoints(every=100))
    assert again.resume()
    assert again.num_steps == 3


def test_a_signal_that_nobody_can_be_told_of_ends_the_run_saved_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Ctrl-C also ends the program that the output goes to."""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("grpo.runs.signals.STANDARD_ERROR", writer)

    class Interrupts(Callback):
        def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
            if run.num_steps == 3:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(RunInterrupted):
        make_run(tmp_path, checkpoints=Checkpoints(every=100), callbacks=[Interrupts()])(Until(steps=10))
    os.close(writer)
    again = make_run(tmp_path, checkpoints=Checkpoints(every=100))
    assert again.resume()
    assert again.num_steps == 3


def test_a_second_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    class Interrupts(Callback):
        def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
            if run.num_steps == 3:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    run = make_run(tmp_path, checkpoints=Checkpoints(every=2), callbacks=[Interrupts()])
    with pytest.raises(KeyboardInterrupt):
        run(Until(steps=10))
    again = make_run(tmp_path, checkpoints=Checkpoints(every=2))
    assert again.resume()
    assert again.num_steps == 2


@pytest.mark.parametrize("event", ["start", "after_step", "after_evaluation", "end"])
def test_a_callback_that_raises_is_named_and_the_run_is_saved_first(tmp_path: Path, event: str) -> None:
    def fails(*_: Any) -> None:
        raise KeyError("mine")

    failing, notes = Notes(), Notes()
    setattr(failing, event, fails)
    evaluate = Evaluate(lambda policy: {"value": 1.0}, every=2, at_start=False)
    run = make_run(tmp_path, checkpoints=Checkpoints(every=100), callbacks=[evaluate, failing, notes])
    with pytest.raises(CallbackError, match=rf"Notes\.{event} raised KeyError after step \d: 'mine'") as raised:
        run(Until(steps=3))
    assert isinstance(raised.value.__cause__, KeyError)
    assert notes.events[-1][0] == "CallbackError"
    again = make_run(tmp_path, checkpoints=Checkpoints(every=100))
    assert again.resume()
    assert again.num_steps == {"start": 0, "after_step": 1, "after_evaluation": 2, "end": 3}[event]


def test_a_condition_that_raises_is_named_and_the_run_is_saved_first(tmp_path: Path) -> None:
    run = make_run(tmp_path, checkpoints=Checkpoints(every=100))
    with pytest.raises(CallbackError, match=r"Until\.condition raised KeyError after step 1: 'typo'"):
        run(Until(condition=lambda metrics: metrics["typo"] > 0))
    again = make_run(tmp_path, checkpoints=Checkpoints(every=100))
    assert again.resume()
    assert again.num_steps == 1


def test_a_step_that_fails_is_told_and_the_last_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    class Fails(StationaryBandit):
        calls = 0

        def compute_rewards(self, states: Any, actions: Any) -> Any:
            self.calls += 1
            return super().compute_rewards(states, actions) / (0.0 if self.calls == 4 else 1.0) * 0.0

    notes = Notes()
    trainer = GRPOTrainer(GRPOConfig(group_size=2), SoftmaxPolicy(3), Fails(MEANS))
    run = Run(trainer, ["state"], folder=tmp_path, checkpoints=Checkpoints(every=2), callbacks=[notes])
    with pytest.raises(ValueError, match="compute_rewards"):
        run(Until(steps=9))
    assert notes.events[-1] == ("NonFiniteError", 3)
    again = Run(
        GRPOTrainer(GRPOConfig(group_size=2), SoftmaxPolicy(3), Fails(MEANS)),
        ["state"],
        folder=tmp_path,
        checkpoints=Checkpoints(every=2),
    )
    assert again.resume()
    assert again.num_steps == 2


def test_changed_settings_are_named_and_can_be_changed_on_purpose(tmp_path: Path) -> None:
    Run(make_trainer(), ["state"], folder=tmp_path, checkpoints=Checkpoints(every=2))(Until(steps=2))
    changed = Run(
        make_trainer(learning_rate=0.5, group_size=2), ["state"], folder=tmp_path, checkpoints=Checkpoints(every=2)
    )
    with pytest.raises(CheckpointError, match=r"group_size \(4 before, 2 now\); learning_rate \(0.1 before, 0.5 now\)"):
        changed.resume()
    with pytest.warns(UserWarning, match=r"goes on with other settings: group_size"):
        assert changed.resume(override=True)
    changed(Until(steps=3))
    assert changed.metrics["learning_rate"] == 0.5
    assert changed.num_samples == 2 * 4 + 2


def test_another_setting_changed_on_purpose_leaves_the_rate_of_an_optimizer_of_ones_own(tmp_path: Path) -> None:
    def run(**settings: Any) -> Run:
        policy = SoftmaxPolicy(3)
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
        trainer = GRPOTrainer(GRPOConfig(**settings), policy, StationaryBandit(MEANS), optimizer=optimizer)
        return Run(trainer, ["state"], folder=tmp_path, checkpoints=Checkpoints(every=2))

    run()(Until(steps=2))
    changed = run(micro_batch_size=2)
    with pytest.warns(UserWarning, match="goes on with other settings: micro_batch_size"):
        assert changed.resume(override=True)
    assert changed.trainer.optimizer.param_groups[0]["lr"] == 0.5


class OtherBandit(StationaryBandit):
    """Rewards of another class."""


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"objective": GRPOObjective(surrogate=ClippedSurrogate(clip_low=0.1))}, "objective.surrogate.clip_low"),
        ({"advantage_estimator": GroupRelative(leave_one_out_advantages)}, "advantage_estimator.function"),
        ({"reward_model": OtherBandit(MEANS)}, "reward_model .'StationaryBandit' before, 'OtherBandit' now"),
    ],
)
def test_a_run_does_not_go_on_unnoticed_with_other_parts(parts: dict[str, Any], message: str, tmp_path: Path) -> None:
    def run(**others: Any) -> Run:
        given: dict[str, Any] = {
            "objective": GRPOObjective(),
            "advantage_estimator": GroupRelative(group_centered_advantages),
        }
        given |= {"reward_model": StationaryBandit(MEANS), **others}
        trainer = Trainer(TrainerConfig(), SoftmaxPolicy(3), **given)
        return Run(trainer, ["state"], folder=tmp_path, checkpoints=Checkpoints(every=2))

    run()(Until(steps=2))
    assert run().resume()
    with pytest.raises(CheckpointError, match=f"set up otherwise: {message}"):
        run(**parts).resume()
    with pytest.warns(UserWarning, match=f"goes on with other settings: {message}"):
        run(**parts).resume(override=True)


def test_what_adapts_in_the_course_of_a_run_is_no_other_setting(tmp_path: Path) -> None:
    def run(target: float = 1e-6) -> Run:
        surrogate = KLPenaltySurrogate(coefficient=AdaptiveKLCoefficient(target=target))
        config = TrainerConfig(group_size=4, learning_rate=0.5, num_epochs_per_update=4)
        trainer = Trainer(
            config,
            SoftmaxPolicy(3),
            StationaryBandit(MEANS),
            advantage_estimator=GroupRelative(),
            objective=GRPOObjective(surrogate=surrogate),
        )
        return Run(trainer, ["state"], folder=tmp_path, checkpoints=Checkpoints(every=2))

    first = run()
    first(Until(steps=4))
    assert first.metrics["kl_penalty_coefficient"] > 1
    assert run().resume()
    with pytest.raises(CheckpointError, match=r"set up otherwise: objective\.surrogate\.coefficient\.target .'1e-06'"):
        run(0.1).resume()


def test_another_trainer_and_other_callbacks_are_refused_with_nothing_changed(tmp_path: Path) -> None:
    make_run(tmp_path, StateLoader([1, 2, 3], 2), checkpoints=Checkpoints(every=2))(Until(steps=3))
    reinforce = ReinforceTrainer(ReinforceConfig(), SoftmaxPolicy(3), StationaryBandit(MEANS))
    with pytest.raises(CheckpointError, match="holds a run of GRPOTrainer, expected one of ReinforceTrainer"):
        Run(reinforce, ["state"], folder=tmp_path).resume()
    for states, callbacks, message in (
        (["state"], [], "holds the states of .'states'., expected"),
        (StateLoader([1, 2, 3, 4], 2), [], "num_rows=3, expected 4"),
        (StateLoader([1, 2, 3], 2), [EarlyStopping("reward", bar=2)], "EarlyStopping"),
    ):
        run = make_run(tmp_path, states, checkpoints=Checkpoints(every=2), callbacks=callbacks)
        before = run.trainer.policy.probabilities()
        with pytest.raises(CheckpointError, match=message):
            run.resume()
        assert run.num_steps == run.trainer.num_steps == 0
        assert torch.equal(run.trainer.policy.probabilities(), before)
    assert len(lines(tmp_path / "metrics.jsonl")) == 3


def test_callbacks_can_be_changed_on_purpose(tmp_path: Path) -> None:
    def run(*callbacks: Callback) -> Run:
        return make_run(tmp_path, checkpoints=Checkpoints(every=2), callbacks=callbacks)

    run(Notes(), EarlyStopping("reward", patience=7), SampleLog(1))(Until(steps=3))
    stopping, best = EarlyStopping("reward", patience=7), BestWeights("reward")
    changed = run(stopping, best)
    with pytest.raises(CheckpointError, match="the same callbacks"):
        changed.resume()
    with pytest.warns(UserWarning, match="other settings: BestWeights begins anew; SampleLog is left out"):
        assert changed.resume(override=True)
    assert stopping.best is not None
    assert best.best is None


def test_a_run_whose_checkpoints_are_gone_is_told_of(tmp_path: Path) -> None:
    make_run(tmp_path)(Until(steps=2))
    with pytest.raises(CheckpointError, match="no checkpoint that is whole"):
        make_run(tmp_path, checkpoints=Checkpoints(every=2)).resume()
    assert len(lines(tmp_path / "metrics.jsonl")) == 2


def test_a_file_that_is_no_runs_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("mine")
    run = make_run(tmp_path, checkpoints=Checkpoints(every=2))
    with pytest.raises(CheckpointError, match="no checkpoint that is whole"):
        run.resume()
    with pytest.raises(FileExistsError, match="holds a run already"):
        run(Until(steps=1))
    assert (tmp_path / "metrics.jsonl").read_text() == "mine"


def test_a_file_that_a_tracker_is_about_to_write_is_not_shared_with_it(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(FileExistsError, match=r"metrics.jsonl is there already.*for the tracker, such as .*tracking"):
        make_run(tmp_path)(Until(steps=1))


def test_a_run_killed_before_its_first_step_evaluates_once(tmp_path: Path) -> None:
    def run_of() -> Run:
        return make_run(tmp_path, checkpoints=Checkpoints(every=5), callbacks=[Evaluate(evaluation(), every=5)])

    run_of()(Until(steps=2))
    for path in (tmp_path / "checkpoints").glob("step-*2"):
        (path / "state.pt").unlink()
    again = run_of()
    with pytest.warns(UserWarning, match="is not whole"):
        assert again.resume()
    again(Until(steps=2))
    assert [line["step"] for line in lines(tmp_path / "evaluations.jsonl")] == [0]


def test_a_run_that_was_stopped_early_stays_stopped(tmp_path: Path) -> None:
    def run_of(bar: float) -> Run:
        callbacks = [Evaluate(lambda policy: {"value": 1.0}, every=2), EarlyStopping("evaluation/value", bar=bar)]
        return make_run(tmp_path, checkpoints=Checkpoints(every=5), callbacks=callbacks)

    run_of(1.0)(Until(steps=9))
    for bar, steps in ((1.0, 0), (2.0, 9)):
        again = run_of(bar)
        assert again.resume()
        again(Until(steps=9))
        assert again.num_steps == steps


@given(
    num_rows=st.integers(1, 9),
    batch_size=st.integers(1, 9),
    shuffle=st.booleans(),
    seed=st.integers(0, 5),
    cut=st.integers(0, 12),
)
def test_a_state_loader_gives_each_row_once_an_epoch_and_goes_on_from_anywhere(
    num_rows: int, batch_size: int, shuffle: bool, seed: int, cut: int
) -> None:
    batch_size = min(batch_size, num_rows)
    rows = list(range(num_rows))
    loader = StateLoader(rows, batch_size, shuffle=shuffle, seed=seed)
    taken: list[int] = []
    state = loader.state_dict()
    for step in range(12):
        if step == cut:
            state = loader.state_dict()
        taken += loader.next_states(step)
    for epoch in range(len(taken) // num_rows):
        own = taken[epoch * num_rows : (epoch + 1) * num_rows]
        assert sorted(own) == rows
        assert shuffle or own == rows
    fresh = StateLoader(rows, batch_size, shuffle=shuffle, seed=seed)
    fresh.load_state_dict(state)
    again = [row for step in range(12 - min(cut, 12)) for row in fresh.next_states(step)]
    assert again == taken[len(taken) - len(again) :]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(StateLoader(list(range(20)), 20, seed=seed).next_states(0)) for seed in range(5)} | {
        tuple(order) for loader in [StateLoader(list(range(20)), 20)] for order in map(loader.next_states, range(4))
    }
    assert len(orders) == 5 + 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: StateLoader([1, 2], 3), ValueError, "rows has 2 rows, fewer than the 3 of a batch"),
        (lambda: StateLoader([], 1), ValueError, "rows has 0 rows"),
        (lambda: StateLoader([1], 0), ValueError, "batch_size is 0"),
        (lambda: StateLoader(iter([1]), 1), TypeError, r"cannot be shuffled: pass list\(rows\), or shuffle=False"),
        (lambda: StateLoader(3, 1), TypeError, "rows is a int"),
        (lambda: Until(), ValueError, "never ends"),
        (lambda: make_run()(any_value(5)), TypeError, r"until is 5, expected grpo.Until\(steps=...\)"),
        (lambda: Run(any_value("trainer"), []), TypeError, "trainer is 'trainer', expected a trainer"),
        (lambda: make_run(states=[]), ValueError, "states is empty"),
        (lambda: make_run(states=StateLoader), TypeError, r"states is the class StateLoader.*pass StateLoader\(...\)"),
        (lambda: make_run(states=lambda: ["state"]), TypeError, "cannot be called with the step alone .*lambda step"),
        (lambda: make_run(callbacks=None), TypeError, r"callbacks is None.*pass \[\] for none"),
        (lambda: make_run(checkpoints=Checkpoints(every=1)), ValueError, "checkpoints need a folder"),
        (lambda: make_run(callbacks=Callback()), TypeError, r"pass \[callback\]"),
        (lambda: make_run(callbacks=[Callback]), TypeError, "pass an instance|lacks"),
        (lambda: make_run(callbacks=[print]), TypeError, "lacks start, after_step"),
        (lambda: make_run().resume(), ValueError, "no folder to go on from"),
        (lambda: Evaluate(evaluation(), every=0), ValueError, "every is 0"),
        (lambda: Evaluate(any_value(3), every=1), TypeError, "evaluator is 3"),
        (lambda: EarlyStopping("reward"), ValueError, "never stops"),
        (lambda: Track(any_value(3)), TypeError, "lacks log"),
        (
            lambda: PolicyEvaluation([1], StationaryBandit(MEANS), pass_at=(2,)),
            ValueError,
            r"holds \[2\], expected 1 to",
        ),
    ],
)
def test_bad_input_is_named(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_rows_that_change_in_number_and_rows_that_end_are_told() -> None:
    rows = [1, 2, 3]
    loader = StateLoader(rows, 2)
    rows.append(4)
    with pytest.raises(ValueError, match="rows has 4 rows, but had 3"):
        loader.next_states(0)

    def three() -> Iterator[int]:
        yield from range(3)

    loader = StateLoader(three(), 2, shuffle=False)
    assert loader.next_states(0) == [0, 1]
    with pytest.raises(ValueError, match="has no more: expected 2 rows, got 1"):
        loader.next_states(1)


def test_iterables_are_gone_through_again_and_tell_their_position_where_they_can() -> None:
    loader = StateLoader({"a": 0, "b": 0, "c": 0}.keys(), 2, shuffle=False)
    batches = [loader.next_states(step) for step in range(3)]
    assert batches == [["a", "b"], ["c", "a"], ["b", "c"]]
    fresh = StateLoader({"a": 0, "b": 0, "c": 0}.keys(), 2, shuffle=False)
    state = loader.state_dict()
    fresh.load_state_dict(state)
    assert fresh.next_states(3) == loader.next_states(3)


def test_tables_and_streams_of_datasets_are_gone_on_with_where_they_were() -> None:
    datasets: Any = importlib.import_module("datasets")
    table: Any = datasets.Dataset.from_dict({"prompt": list("abcdefg")})

    def make(is_stream: bool) -> StateLoader:
        rows = table.to_iterable_dataset(num_shards=2) if is_stream else table
        return StateLoader(rows, 2, shuffle=not is_stream)

    for is_stream in (False, True):
        loader, fresh = make(is_stream), make(is_stream)
        assert loader.next_states(0)[0].keys() == {"prompt"}
        state = loader.state_dict()
        expected = [loader.next_states(step) for step in range(1, 6)]
        fresh.load_state_dict(state)
        assert [fresh.next_states(step) for step in range(1, 6)] == expected


def test_pass_at_k_is_the_share_of_draws_with_a_success() -> None:
    from itertools import combinations

    for size, successes, k in ((5, 2, 3), (4, 0, 2), (6, 5, 2), (3, 1, 3)):
        draws = list(combinations([1] * successes + [0] * (size - successes), k))
        expected = sum(any(draw) for draw in draws) / len(draws)
        assert pass_at_k(torch.tensor([successes]), torch.tensor([size]), k).item() == pytest.approx(expected)


def test_an_evaluation_by_hand() -> None:
    class Reads:
        def compute_rewards(self, states: Any, actions: Any) -> Any:
            return torch.tensor([1.0, 0.0, 0.0, 0.0])

        def eval(self) -> None: ...

        def train(self) -> None: ...

        def to(self, device: Any) -> None: ...

    metrics = PolicyEvaluation(["a", "b"], Reads(), group_size=2, pass_at=(1, 2))(SoftmaxPolicy(3))
    half = 1.96 * (0.125**0.5) / 2**0.5
    assert metrics == pytest.approx(
        {"reward": 0.25, "reward_low": 0.25 - half, "reward_high": 0.25 + half, "pass@1": 0.25, "pass@2": 0.5}
    )


@pytest.mark.parametrize("fails", [False, True])
def test_an_evaluation_puts_global_generators_back_beside_an_idle_thread(fails: bool) -> None:
    """Otherwise what is trained would draw the same numbers after each of them."""

    class Drawing(StationaryBandit):
        def compute_rewards(self, states: Any, actions: Any) -> Any:
            torch.rand(1)
            if fails:
                raise RuntimeError("no rewards today")
            return super().compute_rewards(states, actions)

    evaluate = PolicyEvaluation(["state"], Drawing(MEANS), group_size=4)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        before = torch.get_rng_state()
        with pytest.raises(RuntimeError, match="no rewards today") if fails else nullcontext():
            evaluate(SoftmaxPolicy(3))
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([{"first_approx_kl": 0.5}], "before anything was updated"),
        ([{"entropy": 2.0}, {"entropy": 0.001}], "entropy is gone"),
        ([{"frac_reward_zero_std": 1.0}] * 5, "all rewards of each group were equal"),
        ([{"grad_norm": 30.0}] * 100, "max_grad_norm=1"),
    ],
)
def test_troubles_are_told_once(steps: list[dict[str, float]], expected: str) -> None:
    texts: list[str] = []
    watch, run = WatchForTrouble(texts.append), make_run()
    for metrics in steps * 2:
        watch.after_step(run, metrics)
    assert len(texts) == 1
    assert expected in texts[0]


def test_no_trouble_is_told_of_a_training_that_goes_well() -> None:
    texts: list[str] = []
    run = make_run(callbacks=[WatchForTrouble(texts.append)])
    run(Until(steps=20))
    assert texts == []


@pytest.mark.parametrize("is_loaded_between", [False, True])
def test_a_step_that_failed_is_made_again_with_its_states(*, is_loaded_between: bool) -> None:
    seen: list[int] = []

    class Judge(StationaryBandit):
        is_away = False

        def compute_rewards(self, states: Any, actions: Any) -> Any:
            if self.is_away:
                raise ConnectionError("the judge is away")
            seen.extend(states[::2])
            return super().compute_rewards(states, actions)

    def new_run(judge: Judge) -> Run:
        trainer = GRPOTrainer(GRPOConfig(group_size=2), SoftmaxPolicy(3), judge)
        return Run(trainer, StateLoader(range(12), 2))

    judge = Judge(MEANS)
    run = new_run(judge)
    run(Until(steps=2))
    judge.is_away = True
    with pytest.raises(ConnectionError):
        run(Until(steps=6))
    judge.is_away = False
    if is_loaded_between:
        state, run = run.state_dict(), new_run(judge)
        run.load_state_dict(state)
    run(Until(steps=6))
    assert sorted(seen) == list(range(12))
