"""DPO from labelled pairs alone, where what the labeller thinks is known.

A hidden utility says how good each of ten items is in a context. A labeller is shown two of them, as the untrained
policy draws them, and prefers a to b with probability σ((u(a) - u(b)) / temperature), as Bradley and Terry have it. DPO
learns from such labels, and never sees the utility.

The table shows the margin of the implicit rewards as it grows, and how many pairs they rank as labelled. The labels are
noisy, so that even the hidden utility ranks only some of them right: that is what is attainable. Utilities are exact
means over the policy's items in fresh contexts, from that of the untrained policy to that of the best item.

The figure shows the labeller's own margin too, (u(a) - u(b)) / temperature. Given pairs and passes enough, none of the
labels flipped, the margins of DPO come near it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from grpo import (
    DPOConfig,
    DPOObjective,
    DPOTrainer,
    HingePreferenceLoss,
    IdentityPreferenceLoss,
    Preference,
    PreferenceLoss,
    RobustPreferenceLoss,
    SigmoidPreferenceLoss,
    with_reference_log_probs,
)

CONTEXT_SIZE, NUM_ITEMS, HIDDEN_SIZE = 4, 10, 32
HELD_OUT_PAIRS = 5000
TEST_CONTEXTS = 2000
BATCH_SIZE = 250

console = Console()


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    pairs: int = 4000
    """Labelled pairs to learn from."""
    passes: int = 20
    """Passes over them."""
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    """Loss on a pair: DPO's, SLiC's, IPO's, or DPO's made robust to flipped labels."""
    beta: float = 0.1
    """Scale of the implicit rewards: the larger, the nearer to the untrained policy."""
    temperature: float = 0.5
    """Temperature of the labeller, whose utilities have a standard deviation of 1: the higher, the noisier."""
    label_noise: float = 0.0
    """Fraction of the labels that is flipped besides, in [0, 0.5); the robust loss is told of it."""
    learning_rate: float = 1e-2
    """Learning rate."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 3
    """Trainings, each with a utility and a policy of its own."""
    output: Path = Path("outputs")
    """Folder for the figure."""


class ItemPolicy:
    """Chooses an item in a context, by a softmax. DPO asks it for log-probs only; it draws the pairs besides."""

    def __init__(self) -> None:
        self.network = nn.Sequential(nn.Linear(CONTEXT_SIZE, HIDDEN_SIZE), nn.Tanh(), nn.Linear(HIDDEN_SIZE, NUM_ITEMS))

    def log_probs(self, contexts: Tensor) -> Tensor:
        logits: Tensor = self.network(contexts)
        return logits.log_softmax(-1)  # [N, items]

    @torch.no_grad()
    def generate_actions(self, states: Tensor, num_actions_per_state: int, **kwargs: Any) -> Tensor:
        return torch.multinomial(self.log_probs(states).exp(), num_actions_per_state, replacement=True)

    def get_log_probabilities(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.log_probs(states).gather(1, actions.unsqueeze(1)).squeeze(1)

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.network.named_parameters())

    def train(self) -> None:
        self.network.train()

    def eval(self) -> None:
        self.network.eval()

    def to(self, device: torch.device | str) -> None:
        self.network.to(device)


