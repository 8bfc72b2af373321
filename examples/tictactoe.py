"""PPO learns tic-tac-toe by playing older copies of itself; train it, evaluate it against every opponent, or play it.

Each environment holds an opponent: a copy of the policy, frozen up to 64 updates ago, that draws a quarter of its moves
uniformly. Games are trained from the position after up to two random moves of the agent, for a policy that practised
only what it chooses to play would neither answer everything nor, as an opponent, punish everything. Made by

    python examples/tictactoe.py train --save examples/weights/tictactoe.safetensors
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from safetensors.torch import load_file, save_file

from environments import TicTacToe
from environments.tic_tac_toe_analysis import Agent, measure, minimax_agent
from environments.tic_tac_toe_game import play_in_terminal
from environments.tic_tac_toe_players import FrozenCopy, RandomOpening, greedy_agent
from grpo import Callback, Evaluate, LinearSchedule, PPOConfig, PPOTrainer, Run, Until
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic

WEIGHTS = Path(__file__).parent / "weights" / "tictactoe.safetensors"
HIDDEN_SIZES, NUM_ENVS, STEPS_PER_ENV = (128, 64), 64, 32


class SelfPlay(Callback):
    """Gives one environment after the other, before each step, a copy of the policy for its opponent."""

    def start(self, run: Run) -> None:
        self.opponents = [FrozenCopy(run.trainer.policy, random_moves=0.25)] * NUM_ENVS
        run.trainer.sampler.envs.set_attr("opponent", self.opponents)

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        self.opponents[(run.num_steps + 1) % NUM_ENVS] = FrozenCopy(run.trainer.policy, random_moves=0.25)
        run.trainer.sampler.envs.set_attr("opponent", self.opponents)


def train(steps: int = 1_200_000, seed: int = 0, save: Path = Path("outputs/tictactoe.safetensors")) -> None:
    """Train by self-play, save the weights, and write a run to outputs/tictactoe-SEED.

    Args:
        steps: Moves of the agent to train on.
        seed: Of the weights to start from and of all games.
        save: File for the weights.
    """
    torch.set_num_threads(1)
    num_updates = max(1, steps // (NUM_ENVS * STEPS_PER_ENV))
    envs = SyncVectorEnv([lambda: RandomOpening(TicTacToe())] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    sampler = FragmentSampler(envs, STEPS_PER_ENV, seed=seed)
    policy = GymActorCritic(sampler, hidden_sizes=HIDDEN_SIZES, seed=seed)
    config = PPOConfig(
        batch_size=512,
        num_epochs_per_update=6,
        learning_rate=LinearSchedule(start=3e-3, end=0.0, num_steps=num_updates),
        discount=1.0,
        entropy_coefficient=0.05,
        seed=seed,
    )
    save.parent.mkdir(parents=True, exist_ok=True)
    trainer = PPOTrainer(config, policy, EnvironmentReward())
    callbacks = [SelfPlay(), Evaluate(strength_metrics, every=10)]
    Run(trainer, sampler.states, folder=f"outputs/tictactoe-{seed}", callbacks=callbacks)(Until(steps=num_updates))
    save_file(policy.state_dict(), save, metadata={"command": shlex.join(["python", *sys.argv])})
    tell("agent", greedy_agent(policy))
    print(f"weights: {save}; curves: anygrpo plot outputs/tictactoe-{seed}")


def strength_metrics(policy: Any) -> dict[str, float]:
    strengths = measure(greedy_agent(policy)).items()
    losses = {f"losing_lines_{seat}": float(strength.lines.losses) for seat, strength in strengths}
    return losses | {f"beats_random_{seat}": strength.random.win for seat, strength in strengths}


def tell(name: str, agent: Agent) -> None:
    for seat, strength in measure(agent).items():
        lines, win = strength.lines, strength.random.win
        counts = f"lines won {lines.wins:3}, drawn {lines.draws:2}, lost {lines.losses:2}"
        print(f"{name:7} moving {seat:6}  {counts}; beats a random opponent in {win:.2%} of games")


def play(starts: Literal["me", "agent", "random"] = "random", weights: Path = WEIGHTS) -> None:
    """Play against the agent in the terminal.

    Args:
        starts: Who has the first move.
        weights: File that train saved.
    """
    play_in_terminal(load_agent(weights), {"me": True, "agent": False, "random": None}[starts])


def evaluate(weights: Path = WEIGHTS) -> None:
    """Hold the agent against every line of play and a random opponent, beside minimax.

    Args:
        weights: File that train saved.
    """
    tell("agent", load_agent(weights))
    tell("minimax", minimax_agent)


def load_agent(path: Path) -> Agent:
    if not path.is_file():
        raise SystemExit(f"there are no weights at {path}: make them with train --save {path}")
    policy = GymActorCritic(TicTacToe(), hidden_sizes=HIDDEN_SIZES)
    policy.load_state_dict(load_file(path))
    return greedy_agent(policy)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"train": train, "play": play, "evaluate": evaluate}, description=__doc__)
