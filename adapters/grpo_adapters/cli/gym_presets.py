"""Settings with which known environments of gymnasium are learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpo_adapters.cli.toml_files import read_toml

ZOO = Path(__file__).parent.parent / "zoo"
"""A file of settings each; what was reached with them is on the page of the zoo."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "ppo": {"num_envs": 8, "num_steps": 256, "until_decisions": 500_000},
    "grpo": {
        "num_envs": 32,
        "num_groups": 4,
        "group_size": 8,
        "batch_size": 1024,
        "num_epochs_per_update": 4,
        "max_grad_norm": 0.5,
        "loss_averaging": "per_decision",
        "until_decisions": 500_000,
    },
    "reinforce": {"num_envs": 16, "num_groups": 16, "until_decisions": 500_000},
}
"""Of environments that have none, by algorithm."""


def zoo_files() -> dict[str, Path]:
    """The files of the zoo, by name."""
    return {path.stem: path for path in sorted(ZOO.glob("*.toml"))}


def preset(environment: str, algorithm: str) -> dict[str, Any]:
    """The settings for an environment, by name."""
    for path in zoo_files().values():
        settings = read_toml(path)
        if (settings.pop("environment"), settings.pop("algorithm")) == (environment, algorithm):
            return settings
    return DEFAULTS[algorithm]
