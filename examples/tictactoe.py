"""PPO learns tic-tac-toe by playing older copies of itself; train it, evaluate it against every opponent, or play it.

Each environment holds an opponent: a copy of the policy, frozen at most as many updates ago as there are environments,
that draws a share of its moves uniformly. Games are trained from the position after up to two random moves of the
agent, for a policy that practised only what it chooses to play would neither answer everything nor, as an opponent,
punish everything. The weights beside this script were made by

    python examples/tictactoe.py train --save examples/weights/tictactoe.safetensors
"""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from safetensors.torch import load_file, save_file

from environments import TicTacToe
from environments.tic_tac_toe_analysis import (
    EMPTY_BOARD,
    Agent,
    Outcomes,
    Probabilities,
    enumerate_lines,
    legal_moves,
    minimax_agent,
    outcome_against_random,
    winner,
)
from grpo import LinearSchedule, PPOConfig, PPOTrainer
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic

WEIGHTS = Path(__file__).parent / "weights" / "tictactoe.safetensors"
HIDDEN_SIZES = (128, 64)
NUM_ENVS = 64
STEPS_PER_ENV = 32
MOST_RANDOM_MOVES = 2
TOLERANCE = 0.02
SEATS = {"first": True, "second": False}

console = Console()


@dataclass(frozen=True)
class Train:
    """Train by self-play, save the weights, and draw what was learnt when."""

    steps: int = 1_200_000
    """Moves of the agent to train on."""
    learning_rate: float = 3e-3
    """Learning rate to start from; it falls to 0."""
    entropy_coefficient: float = 0.05
    """Weight of the entropy bonus: what keeps both players trying other moves."""
    random_moves: float = 0.25
    """Share of the opponent's moves that are drawn uniformly."""
    seed: int = 0
    """Of the weights to start from and of all games."""
    save: Path = Path("outputs/tictactoe.safetensors")
    """File for the weights."""
    output: Path = Path("outputs")
    """Folder for the figure."""


@dataclass(frozen=True)
class Play:
    """Play against the agent in the terminal."""

    starts: Literal["me", "agent", "random"] = "random"
    """Who has the first move."""
    weights: Path = WEIGHTS
    """Weights that this script saved."""


@dataclass(frozen=True)
class Evaluate:
    """Hold the agent against every line of play and a random opponent, beside minimax."""

    weights: Path = WEIGHTS
    """Weights that this script saved."""


@dataclass(frozen=True)
class Strength:
    """How good a deterministic agent is with the first or the second move, exactly.

    Attributes:
        lines: its results over all lines of play that an opponent may choose.
        random: probabilities of its results against a uniformly random opponent.
    """

    lines: Outcomes
    random: Probabilities


@dataclass(frozen=True)
class Checkpoint:
    """The agent at some time of the training.

    Attributes:
        steps: moves that it was trained on.
        strengths: in each seat.
    """

    steps: int
    strengths: dict[str, Strength]


def reachable_boards() -> NDArray[np.int8]:
    """The boards on which a move is to be made, with +1 for the stones of the player who makes it, [4520, 9]."""
    found, waiting = {EMPTY_BOARD}, [EMPTY_BOARD]
    while waiting:
        board = waiting.pop()
        for move in legal_moves(board):
            after = tuple(-1 if cell == move else -stone for cell, stone in enumerate(board))
            if after not in found and winner(after) == 0 and legal_moves(after):
                found.add(after)
                waiting.append(after)
    return np.array(sorted(found), dtype=np.int8)


POWERS = 3 ** np.arange(9)
BOARDS = reachable_boards()
OBSERVATIONS = np.concatenate((BOARDS == 1, BOARDS == -1), axis=1).astype(np.float32)
ROWS = np.zeros(3**9, dtype=np.int64)
ROWS[(BOARDS + 1) @ POWERS] = np.arange(len(BOARDS))


def row_of(board: NDArray[np.int8]) -> int:
    """Where a board is among ``BOARDS``."""
    return int(ROWS[(board + 1) @ POWERS])


