"""Language models of Hugging Face as policies and reward models: a completion is a sample, a token a decision."""

try:
    import peft as _peft  # noqa: F401
    import transformers as _transformers  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"grpo_adapters.huggingface needs {error.name}: pip install 'anygrpo[huggingface]'"
    ) from error

from grpo_adapters.huggingface.agents import (
    AgentSampler,
    ConversationReward,
    TextEnvironment,
    TextEnvironmentError,
    Tool,
    parse_message,
)
from grpo_adapters.huggingface.decoding.sampling import SamplingConfig
from grpo_adapters.huggingface.environments import (
    openenv_environment,
    skyrl_environment,
    text_gymnasium_environment,
    trl_environment,
    verifiers_environment,
)
from grpo_adapters.huggingface.models.loading import ModelNotFoundError, UnsafeModelError
from grpo_adapters.huggingface.models.output_head import OutputHead, plain_token_log_probs
from grpo_adapters.huggingface.models.sharding import FSDP2Config
from grpo_adapters.huggingface.models.token_log_probs import token_log_probs
from grpo_adapters.huggingface.policies.causal_lm_actor_critic import CausalLMActorCritic
from grpo_adapters.huggingface.policies.causal_lm_policy import CausalLMPolicy
from grpo_adapters.huggingface.policies.completion_batch import CompletionBatch
from grpo_adapters.huggingface.policies.preferences import preferences_of
from grpo_adapters.huggingface.rewards.ready_rewards import FormatReward, OverlongPenalty, math_reward
from grpo_adapters.huggingface.rewards.reward_functions import FunctionReward, RewardFunctionError
from grpo_adapters.huggingface.rewards.sequence_classification import SequenceClassificationReward
from grpo_adapters.huggingface.text.character_tokenizer import character_tokenizer
from grpo_adapters.huggingface.text.completions import Completion
from grpo_adapters.huggingface.text.conversations import Conversation, Turn
from grpo_adapters.huggingface.text.states import describe_completion

__all__ = [
    "AgentSampler",
    "CausalLMActorCritic",
    "CausalLMPolicy",
    "Completion",
    "CompletionBatch",
    "Conversation",
    "ConversationReward",
    "FSDP2Config",
    "FormatReward",
    "FunctionReward",
    "ModelNotFoundError",
    "OutputHead",
    "OverlongPenalty",
    "RewardFunctionError",
    "SamplingConfig",
    "SequenceClassificationReward",
    "TextEnvironment",
    "TextEnvironmentError",
    "Tool",
    "Turn",
    "UnsafeModelError",
    "character_tokenizer",
    "describe_completion",
    "math_reward",
    "openenv_environment",
    "parse_message",
    "plain_token_log_probs",
    "preferences_of",
    "skyrl_environment",
    "text_gymnasium_environment",
    "token_log_probs",
    "trl_environment",
    "verifiers_environment",
]
