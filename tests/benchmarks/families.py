"""What works with which family of language models in transformers: ``python tests/benchmarks/families.py``.

Each family of the table in ``tests/language_model_families.py`` is built with random weights, as small as it can be,
and compared with the plain model. The rows go into ``docs/reference/language-model-families.md`` too. Families as
arguments are checked alone, and the page stays as it is. The last line is JSON.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import warnings
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests")]

from family_checks import FamilyResult, check_family  # noqa: E402
from language_model_families import FAMILIES  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "language-model-families.md"
TABLE = re.compile(r"(?<=<!-- families -->\n).*(?=<!-- /families -->)", re.DOTALL)
COLUMNS = [
    "family",
    "log-probs",
    "gradients",
    "greedy",
    "LoRA",
    "checkpointing",
    "bfloat16",
    "fused",
    "padded",
    "cache",
]


def cells(name: str, result: FamilyResult) -> list[str]:
    """A row of the table."""
    errors = [result.log_probs, result.gradients], [result.lora, result.checkpointing, result.bfloat16]
    before, after = (["–" if error is None else f"{error:.0e}" for error in part] for part in errors)
    ways = ["yes" if way else "no" for way in (result.fuses_head, result.pads, result.caches)]
    return [f"`{name}`", *before, f"{result.greedy:.0%}", *after, *ways]


def line(texts: list[str]) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(texts) + " |"


def main() -> None:
    """Check, print, and write the page."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    names = sys.argv[1:] or list(FAMILIES)
    results = {}
    table = [line(COLUMNS), line(["---"] * len(COLUMNS))]
    print("\n".join(table))
    for name in names:
        results[name] = check_family(name)
        table.append(line(cells(name, results[name])))
        print(table[-1], flush=True)
    if names == list(FAMILIES):
        versions = f"{len(names)} families of transformers {transformers.__version__}, PyTorch {torch.__version__}:"
        written = "\n".join([versions, "", *table, ""])
        page, count = TABLE.subn(lambda _: written, PAGE.read_text())
        assert count == 1, f"{PAGE.name} has {count} places for the table"
        PAGE.write_text(page)
    print(json.dumps({name: dataclasses.asdict(result) for name, result in results.items()}))


if __name__ == "__main__":
    main()