class FrozenCopy:
    """An opponent who plays as the policy does now, but draws a share of its moves uniformly."""

    @torch.no_grad()
    def __init__(self, policy: GymActorCritic, random_moves: float) -> None:
        empty = torch.from_numpy(BOARDS == 0)
        logits = policy.actor(torch.from_numpy(OBSERVATIONS)).masked_fill(~empty, -torch.inf)
        uniform = empty / empty.sum(1, keepdim=True)
        probabilities = (1 - random_moves) * logits.softmax(1) + random_moves * uniform
        self._cumulative = probabilities.double().cumsum(1).numpy()

    def __call__(self, board: NDArray[np.int8], generator: np.random.Generator) -> int:
        cumulative = self._cumulative[row_of(board)]
        return int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))


class RandomOpening(gymnasium.Wrapper[NDArray[np.float32], np.int64, NDArray[np.float32], np.int64]):
    """Starts a game after up to two random moves of the agent, and the opponent's replies to them."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        for _ in range(self.np_random.integers(MOST_RANDOM_MOVES + 1)):
            move = self.np_random.choice(np.flatnonzero(info["action_mask"]))
            observation, _, over, _, info = self.env.step(move)
            if over:
                return self.reset(options=options)
        return observation, info


def greedy_agent(policy: GymActorCritic) -> Agent:
    """The policy's most probable move on every board."""
    moves = policy.predict(OBSERVATIONS, BOARDS == 0)
    return lambda board: int(moves[row_of(board)])


def load_agent(path: Path) -> Agent:
    """The agent with the weights in a file."""
    if not path.is_file():
        raise SystemExit(f"there are no weights at {path}: make them with train --save {path}")
    policy = GymActorCritic(TicTacToe(), hidden_sizes=HIDDEN_SIZES)
    policy.load_state_dict(load_file(path))
    return greedy_agent(policy)


def measure(agent: Agent) -> dict[str, Strength]:
    """An agent's strength in each seat."""
    return {
        seat: Strength(enumerate_lines(agent, starts), outcome_against_random(agent, starts))
        for seat, starts in SEATS.items()
    }


