"""A run of the language model example, made once for all tests and processes of a session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

SCRIPT = Path(__file__).parents[2] / "examples" / "language_model.py"


@pytest.fixture(scope="session")
def language_model_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which it ran without any option, but for how long it takes; ``printed.txt`` is what it told."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = root / "language_model_run"
    with FileLock(root / "language_model_run.lock"):
        if not folder.exists():
            unfinished = root / "language_model_run.unfinished"
            unfinished.mkdir()
            command = [sys.executable, str(SCRIPT), "--steps", "2"]
            outcome = subprocess.run(command, capture_output=True, text=True, check=False, cwd=unfinished, timeout=300)
            assert outcome.returncode == 0, outcome.stderr
            (unfinished / "printed.txt").write_text(outcome.stdout)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def start(language_model_run: Path) -> Path:
    """A model after its supervised start."""
    return language_model_run / "outputs" / "language_model" / "grpo-0" / "start-0"
