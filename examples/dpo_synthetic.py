"""DPO from labelled pairs alone, where what the labeller thinks is known.

A hidden utility says how good each of ten items is in a context. A labeller is shown two of them, as the untrained
policy draws them, and prefers a to b with probability σ((u(a) - u(b)) / temperature), as Bradley and Terry have it. DPO
learns from such labels, and never sees the utility. The labels are noisy, so that even the utility ranks only some
held-out pairs as they are labelled: that is what is attainable.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from grpo import (
    DPOConfig,
    DPOObjective,
    DPOTrainer,
    Evaluate,
    HingePreferenceLoss,
    IdentityPreferenceLoss,
    Preference,
    RobustPreferenceLoss,
    Run,
    SigmoidPreferenceLoss,
    Until,
    with_reference_log_probs,
)
from grpo_adapters.bandit import ContextualSoftmaxPolicy

CONTEXT_SIZE, NUM_ITEMS, HIDDEN_SIZE = 4, 10, 32
PAIRS, PAIRS_PER_UPDATE, HELD_OUT_PAIRS, TEST_CONTEXTS = 4000, 250, 5000, 2000
LOSSES: dict[str, Any] = {"sigmoid": SigmoidPreferenceLoss, "hinge": HingePreferenceLoss}
LOSSES |= {"ipo": IdentityPreferenceLoss, "robust": RobustPreferenceLoss}
BETA, TEMPERATURE = 0.1, 0.5  # of the implicit rewards; of the labeller, whose utilities have a standard deviation of 1


@dataclass(frozen=True)
class Options:
    passes: int = 20
    """Passes over the pairs."""
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    """Loss on a pair: DPO's, SLiC's, IPO's, or DPO's made robust to flipped labels."""
    label_noise: float = 0.0
    """Fraction of the labels that is flipped besides, in [0, 0.5); the robust loss is told of it."""
    seed: int = 0
    """Of the utility, the policy and the labels."""
    folder: Path = Path("outputs/dpo_synthetic")
    """Where each run has a folder of its own, named by loss and seed."""


class Labeller:
    """Knows the utility of every item, a random network's, and labels pairs by it."""

    def __init__(self, temperature: float, label_noise: float) -> None:
        self.temperature, self.label_noise = temperature, label_noise
        self._inner = torch.randn(CONTEXT_SIZE, HIDDEN_SIZE)
        self._outer = torch.randn(HIDDEN_SIZE, NUM_ITEMS)
        self._outer /= self.utilities(torch.randn(TEST_CONTEXTS, CONTEXT_SIZE)).std()

    def utilities(self, contexts: Tensor) -> Tensor:
        return (contexts @ self._inner).tanh() @ self._outer  # [N, items]

    def margins(self, contexts: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Log-odds of preferring the first item to the second, before any label is flipped, [N]."""
        utilities = self.utilities(contexts)
        difference = utilities.gather(1, first.unsqueeze(1)) - utilities.gather(1, second.unsqueeze(1))
        return difference.squeeze(1) / self.temperature

    def prefers_first(self, contexts: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """A label for each pair, drawn at random, [N]."""
        labels = torch.rand(len(contexts)) < self.margins(contexts, first, second).sigmoid()
        return labels ^ (torch.rand(len(contexts)) < self.label_noise)

    def draw_pairs(self, policy: ContextualSoftmaxPolicy, count: int) -> tuple[list[Any], Tensor]:
        """Pairs of different items, as the policy draws them, and the labeller's own margin of each, [P]."""
        contexts = torch.randn(count, CONTEXT_SIZE)
        first, second = policy.generate_actions(contexts, 2).unbind(1)
        while (same := first == second).any():
            second[same] = policy.generate_actions(contexts[same], 1).squeeze(1)
        labels = self.prefers_first(contexts, first, second)
        chosen, rejected = torch.where(labels, first, second), torch.where(labels, second, first)
        pairs = [Preference(*pair) for pair in zip(contexts, chosen, rejected, strict=True)]
        return with_reference_log_probs(pairs, policy), self.margins(contexts, chosen, rejected)


def main(options: Options) -> Run:
    """Train, and tell how well held-out pairs are ranked, and how good the items are that the policy draws."""
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    network = nn.Sequential(nn.Linear(CONTEXT_SIZE, HIDDEN_SIZE), nn.Tanh(), nn.Linear(HIDDEN_SIZE, NUM_ITEMS))
    policy = ContextualSoftmaxPolicy(network)
    labeller = Labeller(TEMPERATURE, options.label_noise)
    pairs, _ = labeller.draw_pairs(policy, PAIRS)
    held_out, margins = labeller.draw_pairs(policy, HELD_OUT_PAIRS)
    utilities = labeller.utilities(contexts := torch.randn(TEST_CONTEXTS, CONTEXT_SIZE))
    noise = {"label_noise": options.label_noise} if options.loss == "robust" else {}
    config = DPOConfig(batch_size=PAIRS_PER_UPDATE, learning_rate=1e-2, seed=options.seed)
    trainer = DPOTrainer(config, policy, objective=DPOObjective(loss=LOSSES[options.loss](beta=BETA, **noise)))

    def evaluate(_: Any) -> dict[str, float]:
        mean_utility = (policy.log_probabilities(contexts).exp() * utilities).sum(1).mean().item()
        return trainer.evaluate(held_out) | {"utility": mean_utility}

    folder = options.folder / f"{options.loss}-{options.seed}"
    run = Run(trainer, pairs, folder=folder, callbacks=[Evaluate(evaluate, every=1, name="held_out")])
    run(Until(steps=options.passes))
    accuracy, attainable = run.evaluation["held_out/rewards/accuracies"], (margins > 0).float().mean()
    print(f"held-out pairs ranked as labelled: {accuracy:.1%}, by the utility {attainable:.1%}")
    print(f"mean margin: {run.evaluation['held_out/rewards/margins']:.2f}, of the labeller {margins.mean():.2f}")
    print(f"mean utility: {run.evaluation['held_out/utility']:.2f}, of the best items {utilities.amax(1).mean():.2f}")
    return run


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
