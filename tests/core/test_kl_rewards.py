"""The divergence from a reference policy in the rewards: constants by hand, what is forwarded, what adapts when."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FunctionRewards, SequencePolicy, StepRewards, TablePolicy, WalkerPolicy
from torch import Tensor

from grpo import (
    AdaptiveKLCoefficient,
    AdvantageEstimate,
    AdvantageEstimator,
    Experience,
    GeneralizedAdvantage,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    HorizonKLCoefficient,
    KLCoefficient,
    KLPenalizedRewards,
    KLPenaltySurrogate,
    MonteCarlo,
    Needs,
    PairBatch,
    PPOConfig,
    PPOObjective,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    Segments,
    ValueEstimates,
    group_centered_advantages,
    group_normalized_advantages,
    group_time_baseline,
    kl_penalized_rewards,
    normalized_advantages,
    value_baseline,
)

OLD = torch.tensor([-1.0, -2.0, -1.0, -3.0])
REFERENCE = torch.tensor([-3.0, -2.0, -2.0, -2.0])
"""log π_old - log π_ref is 2, 0, 1, -1: a mean of 0.5."""


def experience_of(rewards: Tensor, lengths: list[int], group_sizes: list[int]) -> Experience:
    samples, groups = Segments.of_lengths(lengths), Segments.of_lengths(group_sizes)
    nothing = [None] * len(lengths)
    values = ValueEstimates(torch.zeros(4), torch.zeros(4))
    return Experience(nothing, nothing, PairBatch([], [], samples), groups, rewards, OLD, REFERENCE, values)


TWO_PAIRS = experience_of(torch.tensor([1.0, 5.0]), [2, 2], [2])
"""A group of two samples of two decisions each."""


def test_penalised_rewards_by_hand() -> None:
    rewards = kl_penalized_rewards(torch.tensor([0.0, 1.0, 0.0, 5.0]), OLD, REFERENCE, coefficient=0.5)
    assert rewards.tolist() == [-1.0, 1.0, -0.5, 5.5]
    far = kl_penalized_rewards(torch.zeros(1), torch.tensor([-90.0]), torch.tensor([-10.0]), coefficient=1.0)
    assert far.tolist() == [80.0]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (MonteCarlo(), [0.0, 1.0, 5.0, 5.5]),
        (MonteCarlo(discount=0.5), [-0.5, 1.0, 2.25, 5.5]),
        (GeneralizedAdvantage(discount=1.0, gae_lambda=0.0), [-1.0, 1.0, -0.5, 5.5]),
        (GeneralizedAdvantage(discount=1.0, gae_lambda=1.0), [0.0, 1.0, 5.0, 5.5]),
        (GroupRelative(group_centered_advantages), [-2.5, 2.5]),  # samples of 1 - 1 and 5 - 0
        (MonteCarlo(baseline=group_time_baseline), [-2.5, -2.25, 2.5, 2.25]),
    ],
)
@pytest.mark.parametrize("per_decision", [False, True])
def test_advantages_by_hand(estimator: AdvantageEstimator, expected: list[float], per_decision: bool) -> None:
    experience = TWO_PAIRS
    if per_decision:
        experience = experience_of(torch.tensor([0.0, 1.0, 0.0, 5.0]), [2, 2], [2])
    assert KLPenalizedRewards(estimator, coefficient=0.5)(experience).tolist() == expected
    assert experience.sample_rewards.values.tolist() == [1.0, 5.0]


def test_metrics_by_hand() -> None:
    estimator = KLPenalizedRewards(MonteCarlo(), coefficient=AdaptiveKLCoefficient(target=1.0, initial=0.25))
    assert estimator.estimate(TWO_PAIRS).metrics == {"reward_kl": 0.5, "reward_kl_coefficient": 0.25}


@given(beta=st.floats(0, 10), seed=st.integers(0, 100))
def test_a_reference_that_agrees_costs_nothing(beta: float, seed: int) -> None:
    torch.manual_seed(seed)
    policy, reference = SequencePolicy(), SequencePolicy()
    rewards = FunctionRewards(lambda state, action: float(len(action)))
    results = []
    for estimator in (GroupRelative(), KLPenalizedRewards(GroupRelative(), coefficient=beta)):
        trainer = GRPOTrainer(GRPOConfig(), policy, rewards, reference, advantage_estimator=estimator)
        torch.manual_seed(seed)
        results.append(trainer.advantage_estimator(trainer.collector.collect([1, 2])))
    torch.testing.assert_close(results[0], results[1])


class Bare:
    """An estimator with nothing but a call."""

    def __call__(self, experience: Experience) -> Tensor:
        return experience.sample_rewards.values


class Full(Bare):
    """An estimator with everything that a trainer asks for."""

    needs = Needs(critic=True, group_size=3)

    def __init__(self) -> None:
        self.num_told = 0

    def estimate(self, experience: Experience) -> AdvantageEstimate:
        metrics = {"num_told": float(self.num_told)}
        return AdvantageEstimate(self(experience), experience.decision_rewards, metrics)

    def adapt(self, experience: Experience, metrics: Mapping[str, float]) -> None:
        self.num_told += 1

    def state_dict(self) -> dict[str, Any]:
        return {"num_told": self.num_told}

    def load_state_dict(self, state_dict: Any) -> None:
        self.num_told = state_dict["num_told"]


def test_what_is_forwarded() -> None:
    bare, inner = KLPenalizedRewards(Bare()), Full()
    full = KLPenalizedRewards(inner, coefficient=0.5)
    for estimator in (bare, full):
        assert estimator.needs.reference
        assert estimator.needs.old_log_probs
    assert (bare.needs.group_size, full.needs.group_size) == (1, 3)
    assert (bare.needs.critic, full.needs.critic) == (None, True)
    assert bare.estimate(TWO_PAIRS).returns is None
    # a critic is to expect the rewards that advantages are made of
    returns = full.estimate(TWO_PAIRS).returns
    assert returns is not None
    assert returns.tolist() == [-1.0, 1.0, -0.5, 5.5]
    full.adapt(TWO_PAIRS, {"reward_kl": 0.5})
    bare.adapt(TWO_PAIRS, {"reward_kl": 0.5})
    assert full.estimate(TWO_PAIRS).metrics == {"num_told": 1.0, "reward_kl": 0.5, "reward_kl_coefficient": 0.5}
    state = full.state_dict()
    full.adapt(TWO_PAIRS, {"reward_kl": 0.5})
    assert inner.num_told == 2
    full.load_state_dict(state)
    assert inner.num_told == 1
    trainer = PPOTrainer(PPOConfig(), WalkerPolicy(), StepRewards(), WalkerPolicy(), advantage_estimator=bare)
    with pytest.raises(TypeError, match=r"trains a critic, but KLPenalizedRewards.* does not tell it what to expect"):
        trainer.step([0])


def walk(state: int, action: Any) -> float:
    return float(len(action))


def grade(state: int, action: int) -> float:
    return float(action == state)


def test_every_trainer_takes_it() -> None:
    gae = KLPenalizedRewards(GeneralizedAdvantage(), coefficient=0.1)
    returns = KLPenalizedRewards(MonteCarlo(discount=1.0, baseline=value_baseline), coefficient=0.1)
    trainers: list[Any] = [
        PPOTrainer(PPOConfig(), WalkerPolicy(), StepRewards(), WalkerPolicy(spread=0.0), advantage_estimator=gae),
        ReinforceTrainer(
            ReinforceConfig(), WalkerPolicy(), StepRewards(), WalkerPolicy(spread=0.0), advantage_estimator=returns
        ),
        GRPOTrainer(
            GRPOConfig(),
            WalkerPolicy(),
            StepRewards(),
            WalkerPolicy(spread=0.0),
            advantage_estimator=KLPenalizedRewards(GroupRelative()),
        ),
    ]
    for trainer in trainers:
        metrics = trainer.step([0, 1, 2])
        assert metrics["reward_kl"] != 0
        assert "kl" not in metrics


@pytest.mark.parametrize("settings", [{}, {"num_epochs_per_update": 2, "micro_batch_size": 3}])
def test_what_a_step_reports_is_the_divergence_of_its_rollout(settings: dict[str, Any]) -> None:
    policy, reference = SequencePolicy(), SequencePolicy()
    with torch.no_grad():
        reference.transitions.mul_(0.3)
    trainer = GRPOTrainer(
        GRPOConfig(**settings),
        policy,
        FunctionRewards(walk),
        reference,
        advantage_estimator=KLPenalizedRewards(GroupRelative()),
    )
    experience = trainer.collector.collect([1, 2, 3])
    batch: Any = experience.batch
    with torch.no_grad():
        gaps = policy.evaluate_actions(batch).log_probs - reference.evaluate_actions(batch).log_probs
    metrics = trainer.update(experience)
    assert metrics["reward_kl"] == pytest.approx(gaps.mean().item())
    assert metrics["reward"] == pytest.approx(experience.rewards.mean().item())


def test_the_divergence_is_charged_once() -> None:
    """With it in the rewards, a reference policy does not bring GRPO's penalty in the loss as well, unless asked."""
    estimator = KLPenalizedRewards(GroupRelative())
    for config, expected in ((GRPOConfig(), 0.0), (GRPOConfig(kl_coefficient=0.2), 0.2)):
        trainer = GRPOTrainer(
            config, TablePolicy(), FunctionRewards(grade), TablePolicy(), advantage_estimator=estimator
        )
        assert isinstance(trainer.objective, GRPOObjective)
        assert trainer.objective.kl_coefficient == expected


