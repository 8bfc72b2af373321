"""The language model example, in small, on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import arithmetic
import language_model
from grpo import Until


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_the_example_runs(
    device: torch.device, algorithm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without its supervised start, which is on the CPU anyway."""
    monkeypatch.setattr(arithmetic, "supervised_start", lambda *_, **__: 0)
    monkeypatch.setattr(language_model, "PROMPTS", 8)
    run = language_model.make_run(language_model.Options(algorithm=algorithm, steps=2, folder=tmp_path))
    run(Until(steps=2))
    assert run.trainer.policy.device.type == device.type
    assert (tmp_path / f"{algorithm}-0" / "checkpoints" / "step-000000002").is_dir()
