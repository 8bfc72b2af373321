"""What the examples of language models share: rows from files and datasets, adapters, and what is told of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import load_dataset, load_from_disk  # type: ignore[import-untyped]
from peft import LoraConfig
from rich.console import Console

from grpo_adapters.huggingface import CausalLMPolicy

LORA_FACTOR = 10

console = Console()


def read_prompts(path: Path) -> list[Any]:
    """A prompt on each line that is not empty; rows with a column ``prompt`` where the file's name ends in .jsonl."""
    if path.suffix == ".jsonl":
        return read_json_lines(path, {"prompt"})
    with path.open(encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file if line.strip()]


def read_json_lines(path: Path, columns: Set[str]) -> list[dict[str, Any]]:
    """A row from each line that is not empty, which must have the columns."""
    rows = []
    with path.open(encoding="utf-8") as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, start=1)]
    for number, line in lines:
        if not line:
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {path} is no JSON ({error.msg}): {line[:60]}") from error
        if not isinstance(row, dict):
            raise ValueError(f'line {number} of {path} is no row {{"{min(columns)}": ...}}: {line[:60]}')
        if missing := sorted(columns - row.keys()):
            raise ValueError(f"line {number} of {path} has no column {' and no '.join(missing)}, but {sorted(row)}")
        rows.append(row)
    return rows


def load_rows(name: str, path: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a folder that ``save_to_disk`` wrote, of another folder, or of a dataset on the hub."""
    if (path / "dataset_dict.json").is_file():
        return list(load_from_disk(path / split))
    if (path / "state.json").is_file():
        return list(load_from_disk(path))
    return list(load_dataset(str(path) if path.is_dir() else name, split=split))


def lora_config(rank: int) -> LoraConfig:
    """Adapters of a rank for all linear layers."""
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def share_trained(policy: CausalLMPolicy) -> str:
    """How many of a policy's parameters are trained, in words."""
    parameters = policy.get_parameters().values()
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in parameters)
    return f"{trained:,} of {total:,} parameters ({trained / total:.1%})"


def prompt_text(state: Any) -> str:
    """What a state asks: of chat messages the last."""
    prompt = state["prompt"] if isinstance(state, dict) else state
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


@contextmanager
def errors_without_traceback() -> Iterator[None]:
    """What is wrong with the options is told in a line."""
    try:
        yield
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise SystemExit(str(error)) from error