def test_no_warning_that_the_reference_is_not_used() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GRPOTrainer(
            GRPOConfig(),
            TablePolicy(),
            FunctionRewards(grade),
            TablePolicy(),
            advantage_estimator=KLPenalizedRewards(GroupRelative()),
            objective=GRPOObjective(),
        ).step([0])
    with pytest.warns(UserWarning, match="reference_policy is not used"):
        GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade), TablePolicy(), objective=GRPOObjective())


def test_it_holds_the_policy_near_the_reference() -> None:
    distances = []
    for coefficient in (0.0, 3.0):
        torch.manual_seed(0)
        policy = TablePolicy()
        reference = copy.deepcopy(policy)
        trainer = GRPOTrainer(
            GRPOConfig(group_size=16, learning_rate=0.1),
            policy,
            FunctionRewards(grade),
            reference,
            advantage_estimator=KLPenalizedRewards(GroupRelative(group_centered_advantages), coefficient),
        )
        for _ in range(60):
            trainer.step([0, 1, 2])
        distances.append((policy.logits.softmax(-1) - reference.logits.softmax(-1)).abs().max().item())
    assert distances[1] < 0.5 * distances[0]


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 500)), max_size=20), st.floats(1e-3, 1))
def test_the_horizon_coefficient_follows_the_formula(steps: list[tuple[float, int]], target: float) -> None:
    coefficient = HorizonKLCoefficient(target, horizon=1000, initial=0.3)
    for kl, num_samples in steps:
        before = coefficient.value
        coefficient.update(kl, num_samples)
        factor = 1 + min(max(kl / target - 1, -0.2), 0.2) * num_samples / 1000
        assert coefficient.value == pytest.approx(before * factor)
    assert repr(coefficient) == f"HorizonKLCoefficient(target={target}, value={coefficient.value})"


