"""What parts declare that they need, and what estimators, objectives and policies may do besides."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FunctionRewards, Quiet, SequencePolicy, StepRewards, TablePolicy, WalkerPolicy
from torch import Tensor

from grpo import (
    Adapts,
    AdvantageEstimate,
    ClippedSurrogate,
    DPOConfig,
    DPOTrainer,
    DynamicSampling,
    EncodesGroups,
    EstimatesReturns,
    Experience,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    KLPenalizedRewards,
    KLPenaltySurrogate,
    MonteCarlo,
    Needs,
    PartialRewards,
    PPOConfig,
    PPOObjective,
    PPOTrainer,
    Preference,
    SampleClippedSurrogate,
    Segments,
    Terms,
    Trainer,
    TrainerConfig,
    with_reference_log_probs,
)
from grpo.data.adapts import adapts
from grpo.data.needs import NOTHING, needs_of

LIKES_LONG = FunctionRewards(lambda state, action: float(len(action)))
LIKES_FOUR = FunctionRewards(lambda state, action: float(len(action) > 3))


# Needs.


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (None, None, None),
        (None, False, None),
        (None, True, True),
        (False, False, False),
        (False, True, True),
        (True, True, True),
    ],
)
def test_what_two_parts_need_of_models(one: bool | None, other: bool | None, together: bool | None) -> None:
    for first, second in ((one, other), (other, one)):
        assert (Needs(critic=first) | Needs(critic=second)).critic is together
        assert (Needs(reference=first) | Needs(reference=second)).reference is together
        assert (Needs(adapts=first) | Needs(adapts=second)).adapts is together


FLAGS = ("old_log_probs", "value_targets", "whole_samples", "step_kl")
any_needs = st.builds(
    Needs,
    critic=st.sampled_from([None, False, True]),
    reference=st.sampled_from([None, False, True]),
    adapts=st.sampled_from([None, False, True]),
    group_size=st.integers(1, 4),
    **{name: st.booleans() for name in FLAGS},
)


@given(any_needs, any_needs, any_needs)
def test_needs_add_up(one: Needs, other: Needs, third: Needs) -> None:
    assert one | one == one
    assert one | other == other | one
    assert (one | other) | third == one | (other | third)
    assert all(getattr(one | other, name) == (getattr(one, name) or getattr(other, name)) for name in FLAGS)
    assert (one | other).group_size == max(one.group_size, other.group_size)
    assert one | Needs(critic=False, reference=False, adapts=False) == one


def test_needs_of_a_function() -> None:
    needs = Needs(critic=True, reference=False, group_size=3)

    @needs
    def declared(experience: Experience) -> Tensor:
        return experience.sample_rewards.values

    assert needs_of(declared) is needs
    assert declared.__name__ == "declared"
    assert needs_of(lambda experience: 0) == Needs()
    with pytest.raises(TypeError, match="needs a critic, but policy TablePolicy has none"):
        GRPOTrainer(GRPOConfig(), TablePolicy(), LIKES_LONG, advantage_estimator=declared)
    with pytest.raises(ValueError, match="group_size is 2, expected at least 3 for <function"):
        GRPOTrainer(GRPOConfig(group_size=2), WalkerPolicy(), StepRewards(), advantage_estimator=declared)


@pytest.mark.parametrize("wrong", [True, "critic", {"critic": True}, Needs])
def test_needs_that_are_none(wrong: Any) -> None:
    class Declares(GroupRelative):
        needs = wrong

    with pytest.raises(TypeError, match=r"has needs=.*, expected grpo.Needs\(...\), which says what it reads"):
        GRPOTrainer(GRPOConfig(), TablePolicy(), LIKES_LONG, advantage_estimator=Declares())


def test_parts_hand_on_what_their_parts_need() -> None:
    assert needs_of(GRPOObjective(surrogate=SampleClippedSurrogate())).whole_samples
    assert needs_of(GRPOObjective(kl_coefficient=0.1)).reference is True
    assert needs_of(PPOObjective()) == replace(NOTHING, critic=True, value_targets=True)
    penalised = needs_of(KLPenalizedRewards(GroupRelative()))
    assert penalised == replace(NOTHING, reference=True, old_log_probs=True, group_size=2)
    bare: Any = lambda experience: 0  # noqa: E731
    assert needs_of(KLPenalizedRewards(bare)).critic is None
    assert needs_of(MonteCarlo(baseline=bare)) == Needs(adapts=False)
    own: Any = lambda log_probs, decisions: Terms(log_probs, {})  # noqa: E731
    assert needs_of(GRPOObjective(surrogate=own)) == Needs()


def test_bare_functions_get_whatever_there_is_and_others_what_they_declare() -> None:
    seen: list[Any] = []

    def estimator(experience: Experience) -> Tensor:
        seen.append((experience.values is None, experience.reference_log_probs is None))
        return experience.sample_rewards.values

    def objective(evaluation: Any, decisions: Any) -> Terms:
        seen.append((decisions.old_values is None, decisions.reference_log_probs is None))
        return Terms(evaluation.log_probs, {})

    def step(policy: Any, rewards: Any, reference: Any, states: list[int], **parts: Any) -> list[Any]:
        seen.clear()
        all_parts: dict[str, Any] = {"advantage_estimator": GroupRelative(), "objective": GRPOObjective()} | parts
        Trainer(TrainerConfig(group_size=2), policy, rewards, reference, **all_parts).step(states)
        return list(seen)

    walker, rewards, table = WalkerPolicy(), StepRewards(), TablePolicy()
    assert step(walker, rewards, WalkerPolicy(), [0], advantage_estimator=estimator) == [(False, False)]
    assert step(walker, rewards, None, [0], advantage_estimator=estimator) == [(False, True)]
    high = FunctionRewards(lambda state, action: float(action))
    assert step(table, high, TablePolicy(), [0], advantage_estimator=estimator) == [(True, False)]
    assert step(walker, rewards, WalkerPolicy(), [0], objective=objective)[0][1] is False
    nothing = Needs(critic=False, reference=False)
    assert step(walker, rewards, None, [0], advantage_estimator=nothing(estimator)) == [(True, True)]


def test_a_divergence_of_the_step_is_measured_only_where_it_is_needed() -> None:
    for needs, expected in ((Needs(reference=False, critic=False), False), (Needs(step_kl=True, critic=False), True)):

        @needs
        def objective(evaluation: Any, decisions: Any) -> Terms:
            return GRPOObjective()(evaluation, decisions)

        trainer = GRPOTrainer(GRPOConfig(group_size=4), SequencePolicy(), LIKES_LONG, objective=objective)
        assert ("policy_kl" in trainer.step([1])) is expected


def test_old_log_probs_are_there_in_a_single_update_only_where_they_are_needed() -> None:
    for needs, expected in ((Needs(), False), (Needs(old_log_probs=True), True)):
        seen: list[bool] = []

        @needs
        def objective(evaluation: Any, decisions: Any, seen: list[bool] = seen) -> Terms:
            seen.append(decisions.old_log_probs is not None)
            return GRPOObjective()(evaluation, decisions)

        GRPOTrainer(GRPOConfig(group_size=4), SequencePolicy(), LIKES_LONG, objective=objective).step([1])
        assert seen == [expected]


# Estimators that know more.


class Estimates:
    """An estimator that tells what a critic should have expected, and reports."""

    def __init__(self, returns: Any = lambda rewards: rewards, metrics: Any = None) -> None:
        self.returns, self.metrics = returns, metrics or {}

    def __call__(self, experience: Experience) -> Tensor:
        raise AssertionError

    def estimate(self, experience: Experience) -> AdvantageEstimate:
        rewards = experience.decision_rewards
        returns = self.returns
        return AdvantageEstimate(rewards, returns(rewards) if callable(returns) else returns, self.metrics)


def test_an_estimator_that_tells_returns() -> None:
    """It is asked by ``estimate``; the critic is trained on its returns, and what it reports is told."""
    assert isinstance(Estimates(), EstimatesReturns)
    assert isinstance(MonteCarlo(), EstimatesReturns)
    assert not isinstance(GroupRelative(), EstimatesReturns)
    policy = WalkerPolicy(spread=0.0)
    config = PPOConfig(num_epochs_per_update=1, batch_size=None)
    estimator = Estimates(lambda rewards: torch.full_like(rewards, 3.0), {"estimator/constant": 3.0})
    metrics = PPOTrainer(config, policy, StepRewards(), advantage_estimator=estimator).step([0])
    assert metrics["estimator/constant"] == 3
    assert metrics["value_loss"] == pytest.approx(9.0)
    assert (policy.values[:4] > 0).any()
    assert (policy.values >= 0).all()


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (Estimates(None), TypeError, "trains a critic, but .* does not tell it what to expect: give it"),
        (Estimates(lambda rewards: rewards[:-1]), ValueError, "advantage_estimator's returns returned shape"),
        (Estimates(lambda rewards: rewards * torch.nan), ValueError, "advantage_estimator's returns returned nan"),
        (Estimates(metrics={"reward": 1.0}), ValueError, "Estimates.estimate returned names that are taken, reward"),
        (Estimates(metrics={"own": 1}), TypeError, "Estimates.estimate returned .*, expected a mapping from names"),
    ],
)
def test_wrong_estimates(estimator: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PPOTrainer(PPOConfig(), WalkerPolicy(), StepRewards(), advantage_estimator=estimator).step([0])


def test_an_estimate_of_another_kind() -> None:
    estimator = Estimates()
    estimator.estimate = lambda experience: experience.rewards  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(TypeError, match=r"estimate returned a Tensor, expected a grpo.AdvantageEstimate\(advantages"):
        PPOTrainer(PPOConfig(), WalkerPolicy(), StepRewards(), advantage_estimator=estimator).step([0])


# Parts that adapt.


class Follows:
    """Notes what it is told of each step."""

    def __init__(self, part: Any) -> None:
        self.part = part
        self.told: list[tuple[Experience, Mapping[str, float]]] = []

    def __call__(self, *arguments: Any) -> Any:
        return self.part(*arguments)

    def adapt(self, experience: Experience, metrics: Mapping[str, float]) -> None:
        self.told.append((experience, metrics))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: Any) -> None: ...


def test_parts_that_adapt_are_told_of_every_step_that_ends_once() -> None:
    estimator, objective, surrogate = Follows(GroupRelative()), Follows(GRPOObjective()), Follows(ClippedSurrogate())
    assert isinstance(estimator, Adapts)
    rewards = FunctionRewards(lambda state, action: torch.nan if state == 2 else float(len(action)))
    config = GRPOConfig(group_size=2, num_epochs_per_update=2, non_finite="skip")
    trainer: Any = GRPOTrainer(config, SequencePolicy(), rewards, advantage_estimator=estimator, objective=objective)
    metrics = trainer.step([1])
    trainer.step([2])  # left out as a whole: there is nothing to tell of
    for part in (estimator, objective):
        [(experience, told)] = part.told
        assert experience.states == [1, 1]
        assert told == metrics
        assert told["num_updates"] == 2
    inner = GRPOObjective(surrogate=surrogate)
    outer = KLPenalizedRewards(estimator)
    reference = SequencePolicy()
    GRPOTrainer(config, SequencePolicy(), rewards, reference, advantage_estimator=outer, objective=inner).step([1])
    assert (len(estimator.told), len(surrogate.told)) == (2, 1)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (GRPOObjective(), False),
        (GRPOObjective(surrogate=KLPenaltySurrogate(coefficient=1.0)), False),
        (GRPOObjective(surrogate=Follows(ClippedSurrogate())), True),
        (KLPenalizedRewards(GroupRelative()), False),
        (KLPenalizedRewards(Follows(GroupRelative())), True),
    ],
)
def test_parts_made_of_others_adapt_where_one_of_them_does(part: Any, expected: bool) -> None:
    assert adapts(part) is expected


# Policies that encode groups.


class GroupedSequences(SequencePolicy):
    """Is given S states and the groups of their samples."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[list[int], list[int]]] = []

    def encode_groups(self, states: Any, actions: Any, groups: Segments) -> Any:
        self.calls.append((list(states), groups.lengths.tolist()))
        assert len(states) == len(groups)
        assert groups.total == len(actions)
        return SequencePolicy.encode_actions(self, [states[index] for index in groups.ids.tolist()], actions)

    def encode_actions(self, states: Any, actions: Any) -> Any:
        raise AssertionError


