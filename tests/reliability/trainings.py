"""Trainings to be killed: small ones, whose runs hold everything that a run can go on with."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from language_models import PROMPTS, build_policy, sampled
from peft import LoraConfig
from torch import nn

from grpo import (
    AdaptiveKLCoefficient,
    BestWeights,
    Checkpoints,
    DPOConfig,
    DPOTrainer,
    DynamicSampling,
    EarlyStopping,
    Evaluate,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    KLPenaltySurrogate,
    LinearSchedule,
    PolicyEvaluation,
    PPOConfig,
    PPOTrainer,
    Preference,
    ReferenceSync,
    Run,
    SampleLog,
    StateLoader,
    Track,
    Until,
    WatchForTrouble,
)
from grpo_adapters.bandit import ContextualBandit, ContextualSoftmaxPolicy, GaussianRewards
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic
from grpo_adapters.huggingface import FunctionReward
from grpo_adapters.tracking import JSONLinesTracker

MakeRun = Callable[[Path], tuple[Run, Until]]
TRACKED = "tracked.jsonl"


def seed_everything(seed: int) -> None:
    """Python's, NumPy's and PyTorch's generators; Python seeds its own anew in each process that is forked."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def contexts(count: int, seed: int) -> torch.Tensor:
    """Of a bandit, [count, 4]."""
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def bandit(seed: int) -> ContextualBandit:
    """One with noise, whose best arm depends on the context."""
    weights = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    return ContextualBandit(lambda contexts: contexts @ weights, GaussianRewards(0.5), seed)


def softmax_policy() -> ContextualSoftmaxPolicy:
    """A small network for the bandit, the same each time."""
    seed_everything(2)
    return ContextualSoftmaxPolicy(nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 5)))


