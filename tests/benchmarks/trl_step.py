"""TRL's side of language_speed.py: its own training loop, which pauses after each optimiser step.

A step is all that happens between two pauses: the batch, sampling, rewards, the update. Settings are those of our side
where they differ from TRL's defaults: float32, no gradient checkpointing, no dropout, no reference model, AdamW
without weight decay, its fused version, nothing logged or saved.
"""

from __future__ import annotations

import tempfile
from typing import Any

import tyro
from language_work import (
    GROUP_SIZE,
    LEARNING_RATE,
    MAX_NEW_TOKENS,
    NUM_COMPLETIONS,
    TRL_SETTINGS,
    Turns,
    Work,
    build_model,
    build_prompts,
    build_tokenizer,
    share_of_vowels,
)


def rewards_of(completions: list[str], **_: Any) -> list[float]:
    """TRL's form of the reward."""
    return [share_of_vowels(completion) for completion in completions]


def main(work: Work) -> None:
    """Train for as long as steps are asked for."""
    # Here, since pytest imports this module in search of doctests, and need not have the library.
    from datasets import Dataset  # type: ignore[import-untyped, unused-ignore]
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found, unused-ignore]

    turns = Turns()

    class Pauses(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.go_on(control)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            turns.answer(mean_length=trainer._metrics["train"]["completions/mean_length"][-1])
            self.go_on(control)

        def go_on(self, control: Any) -> None:
            control.should_training_stop = not turns.wait()

    with tempfile.TemporaryDirectory() as output_dir:
        config = GRPOConfig(
            output_dir=output_dir,
            per_device_train_batch_size=work.micro_batch_size,
            gradient_accumulation_steps=NUM_COMPLETIONS // work.micro_batch_size,
            num_generations=GROUP_SIZE,
            max_completion_length=MAX_NEW_TOKENS,
            temperature=1.0,
            learning_rate=LEARNING_RATE,
            beta=0.0,
            **TRL_SETTINGS,
        )
        trainer = GRPOTrainer(
            model=build_model(work),
            reward_funcs=rewards_of,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in build_prompts(work, 4096)]),
            processing_class=build_tokenizer(work),
            callbacks=[Pauses()],
        )
        trainer.train()


if __name__ == "__main__":
    main(tyro.cli(Work, description=__doc__))
