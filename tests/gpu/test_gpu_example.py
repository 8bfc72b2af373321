"""The language model example, in small, on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import language_model


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_the_example_runs(
    device: torch.device, algorithm: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without its supervised start, which is on the CPU anyway."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(language_model, "supervised_start", lambda *_: 0)
    trained_on: list[torch.device] = []
    original = language_model.Training.step

    def step(training: language_model.Training) -> Any:
        trained_on.append(training.policy.device)
        return original(training)

    monkeypatch.setattr(language_model.Training, "step", step)
    options = ["--steps", "2", "--prompts-per-step", "8", "--samples", "4", "--algorithm", algorithm]
    language_model.main(language_model.options_from([*options, "--device", str(device)]))
    assert trained_on == [device, device]
    assert (tmp_path / "outputs" / "language_model" / "model.safetensors").is_file()