def test_a_coefficient_never_turns_negative() -> None:
    coefficient = HorizonKLCoefficient(0.1, horizon=1.0)
    coefficient.update(0.0, num_samples=1000)
    assert coefficient.value == 1e-6


def stepping(coefficient: KLCoefficient, rewards: Any = None, **settings: Any) -> GRPOTrainer[Any, Any]:
    reference = TablePolicy()
    with torch.no_grad():
        reference.logits.zero_()
    return GRPOTrainer(
        GRPOConfig(group_size=4, **settings),
        TablePolicy(),
        rewards or FunctionRewards(grade),
        reference,
        advantage_estimator=KLPenalizedRewards(GroupRelative(), coefficient),
    )


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_coefficient_is_told_once_a_step(epochs: int) -> None:
    told = []

    class Noting(HorizonKLCoefficient):
        def update(self, kl: float, num_samples: int = 1) -> None:
            told.append((kl, num_samples))
            super().update(kl, num_samples)

    coefficient = Noting(target=1e-3, horizon=100, initial=0.5)
    metrics = stepping(coefficient, num_epochs_per_update=epochs, batch_size=3).step([0, 1])
    assert told == [(metrics["reward_kl"], 8)]
    assert metrics["reward_kl_coefficient"] == 0.5  # that of the step itself
    error = math.copysign(0.2, metrics["reward_kl"])
    assert coefficient.value == pytest.approx(0.5 * (1 + error * 8 / 100))


