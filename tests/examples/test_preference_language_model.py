"""The example of preferences: it learns from its own pairs and from a dataset, and tells what is wrong with options."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict  # type: ignore[import-untyped]
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from grpo import (
    DPOObjective,
    HingePreferenceLoss,
    IdentityPreferenceLoss,
    RobustPreferenceLoss,
    SigmoidPreferenceLoss,
)
from grpo_adapters.huggingface import CausalLMPolicy, character_tokenizer, preferences_of
from preference_language_model import (
    ARITHMETIC,
    WITH_MODEL,
    Options,
    Task,
    Training,
    dataset_task,
    main,
    make_policy,
    options_from,
    read_rows,
)

SCRIPT = Path(__file__).parents[2] / "examples" / "preference_language_model.py"
ROWS = [
    {"prompt": f"say {letter}", "chosen": f" {letter * 3}", "rejected": f" {other}"}
    for letter in "abcdefgh"
    for other in "xyz"
]


def run(*options: str, folder: Path) -> str:
    command = [sys.executable, str(SCRIPT), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_a_run_without_a_dataset(tmp_path: Path) -> None:
    """Shorter than the defaults; it tells right from wrong answers to problems that it was not trained on."""
    printed = run("--epochs", "2", "--save", "trained", folder=tmp_path)
    accuracy = re.search(r"held-out accuracy: ([\d.]+)% of \d{3} pairs, margin", printed)
    assert accuracy is not None
    assert float(accuracy[1]) > 75
    answered = re.search(r"to 500 held-out problems: ([\d.]+)% to [\d.]+% greedy, ([\d.]+)% to", printed)
    assert answered is not None
    assert 20 < float(answered[1]) < 50
    assert 5 < float(answered[2]) < 30
    assert printed.index(" loss ") < printed.index(" before ")
    assert CausalLMPolicy(tmp_path / "trained").complete(["12+34="], max_new_tokens=4)[0].text


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


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def test_a_run_with_a_model_and_a_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write(tmp_path / "pairs.jsonl", [*ROWS, {"prompt": "a", "chosen": "b", "rejected": "b"}])
    arguments = ["--model", str(model), "--dataset", str(dataset), "--held-out", "0.25", "--new-tokens", "5"]
    arguments += ["--epochs", "6", "--pairs-per-step", "6", "--learning-rate", "1e-2", "--device", "cpu"]
    main(options_from([*arguments, "--evaluate-every", "9", "--save", str(tmp_path / "out")]))
    printed = capsys.readouterr().out
    assert "1 of 25 rows are left out" in printed
    assert "18 pairs to train on, 6 held out" in printed
    assert re.search(r"held-out accuracy: 100.0% of 6 pairs", printed)
    assert re.findall(r"^│ (\d+) ", printed, re.M) == ["0", "9", "18"]
    assert "right answers" not in printed
    weights = [AutoModelForCausalLM.from_pretrained(each).state_dict() for each in (model, tmp_path / "out")]
    assert not torch.equal(*(each["transformer.wte.weight"] for each in weights))


LOSSES: list[tuple[list[str], DPOObjective]] = [
    (["--loss", "hinge"], DPOObjective(loss=HingePreferenceLoss(beta=0.1))),
    (["--loss", "ipo", "--beta", "0.2"], DPOObjective(loss=IdentityPreferenceLoss(beta=0.2))),
    (
        ["--loss", "robust", "--label-smoothing", "0.2"],
        DPOObjective(loss=RobustPreferenceLoss(beta=0.1, label_noise=0.2)),
    ),
    (
        ["--label-smoothing", "0.1", "--sft-coefficient", "0.5", "--beta", "0.3"],
        DPOObjective(loss=SigmoidPreferenceLoss(beta=0.3, label_smoothing=0.1), sft_coefficient=0.5),
    ),
    (["--reference-free"], DPOObjective()),
    (["--lora", "--lora-rank", "2"], DPOObjective()),
]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # by peft, which sets it right
@pytest.mark.parametrize(("options", "objective"), LOSSES, ids=[" ".join(options) for options, _ in LOSSES])
def test_every_loss_trains(options: list[str], objective: DPOObjective, model: Path) -> None:
    torch.manual_seed(0)
    arguments = ["--model", str(model), "--dataset", "none", "--epochs", "2", "--pairs-per-step", "5", *options]
    given = options_from([*arguments, "--learning-rate", "3e-2"])
    policy = make_policy(str(model), given)
    pairs = preferences_of(ROWS, policy)
    training = Training(Task(policy, pairs[:20], pairs[20:]), given)
    before = training.evaluate()
    batches = training.batches()
    assert [len(batch) for batch in batches] == [5] * 8
    metrics = [training.trainer.step(batch) for batch in batches]
    assert training.evaluate()["rewards/margins"] > before["rewards/margins"]
    assert ("sft_loss" in metrics[0]) == (given.sft_coefficient > 0)
    assert metrics[0]["learning_rate"] > metrics[-1]["learning_rate"] > 0
    if given.reference_free:
        assert before["rewards/chosen"] == pytest.approx(given.beta * before["logps/chosen"])
    else:
        assert before["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert training.trainer.objective == objective
    share = [value.requires_grad for value in policy.get_parameters().values()]
    assert all(share) != given.lora


def test_answers_are_cut_at_the_maximum(model: Path, tmp_path: Path) -> None:
    dataset = write(tmp_path / "pairs.jsonl", ROWS)
    task = dataset_task(options_from(["--model", str(model), "--dataset", str(dataset), "--max-length", "8"]))
    pairs = [*task.pairs, *task.held_out]
    assert len(pairs) == len(ROWS)
    assert {(len(pair.chosen), pair.chosen.ended) for pair in pairs} == {(3, False)}  # after "say a"
    assert {(len(pair.rejected), pair.rejected.ended) for pair in pairs} == {(3, True)}


def test_each_epoch_visits_each_pair_once(model: Path) -> None:
    given = options_from(["--model", str(model), "--dataset", "none", "--epochs", "2", "--pairs-per-step", "7"])
    policy = make_policy(str(model), given)
    training = Training(Task(policy, preferences_of(ROWS, policy), []), given)
    batches = training.batches()
    assert len(batches) == training.num_steps == 8
    first, second = (
        [pair.chosen.text + pair.rejected.text for batch in half for pair in batch]
        for half in (batches[:4], batches[4:])
    )
    assert sorted(first) == sorted(second) == sorted(row["chosen"] + row["rejected"] for row in ROWS)
    assert first != second


def test_datasets_in_folders(tmp_path: Path) -> None:
    dataset = Dataset.from_list(ROWS)
    dataset.save_to_disk(tmp_path / "one")
    DatasetDict({"train": dataset, "test": dataset.select(range(3))}).save_to_disk(tmp_path / "several")
    (tmp_path / "plain").mkdir()
    write(tmp_path / "plain" / "train.jsonl", ROWS)
    for name in ("one", "several", "plain"):
        assert read_rows(str(tmp_path / name), "train") == ROWS
    assert read_rows(str(tmp_path / "several"), "test") == ROWS[:3]
    assert read_rows(str(tmp_path / "one"), "train", most=4) == ROWS[:4]


BROKEN = [
    (
        '{"prompt": "a", "chosen": "b"',
        r"line 2 of .*rows.jsonl is no JSON \(.*\): {\"prompt\": \"a\", \"chosen\": \"b\"",
    ),
    ('["a"]', r"line 2 of .*rows.jsonl is no row"),
    (
        '{"prompt": "a", "good": "b", "bad": "c"}',
        r"line 2 of .*has no column chosen and no rejected, but \['bad', 'good",
    ),
]


def test_a_line_ends_where_its_file_says(tmp_path: Path) -> None:
    rows = [{"prompt": "a\u2028b\x85c", "chosen": "d", "rejected": "e"}] * 2
    (tmp_path / "rows.jsonl").write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert read_rows(str(tmp_path / "rows.jsonl"), "train") == rows


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_a_broken_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_rows(str(path), "train")


WRONG = [
    (["--dataset", "a"], "--dataset needs --model"),
    (["--model", "a"], "--model needs pairs: give --dataset NAME"),
    (["--epochs", "0"], "--epochs is 0, expected at least 1"),
    (["--pairs-per-step", "-1"], "--pairs-per-step is -1, expected at least 1"),
    (["--micro-batch-size", "0"], "--micro-batch-size is 0"),
    (["--learning-rate", "inf"], "--learning-rate is inf, expected a finite number above 0"),
    (["--seed", "-1"], "--seed is -1, expected 0 or more"),
    (["--beta", "0"], "--beta is 0.0, expected a finite number above 0"),
    (["--beta", "nan"], "--beta is nan"),
    (["--learning-rate", "-1"], "--learning-rate is -1.0"),
    (["--label-smoothing", "0.5"], "--label-smoothing is 0.5, expected a share from 0 to below 0.5"),
    (["--label-smoothing", "0.1", "--loss", "ipo"], "--label-smoothing is for --loss sigmoid and robust"),
    (["--loss", "robust"], "--loss robust needs --label-smoothing"),
    (["--sft-coefficient", "-1"], "--sft-coefficient is -1.0, expected a finite number, 0 or more"),
    (["--held-out", "1"], "--held-out is 1.0, expected a share between 0 and 1"),
    (["--model", "MODEL", "--dataset", "nowhere.jsonl"], "No such file.*nowhere.jsonl"),
    (["--model", "MODEL", "--dataset", "empty.jsonl"], "empty.jsonl has no row"),
    (["--model", "MODEL", "--dataset", "one.jsonl"], "one.jsonl has 1 pairs .* leaves none to train on"),
    (["--model", "MODEL", "--dataset", "unasked.jsonl"], "row 0 has no column 'prompt'"),
    (["--model", "./nowhere", "--dataset", "one.jsonl"], "there is no folder"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_options_are_told_in_a_line(
    options: list[str], message: str, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("one.jsonl"), ROWS[:1])
    write(Path("empty.jsonl"), [])
    write(Path("unasked.jsonl"), [{"chosen": "a", "rejected": "b"}])
    with pytest.raises(SystemExit, match=message):
        main(options_from([str(model) if option == "MODEL" else option for option in options]))


def test_a_model_has_defaults_of_its_own() -> None:
    assert options_from([]) == ARITHMETIC == Options()
    given = options_from(["--model", "gpt2", "--lora"])
    assert (given.beta, given.epochs, given.learning_rate) == (WITH_MODEL.beta, 1, 10 * WITH_MODEL.learning_rate)


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options_from(["--help"])
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for name in Options.__dataclass_fields__:
        assert re.search(rf"--{name.replace('_', '-')}[ ,][^(]* [a-z]+[^(]*\(default", told), name
