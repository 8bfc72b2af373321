"""The examples of preferences: they learn from their own pairs and from a dataset, and go on after they were killed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import fine_tune_on_preferences
import preference_language_model
from grpo_adapters.huggingface import CausalLMPolicy, character_tokenizer

SCRIPT = Path(__file__).parents[2] / "examples" / "preference_language_model.py"
ROWS = [
    {"prompt": f"say {letter}", "chosen": f" {letter * 3}", "rejected": f" {other}"}
    for letter in "abcdefgh"
    for other in "xyz"
]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_without_a_dataset(tmp_path: Path, start: Path) -> None:
    """Shorter than the defaults; it tells right from wrong answers to problems that it was not trained on."""
    shutil.copytree(start, tmp_path / "run" / "start-0")
    command = [sys.executable, str(SCRIPT), "--epochs", "2", "--folder", "run"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert outcome.returncode == 0, outcome.stderr
    accuracy = re.search(r"held_out/rewards/accuracies: ([\d.]+)", outcome.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.75
    first = {name: value for line in lines(tmp_path / "run" / "evaluations.jsonl")[:3] for name, value in line.items()}
    assert first["step"] == 0
    assert 0.2 < first["likeliest/reward"] < 0.5
    assert 0.05 < first["sampled/reward"] < 0.3
    assert CausalLMPolicy(tmp_path / "run" / "model").complete(["12+34="], max_new_tokens=4)[0].text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = character_tokenizer("abcdefghijklmnopqrstuvwxyz ?.")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=32, eos_token_id=0, pad_token_id=0
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def options_of(own: Path, folder: Path, **changes: Any) -> Any:
    dataset = folder / "pairs.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, ROWS[0] | {"rejected": ROWS[0]["chosen"]}]))
    settings: dict[str, Any] = {"model": str(own), "dataset": str(dataset), "held_out": 6, "folder": folder / "run"}
    settings |= {"epochs": 6, "pairs_per_step": 6, "learning_rate": 1e-2}
    return fine_tune_on_preferences.Options(**(settings | changes))


def evaluations(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    first, *_, last = lines(folder / "run" / "evaluations.jsonl")
    return first, last


def test_a_model_with_a_file(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """18 pairs, six epochs of three steps, and a row that teaches nothing is left out."""
    fine_tune_on_preferences.main(options_of(model, tmp_path, epochs=20))
    assert re.search(r"held-out loss 0.[0-5]\d+ after step \d0: ", capsys.readouterr().out)
    first, last = evaluations(tmp_path)
    assert first["held_out/rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert last["step"] == len(lines(tmp_path / "run" / "metrics.jsonl")) == 60
    assert last["held_out/rewards/accuracies"] == 1
    weights = [AutoModelForCausalLM.from_pretrained(each).state_dict() for each in (model, tmp_path / "run" / "model")]
    assert not torch.equal(*(each["transformer.wte.weight"] for each in weights))
    with pytest.raises(FileExistsError, match="holds a run already"):
        fine_tune_on_preferences.main(options_of(model, tmp_path, epochs=20))
    fine_tune_on_preferences.main(options_of(model, tmp_path, epochs=20, resume=True))


CHANGES: list[dict[str, Any]] = [
    {"loss": "hinge"},
    {"loss": "ipo", "beta": 0.2},
    {"sft_coefficient": 0.5, "max_length": 8},
    {"lora": True, "learning_rate": 3e-2},
]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # by peft, which sets it right
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_every_loss_trains(changes: dict[str, Any], model: Path, tmp_path: Path) -> None:
    fine_tune_on_preferences.main(options_of(model, tmp_path, epochs=7, **changes))
    first, last = evaluations(tmp_path)
    assert (first["step"], last["step"]) == (0, 20)
    assert last["held_out/rewards/margins"] > first["held_out/rewards/margins"] + 0.01
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert ("sft_loss" in metrics[0]) == ("sft_coefficient" in changes)
    assert metrics[0]["learning_rate"] > metrics[-1]["learning_rate"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": 24}, "test_size=24"),
        ({"pairs_per_step": 19}, "rows has 18 rows, fewer than the 19 of a batch"),
        ({"beta": 0.0}, "beta"),
        ({"max_length": 99}, "max_length is 99, expected 2 to 32"),
        ({"dataset": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"model": "./nowhere"}, "there is no folder"),
    ],
)
def test_what_is_wrong_is_told(changes: dict[str, Any], message: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message):
        fine_tune_on_preferences.main(options_of(model, tmp_path, **changes))


@pytest.mark.parametrize("example", [fine_tune_on_preferences, preference_language_model])
def test_help_explains_every_option(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(example.Options, description=example.__doc__, args=["--help"])
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for name in example.Options.__dataclass_fields__:
        assert re.search(rf"--{name.replace('_', '-')}[ ,][^(]* [A-Za-z]+[^(]*\((default|required)", told), name
