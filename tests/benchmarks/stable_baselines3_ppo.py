"""PPO of Stable-Baselines3 by the settings of this library's.

The library is imported in functions, since pytest imports this module in search of doctests, and need not have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from grpo import LinearSchedule, PPOConfig

Environment = gymnasium.Env[Any, Any]


def their_environments(
    make: Callable[[], Environment],
    num_envs: int,
    config: PPOConfig,
    *,
    normalize_observations: bool = False,
    normalize_rewards: bool = False,
) -> Any:
    """Environments as ``make_vec_env`` sets them up, each in a ``Monitor``, one after another in a ``DummyVecEnv``.

    Left to itself ``make_vec_env`` asks for ``render_mode="rgb_array"``, with which LunarLander simulates particles for
    the picture; what ``make`` does not ask for is left out.
    """
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    envs = make_vec_env(
        make, num_envs, seed=config.seed, wrapper_class=_with_numbers if normalize_observations else None
    )
    if not normalize_observations and not normalize_rewards:
        return envs
    return VecNormalize(envs, norm_obs=normalize_observations, norm_reward=normalize_rewards, gamma=config.discount)


def _with_numbers(environment: Environment) -> Environment:
    """Observations as floating-point numbers: those that are normalised would be stored in the dtype of their space."""
    return gymnasium.wrappers.DtypeObservation(environment, np.float32)


def their_ppo(
    config: PPOConfig, envs: Any, num_steps: int, *, hidden_sizes: Sequence[int] = (64, 64), initial_std: float = 1.0
) -> Any:
    """Their trainer with the settings of ours, ``num_steps`` in each environment between two updates."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.preprocessing import is_image_space

    assert config.batch_size is not None
    assert config.max_grad_norm is not None
    assert not isinstance(config.entropy_coefficient, LinearSchedule), "their bonus has no schedule"
    sizes = list(hidden_sizes)
    return PPO(
        "CnnPolicy" if is_image_space(envs.observation_space) else "MlpPolicy",
        envs,
        n_steps=num_steps,
        batch_size=config.batch_size,
        n_epochs=config.num_epochs_per_update,
        gamma=config.discount,
        gae_lambda=config.gae_lambda,
        ent_coef=config.entropy_coefficient,
        learning_rate=schedule(config.learning_rate),
        clip_range=schedule(config.clip_high),
        vf_coef=config.value_coefficient,
        max_grad_norm=config.max_grad_norm,
        policy_kwargs={"net_arch": {"pi": sizes, "vf": sizes}, "log_std_init": math.log(initial_std)},
        seed=config.seed,
        device="cpu",
    )


def schedule(number: float | LinearSchedule) -> Any:
    """A number, or what Stable-Baselines3 takes for a schedule that ends with the training."""
    if isinstance(number, LinearSchedule):
        return lambda remaining: number.end + (number.start - number.end) * max(0.0, remaining)
    return number


def their_iteration(model: Any, total_steps: int) -> Callable[[], None]:
    """One rollout and its updates at a time, by the body of the loop in ``OnPolicyAlgorithm.learn``.

    That is ``collect_rollouts`` and ``train`` as they are, without ``dump_logs``. ``learn`` itself is no unit: each
    call would let the schedules fall to 0 anew.
    """
    _, callback = model._setup_learn(total_steps)

    def iteration() -> None:
        model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=model.n_steps)
        model._update_current_progress_remaining(model.num_timesteps, total_steps)
        model.train()

    return iteration


def greedy_return(model: Any, environment: Environment, episodes: int, seed: int) -> float:
    """Mean return of a model's likeliest actions, in episodes that begin with ``seed`` and those after it."""
    normalizer = model.get_vec_normalize_env()
    returns = np.zeros(episodes)
    for episode in range(episodes):
        observation, _ = environment.reset(seed=seed + episode)
        done = False
        while not done:
            seen = observation if normalizer is None else normalizer.normalize_obs(observation)
            action, _ = model.predict(seen, deterministic=True)
            observation, reward, terminated, truncated, _ = environment.step(action)
            returns[episode] += float(reward)
            done = terminated or truncated
    return float(returns.mean())
