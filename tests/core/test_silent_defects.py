"""What would go wrong without a word: shared memory, detached parts, parts that are given and not used."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch
from models import FunctionRewards, Quiet, SequencePolicy, SequentialTablePolicy, StepRewards, TablePolicy, WalkerPolicy
from torch import Tensor, nn

from grpo import (
    DPOConfig,
    DPOObjective,
    DPOTrainer,
    DynamicSampling,
    Evaluation,
    Experience,
    ExperienceCollector,
    GeneralizedAdvantage,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    HorizonKLCoefficient,
    KLPenalizedRewards,
    LinearSchedule,
    MonteCarlo,
    NonFiniteError,
    PartialRewards,
    PPOConfig,
    PPOObjective,
    PPOTrainer,
    Preference,
    ReinforceConfig,
    ReinforceTrainer,
    Segments,
    TensorBatch,
    ValueEstimates,
    value_baseline,
    with_reference_log_probs,
)

GRADE = FunctionRewards(lambda state, action: float(action == state))
LIKES_HIGH = FunctionRewards(lambda state, action: float(action))


# Memory that a model goes on computing in.


class ReusesItsOutputs(WalkerPolicy):
    """Returns log-probs, entropies and values as views of buffers that its next answer overwrites."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: dict[str, Tensor] = {}

    def _in_buffer(self, name: str, values: Tensor) -> Tensor:
        if values.requires_grad and torch.is_grad_enabled():
            return values
        buffer = self.buffers.setdefault(name, torch.empty(1000, dtype=values.dtype))[: len(values)]
        return buffer.copy_(values)

    def evaluate_actions(self, batch: Any) -> Evaluation:
        own = super().evaluate_actions(batch)
        assert own.entropy is not None
        assert own.values is not None
        return Evaluation(
            self._in_buffer("log_probs", own.log_probs),
            self._in_buffer("entropy", own.entropy),
            self._in_buffer("values", own.values),
        )

    def estimate_values(self, batch: Any) -> ValueEstimates:
        own = super().estimate_values(batch)
        return ValueEstimates(self._in_buffer("values", own.values), self._in_buffer("next_values", own.next_values))


def test_what_is_kept_of_a_policy_does_not_change_when_it_is_asked_again() -> None:
    def collected(policy: WalkerPolicy) -> Experience:
        torch.manual_seed(0)
        reference = copy.deepcopy(policy)
        with torch.no_grad():
            reference.logits += 1
            reference.logits[:, 0] = 0
        collector: Any = ExperienceCollector(policy, StepRewards(), reference, group_size=2, rows_per_call=3)
        experience: Experience = collector.collect([0, 1])
        collector.collect([1])
        return experience

    own, expected = collected(ReusesItsOutputs()), collected(WalkerPolicy())
    assert own.old_log_probs is not None
    assert own.reference_log_probs is not None
    assert own.values is not None
    assert expected.values is not None
    assert torch.equal(own.old_log_probs, expected.old_log_probs)  # type: ignore[arg-type]
    assert torch.equal(own.reference_log_probs, expected.reference_log_probs)  # type: ignore[arg-type]
    assert torch.equal(own.values.values, expected.values.values)
    assert torch.equal(own.values.next_values, expected.values.next_values)


