"""DPO in the examples: what is played is counted, the labeller labels as it says, and its utility is learnt."""

from __future__ import annotations

import copy
import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from math import log
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import bandit_algorithms
import dpo_synthetic
import toy_environments
from grpo import DPOConfig, DPOTrainer
from grpo_adapters.bandit import ContextualSoftmaxPolicy
from grpo_adapters.gym import EpisodeSampler, GymPolicy

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


class Counting(gymnasium.Env[np.int64, np.int64]):
    """Episodes of one to four steps, drawn at the reset; the last one may be rewarded. Counts all steps."""

    observation_space = gymnasium.spaces.Discrete(5)
    action_space = gymnasium.spaces.Discrete(2)
    rewarded = True
    num_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 5))
        return np.int64(self.left), {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        type(self).num_steps += 1
        self.left -= 1
        return np.int64(self.left), float(action * self.rewarded), self.left == 0, False, {}


class Indifferent(Counting):
    rewarded = False
    num_steps = 0


@pytest.mark.parametrize("environment", [Counting, Indifferent])
def test_rounds_count_what_was_played_whether_or_not_it_is_in_a_pair(environment: type[Counting]) -> None:
    environment.num_steps = 0
    sampler = EpisodeSampler(environment, 4)
    policy = GymPolicy(sampler)
    before = copy.deepcopy(policy.get_parameters())
    trainer: DPOTrainer[Sequence[int], Any] = DPOTrainer(DPOConfig(), policy, copy.deepcopy(policy))
    rounds = toy_environments.PreferenceRounds(policy, sampler, trainer)
    for num_rounds in (1, 2):
        steps = environment.num_steps
        metrics = rounds.step([7 * num_rounds, 8 * num_rounds, 9 * num_rounds])
        assert metrics["num_decisions"] == environment.num_steps - steps > 0
        assert metrics["num_samples"] == 3 * 8
        assert metrics["num_episodes"] == num_rounds * 3 * 8
        assert trainer.num_steps == (num_rounds if environment.rewarded else 0)
    has_learnt = any(not torch.equal(tensor, before[name]) for name, tensor in policy.get_parameters().items())
    assert has_learnt == environment.rewarded


@pytest.mark.parametrize("pulls", [6, 0, -4])
def test_pulls_that_do_not_make_whole_groups_are_refused(pulls: int) -> None:
    with pytest.raises(SystemExit, match=f"^--pulls-per-step is {pulls}, expected a multiple of 4: DPO's groups$"):
        bandit_algorithms.main(bandit_algorithms.Options(pulls_per_step=pulls))


def test_a_moving_average_must_fit_the_steps() -> None:
    with pytest.raises(SystemExit, match=r"^--window is 20, expected 1 to the 5 of --num-steps$"):
        bandit_algorithms.main(bandit_algorithms.Options(num_steps=5))


@pytest.mark.parametrize(("option", "value"), [("steps", 0), ("seeds", -1)])
def test_toy_environments_need_steps_and_seeds(option: str, value: int) -> None:
    with pytest.raises(SystemExit, match=f"^--{option} is {value}, expected at least 1$"):
        toy_environments.main(toy_environments.Options(**dict[str, Any]({option: value})))


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
