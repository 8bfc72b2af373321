"""Processes that train one policy may share an engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_server import EngineServer
from language_models import PROMPTS, ShareOf, build_model, build_policy, build_tokenizer
from peft import LoraConfig
from processes import answers_of_ranks, on_ranks

from grpo import GRPOConfig, GRPOTrainer, World
from grpo_adapters.huggingface.engines import VLLM, EngineSampler, FolderTransfer

LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


@pytest.fixture
def engine() -> Iterator[EngineServer]:
    with EngineServer(build_model("llama", seed=5), build_tokenizer()) as running:
        yield running


def trains(world: World, url: str, folder: str | None, has_adapter: bool) -> tuple[float, float, set[int]]:
    torch.manual_seed(0)
    policy = build_policy("llama", peft_config=LORA if has_adapter else None)
    sampler = EngineSampler(url, weights=FolderTransfer(folder), patience=20, timeout=20)
    config = GRPOConfig(group_size=2, learning_rate=0.01)
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(config, policy, ShareOf(), sampler=sampler, world=world)
    retries = 0.0
    versions = set()
    for _ in range(3):
        trainer.step(world.share(PROMPTS[:3]))
        retries += sampler.get_metrics()["engine/retries"]
        assert trainer.last_experience is not None
        versions |= {action.weights_version for action in trainer.last_experience.actions}
    return retries, sum(float(tensor.double().sum()) for tensor in policy.get_parameters().values()), versions


@pytest.mark.parametrize("has_adapter", [False, True])
@pytest.mark.parametrize("shares_folder", [False, True])
def test_processes_share_an_engine(
    engine: EngineServer, tmp_path: Path, has_adapter: bool, shares_folder: bool
) -> None:
    if has_adapter:
        engine.initial = build_model("llama")
        engine.forget()
    told = on_ranks(2, trains, engine.url, str(tmp_path) if shares_folder else None, has_adapter)
    assert [retries for retries, _, _ in told] == [0, 0]
    assert told[0][1] == told[1][1]
    assert all(versions == {1, 2, 3} for _, _, versions in told)


def lets_sleep(world: World, url: str) -> None:
    EngineSampler(url, dialect=VLLM(sleep_level=1)).join_world(world)


def test_an_engine_that_others_use_must_not_sleep() -> None:
    for _, error, _ in answers_of_ranks(2, lets_sleep, "http://127.0.0.1:9"):
        assert isinstance(error, ValueError)
        assert "shared by several processes" in str(error)
