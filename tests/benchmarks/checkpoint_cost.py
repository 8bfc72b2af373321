"""What a run costs beside the steps in it: the loop, saving a large model while it trains, and finding a position.

    python tests/benchmarks/checkpoint_cost.py

The last line is JSON: ``lunar_lander_ratio``, the time of a run's step over that of ``trainer.step`` (bar 1.03);
``bandit_microseconds``, what a run with a folder adds to a step on a ten-arm bandit (bar 50); ``save_ratio``, for how
long an asynchronous save of 124 million parameters with AdamW's state stops training, over the time of a plain copy of
the same tensors in memory (bar 1.2); ``position_milliseconds``, to go on at row 10 million of a shuffled loader, and to
give the next batch.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from alternating import median_seconds
from grpo import Checkpoints, GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, Run, StateLoader, Until
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic

ROWS = 1_000_003
POSITION = 10_000_000
LAYERS, WIDTH, VOCABULARY, CONTEXT = 12, 768, 50_257, 1_024


def loop_seconds(
    make_trainer: Callable[[], tuple[Any, Any]], folder: Path, *, rounds: int, calls: int
) -> dict[str, float]:
    """Seconds of a step in a plain loop, and in a run that writes its metrics into a folder."""
    (plain, states), (trainer, _) = make_trainer(), make_trainer()
    run = Run(trainer, states, folder=folder)

    def in_a_run() -> None:
        run(Until(steps=run.num_steps + calls))

    def in_a_loop() -> None:
        for _ in range(calls):
            plain.step(states)

    in_a_run()
    in_a_loop()
    seconds = median_seconds({"loop": in_a_loop, "run": in_a_run}, rounds=rounds, calls=1)
    return {name: value / calls for name, value in seconds.items()}


def lunar_lander() -> tuple[Any, Any]:
    """PPO, 16 environments of 256 steps each."""
    envs = gymnasium.make_vec(
        "LunarLander-v3",
        num_envs=16,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )
    sampler = FragmentSampler(envs, num_steps=256, environments_in_state="restart")
    config = PPOConfig(batch_size=64, num_epochs_per_update=4, learning_rate=3e-4)
    return PPOTrainer(config, GymActorCritic(sampler), EnvironmentReward()), sampler.states


def bandit() -> tuple[Any, Any]:
    """Ten arms, a group of 16."""
    trainer = GRPOTrainer(
        GRPOConfig(group_size=16), SoftmaxPolicy(10), StationaryBandit([arm / 10 for arm in range(10)])
    )
    return trainer, ["the only state"]


class LargePolicy:
    """The tensors of GPT-2, of which only a few are read: its steps cost little, its state is whole."""

    def __init__(self) -> None:
        shapes = {"wte": (VOCABULARY, WIDTH), "wpe": (CONTEXT, WIDTH), "ln_f": (2, WIDTH)}
        for layer in range(LAYERS):
            shapes[f"h.{layer}.ln"] = (4, WIDTH)
            shapes[f"h.{layer}.attention"] = (WIDTH + 1, 4 * WIDTH)
            shapes[f"h.{layer}.up"] = (WIDTH + 1, 4 * WIDTH)
            shapes[f"h.{layer}.down"] = (4 * WIDTH, WIDTH)
        self.parameters = {name: torch.randn(shape).requires_grad_() for name, shape in shapes.items()}

    def log_probabilities(self) -> Tensor:
        """Of two actions, through every tensor, so that AdamW has a state for each."""
        return torch.stack([parameter[0, :2] for parameter in self.parameters.values()]).mean(0).log_softmax(0)

    def generate_actions(self, states: Sequence[Any], num_actions_per_state: int, **kwargs: Any) -> Tensor:
        return torch.multinomial(
            self.log_probabilities().exp().expand(len(states), 2), num_actions_per_state, replacement=True
        )

    def get_log_probabilities(self, states: Sequence[Any], actions: Any) -> Tensor:
        return self.log_probabilities()[torch.as_tensor(actions)]

    def get_parameters(self) -> Mapping[str, Tensor]:
        return self.parameters

    def train(self) -> None: ...

    def eval(self) -> None: ...

    def to(self, device: Any) -> None: ...


def save_seconds(folder: Path, rounds: int = 5) -> dict[str, float]:
    """For how long a save stops training, beside a copy of the same tensors; what is written then is waited for."""
    policy = LargePolicy()
    trainer: Any = GRPOTrainer(GRPOConfig(group_size=4), policy, StationaryBandit([0.0, 1.0]))
    run = Run(trainer, ["state"], folder=folder, checkpoints=Checkpoints(every=10**9, keep_last=1, asynchronous=True))
    run(Until(steps=3))
    tensors = [*policy.parameters.values()]
    tensors += [value for state in trainer.optimizer.state.values() for value in state.values()]
    print(f"  {sum(tensor.numel() for tensor in policy.parameters.values()) / 1e6:.0f} million parameters")
    assert run._run_folder is not None
    assert run._run_folder.writer is not None
    seconds: dict[str, list[float]] = {"copy": [], "save": []}
    for _ in range(rounds):
        run._run_folder.writer.wait()
        began = time.perf_counter()
        copies = [tensor.detach().clone() for tensor in tensors]
        seconds["copy"].append(time.perf_counter() - began)
        del copies
        run._saved_step = None
        began = time.perf_counter()
        run._save()
        seconds["save"].append(time.perf_counter() - began)
    run._run_folder.close()
    return {name: statistics.median(values) for name, values in seconds.items()}


def position_seconds() -> float:
    """To go on far along, and to give the next batch."""
    rows = range(ROWS)
    state = StateLoader(rows, 64).state_dict() | {"position": POSITION}
    loader = StateLoader(rows, 64)
    began = time.perf_counter()
    loader.load_state_dict(state)
    loader.next_states(0)
    return time.perf_counter() - began


def main() -> None:
    """Print the times, and what they come to last."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        lander = loop_seconds(lunar_lander, Path(scratch) / "lander", rounds=9, calls=1)
        print(f"LunarLander, a step: {lander['loop']:.3f} s in a loop, {lander['run']:.3f} s in a run")
        arms = loop_seconds(bandit, Path(scratch) / "bandit", rounds=15, calls=500)
        print(f"ten arms, a step: {arms['loop'] * 1e6:.0f} µs in a loop, {arms['run'] * 1e6:.0f} µs in a run")
        print("a large model with AdamW's state")
        save = save_seconds(Path(scratch) / "save")
        print(f"  a copy takes {save['copy']:.2f} s, a save stops training for {save['save']:.2f} s")
        position = position_seconds()
        print(f"the position of a loader: {position * 1e3:.1f} ms")
    figures = {
        "lunar_lander_ratio": lander["run"] / lander["loop"],
        "bandit_microseconds": (arms["run"] - arms["loop"]) * 1e6,
        "save_ratio": save["save"] / save["copy"],
        "position_milliseconds": position * 1e3,
    }
    print(json.dumps({name: round(figure, 3) for name, figure in figures.items()}))


if __name__ == "__main__":
    main()
