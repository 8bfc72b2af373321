"""DPO's bad input: a clear error, and parameters, optimizer and random generators as they were before the step."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from broken import WRONG_LOG_PROBS, set_at
from models import Quiet, SequencePolicy, TablePolicy, WalkerPolicy
from torch import Tensor

from grpo import (
    DPOConfig,
    DPOObjective,
    DPOTrainer,
    GRPOConfig,
    HingePreferenceLoss,
    IdentityPreferenceLoss,
    NonFiniteError,
    PairLogProbs,
    Preference,
    ReferenceSync,
    RobustPreferenceLoss,
    SigmoidPreferenceLoss,
    Terms,
    UpdateConfig,
    with_reference_log_probs,
)

GOOD: list[Any] = [Preference(0, 1, 2), Preference(1, 0, 3), Preference(2, 3, 1)]


class BrokenPolicy(TablePolicy):
    """A policy that works until ``break_log_probs`` is set, then gives what that makes of the right answer."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)
        self.break_log_probs: Callable[[Tensor], Any] = lambda log_probs: log_probs
        self.evaluations_until_broken = 0

    def get_log_probabilities(self, states: Any, actions: Any) -> Any:
        torch.rand(1, generator=self.generator)
        torch.rand(1)
        random.random()
        np.random.rand()  # noqa: NPY002
        log_probs = super().get_log_probabilities(states, actions)
        self.evaluations_until_broken -= 1
        return log_probs if self.evaluations_until_broken >= 0 else self.break_log_probs(log_probs)


class Harness:
    """A trainer that has made two good steps, and everything that a failed one must leave alone."""

    def __init__(self, **settings: Any) -> None:
        torch.manual_seed(0)
        self.policy, self.reference = BrokenPolicy(), BrokenPolicy()
        reference = None if settings.get("reference_free") else self.reference
        self.trainer: DPOTrainer[Any, Any] = DPOTrainer(DPOConfig(**settings), self.policy, reference)
        for _ in range(2):
            self.trainer.step(GOOD)

    def state(self) -> list[Any]:
        assert self.trainer.optimizer is not None
        optimizer_state = copy.deepcopy(self.trainer.optimizer.state_dict())
        generators = [own.generator.get_state() for own in (self.policy, self.reference, self.trainer)]
        numpy_state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
        parameters = [self.policy.logits.detach().clone(), self.reference.logits.detach().clone()]
        return [parameters, optimizer_state, generators, torch.get_rng_state(), random.getstate(), numpy_state]

    def assert_fails(self, error: type[Exception], message: str, preferences: Any = GOOD) -> None:
        before, steps, gradient = self.state(), self.trainer.num_steps, self.policy.logits.grad
        with pytest.raises(error, match=message):
            self.trainer.step(preferences)
        torch.testing.assert_close(self.state(), before, rtol=0, atol=0)
        assert self.policy.logits.grad is None or self.policy.logits.grad is gradient
        assert self.trainer.num_steps == steps


@dataclass
class Move:
    to: Tensor


