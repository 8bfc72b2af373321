"""PPO: losses of the critic by hand, the laws with a critic, learning, and errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FunctionRewards, SequentialTablePolicy, StepRewards, TablePolicy, WalkBatch, WalkerPolicy
from torch import Tensor

from grpo import (
    ClippedSurrogate,
    Decisions,
    Evaluation,
    Experience,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    MonteCarlo,
    NonFiniteError,
    PPOConfig,
    PPOObjective,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    Segments,
    Trainer,
    TrainerConfig,
    ValueEstimates,
    clipped_surrogate,
    clipped_value_loss,
    mean_baseline,
    value_baseline,
    value_loss,
)


def randn(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build_trainer(policy: WalkerPolicy, objective: PPOObjective | None = None, **settings: Any) -> PPOTrainer[Any, Any]:
    settings = {"max_grad_norm": None, "batch_size": None, "num_epochs_per_update": 1} | settings
    optimizer = torch.optim.SGD(policy.get_parameters().values(), lr=1.0)
    reference = WalkerPolicy(spread=0.5) if objective is not None and objective.needs.reference else None
    return PPOTrainer(PPOConfig(**settings), policy, StepRewards(), reference, optimizer, objective=objective)


def collect_off_policy(policy: WalkerPolicy, seed: int, num_states: int = 3) -> Experience:
    """Samples whose old log-probs and values are some way from the policy's."""
    torch.manual_seed(seed)
    objective = PPOObjective(kl_coefficient=0.1)
    trainer = build_trainer(policy, objective, num_epochs_per_update=2, group_size=2)
    experience = trainer.collector.collect([index % 4 for index in range(num_states)])
    assert experience.old_log_probs is not None
    assert experience.values is not None
    noise = randn(experience.samples.total, seed)
    return replace(
        experience,
        old_log_probs=experience.old_log_probs + 0.3 * noise,
        values=replace(experience.values, values=experience.values.values - 0.4 * noise),
    )


def change_of(policy: WalkerPolicy, update: Callable[[], Any]) -> tuple[Tensor, Tensor, Any]:
    """What an update does to logits and values, and its result."""
    before = [tensor.detach().clone() for tensor in policy.get_parameters().values()]
    result = update()
    logits, values = (
        tensor.detach() - was for tensor, was in zip(policy.get_parameters().values(), before, strict=True)
    )
    return logits, values, result


def test_losses_of_the_critic_by_hand() -> None:
    values = torch.tensor([3.0, 3.0, -3.0, 0.5])
    old_values = torch.tensor([0.0, 0.0, 0.0, 0.0])
    returns = torch.tensor([4.0, 0.0, -5.0, 2.0])
    assert value_loss(values, returns).tolist() == [1.0, 9.0, 4.0, 2.25]
    # clipped to 1, 1, -1, 0.5: (1-4)² = 9, 1, (-1+5)² = 16, 2.25; the larger of both
    assert clipped_value_loss(values, old_values, returns, clip=1.0).tolist() == [9.0, 9.0, 16.0, 2.25]


@given(st.integers(1, 20), st.integers(0, 1000), st.floats(0.05, 3))
def test_the_clipped_loss_is_never_below_the_plain_one(count: int, seed: int, clip: float) -> None:
    values, old_values, returns = (randn(count, seed + index) for index in range(3))
    values.requires_grad_()
    clipped = clipped_value_loss(values, old_values, returns, clip=clip)
    plain = value_loss(values, returns)
    assert (clipped >= plain).all()
    near = (values - old_values).abs() <= clip
    torch.testing.assert_close(clipped[near], plain[near])
    # beyond the clip there is no gradient where that makes the error larger: towards the return, it went too far
    [gradient] = torch.autograd.grad(clipped.sum(), values)
    assert not gradient[(clipped > plain) & ~near].any()
    torch.testing.assert_close(gradient[near], 2 * (values - returns)[near])


