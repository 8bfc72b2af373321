"""The work that preference_speed.py measures, the same for both sides.

A step is 16 pairs, prompts of 32 tokens with two answers of 64 tokens each, or of 16 to 64, and one update.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from typing import Literal

from language_work import SPECIAL_TOKENS, Work, vocabulary

NUM_PAIRS, PROMPT_LENGTH, SHORTEST, LONGEST = 16, 32, 16, 64
BETA, LEARNING_RATE = 0.1, 1e-4


@dataclass(frozen=True)
class PreferenceWork:
    """What a worker does."""

    size: Literal["tiny", "gpt2"] = "tiny"
    """4 layers, 128 wide, 103 characters; or 12 layers, 768 wide, 50,257 words (124M parameters)."""
    lengths: Literal["fixed", "varied"] = "fixed"
    """Answers of 64 tokens; or of 16 to 64, each as likely."""
    reference: Literal["before", "asked"] = "before"
    """Log-probs of the reference are computed before the first step; or asked for in each step."""
    num_steps: int = 4
    """Steps' worth of pairs; steps beyond begin with the first pair again."""

    @property
    def model(self) -> Work:
        """The model and the tokenizer, whose end token has a probability of 1/32."""
        return Work(size=self.size, lengths="varied")


def build_rows(work: PreferenceWork) -> list[dict[str, str]]:
    """Rows of random tokens; both sides append the end token, which is the last of an answer's tokens."""
    draw = random.Random(0)
    tokens = string.ascii_lowercase if work.size == "tiny" else vocabulary(work.model)[len(SPECIAL_TOKENS) :]
    separator = "" if work.size == "tiny" else " "

    def text(length: int) -> str:
        return separator.join(draw.choices(tokens, k=length))

    def answer() -> str:
        length = LONGEST if work.lengths == "fixed" else draw.randint(SHORTEST, LONGEST)
        return separator + text(length - 1)

    return [
        {"prompt": text(PROMPT_LENGTH), "chosen": answer(), "rejected": answer()}
        for _ in range(work.num_steps * NUM_PAIRS)
    ]
