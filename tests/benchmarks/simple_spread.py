"""PPO in simple_spread of PettingZoo's particle environments: three agents with one policy, and with one each.

Told is the return of an agent in the episodes of the first rollout and of the last 100 episodes, for seeds 0, 1 and 2
with one policy, and for seed 0 with three. The last line is JSON.

    PYTHONPATH=.:adapters .venv-environments/bin/python tests/benchmarks/simple_spread.py
"""

from __future__ import annotations

import json
import statistics
from functools import partial
from typing import Any

import torch

from grpo import PPOConfig, PPOTrainer
from grpo_adapters.gym import EnvironmentReward, GymActorCritic, ParallelAgents

NUM_ROLLOUTS, NUM_STEPS, NUM_ENVS = 100, 100, 8
AGENTS = ["agent_0", "agent_1", "agent_2"]
CASES: dict[str, tuple[dict[str, list[str]], list[int]]] = {
    "one policy": ({"all": AGENTS}, [0, 1, 2]),
    "three policies": ({agent: [agent] for agent in AGENTS}, [0]),
}
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "discount": 0.95,
    "gae_lambda": 0.9,
    "entropy_coefficient": 0.01,
    "num_epochs_per_update": 4,
}


def trained(groups: dict[str, list[str]], seed: int) -> dict[str, float]:
    """The return of an agent at first and at last."""
    # Here, since pytest imports this module in search of doctests, and need not have the library.
    from mpe2 import simple_spread_v3

    agents = ParallelAgents(
        partial(simple_spread_v3.parallel_env, max_cycles=25), NUM_STEPS, num_envs=NUM_ENVS, groups=groups, seed=seed
    )
    policies = {
        name: GymActorCritic(sampler, normalize_observations=True, seed=seed)
        for name, sampler in agents.samplers.items()
    }
    trainers = {
        name: PPOTrainer(
            PPOConfig(**SETTINGS, batch_size=len(groups[name]) * NUM_STEPS * NUM_ENVS // 4, seed=seed),
            policy,
            EnvironmentReward(),
            sampler=agents.samplers[name],
        )
        for name, policy in policies.items()
    }
    returns = []
    for _ in range(NUM_ROLLOUTS):
        agents.play(policies)
        returns.append(statistics.mean(trainer.step([0])["episode_return"] for trainer in trainers.values()))
    return {"first": round(returns[0], 2), "last": round(returns[-1], 2)}


def main() -> None:
    """Train and print."""
    torch.set_num_threads(1)
    found = []
    for name, (groups, seeds) in CASES.items():
        for seed in seeds:
            found.append({"policies": name, "seed": seed, **trained(groups, seed)})
            print(found[-1], flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