@pytest.mark.parametrize(
    ("preferences", "error", "message"),
    [
        ([], ValueError, "preferences is empty, expected at least one entry"),
        (None, TypeError, "preferences is a NoneType, expected a batch"),
        ("ab", TypeError, "preferences is a str, expected a batch"),
        ({"chosen": [1]}, TypeError, "preferences is a dict, expected a batch"),
        (GOOD[0], TypeError, "preferences is a Preference, expected a batch"),
        (iter(GOOD), TypeError, "preferences is a list_iterator, expected a batch"),
        ([GOOD[0], 3], TypeError, r"preference 1 is a int, expected a grpo.Preference\(state, chosen, rejected\)"),
        ([(0, 1, 2)], TypeError, "preference 0 is a tuple, expected a grpo.Preference"),
        (
            [{"prompt": 0, "chosen": 1}],
            TypeError,
            r"preference 0 is a row with the columns \['chosen', 'prompt'\] without rejected, expected a grpo.Prefer",
        ),
        ([{"prompt": 0}], TypeError, r"columns \['prompt'\] without chosen and rejected, expected"),
        ([{"chosen": 1, "rejected": 2}], TypeError, r"columns \['chosen', 'rejected'\], expected a grpo.Preference"),
        ([GOOD[0], Preference(0, None, 1)], TypeError, r"preference 1 has no chosen action \(None\), expected a grpo"),
        ([Preference(0, 1, None)], TypeError, "preference 0 has no rejected action"),
        ([Preference(0, "", "a")], ValueError, "preference 0 has an empty chosen action, '', expected at least one d"),
        ([GOOD[0], Preference(0, [1], [])], ValueError, r"preference 1 has an empty rejected action, \[\]"),
        ([Preference(0, torch.zeros(0), torch.ones(1))], ValueError, "empty chosen action, tensor"),
        ([Preference(0, np.zeros(0), np.ones(1))], ValueError, "empty chosen action, array"),
        ([GOOD[0], Preference(0, 2, 2)], ValueError, "preference 1 has the same action as chosen and as rejected, 2: "),
        ([Preference(0, torch.tensor([1, 2]), torch.tensor([1, 2]))], ValueError, "same action .* tensor"),
        ([Preference(0, np.array([1, 2]), np.array([1, 2]))], ValueError, "same action .* array"),
        ([Preference(0, np.array(2), np.array(2))], ValueError, "same action"),
        ([Preference(0, [1, [2]], [1, [2]])], ValueError, r"same action .* \[1, \[2\]\]"),
        ([Preference(0, [(0, 1, 1)], [(0, 1, 1)])], ValueError, "same action"),
        ([Preference(0, Move(torch.ones(2)), Move(torch.ones(2)))], ValueError, "same action .* Move"),
        ([Preference(0, {"to": torch.ones(2)}, {"to": torch.ones(2)})], ValueError, "same action"),
        ([Preference(0, "x" * 100, "x" * 100)], ValueError, r"'x{59}\.\.\.: nothing can be learnt"),
        ([Preference(0, 1, 2, (-1.0,))], ValueError, r"preference 0 has reference_log_probs \(-1.0,\), expected two"),  # type: ignore[arg-type]
        (
            [GOOD[0], Preference(0, 1, 2, (-1.0, float("nan")))],
            ValueError,
            r"preference 1 has .* \(-1.0, nan\), expect",
        ),
        ([Preference(0, 1, 2, (-1.0, None))], ValueError, "expected two finite numbers"),  # type: ignore[arg-type]
        ([Preference(0, 1, 2, "ab")], ValueError, "expected two finite numbers"),  # type: ignore[arg-type]
        ([Preference(0, 1, 2, -1.0)], ValueError, "expected two finite numbers"),  # type: ignore[arg-type]
    ],
)
def test_wrong_preferences(preferences: Any, error: type[Exception], message: str) -> None:
    harness = Harness()
    harness.assert_fails(error, message, preferences)
    for check in (harness.trainer.evaluate, lambda own: with_reference_log_probs(own, harness.reference)):
        with pytest.raises(error, match=message):
            check(preferences)


@pytest.mark.parametrize("preferences", [tuple(GOOD), GOOD[:1]])
def test_good_preferences(preferences: Any) -> None:
    assert Harness().trainer.step(preferences)["num_pairs"] == len(preferences)


@pytest.mark.parametrize("settings", [{}, {"batch_size": 1}, {"micro_batch_size": 1}, {"reference_free": True}])
@pytest.mark.parametrize(
    ("break_log_probs", "error", "message"),
    [
        *WRONG_LOG_PROBS,
        (set_at(0, float("nan")), NonFiniteError, r"nan for the chosen action of pair \d"),
        (set_at(1, float("-inf")), NonFiniteError, r"-inf for the rejected action of pair \d"),
    ],
)
def test_wrong_log_probs(
    break_log_probs: Callable[[Tensor], Any], error: type[Exception], message: str, settings: dict[str, Any]
) -> None:
    """At the first update, or in the middle of several, when parameters have moved already."""
    for good_evaluations in (0, 2) if "batch_size" in settings else (0,):
        harness = Harness(**settings)
        harness.policy.break_log_probs = break_log_probs
        harness.policy.evaluations_until_broken = good_evaluations
        harness.assert_fails(error, f"^policy.get_log_probabilities returned.*{message}")


