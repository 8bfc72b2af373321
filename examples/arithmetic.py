"""A task small enough for a language model that is made in seconds: to add two numbers of two digits.

A sum is written from its last digit to its first, as one adds on paper: ``58+67=`` is to be answered by ``521``. Then
each digit follows from two digits of the problem and a carry.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from grpo_adapters.huggingface import CausalLMPolicy, SamplingConfig, character_tokenizer

NUM_HELD_OUT = 500
LONGEST_ANSWER = 4  # three digits and the token that ends them
NOT_PREDICTED = -100

Row = dict[str, str]


def make_problems(seed: int) -> tuple[list[Row], list[Row]]:
    """All 10,000 problems in random order: those to train on, and those held out."""
    rows = [
        {"prompt": f"{first:02}+{second:02}=", "answer": f"{first + second:03}"[::-1]}
        for first in range(100)
        for second in range(100)
    ]
    random.Random(seed).shuffle(rows)  # noqa: S311
    return rows[NUM_HELD_OUT:], rows[:NUM_HELD_OUT]


def starting_model(
    folder: Path, rows: Sequence[Row], seed: int, *, learning_rate: float = 3e-3, **settings: Any
) -> Path:
    """The folder of a small model that has been shown some problems, made there if it is not yet."""
    start = folder / f"start-{seed}"
    if not start.exists():
        torch.manual_seed(seed)
        tokenizer = character_tokenizer("0123456789+=")
        model = make_model(tokenizer, **settings)
        print(f"supervised start: {supervised_start(model, tokenizer, rows, learning_rate=learning_rate)} steps")
        unfinished = folder / f"start-{seed}.unfinished"
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        unfinished.rename(start)
    return start


def make_model(tokenizer: PreTrainedTokenizerBase, **settings: Any) -> LlamaForCausalLM:
    """A transformer of two layers, about 100,000 parameters, with random weights, or one of other sizes."""
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 168,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
    }
    tokens = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), **tokens, **(sizes | settings))
    return LlamaForCausalLM(config)


def supervised_start(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    until: float = 0.25,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    most_steps: int = 1000,
) -> int:
    """Show the model problems with their answers until it gets some of them right, most of them still wrong.

    Returns:
        Steps that were made.
    """
    policy = CausalLMPolicy(model, tokenizer, sampling=SamplingConfig(max_new_tokens=LONGEST_ANSWER))
    inputs, targets = _examples(tokenizer, rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    for step in range(most_steps):
        if step % 5 == 0 and accuracy(policy, rows[:NUM_HELD_OUT]) >= until:
            return step
        chosen = torch.randint(len(rows), (batch_size,))
        logits = model(input_ids=inputs[chosen]).logits
        loss = cross_entropy(logits.flatten(0, 1), targets[chosen].flatten(), ignore_index=NOT_PREDICTED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return most_steps


def _examples(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of problems and answers, and the token to predict after each of them; all rows are equally long."""
    texts = [row["prompt"] + row["answer"] + str(tokenizer.eos_token) for row in rows]
    tokens = torch.tensor(tokenizer(texts)["input_ids"])
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[:, :-LONGEST_ANSWER] = NOT_PREDICTED
    return inputs, targets


def exact_answer(completions: Sequence[str], answer: Sequence[str], **columns: Any) -> list[float]:
    """1 for the right answer, else 0: a reward function."""
    return [float(completion == right) for completion, right in zip(completions, answer, strict=True)]


def accuracy(policy: CausalLMPolicy, rows: Sequence[Row]) -> float:
    """Fraction of problems that the policy's likeliest tokens answer exactly."""
    completions = policy.complete(rows)
    return sum(own.text == row["answer"] for own, row in zip(completions, rows, strict=True)) / len(rows)