def test_the_objective_by_hand() -> None:
    log_probs = torch.tensor([1.5, 0.5], dtype=torch.float64).log()
    evaluation = Evaluation(log_probs, torch.tensor([0.7, 0.3]).double(), torch.tensor([2.0, 1.0]).double())
    decisions = Decisions(
        torch.tensor([1.0, -1.0]).double(),
        torch.zeros(2).double(),
        None,
        Segments(2, 1),
        returns=torch.tensor([3.0, 5.0]).double(),
        old_values=torch.tensor([2.0, 0.5]).double(),
    )
    objective = PPOObjective(
        surrogate=ClippedSurrogate(clip_low=0.3, clip_high=0.2), value_coefficient=0.25, entropy_coefficient=0.1
    )
    terms = objective(evaluation, decisions)
    # -1.2 + 0.25 · 1 - 0.07; 0.7 + 0.25 · 16 - 0.03
    torch.testing.assert_close(terms.loss, torch.tensor([-1.02, 4.67]).double())
    torch.testing.assert_close(terms.metrics["value_loss"], torch.tensor([1.0, 16.0]).double())
    torch.testing.assert_close(terms.metrics["entropy"], torch.tensor([0.7, 0.3]).double())
    clipped = objective.model_copy(update={"value_clip": 0.25})(evaluation, decisions)
    # the second value is clipped to 0.75: 4.25² = 18.0625
    torch.testing.assert_close(clipped.metrics["value_loss"], torch.tensor([1.0, 18.0625]).double())
    assert clipped.loss[1].item() == pytest.approx(0.7 + 0.25 * 18.0625 - 0.03)


@given(
    seed=st.integers(0, 100),
    num_states=st.integers(1, 4),
    micro_batch_size=st.integers(1, 40),
    averaging=st.sampled_from(["per_sample", "per_decision", 5]),
    value_clip=st.none() | st.just(0.2),
    normalization=st.sampled_from(["per_step", "per_minibatch", None]),
)
def test_partition_into_micro_batches_changes_nothing(
    seed: int, num_states: int, micro_batch_size: int, averaging: Any, value_clip: float | None, normalization: Any
) -> None:
    objective = PPOObjective(value_clip=value_clip, entropy_coefficient=0.3, kl_coefficient=0.2)
    results = []
    for rows in (None, micro_batch_size):
        policy = WalkerPolicy()
        experience = collect_off_policy(policy, seed, num_states)
        trainer = build_trainer(
            policy, objective, micro_batch_size=rows, loss_averaging=averaging, advantage_normalization=normalization
        )
        results.append(change_of(policy, lambda t=trainer, e=experience: t.update(e)))  # type: ignore[misc]
    (logits, values, metrics), (split_logits, split_values, split_metrics) = results
    assert logits.abs().max() > 1e-4
    assert values.abs().max() > 1e-4
    assert (split_logits - logits).abs().max() <= 1e-6 * logits.abs().max()
    assert (split_values - values).abs().max() <= 1e-6 * values.abs().max()
    assert split_metrics == pytest.approx(metrics, rel=1e-6, abs=1e-9)
    assert {"value_loss", "entropy", "kl", "explained_variance"} <= metrics.keys()


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_on_policy_the_gradient_is_that_of_reinforce(noted: bool, normalize: bool) -> None:
    """With GAE's advantages; the critic's is that of the squared error, and entropy has none at its weight of 0."""
    torch.manual_seed(0)
    policy = WalkerPolicy()
    experience = build_trainer(policy).collector.collect([0, 1, 2])
    if not noted:
        experience = replace(experience, old_log_probs=None)
    trainer = build_trainer(
        policy, value_coefficient=0.25, advantage_normalization="per_minibatch" if normalize else None
    )
    batch: Any = experience.batch
    assert experience.values is not None
    raw = trainer.advantage_estimator(experience)
    advantages = (raw - raw.mean()) / raw.std() if normalize else raw
    evaluation = policy.evaluate_actions(batch)
    assert evaluation.values is not None
    loss = -(advantages * evaluation.log_probs).mean()
    loss = loss + 0.25 * (evaluation.values - (raw + experience.values.values)).square().mean()
    expected = torch.autograd.grad(loss, [policy.logits, policy.values])
    logits, values, metrics = change_of(policy, lambda: trainer.update(experience))
    torch.testing.assert_close(logits, -expected[0])
    torch.testing.assert_close(values, -expected[1])
    assert metrics["approx_kl"] == metrics["clip_fraction"] == 0
    assert logits.abs().max() > 1e-3


