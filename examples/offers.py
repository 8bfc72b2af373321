"""A simulated world in which an old policy makes offers, and the log that it leaves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grpo import TensorBatch

FEATURES, OFFERS, DECISIONS = 5, 5, 4000  # a context is as many numbers between 0 and 1; a log has so many decisions


class World(nn.Module):
    """Knows how probable it is that an offer is taken, and that the old policy makes it, [N, offers] both."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = torch.randn(FEATURES, 16), torch.randn(16, OFFERS)
        self.liked = torch.randn(FEATURES, OFFERS)

    def taken(self, contexts: Tensor) -> Tensor:
        return torch.sigmoid((2 * contexts @ self.inner).tanh() @ self.outer / 2 - 1)

    def old_policy(self, contexts: Tensor) -> Tensor:
        return 0.8 * (2 * contexts @ self.liked).softmax(1) + 0.2 / OFFERS

    def compute_rewards(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.taken(states)[torch.arange(len(actions)), actions].bernoulli()


class Log(TensorBatch):
    """Contexts and offers of the old policy, their log-probs, and what came of them."""

    def __init__(self, contexts: Tensor, offers: Tensor, sampling_log_probs: Tensor, rewards: Tensor) -> None:
        super().__init__(contexts, offers)
        self.sampling_log_probs, self.rewards = sampling_log_probs, rewards


def draw_log(world: World) -> Log:
    choice = torch.distributions.Categorical(world.old_policy(contexts := torch.rand(DECISIONS, FEATURES)))
    offers = choice.sample()
    return Log(contexts, offers, choice.log_prob(offers), world.compute_rewards(contexts, offers))
