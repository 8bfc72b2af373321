"""Formulas that fit data, written by a grammar: symbolic regression.

An action is a list of productions E → E + E | E - E | E * E | sin(E) | cos(E) | x | 1, each for the leftmost E left;
those after which a formula could not end in time are masked. Learnt from is the best tenth of a step: one good formula
is sought, not many fair ones (Petersen et al. 2021, arXiv:1912.04871). Python itself evaluates what was found.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor, nn

from grpo import Evaluation, Experience, GRPOConfig, GRPOTrainer, Segments, TensorBatch

NAMES = ("({} + {})", "({} - {})", "({} * {})", "sin({})", "cos({})", "x", "1")
FUNCTIONS = (torch.add, torch.sub, torch.mul, torch.sin, torch.cos, torch.clone, torch.ones_like)
MORE = torch.tensor([*(name.count("{}") - 1 for name in NAMES), 0])  # E that a production adds to those left, END none
END, LONGEST, GROUP, FIGURE = len(NAMES), 16, 500, Path("outputs/formulas.png")
TARGETS = ("sin(x) + sin(x + x**2)", "sin(x**2)*cos(x) - 1", "x**3 + x**2 + x", "x**4 + x**3 + x**2 + x")


class Writer(nn.Sequential):  # of formulas [N, LONGEST], productions from the outside in, filled up with END
    def choices(self, begun: Tensor) -> torch.distributions.Categorical:
        """The next production of each formula that was begun, [D, LONGEST]."""
        shortest = (begun < END).sum(1, keepdim=True) + 1 + MORE[begun].sum(1, keepdim=True)  # that it can become
        scores = self(nn.functional.one_hot(begun, END + 1).flatten(1).float())
        is_too_long = shortest + 1 + MORE[:END] > LONGEST
        return torch.distributions.Categorical(logits=scores.masked_fill(is_too_long, -torch.inf))

    def generate_actions(self, states: list[str], num_actions_per_state: int, **_: Any) -> Tensor:
        formulas = torch.full((len(states) * num_actions_per_state, LONGEST), END)
        for place in range(LONGEST):
            if (is_open := MORE[formulas].sum(1) >= 0).any():
                formulas[is_open, place] = self.choices(formulas[is_open]).sample()
        return formulas.view(len(states), num_actions_per_state, LONGEST)

    def encode_actions(self, states: list[str], actions: Tensor) -> TensorBatch:
        is_there = actions < END
        begun = actions.unsqueeze(1).masked_fill(torch.ones(LONGEST, LONGEST).triu().bool(), END)
        return TensorBatch(begun[is_there], actions[is_there], Segments.of_lengths(is_there.sum(1)))

    def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
        choices = self.choices(batch.observations)
        return Evaluation(choices.log_prob(batch.actions), choices.entropy())

    def get_log_probabilities(self, states: list[str], actions: Tensor) -> Tensor:
        batch = self.encode_actions(states, actions)
        return batch.samples.sum(self.evaluate_actions(batch).log_probs)

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())


class Fit(nn.Module):  # rewards 1 / (1 + error), error in standard deviations of the data; keeps the best formula
    points, best, tried = torch.linspace(-1, 1, 20, dtype=torch.float64), (0.0, [END]), 0

    def compute_rewards(self, states: list[str], actions: Tensor) -> Tensor:
        values, formulas = by_python(states[0], self.points), actions.tolist()
        told = [fold(iter(own), lambda at, parts: FUNCTIONS[at](*parts or [self.points])) for own in formulas]
        rewards = 1 / (1 + (torch.stack(told) - values).square().mean(1).sqrt() / values.std())
        self.best = max(self.best, *zip(rewards.tolist(), formulas, strict=True))
        self.tried += len(formulas)
        return rewards.float()


def fold(formula: Any, apply: Any) -> Any:
    """What ``apply`` makes of a production and of its parts, which come after it."""
    return apply(at := next(formula), [fold(formula, apply) for _ in range(NAMES[at].count("{}"))])


def by_python(formula: str, points: Tensor) -> Tensor:
    """The values of a formula, without anything of the above."""
    return points.new_tensor([eval(formula, {**vars(math), "x": x}) for x in points.tolist()])  # noqa: S307


def best_tenth(experience: Experience) -> Tensor:
    """How much better a formula is than nine tenths of all, 0 for those, on the scale of the mean, [N]."""
    better = (experience.sample_rewards.values - experience.sample_rewards.values.quantile(0.9)).clamp(min=0)
    return better / better.mean().clamp(min=1e-9)


def main(targets: tuple[str, ...] = TARGETS, steps: int = 100, seed: int = 0, figure: Path = FIGURE) -> None:
    """Search for each target, print what was found, draw the last.

    Args:
        targets: What the data are made by, as Python writes it.
        steps: Steps at the most, of 500 formulas each; a search ends where a formula fits exactly.
        seed: Of the weights and of all formulas.
        figure: File for the figure.
    """
    torch.set_num_threads(1)
    config = GRPOConfig(group_size=GROUP, learning_rate=3e-3, entropy_coefficient=0.3, loss_averaging="per_decision")
    points = torch.linspace(-2, 2, 401, dtype=torch.float64)
    print(f"{'target':23} {'formulas':8} {'tried':>6} {'error on [-2, 2]':>16}  best of them")
    for target in targets:
        (drawing, axes), true = plt.subplots(figsize=(3.6, 2.7), layout="constrained"), by_python(target, points)
        axes.plot(points, true, color="#767676", linewidth=5, alpha=0.4, label=target)
        for name, colour, line in (("random", "#D55E00", "--"), ("learnt", "#0072B2", "-")):
            torch.manual_seed(seed)
            fit, writer = Fit(), Writer(nn.Linear(LONGEST * (END + 1), 128), nn.ReLU(), nn.Linear(128, END))
            trainer = GRPOTrainer(config, writer, fit, advantage_estimator=best_tenth)
            while fit.tried < steps * GROUP and fit.best[0] < 1 - 1e-9:
                trainer.step([target]) if name == "learnt" else trainer.collector.sample([target])
            found = fold(iter(fit.best[1]), lambda at, parts: NAMES[at].format(*parts))
            axes.plot(points, told := by_python(found, points), line, color=colour, label=name)
            print(f"{target:23} {name:8} {fit.tried:6} {(told - true).norm() / true.norm():16.0e}  {found}", flush=True)
    axes.set_ylim(true.min().item() - 1, true.max().item() + 1)
    axes.legend(frameon=False, fontsize=8)
    figure.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(figure, transparent=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
