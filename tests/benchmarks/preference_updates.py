"""Whether both sides of preference_speed.py make the same updates: a few steps of each from the same parameters.

The last line holds the largest differences as JSON, each relative to the largest value: of losses, clipped gradients,
averaged as Adam does, and parameters.
"""

from __future__ import annotations

import json
import tempfile
from typing import Any

import our_preference_step
import torch
import trl_preference_step
import tyro
from our_preference_step import OurWork
from torch import Tensor

NUM_STEPS = 3


def largest_differences(work: OurWork) -> dict[str, float]:
    """The largest differences over the first steps."""
    trainer, batches = our_preference_step.build_trainer(work)
    ours, theirs = [], []
    for _ in range(NUM_STEPS):
        loss = trainer.step(next(batches))["loss"]
        ours.append(_after_step(loss, trainer.policy.get_parameters().values(), trainer.optimizer))

    def end_step(trl_trainer: Any) -> bool:
        loss = trl_trainer.last_loss.item()
        theirs.append(_after_step(loss, trl_trainer.model.parameters(), trl_trainer.optimizer))
        return len(theirs) < NUM_STEPS

    with tempfile.TemporaryDirectory() as output_dir:
        trl_preference_step.build_trainer(work, output_dir, end_step).train()
    return {
        name: max(_difference(own[name], its[name]) for own, its in zip(ours, theirs, strict=True)) for name in ours[0]
    }


def _after_step(loss: float, parameters: Any, optimizer: Any) -> dict[str, Tensor]:
    each = list(parameters)
    return {
        "loss": torch.tensor(loss),
        "gradients": torch.cat([optimizer.state[parameter]["exp_avg"].flatten() for parameter in each]),
        "parameters": torch.cat([parameter.detach().flatten() for parameter in each]),
    }


def _difference(own: Tensor, its: Tensor) -> float:
    return ((own - its).abs().max() / its.abs().max()).item()


if __name__ == "__main__":
    print(json.dumps(largest_differences(tyro.cli(OurWork, description=__doc__))))
