"""Language models of Hugging Face as policies and reward models: a completion is a sample, a token a decision."""

try:
    import transformers as _transformers  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "grpo_adapters.huggingface needs transformers: pip install 'anygrpo[huggingface]'"
    ) from error

from grpo_adapters.huggingface.completions import Completion, CompletionBatch

__all__ = ["Completion", "CompletionBatch"]
