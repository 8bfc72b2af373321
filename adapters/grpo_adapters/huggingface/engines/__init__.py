"""Inference engines that sample for a policy: vLLM, SGLang and what speaks like them."""

try:
    import httpx as _httpx  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"grpo_adapters.huggingface.engines needs {error.name}: pip install 'anygrpo[engines]'"
    ) from error

from grpo_adapters.huggingface.engines.errors import (
    EngineAnswerError,
    EngineError,
    EngineModelError,
    EngineUnreachableError,
    EngineWeightsError,
)
from grpo_adapters.huggingface.engines.gpu_transfer import IPCTransfer, NCCLTransfer
from grpo_adapters.huggingface.engines.sampler import EngineSampler
from grpo_adapters.huggingface.engines.session import EngineSession
from grpo_adapters.huggingface.engines.sglang_dialect import SGLang
from grpo_adapters.huggingface.engines.transfer import FolderTransfer, WeightTransfer
from grpo_adapters.huggingface.engines.vllm_dialect import VLLM

__all__ = [
    "VLLM",
    "EngineAnswerError",
    "EngineError",
    "EngineModelError",
    "EngineSampler",
    "EngineSession",
    "EngineUnreachableError",
    "EngineWeightsError",
    "FolderTransfer",
    "IPCTransfer",
    "NCCLTransfer",
    "SGLang",
    "WeightTransfer",
]
