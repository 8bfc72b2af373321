"""The language model example: every algorithm trains, a run goes on after it was killed, and own models are trained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from transformers import AutoModelForCausalLM, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

import fine_tune_with_rewards
import language_model
from arithmetic import NUM_HELD_OUT, accuracy, exact_answer, make_problems
from grpo import LinearSchedule, StateLoader, Until
from grpo_adapters.huggingface import CausalLMPolicy, FunctionReward, SamplingConfig, character_tokenizer
from language_model_algorithms import ALGORITHMS

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = (
    "arithmetic",
    "dpo_synthetic",
    "fine_tune_on_preferences",
    "fine_tune_with_rewards",
    "language_model",
    "language_model_algorithms",
    "preference_language_model",
)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 120


def test_held_out_problems_are_not_trained_on() -> None:
    rows, held_out = make_problems(0)
    assert len(held_out) == NUM_HELD_OUT
    assert len({row["prompt"] for row in (*rows, *held_out)}) == 10_000
    assert all(sum(map(int, re.findall(r"\d+", row["prompt"]))) == int(row["answer"][::-1]) for row in rows)


def test_the_start_is_right_less_than_half_the_time(language_model_run: Path, start: Path) -> None:
    [num_steps] = re.findall(r"supervised start: (\d+) steps", (language_model_run / "printed.txt").read_text())
    assert int(num_steps) < 1000
    policy = CausalLMPolicy(start, sampling=SamplingConfig(max_new_tokens=4))
    assert 0.2 < accuracy(policy, make_problems(0)[1]) < 0.5


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_trains(start: Path, algorithm: Any, lora: bool) -> None:
    policy = language_model.make_policy(start, language_model.Options(algorithm=algorithm, lora=lora))
    loader = StateLoader(make_problems(0)[0], 16)
    schedule = LinearSchedule(start=4e-4, end=0.0, num_steps=2)
    settings = {"group_size": 8, "batch_size": 32, "learning_rate": schedule, "seed": 0, "device": "cpu"}
    trainer = ALGORITHMS[algorithm](policy, FunctionReward(exact_answer), loader, settings)
    metrics = [trainer.step(loader.next_states(step)) for step in range(2)]
    assert all(own["skipped_updates"] == 0 for own in metrics)
    most = 1 if algorithm in ("rloo", "reinforce") else 4
    assert metrics[0]["num_updates"] == most or algorithm == "dapo"  # whose groups of equal rewards are left out
    assert 1 <= metrics[0]["num_updates"] <= most
    parameters = policy.get_parameters().values()
    share = sum(value.numel() for value in parameters if value.requires_grad) / sum(v.numel() for v in parameters)
    assert share < 0.05 if lora else share == 1


def test_a_run_without_any_option(language_model_run: Path) -> None:
    """It leaves metrics, completions and a model."""
    folder = language_model_run / "outputs" / "language_model" / "grpo-0"
    printed = (language_model_run / "printed.txt").read_text()
    assert re.search(r"right answers to held-out problems: [\d.]+% before, [\d.]+% after", printed)
    assert [line["step"] for line in lines(folder / "metrics.jsonl")] == [1, 2]
    sampled, likeliest = lines(folder / "evaluations.jsonl")[:2]
    assert 0.05 < sampled["sampled/pass@1"] < likeliest["likeliest/reward"] < sampled["sampled/pass@8"]
    assert CausalLMPolicy(folder / "model").complete([{"prompt": "12+34="}], max_new_tokens=4)[0].text


@pytest.mark.parametrize(("algorithm", "lora"), [("grpo", True), ("ppo", False), ("dapo", False)])
def test_a_run_goes_on_as_if_it_had_not_been_killed(
    start: Path, algorithm: Any, lora: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(language_model, "starting_model", lambda *_: start)
    monkeypatch.setattr(language_model, "PROMPTS", 8)
    problems, held_out = make_problems(0)
    monkeypatch.setattr(language_model, "make_problems", lambda _: (problems, held_out[:20]))

    def make_run(name: str) -> Any:
        return language_model.make_run(
            language_model.Options(algorithm=algorithm, lora=lora, steps=4, folder=tmp_path / name)
        )

    whole, killed = make_run("whole"), make_run("killed")
    whole(Until(steps=4))
    killed(Until(steps=2))
    torch.manual_seed(7)
    resumed = make_run("killed")
    assert resumed.resume()
    resumed(Until(steps=4))
    assert resumed.metrics == whole.metrics
    weights = [run.trainer.policy.state_dict()["weights"] for run in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


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


def own_options(models: Path, folder: Path, **changes: Any) -> Any:
    dataset = folder / "prompts.jsonl"
    dataset.write_text("".join(json.dumps({"prompt": f"{letter} is?"}) + "\n" for letter in "abcdefghijklmn"))
    settings: dict[str, Any] = {"model": str(models / "policy"), "dataset": str(dataset), "held_out": 3}
    settings |= {"rewards": (str(models / "reward"), "format"), "steps": 2, "new_tokens": 6, "folder": folder / "run"}
    return fine_tune_with_rewards.Options(**(settings | changes))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # by peft, which sets it right
@pytest.mark.filterwarnings("ignore:the policy's entropy")
def test_a_model_with_rewards_of_a_model_and_a_function(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine_tune_with_rewards.main(own_options(models, tmp_path, lora=True))
    assert re.search(r"held-out reward -?[\d.]+ after step [02]: ", capsys.readouterr().out)
    folder = tmp_path / "run"
    told = lines(folder / "metrics.jsonl")[-1]
    assert {"rewards/FormatReward/mean", "rewards/SequenceClassificationReward/mean"} & told.keys()
    assert (folder / "model" / "adapter_model.safetensors").is_file()
    assert AutoModelForCausalLM.from_pretrained(folder / "model") is not None
    with pytest.raises(FileExistsError, match="holds a run already"):
        fine_tune_with_rewards.main(own_options(models, tmp_path, lora=True))
    fine_tune_with_rewards.main(own_options(models, tmp_path, lora=True, resume=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": ("math",)}, "answer"),
        ({"rewards": ("nowhere/to/be/found",)}, "there is no folder"),
        ({"model": "nowhere/to/be/found"}, "there is no folder"),
    ],
)
def test_what_is_missing_is_told(changes: dict[str, Any], message: str, models: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message):
        fine_tune_with_rewards.main(own_options(models, tmp_path, **changes))


@pytest.mark.parametrize("example", [fine_tune_with_rewards, language_model])
def test_help_explains_every_option(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(example.Options, description=example.__doc__, args=["--help"])
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for name in example.Options.__dataclass_fields__:
        assert re.search(rf"--{name.replace('_', '-')}[ ,][^(]* [A-Za-z]+[^(]*\((default|required)", told), name