def train(options: Train) -> None:
    """Train, print how good the agent has become, save weights and figure."""
    torch.set_num_threads(1)
    num_updates = max(1, options.steps // (NUM_ENVS * STEPS_PER_ENV))
    games = [lambda: RandomOpening(TicTacToe())] * NUM_ENVS
    envs = SyncVectorEnv(games, autoreset_mode=AutoresetMode.SAME_STEP)
    sampler = FragmentSampler(envs, STEPS_PER_ENV, seed=options.seed)
    policy = GymActorCritic(sampler, hidden_sizes=HIDDEN_SIZES, seed=options.seed)
    config = PPOConfig(
        batch_size=512,
        num_epochs_per_update=6,
        learning_rate=LinearSchedule(start=options.learning_rate, end=0.0, num_steps=num_updates),
        discount=1.0,
        entropy_coefficient=options.entropy_coefficient,
        seed=options.seed,
    )
    trainer = PPOTrainer(config, policy, EnvironmentReward())
    opponents = [FrozenCopy(policy, options.random_moves)] * NUM_ENVS
    checkpoints = [Checkpoint(0, measure(greedy_agent(policy)))]
    columns = (TextColumn("self-play"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    start = time.perf_counter()
    with Progress(*columns, TextColumn("{task.fields[status]}"), console=console) as progress:
        task = progress.add_task("", total=num_updates, status=describe(checkpoints[-1]))
        for update in range(1, num_updates + 1):
            opponents[update % NUM_ENVS] = FrozenCopy(policy, options.random_moves)
            envs.set_attr("opponent", opponents)
            trainer.step(sampler.states)
            if update % 10 == 0 or update == num_updates:
                checkpoints.append(Checkpoint(update * NUM_ENVS * STEPS_PER_ENV, measure(greedy_agent(policy))))
            progress.update(task, advance=1, status=describe(checkpoints[-1]))
    seconds = time.perf_counter() - start
    print_table(checkpoints[-1].strengths)
    options.save.parent.mkdir(parents=True, exist_ok=True)
    save_file(policy.state_dict(), options.save, metadata={"command": shlex.join(["python", *sys.argv])})
    console.print(f"{checkpoints[-1].steps:,} moves in {seconds:.0f} s")
    console.print(f"weights: {options.save}", f"figure: {draw(checkpoints, options)}", sep="\n")


def describe(checkpoint: Checkpoint) -> str:
    """The agent in a few words."""
    losses = " + ".join(str(strength.lines.losses) for strength in checkpoint.strengths.values())
    wins = " / ".join(f"{strength.random.win:.1%}" for strength in checkpoint.strengths.values())
    return f"losing lines {losses}, beats random {wins}"


def print_table(strengths: dict[str, Strength]) -> None:
    """The agent beside minimax, and whether it is as good."""
    best = measure(minimax_agent)
    table = Table(title="Every line of play, and a random opponent")
    for column in ("", "moves", "lines", "won", "drawn", "lost", "beats random"):
        table.add_column(column, justify="right" if column not in ("", "moves") else "left")
    for name, own in (("agent", strengths), ("minimax", best)):
        for seat, strength in own.items():
            lines = (strength.lines.wins, strength.lines.draws, strength.lines.losses)
            counts = (str(number) for number in (sum(lines), *lines))
            table.add_row(name, seat, *counts, f"{strength.random.win:.2%}")
    console.print(table)
    loses = any(strength.lines.losses > 0 for strength in strengths.values())
    behind = any(strengths[seat].random.win < best[seat].random.win - TOLERANCE for seat in SEATS)
    console.print(f"The agent {'can' if loses else 'cannot'} be beaten.")
    console.print(f"Against a random opponent it is {'not ' if behind else ''}within {TOLERANCE:.2f} of minimax.")


def draw(checkpoints: list[Checkpoint], options: Train) -> Path:
    """Save a figure of the training: lines of play that beat the agent, and how often it beats a random opponent."""
    mpl.use("Agg")
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
    steps, best = [checkpoint.steps for checkpoint in checkpoints], measure(minimax_agent)
    for index, seat in enumerate(SEATS):
        own = [checkpoint.strengths[seat] for checkpoint in checkpoints]
        top.plot(steps, [strength.lines.losses for strength in own], color=f"C{index}", label=f"moving {seat}")
        bottom.plot(steps, [strength.random.win for strength in own], color=f"C{index}", label=f"moving {seat}")
        bottom.axhline(best[seat].random.win, color=f"C{index}", linewidth=1, linestyle="--")
    top.set(title="Lines of play that beat the agent", ylabel="lines", yscale="symlog", ylim=(0, None))
    bottom.set(
        title="Games won against a random opponent (dashed: minimax)",
        xlabel="moves of the agent",
        ylabel="probability",
        ylim=(None, 1),
    )
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "tictactoe.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def play(options: Play) -> None:
    """One game; the person is the agent of the environment, and the agent its opponent."""
    agent = load_agent(options.weights)

    def opponent(board: NDArray[np.int8], generator: np.random.Generator) -> int:
        return agent(board)

    environment = TicTacToe(opponent, render_mode="ansi")
    environment.reset(options={"agent_starts": {"me": True, "agent": False, "random": None}[options.starts]})
    console.print("You play X and start." if environment.agent_starts else "You play O; the agent has started.")
    reward, over = 0.0, False
    while not over:
        console.print(f"\n{environment.render()}\n", highlight=False)
        cell = ask(legal_moves(environment.board))
        if cell is None:
            console.print("\nThe game is left unfinished. Goodbye!")
            return
        _, reward, over, _, _ = environment.step(cell)
    console.print(f"\n{environment.render()}\n", highlight=False)
    console.print({1.0: "You win.", 0.0: "A draw.", -1.0: "The agent wins."}[reward])


def ask(cells: list[int]) -> int | None:
    """One of the cells, which the person counts from 1, asked for until the answer is one; None at the end of input."""
    numbers = [str(cell + 1) for cell in cells]
    while True:
        try:
            answer = console.input(f"Your move ({', '.join(numbers)}): ").strip()
        except (EOFError, KeyboardInterrupt):
            return None
        if answer in numbers:
            return int(answer) - 1
        console.print("Please give the number of an empty cell.")


def main(options: Train | Play | Evaluate) -> None:
    """Do what was asked for."""
    if isinstance(options, Train):
        train(options)
    elif isinstance(options, Play):
        play(options)
    else:
        print_table(measure(load_agent(options.weights)))


if __name__ == "__main__":
    main(tyro.cli(Train | Play | Evaluate, description=__doc__))
