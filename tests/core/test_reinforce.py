"""REINFORCE, and what models may report and follow besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from models import FunctionRewards, SequencePolicy, StepRewards, TablePolicy, WalkBatch, WalkerPolicy
from torch import Tensor

from grpo import (
    FollowsData,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    MonteCarlo,
    PPOConfig,
    PPOObjective,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    ReportsMetrics,
    ScoreFunctionSurrogate,
    group_time_baseline,
    value_baseline,
)


def grade(state: int, action: int) -> float:
    return float(action == state)


@pytest.mark.parametrize("normalization", ["per_step", None])
@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.3])
@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_a_step_equals_one_written_by_hand(
    normalization: Any, entropy_coefficient: float, micro_batch_size: int | None
) -> None:
    """-A log π over all decisions, A the discounted reward to go, episode by episode."""
    torch.manual_seed(0)
    policy, discount = WalkerPolicy(num_episodes=2), 0.8
    config = ReinforceConfig(
        discount=discount,
        advantage_normalization=normalization,
        entropy_coefficient=entropy_coefficient,
        micro_batch_size=micro_batch_size,
        max_grad_norm=None,
    )
    optimizer = torch.optim.SGD([policy.logits], lr=0.5)
    trainer = ReinforceTrainer(config, policy, StepRewards(), optimizer=optimizer)
    experience = trainer.collector.collect([0, 1, 2])

    returns, log_probs, entropies = [], [], []
    for walk in experience.actions:
        for episode in walk:
            to_go = 0.0
            backwards = []
            for _, _, after in reversed(episode):
                to_go = float(after == 4) - 0.1 + discount * to_go
                backwards.append(to_go)
            returns += backwards[::-1]
            for position, move, _ in episode:
                distribution = torch.distributions.Categorical(logits=policy.logits[position])
                log_probs.append(distribution.log_prob(torch.tensor(move)))
                entropies.append(distribution.entropy())
    advantages = torch.tensor(returns, dtype=torch.float64)
    if normalization == "per_step":
        advantages = (advantages - advantages.mean()) / advantages.std()
    loss = -(advantages * torch.stack(log_probs)).mean() - entropy_coefficient * torch.stack(entropies).mean()
    [gradient] = torch.autograd.grad(loss, policy.logits)
    expected = policy.logits.detach() - 0.5 * gradient

    metrics = trainer.update(experience)
    torch.testing.assert_close(policy.logits.detach(), expected)
    assert metrics["loss"] == pytest.approx(loss.item())
    assert metrics["approx_kl"] == 0
    assert metrics["num_updates"] == 1
    assert "explained_variance" not in metrics


def test_the_config_reaches_estimator_and_objective() -> None:
    trainer = ReinforceTrainer(ReinforceConfig(discount=0.7, entropy_coefficient=0.2), WalkerPolicy(), StepRewards())
    assert trainer.advantage_estimator == MonteCarlo(discount=0.7)
    expected = GRPOObjective(surrogate=ScoreFunctionSurrogate(), entropy_coefficient=0.2)
    assert trainer.objective == expected


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"discount": 0.9}, {"advantage_estimator": MonteCarlo()}),
        ({"entropy_coefficient": 0.0}, {"objective": GRPOObjective()}),
    ],
)
def test_numbers_that_an_argument_replaces_are_refused(settings: dict[str, float], arguments: dict[str, Any]) -> None:
    [name], [replaced_by] = settings, arguments
    with pytest.raises(ValueError, match=f"config sets {name}, which the {replaced_by} passed beside it replaces"):
        ReinforceTrainer(ReinforceConfig(**settings), TablePolicy(), FunctionRewards(grade), **arguments)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_minimal_policy_learns(seed: int) -> None:
    torch.manual_seed(seed)
    policy = TablePolicy()
    trainer = ReinforceTrainer(ReinforceConfig(learning_rate=0.1), policy, FunctionRewards(grade))
    for _ in range(80):
        metrics = trainer.step([0, 1, 2] * 16)
    assert metrics["reward"] > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("baseline", [None, group_time_baseline, value_baseline])
def test_learns_a_problem_of_several_steps(seed: int, baseline: Any) -> None:
    torch.manual_seed(seed)
    policy = WalkerPolicy(spread=0.0)
    trainer = ReinforceTrainer(
        ReinforceConfig(learning_rate=0.1, group_size=4),
        policy,
        StepRewards(),
        advantage_estimator=MonteCarlo(discount=0.99, baseline=baseline),
        objective=PPOObjective(surrogate=ScoreFunctionSurrogate()) if baseline is value_baseline else None,
    )
    metrics = [trainer.step([0, 1, 2, 3]) for _ in range(60)]
    assert policy.logits.softmax(-1)[:, 1].min() > 0.8
    if baseline is value_baseline:
        assert metrics[0]["explained_variance"] < 0.1
        assert sum(step["explained_variance"] for step in metrics[-3:]) / 3 > 0.4


class Following(WalkerPolicy):
    """Counts the steps that it has seen, and reports them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_seen = 0
        self.calls: list[str] = []
        self.logits_when_told: list[Tensor] = []

    def train(self) -> None:
        self.calls.append("train")

    def evaluate_actions(self, batch: WalkBatch) -> Any:
        self.calls.append("evaluate")
        return super().evaluate_actions(batch)

    def update_statistics(self, batch: WalkBatch) -> None:
        self.calls.append("statistics")
        self.num_seen += batch.samples.total
        self.logits_when_told.append(self.logits.detach().clone())

    def get_metrics(self) -> Mapping[str, float]:
        return {"num_seen": float(self.num_seen)}