class EveryThirdMissing(Quiet):
    """Scores no sample of state 2, and of the others all but every third."""

    def compute_rewards(self, states: Any, actions: Any) -> PartialRewards:
        values = torch.tensor([float(len(action)) for action in actions], dtype=torch.float64)
        scored = (torch.arange(len(actions)) % 3 > 0) & torch.tensor([state != 2 for state in states])
        return PartialRewards(values, scored)


class PerToken(Quiet):
    def compute_rewards(self, states: Any, actions: Any) -> Tensor:
        return torch.tensor([float(token == 1) for action in actions for token in action], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rewards", "settings"),
    [
        (LIKES_LONG, {}),
        (LIKES_LONG, {"batch_size": 3, "num_epochs_per_update": 2}),
        (EveryThirdMissing(), {}),
        (LIKES_FOUR, {"dynamic_sampling": DynamicSampling(max_rounds=2)}),
        (EveryThirdMissing(), {"dynamic_sampling": DynamicSampling(max_rounds=2)}),
        (PerToken(), {}),
        (PerToken(), {"dynamic_sampling": DynamicSampling(max_rounds=2)}),
    ],
    ids=["plain", "minibatches", "partial", "again", "partial, again", "per token", "per token, again"],
)
def test_groups_encoded_once_give_the_same_step(rewards: Any, settings: dict[str, Any]) -> None:
    def step(policy: Any) -> tuple[dict[str, float], Tensor]:
        torch.manual_seed(3)
        reference = copy.deepcopy(policy)
        with torch.no_grad():
            reference.transitions *= 0.5
        trainer: Any = GRPOTrainer(GRPOConfig(group_size=4, **settings), policy, rewards, reference)
        return trainer.step([1, 2, 3]), policy.transitions.detach()

    policy = GroupedSequences()
    assert isinstance(policy, EncodesGroups)
    grouped, expected = step(policy), step(SequencePolicy())
    assert grouped[0] == expected[0]
    assert torch.equal(grouped[1], expected[1])
    assert len(policy.calls) > 0
    if isinstance(rewards, EveryThirdMissing) and not settings:
        assert policy.calls == [([1, 3], [2, 3])]


