"""How often a step makes the CPU wait for the device; without a GPU, for one that is pretended."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from device_models import MovableRewards, SentencesOnDevice, SequentialTableOnDevice, TableOnDevice, share_of_ones
from devices import Build, Machine, waits_of
from language_models import PROMPTS, ShareOf, build_model, build_policy
from pretend_device import PRETENDED, pretended_device
from torch import Tensor

from grpo import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, PreferenceCollector
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
from grpo_adapters.huggingface import Completion, SamplingConfig

NUM_STEPS = 8


class Share(ShareOf):
    """The share of a character, on a device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def compute_rewards(self, states: Sequence[Any], actions: Sequence[Completion]) -> Tensor:
        return super().compute_rewards(states, actions).to(self.device)


def bandit(device: torch.device) -> Callable[[], Any]:
    trainer = GRPOTrainer(GRPOConfig(device=str(device)), SoftmaxPolicy(4), StationaryBandit([0.1, 0.2, 0.3, 0.4]))
    return lambda: trainer.step(["the only state"])


def tables(kind: type[TableOnDevice]) -> Build:
    def build(device: torch.device) -> Callable[[], Any]:
        policy, states = kind(device), torch.arange(3).to(device)
        trainer = GRPOTrainer(
            GRPOConfig(), policy, MovableRewards(lambda state, action: float(state == action), device)
        )
        return lambda: trainer.step(states)

    return build


def sentences(**settings: Any) -> Build:
    def build(device: torch.device) -> Callable[[], Any]:
        policy = SentencesOnDevice(device)
        trainer = GRPOTrainer(GRPOConfig(**settings), policy, MovableRewards(share_of_ones, device))
        return lambda: trainer.step([1, 2, 3, 4])

    return build


def preferences(device: torch.device) -> Callable[[], Any]:
    policy = SentencesOnDevice(device)
    pairs = PreferenceCollector(policy, MovableRewards(share_of_ones, device), group_size=8).collect([1, 2, 3, 4])
    trainer = DPOTrainer(DPOConfig(), policy, SentencesOnDevice(device))
    return lambda: trainer.step(pairs.preferences)


def collected_pairs(device: torch.device) -> Callable[[], Any]:
    collector = PreferenceCollector(SentencesOnDevice(device), MovableRewards(share_of_ones, device), group_size=8)
    return lambda: collector.collect([1, 2, 3, 4] * 4)


def language_model(**settings: Any) -> Build:
    def build(device: torch.device) -> Callable[[], Any]:
        sampling = SamplingConfig(max_new_tokens=NUM_STEPS)
        policy: Any = build_policy(model=build_model("qwen3").to(device), sampling=sampling)
        trainer: Any = GRPOTrainer(GRPOConfig(group_size=3, **settings), policy, Share(device))
        return lambda: trainer.step(PROMPTS)

    return build


MOST: dict[str, tuple[Build, int]] = {
    "bandit": (bandit, 14),
    "minimal policy": (tables(TableOnDevice), 14),
    "sequential policy": (tables(SequentialTableOnDevice), 14),
    "sequences": (sentences(), 22),
    "sequences, 4 micro-batches": (sentences(micro_batch_size=8), 52),
    "sequences, 4 updates": (sentences(batch_size=8), 62),
    "preferences": (preferences, 24),
    "pairs of 16 groups": (collected_pairs, 20),
    "language model, 8 tokens": (language_model(), 80),
    "language model, 8 tokens, 4 micro-batches": (language_model(micro_batch_size=3), 125),
}
"""The kinds of steps, and how often each may wait."""


@pytest.mark.parametrize("name", MOST)
def test_a_step_seldom_waits(name: str, machine: Machine, figures: dict[str, Any]) -> None:
    build, most = MOST[name]
    places = waits_of(build, machine)
    figures[f"waits: {name}"] = len(places)
    assert 0 < len(places) <= most, sorted(places)


def test_waits_are_counted(machine: Machine) -> None:
    """On a CPU none are found, whatever is computed."""
    values = torch.ones(3, device=machine.device)
    with machine.counted_waits() as places:
        assert values.sum().item() == 3.0
    assert len(places) == machine.has_gpu


def test_other_warnings_go_on_where_waits_are_counted(machine: Machine) -> None:
    with pytest.warns(UserWarning, match="of another kind"), machine.counted_waits():
        warnings.warn("of another kind", stacklevel=1)


def test_pretended_waits_are_counted() -> None:
    with pretended_device() as waits:
        values = torch.arange(4.0).to(PRETENDED)
        assert values.sum().item() == 6.0
        assert values[values > 1].tolist() == [2.0, 3.0]
    assert waits == {"copy": 1, "_local_scalar_dense": 1, "boolean index": 1, "tolist": 1}