class OneValue(nn.Module):
    """A coin whose log-probs and values are views of its parameters, as ``expand`` gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.log_prob = nn.Parameter(torch.tensor(-0.5))
        self.value = nn.Parameter(torch.tensor(0.25))

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Tensor:
        return torch.zeros(len(states), num_actions_per_state)

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        return self.log_prob.expand(len(actions))

    def encode_actions(self, states: Any, actions: Any) -> TensorBatch:
        return TensorBatch(torch.zeros(len(actions), 1), actions)

    def evaluate_actions(self, batch: Any) -> Evaluation:
        count = len(batch.actions)
        return Evaluation(self.log_prob.expand(count), None, self.value.expand(count))

    def estimate_values(self, batch: Any) -> ValueEstimates:
        return ValueEstimates(self.value.expand(len(batch.actions)), torch.zeros(len(batch.actions)))

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())


def test_ratios_and_clipped_values_compare_with_what_the_policy_said_when_it_sampled() -> None:
    policy = OneValue()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    config = PPOConfig(
        batch_size=None, num_epochs_per_update=2, max_grad_norm=None, advantage_normalization=None, value_clip=0.01
    )
    rewards = FunctionRewards(lambda state, action: 1.0, torch.float32)
    metrics = PPOTrainer(config, policy, rewards, optimizer=optimizer).step([0, 1])
    # A = 0.75. The first update: the log-prob moves by 0.1 A, the value by 0.1 (1 - 0.25).
    moved = 0.075
    ratio = torch.tensor(moved).exp()
    assert metrics["approx_kl"] == pytest.approx(((ratio - 1 - moved) / 2).item(), rel=1e-3)
    # The second: beyond the clip, the loss is that of the clipped value.
    assert metrics["value_loss"] == pytest.approx((0.75**2 + 0.74**2) / 2)


class ReusesItsRewards(Quiet):
    """Gives two groups of four with and without spread, then a group with spread, in the same memory."""

    def __init__(self) -> None:
        self.buffer = torch.zeros(8)
        self.calls = 0

    def compute_rewards(self, states: Any, actions: Any) -> Tensor:
        self.calls += 1
        values = [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0] if self.calls == 1 else [7.0, 7.0, 7.0, 8.0]
        return self.buffer[: len(values)].copy_(torch.tensor(values))


class ReusesItsActions(TablePolicy):
    """Writes the actions of every call into the same memory: the number of the call."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self.buffer = np.zeros((2, 4, 1), dtype=np.int64)
        self.make = make
        self.calls = -1

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        self.calls += 1
        self.buffer[:] = self.calls
        return self.make(self.buffer[: len(states)])

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        return super().get_log_probabilities(states, [action.item() for action in actions])


@pytest.mark.parametrize(
    "make",
    [
        lambda buffer: buffer,
        torch.from_numpy,
        list,
        lambda buffer: list(torch.from_numpy(buffer)),
        lambda buffer: [list(group) for group in buffer],
        lambda buffer: [list(torch.from_numpy(group)) for group in buffer],
    ],
)
def test_rounds_of_dynamic_sampling_keep_their_own_actions_and_rewards(make: Callable[[Any], Any]) -> None:
    collector: Any = ExperienceCollector(
        ReusesItsActions(make), ReusesItsRewards(), group_size=4, dynamic_sampling=DynamicSampling(max_rounds=1)
    )
    experience = collector.collect([0, 1])
    assert experience.rewards.tolist() == [1.0, 2.0, 3.0, 4.0, 7.0, 7.0, 7.0, 8.0]
    assert [action.item() for action in experience.actions] == [0] * 4 + [1] * 4
    assert experience.metrics["reward"] == 10 / 8


def test_rounds_of_dynamic_sampling_keep_their_own_states() -> None:
    """Where they are drawn into the same memory, and only the last round has spread in all its groups."""
    buffer = np.zeros(1, dtype=np.int64)

    def draw_states(count: int) -> list[Any]:
        buffer[:] += 1
        return [buffer] * count

    class ReadsArrays(TablePolicy):
        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            return super().get_log_probabilities([int(np.asarray(state).item()) for state in states], actions)

        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return [list(range(num_actions_per_state)) for _ in states]

    class SpreadOfSome(Quiet):
        calls = 0

        def compute_rewards(self, states: Any, actions: Any) -> Tensor:
            self.calls += 1
            last = 1.0 if self.calls == 3 else 0.0
            return torch.tensor({4: [1.0, 2.0, 0.0, last], 2: [1.0, 2.0]}[len(actions)])

    settings = DynamicSampling(max_rounds=2, draw_states=lambda count: draw_states(2 if buffer[0] == 0 else count))
    rewards = SpreadOfSome()
    collector: Any = ExperienceCollector(ReadsArrays(), rewards, group_size=2, dynamic_sampling=settings)
    experience = collector.collect([np.zeros(1, dtype=np.int64)] * 2)
    assert [state.item() for state in experience.states] == [0, 0, 1, 1, 2, 2]
    assert rewards.calls == 3


