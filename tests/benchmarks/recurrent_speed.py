"""Environment steps per second of recurrent PPO: this library beside sb3-contrib's RecurrentPPO.

Both take turns in one process on one thread, a rollout and its updates at a time, on CartPole with the defaults of
RecurrentPPO: 128 steps of each of 8 environments, 10 epochs, updates of 128 steps. An LSTM of 64 units, of which that
library's critic makes use without training it, and a layer of 64 units for the actor and the critic each. Gradients go
back over fragments of 128 steps, as there, and once more over windows of 32 steps, four to an update. The last line
holds the ratios of the medians as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import torch
import tyro

from alternating import median_seconds
from grpo import PPOConfig, PPOTrainer
from grpo_adapters.gym import LSTM, EnvironmentReward, FragmentSampler, GymActorCritic
from stable_baselines3_ppo import their_iteration

NUM_ENVS, NUM_STEPS, NUM_EPOCHS, STEPS_OF_UPDATE, NUM_UNITS = 8, 128, 10, 128, 64


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    rounds: int = 7
    """Turns that each takes."""


def our_iteration(window: int) -> Callable[[], object]:
    """A rollout and its updates of this library's, with gradients over so many steps."""
    envs = gymnasium.make_vec(
        "CartPole-v1",
        NUM_ENVS,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP, "copy": False},
    )
    sampler = FragmentSampler(envs, NUM_STEPS)
    policy = GymActorCritic(sampler, memory=LSTM(4, NUM_UNITS), window=window, hidden_sizes=(NUM_UNITS,))
    config = PPOConfig(batch_size=STEPS_OF_UPDATE // window, num_epochs_per_update=NUM_EPOCHS)
    trainer = PPOTrainer(config, policy, EnvironmentReward())
    return lambda: trainer.step(sampler.states)


def sb3_contrib_iteration() -> Callable[[], object]:
    """A rollout and its updates of sb3-contrib's."""
    # Here, since pytest imports this module in search of doctests, and need not have the library.
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.env_util import make_vec_env

    model = RecurrentPPO(
        "MlpLstmPolicy",
        make_vec_env("CartPole-v1", NUM_ENVS, seed=0),
        n_steps=NUM_STEPS,
        batch_size=STEPS_OF_UPDATE,
        n_epochs=NUM_EPOCHS,
        policy_kwargs={
            "lstm_hidden_size": NUM_UNITS,
            "shared_lstm": True,
            "enable_critic_lstm": False,
            "net_arch": {"pi": [NUM_UNITS], "vf": [NUM_UNITS]},
        },
        seed=0,
        device="cpu",
    )
    return their_iteration(model, 10**9)


def ratios(options: Options) -> dict[str, float]:
    """Take turns and print; how many times as fast as sb3-contrib."""
    jobs = {
        "ours": our_iteration(NUM_STEPS),
        "ours, windows of 32": our_iteration(32),
        "sb3-contrib": sb3_contrib_iteration(),
    }
    for job in jobs.values():
        job()
    seconds = median_seconds(jobs, rounds=options.rounds, calls=1)
    for name, own in seconds.items():
        print(f"{name:20s} {NUM_ENVS * NUM_STEPS / own:8,.0f} steps/s")
    return {name: round(seconds["sb3-contrib"] / seconds[name], 2) for name in list(jobs)[:2]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(ratios(tyro.cli(Options, description=__doc__))))
