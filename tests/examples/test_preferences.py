"""DPO in the examples: the labeller labels as it says, and its utility is learnt."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dpo_synthetic
from grpo_adapters.bandit import ContextualSoftmaxPolicy

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
    drawn = context.expand(20_000, -1), first.expand(20_000), second.expand(20_000)
    assert labeller.prefers_first(*drawn).float().mean().item() == pytest.approx(expected, abs=0.015)


def test_utilities_have_a_standard_deviation_of_one() -> None:
    torch.manual_seed(1)
    labeller = dpo_synthetic.Labeller(temperature=0.5, label_noise=0.0)
    assert labeller.utilities(torch.randn(20_000, 4)).std().item() == pytest.approx(1.0, abs=0.05)


def test_pairs_are_of_different_items_and_a_cold_labeller_makes_no_mistake() -> None:
    torch.manual_seed(0)
    policy = ContextualSoftmaxPolicy(nn.Linear(4, 10))
    (warm, margins), (cold, cold_margins) = (
        dpo_synthetic.Labeller(temperature, 0.0).draw_pairs(policy, 500) for temperature in (1.0, 1e-6)
    )
    assert all(pair.chosen != pair.rejected for pair in (*warm, *cold))
    assert {int(pair.chosen) for pair in warm} == set(range(10))
    assert 0.6 < (margins > 0).float().mean() < 0.85
    assert (cold_margins > 0).all()
    log_probs = policy.log_probabilities(warm[0].state)[torch.stack([warm[0].chosen, warm[0].rejected])]
    assert warm[0].reference_log_probs == pytest.approx(log_probs.tolist())


def trained(folder: Path, **options: Any) -> tuple[list[dict[str, Any]], list[float]]:
    """Evaluations of a run, and what it prints: accuracies, margins and utilities, those of the labeller second."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        run = dpo_synthetic.main(dpo_synthetic.Options(folder=folder, **options))
    assert run.folder is not None
    lines = (run.folder / "evaluations.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], [float(text) for text in re.findall(r"-?\d+\.\d+", printed.getvalue())]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_margins_rank_held_out_pairs_nearly_as_well_as_the_utility(seed: int, tmp_path: Path) -> None:
    evaluations, (accuracy, attainable, _, _, utility, best) = trained(tmp_path, seed=seed)
    assert [line["step"] for line in evaluations] == list(range(21))
    margins = [evaluations[step]["held_out/rewards/margins"] for step in (0, 1, 2, 4, 8, 16)]
    assert margins[0] == 0
    assert margins == sorted(set(margins))
    assert accuracy >= 0.95 * attainable
    assert evaluations[0]["held_out/utility"] < 0.2
    assert 0.85 * best < utility <= best


@pytest.mark.parametrize(("loss", "label_noise"), [("hinge", 0.0), ("ipo", 0.0), ("robust", 0.2)])
def test_other_losses_learn_it_too(loss: str, label_noise: float, tmp_path: Path) -> None:
    evaluations, (accuracy, attainable, *_) = trained(tmp_path, loss=loss, label_noise=label_noise, passes=10)
    assert accuracy >= 0.95 * attainable
    utilities = [evaluations[step]["held_out/utility"] for step in (0, 1, 10)]
    assert utilities == sorted(set(utilities))


def test_margins_of_the_robust_loss_come_nearer_to_the_labeller_whose_labels_are_flipped(tmp_path: Path) -> None:
    distances = {}
    for loss in ("sigmoid", "robust"):
        _, (_, _, margin, own, *_) = trained(tmp_path, loss=loss, label_noise=0.2)
        distances[loss] = abs(margin - own)
    assert distances["robust"] < distances["sigmoid"]


def test_the_script_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "dpo_synthetic.py"), "--passes", "1"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "outputs" / "dpo_synthetic" / "sigmoid-0" / "metrics.jsonl").is_file()
