"""What `trainer.step` costs beside a hand-written loop that does the same work, and beside the models' own calls.

Three jobs, each in turns with its counterpart in one run on one thread:

- ten arms, one state, groups of 16, context-free softmax: almost nothing but overhead;
- 64 contexts, groups of 16, a network of two hidden layers;
- 4,096 states, groups of 16, context-free softmax: against the policy's and reward model's own calls of a step.

The hand-written loops sample in evaluation mode, make the same update in training mode (checked: the parameters agree
at the end) and report the same metrics. The figures that end in `_without_metrics` compare with loops that report
nothing but the mean reward.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor, nn

from alternating import median_seconds
from grpo import Evaluation, GRPOConfig, GRPOTrainer
from grpo_adapters.bandit import (
    ContextualBandit,
    ContextualSoftmaxPolicy,
    GaussianRewards,
    SoftmaxPolicy,
    StationaryBandit,
)

LEARNING_RATE = 0.01
ENTROPY_COEFFICIENT = 0.01
GROUP_SIZE = 16


def build_optimizer(parameters: list[Tensor]) -> torch.optim.Optimizer:
    """The same for all: ε as in PPO's usual settings, so that rounding in zero gradients is not blown up."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, eps=1e-5, weight_decay=0.0, fused=True)


def hand_written_step(
    policy: ContextualSoftmaxPolicy,
    mean_rewards: Callable[[Tensor], Tensor],
    reward_generator: torch.Generator,
    states: Tensor,
    *,
    report_metrics: bool,
) -> Callable[[], dict[str, float]]:
    """GRPO with an entropy bonus on Gaussian arms, as one would write it in a single file."""
    parameters: list[Tensor] = list(policy.parameters())
    optimizer = build_optimizer(parameters)
    num_states = len(states)

    def step() -> dict[str, float]:
        policy.eval()
        with torch.no_grad():
            probabilities = policy.log_probabilities(states).exp()
            groups = torch.multinomial(probabilities, GROUP_SIZE, replacement=True)
            actions = groups.flatten()
            observations = states.repeat_interleave(GROUP_SIZE, dim=0)
            means = mean_rewards(observations).expand(len(actions), -1).gather(1, actions.unsqueeze(1)).squeeze(1)
            rewards = means + 0.1 * torch.randn(len(actions), generator=reward_generator)
            table = rewards.view(num_states, GROUP_SIZE)
            std = table.std(1, keepdim=True)
            centered = table - table.mean(1, keepdim=True)
            advantages = torch.where(std > 0, centered / std, 0.0).flatten()
        policy.train()
        all_log_probs = policy.log_probabilities(observations)
        if len(all_log_probs) == 1:
            log_probs = all_log_probs.squeeze(0).index_select(0, actions)
        else:
            log_probs = all_log_probs.gather(1, actions.unsqueeze(1)).squeeze(1)
        entropy = -(all_log_probs.exp() * all_log_probs).sum(-1)
        ratio = torch.exp(log_probs - log_probs.detach())
        surrogate = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        loss = surrogate.mean() - ENTROPY_COEFFICIENT * entropy.mean()
        optimizer.zero_grad()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if not report_metrics:
            return {"reward": rewards.mean().item()}
        with torch.no_grad():
            low = ((ratio < 0.8) & (advantages < 0)).float().mean()
            high = ((ratio > 1.2) & (advantages > 0)).float().mean()
            values = {
                "reward": rewards.mean(),
                "reward_std": std.mean(),
                "frac_reward_zero_std": (std == 0).float().mean(),
                "loss": loss.detach(),
                "clip_fraction": low + high,
                "clip_fraction_low": low,
                "clip_fraction_high": high,
                "approx_kl": (ratio - 1 - ratio.log()).mean(),
                "entropy": entropy.mean(),
                "grad_norm": grad_norm,
            }
            return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))

    return step


