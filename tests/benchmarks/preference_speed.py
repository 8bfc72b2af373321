"""Seconds of a DPO step on a language model, and the memory it takes: this library beside TRL.

Each side is a process of its own, ``our_preference_step.py`` and ``trl_preference_step.py``, and they take turns as in
``language_speed.py``, where it stands how ratios and memory are measured. What a step is stands in
``preference_work.py``: the same pairs in the same order for both. TRL has all token ids in memory, ours those of the
answers; it tokenises the prompts in each step. The log-probs of the reference are computed before the first step, or
asked for in each, of a copy of the model.

TRL keeps entropy, token accuracy and the mean of the logits in every step. Our policies compute entropies unless told
otherwise; DPO has no use for them, so there is a third side, ours with ``no entropy``.

First both make a few steps from the same parameters, in ``preference_updates.py``: losses, clipped gradients and
parameters must agree. So must the losses of all steps that are measured. The last line holds the ratios and the largest
differences as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import tyro
from language_speed import ENVIRONMENT, HERE, measure, report

WARM_UP = 1
TOLERANCE = 1e-5
REFERENCES = ("before", "asked")
SIDES = {
    "TRL": ("trl_preference_step.py",),
    "ours": ("our_preference_step.py",),
    "ours, no entropy": ("our_preference_step.py", "--no-with-entropy"),
}


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    quick: bool = False
    """Only the tiny model."""
    rounds: int = 31
    """Steps of each on the tiny model."""
    large_rounds: int = 3
    """Steps of each on the model of 124M parameters, whose answers have lengths that vary."""


def differences_of_updates(reference: str) -> dict[str, float]:
    """What preference_updates.py finds on the tiny model, in a process of its own, since memory is measured here."""
    command = [sys.executable, str(HERE / "preference_updates.py"), "--lengths", "varied", "--reference", reference]
    run = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} has failed: {run.stderr[-2000:]}")
    differences: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return differences


def check(differences: dict[str, float]) -> dict[str, float]:
    """The same differences.

    Raises:
        RuntimeError: if one is above the tolerance.
    """
    if not all(difference <= TOLERANCE for difference in differences.values()):
        raise RuntimeError(f"the two sides do not make the same update: {differences}, expected at most {TOLERANCE}")
    return differences


def difference_of_losses(answers: dict[str, list[dict[str, float]]]) -> float:
    """The largest relative difference between the losses of a round."""
    losses = [[answer["loss"] for answer in own] for own in answers.values()]
    return float(max(max(of_round) / min(of_round) - 1 for of_round in zip(*losses, strict=True)))


def main(options: Options) -> None:
    """Run all cases and print."""
    results: dict[str, float] = {}
    for reference in REFERENCES:
        differences = check(differences_of_updates(reference))
        results |= {f"{reference}: difference of {name}": each for name, each in differences.items()}
    cases = [
        ("tiny", lengths, reference, options.rounds) for lengths in ("fixed", "varied") for reference in REFERENCES
    ]
    if not options.quick:
        cases.append(("gpt2", "varied", "before", options.large_rounds))
    for size, lengths, reference, rounds in cases:
        case = f"{size}, {lengths}, {reference}"
        print(f"{case}; load of the machine before {os.getloadavg()[0]:.1f}", flush=True)
        work = ("--size", size, "--lengths", lengths, "--reference", reference)
        commands = {name: (str(HERE / script), *work, *more) for name, (script, *more) in SIDES.items()}
        answers = measure(commands, rounds=rounds, warm_up=WARM_UP)
        results |= {f"{case}: {name}": ratio for name, ratio in report(answers).items()}
        results |= check({f"{case}: difference of losses": difference_of_losses(answers)})
    print(json.dumps({name: float(f"{result:.3g}") for name, result in results.items()}))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
