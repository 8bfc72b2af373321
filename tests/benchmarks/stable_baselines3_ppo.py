"""PPO of Stable-Baselines3 on the settings of the hand-written loop."""

from __future__ import annotations

import math

from hand_written_ppo import HIDDEN_UNITS, Settings


class StableBaselines3PPO:
    """One rollout and its updates at a time, by the body of the loop in ``OnPolicyAlgorithm.learn``.

    That is ``collect_rollouts`` and ``train`` as they are, without ``dump_logs``. ``learn`` itself is no unit: each
    call would let the schedules fall to 0 anew. What ``train`` records for the log is what ``iteration`` reports.

    The environments come from ``make_vec_env``, each in a ``Monitor``, one after another in a ``DummyVecEnv``. Left to
    itself it asks for ``render_mode="rgb_array"``, with which LunarLander simulates particles for the picture.
    """

    def __init__(self, settings: Settings, render_mode: str | None = None) -> None:
        # Here, since pytest imports this module in search of doctests, and need not have the library.
        from stable_baselines3 import PPO  # type: ignore[import-not-found, unused-ignore]
        from stable_baselines3.common.env_util import make_vec_env  # type: ignore[import-not-found, unused-ignore]

        self.settings = settings

        def schedule(initial: float) -> float | object:
            return (lambda remaining: initial * max(0.0, remaining)) if settings.anneal else initial

        self.model = PPO(
            "MlpPolicy",
            make_vec_env(
                settings.environment, settings.num_envs, seed=settings.seed, env_kwargs={"render_mode": render_mode}
            ),
            n_steps=settings.num_steps,
            batch_size=settings.batch_size,
            n_epochs=settings.num_epochs,
            gamma=settings.discount,
            gae_lambda=settings.gae_lambda,
            ent_coef=settings.entropy_coefficient,
            learning_rate=schedule(settings.learning_rate),
            clip_range=schedule(settings.clip_range),
            vf_coef=settings.value_coefficient,
            max_grad_norm=settings.max_grad_norm,
            policy_kwargs={"net_arch": {"pi": [HIDDEN_UNITS] * 2, "vf": [HIDDEN_UNITS] * 2}},
            seed=settings.seed,
            device="cpu",
        )
        _, self.callback = self.model._setup_learn(settings.total_steps)

    @property
    def env_steps(self) -> int:
        """Steps of all environments so far."""
        return int(self.model.num_timesteps)

    def iteration(self) -> dict[str, float]:
        """Sample one rollout, make its updates and report on both."""
        model = self.model
        model.collect_rollouts(model.env, self.callback, model.rollout_buffer, n_rollout_steps=model.n_steps)
        model._update_current_progress_remaining(model.num_timesteps, self.settings.total_steps)
        model.train()
        recorded = model.logger.name_to_value
        returns = [episode["r"] for episode in model.ep_info_buffer]
        return {
            "policy_loss": float(recorded["train/policy_gradient_loss"]),
            "value_loss": float(recorded["train/value_loss"]),
            "entropy": -float(recorded["train/entropy_loss"]),
            "approx_kl": float(recorded["train/approx_kl"]),
            "clip_fraction": float(recorded["train/clip_fraction"]),
            "explained_variance": float(recorded["train/explained_variance"]),
            "loss": float(recorded["train/loss"]),
            "episode_return": sum(returns) / len(returns) if returns else math.nan,
        }
