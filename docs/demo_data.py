"""The data files of the demo in the browser, made anew by ``PYTHONPATH=examples python docs/demo_data.py``."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import torch
from safetensors.torch import load_file, load_model
from torch import Tensor

from environments.tic_tac_toe_analysis import measure
from grpo import GroupRelative, GRPOConfig, GRPOTrainer, group_centered_advantages, group_normalized_advantages
from grpo_adapters.bandit import DynamicBandit, GaussianRewards, SoftmaxPolicy, random_walk_means, seeded_generator
from grpo_adapters.gym import GymActorCritic, evaluate
from lunarlander_ppo import ENVIRONMENT, WEIGHTS, build_ppo
from tictactoe import WEIGHTS as PLAYER
from tictactoe import load_agent

DOCS = Path(__file__).parent
FOLDER = DOCS / "_static" / "demo"
NUM_ARMS, NUM_STEPS = 5, 40
NUM_UPDATES, SEEDS, NUM_EPISODES = 16, (1, 2, 3), 100
SCALE = 30.0  # pixels in a unit of length of the environment


class NotingBandit(DynamicBandit):
    """Keeps the arms and the rewards of each group."""

    def __init__(self, mean_path: Tensor) -> None:
        super().__init__(mean_path, GaussianRewards(std=0.5))
        self.arms_of_groups: list[list[int]] = []
        self.rewards_of_groups: list[list[float]] = []

    def compute_rewards(self, states: Any, actions: Tensor | Sequence[int]) -> Tensor:
        rewards = super().compute_rewards(states, actions)
        self.arms_of_groups.append(torch.as_tensor(actions).tolist())
        self.rewards_of_groups.append(rewards.tolist())
        return rewards


def recorded_run(*, group_size: int, learning_rate: float, entropy_coefficient: float, normalizes: bool) -> Any:
    """Arms and rewards of a short training, and the policy's probabilities before each step and after the last.

    It is in double precision, as numbers are in JavaScript: Adam would make steps of what float32 rounds.
    """
    bandit = NotingBandit(random_walk_means(NUM_STEPS * group_size, NUM_ARMS, step_std=0.1).double())
    policy = SoftmaxPolicy(NUM_ARMS, generator=seeded_generator("policy", 0)).double()
    config = GRPOConfig(group_size=group_size, learning_rate=learning_rate, entropy_coefficient=entropy_coefficient)
    estimator = GroupRelative(group_normalized_advantages if normalizes else group_centered_advantages)
    trainer = GRPOTrainer(config, policy, bandit, advantage_estimator=estimator)
    probabilities = [policy.probabilities().tolist()]
    for _ in range(NUM_STEPS):
        trainer.step(["the only state"])
        probabilities.append(policy.probabilities().tolist())
    settings = {
        "groupSize": group_size,
        "learningRate": learning_rate,
        "entropyCoefficient": entropy_coefficient,
        "normalizes": normalizes,
    }
    return {
        "settings": settings,
        "arms": bandit.arms_of_groups,
        "rewards": bandit.rewards_of_groups,
        "probabilities": probabilities,
    }


def recorded_runs() -> Any:
    """One with the library's defaults, and one with what the notebook on drifting bandits takes."""
    return [
        recorded_run(group_size=8, learning_rate=0.05, entropy_coefficient=0.0, normalizes=True),
        recorded_run(group_size=16, learning_rate=0.1, entropy_coefficient=0.2, normalizes=False),
    ]


def network() -> Any:
    """The actor of the tic-tac-toe player, float32 in base64, input by input, and how strong it is."""
    weights = load_file(PLAYER)
    hidden = [(weights[f"actor.hidden.{n}.weight"][0], weights[f"actor.hidden.{n}.bias"][0, 0]) for n in range(2)]
    head = (weights["actor.actor_head.weight"].T, weights["actor.actor_head.bias"])
    layers = [{"weight": encoded(weight), "bias": encoded(bias)} for weight, bias in [*hidden, head]]
    lines = {seat: strength.lines for seat, strength in measure(load_agent(PLAYER)).items()}
    told = [f"with the {seat} move {own.wins} won, {own.draws} drawn, {own.losses} lost" for seat, own in lines.items()]
    return {"layers": layers, "strength": f"Over all lines of play that an opponent may choose: {'; '.join(told)}."}


