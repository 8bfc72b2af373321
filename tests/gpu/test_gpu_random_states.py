"""A failed step leaves every generator as it was, those of the device among them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from device_models import MovableRewards, SentencesOnDevice, share_of_ones
from torch import Tensor

from grpo import GRPOConfig, GRPOTrainer
from grpo.models._random_states import RestoresRandomStates


def drawn(device: torch.device) -> list[Any]:
    """What each of the global generators gives next."""
    numbers = torch.rand(4, device=device).tolist()
    return [numbers, torch.rand(4).tolist(), random.random(), float(np.random.rand())]  # noqa: NPY002


class FailingRewards(MovableRewards):
    """Draws from all global generators, then gives NaN where it is to fail."""

    fails = True

    def compute_rewards(self, states: Any, actions: Any) -> Tensor:
        drawn(torch.device(self.device))
        rewards = super().compute_rewards(states, actions)
        return rewards * float("nan") if self.fails else rewards


def test_global_generators_are_restored(device: torch.device) -> None:
    torch.rand(1, device=device)
    states = RestoresRandomStates([])
    with states:
        before = drawn(device)
        states.restore()
        again = drawn(device)
    assert before == again
    assert drawn(device) != before


def test_a_failed_step_leaves_all_generators_as_they_were(device: torch.device) -> None:
    found = []
    for fails_first in (False, True):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        policy, rewards = SentencesOnDevice(device), FailingRewards(share_of_ones, device)
        trainer = GRPOTrainer(GRPOConfig(batch_size=8), policy, rewards)
        if fails_first:
            with pytest.raises(ValueError, match="returned nan for sample 0"):
                trainer.step([1, 2, 3])
        rewards.fails = False
        metrics = trainer.step([1, 2, 3])
        found.append((metrics, policy.generator.get_state().tolist(), drawn(device)))
    assert found[0] == found[1]
