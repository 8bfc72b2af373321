"""GRPO puts the best three of six documents in order, from nothing but the clicks of a simulated user.

The user looks at place i with probability 1 / log2(i + 1), and clicks on what he looks at with a probability that is
the document's relevance, hidden from the policy. So the clicks to be expected of a list are its discounted cumulative
gain. The policy draws a list by Plackett and Luce: at each place one of those left, by a softmax over their scores.
There are only 120 lists, so that all can be told exactly: their probabilities have to add up to 1, what is to be
expected of the policy is a sum over all of them, and the best list is the best of all.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor, nn

from grpo import GRPOConfig, GRPOTrainer

DOCUMENTS, PLACES, FEATURES, HELD_OUT = 6, 3, 4, 500
LISTS = torch.tensor(list(itertools.permutations(range(DOCUMENTS), PLACES)))
LOOKS = 1 / torch.arange(2, PLACES + 2).log2()  # at each place


@dataclass(frozen=True)
class Options:
    steps: int = 600
    """Steps of 32 queries each, with 16 lists a query."""
    seeds: int = 3
    """Trainings, each with a user and documents of its own."""
    figure: Path | None = None
    """File for a picture of the trainings."""


class Ordering(nn.Module):
    """Scores documents by their features; an action is the indices of three of them, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, 1))

    def generate_actions(self, states: Tensor, num_actions_per_state: int, **kwargs: object) -> Tensor:
        """The highest scores after Gumbel noise, a draw by Plackett and Luce (Yellott 1977), [S, G, places]."""
        scores: Tensor = self.network(states).squeeze(-1).unsqueeze(1).expand(-1, num_actions_per_state, -1)
        return (scores - torch.empty_like(scores).exponential_().log()).topk(PLACES).indices

    def get_log_probabilities(self, states: Tensor, actions: Tensor) -> Tensor:
        """At each place the score of what stands there over those of all that were left, summed up, [N]."""
        scores = self.network(states).squeeze(-1)
        log_probs = torch.zeros(len(states))
        for document in actions.split(1, dim=1):
            log_probs = log_probs + scores.log_softmax(1).gather(1, document).squeeze(1)
            scores = scores.scatter(1, document, -torch.inf)
        return log_probs

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())


class User(nn.Module):
    """Clicks on what he sees and finds relevant; a random network knows what that is."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, 1), nn.Sigmoid())
        for own in self.parameters():
            nn.init.normal_(own, std=1.5)

    @torch.no_grad()
    def click_probabilities(self, states: Tensor, actions: Tensor) -> Tensor:
        return LOOKS * torch.gather(self.network(states).squeeze(-1), 1, actions)  # [N, places]

    def compute_rewards(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.click_probabilities(states, actions).bernoulli().sum(1)


@torch.no_grad()
def of_all_lists(policy: Ordering, user: User, queries: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of each list, and the clicks to be expected of it, [queries, lists] both."""
    states, actions = queries.repeat_interleave(len(LISTS), 0), LISTS.repeat(len(queries), 1)
    probabilities = policy.get_log_probabilities(states, actions).exp()
    return probabilities.view(-1, len(LISTS)), user.click_probabilities(states, actions).sum(1).view(-1, len(LISTS))


def train(seed: int, steps: int) -> list[tuple[int, float]]:
    """Steps, and the clicks that are then to be expected, as a share of those of the best lists."""
    torch.manual_seed(seed)
    policy, user, queries = Ordering(), User(), torch.randn(HELD_OUT, DOCUMENTS, FEATURES)
    trainer = GRPOTrainer(GRPOConfig(group_size=16, learning_rate=0.01), policy, user)
    curve = []
    for step in range(steps + 1):
        if step % max(1, steps // 12) == 0 or step == steps:
            probabilities, clicks = of_all_lists(policy, user, queries)
            shares = clicks / clicks.amax(1, keepdim=True)
            curve.append((step, (probabilities * shares).sum(1).mean().item()))
        if step < steps:
            trainer.step(torch.randn(32, DOCUMENTS, FEATURES))
    error, likeliest = (probabilities.sum(1) - 1).abs().max(), shares.gather(1, probabilities.argmax(1, keepdim=True))
    print(f"{seed:4} {shares.mean():10.1%} {curve[-1][1]:7.1%} {likeliest.mean():10.1%} {error:25.0e}", flush=True)
    return curve


def main(options: Options) -> None:
    torch.set_num_threads(1)
    print("seed  at random  policy  likeliest  sum of probabilities, off 1")
    _, axes = plt.subplots(figsize=(3.6, 2.7), layout="constrained")
    for seed in range(options.seeds):
        axes.plot(*zip(*train(seed, options.steps), strict=True))
    axes.set(xlabel="step", ylabel="share of the best lists' clicks", ylim=(None, 1))
    if options.figure:
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        plt.savefig(options.figure, transparent=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
