"""DPO in the examples: the labeller labels as it says, and its utility is learnt."""

from __future__ import annotations

import re
import subprocess
import sys
from math import log
from pathlib import Path
from typing import Literal

import pytest
import torch

import dpo_synthetic

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.mark.parametrize(("label_noise", "expected"), [(0.0, 0.8), (0.25, 0.65)])
def test_the_labeller_prefers_by_the_sigmoid_of_its_margin(label_noise: float, expected: float) -> None:
    """σ(log 4) = 4/5, and with a quarter of the labels flipped 4/5 · 3/4 + 1/5 · 1/4 = 13/20."""
    torch.manual_seed(0)
    labeller = dpo_synthetic.Labeller(temperature=1.0, label_noise=label_noise)
    context, first, second = torch.randn(1, 4), torch.tensor([0]), torch.tensor([1])
    utilities = labeller.utilities(context)[0]
    labeller.temperature = float(utilities[0] - utilities[1]) / log(4)
    assert labeller.margins(context, first, second).item() == pytest.approx(log(4), rel=1e-4)
    labels = labeller.prefers_first(context.expand(20_000, -1), first.expand(20_000), second.expand(20_000))
    assert labels.float().mean().item() == pytest.approx(expected, abs=0.015)


def test_utilities_have_a_standard_deviation_of_one() -> None:
    torch.manual_seed(1)
    labeller = dpo_synthetic.Labeller(temperature=0.5, label_noise=0.0)
    assert labeller.utilities(torch.randn(20_000, 4)).std().item() == pytest.approx(1.0, abs=0.05)


def test_pairs_are_of_different_items_and_a_cold_labeller_makes_no_mistake() -> None:
    torch.manual_seed(0)
    policy = dpo_synthetic.ItemPolicy()
    warm, cold = (
        dpo_synthetic.draw_pairs(policy, dpo_synthetic.Labeller(temperature, 0.0), 500) for temperature in (1.0, 1e-6)
    )
    assert all(pair.chosen != pair.rejected for pair in warm.preferences)
    assert {int(pair.chosen) for pair in warm.preferences} == set(range(10))
    assert 0.6 < warm.attainable_accuracy < 0.85
    assert cold.attainable_accuracy == 1.0
    pair = warm.preferences[0]
    log_probs = policy.log_probs(pair.state)[torch.stack([pair.chosen, pair.rejected])]
    assert pair.reference_log_probs == pytest.approx(log_probs.tolist())


def test_margins_rank_held_out_pairs_nearly_as_well_as_the_utility(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "dpo_synthetic.py")]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert outcome.returncode == 0, outcome.stderr
    rows = [re.findall(r"-?[\d.]+", line) for line in outcome.stdout.splitlines() if line.startswith("│")]
    *trainings, first, second, third = [[float(cell) for cell in row] for row in rows]
    assert [row[0] for row in trainings] == 3 * [1, 2, 4, 8, 16, 20]
    for start in (0, 6, 12):
        margins = [row[2] for row in trainings[start : start + 6]]
        assert margins[0] > 0
        assert margins == sorted(set(margins))
    for row in (first, second, third):
        _, accuracy, attainable, fraction, untrained, trained, best = row
        assert fraction == pytest.approx(100 * accuracy / attainable, abs=0.2)
        assert fraction >= 95
        assert untrained < 0.2
        assert 0.85 * best < trained <= best
    assert (tmp_path / "outputs" / "dpo_synthetic.png").stat().st_size > 10_000


@pytest.mark.parametrize(("loss", "label_noise"), [("hinge", 0.0), ("ipo", 0.0), ("robust", 0.2)])
def test_other_losses_learn_it_too(loss: Literal["hinge", "ipo", "robust"], label_noise: float) -> None:
    options = dpo_synthetic.Options(loss=loss, label_noise=label_noise, passes=10)
    training = dpo_synthetic.Training(options, seed=0)
    training.run()
    assert [now.passes for now in training.curve] == [1, 2, 4, 8, 10]
    assert training.curve[-1].held_out_accuracy >= 0.95 * training.held_out.attainable_accuracy
    assert training.curve[-1].utility > training.curve[0].utility > training.reference_utility


def test_margins_of_the_robust_loss_come_nearer_to_the_labeller_whose_labels_are_flipped() -> None:
    distances = {}
    losses: tuple[Literal["sigmoid", "robust"], ...] = ("sigmoid", "robust")
    for loss in losses:
        training = dpo_synthetic.Training(dpo_synthetic.Options(loss=loss, label_noise=0.2), seed=0)
        training.run()
        own = training.held_out.margins.mean().item()
        distances[loss] = abs(training.curve[-1].held_out_margin - own)
    assert distances["robust"] < distances["sigmoid"]


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("pairs", "0", "at least 1"),
        ("passes", "-1", "at least 1"),
        ("seeds", "0", "at least 1"),
        ("beta", "0.0", "a finite number above 0"),
        ("temperature", "-0.5", "a finite number above 0"),
        ("learning-rate", "nan", "a finite number above 0"),
        ("label-noise", "0.5", "at least 0 and below 0.5"),
        ("label-noise", "-0.1", "at least 0 and below 0.5"),
    ],
)
def test_numbers_out_of_range_are_refused(option: str, value: str, expected: str) -> None:
    name = option.replace("-", "_")
    number = type(getattr(dpo_synthetic.Options(), name))(value)
    with pytest.raises(SystemExit, match=f"^--{option} is {re.escape(value)}, expected {expected}$"):
        dpo_synthetic.main(dpo_synthetic.Options(**{name: number}))