def test_wrong_log_probs_of_the_reference_policy() -> None:
    harness = Harness()
    harness.reference.break_log_probs = set_at(5, float("nan"))
    message = "^reference_policy.get_log_probabilities returned log-probs with nan for the rejected action of pair 2"
    harness.assert_fails(NonFiniteError, message)
    with pytest.raises(NonFiniteError, match=message):
        with_reference_log_probs(GOOD, harness.reference)


def test_the_pair_is_named_under_shuffling_and_micro_batches() -> None:
    harness = Harness(batch_size=2, micro_batch_size=1)
    harness.policy.get_log_probabilities = lambda states, actions: torch.where(  # type: ignore[method-assign]
        (torch.tensor(states) == 2) & (torch.tensor(actions) == 1),
        torch.nan,
        TablePolicy.get_log_probabilities(harness.policy, states, actions),
    )
    harness.assert_fails(NonFiniteError, "nan for the rejected action of pair 2")


def test_the_decision_is_named_where_actions_have_several() -> None:
    class Broken(SequencePolicy):
        def evaluate_actions(self, batch: Any) -> Any:
            evaluation = super().evaluate_actions(batch)
            return replace(evaluation, log_probs=set_at(4, float("nan"))(evaluation.log_probs))

    trainer: DPOTrainer[Any, Any] = DPOTrainer(DPOConfig(reference_free=True), Broken())
    with pytest.raises(NonFiniteError, match=r"nan for the rejected action of pair 0 \(its decision 2\)"):
        trainer.step([Preference(1, (2, 0), (1, 2, 3, 0))])


def test_a_gradient_that_is_not_finite_names_the_action_and_the_parameter() -> None:
    class Root(TablePolicy):
        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            log_probs = super().get_log_probabilities(states, actions)
            return (
                log_probs + (0 * self.logits[0, 0]).sqrt() if (2, 1) in zip(states, actions, strict=True) else log_probs
            )

    policy = Root()
    trainer: DPOTrainer[Any, Any] = DPOTrainer(DPOConfig(), policy, TablePolicy())
    before = policy.logits.detach().clone()
    message = "gradient of logits is not finite: .* for the rejected action of pair 2"
    with pytest.raises(NonFiniteError, match=message):
        trainer.step(GOOD)
    assert torch.equal(policy.logits, before)
    assert policy.logits.grad is None


def test_values_that_are_not_finite_are_skipped_and_counted_on_request() -> None:
    harness = Harness(non_finite="skip", batch_size=1)
    before = harness.policy.logits.detach().clone()
    harness.reference.break_log_probs = set_at(0, float("nan"))
    assert harness.trainer.step(GOOD) == {"num_updates": 0.0, "skipped_updates": 1.0}
    assert torch.equal(harness.policy.logits, before)
    assert harness.trainer.num_steps == 3
    harness.reference.break_log_probs = lambda log_probs: log_probs
    harness.policy.break_log_probs = set_at(0, float("nan"))
    harness.policy.evaluations_until_broken = 2
    metrics = harness.trainer.step(GOOD)
    assert (metrics["num_updates"], metrics["skipped_updates"]) == (2, 1)
    assert harness.policy.logits.isfinite().all()
    assert not torch.equal(harness.policy.logits, before)
    metrics = harness.trainer.step(GOOD)  # every update of it
    assert (metrics["num_updates"], metrics["skipped_updates"]) == (0, 3)
    assert "loss" not in metrics
    with pytest.raises(ValueError, match="expected two finite numbers"):
        harness.trainer.step([Preference(0, 1, 2, (float("nan"), -1.0))])