class Labeller:
    """Knows the utility of every item, a random network's, and labels pairs by it.

    Args:
        temperature: of the preferences, in standard deviations of the utility.
        label_noise: fraction of the labels that is flipped besides.
    """

    def __init__(self, temperature: float, label_noise: float) -> None:
        self.temperature = temperature
        self.label_noise = label_noise
        self._inner = torch.randn(CONTEXT_SIZE, HIDDEN_SIZE)
        self._outer = torch.randn(HIDDEN_SIZE, NUM_ITEMS)
        self._outer /= self.utilities(torch.randn(TEST_CONTEXTS, CONTEXT_SIZE)).std()

    def utilities(self, contexts: Tensor) -> Tensor:
        """Utilities of all items, [N, items]."""
        return (contexts @ self._inner).tanh() @ self._outer

    def margins(self, contexts: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Log-odds of preferring the first item to the second, before any label is flipped, [N]."""
        utilities = self.utilities(contexts)
        difference = utilities.gather(1, first.unsqueeze(1)) - utilities.gather(1, second.unsqueeze(1))
        return difference.squeeze(1) / self.temperature

    def prefers_first(self, contexts: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """A label for each pair, drawn at random, [N]."""
        labels = torch.rand(len(contexts)) < self.margins(contexts, first, second).sigmoid()
        return labels ^ (torch.rand(len(contexts)) < self.label_noise)


@dataclass(frozen=True)
class LabelledPairs:
    """Pairs with their labels.

    Attributes:
        preferences: what DPO is given.
        margins: the labeller's own margin of each, chosen less rejected, [P]; negative where the label contradicts the
            utility.
    """

    preferences: list[Preference[Tensor, Tensor]]
    margins: Tensor

    @property
    def attainable_accuracy(self) -> float:
        """Fraction of the pairs that the utility ranks as they are labelled."""
        return (self.margins > 0).float().mean().item()


def draw_pairs(policy: ItemPolicy, labeller: Labeller, count: int) -> LabelledPairs:
    """Pairs of different items, as the policy draws them."""
    contexts = torch.randn(count, CONTEXT_SIZE)
    first, second = policy.generate_actions(contexts, 2).unbind(1)
    while (same := first == second).any():
        second[same] = policy.generate_actions(contexts[same], 1).squeeze(1)
    labels = labeller.prefers_first(contexts, first, second)
    chosen, rejected = torch.where(labels, first, second), torch.where(labels, second, first)
    pairs = [Preference(*pair) for pair in zip(contexts, chosen, rejected, strict=True)]
    return LabelledPairs(with_reference_log_probs(pairs, policy), labeller.margins(contexts, chosen, rejected))


LOSSES: dict[str, Callable[[Options], PreferenceLoss]] = {
    "sigmoid": lambda options: SigmoidPreferenceLoss(beta=options.beta),
    "hinge": lambda options: HingePreferenceLoss(beta=options.beta),
    "ipo": lambda options: IdentityPreferenceLoss(beta=options.beta),
    "robust": lambda options: RobustPreferenceLoss(beta=options.beta, label_noise=options.label_noise),
}


@dataclass(frozen=True)
class Measurement:
    """How far a training is.

    Attributes:
        passes: over the pairs so far.
        loss: on the training pairs.
        margin: of the implicit rewards, mean over the training pairs.
        accuracy: fraction of the training pairs that the implicit rewards rank as labelled.
        held_out_margin: mean over the held-out pairs.
        held_out_accuracy: fraction of the held-out pairs.
        utility: mean utility of the policy's items.
    """

    passes: int
    loss: float
    margin: float
    accuracy: float
    held_out_margin: float
    held_out_accuracy: float
    utility: float


class Training:
    """A utility, pairs labelled by it, and the policy that learns from them."""

    def __init__(self, options: Options, seed: int) -> None:
        torch.manual_seed(seed)
        self.options = options
        self.seed = seed
        self.policy = ItemPolicy()
        labeller = Labeller(options.temperature, options.label_noise)
        self.pairs = draw_pairs(self.policy, labeller, options.pairs)
        self.held_out = draw_pairs(self.policy, labeller, HELD_OUT_PAIRS)
        self._contexts = torch.randn(TEST_CONTEXTS, CONTEXT_SIZE)
        self._utilities = labeller.utilities(self._contexts)
        self.reference_utility = self._utility()
        self.best_utility = self._utilities.amax(1).mean().item()
        config = DPOConfig(batch_size=BATCH_SIZE, learning_rate=options.learning_rate, seed=seed)
        objective = DPOObjective(loss=LOSSES[options.loss](options))
        self.trainer = DPOTrainer(config, self.policy, objective=objective)
        self.curve: list[Measurement] = []

    def run(self) -> None:
        """Train to the end, and measure after 1, 2, 4, ... passes and after the last."""
        next_measured = 1
        for passes in range(1, self.options.passes + 1):
            self.trainer.step(self.pairs.preferences)
            if passes in (next_measured, self.options.passes):
                self.curve.append(self._measure(passes))
                next_measured = 2 * passes

    def table(self) -> Table:
        """The measurements."""
        table = Table(title=f"{self.options.loss}, seed {self.seed}")
        for column in ("passes", "loss", "rewards/\nmargins", "accuracy", "held out", "of\nattainable", "utility"):
            table.add_column(column, justify="right")
        for now in self.curve:
            table.add_row(
                str(now.passes),
                f"{now.loss:.3f}",
                f"{now.margin:.2f}",
                f"{now.accuracy:.1%}",
                f"{now.held_out_accuracy:.1%}",
                f"{now.held_out_accuracy / self.held_out.attainable_accuracy:.1%}",
                f"{now.utility:.2f}",
            )
        return table

    def _measure(self, passes: int) -> Measurement:
        own, held_out = (self.trainer.evaluate(pairs.preferences) for pairs in (self.pairs, self.held_out))
        return Measurement(
            passes,
            own["loss"],
            own["rewards/margins"],
            own["rewards/accuracies"],
            held_out["rewards/margins"],
            held_out["rewards/accuracies"],
            self._utility(),
        )

    @torch.no_grad()
    def _utility(self) -> float:
        """Mean utility of the policy's items."""
        return (self.policy.log_probs(self._contexts).exp() * self._utilities).sum(1).mean().item()


def report(trainings: list[Training]) -> None:
    """Print where each training ended."""
    table = Table(title="At the end: held-out pairs, and the utility of the policy's items")
    for column in ("seed", "accuracy", "attainable", "of attainable", "untrained", "trained", "best"):
        table.add_column(column, justify="right")
    for training in trainings:
        accuracy, attainable = training.curve[-1].held_out_accuracy, training.held_out.attainable_accuracy
        utilities = (training.reference_utility, training.curve[-1].utility, training.best_utility)
        table.add_row(
            str(training.seed),
            *(f"{fraction:.1%}" for fraction in (accuracy, attainable, accuracy / attainable)),
            *(f"{utility:.2f}" for utility in utilities),
        )
    console.print(table)


def draw(trainings: list[Training]) -> Path:
    """Save a figure of margins and accuracies, a line for every seed."""
    mpl.use("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for training in trainings:
        passes = [now.passes for now in training.curve]
        label = training is trainings[0]
        for axes, color, name, values in (
            (left, "C0", "training pairs", [now.margin for now in training.curve]),
            (left, "C1", "held-out pairs", [now.held_out_margin for now in training.curve]),
            (right, "C0", "training pairs", [now.accuracy for now in training.curve]),
            (right, "C1", "held-out pairs", [now.held_out_accuracy for now in training.curve]),
        ):
            axes.plot(passes, values, color=color, marker="o", markersize=3, label=name if label else None)
        for axes, name, value in (
            (left, "the labeller's own, held out", training.held_out.margins.mean().item()),
            (right, "attainable, held out", training.held_out.attainable_accuracy),
        ):
            axes.axhline(value, color="0.5", linewidth=1, linestyle="--", label=name if label else None)
    left.set(title="margin of the implicit rewards", xlabel="passes")
    right.set(title="pairs ranked as labelled", xlabel="passes")
    right.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    path = trainings[0].options.output / "dpo_synthetic.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def check(options: Options) -> None:
    """Refuse numbers out of range.

    Raises:
        SystemExit: with what is wrong and what is expected.
    """
    for name in ("pairs", "passes", "seeds"):
        if getattr(options, name) < 1:
            raise SystemExit(f"--{name} is {getattr(options, name)}, expected at least 1")
    for name in ("beta", "temperature", "learning_rate"):
        value = getattr(options, name)
        if not (isfinite(value) and value > 0):
            raise SystemExit(f"--{name.replace('_', '-')} is {value}, expected a finite number above 0")
    if not 0 <= options.label_noise < 0.5:
        raise SystemExit(f"--label-noise is {options.label_noise}, expected at least 0 and below 0.5")


def main(options: Options) -> None:
    """Train with every seed, and show what was learnt."""
    check(options)
    torch.set_num_threads(1)
    trainings = [Training(options, seed) for seed in range(options.seeds)]
    for training in trainings:
        with console.status(f"seed {training.seed}"):
            training.run()
        console.print(training.table())
    report(trainings)
    console.print(f"figure: {draw(trainings)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