def encoded(tensor: Tensor) -> str:
    return base64.b64encode(tensor.contiguous().numpy().astype("<f4").tobytes()).decode()


def flights() -> Any:
    """Flights from the same starts before, amid and after the training of examples/lunarlander_ppo.py."""
    torch.set_num_threads(1)
    environment = gymnasium.make(ENVIRONMENT)
    trainer, states = build_ppo(0)
    stages = [stage("Before training", trainer.policy, environment)]
    num_steps = 0
    for _ in range(NUM_UPDATES):
        trainer.step(states)
        num_steps += len(trainer.sampler.states) * trainer.sampler.num_steps
    stages.append(stage(f"After {num_steps:,} steps", trainer.policy, environment))
    trained = GymActorCritic(environment)
    load_model(trained, str(WEIGHTS))
    stages.append(stage("After 1,000,000 steps", trained, environment))
    moon = environment.unwrapped
    pad = {"x": [round(moon.helipad_x1 * SCALE), round(moon.helipad_x2 * SCALE)], "y": round(moon.helipad_y * SCALE)}
    return {"frames_per_second": environment.metadata["render_fps"], "pad": pad, "stages": stages}


def stage(name: str, policy: GymActorCritic, environment: Any) -> Any:
    result = evaluate(policy, environment, NUM_EPISODES)
    print(f"{name}: {result}")
    return {
        "name": name,
        "num_episodes": NUM_EPISODES,
        "mean": round(result.mean, 1),
        "interval": [round(bound, 1) for bound in result.interval],
        "flights": [flight(policy, environment, seed) for seed in SEEDS],
    }


def flight(policy: GymActorCritic, environment: Any, seed: int) -> Any:
    """The policy's most probable actions from one start, and where they lead."""
    observation, _ = environment.reset(seed=seed)
    moon, action, total, is_over = environment.unwrapped, 0, 0.0, False
    terrain = [round(first[1] * SCALE, 1) for first, *_ in moon.sky_polys] + [
        round(moon.sky_polys[-1][1][1] * SCALE, 1)
    ]
    frames = [frame(moon, action, total)]
    while not is_over:
        action = int(policy.predict(observation[None])[0])
        observation, reward, terminated, truncated, _ = environment.step(action)
        total, is_over = total + float(reward), terminated or truncated
        frames.append(frame(moon, action, total))
    return {
        "seed": seed,
        "end": end_of(moon, observation),
        "return": round(total, 1),
        "terrain": terrain,
        "frames": frames,
    }


def frame(moon: Any, action: int, total: float) -> list[int]:
    """Tenths of pixels, milliradians, the action, a bit for each leg on the ground, tenths of points."""
    position, angles = moon.lander.position, [body.angle for body in (moon.lander, *moon.legs)]
    legs = sum(int(leg.ground_contact) << index for index, leg in enumerate(moon.legs))
    lengths = [round(10 * SCALE * length) for length in (position.x, position.y)]
    return [*lengths, *(round(1000 * angle) for angle in angles), action, legs, round(10 * total)]


def end_of(moon: Any, observation: Any) -> str:
    if not moon.lander.awake:
        return "ends with the lander at rest"
    if moon.game_over:
        return "ends in a crash"
    return "leaves the field" if abs(observation[0]) >= 1 else "runs out of time"


def write(name: str, value: Any) -> None:
    """A script, since a page that is opened as a file may not fetch JSON."""
    content = json.dumps(value, separators=(",", ":"))
    path = FOLDER / f"data-{name}.js"
    path.write_text(f'"use strict";\nglobalThis.anygrpo ??= {{}};\nanygrpo.{name} = {content};\n')
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    for name, make in {"recorded": recorded_runs, "network": network, "flights": flights}.items():
        write(name, make())