def compare(
    build_policy: Callable[[], ContextualSoftmaxPolicy],
    mean_rewards: Callable[[Tensor], Tensor],
    bandit: StationaryBandit | ContextualBandit,
    states: Tensor,
    *,
    calls: int,
) -> tuple[float, float]:
    """Time of the trainer's step over that of the loop with metrics, and of the loop without."""
    policies = {name: build_policy() for name in ("trainer", "loop", "loop_without_metrics")}
    config = GRPOConfig(group_size=GROUP_SIZE, entropy_coefficient=ENTROPY_COEFFICIENT)
    optimizer = build_optimizer(list(policies["trainer"].parameters()))
    trainer = GRPOTrainer(config, policies["trainer"], bandit, optimizer=optimizer)
    jobs: dict[str, Callable[[], object]] = {"trainer": lambda: trainer.step(states)}
    for name in ("loop", "loop_without_metrics"):
        jobs[name] = hand_written_step(
            policies[name],
            mean_rewards,
            bandit.generator.clone_state(),
            states,
            report_metrics=name == "loop",
        )
    for name, job in jobs.items():
        torch.manual_seed(1)
        for _ in range(20):
            job()
        for ours, theirs in zip(policies["trainer"].parameters(), policies[name].parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    seconds = median_seconds(jobs, rounds=25, calls=calls)
    for name, value in seconds.items():
        print(f"  {name:22} {value * 1e6:8.0f} µs")
    return seconds["trainer"] / seconds["loop"], seconds["trainer"] / seconds["loop_without_metrics"]


def build_network_policy() -> ContextualSoftmaxPolicy:
    """Two hidden layers of 64, the usual network of control, over eight context features and ten arms."""
    torch.manual_seed(0)
    return ContextualSoftmaxPolicy(
        nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    )


def scale_ratios(num_states: int) -> tuple[float, float]:
    """Time of a step over that of its calls to policy and reward model, without and with their backward pass."""
    policy, bandit = SoftmaxPolicy(10), StationaryBandit(torch.linspace(0, 0.9, 10), GaussianRewards(0.1))
    trainer = GRPOTrainer(GRPOConfig(group_size=GROUP_SIZE, learning_rate=LEARNING_RATE), policy, bandit)
    states = torch.zeros(num_states, 1)
    sample_states = states.repeat_interleave(GROUP_SIZE, dim=0)

    def own_calls() -> Evaluation:
        with torch.no_grad():
            actions = policy.generate_actions(states, GROUP_SIZE).flatten()
        bandit.compute_rewards(sample_states, actions)
        return policy.evaluate_actions(policy.encode_actions(sample_states, actions))

    def own_calls_with_backward() -> None:
        own_calls().log_probs.sum().backward()

    jobs: dict[str, Callable[[], object]] = {
        "step": lambda: trainer.step(states),
        "own calls": own_calls,
        "own calls, backward": own_calls_with_backward,
    }
    seconds = median_seconds(jobs, rounds=40, calls=5)
    for name, value in seconds.items():
        print(f"  {name:22} {value * 1e6:8.0f} µs")
    return seconds["step"] / seconds["own calls"], seconds["step"] / seconds["own calls, backward"]


def main() -> None:
    """Print the times, and the ratios last."""
    torch.set_num_threads(1)
    print("4,096 states, groups of 16")
    scale = scale_ratios(4096)
    arm_means = torch.linspace(0, 0.9, 10)
    print("ten arms, groups of 16")
    ten_arms = compare(
        lambda: SoftmaxPolicy(10),
        lambda observations: arm_means.unsqueeze(0),
        StationaryBandit(arm_means, GaussianRewards(0.1)),
        torch.zeros(1, 1),
        calls=40,
    )
    print("64 contexts, groups of 16, network of two hidden layers")
    weights = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    network = compare(
        build_network_policy,
        lambda observations: observations @ weights,
        ContextualBandit(lambda contexts: contexts @ weights, GaussianRewards(0.1)),
        torch.randn(64, 8, generator=torch.Generator().manual_seed(1)),
        calls=20,
    )
    ratios = {
        "ten_arms": ten_arms[0],
        "ten_arms_without_metrics": ten_arms[1],
        "network": network[0],
        "network_without_metrics": network[1],
        "many_states_to_own_calls": scale[0],
        "many_states_to_own_calls_with_backward": scale[1],
    }
    print(json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}))


if __name__ == "__main__":
    main()
