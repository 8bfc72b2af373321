"""The routes of SGLang."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpo_adapters.huggingface.engines.dialect import Answer, InterruptedAnswerError, Question, Served
from grpo_adapters.huggingface.engines.errors import EngineWeightsError
from grpo_adapters.huggingface.engines.server import Server

ENDINGS = {"stop": True, "length": False}


class SGLang:
    """SGLang's server: ``/generate`` and ``/update_weights_from_disk``. Seeds are not sent, nor are adapters."""

    def request(self, question: Question) -> tuple[str, dict[str, Any]]:
        """``/generate``, with token ids."""
        sampling = question.sampling
        params = question.common | {
            "max_new_tokens": sampling.max_new_tokens,
            "top_k": sampling.top_k or -1,
            "no_stop_trim": True,
        }
        body = {"input_ids": list(question.prompt), "sampling_params": params, "return_logprob": True}
        return "/generate", body | dict(question.options)

    def answers(self, body: Any) -> list[Answer]:
        """One for each completion; a single one comes without a list around it."""
        return [_answer(own) for own in _each(body)]

    async def served(self, server: Server) -> Served:
        """What ``/v1/models`` lists."""
        cards = (await server.get("/v1/models"))["data"]
        return Served(tuple(card["id"] for card in cards), cards[0].get("max_model_len"))

    async def versions(self, server: Server) -> set[str]:
        """What ``/model_info`` says."""
        return {str((await server.get("/model_info"))["weight_version"])}

    async def made_by(self, server: Server, body: Any) -> str:
        """What the answers say themselves; all versions where they differ."""
        return ", ".join(sorted({str(own["meta_info"]["weight_version"]) for own in _each(body)}))

    async def load_folder(self, server: Server, folder: Path, version: str) -> None:
        """``/update_weights_from_disk``, which drops the cache of prefixes."""
        update = {"model_path": str(folder), "weight_version": version, "flush_cache": True}
        told = await server.post("/update_weights_from_disk", update)
        if not told["success"]:
            raise EngineWeightsError(f"{server.url} did not take the weights over: {told['message']}")

    async def load_adapter(self, server: Server, folder: Path, version: str) -> None:
        """Not done."""
        raise EngineWeightsError("adapters are sent to vLLM only: train all weights, or use vLLM")

    async def begin(self, server: Server) -> None:
        """Nothing."""

    async def end(self, server: Server) -> None:
        """Nothing."""


def _each(body: Any) -> list[Any]:
    return body if isinstance(body, list) else [body]


def _answer(own: Any) -> Answer:
    ending = own["meta_info"]["finish_reason"]["type"]
    if ending not in ENDINGS:
        raise InterruptedAnswerError(f"a completion ended by {ending!r}")
    told = own["meta_info"].get("output_token_logprobs")
    log_probs = None if not told else tuple(float(log_prob) for log_prob, *_ in told)
    return Answer(tuple(own["output_ids"]), log_probs, ENDINGS[ending])
