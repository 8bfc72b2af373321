"""Who takes the turns of conversations: the policy itself, or an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo_adapters.huggingface.agents.dialogue import Dialogue
from grpo_adapters.huggingface.decoding.sampling import SamplingConfig
from grpo_adapters.huggingface.event_loop import run_together, together
from grpo_adapters.huggingface.policies.causal_lm_policy import CausalLMPolicy
from grpo_adapters.huggingface.text.conversations import rows_of


def talk_in_rounds(policy: CausalLMPolicy, sampling: SamplingConfig, dialogues: Sequence[Dialogue]) -> None:
    """Let the policy itself take the turns of all conversations together, one round after the other."""
    turns, going = policy.turns(sampling), dict(enumerate(dialogues))
    while going:
        completions = turns.complete(list(going), [dialogue.context for dialogue in going.values()])
        run_together([dialogue.hear(own) for dialogue, own in zip(going.values(), completions, strict=True)])
        going = {index: dialogue for index, dialogue in going.items() if not dialogue.is_over}


async def talk_through(
    engine: Any, policy: CausalLMPolicy, sampling: SamplingConfig, dialogues: Sequence[Dialogue]
) -> None:
    """Let an engine take the turns, each conversation at its own pace."""
    async with engine.turns(policy, sampling) as turns:

        async def talk(dialogue: Dialogue) -> None:
            while not dialogue.is_over:
                await dialogue.hear(await turns.complete(dialogue.context, sampling.max_new_tokens))

        await together(map(talk, dialogues))


def dialogue_metrics(dialogues: Sequence[Dialogue]) -> dict[str, float]:
    """What happened in conversations, each a mean over them."""
    conversations = [dialogue.conversation for dialogue in dialogues]
    count = len(dialogues)
    calls, failed = (sum(getattr(own, name) for own in dialogues) for name in ("num_calls", "num_failed_calls"))
    return {
        "conversations/mean_turns": sum(len(own.turns) for own in conversations) / count,
        "conversations/mean_rows": sum(len(rows_of(own.turns)) for own in conversations) / count,
        "conversations/mean_reward": sum(own.reward for own in conversations) / count,
        "tools/mean_calls": calls / count,
        "tools/failure_fraction": failed / calls if calls else 0.0,
    }
