"""TRL's side of preference_speed.py: its own training loop, which pauses after each optimiser step.

A step is all that happens between two pauses: the batch from the dataset of token ids, the collator, the update and the
metrics that TRL always keeps. Settings are those of our side where they differ from TRL's defaults: float32, no
gradient checkpointing, pairs in the order given, AdamW without weight decay, its fused version, a constant learning
rate, nothing logged or saved.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib import import_module
from typing import Any

import tyro
from language_work import TRL_SETTINGS, Turns, build_model, build_tokenizer
from preference_work import BETA, LEARNING_RATE, NUM_PAIRS, PreferenceWork, build_rows


def build_trainer(work: PreferenceWork, output_dir: str, end_step: Callable[[Any], bool]) -> Any:
    """A trainer that goes on for as long as ``end_step``, which is told the trainer after each step, is true."""
    # Here, since pytest imports this module in search of doctests, and need not have the library.
    from datasets import Dataset  # type: ignore[import-untyped, unused-ignore]
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer  # type: ignore[import-not-found, unused-ignore]

    class Remembers(DPOTrainer):  # type: ignore[misc, unused-ignore]
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            self.last_inputs = inputs
            self.last_loss = super().compute_loss(model, inputs, *args, **options)
            return self.last_loss

    class Pauses(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = not end_step(trainer)

    config = DPOConfig(
        output_dir=output_dir,
        per_device_train_batch_size=NUM_PAIRS,
        train_sampling_strategy="sequential",
        beta=BETA,
        precompute_ref_log_probs=work.reference == "before",
        learning_rate=LEARNING_RATE,
        **TRL_SETTINGS,
    )
    trainer = Remembers(
        model=build_model(work.model),
        ref_model=build_model(work.model) if work.reference == "asked" else None,
        args=config,
        train_dataset=Dataset.from_list(build_rows(work)),
        processing_class=build_tokenizer(work.model),
        callbacks=[Pauses()],
    )
    return trainer


def main(work: PreferenceWork) -> None:
    """Train for as long as steps are asked for."""
    import_module("trl.trainer.dpo_trainer")  # before the turns, which note what memory all imports take
    turns = Turns()

    def end_step(trainer: Any) -> bool:
        num_tokens = trainer.last_inputs["completion_mask"].sum().item()
        turns.answer(loss=trainer.last_loss.item(), mean_length=num_tokens / (2 * NUM_PAIRS))
        return turns.wait()

    with tempfile.TemporaryDirectory() as output_dir:
        trainer = build_trainer(work, output_dir, end_step)
        if turns.wait():
            trainer.train()


if __name__ == "__main__":
    main(tyro.cli(PreferenceWork, description=__doc__))
