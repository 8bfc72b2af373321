"""This library's side of preference_speed.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tyro
from language_work import Turns, build_model, build_tokenizer
from preference_work import BETA, LEARNING_RATE, NUM_PAIRS, PreferenceWork, build_rows

from grpo import DPOConfig, DPOTrainer, Preference, with_reference_log_probs
from grpo_adapters.huggingface import CausalLMPolicy, preferences_of


@dataclass(frozen=True)
class OurWork(PreferenceWork):
    """What a worker of this library does."""

    with_entropy: bool = True
    """Compute entropies, as policies do unless told otherwise; a DPO step has no use for them."""


def build_trainer(work: OurWork) -> tuple[DPOTrainer[Any, Any], Iterator[list[Preference[Any, Any]]]]:
    """The trainer with TRL's settings, and the pairs of one step after the other."""
    policy = CausalLMPolicy(build_model(work.model), build_tokenizer(work.model), with_entropy=work.with_entropy)
    pairs = preferences_of(build_rows(work), policy)
    if work.reference == "before":
        pairs = with_reference_log_probs(pairs, policy, micro_batch_size=NUM_PAIRS)
    config = DPOConfig(beta=BETA, learning_rate=LEARNING_RATE, max_grad_norm=1.0)
    trainer = DPOTrainer(config, policy, policy.reference() if work.reference == "asked" else None)
    starts = itertools.cycle(range(0, len(pairs), NUM_PAIRS))
    return trainer, (pairs[start : start + NUM_PAIRS] for start in starts)


def main(work: OurWork) -> None:
    """Make steps for as long as they are asked for."""
    turns = Turns()
    trainer, batches = build_trainer(work)
    while turns.wait():
        metrics = trainer.step(next(batches))
        turns.answer(loss=metrics["loss"], mean_length=metrics["num_decisions"] / (2 * NUM_PAIRS))


if __name__ == "__main__":
    main(tyro.cli(OurWork, description=__doc__))
