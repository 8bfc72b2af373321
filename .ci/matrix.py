"""Test the core with each Python and PyTorch of matrix.json, installed from its wheel, in an environment of its own.

Every cell whose Python is on the path is tested; ``python .ci/matrix.py 3.12`` tests those of one Python,
``python .ci/matrix.py 3.12 2.14`` one cell.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TESTS_NEED = ["datasets", "hypothesis", "pandas", "pytest"]


def cells() -> list[dict[str, str]]:
    """Every pair of a Python and a PyTorch, and what is included besides, as a workflow's matrix reads the file."""
    matrix: dict[str, Any] = json.loads((ROOT / ".ci" / "matrix.json").read_text())
    pairs = [{"python": python, "torch": torch} for python in matrix["python"] for torch in matrix["torch"]]
    return [*pairs, *matrix["include"]]


def requirements(cell: Mapping[str, str]) -> list[str]:
    """The minor versions of a cell, its Python left out."""
    return [f"{name}=={version}.*" for name, version in cell.items() if name != "python"]


def interpreter_of(version: str) -> str | None:
    """The Python of a version, if there is one that runs: managers of versions put empty stand-ins on the path."""
    found = shutil.which(f"python{version}")
    runs = found and subprocess.run([found, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0
    return found if runs else None


def test(cell: Mapping[str, str], interpreter: str) -> bool:
    """Whether the core's tests pass in a new environment."""
    with tempfile.TemporaryDirectory() as folder:
        python = f"{folder}/bin/python"
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        steps = [
            [interpreter, "-m", "venv", folder],
            [*install, f"{ROOT}[gym]", *requirements(cell), *TESTS_NEED],
            [f"{folder}/bin/pytest", "-q", "tests/core"],  # python -m pytest would import the tree
        ]
        return all(subprocess.run(step, cwd=ROOT).returncode == 0 for step in steps)


def main(chosen: list[str]) -> int:
    """Test the chosen cells, and say what became of each."""
    asked = [cell for cell in cells() if [cell["python"], cell["torch"]][: len(chosen)] == chosen]
    if not asked:
        raise SystemExit(f"{' '.join(chosen)} is in no cell of matrix.json: name a Python, and a PyTorch after it")
    outcomes = {}
    for cell in asked:
        interpreter = interpreter_of(cell["python"])
        if interpreter is None:
            outcome = "not tested: there is no such Python here"
        else:
            outcome = "passed" if test(cell, interpreter) else "failed"
        outcomes[f"Python {cell['python']}, PyTorch {cell['torch']}"] = outcome
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome}")
    is_good = "passed" in outcomes.values() and "failed" not in outcomes.values()
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
