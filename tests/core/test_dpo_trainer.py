"""The DPO trainer: metrics, updates, the reference policy, evaluation."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from models import EpisodePolicy, SequencePolicy, TablePolicy
from torch import Tensor

import grpo
from grpo import (
    DPOConfig,
    DPOObjective,
    DPOTrainer,
    HingePreferenceLoss,
    LinearSchedule,
    PairLogProbs,
    Preference,
    ReferenceSync,
    SigmoidPreferenceLoss,
    Terms,
    with_reference_log_probs,
)
from grpo.models._evaluator import Evaluator
from grpo.training._preference_batch import PreferenceBatch

PAIRS: list[Any] = [
    Preference(0, 1, 2),
    Preference(1, 0, 3),
    Preference(2, 3, 1),
    Preference(0, 3, 0),
    Preference(1, 1, 2),
]


class Watched(TablePolicy):
    """A table policy that notes its mode at each evaluation, and how many actions there were."""

    def __init__(self, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(dtype=dtype)
        with torch.no_grad():
            self.logits.mul_(scale)
        self.mode = ""
        self.calls: list[tuple[str, bool, int]] = []

    def train(self) -> None:
        self.mode = "train"

    def eval(self) -> None:
        self.mode = "eval"

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        self.calls.append((self.mode, torch.is_grad_enabled(), len(actions)))
        return super().get_log_probabilities(states, actions)


def build(policy: Any = None, reference: Any = None, **settings: Any) -> DPOTrainer[Any, Any]:
    return DPOTrainer(
        DPOConfig(max_grad_norm=None, **settings), policy or Watched(), Watched(0.5) if reference is None else reference
    )


def test_metrics_by_hand() -> None:
    """π is (0.8, 0.2) and π_ref uniform: margins of log 4 and -log 4."""
    policy, reference = TablePolicy(num_states=1, num_actions=2), TablePolicy(num_states=1, num_actions=2)
    with torch.no_grad():
        policy.logits.copy_(torch.tensor([[math.log(4), 0.0]], dtype=torch.float64))
        reference.logits.zero_()
    trainer = DPOTrainer(
        DPOConfig(beta=0.5, label_smoothing=0.25, sft_coefficient=0.1, learning_rate=0.01), policy, reference
    )
    metrics = trainer.step([Preference(0, 0, 1), Preference(0, 0, 1), Preference(0, 1, 0)])
    # σ(β log 4) = 2/3
    right, wrong = math.log(3 / 2), math.log(3)
    losses = [0.75 * right + 0.25 * wrong] * 2 + [0.75 * wrong + 0.25 * right]
    supervised = -(2 * math.log(0.8) + math.log(0.2)) / 3
    expected = {
        "loss": sum(losses) / 3 + 0.1 * supervised,
        "sft_loss": supervised,
        "rewards/chosen": 0.5 * (2 * math.log(1.6) + math.log(0.4)) / 3,
        "rewards/rejected": 0.5 * (2 * math.log(0.4) + math.log(1.6)) / 3,
        "rewards/margins": 0.5 * math.log(4) / 3,
        "rewards/accuracies": 2 / 3,
        "logps/chosen": -supervised,
        "logps/rejected": (2 * math.log(0.2) + math.log(0.8)) / 3,
        "learning_rate": 0.01,
        "num_updates": 1.0,
        "skipped_updates": 0.0,
        "num_pairs": 3.0,
        "num_decisions": 6.0,
    }
    # dL/dm is β (σ(βm) - 0.75) a pair and dm/dlogits (1, -1) or (-1, 1); of the likelihood 0.1 (π - share of each arm)
    slope = 0.5 * (2 * (2 / 3 - 0.75) - (1 / 3 - 0.75)) / 3 + 0.1 * (0.8 - 2 / 3)
    expected["grad_norm"] = math.sqrt(2) * abs(slope)
    assert metrics == pytest.approx(expected, rel=1e-12)
    assert all(isinstance(value, float) for value in metrics.values())


def test_the_config_describes_the_objective() -> None:
    trainer = build(beta=0.3, label_smoothing=0.2, sft_coefficient=0.7)
    assert trainer.objective == DPOObjective(
        loss=SigmoidPreferenceLoss(beta=0.3, label_smoothing=0.2), sft_coefficient=0.7
    )
    assert (DPOConfig().beta, DPOConfig().num_epochs_per_update, DPOConfig().reference_free) == (0.1, 1, False)
    given = DPOObjective(loss=HingePreferenceLoss())
    assert DPOTrainer(DPOConfig(), TablePolicy(), TablePolicy(), objective=given).objective is given


@pytest.mark.parametrize(
    ("settings", "num_updates", "sizes"),
    [
        ({}, 1, [10]),
        ({"micro_batch_size": 2}, 1, [4, 4, 2]),
        ({"batch_size": 2}, 3, [4, 4, 2]),
        ({"batch_size": 2, "micro_batch_size": 1}, 3, [2] * 5),
        ({"batch_size": 3, "num_epochs_per_update": 2}, 4, [6, 4, 6, 4]),
        ({"batch_size": 100, "num_epochs_per_update": 3}, 3, [10] * 3),
    ],
)
def test_updates_and_their_sizes_count_pairs(settings: dict[str, Any], num_updates: int, sizes: list[int]) -> None:
    policy = Watched()
    metrics = build(policy, **settings).step(PAIRS)
    assert metrics["num_updates"] == num_updates
    assert metrics["num_pairs"] == 5
    assert policy.calls == [("train", True, size) for size in sizes]


def test_preferences_that_are_made_when_they_are_read_are_read_once() -> None:
    class Lazy:
        reads = 0

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            if index >= 3:
                raise IndexError
            self.reads += 1
            return PAIRS[index] if self.reads <= 3 else None

    preferences: Any = Lazy()
    assert build().step(preferences)["num_pairs"] == 3
    assert preferences.reads == 3


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1], [2, 1], [1, 2]])
def test_pairs_of_a_batch_in_any_order(order: list[int]) -> None:
    policy = EpisodePolicy()
    pairs: list[Any] = [Preference(1, (2, 0), (1, 2, 3, 0)), Preference(2, (3, 3, 0), (0,)), Preference(3, (1,), (0,))]
    evaluator = Evaluator(policy)
    batch = PreferenceBatch.of(pairs, evaluator)
    part = batch.micro_batch(torch.tensor(order), torch.ones(len(order)))
    expected = [
        policy.get_log_probabilities([pairs[index].state] * 2, [pairs[index].chosen, pairs[index].rejected])
        for index in order
    ]
    torch.testing.assert_close(batch.log_probs(evaluator, part), torch.stack(expected))
    assert (part.rows is None) == (order == [0, 1, 2])
    assert [own.pairs.tolist() for own in batch.all(2)] == [[0, 1], [2]]


@pytest.mark.parametrize(("micro_batch_size", "sizes"), [(None, [4, 4, 2]), (1, [2, 2, 2, 2, 2])])
def test_the_reference_policy_is_asked_once_a_step(micro_batch_size: int | None, sizes: list[int]) -> None:
    reference = Watched(0.5)
    trainer = build(reference=reference, batch_size=2, num_epochs_per_update=3, micro_batch_size=micro_batch_size)
    with torch.enable_grad():
        trainer.step(PAIRS)
    assert reference.calls == [("eval", False, size) for size in sizes]
    trainer.step(PAIRS)
    assert len(reference.calls) == 2 * len(sizes)


def test_without_a_reference_known_log_probs_are_refused() -> None:
    trainer = DPOTrainer(DPOConfig(reference_free=True), TablePolicy())
    with pytest.raises(ValueError, match="reference_free=True makes no use of the reference_log_probs"):
        trainer.step(with_reference_log_probs(PAIRS, TablePolicy()))


def test_the_reference_policy_is_not_asked_where_all_is_known() -> None:
    reference = Watched(0.5)
    trainer = build(reference=reference)
    known = with_reference_log_probs(PAIRS, Watched(0.25))
    by_known, by_reference = (build(reference=Watched(scale)).evaluate(PAIRS)["loss"] for scale in (0.25, 0.5))
    assert trainer.evaluate(known)["loss"] == by_known
    assert reference.calls == []
    assert trainer.evaluate([*known[:4], PAIRS[4]])["loss"] == by_reference
    assert len(reference.calls) == 1


def test_without_a_reference_its_log_probs_are_zero() -> None:
    seen: list[PairLogProbs] = []

    def objective(pairs: PairLogProbs) -> Terms:
        seen.append(pairs)
        return Terms(-pairs.margin, {})

    trainer = DPOTrainer(DPOConfig(reference_free=True), TablePolicy(), objective=objective)
    trainer.step(PAIRS)
    [pairs] = seen
    assert not pairs.reference_chosen.any()
    assert not pairs.reference_rejected.any()
    assert pairs.reference_chosen.dtype == pairs.chosen.dtype == torch.float64


@pytest.mark.parametrize("policy_class", [SequencePolicy, EpisodePolicy])
@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_what_an_objective_is_told(policy_class: type[SequencePolicy], micro_batch_size: int | None) -> None:
    pairs: list[Any] = [Preference(1, (2, 0), (1, 2, 3, 0)), Preference(2, (3, 3, 0), (0,)), Preference(3, (1,), (0,))]
    policy, reference = policy_class(), policy_class()
    with torch.no_grad():
        reference.transitions.mul_(0.5)
    seen: list[PairLogProbs] = []

    def objective(own: PairLogProbs) -> Terms:
        seen.append(own)
        return Terms(-own.margin, {})

    config = DPOConfig(micro_batch_size=micro_batch_size, learning_rate=0)
    metrics = DPOTrainer(config, policy, reference, objective=objective).step(pairs)
    told = PairLogProbs(*(torch.cat([getattr(own, name) for own in seen]) for name in PairLogProbs.__slots__))
    assert told.chosen_lengths.tolist() == [2, 3, 1]
    assert told.rejected_lengths.tolist() == [4, 1, 1]
    assert metrics["num_decisions"] == 12
    states = [pair.state for pair in pairs]
    for model, chosen, rejected in (
        (policy, told.chosen, told.rejected),
        (reference, told.reference_chosen, told.reference_rejected),
    ):
        torch.testing.assert_close(chosen, model.get_log_probabilities(states, [pair.chosen for pair in pairs]))
        torch.testing.assert_close(rejected, model.get_log_probabilities(states, [pair.rejected for pair in pairs]))
    assert not told.reference_chosen.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_lost_of_double_precision(dtype: torch.dtype) -> None:
    """The loss and the gradient by a loop in double precision, with three pairs, since 1/3 is rounded."""
    policy, reference = Watched(dtype=dtype), Watched(0.5, dtype=dtype)
    known = with_reference_log_probs(PAIRS[:3], reference)
    for pairs in (PAIRS[:3], known):
        trainer = build(copy.deepcopy(policy), reference)
        evaluated = trainer.evaluate(pairs)
        stepped = trainer.step(pairs)
        own, theirs = (model.logits.detach().double().log_softmax(-1) for model in (policy, reference))
        margins = [
            own[p.state, p.chosen] - theirs[p.state, p.chosen] - own[p.state, p.rejected] + theirs[p.state, p.rejected]
            for p in PAIRS[:3]
        ]
        expected = sum(math.log1p(math.exp(-0.1 * margin)) for margin in margins) / 3
        tolerance = 1e-14 if dtype == torch.float64 else 1e-6
        assert evaluated["loss"] == pytest.approx(expected, rel=tolerance)
        assert stepped["loss"] == pytest.approx(expected, rel=tolerance)
        assert evaluated["rewards/margins"] == pytest.approx(0.1 * sum(map(float, margins)) / 3, rel=10 * tolerance)


def test_evaluation_says_what_a_step_says_and_changes_nothing() -> None:
    policy, reference = Watched(), Watched(0.5)
    trainer = build(policy, reference, micro_batch_size=2, sft_coefficient=0.5)
    before = policy.logits.detach().clone()
    random_state, order = torch.get_rng_state(), trainer.generator.get_state()
    evaluated = trainer.evaluate(PAIRS)
    assert torch.equal(policy.logits, before)
    assert policy.logits.grad is None
    assert trainer.num_steps == 0
    assert trainer.optimizer is not None
    assert not trainer.optimizer.state
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(trainer.generator.get_state(), order)
    assert policy.calls == reference.calls == [("eval", False, 4), ("eval", False, 4), ("eval", False, 2)]
    stepped = trainer.step(PAIRS)
    assert evaluated.keys() == {
        "loss",
        "sft_loss",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
    }
    assert evaluated == pytest.approx({name: stepped[name] for name in evaluated}, rel=1e-12)
    assert trainer.evaluate(PAIRS)["loss"] < evaluated["loss"]


def test_metrics_are_averages_over_optimiser_steps() -> None:
    """Steps of two pairs, two and one count the same, as their gradients do."""
    policy = Watched()
    trainer = build(policy, batch_size=2, learning_rate=0)
    seen: list[float] = []
    objective = trainer.objective

    def spy(pairs: PairLogProbs) -> Terms:
        terms = objective(pairs)
        seen.append(terms.loss.mean().item())
        return terms

    trainer.objective = spy
    assert trainer.step(PAIRS)["loss"] == pytest.approx(sum(seen) / 3, rel=1e-12)
    assert len(set(seen)) == 3


def test_training_goes_on_under_no_grad() -> None:
    policy = Watched()
    before = policy.logits.detach().clone()
    with torch.no_grad():
        build(policy).step(PAIRS)
    assert not torch.equal(policy.logits, before)


def test_pairs_are_shuffled_where_there_are_several_updates_only() -> None:
    def order(**settings: Any) -> list[list[float]]:
        rows: list[list[float]] = []

        def objective(own: PairLogProbs) -> Terms:
            rows.append(own.chosen.tolist())
            return Terms(-own.margin, {})

        config = DPOConfig(reference_free=True, **settings)
        trainer: DPOTrainer[Any, Any] = DPOTrainer(config, TablePolicy(num_states=8), objective=objective)
        with torch.no_grad():
            trainer.policy.get_parameters()["logits"].copy_(torch.arange(32.0).view(8, 4).square())
        trainer.step([Preference(state, 0, 1) for state in range(8)])
        return rows

    assert order(learning_rate=0) == order(learning_rate=0, seed=1) == order(learning_rate=0, batch_size=8)
    [whole] = order(learning_rate=0)
    shuffled = order(learning_rate=0, batch_size=4, num_epochs_per_update=2)
    for epoch in (shuffled[0] + shuffled[1], shuffled[2] + shuffled[3]):
        assert sorted(epoch) == sorted(whole)
        assert epoch != whole
    assert shuffled[0] + shuffled[1] != shuffled[2] + shuffled[3]
    assert shuffled == order(learning_rate=0, batch_size=4, num_epochs_per_update=2)
    assert shuffled != order(learning_rate=0, batch_size=4, num_epochs_per_update=2, seed=1)
    parts = order(learning_rate=0, micro_batch_size=3)
    assert [len(part) for part in parts] == [3, 3, 2]
    assert [entry for part in parts for entry in part] == whole


def test_learning_rates_follow_their_schedule() -> None:
    trainer = build(learning_rate=LinearSchedule(start=0.4, end=0.0, num_steps=4))
    assert [trainer.step(PAIRS)["learning_rate"] for _ in range(5)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])


def test_the_gradient_is_scaled_down_to_its_bound() -> None:
    policy = TablePolicy()
    before = policy.logits.detach().clone()
    optimizer = torch.optim.SGD([policy.logits], lr=1.0)
    metrics = DPOTrainer(DPOConfig(max_grad_norm=1e-3), policy, TablePolicy(), optimizer).step(PAIRS)
    assert metrics["grad_norm"] > 1e-3
    assert torch.linalg.vector_norm(policy.logits.detach() - before).item() == pytest.approx(1e-3)


@pytest.mark.parametrize(("mixing", "every"), [(1.0, 1), (1.0, 2), (0.25, 1)])
def test_the_reference_policy_follows(mixing: float, every: int) -> None:
    policy, reference = Watched(), Watched(0.5)
    trainer = build(policy, reference, learning_rate=0.1, reference_sync=ReferenceSync(mixing=mixing, every=every))
    expected = reference.logits.detach().clone()
    for number in range(1, 5):
        trainer.step(PAIRS)
        if number % every == 0:
            expected = mixing * policy.logits.detach() + (1 - mixing) * expected
        torch.testing.assert_close(reference.logits.detach(), expected)
    assert (trainer.evaluate(PAIRS)["rewards/margins"] == 0) == (mixing == 1)


def test_without_sync_the_reference_policy_stays() -> None:
    reference = Watched(0.5)
    before = reference.logits.detach().clone()
    trainer = build(reference=reference, learning_rate=0.1)
    for _ in range(3):
        trainer.step(PAIRS)
    assert torch.equal(reference.logits, before)
    assert reference.logits.grad is None
    assert trainer.num_steps == 3


def test_a_policys_own_metrics_are_reported_once_and_must_not_clash() -> None:
    class Reporting(Watched):
        def get_metrics(self) -> dict[str, float]:
            return {self.name: 3.0}

        name = "temperature"

    policy = Reporting()
    assert build(policy).step(PAIRS)["temperature"] == 3
    policy.name = "rewards/margins"
    with pytest.raises(
        ValueError, match=r"metrics \['rewards/margins'\], which a model's get_metrics returned as well"
    ):
        build(policy).step(PAIRS)


@pytest.mark.parametrize("micro_batch_size", [None, 1, 2, 100])
def test_known_reference_log_probs(micro_batch_size: int | None) -> None:
    reference = Watched(0.5)
    reference.train()
    known = with_reference_log_probs(PAIRS, reference, micro_batch_size=micro_batch_size)
    size = 2 * (micro_batch_size or len(PAIRS))
    assert [call[2] for call in reference.calls] == [min(size, 10 - start) for start in range(0, 10, size)]
    assert all(call[:2] == ("eval", False) for call in reference.calls)
    table = reference.logits.detach().log_softmax(-1)
    for pair, own in zip(PAIRS, known, strict=True):
        assert pair.reference_log_probs is None
        assert replace(own, reference_log_probs=None) == pair
        expected = (table[pair.state, pair.chosen].item(), table[pair.state, pair.rejected].item())
        assert own.reference_log_probs == expected
        assert all(type(log_prob) is float for log_prob in own.reference_log_probs)


def test_known_reference_log_probs_are_computed_again() -> None:
    again = with_reference_log_probs(with_reference_log_probs(PAIRS, Watched(0.5)), Watched(0.25))
    assert again == with_reference_log_probs(PAIRS, Watched(0.25))


def test_numbers_of_other_kinds_do_for_known_reference_log_probs() -> None:
    numpy = pytest.importorskip("numpy")
    trainer: DPOTrainer[Any, Any] = DPOTrainer(DPOConfig(), TablePolicy())
    known: list[Any] = [(-1.0, -2.0), [-1, -2], (numpy.float32(-1), numpy.float64(-2))]
    losses = {trainer.evaluate([Preference(0, 1, 2, own)])["loss"] for own in known}
    assert len(losses) == 1


@pytest.mark.parametrize("stacked", [False, True])
def test_states_and_actions_reach_the_policy_stacked_where_they_are_alike(stacked: bool) -> None:
    """Tensors of one shape become one tensor, all else is a list; chosen and rejected in turn."""
    seen: list[tuple[Any, Any]] = []

    class Looking(TablePolicy):
        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            seen.append((states, actions))
            return super().get_log_probabilities([int(state[0]) for state in states], [int(own[0]) for own in actions])

    pairs: list[Any] = [
        Preference(torch.tensor([0, 5]), torch.tensor([1]), torch.tensor([2])),
        Preference(
            torch.tensor([1, 5]) if stacked else [1],
            torch.tensor([3]),
            torch.tensor([0]) if stacked else torch.tensor([0, 0]),
        ),
    ]
    policy = Looking()
    metrics = DPOTrainer(DPOConfig(reference_free=True), policy).step(pairs)
    [(states, actions)] = seen
    assert isinstance(states, Tensor) == isinstance(actions, Tensor) == stacked
    assert [int(state[0]) for state in states] == [0, 0, 1, 1]
    assert [int(action[0]) for action in actions] == [1, 2, 3, 0]
    table = TablePolicy().logits.detach().log_softmax(-1)
    assert metrics["logps/rejected"] == pytest.approx((table[0, 2] + table[1, 0]).item() / 2)


def test_models_are_moved_to_the_device_of_the_config() -> None:
    class Moving(TablePolicy):
        device = ""

        def to(self, device: Any) -> None:
            self.device = device

    policy, reference = Moving(), Moving()
    build(policy, reference, device="cpu")
    assert policy.device == reference.device == "cpu"
    alone = Moving()
    DPOTrainer(DPOConfig(device="cpu"), alone)
    assert alone.device == "cpu"


def test_learning_makes_the_chosen_actions_likelier_for_every_policy() -> None:
    cases: list[tuple[Any, list[Any]]] = [
        (TablePolicy, PAIRS[:3]),
        (SequencePolicy, [Preference(1, (2, 0), (1, 2, 3, 0))]),
        (EpisodePolicy, [Preference(1, (2, 0), (1, 2, 3, 0))]),
    ]
    for policy_class, pairs in cases:
        trainer: DPOTrainer[Any, Any] = DPOTrainer(DPOConfig(learning_rate=0.1), policy_class(), policy_class())
        for _ in range(30):
            trainer.step(pairs)
        metrics = trainer.evaluate(pairs)
        assert metrics["rewards/accuracies"] == 1
        assert metrics["loss"] < math.log(2)


def test_the_names_are_exported() -> None:
    names = {
        "DPOConfig",
        "DPOObjective",
        "DPOTrainer",
        "HingePreferenceLoss",
        "IdentityPreferenceLoss",
        "PairLogProbs",
        "Preference",
        "PreferenceCollector",
        "PreferenceLoss",
        "PreferenceObjective",
        "RobustPreferenceLoss",
        "SigmoidPreferenceLoss",
        "with_reference_log_probs",
    }
    assert names <= set(grpo.__all__)
