"""The language model example: every algorithm trains, options are checked, and a real run leaves a model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from arithmetic import NUM_HELD_OUT, accuracy, exact_answer, make_problems
from grpo_adapters.huggingface import CausalLMPolicy, FunctionReward, SamplingConfig, character_tokenizer
from language_model import ARITHMETIC, WITH_MODEL, Options, Task, Training, main, options_from
from language_model_algorithms import ALGORITHMS
from language_model_common import read_prompts

SCRIPT = Path(__file__).parents[2] / "examples" / "language_model.py"


def run(*options: str, folder: Path) -> str:
    command = [sys.executable, str(SCRIPT), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a run without any option, but for how long it takes, prints and the folder that it leaves."""
    folder = tmp_path_factory.mktemp("run")
    options = ("--steps", "2", "--prompts-per-step", "8", "--samples", "4", "--trackers", "jsonl", "--table-every", "1")
    return run(*options, folder=folder), folder / "outputs" / "language_model"


@pytest.fixture(scope="module")
def start(finished: tuple[str, Path]) -> Path:
    """A model after its supervised start."""
    printed, folder = finished
    [num_steps] = re.findall(r"supervised start: (\d+) steps", printed)
    assert int(num_steps) < 1000
    return folder / "start"


def test_held_out_problems_are_not_trained_on() -> None:
    rows, held_out = make_problems(0)
    assert len(held_out) == NUM_HELD_OUT
    assert len({row["prompt"] for row in (*rows, *held_out)}) == 10_000
    assert all(sum(map(int, re.findall(r"\d+", row["prompt"]))) == int(row["answer"][::-1]) for row in rows)


def test_the_start_is_right_less_than_half_the_time(start: Path) -> None:
    policy = CausalLMPolicy(start, sampling=SamplingConfig(max_new_tokens=4))
    assert 0.2 < accuracy(policy, make_problems(0)[1]) < 0.5


def training(folder: Path, **options: Any) -> Training:
    rows, held_out = make_problems(0)
    task = Task(str(folder), rows, held_out, FunctionReward(exact_answer))
    return Training(task, replace(ARITHMETIC, device="cpu", **options))


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_trains(start: Path, algorithm: Any, lora: bool) -> None:
    own = training(start, algorithm=algorithm, lora=lora, steps=2, prompts_per_step=16, kl_coefficient=0.01)
    updates = []
    for _ in range(2):
        experience, metrics = own.step()
        updates.append(metrics["num_updates"])
        assert metrics["skipped_updates"] == 0
        assert experience.reference_log_probs is not None
    most = 1 if algorithm in ("rloo", "reinforce") else 4
    assert updates[0] == most or algorithm == "dapo"  # whose groups of equal rewards are left out
    assert 1 <= updates[0] <= most
    parameters = own.policy.get_parameters().values()
    share = sum(value.numel() for value in parameters if value.requires_grad) / sum(v.numel() for v in parameters)
    assert share < 0.05 if lora else share == 1


def test_a_run_without_any_option(finished: tuple[str, Path]) -> None:
    """It leaves a model, a figure and what a tracker writes."""
    printed, folder = finished
    assert re.search(r"exact answers on 500 held-out problems: [\d.]+% after the supervised start, [\d.]+%", printed)
    assert re.search(r"\[\+[01]\.00\] \d", printed)
    assert (folder / "learning_curve.png").stat().st_size > 10_000
    assert CausalLMPolicy(folder).complete([{"prompt": "12+34="}], max_new_tokens=4)[0].text
    logged = [json.loads(line) for line in next(folder.glob("*.jsonl")).read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2]
    assert all("held_out_accuracy" in line for line in logged)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small policy and a small reward model."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = character_tokenizer("abcdefghijklmnopqrstuvwxyz ?.")
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, eos_token_id=0, pad_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder / "policy")
    config.num_labels = 1
    GPT2ForSequenceClassification(config).save_pretrained(folder / "reward")
    for name in ("policy", "reward"):
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # by peft, which sets it right
def test_a_run_with_a_model_and_a_reward_model(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("what is it?\n\nwho was it?\n")
    options = ("--model", str(models / "policy"), "--reward-model", str(models / "reward"), "--prompts", "prompts.txt")
    main(options_from([*options, "--steps", "2", "--new-tokens", "6", "--lora", "--output", "out"]))
    printed = capsys.readouterr().out
    assert re.search(r"mean reward: -?[\d.]+ in the first step", printed)
    assert "trains" in printed
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out") is not None


WRONG = [
    (["--model", "policy"], "--model needs prompts: give --prompt TEXT"),
    (["--model", "policy", "--prompt", "a"], "--model needs a reward: give --reward-model NAME"),
    (["--model", "nowhere/to/be/found", "--prompt", "a", "--reward", "format"], "there is no folder"),
    (["--steps", "0"], "--steps is 0, expected at least 1"),
    (["--prompt", "a"], "--prompt needs --model"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options_are_told_in_a_line(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main(options_from(options))


def test_prompts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n')
    assert read_prompts(path) == [{"prompt": "a", "answer": "b"}]
    path.write_text('{"question": "a"}\n')
    with pytest.raises(ValueError, match=r"line 1 of .*rows.jsonl has no column prompt, but \['question'\]"):
        read_prompts(path)


def test_a_model_has_defaults_of_its_own() -> None:
    assert options_from([]) == ARITHMETIC == Options()
    given = options_from(["--model", "gpt2"])
    assert given == replace(WITH_MODEL, model="gpt2")
    chosen = (given.samples, given.new_tokens, given.learning_rate, given.top_p, given.steps)
    assert chosen == (8, 64, 1e-5, 0.95, 50)
    assert options_from(["--lora"]).learning_rate == 10 * ARITHMETIC.learning_rate


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options_from(["--help"])
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for name in Options.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in told
