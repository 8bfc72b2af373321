"""The routes of vLLM."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from grpo_adapters.huggingface.engines.dialect import Answer, InterruptedAnswerError, Question, Served
from grpo_adapters.huggingface.engines.errors import EngineModelError, EngineWeightsError
from grpo_adapters.huggingface.engines.server import NoAnswerError, Server, StatusError
from grpo_adapters.huggingface.engines.weights import run_of

ENDINGS = {"stop": True, "length": False}


@dataclass(frozen=True)
class VLLM:
    """vLLM's server, started with ``VLLM_SERVER_DEV_MODE=1``; the routes are those of 0.32.

    Attributes:
        sleep_level: the server is put to sleep whenever it has answered, so that a trainer on the same GPU has its
            memory: 1 keeps the weights in the computer's memory, 2 drops them, and they are sent again. It needs
            ``--enable-sleep-mode``. None keeps it awake.
    """

    sleep_level: Literal[1, 2] | None = None

    def request(self, question: Question) -> tuple[str, dict[str, Any]]:
        """``/v1/completions``, with token ids."""
        sampling = question.sampling
        body = question.common | {
            "model": question.model,
            "prompt": list(question.prompt),
            "max_tokens": sampling.max_new_tokens,
            "top_k": sampling.top_k or 0,
            "include_stop_str_in_output": True,
            "logprobs": 0,
            "return_token_ids": True,
            "seed": question.seed,
        }
        return "/v1/completions", body | dict(question.options)

    def answers(self, body: Any) -> list[Answer]:
        """One for each choice."""
        choices = sorted(body["choices"], key=lambda choice: choice["index"])
        return [_answer(choice) for choice in choices]

    async def served(self, server: Server) -> Served:
        """What ``/v1/models`` lists, without adapters."""
        cards = [card for card in (await server.get("/v1/models"))["data"] if card.get("parent") is None]
        return Served(tuple(card["id"] for card in cards), cards[0].get("max_model_len"))

    async def versions(self, server: Server) -> set[str]:
        """What ``/weight_info`` says, and the names of adapters."""
        adapters = [card["id"] for card in (await server.get("/v1/models"))["data"]]
        return {*adapters, await self._base_version(server)}

    async def _base_version(self, server: Server) -> str:
        try:
            return str((await server.get("/weight_info"))["weight_version"])
        except StatusError as error:
            if error.status != 404:
                raise
            raise EngineModelError(
                f"{server.url} has no route /weight_info: start vLLM 0.32 or newer with VLLM_SERVER_DEV_MODE=1, which "
                f"opens the routes that weights are sent by"
            ) from error

    async def made_by(self, server: Server, body: Any) -> str:
        """The adapter that answered, or what ``/weight_info`` says after the answer."""
        name = str(body["model"])
        return name if run_of(name) else await self._base_version(server)

    async def load_folder(self, server: Server, folder: Path, version: str) -> None:
        """``reload_weights``, with generation paused."""
        async with paused(server):
            await server.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
            await server.post("/update_weight_version", {"new_version": version})

    async def load_adapter(self, server: Server, folder: Path, version: str) -> None:
        """``/v1/load_lora_adapter``; the adapter of before goes, those of other runs stay."""
        try:
            await server.post("/v1/load_lora_adapter", {"lora_name": version, "lora_path": str(folder)})
        except StatusError as error:
            if error.status != 404 or "No adapter found" in str(error):
                raise
            raise EngineWeightsError(
                f"{server.url} takes no adapters: start vLLM with --enable-lora --max-lora-rank (at least the "
                f"adapter's) and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
            ) from error
        for name in await self.versions(server):
            if run_of(name) == run_of(version) and name != version:
                await server.post("/v1/unload_lora_adapter", {"lora_name": name})

    async def begin(self, server: Server) -> None:
        """``/wake_up``."""
        if self.sleep_level is not None:
            await server.post("/wake_up")

    async def end(self, server: Server) -> None:
        """``/sleep``."""
        if self.sleep_level is not None:
            await server.post("/sleep", level=self.sleep_level)
        if self.sleep_level == 2:
            await server.post("/update_weight_version", {"new_version": "asleep"})


@asynccontextmanager
async def paused(server: Server) -> AsyncIterator[None]:
    """Answers that are under way are waited for, new ones wait; what was computed with the old weights is dropped."""
    await server.post("/pause", mode="wait")
    try:
        yield
        dropped = await server.post("/reset_prefix_cache")
        if not dropped["success"]:
            raise EngineWeightsError(
                f"{server.url} could not drop its prefix cache, which was computed with the weights of before: start "
                f"it with --no-enable-prefix-caching, or let nobody else ask it"
            )
    except BaseException:
        with suppress(NoAnswerError, StatusError):
            await server.post("/resume")
        raise
    await server.post("/resume")


def _answer(choice: Any) -> Answer:
    if choice["finish_reason"] not in ENDINGS:
        raise InterruptedAnswerError(f"a completion ended by {choice['finish_reason']!r}")
    told = choice["logprobs"] and choice["logprobs"]["token_logprobs"]
    log_probs = None if not told or None in told else tuple(float(value) for value in told)
    return Answer(tuple(choice["token_ids"]), log_probs, ENDINGS[choice["finish_reason"]])
