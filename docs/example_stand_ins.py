"""Runs of examples that need what is not at hand, with something small in its place.

In place of a model of the hub comes the tiny one that ``examples/arithmetic.py`` makes, on its sums; in place of vLLM
the server of the tests: ``python docs/example_stand_ins.py engine``.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "examples"), str(ROOT / "tests")]

from engine_server import EngineServer  # noqa: E402

import engine  # noqa: E402
import fine_tune_on_preferences  # noqa: E402
import fine_tune_with_rewards  # noqa: E402
from arithmetic import LONGEST_ANSWER, Row, make_problems, starting_model  # noqa: E402

HERE = Path()


def start() -> tuple[str, list[Row]]:
    """A model that gets one sum in four right, and the sums to train on."""
    rows, _ = make_problems(0)
    return str(starting_model(HERE, rows, seed=0)), rows


def write(name: str, rows: list[dict[str, str]]) -> str:
    (HERE / name).write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return name


def with_rewards() -> None:
    """Rewarded is the right number."""
    model, rows = start()
    fine_tune_with_rewards.main(
        fine_tune_with_rewards.Options(
            model,
            write("problems.jsonl", list(rows)),
            ("math",),
            held_out=256,
            steps=60,
            new_tokens=LONGEST_ANSWER,
            learning_rate=1e-3,
        )
    )


def on_preferences() -> None:
    """Preferred is the right answer to that of another sum."""
    model, rows = start()
    answers = [row["answer"] for row in rows]
    random.Random(0).shuffle(answers)  # noqa: S311
    pairs = [
        {"prompt": row["prompt"], "chosen": row["answer"], "rejected": other}
        for row, other in zip(rows[:3000], answers, strict=False)
    ]
    fine_tune_on_preferences.main(
        fine_tune_on_preferences.Options(
            model, write("preferences.jsonl", pairs), held_out=256, micro_batch_size=32, learning_rate=3e-4
        )
    )


def with_engine() -> None:
    """The server samples in a thread of this process."""
    problems, _ = make_problems(0)
    model = starting_model(HERE, problems, 0, **engine.START)
    served = AutoModelForCausalLM.from_pretrained(model)
    with EngineServer(served, AutoTokenizer.from_pretrained(model), max_length=16) as server:
        engine.main(engine.Options(url=(server.url,), steps=30, prompts=64, folder=HERE))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {
        "engine": with_engine,
        "fine_tune_on_preferences": on_preferences,
        "fine_tune_with_rewards": with_rewards,
    }[sys.argv[1]]()
