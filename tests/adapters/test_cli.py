"""The command ``anygrpo``, as it is called."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_models import build_model, build_tokenizer

from grpo import GRPOConfig, ImportanceCorrection, World
from grpo_adapters.cli import language_model_training, main
from grpo_adapters.cli.arguments import take_option
from grpo_adapters.cli.errors import UsageError
from grpo_adapters.cli.figures import grouped, on_common_points, smoothed
from grpo_adapters.cli.gym_options import (
    GymGRPOOptions,
    GymPPOOptions,
    GymReinforceOptions,
    load_options,
    parse_options,
)
from grpo_adapters.cli.gym_trainers import TRAINERS
from grpo_adapters.cli.language_model_training import LanguageModelOptions, read_rows
from grpo_adapters.cli.module_training import ModuleOptions, attribute
from grpo_adapters.cli.records import Record, read_record
from grpo_adapters.cli.toml_files import from_text, read_toml, to_toml

CARTPOLE = [
    "train",
    "gym",
    "CartPole-v1",
    "--num-steps",
    "8",
    "--num-envs",
    "2",
    "--batch-size",
    "16",
    "--evaluation-episodes",
    "2",
    "--hidden-sizes",
    "8",
]
BANDIT = """
from grpo import Evaluate, GRPOConfig, GRPOTrainer, Run
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
import torch


def trainer(seed=0):
    torch.manual_seed(seed)
    return GRPOTrainer(GRPOConfig(learning_rate=0.1, seed=seed), SoftmaxPolicy(3), StationaryBandit([0.0, 0.5, 1.0]))


def with_states(seed):
    return trainer(seed), ["the only state"]


def with_evaluation():
    return trainer(), ["the only state"], [Evaluate(lambda policy: {"score": 7.0}, every=2)]


def run_without_folder():
    return Run(trainer(), ["the only state"])


def broken():
    return 1 / 0


def policy():
    return SoftmaxPolicy(4), ["one state", "another"]


class Liar(SoftmaxPolicy):
    def get_log_probabilities(self, states, actions):
        return super().get_log_probabilities(states, actions) + 0.5


def liar():
    return Liar(4), ["one state", "another"]


def one_callback():
    return trainer(), ["the only state"], Evaluate(lambda policy: {"score": 7.0}, every=2)


def of_a_distance(distance, seed=0):
    return trainer(seed), ["the only state"]


number = 3
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("bandits.py").write_text(BANDIT)


def lines(folder: str, name: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, f"{name}.jsonl").read_text().splitlines()]


def weights(folder: str, step: int) -> dict[str, Any]:
    state = torch.load(Path(folder, "checkpoints", f"step-{step:09d}", "state.pt"), weights_only=True)
    return dict(state["trainer"]["parts"]["policy"])


def assert_same_runs(folder: str, other: str, step: int) -> None:
    assert lines(folder) == lines(other)
    assert lines(folder, "evaluations") == lines(other, "evaluations")
    ours, theirs = weights(folder, step), weights(other, step)
    assert str(ours) == str(theirs)


# Trainings in environments


