"""A small language model learns to play a game of several turns, by GRPO.

In one game it works with a calculator, a tool; in the other it looks for a key and a door, in an environment. Nothing
is downloaded: a transformer of 100,000 parameters is made and shown how some games are played, until it wins a few of
others. From then on it is told nothing but whether it has won.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from adventure_game import ADVENTURE
from agent_start import starting_policy
from calculator_game import CALCULATOR
from grpo import (
    Checkpoints,
    Evaluate,
    GRPOConfig,
    GRPOTrainer,
    LinearSchedule,
    MonteCarlo,
    Run,
    StateLoader,
    Until,
    group_time_baseline,
)
from grpo_adapters.huggingface import ConversationReward

GAMES = {"calculator": CALCULATOR, "adventure": ADVENTURE}
PROMPTS, SAMPLES, UPDATES = 64, 8, 4  # of a rollout


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    game: Literal["calculator", "adventure"] = "calculator"
    """What is played."""
    credit: Literal["conversation", "turn"] = "conversation"
    """Whether a conversation is credited as a whole, or each turn for what came after it."""
    steps: int = 100
    """Rollouts to train on."""
    seed: int = 0
    """Of everything that is random."""
    folder: Path = Path("outputs/agent")
    """Where each run has a folder of its own, named by game, credit and seed."""
    resume: bool = False
    """Go on with a run that was interrupted."""


def make_trainer(options: Options, policy: Any) -> GRPOTrainer[Any, Any]:
    """Updates the policy from conversations."""
    config = GRPOConfig(
        group_size=SAMPLES,
        batch_size=PROMPTS * SAMPLES // UPDATES,
        learning_rate=LinearSchedule(start=GAMES[options.game].learning_rate, end=0.0, num_steps=options.steps),
        seed=options.seed,
    )
    by_turn = options.credit == "turn"
    return GRPOTrainer(
        config,
        policy,
        ConversationReward("turn" if by_turn else "conversation"),
        sampler=GAMES[options.game].sampler(),
        advantage_estimator=MonteCarlo(baseline=group_time_baseline) if by_turn else None,
    )


def make_run(options: Options) -> Run:
    """Everything that is trained, and what is looked at on the way."""
    game = GAMES[options.game]
    folder = options.folder / f"{options.game}-{options.credit}-{options.seed}"
    rows, held_out = game.make_rows(options.seed)
    loader = StateLoader(rows, PROMPTS, seed=options.seed)
    return Run(
        make_trainer(options, starting_policy(folder, game, rows, options.seed)),
        loader,
        folder=folder,
        checkpoints=Checkpoints(every=10),
        callbacks=[Evaluate(game.accuracy(held_out), every=10)],
    )


def main(options: Options) -> None:
    """Train, save the model, and say what it has learnt."""
    torch.set_num_threads(1)  # models this small run fastest on one thread
    run = make_run(options)
    if options.resume:
        run.resume()
    run(Until(steps=options.steps))
    run.trainer.policy.save_pretrained(f"{run.folder}/model")
    print(f"held-out games won: {run.evaluation['evaluation/reward']:.1%}, see {run.folder}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