def test_reference_log_probs_of_pairs_do_not_change_when_the_reference_is_asked_again() -> None:
    class Reuses(TablePolicy):
        buffer = torch.zeros(4, dtype=torch.float64)

        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            log_probs = super().get_log_probabilities(states, actions)
            return log_probs if torch.is_grad_enabled() else self.buffer[: len(actions)].copy_(log_probs)

    pairs = [Preference(0, 1, 2), Preference(1, 0, 3)]
    assert with_reference_log_probs(pairs, Reuses(), micro_batch_size=1) == with_reference_log_probs(
        pairs, TablePolicy()
    )


# Parts of an evaluation that would never train.


@pytest.mark.parametrize("part", ["values", "entropy"])
def test_parts_of_an_evaluation_need_a_gradient_where_they_are_to_be_trained(part: str) -> None:
    class Detached(WalkerPolicy):
        def evaluate_actions(self, batch: Any) -> Evaluation:
            own = super().evaluate_actions(batch)
            assert own.values is not None
            assert own.entropy is not None
            if part == "values":
                return Evaluation(own.log_probs, own.entropy, own.values.detach())
            return Evaluation(own.log_probs, own.entropy.detach(), own.values)

    def step(**settings: Any) -> None:
        PPOTrainer(PPOConfig(**settings), Detached(), StepRewards()).step([0, 1])

    with pytest.raises(ValueError, match=f"has {part} without gradient, so that they would never train"):
        step(entropy_coefficient=0.01)
    step(value_coefficient=0.0)


# Parts that are given.


class Empty:
    """A part with a length, which is 0."""

    def __len__(self) -> int:
        return 0


class EmptyEstimator(Empty):
    def __call__(self, experience: Experience) -> Tensor:
        return GroupRelative()(experience)


class EmptyObjective(Empty):
    def __init__(self, objective: Any) -> None:
        self.objective = objective

    def __call__(self, *arguments: Any) -> Any:
        return self.objective(*arguments)


def test_parts_of_length_zero_are_used() -> None:
    walker, rewards = WalkerPolicy(), StepRewards()
    trainers: list[tuple[Any, Any, Any]] = [
        (GRPOTrainer, GRPOConfig(), GRPOObjective()),
        (PPOTrainer, PPOConfig(group_size=2), GRPOObjective()),
        (ReinforceTrainer, ReinforceConfig(group_size=2), GRPOObjective()),
    ]
    for trainer_class, config, objective in trainers:
        given = (EmptyEstimator(), EmptyObjective(objective))
        trainer = trainer_class(config, walker, rewards, advantage_estimator=given[0], objective=given[1])
        assert (trainer.advantage_estimator, trainer.objective) == given
    own = EmptyObjective(DPOObjective())
    assert DPOTrainer(DPOConfig(reference_free=True), TablePolicy(), objective=own).objective is own


@pytest.mark.parametrize(
    ("trainer_class", "config"), [(PPOTrainer, PPOConfig()), (ReinforceTrainer, ReinforceConfig())]
)
def test_a_discount_is_not_lost_with_an_estimator_that_does_not_say_it(trainer_class: Any, config: Any) -> None:
    def build(estimator: Any, reference: Any = None) -> Any:
        return trainer_class(config, WalkerPolicy(), StepRewards(), reference, advantage_estimator=estimator)

    for silent in (MonteCarlo(baseline=value_baseline), KLPenalizedRewards(KLPenalizedRewards(MonteCarlo()))):
        with pytest.raises(ValueError, match=r"leaves its discount at 1, and \w+ has 0.99: say which you mean"):
            build(silent, WalkerPolicy())
    for explicit in (1.0, 0.99):
        assert build(MonteCarlo(discount=explicit, baseline=value_baseline)).advantage_estimator.discount == explicit


