"""The scheduler of custom_policy.py on several processes: torchrun --nproc-per-node 2 examples/several_processes.py.

Each process trains on its share of the lists. Gradients, averages and decisions are those of all of them together, so
that every process ends with the same policy. Without torchrun it is one process, and nothing else changes.
"""

from __future__ import annotations

import torch

from custom_policy import LowCost, SchedulingPolicy, cost
from grpo import GRPOConfig, GRPOTrainer, World


def lists_of_jobs(step: int, count: int) -> list[torch.Tensor]:
    """The same ones on all processes: eight jobs a list, each with a duration and a weight."""
    return list(0.1 + torch.rand(count, 8, 2, generator=torch.Generator().manual_seed(step)))


def main() -> None:
    """Train, and compare with the best orders."""
    torch.set_num_threads(1)
    world = World.from_environment()
    torch.manual_seed(0)  # the same network everywhere; what is drawn later differs by process
    policy = SchedulingPolicy()
    trainer = GRPOTrainer(GRPOConfig(group_size=16, learning_rate=0.01), policy, LowCost(), world=world)
    for step in range(200):
        metrics = trainer.step(world.share(lists_of_jobs(step, 16)))
        if step % 20 == 0 and world.rank == 0:
            print(f"step {step:3}   mean cost {-metrics['reward']:.2f}   {metrics['num_samples']:.0f} orders")
    unseen = lists_of_jobs(step=1000, count=500)
    orders = policy.scores(unseen).argsort(dim=1, descending=True)
    learnt = sum(cost(jobs, order) for jobs, order in zip(unseen, orders, strict=True))
    best = sum(cost(jobs, (jobs[:, 0] / jobs[:, 1]).argsort()) for jobs in unseen)
    if world.rank == 0:
        print(f"{world.size} process(es): on 500 new lists the orders cost {learnt / best - 1:.2%} more than the best")
    assert learnt < 1.02 * best


if __name__ == "__main__":
    main()
