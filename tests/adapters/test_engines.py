"""An inference engine samples with the policy's weights, tells its log-probs, and is gone on with after it failed."""

from __future__ import annotations

import asyncio
import re
import textwrap
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_server import EngineServer
from language_models import PROMPTS, ShareOf, build_model, build_policy, build_tokenizer
from peft import LoraConfig
from torch import Tensor

from grpo import GRPOConfig, GRPOTrainer
from grpo_adapters.checksums import checksum
from grpo_adapters.huggingface import Completion, SamplingConfig
from grpo_adapters.huggingface.decoding.sampling import next_token_probabilities
from grpo_adapters.huggingface.engines import (
    VLLM,
    EngineAnswerError,
    EngineSampler,
    EngineUnreachableError,
    EngineWeightsError,
    FolderTransfer,
    IPCTransfer,
    NCCLTransfer,
    SGLang,
    gpu_transfer,
    servers,
    session,
)

DOCUMENTATION = Path(__file__).parents[2] / "docs"
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
FILTERED = SamplingConfig(max_new_tokens=6, temperature=0.7, top_k=9, top_p=0.9, stop_strings=("7", "a a"))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "POLLING_SECONDS", 0.02)
    monkeypatch.setattr(session, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(session, "LONGEST_PAUSE", 0.01)


def server(**options: Any) -> EngineServer:
    """One that was started with other weights than the policy's."""
    return EngineServer(build_model("llama", seed=5), build_tokenizer(), **options)


def policy(**options: Any) -> Any:
    return build_policy("llama", **options)


@pytest.fixture
def engine() -> Iterator[EngineServer]:
    with server() as running:
        yield running


def shifted(policy: Any) -> Any:
    """The policy after a change of its weights."""
    with torch.no_grad():
        for weight in policy.get_parameters().values():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.05)
    return policy


def expected_log_probs(policy: Any, prompt: str, completion: Completion, sampling: SamplingConfig) -> Tensor:
    """What the policy draws the tokens with, from a forward pass of the completion alone."""
    prompt_ids = policy.tokenizer(prompt)["input_ids"]
    tokens = torch.tensor([[*prompt_ids, *completion.token_ids]])
    with torch.no_grad():
        logits = policy.causal_model(input_ids=tokens).logits[0, len(prompt_ids) - 1 : -1]
    return next_token_probabilities(logits, sampling).gather(1, tokens[0, len(prompt_ids) :, None]).squeeze(1).log()


