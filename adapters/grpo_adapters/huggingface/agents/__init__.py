"""Conversations of a language model with environments and tools."""

from grpo_adapters.huggingface.agents.environments import TextEnvironment, TextEnvironmentError
from grpo_adapters.huggingface.agents.messages import parse_message
from grpo_adapters.huggingface.agents.rewards import ConversationReward
from grpo_adapters.huggingface.agents.sampler import AgentSampler
from grpo_adapters.huggingface.agents.tools import Tool

__all__ = ["AgentSampler", "ConversationReward", "TextEnvironment", "TextEnvironmentError", "Tool", "parse_message"]
