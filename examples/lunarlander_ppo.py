"""PPO lands on the moon: train it with rl-zoo3's settings, or watch the trained policy that lies beside this script.

The weights were made by

    python examples/lunarlander_ppo.py train --seeds 1 --save examples/weights/lunarlander.safetensors
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import tyro
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordVideo
from rich.console import Console
from safetensors.torch import load_model, save_model

from grpo import GRPOConfig, GRPOTrainer, MonteCarlo, PPOConfig, PPOTrainer, group_time_baseline
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, FragmentSampler, GymActorCritic, GymPolicy, evaluate
from learning import Advance, Run, learn, report, run_seeds, save_learning_curves

ENVIRONMENT = "LunarLander-v3"
BAR = 240.0
WEIGHTS = Path(__file__).parent / "weights" / "lunarlander.safetensors"


@dataclass(frozen=True)
class Train:
    """Train with several seeds, and draw the learning curves."""

    algorithm: Literal["ppo", "grpo"] = "ppo"
    """PPO with a critic, or GRPO, which compares episodes from the same start instead."""
    steps: int = 1_000_000
    """Environment steps to train on."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 3
    """Trainings, each with a seed of its own."""
    save: Path | None = None
    """File for PPO's weights of the first seed."""
    output: Path = Path("outputs")
    """Folder for the figure."""


@dataclass(frozen=True)
class Evaluate:
    """Play episodes with trained weights."""

    weights: Path = WEIGHTS
    """Weights of a policy that this script trained with PPO."""
    episodes: int = 100
    """Episodes to play."""
    render: bool = False
    """Show them in a window."""
    video: Path | None = None
    """Folder for a film of each episode."""


def train_ppo(options: Train, seed: int, advance: Advance) -> Run:
    """16 environments side by side, 1,024 steps of each between updates."""
    envs = gymnasium.make_vec(
        ENVIRONMENT, num_envs=16, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    sampler = FragmentSampler(envs, num_steps=1024, seed=seed)
    policy = GymActorCritic(sampler, seed=seed)
    config = PPOConfig(
        batch_size=64,
        num_epochs_per_update=4,
        learning_rate=3e-4,
        discount=0.999,
        gae_lambda=0.98,
        entropy_coefficient=0.01,
        seed=seed,
    )
    trainer = PPOTrainer(config, policy, EnvironmentReward())
    run = learn(
        trainer,
        policy,
        lambda: sampler.states,
        gymnasium.make(ENVIRONMENT),
        advance,
        seed=seed,
        max_steps=options.steps,
    )
    if options.save is not None and seed == 0:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        save_model(policy, str(options.save))
    return run


def train_grpo(options: Train, seed: int, advance: Advance) -> Run:
    """Groups of 8 episodes from each of 4 starts, each step credited against the others at the same time."""
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
    estimator = MonteCarlo(discount=0.99, baseline=group_time_baseline)
    trainer = GRPOTrainer(config, policy, EnvironmentReward(), advantage_estimator=estimator)
    starts = count(seed * options.steps)
    return learn(
        trainer,
        policy,
        lambda: [next(starts) for _ in range(4)],
        gymnasium.make(ENVIRONMENT),
        advance,
        seed=seed,
        max_steps=options.steps,
    )


def train(options: Train) -> None:
    """Train with every seed, and show what was learnt."""
    name = options.algorithm.upper()
    runs = {
        name: run_seeds(
            partial({"ppo": train_ppo, "grpo": train_grpo}[options.algorithm], options), options.seeds, name
        )
    }
    report(f"{ENVIRONMENT}, greedy policy on 100 fresh episodes", runs, BAR)
    save_learning_curves(options.output / f"lunarlander_{options.algorithm}.png", f"{name} on {ENVIRONMENT}", runs, BAR)


def every_episode(episode: int) -> bool:
    return True


def play(options: Evaluate) -> None:
    """Play, and say how it went."""
    if not options.weights.is_file():
        raise SystemExit(f"there are no weights at {options.weights}: make them with train --save {options.weights}")
    mode = "human" if options.render else "rgb_array" if options.video is not None else None
    environment: gymnasium.Env[Any, Any] = gymnasium.make(ENVIRONMENT, render_mode=mode)
    if options.video is not None:
        environment = RecordVideo(environment, str(options.video), episode_trigger=every_episode)
    policy = GymActorCritic(environment)
    load_model(policy, str(options.weights))
    result = evaluate(policy, environment, options.episodes)
    environment.close()
    Console().print(f"{ENVIRONMENT}: {result}")


def main(options: Train | Evaluate) -> None:
    """Do what was asked for."""
    if isinstance(options, Train):
        train(options)
    else:
        play(options)


if __name__ == "__main__":
    main(tyro.cli(Train | Evaluate, description=__doc__))