def test_pairs_encoded_as_groups_of_two_give_the_same_step() -> None:
    pairs = [Preference(1, (1, 2, 0), (1, 0)), Preference(3, (2, 0), (3, 3, 3, 0)), Preference(2, (0,), (1, 0))]

    def step(policy: Any) -> tuple[dict[str, float], Tensor]:
        reference = copy.deepcopy(policy)
        with torch.no_grad():
            reference.transitions *= 0.5
        metrics = DPOTrainer(DPOConfig(batch_size=2, micro_batch_size=1), policy, reference).step(pairs)
        return metrics, policy.transitions.detach()

    policy = GroupedSequences()
    grouped, expected = step(policy), step(SequencePolicy())
    assert grouped[0] == expected[0]
    assert torch.equal(grouped[1], expected[1])
    assert policy.calls == [([1, 3, 2], [2, 2, 2])]
    assert with_reference_log_probs(pairs, GroupedSequences()) == with_reference_log_probs(pairs, SequencePolicy())


def test_a_policy_that_encodes_groups_must_be_sequential() -> None:
    class OnlyGroups(TablePolicy):
        def encode_groups(self, states: Any, actions: Any, groups: Segments) -> Any: ...

    class AndEvaluates(OnlyGroups):
        def evaluate_actions(self, batch: Any) -> Any: ...

    with pytest.raises(TypeError, match="has encode_groups, but lacks encode_actions, evaluate_actions: add them, as"):
        GRPOTrainer(GRPOConfig(), OnlyGroups(), LIKES_LONG)
    with pytest.raises(TypeError, match=r"has encode_groups, but lacks encode_actions: add it, as grpo.Sequential"):
        GRPOTrainer(GRPOConfig(), AndEvaluates(), LIKES_LONG)


def test_wrong_batches_of_groups_are_named() -> None:
    class Wrong(GroupedSequences):
        def encode_groups(self, states: Any, actions: Any, groups: Segments) -> Any:
            return super().encode_groups(states, actions, groups).select(torch.tensor([0]))

    with pytest.raises(ValueError, match=r"^policy.encode_groups returned 1 samples of .*, expected 4 samples"):
        GRPOTrainer(GRPOConfig(group_size=4), Wrong(), LIKES_LONG).step([1])