@pytest.mark.parametrize("undo", [True, False])
def test_without_copies_the_updates_before_the_one_that_failed_stay_made(undo: bool) -> None:
    harness = Harness(batch_size=1, undo_failed_updates=undo)
    harness.policy.break_log_probs = set_at(0, float("nan"))
    harness.policy.evaluations_until_broken = 1
    if undo:
        harness.assert_fails(NonFiniteError, "nan for the chosen action")
        return
    before = harness.policy.logits.detach().clone()
    with pytest.raises(NonFiniteError, match="nan for the chosen action"):
        harness.trainer.step(GOOD)
    assert not torch.equal(harness.policy.logits, before)
    assert harness.policy.logits.grad is None


def test_an_interrupted_step_is_put_back() -> None:
    def interrupt(log_probs: Tensor) -> Tensor:
        raise KeyboardInterrupt

    harness = Harness(batch_size=1)
    harness.policy.break_log_probs = interrupt
    harness.policy.evaluations_until_broken = 2
    before = harness.state()
    with pytest.raises(KeyboardInterrupt):
        harness.trainer.step(GOOD)
    torch.testing.assert_close(harness.state(), before, rtol=0, atol=0)


def build(config: Any = None, policy: Any = None, reference: Any = None, **arguments: Any) -> DPOTrainer[Any, Any]:
    policy = policy or TablePolicy()
    return DPOTrainer(DPOConfig() if config is None else config, policy, reference, **arguments)


@pytest.mark.parametrize(
    "bad",
    [
        {"beta": 0},
        {"beta": -0.1},
        {"beta": float("nan")},
        {"beta": float("inf")},
        {"label_smoothing": -0.1},
        {"label_smoothing": 0.51},
        {"label_smoothing": float("nan")},
        {"sft_coefficient": -1},
        {"group_size": 4},
        {"batch_size": 0},
        {"micro_batch_size": 0},
        {"num_epochs_per_update": 0},
        {"learning_rate": -1},
        {"non_finite": "ignore"},
        {"reference_free": "perhaps"},
        {"reference_sync": ReferenceSync(), "reference_free": True},
    ],
)
def test_config_keys_that_are_unknown_or_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        DPOConfig(**bad)


def test_configs_are_frozen_and_survive_a_round_trip() -> None:
    config = DPOConfig(beta=0.3, label_smoothing=0.5, reference_sync=ReferenceSync(every=2))
    with pytest.raises(ValueError, match="frozen"):
        config.beta = 0.5  # type: ignore[misc]
    assert DPOConfig(**config.model_dump()) == config
    assert DPOConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"config": GRPOConfig()}, TypeError, "expected a grpo.DPOConfig"),
        ({"config": UpdateConfig()}, TypeError, "expected a grpo.DPOConfig"),
        ({"config": {"beta": 0.1}}, TypeError, r"config is \{'beta': 0.1\}, expected a grpo.DPOConfig"),
        ({"config": DPOConfig}, TypeError, "expected a grpo.DPOConfig"),
        (
            {"config": DPOConfig(reference_free=True), "reference": TablePolicy()},
            ValueError,
            "reference_free=True makes no use of the reference_policy that is given",
        ),
        (
            {"config": DPOConfig(reference_sync=ReferenceSync())},
            ValueError,
            "needs a reference policy, but there is non",
        ),
        ({"objective": 3}, TypeError, "objective is 3, expected an instance or a function"),
        ({"objective": DPOObjective}, TypeError, "objective is <class .* expected an instance or a function"),
        (
            {"objective": SigmoidPreferenceLoss()},
            TypeError,
            r"pass objective=DPOObjective\(loss=SigmoidPreferenceLoss\(",
        ),
        ({"objective": HingePreferenceLoss()}, TypeError, "objective is a loss: pass objective=DPOObjective"),
        ({"objective": IdentityPreferenceLoss()}, TypeError, "objective is a loss: pass objective=DPOObjective"),
        ({"objective": RobustPreferenceLoss(label_noise=0.1)}, TypeError, "objective is a loss: pass"),
        (
            {"objective": DPOObjective(), "config": DPOConfig(beta=0.1, sft_coefficient=1)},
            ValueError,
            "config sets beta, sft_coefficient, which the objective passed beside it replaces",
        ),
        (
            {"objective": DPOObjective(), "config": DPOConfig(label_smoothing=0.1)},
            ValueError,
            "config sets label_smoothing, which the objective",
        ),
        ({"policy": TablePolicy}, TypeError, "policy is the class TablePolicy, expected an instance"),
        ({"policy": Quiet()}, TypeError, "policy Quiet is not a PolicyModel: it lacks generate_actions, get_log_prob"),
        ({"reference": Quiet()}, TypeError, "reference_policy Quiet is not a PolicyModel: it lacks generate_actions"),
        ({"optimizer": torch.optim.SGD}, TypeError, "expected an instance of a torch.optim.Optimizer"),
        (
            {"optimizer": torch.optim.SGD([torch.zeros(1, requires_grad=True)])},
            ValueError,
            "holds none of the policy's 1 trainable parameters",
        ),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(**arguments)


