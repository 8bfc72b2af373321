"""This library's side of language_speed.py."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import tyro
from language_work import (
    GROUP_SIZE,
    LEARNING_RATE,
    MAX_NEW_TOKENS,
    NUM_COMPLETIONS,
    NUM_PROMPTS,
    Turns,
    Work,
    build_model,
    build_prompts,
    build_tokenizer,
    share_of_vowels,
)

from grpo import GRPOConfig, GRPOTrainer, World
from grpo_adapters.huggingface import CausalLMPolicy, Completion, SamplingConfig


class VowelReward:
    """Our form of the reward."""

    def compute_rewards(self, states: Sequence[str], actions: Sequence[Completion]) -> torch.Tensor:
        return torch.tensor([share_of_vowels(completion.text) for completion in actions])

    def train(self) -> None: ...

    def eval(self) -> None: ...

    def to(self, device: Any) -> None: ...


def build_trainer(work: Work, world: World | None = None) -> GRPOTrainer[Any, Any]:
    """The trainer with TRL's settings."""
    config = GRPOConfig(
        group_size=GROUP_SIZE,
        micro_batch_size=work.micro_batch_size if work.micro_batch_size < NUM_COMPLETIONS else None,
        learning_rate=LEARNING_RATE,
        loss_averaging="per_decision",
        max_grad_norm=1.0,
    )
    policy = CausalLMPolicy(
        build_model(work),
        build_tokenizer(work),
        sampling=SamplingConfig(max_new_tokens=MAX_NEW_TOKENS, temperature=1.0),
    )
    return GRPOTrainer(config, policy, VowelReward(), world=world)


def main(work: Work) -> None:
    """Make steps for as long as they are asked for."""
    turns = Turns()
    trainer = build_trainer(work)
    prompts = build_prompts(work, 4096)
    for start in itertools.count(step=NUM_PROMPTS):
        if not turns.wait():
            break
        first = start % len(prompts)
        metrics = trainer.step(prompts[first : first + NUM_PROMPTS])
        turns.answer(mean_length=metrics["num_decisions"] / NUM_COMPLETIONS)


if __name__ == "__main__":
    main(tyro.cli(Work, description=__doc__))