@pytest.mark.parametrize(
    ("trainer_class", "config"),
    [
        (GRPOTrainer, GRPOConfig(kl_coefficient=0.0)),
        (PPOTrainer, PPOConfig(kl_coefficient=0.0)),
        (ReinforceTrainer, ReinforceConfig()),
    ],
)
def test_a_reference_policy_that_nothing_reads_is_told(trainer_class: Any, config: Any) -> None:
    with pytest.warns(UserWarning, match="reference_policy is not used") as told:
        trainer_class(config, WalkerPolicy(), StepRewards(), WalkerPolicy())
    assert told[0].filename == __file__


def test_a_reference_policy_that_something_may_read_is_not_told() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GRPOTrainer(GRPOConfig(), TablePolicy(), GRADE, TablePolicy())
        PPOTrainer(PPOConfig(kl_coefficient=0.1), WalkerPolicy(), StepRewards(), WalkerPolicy())
        bare: Any = lambda evaluation, decisions: GRPOObjective()(evaluation, decisions)  # noqa: E731
        GRPOTrainer(GRPOConfig(), TablePolicy(), GRADE, TablePolicy(), objective=bare)


# Parameters that change after a trainer was made.


def test_parameters_that_are_replaced_or_unfrozen_are_told() -> None:
    policy = WalkerPolicy()
    policy.values.requires_grad_(False)
    trainer = GRPOTrainer(GRPOConfig(group_size=2), policy, StepRewards())
    trainer.step([0])
    policy.values.requires_grad_(True)
    with pytest.raises(ValueError, match="now holds values, replaced or unfrozen since"):
        trainer.step([0])
    assert trainer.optimizer is not None
    trainer.optimizer.add_param_group({"params": [policy.values]})
    trainer.step([0])
    policy.logits = policy.logits.detach().clone().requires_grad_()
    with pytest.raises(ValueError, match="now holds logits, replaced or unfrozen since"):
        trainer.step([0])
    assert trainer.num_steps == 2


def test_parameters_of_a_policy_that_had_none_to_train() -> None:
    policy = TablePolicy()
    policy.logits.requires_grad_(False)
    with pytest.warns(UserWarning, match="no trainable parameters"):
        trainer = DPOTrainer(DPOConfig(reference_free=True), policy)
    policy.logits.requires_grad_(True)
    with pytest.raises(ValueError, match=r"which would never be trained: make the trainer anew$"):
        trainer.step([Preference(0, 1, 2)])


def test_parameters_that_are_frozen_later_stay_as_they_are() -> None:
    policy = WalkerPolicy()
    trainer = GRPOTrainer(GRPOConfig(group_size=4), policy, StepRewards())
    policy.values.requires_grad_(False)
    before = policy.values.clone()
    assert trainer.step([0, 1])["num_updates"] == 1
    assert torch.equal(policy.values, before)


def test_parameters_that_are_listed_twice_are_held_once() -> None:
    class Tied(TablePolicy):
        def get_parameters(self) -> dict[str, Tensor]:
            return {"logits": self.logits, "tied": self.logits}

    trainers = [GRPOTrainer(GRPOConfig(group_size=4), policy, GRADE) for policy in (Tied(), TablePolicy())]
    for trainer in trainers:
        torch.manual_seed(1)
        trainer.step([0, 1, 2])
    one, other = (trainer.policy.get_parameters()["logits"] for trainer in trainers)
    assert torch.equal(one, other)
    assert trainers[0].optimizer is not None
    assert sum(len(group["params"]) for group in trainers[0].optimizer.param_groups) == 1


# States of many kinds.


class IndexesItsStates(TablePolicy):
    """Reads states by index, as well as in turn."""

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        return super().generate_actions([int(states[i]) for i in range(len(states))], num_actions_per_state)

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        return super().get_log_probabilities([int(state) for state in states], actions)


