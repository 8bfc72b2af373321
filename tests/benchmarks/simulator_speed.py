"""Steps a second of a batched simulator under a policy, beside the same loop written by hand.

Both play `examples/batched_simulator.py`'s cart-poles with the same network, and both hand over what PPO learns from:
observations environment by environment, decisions, rewards, ends and true successors, from one copy in memory.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from batched_simulator import CartPoles
from grpo_adapters.gym import GymActorCritic, SimulatorSampler


class ByHand:
    """The loop as one would write it for this simulator and this policy alone, without a check."""

    def __init__(self, num_envs: int, num_steps: int) -> None:
        self.num_envs, self.num_steps = num_envs, num_steps
        self.simulator = CartPoles(num_envs)
        self.observations, _ = self.simulator.reset(seed=0)
        self.network = GymActorCritic(self.simulator).actor

    @torch.no_grad()
    def rollout(self) -> tuple[Tensor, ...]:
        n, steps = self.num_envs, self.num_steps
        noise = torch.empty(steps, n, 2).exponential_().log_().neg_()
        observations, after = torch.empty(n, steps, 4), torch.empty(steps, n, 4)
        actions, rewards = torch.empty(steps, n, dtype=torch.int64), torch.empty(steps, n)
        terminated, done = (torch.empty(steps, n, dtype=torch.bool) for _ in range(2))
        for step in range(steps):
            observations[:, step] = self.observations
            actions[step] = (self.network(self.observations) + noise[step]).argmax(-1)
            self.observations, rewards[step], terminated[step], truncated, info = self.simulator.step(actions[step])
            torch.logical_or(terminated[step], truncated, out=done[step])
            after[step] = info["final_obs"]
        is_end = done.t().clone()
        is_end[:, -1] = True
        slots, at = is_end.nonzero().unbind(1)
        return observations, actions.t(), rewards.t(), after[at, slots], terminated[at, slots]


def fastest(run: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest run."""
    until, best = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < until:
        begun = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begun)
    return best


def main(num_envs: int = 4096, num_steps: int = 32, threads: int = 2, rounds: int = 5) -> None:
    """Measure in turn, and take the fastest rollout of each.

    Args:
        num_envs: Cart-poles side by side.
        num_steps: Steps of each in a rollout.
        threads: That PyTorch computes with.
        rounds: Turns of two seconds each.
    """
    torch.set_num_threads(threads)
    by_hand = ByHand(num_envs, num_steps)
    sampler = SimulatorSampler(CartPoles(num_envs), num_steps)
    policy = GymActorCritic(sampler)
    policy.eval()
    runs = {"by hand": by_hand.rollout, "sampler": lambda: sampler.sample(policy, sampler.states, 1)}
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            best[name] = min(best[name], fastest(run, 2.0))
    print(f"{num_envs} environments, {num_steps} steps, {threads} threads, load {os.getloadavg()[0]:.1f}")
    for name, seconds in best.items():
        print(f"{name}: {num_envs * num_steps / seconds:,.0f} steps a second, the policy's decisions included")
    print(f"sampler / by hand: {best['by hand'] / best['sampler']:.2f}")


if __name__ == "__main__":
    tyro.cli(main)