def test_off_policy_the_gradient_is_that_of_the_formula() -> None:
    policy = WalkerPolicy()
    experience = collect_off_policy(policy, 1)
    trainer = build_trainer(policy, clip_low=0.1, clip_high=0.15, entropy_coefficient=0.2, advantage_normalization=None)
    assert experience.values is not None
    assert experience.old_log_probs is not None
    advantages = trainer.advantage_estimator(experience)
    batch: Any = experience.batch
    evaluation = policy.evaluate_actions(batch)
    assert evaluation.values is not None
    assert evaluation.entropy is not None
    ratio = (evaluation.log_probs - experience.old_log_probs).exp()
    loss = clipped_surrogate(ratio, advantages, clip_low=0.1, clip_high=0.15)
    loss = loss + 0.5 * (evaluation.values - advantages - experience.values.values) ** 2 - 0.2 * evaluation.entropy
    expected = torch.autograd.grad(loss.mean(), [policy.logits, policy.values])
    logits, values, metrics = change_of(policy, lambda: trainer.update(experience))
    torch.testing.assert_close(logits, -expected[0])
    torch.testing.assert_close(values, -expected[1])
    assert metrics["loss"] == pytest.approx(loss.mean().item())


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0, 3.0])
def test_explained_variance_by_hand(noise: float) -> None:
    """1 - Var(R - V) / Var(R), of the values that the critic had before the step."""
    torch.manual_seed(0)
    policy = WalkerPolicy()
    trainer = build_trainer(policy, gae_lambda=1.0, discount=1.0)
    experience = trainer.collector.collect([0, 1, 2])
    ends = experience.episodes.last
    returns = MonteCarlo()(experience)
    values = returns + noise * randn(len(returns), 3)
    after = torch.where(torch.ones_like(returns).index_fill(0, ends, 0.0) > 0, values.roll(-1), 0.0)
    metrics = trainer.update(replace(experience, values=ValueEstimates(values, after)))
    expected = 1 - (returns - values).var().item() / returns.var().item()
    assert metrics["explained_variance"] == pytest.approx(expected)
    assert (metrics["explained_variance"] == pytest.approx(1.0)) == (noise == 0)


def test_explained_variance_of_equal_returns_is_zero() -> None:
    policy = WalkerPolicy(num_episodes=1, max_length=1, spread=0.0)
    trainer = build_trainer(policy, discount=0.0)
    assert trainer.step([0, 1])["explained_variance"] == 0
    assert "explained_variance" not in GRPOTrainer(GRPOConfig(), policy, StepRewards()).step([0, 1])


def test_explained_variance_of_equal_returns_is_zero_whatever_the_critic_expected() -> None:
    """Every step costs the same, and a return is one reward."""
    policy = WalkerPolicy(num_episodes=1, max_length=1)
    assert build_trainer(policy, discount=0.0).step([0, 1])["explained_variance"] == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("settings", [{}, {"value_clip": 0.5, "entropy_coefficient": 1e-3, "target_kl": 0.1}])
def test_learns_a_problem_of_several_steps(seed: int, settings: dict[str, Any]) -> None:
    """To go on at every position of the corridor, and what to expect there."""
    torch.manual_seed(seed)
    policy = WalkerPolicy(spread=0.0)
    config = PPOConfig(learning_rate=0.05, batch_size=64, num_epochs_per_update=4, seed=seed, **settings)
    trainer = PPOTrainer(config, policy, StepRewards())
    metrics = [trainer.step([0, 1, 2, 3] * 2) for _ in range(30)]
    assert policy.logits.softmax(-1)[:, 1].min() > 0.9
    assert metrics[0]["explained_variance"] < 0.1
    assert sum(step["explained_variance"] for step in metrics[-3:]) / 3 > 0.5
    assert metrics[-1]["reward"] > metrics[0]["reward"] + 0.3
    # from the position before the end: one step, 1 - 0.1; three before: 0.9 γ³ - 0.1 (1 + γ + γ²) at the best
    assert policy.values[3].item() == pytest.approx(0.9, abs=0.15)
    assert policy.values[0].item() < policy.values[3].item() - 0.1


