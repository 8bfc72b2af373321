"""Settings with which known environments of gymnasium are learnt.

Those of PPO are rl-zoo3's, but for two things: Acrobot needs far fewer steps, and Pendulum is learnt without
exploration that depends on the state.
"""

from __future__ import annotations

from typing import Any

CARTPOLE_STEPS = 100_000 // (8 * 32)

PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("CartPole-v1", "ppo"): {
        "num_envs": 8,
        "num_steps": 32,
        "batch_size": 256,
        "num_epochs_per_update": 20,
        "learning_rate": {"start": 1e-3, "end": 0.0, "num_steps": CARTPOLE_STEPS},
        "clip_low": {"start": 0.2, "end": 0.0, "num_steps": CARTPOLE_STEPS},
        "clip_high": {"start": 0.2, "end": 0.0, "num_steps": CARTPOLE_STEPS},
        "discount": 0.98,
        "gae_lambda": 0.8,
        "until_decisions": 100_000,
    },
    ("Acrobot-v1", "ppo"): {
        "num_envs": 16,
        "num_steps": 256,
        "batch_size": 64,
        "num_epochs_per_update": 4,
        "discount": 0.99,
        "gae_lambda": 0.94,
        "normalize_observations": True,
        "until_decisions": 200_000,
    },
    ("Pendulum-v1", "ppo"): {
        "num_envs": 4,
        "num_steps": 1024,
        "batch_size": 64,
        "num_epochs_per_update": 10,
        "learning_rate": 1e-3,
        "discount": 0.9,
        "gae_lambda": 0.95,
        "until_decisions": 100_000,
    },
    ("LunarLander-v3", "ppo"): {
        "num_envs": 16,
        "num_steps": 1024,
        "batch_size": 64,
        "num_epochs_per_update": 4,
        "discount": 0.999,
        "gae_lambda": 0.98,
        "entropy_coefficient": 0.01,
        "until_decisions": 1_000_000,
    },
    ("CartPole-v1", "grpo"): {
        "num_envs": 32,
        "num_groups": 4,
        "group_size": 8,
        "batch_size": 256,
        "num_epochs_per_update": 10,
        "learning_rate": 1e-3,
        "max_grad_norm": 0.5,
        "loss_averaging": "per_decision",
        "until_decisions": 100_000,
    },
    ("CartPole-v1", "reinforce"): {
        "num_envs": 10,
        "num_groups": 10,
        "learning_rate": {"start": 1e-2, "end": 0.0, "num_steps": 150},
        "until_steps": 150,
    },
}
"""By environment and algorithm."""

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


def preset(environment: str, algorithm: str) -> dict[str, Any]:
    """The settings for an environment, by name."""
    return PRESETS.get((environment, algorithm), DEFAULTS[algorithm])