class ReportingRewards(StepRewards):
    def __init__(self, **metrics: float) -> None:
        super().__init__()
        self.metrics = metrics

    def get_metrics(self) -> Mapping[str, float]:
        return self.metrics


def ppo(policy: WalkerPolicy, rewards: StepRewards, **settings: Any) -> PPOTrainer[Any, Any]:
    return PPOTrainer(PPOConfig(**({"batch_size": 8, "num_epochs_per_update": 2} | settings)), policy, rewards)


def test_protocols() -> None:
    assert isinstance(Following(), FollowsData)
    assert isinstance(Following(), ReportsMetrics)
    assert isinstance(ReportingRewards(), ReportsMetrics)
    assert not isinstance(WalkerPolicy(), FollowsData | ReportsMetrics)


@pytest.mark.parametrize("settings", [{}, {"micro_batch_size": 3}, {"target_kl": 1e-9}, {"batch_size": None}])
def test_statistics_are_told_once_after_the_update(settings: dict[str, Any]) -> None:
    """Of the whole step, however many updates and micro-batches it took."""
    torch.manual_seed(0)
    policy = Following()
    trainer = ppo(policy, StepRewards(), **settings)
    seen = 0.0
    for step in range(3):
        metrics = trainer.step([0, 1, 2])
        assert policy.calls.count("statistics") == 1
        assert policy.calls[-1] == "statistics"
        assert torch.equal(policy.logits_when_told[step], policy.logits)
        policy.calls.clear()
        assert metrics["num_seen"] == seen  # what it had seen when the step was sampled
        seen += metrics["num_decisions"]
        assert policy.num_seen == seen


def test_every_trainer_tells_statistics_and_reports() -> None:
    for trainer in (
        GRPOTrainer(GRPOConfig(), Following(), ReportingRewards(mine=2.0)),
        ReinforceTrainer(ReinforceConfig(), Following(), ReportingRewards(mine=2.0)),
        ppo(Following(), ReportingRewards(mine=2.0)),
    ):
        first, second = trainer.step([0, 1]), trainer.step([0, 1])
        assert second["num_seen"] == first["num_decisions"]
        assert second["mine"] == 2.0


@pytest.mark.parametrize("broken", ["rewards", "log-probs", "values"])
def test_statistics_are_not_told_of_a_step_that_failed(broken: str) -> None:
    class Broken(Following):
        def evaluate_actions(self, batch: WalkBatch) -> Any:
            evaluation = super().evaluate_actions(batch)
            if broken == "log-probs" and self.calls.count("evaluate") == 3:
                evaluation.log_probs.detach().fill_(torch.nan)
            return evaluation

        def estimate_values(self, batch: WalkBatch) -> Any:
            return None if broken == "values" else super().estimate_values(batch)

    class BrokenRewards(StepRewards):
        def compute_rewards(self, states: Any, actions: Any) -> Tensor:
            rewards = super().compute_rewards(states, actions)
            return rewards * torch.nan if broken == "rewards" else rewards

    policy = Broken()
    trainer = ppo(policy, BrokenRewards())
    with pytest.raises((TypeError, ValueError)):
        trainer.step([0, 1])
    assert "statistics" not in policy.calls
    assert policy.num_seen == trainer.num_steps == 0


