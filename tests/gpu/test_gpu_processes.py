"""One process of a group: NCCL on a GPU, gloo on the CPU; a language model in its parts, of which there is one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from language_models import PROMPTS, build_model, build_policy
from torch import distributed

from grpo import GRPOConfig, GRPOTrainer, World
from grpo_adapters.huggingface import FSDP2Config, FunctionReward


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world whose process group is there, as torchrun with one process makes it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    yield World.from_environment(timeout=60)
    distributed.destroy_process_group()


def test_sums_on_the_device(world: World, device: torch.device) -> None:
    tensor = torch.arange(5.0, device=device)
    distributed.all_reduce(tensor)
    assert tensor.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert "nccl" in distributed.get_backend() or device.type == "cpu"
    assert world.begin_sum(tensor).wait() is tensor


def train(world: World, device: torch.device, shard: FSDP2Config | None) -> tuple[float, dict[str, float]]:
    """A parameter's norm and the metrics after two steps."""
    policy = build_policy(model=build_model().to(device), shard=shard)
    reward = FunctionReward(lambda prompts, completions, **kwargs: [float(len(text)) for text in completions])
    config = GRPOConfig(group_size=4, micro_batch_size=4, learning_rate=1e-3)
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(config, policy, reward, world=world)
    metrics = [trainer.step(PROMPTS[:3]) for _ in range(2)][-1]
    norms = [torch.linalg.vector_norm(tensor.detach()) for tensor in policy.get_parameters().values()]
    whole = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
    return float(torch.stack(whole).norm()), metrics


def test_a_language_model_in_one_part(world: World, device: torch.device) -> None:
    expected, expected_metrics = train(world, device, None)
    norm, metrics = train(world, device, FSDP2Config())
    assert norm == pytest.approx(expected, rel=1e-5)
    for name, value in expected_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
