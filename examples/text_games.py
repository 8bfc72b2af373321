"""What games of several turns have in common, and a small language model that has been shown some of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from grpo import PolicyEvaluation
from grpo_adapters.huggingface import (
    AgentSampler,
    CausalLMPolicy,
    Completion,
    Conversation,
    ConversationReward,
    SamplingConfig,
    TextEnvironment,
    Turn,
    character_tokenizer,
)

NUM_HELD_OUT = 300
CHAT_TEMPLATE = "{% for own in messages %}{{ own.content }}{{ eos_token if own.role == 'assistant' }}{% endfor %}"

Message = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Game:
    """A game: its rules, and how it is played well."""

    characters: str
    all_rows: Callable[[random.Random], list[Row]]
    environment: Callable[[], TextEnvironment]
    tools: tuple[Callable[..., str], ...]
    parse: Callable[[str], Message]
    expert: Callable[[Sequence[Message]], str]
    """From all that was read and said to what is best said next."""
    max_turns: int
    longest_turn: int
    """In tokens, with the one that ends it."""

    def make_rows(self, seed: int) -> tuple[list[Row], list[Row]]:
        """Games to train on, and others that are held out."""
        rows = self.all_rows(random.Random(seed))  # noqa: S311
        return rows[NUM_HELD_OUT:], rows[:NUM_HELD_OUT]

    def sampler(self) -> AgentSampler:
        """Has a model play."""
        return AgentSampler(self.environment, self.tools, max_turns=self.max_turns, parse=self.parse)

    async def solved(self, row: Row) -> list[Message]:
        """All messages of a game that the expert plays."""
        environment, messages, is_over = self.environment(), list(row["prompt"]), False
        environment.reset(row)
        while not is_over:
            said, answers = self.parse(self.expert(messages)), []
            if "tool_calls" in said:
                [call] = said["tool_calls"]
                [tool] = self.tools
                answers = [{"role": "tool", "content": tool(**call["function"]["arguments"])}]
            else:
                answers, _, is_over = await environment.step(said)
            messages += [said, *answers]
        return messages


def as_conversation(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> Conversation:
    """Messages as what a model says, and what it reads before."""
    turns = []
    for index, own in enumerate(messages):
        if own["role"] == "assistant":
            context = tokenizer.apply_chat_template(list(messages[:index]), return_dict=False)
            said = tokenizer(own["content"] + tokenizer.eos_token)["input_ids"]
            turns.append(Turn(tuple(context), Completion(tuple(said), own["content"])))
    return Conversation(tuple(turns), tuple(messages))


def starting_policy(folder: Path, game: Game, rows: Sequence[Row], seed: int) -> CausalLMPolicy:
    """A policy that has been shown some games, made in the folder if it is not there yet."""
    start = folder / "start"
    if not start.exists():
        torch.manual_seed(seed)
        policy = make_policy(game, seed)
        print(f"supervised start: {supervised_start(policy, game, rows)} steps")
        unfinished = folder / "start.unfinished"
        policy.save_pretrained(unfinished)
        unfinished.rename(start)
    return CausalLMPolicy(start, sampling=SamplingConfig(max_new_tokens=game.longest_turn), seed=seed)


def make_policy(game: Game, seed: int) -> CausalLMPolicy:
    """A transformer of two layers with random weights, about 100,000 parameters, and a token for each character."""
    tokenizer = character_tokenizer(game.characters, chat_template=CHAT_TEMPLATE)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=168,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    sampling = SamplingConfig(max_new_tokens=game.longest_turn)
    return CausalLMPolicy(LlamaForCausalLM(config), tokenizer, sampling=sampling, seed=seed)


def accuracy(game: Game, rows: Sequence[Row]) -> PolicyEvaluation:
    """Fraction of games that the policy's likeliest tokens win."""
    return PolicyEvaluation(rows, ConversationReward(), sampler=game.sampler(), generation_kwargs={"top_k": 1})


def supervised_start(policy: CausalLMPolicy, game: Game, rows: Sequence[Row], *, until: float = 0.2) -> int:
    """Show the policy games that the expert plays until it wins some, most of them still lost; gives steps made."""
    shown = [as_conversation(asyncio.run(game.solved(row)), policy.tokenizer) for row in rows[:2000]]
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=2e-3, weight_decay=0.0)
    step = 0
    while step < 1000 and (step % 5 or accuracy(game, rows[:NUM_HELD_OUT])(policy)["reward"] < until):
        chosen = [shown[index] for index in torch.randint(len(shown), (64,)).tolist()]
        log_probs = policy.evaluate_actions(policy.encode_actions(chosen, chosen)).log_probs
        optimizer.zero_grad()
        (-log_probs.mean()).backward()
        optimizer.step()
        step += 1
    return step