def test_a_training_writes_all_that_is_to_be_known_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CARTPOLE, "--folder", "a", "--until-steps", "3", "--learning-rate", "1e-3"]) == 0
    told = capsys.readouterr().out
    assert "PPO in CartPole-v1, in a" in told
    assert "step 3 of 3" in told
    assert "anygrpo evaluate a" in told
    settings = read_toml(Path("a", "config.toml"))
    expected = {
        "kind": "gym",
        "environment": "CartPole-v1",
        "learning_rate": 1e-3,
        "until_decisions": None,
        "evaluate_every": 1,
        "checkpoint_every": 1,
        "environments_in_state": "copy",
        "gae_lambda": 0.8,
    }
    assert expected.items() <= settings.items()
    assert [line["step"] for line in lines("a")] == [1, 2, 3]
    assert [line["step"] for line in lines("a", "evaluations")] == [0, 1, 2, 3]
    assert "evaluation/mean_return" in lines("a", "evaluations")[0]
    assert Path("a", "best").is_dir()
    description = json.loads(Path("a", "run.json").read_text())
    assert description["trainer"] == "PPOTrainer"
    assert description["config"]["num_epochs_per_update"] == 20


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "reinforce"])
def test_a_run_that_goes_on_is_the_same_as_one_that_was_not_interrupted(algorithm: str) -> None:
    words = [
        "train",
        "gym",
        "CartPole-v1",
        "--algorithm",
        algorithm,
        "--evaluation-episodes",
        "2",
        "--num-envs",
        "2",
        "--evaluate-every",
        "2",
        "--checkpoint-every",
        "1",
        "--seed",
        "3",
    ]
    words += ["--num-steps", "8", "--batch-size", "16"] if algorithm == "ppo" else ["--num-groups", "1"]
    assert main([*words, "--folder", "whole", "--until-steps", "4"]) == 0
    assert main([*words, "--folder", "parts", "--until-steps", "2"]) == 0
    assert main(["resume", "parts", "--until-steps", "4"]) == 0
    assert_same_runs("whole", "parts", 4)
    assert read_toml(Path("parts", "config.toml"))["until_steps"] == 4


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_policy_remembers_and_sees_the_last_observations(algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a run that goes on as in one that was not interrupted, and where its weights are evaluated."""
    Path("recurrent.toml").write_text(
        f'environment = "CartPole-v1"\nalgorithm = "{algorithm}"\nmemory = "lstm"\nmemory_units = 8\nwindow = 4\n'
        "frame_stack = 3\nnormalize_observations = true\nhidden_sizes = [8]\nnum_envs = 2\nevaluation_episodes = 1\n"
        f"{'num_steps = 16' if algorithm == 'ppo' else 'num_groups = 1'}\n"
    )
    words = ["train", "gym", "--config", "recurrent.toml", "--evaluate-every", "2", "--checkpoint-every", "1"]
    assert main([*words, "--folder", "whole", "--until-steps", "2"]) == 0
    assert main([*words, "--folder", "parts", "--until-steps", "1"]) == 0
    assert main(["resume", "parts", "--until-steps", "2"]) == 0
    assert_same_runs("whole", "parts", 2)
    stored = weights("whole", 2)["state"]
    assert stored["memory.layers.weight_ih_l0"].shape == (4 * 8, 3 * 4)
    assert main(["evaluate", "whole", "--episodes", "2"]) == 0
    assert "over 2 episodes" in capsys.readouterr().out


def test_batch_sizes_of_presets_are_of_so_many_steps_where_the_policy_remembers() -> None:
    for words, expected in (
        ([], 256),
        (["--memory", "gru"], 8),
        (["--memory", "gru", "--window", "16"], 16),
        (["--memory", "gru", "--window", "1000"], 1),
        (["--memory", "gru", "--batch-size", "3"], 3),
        (["--memory", "gru", "--batch_size", "3"], 3),
        (["--memory", "gru", "--config", "own.toml"], 5),
    ):
        Path("own.toml").write_text("batch_size = 5\n")
        options: Any = parse_options(["CartPole-v1", *words])
        assert options.batch_size == expected


@pytest.mark.parametrize("spelling", ["--until-steps", "--until_steps"])
def test_an_end_that_is_given_takes_the_place_of_that_of_the_preset(spelling: str) -> None:
    assert parse_options(["CartPole-v1"]).until_decisions is not None
    options = parse_options(["CartPole-v1", spelling, "3"])
    assert (options.until_steps, options.until_decisions) == (3, None)


@pytest.mark.parametrize("spelling", ["--lora-rank", "--lora_rank"])
def test_adapters_of_low_rank_learn_faster(spelling: str) -> None:
    words = ["model", "--data", "rows.jsonl"]
    assert language_model_training.parse_options(words).learning_rate == 1e-6
    assert language_model_training.parse_options([*words, spelling, "8"]).learning_rate == 1e-5


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:no episode of 2 environments has ended")  # none of LunarLander does so soon
def test_environments_that_cannot_be_saved_begin_new_episodes() -> None:
    words = [
        "train",
        "gym",
        "LunarLander-v3",
        "--num-envs",
        "2",
        "--num-steps",
        "8",
        "--evaluation-episodes",
        "1",
        "--evaluate-every",
        "10",
        "--checkpoint-every",
        "2",
    ]
    assert main([*words, "--folder", "whole", "--until-steps", "4"]) == 0
    assert read_toml(Path("whole", "config.toml"))["environments_in_state"] == "restart"
    assert main([*words, "--folder", "parts", "--until-steps", "2"]) == 0
    assert main(["resume", "parts", "--until-steps", "4"]) == 0
    assert_same_runs("whole", "parts", 4)


def test_seeds_differ() -> None:
    for seed in ("0", "1"):
        assert main([*CARTPOLE, "--folder", seed, "--until-steps", "1", "--seed", seed]) == 0
    assert lines("0") != lines("1")


def test_no_two_steps_and_no_two_seeds_begin_with_the_same_episodes() -> None:
    settings = {"environment": "CartPole-v1", "algorithm": "grpo", "num_groups": 3, "num_envs": 2}
    starts = [TRAINERS["grpo"](load_options(settings | {"seed": seed}), World())[1] for seed in (0, 1)]
    batches = [states(step) for states in starts for step in (0, 1)]
    assert [len(batch) for batch in batches] == [3] * 4
    assert len({start for batch in batches for start in batch}) == 12


def test_a_bar_ends_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CARTPOLE, "--folder", "a", "--until-steps", "9", "--evaluate-every", "1", "--stop-at", "5"]) == 0
    assert "has reached 5" in capsys.readouterr().out
    assert lines("a", "evaluations")[-1]["evaluation/mean_return"] >= 5


def test_evaluate_takes_the_best_weights_or_the_latest(capsys: pytest.CaptureFixture[str]) -> None:
    main([*CARTPOLE, "--folder", "a", "--until-steps", "2"])
    capsys.readouterr()
    before = sorted((path, path.stat().st_mtime_ns) for path in Path("a").rglob("*"))
    assert main(["evaluate", "a", "--episodes", "3"]) == 0
    best = capsys.readouterr().out
    assert "where evaluation/mean_return was best" in best
    assert "over 3 episodes" in best
    assert main(["evaluate", "a", "--episodes", "3", "--latest", "True"]) == 0
    assert "weights of step 2, the latest checkpoint" in capsys.readouterr().out
    assert sorted((path, path.stat().st_mtime_ns) for path in Path("a").rglob("*")) == before


def test_evaluate_films(capsys: pytest.CaptureFixture[str]) -> None:
    main([*CARTPOLE, "--folder", "a", "--until-steps", "1"])
    assert main(["evaluate", "a", "--episodes", "2", "--video", "films", "--num-videos", "1"]) == 0
    (film,) = Path("films").glob("*.mp4")
    assert film.stat().st_size > 1000
    assert str(film) in capsys.readouterr().out


# Settings


def test_words_go_before_a_file_and_a_file_before_presets() -> None:
    Path("fast.toml").write_text(
        'environment = "CartPole-v1"\ngae_lambda = 0.7\ndiscount = 0.9\nuntil_steps = 1\n'
        'max_grad_norm = "none"\nlearning_rate = {start = 1e-2, end = 0.0, num_steps = 4}\n'
    )
    words = [
        "train",
        "gym",
        "--config",
        "fast.toml",
        "--discount",
        "0.95",
        "--folder",
        "a",
        "--evaluation-episodes",
        "1",
    ]
    assert main(words) == 0
    settings = read_toml(Path("a", "config.toml"))
    told = {name: settings[name] for name in ("gae_lambda", "discount", "num_envs", "max_grad_norm", "learning_rate")}
    schedule = {"start": 0.01, "end": 0.0, "num_steps": 4}
    assert told == {
        "gae_lambda": 0.7,
        "discount": 0.95,
        "num_envs": 8,
        "max_grad_norm": None,
        "learning_rate": schedule,
    }


def test_a_schedule_may_be_given_in_words() -> None:
    schedule = "{start = 0.01, end = 0.001, num_steps = 5}"
    assert main([*CARTPOLE, "--folder", "a", "--until-steps", "2", "--learning-rate", schedule]) == 0
    assert [line["learning_rate"] for line in lines("a")] == [0.01, pytest.approx(0.0082)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "sampler"),
        (["sampler"], "sampler"),
        (["none"], None),
        (["{kind = 'mask', max_ratio = 3.0}"], ImportanceCorrection(kind="mask", max_ratio=3.0)),
    ],
)
def test_a_table_or_a_word(words: list[str], expected: Any) -> None:
    correction = [part for word in words for part in ("--importance-correction", word)]
    settings = parse_options(["CartPole-v1", *correction, "--mask-truncated", "decisions"]).part(GRPOConfig)
    assert settings["importance_correction"] == expected
    assert settings["mask_truncated"] == "decisions"


def test_resume_changes_what_is_to_be_changed_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    main([*CARTPOLE, "--folder", "a", "--until-steps", "2", "--learning-rate", "1e-3"])
    with pytest.warns(UserWarning, match="learning_rate"):
        assert main(["resume", "a", "--until-steps", "3", "--override", "learning_rate=0.5"]) == 0
    assert [line["learning_rate"] for line in lines("a")] == [1e-3, 1e-3, 0.5]
    assert read_toml(Path("a", "config.toml"))["learning_rate"] == 0.5
    assert main(["resume", "a", "--override", "learning_rat=0.5"]) == 2
    assert "unknown key 'learning_rat': did you mean learning_rate?" in capsys.readouterr().err
    assert main(["resume", "a", "--override", "gae_lambda=7"]) == 2
    assert "gae_lambda: input should be less than or equal to 1, got 7" in capsys.readouterr().err


def test_resume_refuses_settings_that_were_changed_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    main([*CARTPOLE, "--folder", "a", "--until-steps", "1"])
    path = Path("a", "config.toml")
    path.write_text(path.read_text().replace("gae_lambda = 0.8", "gae_lambda = 0.5"))
    assert main(["resume", "a"]) == 2
    told = capsys.readouterr().err
    assert "gae_lambda (0.8 before, 0.5 now)" in told
    assert "say it by --override key=value" in told


@pytest.mark.parametrize(
    "options", [GymPPOOptions, GymGRPOOptions, GymReinforceOptions, LanguageModelOptions, ModuleOptions]
)
def test_every_setting_is_explained(options: Any) -> None:
    for name, field in options.model_fields.items():
        assert field.description, name
        assert "`" not in field.description


def test_help_tells_every_option_with_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "gym", "CartPole-v1", "--help"]) == 0
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for name in GymPPOOptions.model_fields:
        assert f"--{name.replace('_', '-')}" in told or name == "environment", name
    assert "λ of generalised advantage estimation. (default: 0.8)" in told
    assert main(["--help"]) == 0
    assert "anygrpo resume" in capsys.readouterr().out


@pytest.mark.parametrize(
    "value", [None, True, 3, -1e-30, 'two\nlines, "quoted" \\ ünd \x7f', [1, "a"], {"a": {"b": 1.5}}]
)
def test_toml_is_read_as_it_was_written(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text(to_toml({"key": value}), encoding="utf-8")
    assert read_toml(path) == {"key": value}


def test_values_of_words_need_no_quotes() -> None:
    words = ["0.5", "true", "False", "none", "per_step", '"per_step"', "[1, 2]"]
    assert [from_text(word) for word in words] == [0.5, True, False, None, "per_step", "per_step", [1, 2]]


def test_an_option_without_a_value_is_told() -> None:
    with pytest.raises(UsageError, match="--config needs a value"):
        take_option(["--config"], "config")


# Mistakes

WRONG = {
    "no such command": (["fly"], "there is no command 'fly', expected one of train, resume"),
    "nothing to train": (["train"], "say what to train"),
    "no such kind": (["train", "cartpole"], "there is no training 'cartpole': say what to train"),
    "no such environment": (["train", "gym", "Foo-v0"], "Foo"),
    "no such algorithm": (["train", "gym", "CartPole-v1", "--algorithm", "dqn"], "there is no algorithm 'dqn'"),
    "no memory": (["train", "gym", "CartPole-v1", "--window", "4"], "remembers nothing: say --memory gru, or lstm"),
    "no end": (["train", "bandits.py:with_states"], "the run has no end"),
    "no file": (["train", "nothing.py:f", "--until-steps", "1"], "there is no file"),
    "no module": (["train", "nothing.at.all:f", "--until-steps", "1"], "there is no module nothing.at.all"),
    "no function": (["train", "bandits.py:nothing", "--until-steps", "1"], "has no 'nothing': expected one of"),
    "not a function": (["train", "bandits.py:number", "--until-steps", "1"], "is a int, expected a function"),
    "no states": (["train", "bandits.py:trainer", "--until-steps", "1"], "no states: return (trainer, states)"),
    "callbacks not in a list": (
        ["train", "bandits.py:one_callback", "--until-steps", "1"],
        "returned a Evaluate as its callbacks, expected a list",
    ),
    "an argument": (
        ["train", "bandits.py:of_a_distance", "--until-steps", "1"],
        "takes distance, expected no argument but seed",
    ),
    "no folder": (["train", "bandits.py:run_without_folder", "--until-steps", "1"], "a Run without a folder"),
    "no file of settings": (["train", "gym", "--config", "no.toml"], "no.toml cannot be read"),
    "no run to resume": (["resume", "."], "holds no run"),
    "no run to evaluate": (["evaluate", "."], "holds no run"),
    "no run to show": (["show", "."], "holds no run"),
    "no run to plot": (["plot", "."], "holds no run"),
    "nothing to plot": (["plot"], "say which runs to draw"),
    "nothing to check": (["check", "bandits.py:trainer"], "expected (policy, states)"),
    "no rows": (["train", "lm", "m", "--data", "no.jsonl", "--reward", "bandits.py:f"], "no.jsonl cannot be read"),
    "no reward": (["train", "lm", "m", "--data", "no.jsonl"], "the completions need a reward"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_in_a_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = WRONG[case]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith(f"anygrpo {words[0]}: ")
    assert captured.err.count("\n") <= 2
    assert sorted(path.name for path in Path().iterdir() if path.name != "__pycache__") == ["bandits.py"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "gym", "CartPole-v1", "--learnin-rate", "1"], "--learning-rate"),
        (["train", "gym", "CartPole-v1", "--discount", "7"], "less than or equal to 1"),
        (["train", "gym", "CartPole-v1", "--learning-rate", "{start = 1}"], "--learning-rate"),
        (["resume"], "FOLDER"),
    ],
)
def test_wrong_options_are_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_files_with_unknown_keys_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.toml").write_text("gae_lamda = 0.9\n")
    assert main(["train", "gym", "CartPole-v1", "--config", "wrong.toml"]) == 2
    assert "the unknown key 'gae_lamda': did you mean gae_lambda?" in capsys.readouterr().err
    Path("wrong.toml").write_text("gae_lambda = 7\n")
    assert main(["train", "gym", "CartPole-v1", "--config", "wrong.toml"]) == 2
    assert "gae_lambda: input should be less than or equal to 1, got 7" in capsys.readouterr().err
    Path("wrong.toml").write_text("gae_lambda\n")
    assert main(["train", "gym", "CartPole-v1", "--config", "wrong.toml"]) == 2
    assert "is no TOML" in capsys.readouterr().err


def test_a_folder_that_holds_a_run_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "bandits.py:with_states", "--until-steps", "2", "--folder", "a"]
    assert main(words) == 0
    before = {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()}
    assert main([*words, "--seed", "5"]) == 2
    assert "a holds a run already: choose another --folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()} == before


def test_an_error_in_a_function_of_the_users_is_theirs() -> None:
    with pytest.raises(ZeroDivisionError):
        main(["train", "bandits.py:broken", "--until-steps", "1"])


# Functions of the user's


def test_a_function_may_give_a_trainer_with_states_and_callbacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "bandits.py:with_evaluation", "--until-steps", "4", "--folder", "a"]) == 0
    assert [line["evaluation/score"] for line in lines("a", "evaluations")] == [7.0] * 3
    assert main(["evaluate", "a"]) == 0
    assert "evaluation/score: 7" in capsys.readouterr().out
    assert main(["train", "bandits:with_states", "--until-steps", "2", "--folder", "b"]) == 0
    assert main(["evaluate", "b"]) == 2
    assert "has no evaluation" in capsys.readouterr().err


def test_a_function_is_given_the_seed() -> None:
    for seed in ("0", "1"):
        main(["train", "bandits.py:with_states", "--until-steps", "2", "--folder", seed, "--seed", seed])
    assert lines("0") != lines("1")


def test_a_function_may_give_a_run_with_a_folder() -> None:
    Path("own.py").write_text(
        "from bandits import trainer\nfrom grpo import Checkpoints, Run\n"
        "def run():\n"
        "    return Run(trainer(), ['the only state'], folder='own', checkpoints=Checkpoints(every=1))\n"
    )
    assert main(["train", "own.py:run", "--until-steps", "2"]) == 0
    assert main(["resume", "own", "--until-steps", "3"]) == 0
    assert len(lines("own")) == 3
    assert not Path("run").exists()


def test_a_run_goes_on_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["train", "bandits.py:with_states", "--until-steps", "2", "--folder", "a"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["resume", "../a", "--until-steps", "3"]) == 0
    assert len(lines("../a")) == 3


def test_a_signal_ends_a_run_that_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    Path("interrupted.py").write_text(
        "import pathlib, signal\nfrom bandits import trainer\n"
        "def states(step):\n"
        "    if step == 2 and not pathlib.Path('done').exists():\n"
        "        pathlib.Path('done').touch()\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return ['the only state']\n"
        "def make(seed):\n    return trainer(seed), states\n"
    )
    words = ["train", "interrupted.py:make", "--until-steps", "5", "--checkpoint-every", "4", "--folder"]
    assert main([*words, "parts"]) == 75
    told = capsys.readouterr().out
    assert "SIGINT ended the run after step 3, which is saved" in told
    assert "anygrpo resume parts" in told
    assert main(["resume", "parts"]) == 0
    assert "goes on from step 3" in capsys.readouterr().out
    assert main([*words, "whole"]) == 0
    assert lines("parts") == lines("whole")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_of_a_script_is_not_taken_over(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "bandits.py:with_states", "--until-steps", "2", "--folder", "a"])
    Path("a", "config.toml").unlink()
    assert main(["resume", "a"]) == 2
    assert "begun by a script: go on with it there" in capsys.readouterr().err


def test_trackers_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "bandits.py:with_states", "--until-steps", "2", "--folder", "a", "--trackers", "jsonl"]
    assert main(words) == 0
    assert main(["resume", "a", "--until-steps", "3"]) == 0
    logged = [json.loads(line) for line in Path("a", "tracking", "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 3]


def test_check_tells_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "bandits.py:policy", "--num-samples", "500"]) == 0
    assert "SoftmaxPolicy: nothing is wrong" in capsys.readouterr().out
    assert main(["check", "bandits.py:with_evaluation", "--num-samples", "0"]) == 0
    assert main(["check", "bandits.py:liar", "--num-samples", "500"]) == 1
    assert "Liar fails" in capsys.readouterr().err


# Language models


@pytest.fixture
def model(tmp_path: Path) -> str:
    build_model().save_pretrained(tmp_path / "model")
    build_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"{number}+1=", "answer": str(number + 1)} for number in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewards.py").write_text(
        "def correct(completions, answer, **columns):\n"
        "    return [float(text.startswith(right)) for text, right in zip(completions, answer)]\n"
        "def short(completion_ids, **columns):\n    return [-len(ids) for ids in completion_ids]\n"
    )
    return "model"


LANGUAGE_MODEL = [
    "--data",
    "rows.jsonl",
    "--reward",
    "rewards.py:correct",
    "rewards.py:short",
    "--prompts-per-step",
    "2",
    "--group-size",
    "2",
    "--max-new-tokens",
    "4",
    "--samples-every",
    "1",
    "--learning-rate",
    "1e-3",
]


def test_a_language_model_is_trained_and_goes_on(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "lm", model, *LANGUAGE_MODEL, "--held-out", "rows.jsonl", "--evaluate-every", "2"]
    assert main([*words, "--folder", "whole"]) == 0
    assert len(lines("whole")) == 3  # one pass over six rows
    assert main([*words, "--folder", "parts", "--until-steps", "1"]) == 0
    assert main(["resume", "parts", "--until-steps", "3"]) == 0
    assert_same_runs("whole", "parts", 3)
    assert lines("parts", "samples") == lines("whole", "samples")
    assert {"prompt", "step", "state", "action", "reward", "group"} >= lines("whole", "samples")[0].keys()
    assert Path("whole", "model", "model.safetensors").is_file()
    capsys.readouterr()
    assert main(["evaluate", "whole"]) == 0
    assert "most probable completions of rows.jsonl: reward" in capsys.readouterr().out


def test_adapters_of_a_language_model_are_trained(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "lm", model, *LANGUAGE_MODEL[:-2], "--lora-rank", "2", "--kl-coefficient", "0.1", "--folder", "a"]
    assert main([*words, "--until-steps", "1", "--reward-weights", "1.0", "0.1"]) == 0
    assert read_toml(Path("a", "config.toml"))["learning_rate"] == 1e-5
    assert Path("a", "model", "adapter_config.json").is_file()
    assert main(["evaluate", "a"]) == 2
    assert "train it with --held-out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "told"), [("{", "line 2 of rows.jsonl is no JSON"), ('{"question": 1}', "line 2 of rows.jsonl is no row")]
)
def test_wrong_rows_are_told(model: str, row: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text(f'{{"prompt": "1"}}\n{row}\n')
    assert main(["train", "lm", model, *LANGUAGE_MODEL]) == 2
    assert told in capsys.readouterr().err


def test_fewer_rows_than_a_step_takes_are_told(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text('{"prompt": "1"}\n')
    assert main(["train", "lm", model, *LANGUAGE_MODEL]) == 2
    assert "rows.jsonl has 1 rows, fewer than --prompts-per-step" in capsys.readouterr().err


def test_a_row_ends_where_a_line_ends_and_not_within_a_text(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a\u2028b"}\n\n{"prompt": "c"}\r\n', encoding="utf-8", newline="")
    assert read_rows(tmp_path / "rows.jsonl") == [{"prompt": "a\u2028b"}, {"prompt": "c"}]


# Looking at runs


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("metrics.jsonl", "{}\n[1, 2\n", "line 2 of a/metrics.jsonl is not what a run writes there: [1, 2"),
        ("metrics.jsonl", "[1]\n", "line 1 of a/metrics.jsonl is not what a run writes there: [1]"),
        ("run.json", "[]", "a/run.json is not what a run writes there"),
        ("run.json", "{}", "a/run.json is not what a run writes there"),
    ],
)
def test_files_that_no_run_has_written_are_told(
    file: str, text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "bandits.py:with_states", "--until-steps", "1", "--folder", "a"]) == 0
    Path("a", file).write_text(text)
    for command in ("show", "plot"):
        assert main([command, "a"]) == 2
        assert told in capsys.readouterr().err


def test_a_kind_that_is_no_text_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a").mkdir()
    Path("a", "config.toml").write_text("kind = [1]\n")
    assert main(["resume", "a"]) == 2
    assert "no training of the kind [1], expected one of gym" in capsys.readouterr().err


def record(seed: int, values: list[float], **settings: Any) -> Record:
    description = {"trainer": "GRPOTrainer", "config": {"seed": seed, "learning_rate": 0.1} | settings}
    metrics = [{"step": step, "reward": value, "num_decisions": 10.0} for step, value in enumerate(values, start=1)]
    return Record(Path(f"seed{seed}"), description, {}, metrics, [], [])


def test_seeds_of_the_same_settings_are_one_group() -> None:
    runs = [record(0, [1.0]), record(1, [2.0]), record(0, [3.0], learning_rate=0.5)]
    groups = grouped(runs)
    assert {label: len(group) for label, group in groups.items()} == {
        "learning rate 0.1, 2 seeds": 2,
        "learning rate 0.5": 1,
    }


def test_a_band_is_over_the_points_that_all_curves_have() -> None:
    curves = [(np.array([0.0, 2.0, 4.0]), np.array([0.0, 2.0, 4.0])), (np.array([1.0, 3.0]), np.array([5.0, 7.0]))]
    points, rows = on_common_points(curves)
    assert points.tolist() == [1.0, 2.0, 3.0]
    assert rows.tolist() == [[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]


def test_smoothing_keeps_lines_and_short_curves() -> None:
    line = np.linspace(0.0, 1.0, 500)
    assert smoothed(line) == pytest.approx(line)
    assert smoothed(np.array([3.0, 1.0, 2.0])).tolist() == [3.0, 1.0, 2.0]
    noise = np.random.default_rng(0).normal(size=500)
    assert smoothed(noise).std() < 0.5 * noise.std()


def test_plot_draws_seeds_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in {"a": ["--seed", "0"], "b": ["--seed", "1"]}.items():
        main(["train", "bandits.py:with_states", "--until-steps", "5", "--folder", name, *words])
    capsys.readouterr()
    assert main(["plot", "a", "b", "--bar", "0.9"]) == 0
    assert capsys.readouterr().out.split() == ["curves.png", "curves.svg"]
    assert Path("curves.png").read_bytes()[:4] == b"\x89PNG"
    drawing = Path("curves.svg").read_text()
    assert "<svg" in drawing
    assert main(["plot", "a", "--metric", "entropy", "--x", "seconds"]) == 0
    assert Path("a", "curves.png").is_file()
    assert main(["plot", "a", "--metric", "entropie"]) == 2
    assert "no run has the metric 'entropie'; they have" in capsys.readouterr().err


def test_show_tells_settings_metrics_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "bandits.py:with_evaluation", "--until-steps", "8", "--folder", "a"])
    capsys.readouterr()
    assert main(["show", "a"]) == 0
    told = capsys.readouterr().out
    for part in (
        "checkpoint_every",
        "after 8 steps",
        "entropy",
        "evaluation/score 7",
        "updating",
        "step-000000008",
    ):
        assert part in told, part


def test_a_last_line_that_is_not_whole_is_left_out() -> None:
    main(["train", "bandits.py:with_states", "--until-steps", "3", "--folder", "a"])
    with Path("a", "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    assert [line["step"] for line in read_record(Path("a")).metrics] == [1, 2, 3]


# Projects


def test_a_new_project_runs_and_its_tests_pass(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["init", "mine"]) == 0
    told = capsys.readouterr().out
    assert "anygrpo train --config config.toml" in told
    monkeypatch.chdir("mine")
    assert main(["train", "--config", "config.toml", "--until-steps", "3"]) == 0
    assert main(["evaluate", "run"]) == 0
    policy = attribute("policy.py:make_trainer")
    tests = attribute("test_policy.py:test_it_learns").__globals__
    assert tests["make_trainer"] is policy or tests["make_trainer"].__module__ == "policy"
    for name, test in tests.items():
        if name.startswith("test_"):
            test()
    monkeypatch.chdir("..")
    assert main(["init", "mine"]) == 2
    assert "mine has policy.py, test_policy.py, config.toml, .gitignore already" in capsys.readouterr().err
