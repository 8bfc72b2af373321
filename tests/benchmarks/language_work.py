"""The work that language_speed.py measures, the same for both sides, and how a worker takes its turns.

A step is 4 prompts of 12 to 20 tokens, 8 completions each of at most 64 tokens, and one update.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import resource
import string
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

NUM_PROMPTS, GROUP_SIZE, MAX_NEW_TOKENS = 4, 8, 64
NUM_COMPLETIONS = NUM_PROMPTS * GROUP_SIZE
LEARNING_RATE = 1e-6
END_PROBABILITY = 1 / 32
SPECIAL_TOKENS = ["<pad>", "<end>", "<unknown>"]
VOWELS = frozenset("aeiou")
TRL_SETTINGS: dict[str, Any] = {
    "lr_scheduler_type": "constant",
    "optim": "adamw_torch_fused",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_steps": 1_000_000,
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "logging_strategy": "no",
    "save_strategy": "no",
    "disable_tqdm": True,
}
"""What both sides of TRL are told, where it differs from its defaults: our optimiser, and nothing logged or saved."""


@dataclass(frozen=True)
class Work:
    """What a worker does."""

    size: Literal["tiny", "gpt2"] = "tiny"
    """4 layers, 128 wide, 103 characters; or 12 layers, 768 wide, 50,257 words (124M parameters)."""
    lengths: Literal["fixed", "varied"] = "fixed"
    """Completions never end before the last token; or each token is the last with probability 1/32."""
    micro_batch_size: int = NUM_COMPLETIONS
    """Completions in a backward pass."""


def vocabulary(work: Work) -> list[str]:
    """All tokens: characters, or words of four letters."""
    if work.size == "tiny":
        return [*SPECIAL_TOKENS, *string.printable]
    words = ("".join(letters) for letters in itertools.product(string.ascii_lowercase, repeat=4))
    return [*SPECIAL_TOKENS, *itertools.islice(words, 50257 - len(SPECIAL_TOKENS))]


def build_tokenizer(work: Work) -> PreTrainedTokenizerFast:
    """A token a character, or a token a word."""
    tokens = {token: number for number, token in enumerate(vocabulary(work))}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unknown>"))
    if work.size == "tiny":
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>"
    )


def build_model(work: Work) -> GPT2LMHeadModel:
    """A GPT-2 with random weights, whose end token has the same probability everywhere.

    One axis of the last hidden state is a constant, which only the end token's embedding reads.
    """
    shape: dict[str, Any] = {"n_layer": 4, "n_embd": 128, "n_head": 4, "n_positions": 128}
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(vocabulary(work)),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **(shape if work.size == "tiny" else {}),
    )
    model = GPT2LMHeadModel(config)
    # A state after the last norm is √H long, so a logit is normal with standard deviation 0.02 √H.
    log_total = math.log(config.vocab_size - 1) + config.initializer_range**2 * config.n_embd / 2
    end_logit = log_total + math.log(END_PROBABILITY / (1 - END_PROBABILITY)) if work.lengths == "varied" else -100.0
    with torch.no_grad():
        embeddings, norm = model.transformer.wte.weight, model.transformer.ln_f
        norm.weight[0], norm.bias[0] = 0.0, 10.0
        embeddings[:, 0] = 0.0
        embeddings[1] = 0.0
        embeddings[1, 0] = end_logit / 10.0
    return model


def build_prompts(work: Work, number: int) -> list[str]:
    """Prompts of 12 to 20 tokens."""
    draw = random.Random(0)
    tokens = string.ascii_lowercase if work.size == "tiny" else vocabulary(work)[len(SPECIAL_TOKENS) :]
    separator = "" if work.size == "tiny" else " "
    return [separator.join(draw.choices(tokens, k=draw.randint(12, 20))) for _ in range(number)]


def share_of_vowels(text: str) -> float:
    """The reward of a completion."""
    return sum(character in VOWELS for character in text) / max(len(text), 1)


class Turns:
    """A worker's end of the line: it waits for its turn, and answers. Made once everything is imported."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
        self._imported = peak_mib()
        self._start = self._cpu_start = 0.0

    def wait(self) -> bool:
        """Until the next step is asked for; false where none will be."""
        goes_on = sys.stdin.readline().strip() == "step"
        self._start, self._cpu_start = time.perf_counter(), time.process_time()
        return goes_on

    def answer(self, **of_the_step: float) -> None:
        """How long the step took, what it was, and the most memory that the process has held so far."""
        answer = {
            "seconds": time.perf_counter() - self._start,
            "cpu_seconds": time.process_time() - self._cpu_start,
            "peak_mib": peak_mib(),
            "imported_mib": self._imported,
        }
        print(json.dumps(answer | of_the_step), file=self._answers, flush=True)


def peak_mib() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
