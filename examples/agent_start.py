"""A language model that is made in seconds, and has been shown how some games are played."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from grpo_adapters.huggingface import (
    CausalLMPolicy,
    Completion,
    Conversation,
    SamplingConfig,
    Tool,
    Turn,
    character_tokenizer,
)
from text_games import NUM_HELD_OUT, Game, Message, Row

NUM_SHOWN, MOST_STEPS = 2000, 1000
TEMPERATURE = 0.7  # of a policy that is to learn: at 1, hardly a game of twenty tokens is won at first
CHAT_TEMPLATE = (
    "{% if tools %}={% endif %}"  # all that a model this small needs to be told
    "{% for own in messages %}{{ own.content }}{{ eos_token if own.role == 'assistant' }}{% endfor %}"
)


def starting_policy(folder: Path, game: Game, rows: Sequence[Row], seed: int) -> CausalLMPolicy:
    """A policy that has been shown some games, made in the folder if it is not there yet."""
    start = folder / "start"
    if not start.exists():
        policy = make_policy(game, seed)
        print(f"supervised start: {supervised_start(policy, game, rows)} steps")
        unfinished = folder / "start.unfinished"
        policy.save_pretrained(unfinished)
        unfinished.rename(start)
    sampling = SamplingConfig(max_new_tokens=game.longest_turn, temperature=TEMPERATURE)
    return CausalLMPolicy(start, sampling=sampling, seed=seed)


def make_policy(game: Game, seed: int) -> CausalLMPolicy:
    """A transformer of two layers with random weights, about 100,000 parameters, and a token for each character."""
    torch.manual_seed(seed)
    tokenizer = character_tokenizer(game.characters, chat_template=CHAT_TEMPLATE)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=168,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    sampling = SamplingConfig(max_new_tokens=game.longest_turn)
    return CausalLMPolicy(LlamaForCausalLM(config), tokenizer, sampling=sampling, seed=seed)


def supervised_start(policy: CausalLMPolicy, game: Game, rows: Sequence[Row], *, until: float = 0.25) -> int:
    """Show the policy games that the expert plays until it wins some of them, most of them still lost.

    Returns:
        Steps that were made.
    """
    shown = [as_conversation(game, asyncio.run(game.solved(row)), policy.tokenizer) for row in rows[:NUM_SHOWN]]
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-3, weight_decay=0.0)
    won = game.accuracy(rows[:NUM_HELD_OUT])
    for step in range(MOST_STEPS):
        if step % 2 == 0 and won(policy)["reward"] >= until:
            return step
        chosen = [shown[index] for index in torch.randint(len(shown), (64,)).tolist()]
        log_probs = policy.evaluate_actions(policy.encode_actions(chosen, chosen)).log_probs
        optimizer.zero_grad()
        (-log_probs.mean()).backward()
        optimizer.step()
    return MOST_STEPS


def as_conversation(game: Game, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> Conversation:
    """Messages as what a model says, and what it reads before."""
    turns = []
    tools: list[Any] = [Tool(own).schema for own in game.tools]
    for index, own in enumerate(messages):
        if own["role"] == "assistant":
            context: Any = tokenizer.apply_chat_template(list(messages[:index]), tools=tools, return_dict=False)
            said = tokenizer(own["content"] + tokenizer.eos_token)["input_ids"]
            turns.append(Turn(tuple(context), Completion(tuple(said), own["content"])))
    return Conversation(tuple(turns), tuple(messages))
