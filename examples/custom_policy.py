"""A model of your own: learn in which order a machine should do its jobs.

A state is a list of jobs, each with a duration and a weight; an action is an order; the cost is the sum over jobs of
weight times completion time. The policy scores jobs with a small network and draws orders by a softmax over scores.
Smith's rule (1956) gives the best order exactly: at the end the learnt orders are held against it on unseen lists.
"""

import torch
from torch import nn

from grpo import GRPOConfig, GRPOTrainer


class SchedulingPolicy:
    """Draws an order of jobs: at each place one of those left, by a softmax over their scores."""

    def __init__(self):
        self.network = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))

    def scores(self, states):
        return self.network(torch.stack(states)).squeeze(-1)  # [N, jobs]

    def generate_actions(self, states, num_actions_per_state, **kwargs):
        scores = self.scores(states).unsqueeze(1).expand(-1, num_actions_per_state, -1)
        gumbel_noise = -torch.empty_like(scores).exponential_().log()
        return list((scores + gumbel_noise).argsort(dim=-1, descending=True))

    def get_log_probabilities(self, states, actions):
        in_order = self.scores(states).gather(1, torch.stack(list(actions)))
        left = in_order.flip(1).logcumsumexp(1).flip(1)
        return (in_order - left).sum(1)

    def get_parameters(self):
        return dict(self.network.named_parameters())

    def train(self):
        self.network.train()

    def eval(self):
        self.network.eval()

    def to(self, device):
        self.network.to(device)


def cost(jobs, order):
    durations, weights = jobs[order].unbind(-1)
    return (weights * durations.cumsum(0)).sum()


class LowCost:
    """Minus the cost of each order."""

    def compute_rewards(self, states, actions):
        return torch.stack([-cost(jobs, order) for jobs, order in zip(states, actions, strict=True)])

    def train(self): ...
    def eval(self): ...
    def to(self, device): ...


def random_jobs(count):
    return list(0.1 + torch.rand(count, 8, 2))  # eight jobs a list: duration, weight


if __name__ == "__main__":
    torch.manual_seed(0)
    policy = SchedulingPolicy()
    trainer = GRPOTrainer(GRPOConfig(group_size=16, learning_rate=0.01), policy, LowCost())
    for step in range(200):
        metrics = trainer.step(random_jobs(16))
        if step % 20 == 0:
            print(f"step {step:3}   mean cost {-metrics['reward']:.2f}")
    tests = random_jobs(500)
    orders = policy.scores(tests).argsort(dim=1, descending=True)
    learnt = sum(cost(jobs, order) for jobs, order in zip(tests, orders, strict=True))
    best = sum(cost(jobs, (jobs[:, 0] / jobs[:, 1]).argsort()) for jobs in tests)
    print(f"on 500 new lists the learnt orders cost {learnt / best - 1:.2%} more than the best ones")
    assert learnt < 1.02 * best