def grpo_on_bandit(folder: Path) -> tuple[Run, Until]:
    """A schedule, a penalty that follows the divergence, a reference policy, and every callback."""
    policy = softmax_policy()
    num_steps = 36
    trainer = GRPOTrainer(
        GRPOConfig(
            batch_size=16,
            num_epochs_per_update=2,
            learning_rate=LinearSchedule(start=0.05, end=0.001, num_steps=num_steps),
        ),
        policy,
        bandit(seed=3),
        copy.deepcopy(policy),
        objective=GRPOObjective(
            surrogate=KLPenaltySurrogate(coefficient=AdaptiveKLCoefficient(target=0.003)), kl_coefficient=0.02
        ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = PolicyEvaluation(contexts(32, seed=4), bandit(seed=4))
    run = Run(
        trainer,
        StateLoader(contexts(30, seed=5), batch_size=8),
        folder=folder,
        checkpoints=Checkpoints(every=4, keep_last=2, keep_every=16, keep_best="evaluation/reward"),
        callbacks=[
            Evaluate(evaluation, every=5),
            BestWeights("evaluation/reward"),
            EarlyStopping("evaluation/reward", patience=1000),
            SampleLog(every=3, count=2),
            Track(JSONLinesTracker(folder / TRACKED, append=True)),
            WatchForTrouble(lambda text: None),
        ],
    )
    return run, Until(steps=num_steps)


def adapters(dropout: float = 0.0) -> LoraConfig:
    """Of low rank, not at nought."""
    return LoraConfig(r=2, init_lora_weights=False, lora_dropout=dropout, fan_in_fan_out=True)


def ppo(
    sampler: FragmentSampler, folder: Path, num_steps: int, checkpoints: Checkpoints, **settings: Any
) -> tuple[Run, Until]:
    """PPO in running environments, with observations that are normalised by what was seen so far."""
    policy = GymActorCritic(sampler, normalize_observations=True, hidden_sizes=(16,), seed=10)
    config = PPOConfig(
        batch_size=32,
        num_epochs_per_update=2,
        learning_rate=LinearSchedule(start=3e-3, end=0.0, num_steps=num_steps),
        target_kl=0.02,
        **settings,
    )
    run = Run(
        PPOTrainer(config, policy, EnvironmentReward()),
        sampler.states,
        folder=folder,
        checkpoints=checkpoints,
        callbacks=[BestWeights("episode_return"), WatchForTrouble(lambda text: None)],
    )
    return run, Until(steps=num_steps)


def cartpole(folder: Path, **settings: Any) -> tuple[Run, Until]:
    """Episodes that go on from where they were."""
    seed_everything(10)
    envs = gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync")
    for space in (envs.action_space, envs.observation_space, envs.single_action_space, envs.single_observation_space):
        space.seed(11)  # nobody draws from them, but they are in the state
    sampler = FragmentSampler(envs, num_steps=16, seed=11)
    return ppo(sampler, folder, 20, Checkpoints(every=3, keep_last=2, keep_every=9, asynchronous=True), **settings)


def compiled(folder: Path) -> tuple[Run, Until]:
    """The same with updates that are compiled, in sizes and with a clip that change."""
    return cartpole(folder, compile_updates=True, clip_low=LinearSchedule(start=0.3, end=0.1, num_steps=10))


def lunar_lander(folder: Path) -> tuple[Run, Until]:
    """Episodes that are cut where the run is saved."""
    seed_everything(12)
    envs = gymnasium.make_vec(
        "LunarLander-v3",
        num_envs=4,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )
    sampler = FragmentSampler(envs, num_steps=48, seed=13, environments_in_state="restart")
    return ppo(sampler, folder, 12, Checkpoints(every=3, keep_last=1, keep_best="episode_return"))


def share_of_seven(completions: list[str], **columns: Any) -> list[float]:
    """The share of a character in each completion."""
    return [completion.count("7") / max(1, len(completion)) for completion in completions]


def language_model(folder: Path) -> tuple[Run, Until]:
    """Adapters in front of a frozen model, a reference that follows, and groups that are replaced."""
    seed_everything(6)
    rows = [{"prompt": f"{first}+{second}="} for first in range(5) for second in range(3)]
    loader = StateLoader(rows, batch_size=2, seed=7)
    policy = build_policy(peft_config=adapters(dropout=0.1))
    config = GRPOConfig(
        group_size=3,
        batch_size=4,
        learning_rate=0.03,
        kl_coefficient=0.05,
        reference_sync=ReferenceSync(mixing=0.5, every=3),
        dynamic_sampling=DynamicSampling(max_rounds=1, draw_states=loader.draw),
    )
    reference = build_policy(peft_config=adapters())
    trainer = GRPOTrainer(config, policy, FunctionReward(share_of_seven), reference)
    run = Run(
        trainer,
        loader,
        folder=folder,
        checkpoints=Checkpoints(every=2, keep_last=1, asynchronous=True),
        callbacks=[SampleLog(every=2, count=3), BestWeights("reward")],
    )
    return run, Until(steps=14)


def preferences(folder: Path) -> tuple[Run, Until]:
    """Pairs in an order that is shuffled, from which adapters learn."""
    seed_everything(8)
    policy = build_policy(peft_config=adapters(dropout=0.1))
    prompts, completions = sampled(build_policy(), PROMPTS, 4)
    pairs = [Preference(*each) for each in zip(prompts[::2], completions[::2], completions[1::2], strict=True)]
    config = DPOConfig(batch_size=2, learning_rate=LinearSchedule(start=0.02, end=0.0, num_steps=20))
    run = Run(
        DPOTrainer(config, policy, policy.reference()),
        StateLoader(pairs, batch_size=3, seed=9),
        folder=folder,
        checkpoints=Checkpoints(every=3, keep_last=3, keep_every=9, keep_best="loss", best_is="lowest"),
        callbacks=[BestWeights("loss", "lowest"), WatchForTrouble(lambda text: None)],
    )
    return run, Until(steps=20)


TRAININGS: dict[str, MakeRun] = {
    "bandit": grpo_on_bandit,
    "cartpole": cartpole,
    "compiled": compiled,
    "lunar-lander": lunar_lander,
    "language-model": language_model,
    "preferences": preferences,
}