class RowsByIndex:
    """A table of another library: columns in turn, rows by index."""

    columns = ("question", "answer")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"question": 0, "answer": 1}

    def __iter__(self) -> Any:
        return iter([[0, 0], [1, 1]])


FRAME = pd.DataFrame({"question": ["0", "1"], "answer": ["1", "2"]})


@pytest.mark.parametrize(
    "states",
    [
        FRAME,
        pd.DataFrame([["0", "1"], ["1", "2"]]),
        RowsByIndex(),
        pd.Series(["0", "1", "2"], index=[2, 0, 1]),
        pd.Series(["0", "1", "2"], index=["a", "b", "c"]),
        FRAME["question"][::-1],
        FRAME["question"][1:],
        pd.Index(["0", "1"]).to_series(),
        {"a": 1}.keys(),
        {"a": 1}.values(),
        {"a": 1}.items(),
        {0: "0", 1: "1"},
        {"0", "1"},
        (state for state in "01"),
        np.array("0"),
        np.array(0.0),
        np.float64(0.0),
        torch.tensor(0),
    ],
    ids=lambda states: type(states).__name__,
)
def test_states_that_are_no_batch_are_refused(states: Any) -> None:
    with pytest.raises(TypeError, match=r"^states is a .*, expected a batch"):
        GRPOTrainer(GRPOConfig(group_size=2), IndexesItsStates(), GRADE).step(states)


@pytest.mark.parametrize(
    "states",
    [
        ["0", "1", "2"],
        ("0", "1", "2"),
        np.array(["0", "1", "2"]),
        np.array([0, 1, 2]),
        np.array([0.0, 1.0, 2.0]),
        pd.Series(["0", "1", "2"]),
        pd.Series([0, 1, 2]),
        torch.tensor([0, 1, 2]),
        range(3),
    ],
    ids=lambda states: type(states).__name__,
)
def test_states_that_are_a_batch_reach_all_models_in_their_order(states: Any) -> None:
    seen: list[int] = []

    def reward(state: Any, action: int) -> float:
        seen.append(int(state))
        return float(action)

    GRPOTrainer(GRPOConfig(group_size=2), IndexesItsStates(), FunctionRewards(reward)).step(states)
    assert seen == [0, 0, 1, 1, 2, 2]


def test_a_batch_whose_length_is_not_the_number_of_its_entries_is_refused() -> None:
    class TooLong(list[int]):
        def __len__(self) -> int:
            return 3

    class IgnoresStates(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return [[0, 1], [0, 1], [0, 1]]

    with pytest.raises(ValueError, match="of length 3, but an iteration gives 2 entries"):
        GRPOTrainer(GRPOConfig(group_size=2), IgnoresStates(), GRADE).step(TooLong([0, 1]))


# Rates and coefficients.


def test_a_schedule_leaves_the_groups_of_an_optimizer_their_proportion() -> None:
    policy = WalkerPolicy()
    groups: list[dict[str, Any]] = [{"params": [policy.logits]}, {"params": [policy.values], "lr": 0.05}]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    config = GRPOConfig(group_size=2, learning_rate=LinearSchedule(start=0.2, end=0.0, num_steps=4))
    trainer = GRPOTrainer(config, policy, StepRewards(), optimizer=optimizer)
    rates = []
    for _ in range(3):
        metrics = trainer.step([0])
        rates.append([group["lr"] for group in optimizer.param_groups])
        assert metrics["learning_rate"] == rates[-1][0]
    assert rates == [pytest.approx(own) for own in ([0.2, 0.02], [0.15, 0.015], [0.1, 0.01])]
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.25})
    trainer.step([0])
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.005, 0.025])


def test_a_coefficient_does_not_follow_what_is_not_finite() -> None:
    for kl in (float("nan"), float("inf"), float("-inf")):
        coefficient = HorizonKLCoefficient(target=0.01, horizon=10)
        with pytest.raises(NonFiniteError, match="HorizonKLCoefficient was told a divergence of"):
            coefficient.update(kl, num_samples=5)
        assert coefficient.value == 0.2


# Batches.


