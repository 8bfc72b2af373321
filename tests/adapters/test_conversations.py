"""Conversations of several turns as actions: what is decided, what is only read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from language_models import build_policy
from torch import Tensor

from grpo_adapters.huggingface import CausalLMPolicy, Completion, CompletionBatch, Conversation, Turn

NUM_TOKENS = 14


def conversation_of(*turns: tuple[tuple[int, ...], tuple[int, ...]]) -> Conversation:
    """Each turn from what was read and what was said."""
    return Conversation(tuple(Turn(read, Completion(said, "")) for read, said in turns), ())


def by_hand(policy: CausalLMPolicy, conversation: Conversation) -> Tensor:
    """Log-probs of the model's own tokens, turn by turn, from all logits, [D]."""
    own = []
    for turn in conversation.turns:
        logits = policy.causal_model(input_ids=torch.tensor([turn.token_ids])).logits[0]
        start = len(turn.context)
        rows = torch.log_softmax(logits[start - 1 : -1], -1)
        own.append(rows.gather(1, torch.tensor(turn.completion.token_ids)[:, None]).squeeze(1))
    return torch.cat(own)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Turns that go on with the tokens before them, or begin anew."""
    ids = st.lists(st.integers(0, NUM_TOKENS - 1), min_size=1, max_size=3).map(tuple)
    turns: list[Turn] = []
    before: tuple[int, ...] = ()
    for _ in range(draw(st.integers(1, 3))):
        context = (*before, *draw(ids)) if draw(st.booleans()) else draw(ids)
        turns.append(Turn(context, Completion(draw(ids), "")))
        before = turns[-1].token_ids
    return Conversation(tuple(turns), ())


def test_a_batch_of_conversations_tells_where_everything_is() -> None:
    """The second conversation goes on in its row at its second turn, and begins a new one at its third."""
    policy = build_policy()
    one = Completion((2, 0), "0", log_probs=(-1.0, -2.0))
    many = conversation_of(((3,), (4, 5)), ((3, 4, 5, 9), (6,)), ((7, 8), (1, 2)))
    drawn = Conversation(
        tuple(replace(turn, completion=replace(turn.completion, log_probs=(-0.5, -0.25)[: len(turn.completion)]))
              for turn in many.turns),
        (),
        ended=False,
    )  # fmt: skip
    batch = policy.encode_actions(["7", "never read"], [one, drawn])
    assert isinstance(batch, CompletionBatch)
    assert batch.tokens.tolist() == [[9, 2, 0, 9, 9], [3, 4, 5, 9, 6], [7, 8, 1, 2, 7]]
    assert batch.lengths.tolist() == [3, 5, 4]
    assert batch.targets.tolist() == [2, 0, 4, 5, 6, 1, 2]
    assert batch.samples.lengths.tolist() == [2, 5]
    assert batch.rows.lengths.tolist() == [2, 3, 2]
    assert batch.turns.lengths.tolist() == [2, 2, 1, 2]
    assert batch.sampling_log_probs is not None
    assert batch.sampling_log_probs.tolist() == [-1.0, -2.0, -0.5, -0.25, -0.5, -0.5, -0.25]
    assert batch.truncated.tolist() == [False, True]
    part = batch.select(torch.tensor([2, 1]))
    assert part.targets.tolist() == [1, 2, 4, 5, 6]
    assert part.turns.lengths.tolist() == [2, 2, 1]
    assert part.samples.lengths.tolist() == [2, 3]
    assert part.truncated.tolist() == [True, True]


@settings(max_examples=30)
@given(st.lists(conversations(), min_size=1, max_size=4))
def test_decisions_are_the_models_own_tokens(actions: list[Conversation]) -> None:
    """Log-probs and gradients are those of each turn by itself, however turns share rows and rows are cut."""
    policy = build_policy()
    policy.model.double()
    batch = policy.encode_actions([""] * len(actions), actions)
    assert batch.targets.tolist() == [token for action in actions for token in action.token_ids]
    log_probs = policy.evaluate_actions(batch).log_probs
    expected = torch.cat([by_hand(policy, action) for action in actions])
    torch.testing.assert_close(log_probs, expected, rtol=0, atol=1e-10)
    weights = torch.arange(1.0, len(log_probs) + 1, dtype=torch.float64)
    parameters = [value for value in policy.get_parameters().values() if value.requires_grad]
    ours, theirs = (torch.autograd.grad(values @ weights, parameters) for values in (log_probs, expected))
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)


WRONG: list[tuple[Any, type[Exception], str]] = [
    (Conversation((), ()), ValueError, "conversation 0 has no turn"),
    (conversation_of(((3,), ())), ValueError, "turn 0 of conversation 0 has no token"),
    (conversation_of(((3,), (2,)), ((), (2,))), ValueError, "turn 1 of conversation 0 was said after 0 tokens"),
    (conversation_of(((99,), (2,))), ValueError, "was said after 1 tokens, expected at least one, each from 0 to"),
    (Completion((2, 3), "", log_probs=(0.0,)), ValueError, "has 2 tokens and 1 log-probs"),
]


@pytest.mark.parametrize(("action", "error", "message"), WRONG)
def test_wrong_actions(action: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_policy().encode_actions(["1"], [action])


def test_log_probs_are_known_of_all_completions_or_of_none() -> None:
    known, unknown = Completion((2,), "", log_probs=(-1.0,)), Completion((2,), "")
    with pytest.raises(ValueError, match="completion 1 has no log_probs, while others have"):
        build_policy().encode_actions(["1", "1"], [known, unknown])
