"""A run that was killed at any moment and resumed writes what one that was never killed does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

KILLS = 6
TRAININGS = ["bandit", "cartpole", "compiled", "lunar-lander", "language-model", "preferences"]
TESTS = Path(__file__).parent.parent


def test_what_was_killed_and_resumed_is_bitwise_what_was_not(tmp_path: Path) -> None:
    """In a process of its own, which has no threads, and without anything that was compiled before."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, str(TESTS / "reliability" / "kill.py"), "--kills", str(KILLS)],
        env=os.environ | {"PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == TRAININGS
    for line in lines:
        assert f" {KILLS} kills" in line
        assert line.split(": ")[1].startswith("OK")