@pytest.mark.parametrize(
    ("rows", "crosses"),
    [([2, 1, 3], False), ([3, 3], False), ([1, 1, 1, 1, 1, 1], False), ([2, 2, 2], True), ([6], True)],
)
def test_a_row_holds_decisions_of_one_sample(rows: list[int], crosses: bool) -> None:
    class Rows(TablePolicy):
        def encode_actions(self, states: Any, actions: Any) -> Any:
            batch = TensorBatch(torch.zeros(6), torch.zeros(6), Segments(2, 3))
            batch.rows = Segments.of_lengths(rows)
            return batch

        def evaluate_actions(self, batch: Any) -> Evaluation:
            return Evaluation(self.logits.log_softmax(-1)[0, 0].expand(6))

    trainer = GRPOTrainer(GRPOConfig(group_size=2), Rows(), FunctionRewards(lambda state, action: float(action)))
    if crosses:
        with pytest.raises(ValueError, match="of which one crosses from a sample to the next"):
            trainer.step([0])
    else:
        trainer.step([0])


# What models do to what they are given.


class Scribbler(TablePolicy):
    """Changes all that it is given, wherever it can: adds 1 to states before it reads them, and to actions after."""

    def _read(self, states: Any) -> list[int]:
        if isinstance(states, Tensor):
            states += 1
            return [int(state) for state in states]
        for state in states:
            if isinstance(state, dict):
                state["index"] += 1
            elif isinstance(state, list):
                state[0] += 1
            else:
                state += 1
        return [int(state["index"] if isinstance(state, dict) else state[0]) for state in states]

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        return torch.tensor(super().generate_actions(self._read(states), num_actions_per_state))

    def encode_actions(self, states: Any, actions: Tensor) -> TensorBatch:
        batch = TensorBatch(torch.tensor(self._read(states)), actions.clone())
        actions.zero_()
        return batch

    def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
        return Evaluation(self.logits.log_softmax(-1)[batch.observations, batch.actions])


class ScribblingRewards(Quiet):
    def compute_rewards(self, states: Any, actions: Any) -> Tensor:
        rewards: Tensor = actions.double()
        Scribbler()._read(states)
        actions.zero_()
        return rewards


@pytest.mark.parametrize(
    "states",
    [
        torch.tensor([0, 1]),
        [torch.tensor([0]), torch.tensor([1])],
        [{"index": 0}, {"index": 1}],
        [[0], [1]],
        np.array([[0], [1]]),
        [np.array([0]), np.array([1])],
        [{"index": torch.tensor(0)}, {"index": torch.tensor(1)}],
    ],
    ids=["tensor", "tensors", "dictionaries", "lists", "array", "arrays", "tensors in dictionaries"],
)
def test_models_that_change_what_they_are_given_change_nothing_for_others(states: Any) -> None:
    before = repr(states)
    collector: Any = ExperienceCollector(Scribbler(), ScribblingRewards(), Scribbler(), group_size=4)
    experience = collector.collect(states)
    assert experience.rewards.tolist() == experience.batch.actions.tolist()
    assert experience.actions.tolist() == experience.batch.actions.tolist()
    assert experience.batch.observations.tolist() == [1] * 4 + [2] * 4
    assert torch.equal(experience.old_log_probs, experience.reference_log_probs)
    assert repr(states) == before
    groups = torch.tensor([[0, 1], [2, 3]])
    collector.score(states, groups)
    assert repr(states) == before
    assert groups.tolist() == [[0, 1], [2, 3]]


def test_pairs_stay_as_they_are() -> None:
    pairs = [Preference({"index": 0}, torch.tensor(1), torch.tensor(2))]
    reference = Scribbler()
    with_reference_log_probs(pairs, reference)
    trainer = DPOTrainer(DPOConfig(), Scribbler(), reference)
    assert trainer.step(pairs)["rewards/margins"] == 0
    assert pairs[0].state == {"index": 0}
    assert int(pairs[0].chosen) == 1