def test_the_config_reaches_estimator_and_objective() -> None:
    config = PPOConfig(
        discount=0.9,
        gae_lambda=0.8,
        clip_low=0.1,
        clip_high=0.3,
        value_coefficient=0.7,
        value_clip=0.4,
        entropy_coefficient=0.01,
        kl_coefficient=0.2,
    )
    trainer = PPOTrainer(config, WalkerPolicy(), StepRewards(), WalkerPolicy())
    estimator: Any = trainer.advantage_estimator
    assert (estimator.discount, estimator.gae_lambda) == (0.9, 0.8)
    assert trainer.objective == PPOObjective(
        surrogate=ClippedSurrogate(clip_low=0.1, clip_high=0.3),
        value_coefficient=0.7,
        value_clip=0.4,
        entropy_coefficient=0.01,
        kl_coefficient=0.2,
    )
    assert trainer.collector.group_size == 1
    by_default = PPOTrainer(PPOConfig(), WalkerPolicy(), StepRewards())
    assert by_default.objective == PPOObjective()
    assert PPOObjective().value_coefficient == 0.5


def test_your_own_estimator_and_objective() -> None:
    own = PPOTrainer(
        PPOConfig(batch_size=8),
        WalkerPolicy(),
        StepRewards(),
        advantage_estimator=MonteCarlo(discount=1.0, baseline=mean_baseline),
        objective=GRPOObjective(),
    )
    metrics = own.step([0, 1])
    assert "value_loss" not in metrics
    assert "explained_variance" not in metrics


@pytest.mark.parametrize("policy", [TablePolicy(), SequentialTablePolicy()])
def test_a_policy_without_a_critic(policy: TablePolicy) -> None:
    rewards = FunctionRewards(lambda state, action: float(action))
    name = type(policy).__name__
    message = (
        f"GeneralizedAdvantage needs a critic, but policy {name} has none: add .*estimate_values and return values"
    )
    with pytest.raises(TypeError, match=message):
        PPOTrainer(PPOConfig(), policy, rewards)  # type: ignore[arg-type]
    estimator = MonteCarlo(discount=1.0, baseline=value_baseline)
    with pytest.raises(TypeError, match=r"MonteCarlo needs a critic.*estimate_values"):
        ReinforceTrainer(ReinforceConfig(), policy, rewards, advantage_estimator=estimator)
    with pytest.raises(TypeError, match=r"PPOObjective needs a critic.*estimate_values"):
        GRPOTrainer(GRPOConfig(), policy, rewards, objective=PPOObjective())