def test_settings_of_the_update_go_with_an_objective() -> None:
    config = DPOConfig(learning_rate=0.1, batch_size=2, reference_free=True)
    assert build(config, objective=DPOObjective()).step(GOOD)["num_updates"] == 2


def test_an_objective_may_have_a_beta_of_its_own() -> None:
    class Mine:
        beta = 2.0

        def __call__(self, pairs: PairLogProbs) -> Terms:
            return Terms((-self.beta * pairs.margin).exp(), {})

    assert build(reference=TablePolicy(), objective=Mine()).step(GOOD)["loss"] == pytest.approx(1)


def test_a_reference_policy_must_not_share_trainable_parameters() -> None:
    policy = TablePolicy()
    for reference in (policy, copy.copy(policy)):
        with pytest.raises(
            ValueError, match=r"reference_policy shares trainable parameters with the policy \(logits\)"
        ):
            build(policy=policy, reference=reference)


@pytest.mark.parametrize("known", [[], [0], [1, 2]])
def test_there_must_be_something_to_compare_with(known: list[int]) -> None:
    preferences = [
        replace(own, reference_log_probs=(-1.0, -2.0)) if index in known else own for index, own in enumerate(GOOD)
    ]
    first = min({0, 1, 2} - set(known))
    policy = TablePolicy()
    before = policy.logits.detach().clone()
    for method in ("step", "evaluate"):
        with pytest.raises(
            ValueError, match=f"preference {first} has no reference_log_probs and there is no reference"
        ):
            getattr(build(policy=policy), method)(preferences)
    assert torch.equal(policy.logits, before)


def test_known_reference_log_probs_do_not_go_with_a_reference_that_moves() -> None:
    harness = Harness(reference_sync=ReferenceSync(every=1))
    known = with_reference_log_probs(GOOD, TablePolicy())
    harness.assert_fails(
        ValueError, "come with reference_log_probs, which stay as they are while reference_sync", known
    )
    harness.trainer.step([*known[:2], GOOD[2]])  # the reference policy is asked for all of them


class _WholeSequences(Quiet):
    """Sequences as single decisions."""

    def __init__(self) -> None:
        policy = SequencePolicy()
        self.generate_actions = policy.generate_actions
        self.get_log_probabilities = policy.get_log_probabilities
        self.get_parameters = policy.get_parameters


def test_a_reference_policy_must_see_the_same_decisions() -> None:
    trainer = build(policy=SequencePolicy(), reference=_WholeSequences())
    for method in (trainer.step, trainer.evaluate):
        with pytest.raises(ValueError, match=r"reference_policy sees .* both must encode actions in the same way"):
            method([Preference(1, (2, 0), (1, 2, 0))])


