"""PPO on CartPole, with the settings of rl-zoo3: 100,000 environment steps."""

import gymnasium
import torch

from grpo import Evaluate, LinearSchedule, PPOConfig, PPOTrainer, Run, Until
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic, evaluate

SEED = 0
NUM_UPDATES = 390

torch.set_num_threads(1)  # networks this small run fastest on one
sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=8), num_steps=32, seed=SEED)
policy = GymActorCritic(sampler, seed=SEED)
clip = LinearSchedule(start=0.2, end=0.0, num_steps=NUM_UPDATES)
config = PPOConfig(
    batch_size=256,
    num_epochs_per_update=20,
    learning_rate=LinearSchedule(start=1e-3, end=0.0, num_steps=NUM_UPDATES),
    clip_low=clip,
    clip_high=clip,
    discount=0.98,
    gae_lambda=0.8,
    seed=SEED,
)
environment = gymnasium.make("CartPole-v1")
evaluation = Evaluate(lambda policy: {"mean_return": evaluate(policy, environment, 10).mean}, every=39)
run = Run(PPOTrainer(config, policy, EnvironmentReward()), sampler.states, callbacks=[evaluation])
run(Until(steps=NUM_UPDATES))
print(f"{run.num_decisions:,} steps: {evaluate(policy, environment, 100, seed=2_000_000)}")
