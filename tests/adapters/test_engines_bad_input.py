"""What is wrong with an engine, or with how it is used, is said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_server import EngineServer
from language_models import CHARACTERS, PROMPTS, build_model, build_policy, build_tokenizer
from peft import LoraConfig

from grpo_adapters.huggingface import SamplingConfig, character_tokenizer
from grpo_adapters.huggingface.engines import (
    EngineError,
    EngineSampler,
    EngineWeightsError,
    FolderTransfer,
    SGLang,
    session,
)
from grpo_adapters.huggingface.engines.server import Server

COOL = SamplingConfig(temperature=0.7, max_new_tokens=8)
LORA = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FIRST_PAUSE", 0.001)


def policy(**options: Any) -> Any:
    return build_policy("llama", **options)


def failure(engine: EngineServer, *, asked: Any = None, prompts: Any = PROMPTS, **options: Any) -> str:
    """What is raised."""
    with engine, pytest.raises(EngineError) as error:
        EngineSampler(engine.url, **({"patience": 1.0} | options)).sample(asked or policy(), prompts, 2)
    return f"{error.type.__name__}: {error.value}".replace(engine.url, "URL")


def server(model: Any = None, **options: Any) -> EngineServer:
    return EngineServer(model or build_model("llama", seed=5), build_tokenizer(), **options)


def faulty(*faults: str, **options: Any) -> EngineServer:
    engine = server(**options)
    engine.faults.extend(faults)
    return engine


CASES: dict[str, tuple[Callable[[], str], str]] = {
    "it is not in development mode": (
        lambda: failure(server(is_open=False)),
        "EngineModelError: URL has no route /weight_info: start vLLM 0.32 or newer with VLLM_SERVER_DEV_MODE=1",
    ),
    "another model is served": (
        lambda: failure(server(), model="qwen"),
        "EngineModelError: URL serves small, expected qwen: give the name that it was started with",
    ),
    "a model of another size": (
        lambda: failure(server(build_model("llama", hidden_size=32))),
        "EngineWeightsError: the weights could not be handed over (URL/collective_rpc answered 500: Call to "
        "collective_rpc method failed: Error(s) in loading state_dict",
    ),
    "a model of another family": (
        lambda: failure(server(build_model("gpt2"))),
        "EngineWeightsError: the weights could not be handed over (URL/collective_rpc answered 500: Call to "
        "collective_rpc method failed: no parameter",
    ),
    "a model of another kind of attention": (
        lambda: failure(server(build_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 2.0}))),
        "EngineWeightsError: log-probs of URL are ",
    ),
    "no log-probs": (
        lambda: failure(faulty("no_log_probs")),
        "EngineAnswerError: URL told 0 log-probs of ",
    ),
    "log-probs that are none": (
        lambda: failure(faulty("", "nan")),
        "EngineAnswerError: URL told log-probs that are NaN or infinite, (nan, nan, nan, nan)...",
    ),
    "a token that the policy does not know": (
        lambda: failure(faulty("", "foreign_token")),
        "EngineModelError: URL answered with the token 999, expected tokens from 0 to 16, which the policy knows",
    ),
    "other words": (
        lambda: failure(faulty("other_words")),
        "EngineAnswerError: URL/v1/completions answered {'text': 'hello'}, which is no answer of VLLM",
    ),
    "another engine": (
        lambda: failure(faulty(*["other_words"] * 9), dialect=SGLang(), asked=policy(peft_config=LORA)),
        "EngineWeightsError: adapters are sent to vLLM only",
    ),
    "a request that is refused": (
        lambda: failure(faulty("", "refuse")),
        "EngineAnswerError: the engine refused a request: URL/v1/completions answered 400: Token id 99 is out of",
    ),
    "too few completions": (
        lambda: failure(faulty("", "too_few")),
        "EngineAnswerError: URL answered with 1 completions, expected 2",
    ),
    "too little context": (
        lambda: failure(server(max_length=20), asked=policy(sampling=SamplingConfig(max_new_tokens=18))),
        "EngineModelError: URL has a context of 20 tokens, expected at least 22, a prompt of 4 and 18 new ones: start "
        "it with --max-model-len 22",
    ),
    "raw log-probs and a temperature": (
        lambda: failure(
            server(tells_raw=True), asked=policy(sampling=SamplingConfig(temperature=0.7, max_new_tokens=8))
        ),
        "EngineAnswerError: URL tells log-probs of before temperature and filters, but tokens are drawn with "
        "temperature=0.7, top_k=None, top_p=1, min_p=None: start vLLM with --logprobs-mode processed_logprobs",
    ),
    "no adapters": (
        lambda: failure(server(takes_adapters=False), asked=policy(peft_config=LORA)),
        "EngineWeightsError: URL takes no adapters: start vLLM with --enable-lora",
    ),
    "an adapter of another base": (
        lambda: failure(server(), asked=policy(peft_config=LORA)),
        "EngineWeightsError: log-probs of URL are ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said(case: str) -> None:
    fails, message = CASES[case]
    assert fails().startswith(message)


def test_raw_log_probs_do_where_they_are_those_of_the_draw() -> None:
    with server(tells_raw=True) as engine:
        EngineSampler(engine.url).sample(policy(), PROMPTS, 2)


def test_weights_that_are_not_read_are_told_of() -> None:
    """A folder that the server cannot see, as on another machine."""

    class Elsewhere(FolderTransfer):
        async def send(self, server: Server, dialect: Any, policy: Any, version: str) -> None:
            await dialect.load_folder(server, Path("/nowhere"), version)

    told = failure(server(), weights=Elsewhere())
    assert told.startswith("EngineWeightsError: the weights could not be handed over")
    assert "no weights in /nowhere" in told
    told = failure(server(), weights=Elsewhere(), dialect=SGLang())
    assert told == "EngineWeightsError: URL did not take the weights over: no weights in /nowhere"


def test_weights_that_another_training_sends_are_not_answered_by() -> None:
    class Overwritten(FolderTransfer):
        async def send(self, server: Server, dialect: Any, policy: Any, version: str) -> None:
            await super().send(server, dialect, policy, version)
            await server.post("/update_weight_version", {"new_version": "anygrpo-00000000-1"})

    told = failure(server(), weights=Overwritten(), retries=1)
    assert told.startswith("EngineAnswerError: no answer in 2 attempts; in the last, URL has the weights ")


def test_a_token_that_the_server_does_not_know_is_refused() -> None:
    larger = policy(model=build_model("llama", vocab_size=40), tokenizer=character_tokenizer(CHARACTERS + "xyz"))
    with server() as engine, pytest.raises(EngineWeightsError, match="could not be handed over"):
        EngineSampler(engine.url).sample(larger, ["x"], 1)


@pytest.mark.parametrize("servers", [[], ["http://a", "http://a/"], "127.0.0.1:8000", [8000]])
def test_addresses_are_checked(servers: Any) -> None:
    with pytest.raises(ValueError, match=r"^(servers|a server) is .*, expected (addresses|an address)"):
        EngineSampler(servers)


def test_options_must_not_replace_what_the_sampler_sets() -> None:
    with pytest.raises(ValueError, match=r"^request_options has n, temperature, which the sampler sets itself"):
        EngineSampler("http://a", request_options={"temperature": 1, "n": 3, "min_tokens": 2})


def test_temperatures_are_the_policys() -> None:
    sampler = EngineSampler("http://a")
    with pytest.raises(ValueError, match=r"^temperature=0.5 is not the policy's 1.0"):
        sampler.sample(policy(), PROMPTS, 1, temperature=0.5)
    with pytest.raises(ValueError, match=r"^temperature=0 draws nothing"):
        sampler.sample(policy(sampling=SamplingConfig(temperature=0.0, max_new_tokens=8)), PROMPTS, 1)


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(ValueError, match="the prompt of state 1 has 90 tokens, expected at most 56"):
        EngineSampler("http://a").sample(policy(), ["1", "1" * 90], 1)


@pytest.mark.parametrize("state", [None, {}, {"calls": 1}])
def test_states_of_others_are_refused(state: Any) -> None:
    with pytest.raises(ValueError, match=r"^EngineSampler.load_state_dict was given"):
        EngineSampler("http://a").load_state_dict(state)


def test_an_error_in_a_conversation_is_its_own() -> None:
    async def converse(url: str) -> None:
        async with EngineSampler(url).turns(policy(), SamplingConfig()):
            raise KeyError("tool")

    with server() as engine, pytest.raises(KeyError, match="tool"):
        asyncio.run(converse(engine.url))
