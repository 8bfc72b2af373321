"""PPO lands on the moon: train it with rl-zoo3's settings, or watch the trained policy that lies beside this script.

Made by: python examples/lunarlander_ppo.py train --seeds 1 --save examples/weights/lunarlander.safetensors
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import gymnasium
import torch
import tyro
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordVideo
from safetensors.torch import load_model, save_model

from grpo import Evaluate, GRPOConfig, GRPOTrainer, MonteCarlo, PPOConfig, PPOTrainer, Run, Until, group_time_baseline
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, FragmentSampler, GymActorCritic, GymPolicy, evaluate

ENVIRONMENT = "LunarLander-v3"
WEIGHTS = Path(__file__).parent / "weights" / "lunarlander.safetensors"


def build_ppo(seed: int) -> tuple[Any, Any]:
    envs = gymnasium.make_vec(ENVIRONMENT, 16, "sync", {"autoreset_mode": AutoresetMode.SAME_STEP})
    sampler = FragmentSampler(envs, num_steps=1024, seed=seed)
    config = PPOConfig(
        batch_size=64,
        num_epochs_per_update=4,
        learning_rate=3e-4,
        discount=0.999,
        gae_lambda=0.98,
        entropy_coefficient=0.01,
        seed=seed,
    )
    return PPOTrainer(config, GymActorCritic(sampler, seed=seed), EnvironmentReward()), sampler.states


def build_grpo(seed: int) -> tuple[Any, Any]:
    policy = GymPolicy(EpisodeSampler(partial(gymnasium.make, ENVIRONMENT), num_envs=32), seed=seed)
    config = GRPOConfig(
        group_size=8,
        batch_size=1024,
        num_epochs_per_update=4,
        learning_rate=1e-3,
        entropy_coefficient=0.01,
        max_grad_norm=0.5,
        loss_averaging="per_decision",
        advantage_normalization="per_step",
        seed=seed,
    )
    credit = MonteCarlo(discount=0.99, baseline=group_time_baseline)
    trainer = GRPOTrainer(config, policy, EnvironmentReward(), advantage_estimator=credit)
    return trainer, lambda step: [100_000 * seed + 4 * step + start for start in range(4)]


def train_one(seed: int, algorithm: str, steps: int, save: Path | None, output: Path) -> str:
    torch.set_num_threads(1)
    trainer, states = {"ppo": build_ppo, "grpo": build_grpo}[algorithm](seed)
    environment = gymnasium.make(ENVIRONMENT)
    evaluation = Evaluate(lambda policy: {"mean_return": evaluate(policy, environment, 20, seed=10**6).mean}, every=3)
    run = Run(trainer, states, folder=output / f"{algorithm}-{seed}", callbacks=[evaluation])
    run(Until(decisions=steps))
    if save is not None and seed == 0:
        save_model(trainer.policy, str(save))
    result = evaluate(trainer.policy, environment, 100, seed=2 * 10**6)
    return f"{algorithm}, seed {seed}, {run.num_decisions:,} steps: {result}"


def train(
    algorithm: Literal["ppo", "grpo"] = "ppo",
    steps: int = 1_000_000,
    seeds: int = 3,
    save: Path | None = None,
    output: Path = Path("outputs/lunarlander"),
) -> None:
    """Train with several seeds, in a process each.

    Args:
        algorithm: PPO with a critic, or GRPO, which compares 8 episodes from each of 4 starts instead.
        steps: Environment steps to train on.
        seeds: How many trainings.
        save: File for the weights of seed 0.
        output: Folder for the runs, to be drawn by anygrpo plot.
    """
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
    training = partial(train_one, algorithm=algorithm, steps=steps, save=save, output=output)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        for result in processes.map(training, range(seeds)):
            print(result, flush=True)
    print(f"curves: anygrpo plot {output}/*")


def play(weights: Path = WEIGHTS, episodes: int = 100, render: bool = False, video: Path | None = None) -> None:
    """Play episodes with trained weights.

    Args:
        weights: File that train saved, with PPO.
        episodes: How many.
        render: Show them in a window.
        video: Folder for a film of each episode.
    """
    if not weights.is_file():
        raise SystemExit(f"there are no weights at {weights}: make them with train --save {weights}")
    environment: Any = gymnasium.make(ENVIRONMENT, render_mode="human" if render else "rgb_array" if video else None)
    if video is not None:
        environment = RecordVideo(environment, str(video), episode_trigger=lambda _: True)
    policy = GymActorCritic(environment)
    load_model(policy, str(weights))
    print(f"{ENVIRONMENT}: {evaluate(policy, environment, episodes)}")
    environment.close()


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"train": train, "evaluate": play}, description=__doc__)