class BrokenWalker(WalkerPolicy):
    """Works until it is told how to break."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)
        self.break_estimates: Callable[[ValueEstimates], Any] = lambda estimates: estimates
        self.break_evaluation: Callable[[Evaluation], Any] = lambda evaluation: evaluation
        self.evaluations_until_broken = 0

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        torch.rand(1, generator=self.generator)
        return super().generate_actions(states, num_actions_per_state)

    def estimate_values(self, batch: WalkBatch) -> Any:
        return self.break_estimates(super().estimate_values(batch))

    def evaluate_actions(self, batch: WalkBatch) -> Any:
        evaluation = super().evaluate_actions(batch)
        self.evaluations_until_broken -= 1
        return evaluation if self.evaluations_until_broken >= 0 else self.break_evaluation(evaluation)


class Harness:
    """A trainer that has made two good steps, and everything that a failed one must leave alone."""

    def __init__(self, **settings: Any) -> None:
        torch.manual_seed(0)
        self.policy = BrokenWalker()
        settings = {"batch_size": 8, "num_epochs_per_update": 3} | settings
        self.trainer = PPOTrainer(PPOConfig(**settings), self.policy, StepRewards())
        for _ in range(2):
            self.trainer.step([0, 1])

    def state(self) -> list[Any]:
        assert self.trainer.optimizer is not None
        parameters = [tensor.detach().clone() for tensor in self.policy.get_parameters().values()]
        generators = [torch.get_rng_state(), self.policy.generator.get_state(), self.trainer.generator.get_state()]
        optimizer_state = copy.deepcopy(self.trainer.optimizer.state_dict())
        return [parameters, generators, optimizer_state, self.trainer.num_steps]

    def assert_fails(self, error: type[Exception], message: str) -> None:
        before = self.state()
        with pytest.raises(error, match=message):
            self.trainer.step([0, 1])
        torch.testing.assert_close(self.state(), before, rtol=0, atol=0)


def with_nan(values: Tensor | None) -> Tensor:
    assert values is not None
    return values.index_fill(0, torch.tensor([1]), torch.nan)


@pytest.mark.parametrize(
    ("break_estimates", "error", "message"),
    [
        (
            lambda e: (e.values, e.next_values),
            TypeError,
            r"returned a tuple, expected grpo\.ValueEstimates\(values, ne",
        ),
        (lambda e: e.values, TypeError, "returned a Tensor, expected grpo.ValueEstimates"),
        (lambda e: None, TypeError, "returned a NoneType"),
        (lambda e: replace(e, values=e.values[:-1]), ValueError, r"returned values of shape \[\d+\], expected \[\d+\]"),
        (lambda e: replace(e, values=e.values[:, None]), ValueError, r"values of shape .*: squeeze the last dimension"),
        (lambda e: replace(e, next_values=e.next_values[:2]), ValueError, r"returned next_values of shape \[2\], expe"),
        (lambda e: replace(e, next_values=None), TypeError, "returned next_values of type NoneType"),
        (lambda e: replace(e, values=e.values.long()), TypeError, "returned values of dtype torch.int64"),
        (
            lambda e: replace(e, values=with_nan(e.values)),
            NonFiniteError,
            r"returned values with nan for sample 0 \(its",
        ),
        (
            lambda e: replace(e, next_values=e.values / 0),
            NonFiniteError,
            "returned next_values with -?inf for sample 0",
        ),
    ],
)
def test_wrong_estimates(break_estimates: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    harness = Harness()
    harness.policy.break_estimates = break_estimates
    harness.assert_fails(error, f"policy.estimate_values.*{message}")


@pytest.mark.parametrize("evaluations", [0, 1, 2, 4])
@pytest.mark.parametrize(
    ("break_evaluation", "error", "message"),
    [
        (lambda e: replace(e, values=with_nan(e.values)), NonFiniteError, "evaluate_actions returned values with nan"),
        (
            lambda e: replace(e, values=e.values[:1]),
            ValueError,
            r"evaluate_actions returned values of shape \[1\], exp",
        ),
        (lambda e: replace(e, values=e.values.tolist()), TypeError, "evaluate_actions returned values of type list"),
        (lambda e: replace(e, log_probs=with_nan(e.log_probs)), NonFiniteError, "log-probs with nan for sample"),
    ],
)
def test_an_error_in_the_middle_of_several_updates_is_put_back(
    evaluations: int, break_evaluation: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    """Parameters of actor and critic, the optimizer's moments and the random generators."""
    harness = Harness()
    harness.policy.break_evaluation = break_evaluation
    harness.policy.evaluations_until_broken = evaluations
    harness.assert_fails(error, message)
    assert harness.policy.evaluations_until_broken == -1
    harness.policy.break_evaluation = lambda evaluation: evaluation
    assert harness.trainer.step([0, 1])["num_updates"] > 3


def test_an_evaluation_without_values() -> None:
    harness = Harness()
    harness.policy.break_evaluation = lambda evaluation: replace(evaluation, values=None)
    harness.policy.evaluations_until_broken = 2
    harness.assert_fails(ValueError, r"needs values, but .*return Evaluation\(log_probs, entropy, values\)")


def test_an_experience_without_values_is_told() -> None:
    policy = WalkerPolicy()
    experience = GRPOTrainer(GRPOConfig(num_epochs_per_update=2), policy, StepRewards()).collector.collect([0, 1])
    with pytest.raises(ValueError, match="experience has no values"):
        build_trainer(policy).update(experience)


def test_non_finite_values_are_skipped_and_counted_on_request() -> None:
    harness = Harness(non_finite="skip")
    harness.policy.break_estimates = lambda estimates: replace(estimates, values=with_nan(estimates.values))
    before = harness.policy.values.detach().clone()
    assert harness.trainer.step([0, 1]) == {"num_updates": 0.0, "skipped_updates": 1.0}
    assert torch.equal(harness.policy.values, before)
    harness = Harness(non_finite="skip")
    harness.policy.evaluations_until_broken = 3  # old log-probs and two updates
    harness.policy.break_evaluation = lambda evaluation: replace(evaluation, values=with_nan(evaluation.values))
    metrics = harness.trainer.step([0, 1])
    assert metrics["num_updates"] == 2
    assert metrics["skipped_updates"] > 1


