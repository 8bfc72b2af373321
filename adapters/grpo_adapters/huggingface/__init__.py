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
from grpo_adapters.huggingface.causal_lm_actor_critic import CausalLMActorCritic
from grpo_adapters.huggingface.causal_lm_policy import CausalLMPolicy
from grpo_adapters.huggingface.character_tokenizer import character_tokenizer
from grpo_adapters.huggingface.completion_batch import CompletionBatch
from grpo_adapters.huggingface.completions import Completion
from grpo_adapters.huggingface.conversations import Conversation, Turn
from grpo_adapters.huggingface.environments import (
    openenv_environment,
    skyrl_environment,
    text_gymnasium_environment,
    trl_environment,
    verifiers_environment,
)
from grpo_adapters.huggingface.loading import ModelNotFoundError, UnsafeModelError
from grpo_adapters.huggingface.output_head import OutputHead, plain_token_log_probs
from grpo_adapters.huggingface.preferences import preferences_of
from grpo_adapters.huggingface.ready_rewards import FormatReward, OverlongPenalty, math_reward
from grpo_adapters.huggingface.reward_functions import FunctionReward, RewardFunctionError
from grpo_adapters.huggingface.sampling import SamplingConfig
from grpo_adapters.huggingface.sequence_classification import SequenceClassificationReward
from grpo_adapters.huggingface.states import describe_completion
from grpo_adapters.huggingface.token_log_probs import token_log_probs

__all__ = [
    "AgentSampler",
    "CausalLMActorCritic",
    "CausalLMPolicy",
    "Completion",
    "CompletionBatch",
    "Conversation",
    "ConversationReward",
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