@pytest.mark.parametrize("where", ["sampling", "update", "estimator"])
@pytest.mark.parametrize("non_finite", ["raise", "skip"])
def test_a_failed_step_tells_a_coefficient_nothing(where: str, non_finite: Any) -> None:
    coefficient = AdaptiveKLCoefficient(target=1e-3)
    trainer = stepping(coefficient, num_epochs_per_update=2, non_finite=non_finite)
    trainer.step([0, 1])
    value, policy = coefficient.value, trainer.policy
    assert value != 1
    before = policy.get_parameters()["logits"].detach().clone()
    log_probs, calls = policy.get_log_probabilities, []

    def broken(states: Any, actions: Any) -> Tensor:
        calls.append(len(actions))
        result = log_probs(states, actions)
        return result * torch.nan if len(calls) == {"sampling": 1, "update": 3}.get(where) else result

    policy.get_log_probabilities = broken  # type: ignore[method-assign]
    if where == "estimator":
        estimator: Any = trainer.advantage_estimator
        estimator.estimator = lambda experience: experience.rewards * torch.nan
    if non_finite == "raise":
        with pytest.raises(ValueError, match="nan"):
            trainer.step([0, 1])
    else:
        trainer.step([0, 1])
    if non_finite == "raise" or where != "update":  # a step of which one update was skipped has still been made
        assert coefficient.value == value
        assert torch.equal(policy.get_parameters()["logits"], before)
        assert trainer.num_steps == (1 if non_finite == "raise" else 2)


def test_an_adaptive_coefficient_holds_its_target() -> None:
    torch.manual_seed(0)
    coefficient = AdaptiveKLCoefficient(target=0.05, initial=0.01)
    trainer = GRPOTrainer(
        GRPOConfig(group_size=64, learning_rate=0.05),
        TablePolicy(),
        FunctionRewards(grade),
        TablePolicy(),
        advantage_estimator=KLPenalizedRewards(GroupRelative(group_centered_advantages), coefficient),
    )
    kls = [trainer.step([0, 1, 2])["reward_kl"] for _ in range(300)]
    assert 0.05 / 3 < sum(kls[-100:]) / 100 < 0.05 * 3


def test_without_a_reference_policy() -> None:
    with pytest.raises(ValueError, match=r"KLPenalizedRewards\(GroupRelative.* needs a reference policy"):
        GRPOTrainer(
            GRPOConfig(), TablePolicy(), FunctionRewards(grade), advantage_estimator=KLPenalizedRewards(GroupRelative())
        )


