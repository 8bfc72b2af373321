"""Thousands of cart-poles in one tensor: PPO on them, and its policy evaluated in gymnasium's CartPole-v1."""

from __future__ import annotations

import math
import time
from typing import Any

import gymnasium
import torch
import tyro
from gymnasium.spaces import Discrete
from torch import Tensor

from grpo import LinearSchedule, PPOConfig, PPOTrainer
from grpo_adapters.gym import EnvironmentReward, GymActorCritic, SimulatorSampler, evaluate


class CartPoles:
    """n of gymnasium's CartPole-v1, computed at once.

    Attributes:
        state: positions, velocities, angles and angular velocities, [4, n].
        steps: of the episodes so far, [n].
    """

    FARTHEST, STEEPEST, LONGEST = 2.4, 12 * 2 * math.pi / 360, 500

    def __init__(self, num_envs: int, device: str = "cpu") -> None:
        self.num_envs = num_envs
        self.single_observation_space: Any = gymnasium.make("CartPole-v1").observation_space
        self.single_action_space = Discrete(2)
        self.generator = torch.Generator(device)
        self.rewards = torch.ones(num_envs, device=device)
        self.reset()

    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]:
        if seed is not None:
            self.generator.manual_seed(seed)
        self.state = self.starts()
        self.steps = torch.zeros_like(self.rewards)
        return self.state.t(), {}

    def starts(self) -> Tensor:
        uniform = torch.rand(4, self.num_envs, generator=self.generator, device=self.generator.device)
        return uniform.sub_(0.5).mul_(0.1)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        moved = self.state + 0.02 * torch.stack(self.changes(actions))
        self.steps = self.steps + 1
        terminated = (moved[0].abs() > self.FARTHEST) | (moved[2].abs() > self.STEEPEST)
        truncated = self.steps >= self.LONGEST
        done = terminated | truncated
        self.state = torch.where(done, self.starts().to(moved), moved)
        self.steps = self.steps.masked_fill(done, 0)
        return self.state.t(), self.rewards, terminated, truncated, {"final_obs": moved.t()}

    def changes(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """How fast the four change, under a force of 10 N to the left or right (Barto, Sutton and Anderson 1983)."""
        _, velocity, angle, turning = self.state
        sine, cosine = angle.sin(), angle.cos()
        push = (20 * actions - 10 + 0.05 * turning.square() * sine) / 1.1
        angular = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine.square() / 1.1))
        return velocity, push - 0.05 * angular * cosine / 1.1, turning, angular

    def state_dict(self) -> dict[str, Tensor]:
        return {"state": self.state, "steps": self.steps, "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        self.state, self.steps = state_dict["state"], state_dict["steps"]
        self.generator.set_state(state_dict["generator"].cpu())


def main(num_envs: int = 4096, num_steps: int = 32, updates: int = 12, device: str = "cpu", seed: int = 0) -> None:
    """Train, tell the speed, and evaluate.

    Args:
        num_envs: Cart-poles side by side.
        num_steps: Steps of each in a rollout.
        updates: Rollouts to learn from.
        device: Where simulator and policy are.
        seed: Of everything random.
    """
    sampler = SimulatorSampler(CartPoles(num_envs, device), num_steps, seed=seed)
    policy = GymActorCritic(sampler, seed=seed)
    config = PPOConfig(
        batch_size=num_envs * num_steps // 32,
        num_epochs_per_update=1,
        learning_rate=LinearSchedule(start=3e-3, end=0.0, num_steps=updates),
        discount=0.99,
        gae_lambda=0.95,
        device=device,
        seed=seed,
    )
    trainer = PPOTrainer(config, policy, EnvironmentReward())
    begun, sampling = time.perf_counter(), 0.0
    for update in range(updates):
        metrics = trainer.step(sampler.states)
        sampling += trainer.phases.seconds["sampling"]
        if update % 3 == 2:
            print(f"update {update + 1:3}   episode_return {metrics['episode_return']:6.1f}")
    steps, seconds = updates * num_envs * num_steps, time.perf_counter() - begun
    print(
        f"{steps:,} steps, {steps / sampling:,.0f} a second including the policy, {steps / seconds:,.0f} with learning"
    )
    result = evaluate(policy.to("cpu"), lambda: gymnasium.make("CartPole-v1"), 100, num_envs=50)
    print(f"gymnasium's CartPole-v1: {result}")


if __name__ == "__main__":
    tyro.cli(main)
