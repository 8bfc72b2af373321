"""Environments of other libraries as partners of a language model, as they are."""

from grpo_adapters.huggingface.environments.openenv import openenv_environment
from grpo_adapters.huggingface.environments.skyrl import skyrl_environment
from grpo_adapters.huggingface.environments.text_gymnasium import text_gymnasium_environment
from grpo_adapters.huggingface.environments.trl import trl_environment
from grpo_adapters.huggingface.environments.verifiers import verifiers_environment

__all__ = [
    "openenv_environment",
    "skyrl_environment",
    "text_gymnasium_environment",
    "trl_environment",
    "verifiers_environment",
]
