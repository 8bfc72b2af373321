"""A short training of a bandit by several processes, which ``torchrun`` starts, or a test in its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from grpo import Callback, Checkpoints, GRPOConfig, GRPOTrainer, Run, StateLoader, Until, World
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit


class Dies(Callback):
    """Kills one process after the seventh step, the first time that it comes there."""

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        if run.world.rank == 1 and run.num_steps == 7 and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
            os.kill(os.getpid(), signal.SIGKILL)


def train(world: World, folder: Path) -> list[float]:
    """Train for ten steps, from the last checkpoint where there is one; the logits."""
    policy = SoftmaxPolicy(3, torch.Generator().manual_seed(3))
    config = GRPOConfig(group_size=4, learning_rate=0.1)
    trainer = GRPOTrainer(config, policy, StationaryBandit([0.1, 0.5, 0.9], seed=1), world=world)
    states = StateLoader(["a", "b", "c", "d", "e"], batch_size=3)
    run = Run(trainer, states, folder=folder, checkpoints=Checkpoints(every=3), callbacks=[Dies()])
    if run.resume():
        assert run.num_steps == 6
    run(Until(steps=10))
    return [value for parameter in policy.get_parameters().values() for value in parameter.tolist()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    ours, place = World.from_environment(timeout=30), Path(sys.argv[1])
    assert World.from_environment(timeout=30).sum(torch.ones(1)) == ours.size  # a second world is apart from the first
    logits = train(ours, place / "run")
    (place / f"logits-{ours.rank}").write_text(repr(logits))