def test_tuples_stay_tuples() -> None:
    """States and actions that can be looked up in a dictionary still can."""
    seen: list[Any] = []

    def reward(state: Any, action: Any) -> float:
        seen.append((state, action))
        return 0.0

    class Tuples(SequentialTablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            assert states == [(0, 1), (1, (0,))]
            return [[(0, 1)] * num_actions_per_state for _ in states]

        def encode_actions(self, states: Any, actions: Any) -> TensorBatch:
            assert {state[0] for state in set(states)} == {0, 1}
            assert set(actions) == {(0, 1)}
            return TensorBatch(torch.tensor([state[0] for state in states]), torch.tensor([0] * len(actions)))

    states: Any = [(0, 1), (1, (0,))]
    GRPOTrainer(GRPOConfig(group_size=2), Tuples(), FunctionRewards(reward)).step(states)
    assert seen == [((0, 1), (0, 1))] * 2 + [((1, (0,)), (0, 1))] * 2


# What is told of a step.


class SometimesScored(Quiet):
    """Gives a plain tensor or rewards of which the last one is missing, as it is told for each call."""

    def __init__(self, misses: list[bool]) -> None:
        self.misses = misses

    def compute_rewards(self, states: Any, actions: Any) -> Any:
        values = torch.arange(len(actions)).double() * (torch.tensor(states) > 0)
        if not self.misses.pop(0):
            return values
        return PartialRewards(values, torch.arange(len(actions)) < len(actions) - 1)


@pytest.mark.parametrize(
    ("misses", "expected"),
    [([False, False], None), ([True, False], 1.0), ([False, True], 1.0), ([True, True], 2.0)],
)
def test_unscored_samples_of_every_round_are_told(misses: list[bool], expected: float | None) -> None:
    settings = DynamicSampling(max_rounds=1)
    config = GRPOConfig(group_size=3, dynamic_sampling=settings)
    metrics = GRPOTrainer(config, TablePolicy(), SometimesScored(misses)).step([0, 1])
    assert metrics.get("num_unscored") == expected
    assert metrics["num_groups_resampled"] == 1


class BreaksIn(TablePolicy):
    """Makes what a step reads not a number, in the place that it is told."""

    place = ""

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        log_probs = super().get_log_probabilities(states, actions)
        if self.place == "log-probs":
            return log_probs * torch.nan
        if self.place == "gradient" and torch.is_grad_enabled():
            return log_probs + (self.logits[0, 0] - self.logits[0, 0].detach()).sqrt()
        return log_probs


@pytest.mark.parametrize("place", ["log-probs", "gradient", "rewards", "target_kl"])
def test_every_step_that_ends_without_an_error_counts(place: str) -> None:
    policy = BreaksIn()
    policy.place = place
    rewards = FunctionRewards(lambda state, action: float("nan") if place == "rewards" else float(action))
    config = GRPOConfig(
        group_size=4, non_finite="skip", batch_size=4, target_kl=1e-12 if place == "target_kl" else None
    )
    trainer = GRPOTrainer(config, policy, rewards)
    for step in range(1, 3):
        trainer.step([0, 1])
        assert trainer.num_steps == step


@pytest.mark.parametrize("place", ["log-probs", "gradient"])
def test_every_step_on_pairs_that_ends_without_an_error_counts(place: str) -> None:
    policy = BreaksIn()
    policy.place = place
    trainer = DPOTrainer(DPOConfig(non_finite="skip", reference_free=True), policy)
    assert trainer.step([Preference(0, 1, 2)])["skipped_updates"] == 1
    assert trainer.num_steps == 1


def test_a_step_of_which_every_sample_was_cut_short_counts() -> None:
    class CutShort(SequencePolicy):
        def encode_actions(self, states: Any, actions: Any) -> Any:
            batch = super().encode_actions(states, actions)
            batch.truncated = torch.ones(len(actions), dtype=torch.bool)  # type: ignore[attr-defined]
            return batch

    trainer = GRPOTrainer(GRPOConfig(group_size=2, mask_truncated=True), CutShort(), GRADE)
    assert trainer.step([0])["skipped_updates"] == 1
    assert trainer.num_steps == 1


# Critics.


def test_a_baseline_that_is_a_plain_function_gets_its_values_and_the_critic_is_trained() -> None:
    def step(baseline: Any) -> tuple[WalkerPolicy, dict[str, float]]:
        torch.manual_seed(0)
        policy = WalkerPolicy()
        estimator = MonteCarlo(discount=0.99, baseline=baseline)
        trainer = ReinforceTrainer(ReinforceConfig(group_size=2), policy, StepRewards(), advantage_estimator=estimator)
        return policy, trainer.step([0, 1])

    plain, metrics = step(lambda experience, returns: value_baseline(experience, returns))
    declared, expected = step(value_baseline)
    assert metrics == expected
    assert torch.equal(plain.values, declared.values)
    assert not torch.equal(plain.values, WalkerPolicy().values)


@pytest.mark.parametrize("estimator", [lambda experience: experience.sample_rewards.values, GroupRelative()])
def test_an_estimator_that_tells_no_returns_trains_no_critic(estimator: Any) -> None:
    """Nor does it where the divergence is taken off its rewards."""
    for own in (estimator, KLPenalizedRewards(estimator)):
        policy = WalkerPolicy()
        trainer = ReinforceTrainer(
            ReinforceConfig(group_size=2),
            policy,
            StepRewards(),
            WalkerPolicy() if own is not estimator else None,
            advantage_estimator=own,
        )
        assert "value_loss" not in trainer.step([0, 1])
        assert torch.equal(policy.values, WalkerPolicy().values)


@pytest.mark.parametrize("estimator", [GeneralizedAdvantage(), MonteCarlo(discount=0.99, baseline=value_baseline)])
def test_a_critic_that_is_read_behind_a_penalty_is_trained(estimator: Any) -> None:
    trainer = ReinforceTrainer(
        ReinforceConfig(group_size=2),
        WalkerPolicy(),
        StepRewards(),
        WalkerPolicy(),
        advantage_estimator=KLPenalizedRewards(estimator),
    )
    assert isinstance(trainer.objective, PPOObjective)
    assert trainer.step([0, 1])["value_loss"] > 0


def test_the_norm_of_the_gradient_is_the_mean_over_updates() -> None:
    class Linear(TablePolicy):
        """Its log-prob has the gradient 1 in one entry, whatever the parameters."""

        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            return self.logits[torch.tensor(states), 0]

    config = ReinforceConfig(batch_size=1, max_grad_norm=None, advantage_normalization=None)
    rewards = FunctionRewards(lambda state, action: [1.0, 5.0][state])
    metrics = ReinforceTrainer(config, Linear(), rewards).step([0, 1])
    assert metrics["num_updates"] == 2
    assert metrics["grad_norm"] == pytest.approx(3.0)


def test_models_are_asked_in_evaluation_mode() -> None:
    """The reward model and the reference policy too, whatever mode they come in."""
    modes: list[tuple[str, bool]] = []

    class Moded(TablePolicy):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name, self.training = name, True

        def train(self) -> None:
            self.training = True

        def eval(self) -> None:
            self.training = False

        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            modes.append((self.name, self.training))
            return super().get_log_probabilities(states, actions)

    class ModedRewards(FunctionRewards):
        training = True

        def eval(self) -> None:
            self.training = False

        def compute_rewards(self, states: Any, actions: Any) -> Tensor:
            modes.append(("rewards", self.training))
            return super().compute_rewards(states, actions)

    rewards = ModedRewards(lambda state, action: float(action))
    GRPOTrainer(GRPOConfig(group_size=2), Moded("policy"), rewards, Moded("reference")).step([0])
    assert modes == [("rewards", False), ("reference", False), ("policy", True)]
    modes.clear()
    DPOTrainer(DPOConfig(), Moded("policy"), Moded("reference")).step([Preference(0, 1, 2)])
    assert modes == [("reference", False), ("policy", True)]