@pytest.mark.parametrize(
    "name",
    [
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "loss",
        "grad_norm",
        "learning_rate",
        "num_updates",
        "skipped_updates",
        "num_samples",
        "num_decisions",
        "explained_variance",
        "policy_kl",
        "num_unscored",
        "num_groups_resampled",
        "num_groups_zero_std",
        "frac_truncated",
    ],
)
def test_names_of_the_trainer_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"ReportingRewards.get_metrics returned names that are taken, {name}"):
        ppo(WalkerPolicy(), ReportingRewards(**{name: 1.0, "mine": 2.0})).step([0, 1])


def test_two_models_must_not_report_the_same_name() -> None:
    with pytest.raises(ValueError, match=r"ReportingRewards.get_metrics returned names that are taken, num_seen"):
        ppo(Following(), ReportingRewards(num_seen=1.0)).step([0, 1])


@pytest.mark.parametrize("name", ["approx_kl", "clip_fraction", "value_loss", "entropy"])
def test_names_of_the_objective_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"objective returned metrics \['{name}'\], which a model's get_metrics"):
        ppo(WalkerPolicy(), ReportingRewards(**{name: 1.0})).step([0, 1])


def test_one_model_in_both_roles_reports_once() -> None:
    class Both(TablePolicy):
        def compute_rewards(self, states: Any, actions: Any) -> Tensor:
            return torch.tensor([grade(*pair) for pair in zip(states, actions, strict=True)])

        def get_metrics(self) -> Mapping[str, float]:
            return {"mine": 1.0}

    model = Both()
    assert GRPOTrainer(GRPOConfig(), model, model).step([0, 1])["mine"] == 1


@pytest.mark.parametrize("fails", ["statistics", "metrics"])
@pytest.mark.parametrize("settings", [{}, {"batch_size": None, "num_epochs_per_update": 1}])
def test_an_error_after_the_update_is_put_back(fails: str, settings: dict[str, Any]) -> None:
    class Failing(Following):
        def update_statistics(self, batch: WalkBatch) -> None:
            if fails == "statistics":
                raise ValueError("no statistics today")

        def get_metrics(self) -> Mapping[str, float]:
            return {"reward": 0.0} if fails == "metrics" else {}

    policy = Failing()
    before = policy.logits.detach().clone()
    trainer = ppo(policy, StepRewards(), **settings)
    with pytest.raises(ValueError, match=r"no statistics today|names that are taken"):
        trainer.step([0, 1])
    assert torch.equal(policy.logits, before)
    assert trainer.num_steps == 0


class Proxy:
    """Stands before a model, as wrappers for compilation or for several processes do."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def test_what_a_policy_may_do_besides_is_found_behind_a_proxy() -> None:
    results = []
    wraps: tuple[Any, ...] = (lambda model: model, Proxy)
    for wrap in wraps:
        torch.manual_seed(0)
        results.append(ppo(wrap(Following()), wrap(ReportingRewards(mine=1.0))).step([0, 1]))
    assert results[0] == results[1]
    assert {"num_seen", "mine"} <= results[1].keys()


def test_sequences_learn_with_rewards_to_go() -> None:
    """Token 1 is worth something wherever it comes, and a decision answers only for what comes after it."""

    class PerToken(StepRewards):
        def compute_rewards(self, states: Any, actions: Any) -> Tensor:
            return torch.tensor([float(token == 1) for action in actions for token in action], dtype=torch.float64)

    torch.manual_seed(0)
    policy = SequencePolicy()
    trainer = ReinforceTrainer(ReinforceConfig(learning_rate=0.1, group_size=8), policy, PerToken())
    metrics = [trainer.step([1, 2]) for _ in range(60)]
    assert metrics[-1]["reward"] > metrics[0]["reward"] + 2