def check_log_probs(policy: Any, groups: Sequence[Sequence[Completion]]) -> None:
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for own in group:
            ours = expected_log_probs(policy, prompt, own, policy.sampling)
            torch.testing.assert_close(torch.tensor(own.log_probs), ours, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dialect", [VLLM(), SGLang()])
def test_log_probs_are_those_of_the_policy_after_every_change(engine: EngineServer, dialect: Any) -> None:
    trained, sampler = policy(sampling=FILTERED), EngineSampler(engine.url, dialect=dialect)
    for version in (1, 2, 3):
        groups = sampler.sample(shifted(trained), PROMPTS, 3)
        check_log_probs(trained, groups)
        completions = [own for group in groups for own in group]
        assert {own.weights_version for own in completions} == {version}
        assert all(own.text == trained.tokenizer.decode(own.token_ids, skip_special_tokens=True) for own in completions)
        whole = [trained.tokenizer.decode(own.token_ids) for own in completions]  # special tokens part what stops
        ended = [
            0 in own.token_ids or "7" in text or "a a" in text for own, text in zip(completions, whole, strict=True)
        ]
        assert ended == [own.ended for own in completions]


def test_weights_are_sent_once_for_each_change(engine: EngineServer, tmp_path: Path) -> None:
    trained, sampler = policy(), EngineSampler(engine.url, weights=FolderTransfer(tmp_path))
    for changes in (False, False, True, False):
        if changes:
            shifted(trained)
        sampler.sample(trained, PROMPTS[:1], 1)
    assert len(engine.requests("/collective_rpc")) == 2
    assert len(engine.requests("/reset_prefix_cache")) == 2
    assert [path.name for path in tmp_path.iterdir()] == [engine.version]


def test_an_adapter_travels_alone(engine: EngineServer, tmp_path: Path) -> None:
    engine.initial = build_model("llama")
    engine.forget()
    trained = policy(peft_config=LORA, sampling=FILTERED)
    sampler = EngineSampler(engine.url, weights=FolderTransfer(tmp_path))
    for _ in range(2):
        check_log_probs(shifted(trained), sampler.sample(trained, PROMPTS, 2))
    assert not engine.requests("/collective_rpc")
    [name] = engine.adapters
    assert not list((tmp_path / name).glob("model*.safetensors"))
    engine.forget()
    check_log_probs(trained, sampler.sample(trained, PROMPTS, 2))


def test_a_checksum_sees_every_bit() -> None:
    weights = {"a": torch.zeros(7), "b": torch.ones(3, 2, dtype=torch.bfloat16)}
    seen = {checksum(weights)}
    for change in (
        lambda: weights["a"].data.fill_(-0.0),
        lambda: weights["b"].data[2, 1].fill_(1.0078125),
        lambda: weights["a"].data.copy_(torch.tensor([1.0, 2, 0, 0, 0, 0, 0])),
        lambda: weights["a"].data.copy_(torch.tensor([2.0, 1, 0, 0, 0, 0, 0])),
        lambda: weights.update(b=weights["b"].reshape(2, 3)),
        lambda: weights.update(c=weights.pop("a")),
    ):
        change()
        seen.add(checksum(weights))
    assert len(seen) == 7
    assert checksum(weights) in seen


@pytest.mark.parametrize("fault", ["error", "cut", "abort", "restart"])
def test_a_request_that_fails_is_repeated(engine: EngineServer, fault: str) -> None:
    trained, sampler = policy(), EngineSampler(engine.url)
    sampler.sample(trained, PROMPTS, 2)
    engine.faults.extend(["", fault])
    check_log_probs(trained, sampler.sample(trained, PROMPTS, 2))
    assert sampler.get_metrics()["engine/retries"] >= 1
    assert len(engine.requests("/collective_rpc")) == (2 if fault == "restart" else 1)


def test_a_server_that_hangs_is_not_waited_for(engine: EngineServer) -> None:
    sampler = EngineSampler(engine.url, timeout=0.5)
    sampler.sample(policy(), PROMPTS[:1], 1)
    engine.faults.append("hang")
    sampler.sample(policy(), PROMPTS[:1], 1)
    assert sampler.get_metrics()["engine/retries"] == 1


def test_a_server_that_is_started_again_gets_the_weights_again(engine: EngineServer) -> None:
    trained, sampler = policy(), EngineSampler(engine.url)
    sampler.sample(trained, PROMPTS, 2)
    engine.stop()
    later = threading.Timer(0.3, engine.start)
    later.start()
    check_log_probs(trained, sampler.sample(trained, PROMPTS, 2))
    later.join()
    assert len(engine.requests("/collective_rpc")) == 2


def test_requests_are_spread_and_go_to_the_other_server_where_one_is_gone() -> None:
    trained = policy()
    with server() as first, server() as second:
        sampler = EngineSampler([first.url, second.url])
        check_log_probs(trained, sampler.sample(trained, PROMPTS, 2))
        assert (
            len(first.requests("/v1/completions")) == len(second.requests("/v1/completions")) == 1 + len(PROMPTS) // 2
        )
        second.stop()
        check_log_probs(trained, sampler.sample(shifted(trained), PROMPTS, 2))
        assert len(first.requests("/v1/completions")) == 1 + len(PROMPTS) // 2 + len(PROMPTS)
        second.start()
        check_log_probs(trained, sampler.sample(trained, PROMPTS, 2))


def test_seeds_repeat_and_follow_from_the_state(engine: EngineServer) -> None:
    trained = policy()
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    once, again, other = (EngineSampler(engine.url, seed=seed) for seed in (3, 3, 4))
    first = once.sample(trained, prompts, 2)
    assert first[0] != first[2]
    assert again.sample(trained, prompts, 2) == first
    assert other.sample(trained, prompts, 2) != first
    resumed = EngineSampler(engine.url, seed=3)
    resumed.load_state_dict(once.state_dict())
    second = once.sample(shifted(trained), prompts, 2)
    assert second != first
    assert resumed.sample(trained, prompts, 2) == second
    assert resumed.state_dict() == once.state_dict()
    unseeded = EngineSampler(engine.url, seed=None)
    unseeded.sample(trained, prompts, 1)
    assert engine.requests("/v1/completions")[-1]["seed"] is None


def test_many_conversations_go_on_at_once(engine: EngineServer) -> None:
    trained, sampler = policy(), EngineSampler(engine.url)

    async def converse(engine: Any, start: tuple[int, ...]) -> list[Completion]:
        said: list[Completion] = []
        for _ in range(3):
            said.append(await engine.complete(start, 4))
            start = (*start, *said[-1].token_ids)
        return said

    async def all_conversations() -> list[list[Completion]]:
        async with sampler.turns(trained, SamplingConfig(max_new_tokens=2)) as engine:
            return await asyncio.gather(*(converse(engine, (number,)) for number in range(1, 9)))

    conversations = asyncio.run(all_conversations())
    again = EngineSampler(engine.url)
    sampler, first = again, conversations
    assert asyncio.run(all_conversations()) == first
    assert all(1 <= len(own) <= 4 for said in conversations for own in said)


def test_it_works_where_an_event_loop_runs(engine: EngineServer) -> None:
    async def cell() -> Any:
        return EngineSampler(engine.url).sample(policy(), PROMPTS, 1)

    assert len(asyncio.run(cell())) == len(PROMPTS)


def test_training_by_an_engine_reports_the_gap(engine: EngineServer) -> None:
    trained = policy(sampling=SamplingConfig(max_new_tokens=6, temperature=0.8))
    sampler = EngineSampler(engine.url)
    config = GRPOConfig(group_size=3, batch_size=6, learning_rate=0.01)
    trainer = GRPOTrainer(config, trained, ShareOf("7"), sampler=sampler)
    for _ in range(3):
        metrics = trainer.step(PROMPTS)
        assert abs(metrics["sampling/kl"]) < 1e-6
        assert metrics["engine/seconds"] > metrics["engine/weight_seconds"] > 0
        assert metrics["engine/tokens_per_second"] > 0
        assert metrics["engine/retries"] == 0
    state = trainer.state_dict()
    trainer.load_state_dict(state)


def test_the_glossary_defines_every_metric(engine: EngineServer) -> None:
    sampler = EngineSampler(engine.url)
    assert not sampler.get_metrics()
    sampler.sample(policy(), PROMPTS[:1], 1)
    glossary = (DOCUMENTATION / "reference/glossary.md").read_text()
    assert set(sampler.get_metrics()) == set(re.findall(r"^`(engine/\w+)`$", glossary, re.MULTILINE))


def test_the_page_says_how_it_is_used(engine: EngineServer) -> None:
    """The snippets that need a server, which the site is built without."""
    page = (DOCUMENTATION / "how-to" / "engine.md").read_text()
    snippets = re.findall(r"^```{code-block} python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    step, conversation = (snippet.replace("http://127.0.0.1:8000", engine.url) for snippet in snippets)
    names: dict[str, Any] = {"GRPOTrainer": GRPOTrainer, "config": GRPOConfig(group_size=2), "policy": policy()}
    names |= {"reward_model": ShareOf("7"), "prompts": PROMPTS, "token_ids": (1, 2)}
    exec(step, names)
    assert "sampling/log_prob_gap" in names["metrics"]
    lines = textwrap.indent(conversation.replace("max_new_tokens=20", "max_new_tokens=3"), "    ")
    exec(f"async def talk():\n{lines}    return completion", names)
    assert 1 <= len(asyncio.run(names["talk"]())) <= 3


def test_an_engine_sleeps_between_uses_and_is_sent_weights_that_it_dropped(engine: EngineServer) -> None:
    trained, sampler = policy(), EngineSampler(engine.url, dialect=VLLM(sleep_level=2))
    for _ in range(2):
        check_log_probs(trained, sampler.sample(trained, PROMPTS, 1))
    order = [path for path, _ in engine.log if path in ("/wake_up", "/collective_rpc", "/v1/completions", "/sleep")]
    asked = ["/v1/completions"] * len(PROMPTS)
    assert order == [*(["/wake_up", "/collective_rpc", "/v1/completions", *asked, "/sleep"] * 2)][: len(order)]
    assert engine.requests("/sleep") == [{"level": "2"}] * 2
    kept = EngineSampler(engine.url, dialect=VLLM(sleep_level=1))
    kept.sample(trained, PROMPTS, 1)
    kept.sample(trained, PROMPTS, 1)
    assert len(engine.requests("/collective_rpc")) == 3


def test_options_are_part_of_every_request(engine: EngineServer) -> None:
    sampler = EngineSampler(engine.url, request_options={"structured_outputs": {"regex": "[0-9]+"}})
    sampler.sample(policy(), PROMPTS, 1)
    asked = engine.requests("/v1/completions")[1:]
    assert all(request["structured_outputs"] == {"regex": "[0-9]+"} for request in asked)


UPDATE = ["/start_weight_update", "/update_weights", "/finish_weight_update"]
GPU_ROUTES = ["/pause", *UPDATE, "/reset_prefix_cache", "/resume"]


def test_what_is_sent_from_gpu_to_gpu_of_one_machine(engine: EngineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not been run on a GPU: memory handles are made up, and the small server only takes note."""
    monkeypatch.setattr(gpu_transfer, "_handle", lambda weight: {"GPU-0": tuple(weight.shape)})
    engine.initial = build_model("llama")
    engine.forget()
    trained, sampler = policy(), EngineSampler(engine.url, weights=IPCTransfer())
    sampler.sample(trained, PROMPTS, 1)
    paths = [path for path, _ in engine.log]
    assert [path for path in paths if path in GPU_ROUTES] == GPU_ROUTES
    assert engine.requests("/init_weight_transfer_engine") == [{"init_info": {"packed": False}}]
    [update] = engine.requests("/update_weights")
    names = [name for name, _ in trained.causal_model.named_parameters()]
    assert update["update_info"]["names"] == names
    assert set(update["update_info"]["dtype_names"]) == {"float32"}
    assert update["update_info"]["ipc_handles_pickled"]


def test_what_is_sent_by_nccl(engine: EngineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not been run on a GPU: the communicator is made up, and the small server only takes note."""
    meetings: list[dict[str, Any]] = []
    sent: list[list[str]] = []

    def join(meeting: dict[str, Any], device: torch.device) -> str:
        meetings.append(meeting)
        return "group"

    monkeypatch.setattr(gpu_transfer, "_join", join)
    monkeypatch.setattr(gpu_transfer, "_broadcast", lambda group, weights, device: sent.append(list(weights)))
    engine.initial = build_model("llama")
    engine.forget()
    trained, sampler = policy(), EngineSampler(engine.url, weights=NCCLTransfer())
    sampler.sample(trained, PROMPTS, 1)
    with torch.no_grad():
        trained.causal_model.lm_head.weight += 1e-6
    sampler.sample(trained, PROMPTS, 1)
    [told] = engine.requests("/init_weight_transfer_engine")
    assert told["init_info"] == meetings[0] | {"rank_offset": 1, "packed": False}
    assert meetings[0]["world_size"] == 2
    assert sent == [[name for name, _ in trained.causal_model.named_parameters()]] * 2
    engine.stop()
    engine.start()
    sampler.sample(trained, PROMPTS, 1)
    assert len(meetings) == 2


def test_nccl_does_not_wait_for_good(engine: EngineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_transfer, "_join", lambda meeting, device: threading.Event().wait(30))
    with pytest.raises(EngineWeightsError, match=r"did not get to .* by NCCL within 0.3 seconds"):
        EngineSampler(engine.url, weights=NCCLTransfer(), timeout=0.3).sample(policy(), PROMPTS, 1)


def test_adapters_do_not_go_by_gpu(engine: EngineServer) -> None:
    with pytest.raises(EngineWeightsError, match="FolderTransfer only"):
        EngineSampler(engine.url, weights=IPCTransfer()).sample(policy(peft_config=LORA), PROMPTS, 1)


def test_a_server_that_keeps_failing_is_an_error(engine: EngineServer) -> None:
    sampler = EngineSampler(engine.url, retries=2)
    sampler.sample(policy(), PROMPTS[:1], 1)
    engine.faults.extend(["error"] * 3)
    with pytest.raises(EngineAnswerError, match=r"no answer in 3 attempts; in the last, .*EngineCore encountered"):
        sampler.sample(policy(), PROMPTS[:1], 1)


def test_nobody_answers() -> None:
    with server() as running:
        url = running.url
    with pytest.raises(EngineUnreachableError, match=r"no inference server answered for 0.1 seconds \(.*ConnectError"):
        EngineSampler(url, patience=0.1).sample(policy(), PROMPTS, 1)
