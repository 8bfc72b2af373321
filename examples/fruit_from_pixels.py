"""PPO learns from pixels alone to catch what is ripe and to dodge what is not: python examples/fruit_from_pixels.py

Things fall aslant and bounce off the walls, one after the other: fruit, a full square, and rocks, hollow ones. The
player, a bar at the bottom, gains 1 for a fruit that it catches and loses 1 for each that it misses, and for each rock
that hits it. Ten things fall in an episode, five of each, so that 5 is the most, and -10 the least.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation

from grpo import PPOConfig, PPOTrainer, Run, Until
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic, GymPolicy, evaluate

SIZE, HALF_BAR = 36, 4


class Fruit(gymnasium.Env[Any, Any]):
    """Frames of 36 by 36 pixels; left, stay or right, three pixels a step."""

    observation_space = gymnasium.spaces.Box(0, 255, (SIZE, SIZE), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.bar = SIZE // 2
        self.left = list(self.np_random.permutation([True] * 5 + [False] * 5))
        self._next()
        return self._frame(), {}

    def _next(self) -> None:
        self.is_fruit = bool(self.left.pop())
        self.row = 1
        self.column = int(self.np_random.integers(2, SIZE - 2))
        self.slant = int(self.np_random.integers(-2, 3))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.bar = int(np.clip(self.bar + 3 * (int(action) - 1), HALF_BAR, SIZE - 1 - HALF_BAR))
        self.row += 2
        if not 1 <= self.column + self.slant <= SIZE - 2:
            self.slant = -self.slant
        self.column += self.slant
        if self.row < SIZE - 3:
            return self._frame(), 0.0, False, False, {}
        is_caught = abs(self.column - self.bar) <= HALF_BAR + 1
        reward = (1.0 if is_caught else -1.0) if self.is_fruit else (-1.0 if is_caught else 0.0)
        is_over = not self.left
        if not is_over:
            self._next()
        return self._frame(), reward, is_over, False, {}

    def _frame(self) -> Any:
        frame = np.zeros((SIZE, SIZE), np.uint8)
        frame[self.row - 1 : self.row + 2, self.column - 1 : self.column + 2] = 255
        if not self.is_fruit:
            frame[self.row, self.column] = 0
        frame[SIZE - 2 :, self.bar - HALF_BAR : self.bar + HALF_BAR + 1] = 255
        return frame


def make() -> Any:
    """Two frames in a stack tell where things fly."""
    return FrameStackObservation(Fruit(), 2)


def train(seed: int, steps: int) -> GymPolicy:
    envs = SyncVectorEnv([make] * 16, autoreset_mode=AutoresetMode.SAME_STEP)
    sampler = FragmentSampler(envs, num_steps=64, seed=1000 * seed)
    policy = GymActorCritic(sampler, seed=seed)
    config = PPOConfig(
        batch_size=256,
        num_epochs_per_update=4,
        learning_rate=5e-4,
        discount=0.98,
        gae_lambda=0.95,
        entropy_coefficient=0.01,
        seed=seed,
    )
    Run(PPOTrainer(config, policy, EnvironmentReward()), sampler.states)(Until(decisions=steps))
    return policy


def main(seeds: int = 3, steps: int = 300_000, episodes: int = 100) -> None:
    torch.set_num_threads(1)
    untrained = evaluate(GymPolicy(make()), make, episodes, deterministic=False)
    print(f"drawn from an untrained policy: {untrained}")
    for seed in range(seeds):
        start = time.perf_counter()
        policy = train(seed, steps)
        seconds = time.perf_counter() - start
        result = evaluate(policy, make, episodes)
        print(f"seed {seed}, {steps:,} steps in {seconds:.0f} s: {result}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
