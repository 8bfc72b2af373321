"""DPO in the examples: what is played is counted, the labeller labels as it says, and its utility is learnt."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import pytest
import torch

import bandit_algorithms
import dpo_synthetic
import toy_environments
from grpo import DPOConfig, DPOTrainer
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
