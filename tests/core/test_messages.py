"""Mistakes whose errors were hard to read: each names the object, what was expected, what came, and the fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from models import FunctionRewards, Quiet, SequencePolicy, TablePolicy
from torch import Tensor

from grpo import (
    DPOConfig,
    DPOTrainer,
    Evaluation,
    GRPOConfig,
    GRPOTrainer,
    NonFiniteError,
    PartialRewards,
    Preference,
    ReinforceConfig,
    ReinforceTrainer,
    TensorBatch,
    Terms,
)

LIKES_HIGH = FunctionRewards(lambda state, action: float(action))
LIKES_LONG = FunctionRewards(lambda state, action: float(len(action)))
PAIRS = [Preference(0, 1, 2)]

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")


def sparse(values: Tensor) -> Tensor:
    return values.to_sparse()


def nested(values: Tensor) -> Tensor:
    return torch.nested.nested_tensor([values])


def jagged(values: Tensor) -> Tensor:
    return torch.nested.nested_tensor([values], layout=torch.jagged)


IRREGULAR = pytest.mark.parametrize(
    ("make", "message"),
    [
        (sparse, r"a sparse tensor, expected a dense one: call .to_dense\(\) on it"),
        (nested, r"a nested tensor, expected a dense one: take the parts, values.unbind\(\), in a list"),
        (jagged, r"a nested tensor, expected a dense one: take the parts, values.unbind\(\), in a list"),
    ],
    ids=["sparse", "nested", "jagged"],
)
Make = Callable[[Tensor], Tensor]


class BrokenPolicy(TablePolicy):
    """Gives what ``change`` makes of its groups or its log-probs."""

    def __init__(self, *, groups: Any = lambda groups: groups, log_probs: Any = lambda log_probs: log_probs) -> None:
        super().__init__()
        self.change_groups, self.change_log_probs = groups, log_probs

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        return self.change_groups(super().generate_actions(states, num_actions_per_state))

    def get_log_probabilities(self, states: Any, actions: Any) -> Any:
        return self.change_log_probs(super().get_log_probabilities(states, actions))


class BrokenRewards(Quiet):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        self.make = make

    def compute_rewards(self, states: Any, actions: Any) -> Any:
        return self.make(torch.arange(float(len(actions))))


class BrokenBatch(SequencePolicy):
    """Batches of which one attribute is irregular."""

    def __init__(self, name: str, make: Make) -> None:
        super().__init__()
        self.name, self.make = name, make

    def encode_actions(self, states: Any, actions: Any) -> Any:
        batch = super().encode_actions(states, actions)
        count = len(actions) if self.name == "truncated" else batch.samples.total
        values = torch.zeros(count, dtype=torch.bool if self.name == "truncated" else torch.float32)
        setattr(batch, self.name, self.make(values))
        return batch


def step(policy: Any = None, rewards: Any = LIKES_HIGH, states: Any = (0, 1), **arguments: Any) -> None:
    GRPOTrainer(GRPOConfig(group_size=2), TablePolicy() if policy is None else policy, rewards, **arguments).step(
        states
    )


@IRREGULAR
def test_sparse_and_nested_tensors_around_a_step(make: Make, message: str) -> None:
    def breaks(expected: str, **arguments: Any) -> None:
        with pytest.raises(TypeError, match=f"^{expected} {message}$"):
            step(**arguments)

    groups = torch.zeros(2, 2)
    breaks("states is", states=make(torch.tensor([0, 1])))
    breaks("generate_actions returned", policy=BrokenPolicy(groups=lambda _: make(groups)))
    breaks("generate_actions returned", policy=BrokenPolicy(groups=lambda _: [make(group) for group in groups]))
    breaks("policy.get_log_probabilities returned log-probs:", policy=BrokenPolicy(log_probs=make))
    breaks("compute_rewards returned", rewards=BrokenRewards(make))
    partial = BrokenRewards(lambda values: PartialRewards(make(values), values >= 0))
    breaks("compute_rewards returned", rewards=partial)
    breaks(
        "policy's batch returned sampling_log_probs:",
        policy=BrokenBatch("sampling_log_probs", make),
        rewards=LIKES_LONG,
    )
    breaks("advantage_estimator returned", advantage_estimator=lambda experience: make(experience.rewards))

    def with_metric(evaluation: Any, decisions: Any) -> Terms:
        return Terms(evaluation.log_probs, {"own": make(evaluation.log_probs.detach())})

    kind = "sparse" if make is sparse else "nested"
    with pytest.raises(
        ValueError, match=rf"^objective returned a {kind} tensor as metric 'own', expected a tensor \[4\]"
    ):
        step(objective=with_metric)


@IRREGULAR
def test_sparse_and_nested_masks(make: Make, message: str) -> None:
    kind = "sparse" if make is sparse else "nested"
    expected = f"of a {kind} tensor, expected a bool tensor of shape \\[4\\]"
    unscored = BrokenRewards(lambda values: PartialRewards(values, make(values > 0)))
    with pytest.raises(ValueError, match=f"PartialRewards with scored {expected}"):
        step(rewards=unscored)
    with pytest.raises(ValueError, match=f"a batch with truncated {expected}"):
        step(policy=BrokenBatch("truncated", make), rewards=LIKES_LONG)


@IRREGULAR
@pytest.mark.parametrize("field", ["state", "chosen", "rejected"])
def test_sparse_and_nested_tensors_in_pairs(make: Make, message: str, field: str) -> None:
    parts: dict[str, Any] = {"state": torch.ones(2), "chosen": torch.ones(2), "rejected": torch.zeros(2)}
    pair: Any = Preference(**parts | {field: make(parts[field])})
    with pytest.raises(TypeError, match=f"^preference 0 has as {field} {message}$"):
        DPOTrainer(DPOConfig(reference_free=True), TablePolicy()).step([pair])


@pytest.mark.parametrize("zero", [np.array(0), np.array("0"), np.int64(0), torch.tensor(0)])
def test_states_and_groups_without_a_dimension(zero: Any) -> None:
    expected = rf"a 0-dimensional {type(zero).__name__}"
    with pytest.raises(TypeError, match=f"^states is {expected}, expected a batch.*Put it in a list$"):
        step(states=zero)
    with pytest.raises(TypeError, match=f"^generate_actions returned {expected} for state 0, .*Put it in a list$"):
        step(policy=BrokenPolicy(groups=lambda groups: [zero, zero]))
    if not isinstance(zero, Tensor):
        with pytest.raises(TypeError, match=f"^generate_actions returned {expected}, expected one sequence"):
            step(policy=BrokenPolicy(groups=lambda groups: zero))


def test_a_batch_that_delegates_by_getattr() -> None:
    """It is a batch where the inner one is, and is none where that is none."""

    class Delegating:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    class Wraps(TablePolicy):
        make: Any = TensorBatch

        def encode_actions(self, states: Any, actions: Any) -> Any:
            return Delegating(self.make(torch.tensor(states), torch.tensor(actions)))

        def evaluate_actions(self, batch: Any) -> Evaluation:
            return Evaluation(self.logits.log_softmax(-1)[batch.observations, batch.actions])

    step(policy=Wraps())
    policy = Wraps()
    policy.make = lambda states, actions: states
    with pytest.raises(TypeError, match=r"encode_actions returned a Delegating, expected a grpo.ActionBatch"):
        step(policy=policy)


@pytest.mark.parametrize(
    ("returned", "expected"), [(None, "NoneType"), ([torch.zeros(1)], "list"), ({"logits": [0.0]}, "dict")]
)
def test_parameters_that_are_wrong_after_construction(returned: Any, expected: str) -> None:
    policy: Any = TablePolicy()
    trainers: list[tuple[Any, Any]] = [
        (GRPOTrainer(GRPOConfig(group_size=2), policy, LIKES_HIGH), [0]),
        (DPOTrainer(DPOConfig(reference_free=True), policy), PAIRS),
    ]
    policy.get_parameters = lambda: returned
    for trainer, batch in trainers:
        with pytest.raises(TypeError, match=f"^policy.get_parameters returned a {expected}, expected a mapping from"):
            trainer.step(batch)
        assert trainer.num_steps == 0


class Large(TablePolicy):
    """A log-prob whose gradient is finite, and overflows once it is squared."""

    def __init__(self, scale: float) -> None:
        super().__init__(dtype=torch.float32)
        self.small = torch.zeros(1, requires_grad=True)
        self.scale = scale

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        at_zero = (self.logits - self.logits.detach())[0, 0] * self.scale
        return at_zero.expand(len(actions)) + self.small

    def get_parameters(self) -> dict[str, Tensor]:
        return {"small": self.small, "logits": self.logits}


def test_a_finite_gradient_whose_norm_overflows_names_the_parameter() -> None:
    rewards = FunctionRewards(lambda state, action: 1.0, torch.float32)
    config = ReinforceConfig(advantage_normalization=None)
    policy = Large(1e25)
    with pytest.raises(NonFiniteError, match=r"norm overflows: that of logits has an entry of 1e\+25: lower the scale"):
        ReinforceTrainer(config, policy, rewards).step([0, 1])
    assert torch.equal(policy.logits, TablePolicy(dtype=torch.float32).logits)
    skips = ReinforceTrainer(config.model_copy(update={"non_finite": "skip"}), policy, rewards)
    assert skips.step([0, 1])["skipped_updates"] == 1
    assert ReinforceTrainer(config, Large(1e15), rewards).step([0, 1])["grad_norm"] == pytest.approx(1e15)


@pytest.mark.parametrize(
    ("parameter", "error", "message"),
    [
        (
            torch.zeros(1, dtype=torch.complex64, requires_grad=True),
            TypeError,
            "complex64, expected real numbers: keep",
        ),
        (
            torch.zeros(1, requires_grad=True) * 2,
            ValueError,
            "computed from other tensors, expected a leaf: return the",
        ),
        (torch.zeros(1).to_sparse().requires_grad_(), TypeError, "a sparse tensor, expected a dense one"),
    ],
    ids=["complex", "computed", "sparse"],
)
def test_parameters_that_cannot_be_trained(parameter: Tensor, error: type[Exception], message: str) -> None:
    class Wrong(TablePolicy):
        def get_parameters(self) -> dict[str, Tensor]:
            return super().get_parameters() | {"own": parameter}

    for role, policies in (("policy", (Wrong(), TablePolicy())), ("reference_policy", (TablePolicy(), Wrong()))):
        with pytest.raises(error, match=rf"^{role}.get_parameters returned 'own',.*{message}"):
            GRPOTrainer(GRPOConfig(), policies[0], LIKES_HIGH, policies[1])
        with pytest.raises(error, match=rf"^{role}.get_parameters returned 'own',.*{message}"):
            DPOTrainer(DPOConfig(), *policies)


def test_parameters_that_are_not_trained_may_be_of_any_kind() -> None:
    class Frozen(TablePolicy):
        def get_parameters(self) -> dict[str, Tensor]:
            return super().get_parameters() | {"own": torch.zeros(1, dtype=torch.complex64)}

    step(policy=Frozen())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(
        ValueError, match=r"^config.device is 'cuda', which cannot be used here \(.+\): set it to 'cpu'"
    ):
        GRPOTrainer(GRPOConfig(device="cuda"), TablePolicy(), LIKES_HIGH)
    with pytest.raises(ValueError, match=r"^config.device is 'cuda', which cannot be used here"):
        DPOTrainer(DPOConfig(device="cuda", reference_free=True), TablePolicy())


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_a_device_that_is_none(device: str) -> None:
    with pytest.raises(ValueError, match=f"^config.device is '{device}', which cannot be used here"):
        GRPOTrainer(GRPOConfig(device=device), TablePolicy(), LIKES_HIGH)
