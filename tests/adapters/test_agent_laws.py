"""What holds for conversations with any environment: what counts, who earned what, where they end."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from language_models import build_policy

from grpo_adapters.huggingface import AgentSampler, Conversation, ConversationReward, SamplingConfig
from grpo_adapters.huggingface.text.conversations import Message

NEW_TOKENS = 3
ENDINGS = tuple("01234567")  # a turn of the model ends with any of them


@dataclass(frozen=True)
class Reply:
    """What an environment has ready for a turn."""

    text: str
    reward: float
    is_over: bool


class Scripted:
    """Replies as the state says, after some time."""

    def __init__(self, delays: random.Random) -> None:
        self.delays = delays

    def reset(self, state: Any) -> None:
        self.replies = list(state["replies"])

    def step(self, message: Message) -> Any:
        time.sleep(self.delays.random() / 500)
        return self.reply()

    def reply(self) -> tuple[list[Message], float, bool]:
        reply = self.replies.pop(0)
        return [{"role": "user", "content": reply.text}], reply.reward, reply.is_over


class Waiting(Scripted):
    """The same, asynchronously."""

    async def step(self, message: Message) -> Any:
        await asyncio.sleep(self.delays.random() / 500)
        return self.reply()


def sampled(states: list[Any], group_size: int, kind: type[Scripted], seed: int, **limits: Any) -> Any:
    """Conversations of the same policy, with environments whose speeds follow from the seed."""
    policy = build_policy(sampling=SamplingConfig(max_new_tokens=NEW_TOKENS, stop_strings=ENDINGS))
    delays = random.Random(seed)
    sampler = AgentSampler(lambda: kind(delays), **limits)
    return policy, sampler.sample(policy, states, group_size)


texts = st.text("0123456789+= ab", min_size=1, max_size=3)
rewards = st.integers(-3, 3).map(float)
replies = st.builds(Reply, texts, rewards, st.sampled_from([False, False, False, True]))
states = st.builds(
    lambda prompt, own: {"prompt": prompt, "replies": own}, texts, st.lists(replies, min_size=5, max_size=5)
)


def check(conversation: Conversation, state: Any, policy: Any, max_turns: int, max_tokens: int) -> None:
    """Each turn goes on from the prompt and all that was said, and was given what the script has for it."""
    tokenizer = policy.tokenizer
    read = tuple(tokenizer(state["prompt"])["input_ids"])
    assert 1 <= len(conversation.turns) <= max_turns
    for turn, reply in zip(conversation.turns, state["replies"], strict=False):
        assert turn.context == read
        assert len(turn.context) + NEW_TOKENS <= max_tokens
        assert 1 <= len(turn.completion) <= NEW_TOKENS
        assert turn.reward == (reply.reward if turn.completion.ended else 0)
        read = (*turn.token_ids, *tokenizer(reply.text)["input_ids"])
    last, reply = conversation.turns[-1], state["replies"][len(conversation.turns) - 1]
    assert conversation.ended == (last.completion.ended and reply.is_over)
    if last.completion.ended and not reply.is_over:
        assert len(conversation.turns) == max_turns or len(read) + NEW_TOKENS > max_tokens
    for turn, earlier in zip(conversation.turns, state["replies"][: len(conversation.turns) - 1], strict=False):
        assert turn.completion.ended
        assert not earlier.is_over


@settings(max_examples=30)
@given(st.lists(states, min_size=1, max_size=3), st.integers(1, 3), st.integers(1, 5), st.integers(6, 13))
def test_what_holds_for_any_environment(asked: list[Any], group_size: int, max_turns: int, max_tokens: int) -> None:
    limits = {"max_turns": max_turns, "max_tokens": max_tokens}
    policy, groups = sampled(asked, group_size, Scripted, seed=1, **limits)
    assert [len(group) for group in groups] == [group_size] * len(asked)
    conversations = [own for group in groups for own in group]
    each_state = [state for state in asked for _ in range(group_size)]
    for own, state in zip(conversations, each_state, strict=True):
        check(own, state, policy, max_turns, max_tokens)

    batch = policy.encode_actions(each_state, conversations)
    own_turns = [turn for own in conversations for turn in own.turns]
    assert batch.targets.tolist() == [token for turn in own_turns for token in turn.completion.token_ids]
    assert batch.turns.lengths.tolist() == [len(turn.completion) for turn in own_turns]
    by_token = ConversationReward("turn").compute_rewards(each_state, conversations)
    assert batch.turns.sum(by_token).tolist() == [turn.reward for turn in own_turns]
    assert by_token[batch.turns.last].tolist() == [turn.reward for turn in own_turns]

    assert sampled(asked, group_size, Waiting, seed=2, **limits)[1] == groups
