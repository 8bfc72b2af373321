"""The command that evaluates a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from grpo import CheckpointError, load_best_weights, load_latest_weights
from grpo_adapters.cli.arguments import parse
from grpo_adapters.cli.errors import UsageError
from grpo_adapters.cli.kinds import EvaluationOptions, kind_called
from grpo_adapters.cli.training import stored


def evaluate(words: Sequence[str]) -> int:
    """Evaluate the policy of a run; the exit status."""
    asked = parse(EvaluationOptions, words, command="evaluate", required=("folder",))
    name, settings = stored(asked.folder)
    kind = kind_called(name)
    told = ""

    def load(policy: Any) -> None:
        nonlocal told
        told = _load(policy, asked)

    result = kind.evaluate(kind.load(settings), asked, load)
    Console().print(Text(f"{told}\n{result}"), soft_wrap=True)
    return 0


def _load(policy: Any, asked: EvaluationOptions) -> str:
    """Give a policy its weights; which they are, in words."""
    try:
        if asked.latest or not (asked.folder / "best").is_dir():
            return f"weights of step {load_latest_weights(policy, asked.folder):,}, the latest checkpoint"
        note = load_best_weights(policy, asked.folder)
    except (CheckpointError, ValueError) as error:
        raise UsageError(str(error)) from error
    return f"weights of step {note['step']:,}, where {note['metric']} was best, {note['value']:.6g}"