@pytest.mark.parametrize(
    ("break_terms", "error", "message"),
    [
        (lambda terms: terms.loss, TypeError, r"objective returned a Tensor, expected grpo.Terms\(loss, metrics\)"),
        (lambda terms: Terms(terms.loss.mean(), {}), ValueError, r"a loss of shape \[\], expected \[3\], one a pair"),
        (lambda terms: Terms(terms.loss[:2], {}), ValueError, r"a loss of shape \[2\], expected \[3\], one a pair"),
        (lambda terms: Terms(terms.loss.unsqueeze(1), {}), ValueError, "one a pair: squeeze the last dimension"),
        (
            lambda terms: Terms(set_at(1, float("nan"))(terms.loss), {}),
            NonFiniteError,
            "a loss with nan for pair 1, ex",
        ),
        (
            lambda terms: Terms(set_at(2, float("inf"))(terms.loss), {}),
            NonFiniteError,
            "a loss with inf for pair 2, ex",
        ),
        (lambda terms: Terms(terms.loss.detach(), {}), ValueError, "objective returned a loss without gradient"),
        (lambda terms: Terms(terms.loss.detach().long(), {}), TypeError, "dtype torch.int64"),
        (lambda terms: Terms(terms.loss, {"mine": terms.loss.mean()}), ValueError, "'mine', .* one entry a pair"),
        (lambda terms: Terms(terms.loss, dict[str, Any](mine=0.5)), ValueError, "returned float as metric 'mine'"),
        (lambda terms: Terms(terms.loss, {"loss": terms.loss}), ValueError, "a name of the trainer's own"),
    ],
)
def test_wrong_terms(break_terms: Callable[[Terms], Any], error: type[Exception], message: str) -> None:
    harness = Harness()
    objective = harness.trainer.objective
    harness.trainer.objective = lambda pairs: break_terms(objective(pairs))
    harness.assert_fails(error, message)


def test_the_pair_of_a_wrong_loss_is_named_under_shuffling_and_micro_batches() -> None:
    harness = Harness(batch_size=2, micro_batch_size=1)
    objective, bad = harness.trainer.objective, TablePolicy.get_log_probabilities(harness.reference, [1], [0])
    harness.trainer.objective = lambda pairs: Terms(
        objective(pairs).loss.masked_fill(pairs.reference_chosen == bad, torch.nan), {}
    )
    harness.assert_fails(NonFiniteError, "a loss with nan for pair 1")


def test_a_policy_without_trainable_parameters_only_reports() -> None:
    class Fixed(TablePolicy):
        def __init__(self) -> None:
            super().__init__()
            self.logits = self.logits.detach()

    for given in (DPOConfig(), DPOConfig(batch_size=1, num_epochs_per_update=2)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer: DPOTrainer[Any, Any] = DPOTrainer(given, Fixed(), SequentialReference())
        [warning] = caught
        assert "the policy has no trainable parameters" in str(warning.message)
        assert warning.filename == __file__
        metrics = trainer.step(GOOD)
        assert trainer.optimizer is None
        assert "grad_norm" not in metrics
        assert metrics["learning_rate"] == 0
        assert metrics["rewards/margins"] != 0
        evaluated = trainer.evaluate(GOOD)
        assert evaluated["rewards/margins"] == pytest.approx(metrics["rewards/margins"], rel=1e-6)


class SequentialReference(TablePolicy):
    """A table policy elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.logits.mul_(0.5)


def test_a_gradient_that_reaches_no_parameter_held() -> None:
    class Elsewhere(TablePolicy):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.zeros(2, requires_grad=True)

        def get_parameters(self) -> dict[str, Tensor]:
            return {"unused": self.unused}

    with pytest.raises(ValueError, match="no gradient reached a parameter that the optimizer holds"):
        build(policy=Elsewhere(), reference=TablePolicy()).step(GOOD)


def test_the_same_walk_twice_is_refused_and_another_is_not() -> None:
    walk = [[(0, 1, 1), (1, 1, 2)]]
    trainer = build(policy=WalkerPolicy(), reference=WalkerPolicy())
    with pytest.raises(ValueError, match="preference 0 has the same action"):
        trainer.step([Preference(0, walk, copy.deepcopy(walk))])
    metrics = trainer.step([Preference(0, walk, [[(0, 0, 0)]])])
    assert metrics["num_decisions"] == 3


@pytest.mark.parametrize("micro_batch_size", [0, -1, 2.5, "a"])
def test_reference_log_probs_are_computed_for_a_number_of_pairs(micro_batch_size: Any) -> None:
    with pytest.raises(ValueError, match=r"micro_batch_size is .*, expected a number of pairs above 0"):
        with_reference_log_probs(GOOD, BrokenPolicy(), micro_batch_size=micro_batch_size)