def test_an_experience_without_log_probs() -> None:
    estimator = KLPenalizedRewards(GroupRelative())
    trainer = GRPOTrainer(
        GRPOConfig(), TablePolicy(), FunctionRewards(grade), TablePolicy(), advantage_estimator=estimator
    )
    other = GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade)).collector.collect([0, 1])
    with pytest.raises(ValueError, match="experience has no old_log_probs"):
        trainer.update(other)
    with pytest.raises(ValueError, match="which KLPenalizedRewards needs: collect it"):
        estimator(other)


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), "adaptive", None])
def test_wrong_coefficients(bad: Any) -> None:
    with pytest.raises(ValueError, match="expected a finite number of at least 0, or a coefficient that adapts"):
        KLPenalizedRewards(MonteCarlo(), coefficient=bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (group_normalized_advantages, r"estimator is group_normalized_advantages.* pass GroupRelative\("),
        (MonteCarlo, "estimator is <class .*MonteCarlo'>, expected an instance"),
        (0.1, r"estimator is 0\.1, expected an instance or a function"),
    ],
)
def test_wrong_estimators(bad: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        KLPenalizedRewards(bad)


@pytest.mark.parametrize("bad", [(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, float("inf"), 1.0), (1.0, 1.0, 0.0)])
def test_wrong_horizons(bad: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"HorizonKLCoefficient got .* expected a finite"):
        HorizonKLCoefficient(*bad)
    with pytest.raises(ValueError, match="coefficient"):  # it does not know how many samples a step had
        KLPenaltySurrogate(coefficient=HorizonKLCoefficient(1.0))  # type: ignore[arg-type]


def test_names_that_an_estimator_reports_must_be_free() -> None:
    class Reporting(FunctionRewards):
        def get_metrics(self) -> Mapping[str, float]:
            return {"reward_kl": 1.0}

    trainer = stepping(AdaptiveKLCoefficient(0.1), rewards=Reporting(grade))
    with pytest.raises(ValueError, match=r"KLPenalizedRewards.estimate returned names that are taken, reward_kl"):
        trainer.step([0])


def update_with(estimator: AdvantageEstimator, group_sizes: list[int]) -> Tensor:
    """What REINFORCE++ and its variant with a baseline credit the decisions of ``TWO_PAIRS`` with."""
    advantages = estimator(experience_of(torch.tensor([1.0, 5.0]), [2, 2], group_sizes))
    if len(advantages) == 2:
        advantages = Segments(2, 2).expand(advantages)
    return normalized_advantages(advantages)


def test_reinforce_plus_plus_by_hand() -> None:
    # returns 0, 1, 5, 5.5: mean 2.875, squares of the differences 8.265625 + 3.515625 + 4.515625 + 6.890625 = 23.1875
    std = math.sqrt(23.1875 / 3)
    expected = [-2.875 / std, -1.875 / std, 2.125 / std, 2.625 / std]
    torch.testing.assert_close(update_with(KLPenalizedRewards(MonteCarlo(), 0.5), [1, 1]), torch.tensor(expected))


def test_reinforce_plus_plus_with_a_baseline_by_hand() -> None:
    # rewards 1 and 5 less their mean, at two decisions each: -2, -2, 2, 2, std √(16/3)
    one = 2 / math.sqrt(16 / 3)
    torch.testing.assert_close(
        update_with(GroupRelative(group_centered_advantages), [2]), torch.tensor([-one, -one, one, one])
    )


@pytest.mark.parametrize(
    ("config", "estimator"),
    [
        (GRPOConfig(group_size=1, advantage_normalization="per_step"), KLPenalizedRewards(MonteCarlo(), 0.01)),
        (GRPOConfig(advantage_normalization="per_step"), GroupRelative(group_centered_advantages)),
    ],
)
def test_reinforce_plus_plus_is_one_line(config: GRPOConfig, estimator: AdvantageEstimator) -> None:
    """What the objective is told has mean 0 and standard deviation 1 over all decisions."""
    told = []
    policy, reference = SequencePolicy(), SequencePolicy()
    trainer = GRPOTrainer(config, policy, FunctionRewards(walk), reference, advantage_estimator=estimator)
    objective = trainer.objective

    def noting(evaluation: Any, decisions: Any) -> Any:
        told.append(decisions.advantages)
        return objective(evaluation, decisions)

    trainer.objective = noting
    trainer.step([1, 2, 3, 1] * 8)
    [advantages] = told
    assert advantages.mean().item() == pytest.approx(0, abs=1e-9)
    assert advantages.std().item() == pytest.approx(1)


def test_ppo_charges_its_critic_with_the_penalty() -> None:
    """The returns that the critic learns are those of the penalised rewards."""
    seen = []

    class Noting(PPOObjective):
        def __call__(self, evaluation: Any, decisions: Any) -> Any:
            seen.append(decisions.returns)
            return super().__call__(evaluation, decisions)

    trainer = PPOTrainer(
        PPOConfig(batch_size=None, num_epochs_per_update=1),
        WalkerPolicy(),
        StepRewards(),
        WalkerPolicy(spread=0.0),
        advantage_estimator=KLPenalizedRewards(MonteCarlo(discount=1.0), 0.5),
        objective=Noting(),
    )
    experience = trainer.collector.collect([0, 1])
    trainer.update(experience)
    assert experience.old_log_probs is not None
    assert experience.reference_log_probs is not None
    rewards = experience.rewards - 0.5 * (experience.old_log_probs - experience.reference_log_probs)
    torch.testing.assert_close(seen[0], experience.episodes.discounted_sum(rewards, 1.0))