CONFIGS = [TrainerConfig(), GRPOConfig(), PPOConfig(), ReinforceConfig()]
TRAINERS = {GRPOTrainer: GRPOConfig, PPOTrainer: PPOConfig, ReinforceTrainer: ReinforceConfig}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_config_of_another_kind_is_refused(trainer: Any, config: TrainerConfig) -> None:
    expected = TRAINERS[trainer]
    if type(config) is expected:
        trainer(config, WalkerPolicy(), StepRewards())
    else:
        with pytest.raises(
            TypeError, match=rf"config is {type(config).__name__}\(.*expected a grpo.{expected.__name__}"
        ):
            trainer(config, WalkerPolicy(), StepRewards())


ESTIMATOR, OBJECTIVE = MonteCarlo(discount=1.0), PPOObjective()


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"discount": 0.9}, {"advantage_estimator": ESTIMATOR}),
        ({"gae_lambda": 0.9}, {"advantage_estimator": ESTIMATOR}),
        ({"clip_low": 0.1}, {"objective": OBJECTIVE}),
        ({"clip_high": 0.2}, {"objective": OBJECTIVE}),
        ({"value_coefficient": 0.5}, {"objective": OBJECTIVE}),
        ({"value_clip": 0.5}, {"objective": OBJECTIVE}),
        ({"entropy_coefficient": 0.0}, {"objective": OBJECTIVE}),
        ({"kl_coefficient": 0.0}, {"objective": OBJECTIVE}),
    ],
)
def test_numbers_that_an_argument_replaces_are_refused(settings: dict[str, float], arguments: dict[str, Any]) -> None:
    """Even where they are the defaults, since they would do nothing."""
    [name], [replaced_by] = settings, arguments
    with pytest.raises(ValueError, match=f"config sets {name}, which the {replaced_by} passed beside it replaces"):
        PPOTrainer(PPOConfig(**settings), WalkerPolicy(), StepRewards(), **arguments)
    other = {"objective": OBJECTIVE} if replaced_by == "advantage_estimator" else {"advantage_estimator": ESTIMATOR}
    PPOTrainer(PPOConfig(**settings), WalkerPolicy(), StepRewards(), **other)


def test_a_kl_coefficient_needs_a_reference_policy() -> None:
    with pytest.raises(ValueError, match="needs a reference policy, but there is none"):
        PPOTrainer(PPOConfig(kl_coefficient=0.1), WalkerPolicy(), StepRewards())


@pytest.mark.parametrize(
    "bad",
    [
        {"discount": 1.1},
        {"gae_lambda": -0.1},
        {"value_coefficient": -1.0},
        {"value_clip": 0.0},
        {"entropy_coefficient": -0.1},
        {"kl_coefficient": -0.1},
        {"adam_epsilon": 0.0},
        {"group_size": 0},
        {"dual_clip": 3.0},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        PPOConfig(**bad)


def test_the_same_seed_gives_bitwise_the_same_metrics_and_parameters() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        policy = WalkerPolicy()
        trainer = PPOTrainer(PPOConfig(batch_size=8, num_epochs_per_update=2), policy, StepRewards())
        results.append(([trainer.step([0, 1, 2]) for _ in range(3)], policy.logits.detach(), policy.values.detach()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(left, right) for left, right in zip(results[0][1:], results[1][1:], strict=True))


def test_a_critic_may_serve_other_trainers() -> None:
    """GAE and PPO's objective in the plain trainer are PPO."""
    results = []
    for make in (PPOTrainer, Trainer):
        torch.manual_seed(0)
        policy = WalkerPolicy()
        ppo = PPOTrainer(PPOConfig(batch_size=8), policy, StepRewards())
        trainer: Trainer[Any, Any] = ppo
        if make is Trainer:
            shared = PPOConfig(batch_size=8).model_dump(include=set(TrainerConfig.model_fields))
            trainer = Trainer(
                TrainerConfig(**shared),
                policy,
                StepRewards(),
                advantage_estimator=ppo.advantage_estimator,
                objective=ppo.objective,
            )
        results.append(trainer.step([0, 1]))
    assert results[0] == results[1]
