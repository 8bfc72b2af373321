"""After an error or an interrupt everything is as it was before the step, or the step is whole."""

from __future__ import annotations

import copy
import random
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from models import FunctionRewards, StepRewards, TablePolicy, WalkerPolicy
from torch import Tensor, nn

import grpo.training._rollback
from grpo import (
    DPOConfig,
    DPOTrainer,
    Experience,
    ExperienceCollector,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    HorizonKLCoefficient,
    KLPenalizedRewards,
    LinearSchedule,
    Preference,
    PreferenceCollector,
    ReferenceSync,
)

LIKES_HIGH = FunctionRewards(lambda state, action: float(action))


class BrokenError(Exception):
    pass


class BatchNormPolicy(nn.Module):
    """Logits behind a batch normalisation, with statistics of what it has seen; it breaks where it is told."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(()))
        self.breaks_in = ""
        self.evaluations = 0

    def _may_break(self, place: str) -> None:
        if place == self.breaks_in:
            raise BrokenError(place)

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        self._may_break("generate_actions")
        random.random()
        np.random.rand()  # noqa: NPY002
        return torch.randint(4, (len(states), num_actions_per_state))

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        logits = self.norm(self.embedding(torch.as_tensor(states)))
        self.evaluations += 1
        if self.training and self.evaluations > 1:
            self._may_break("second evaluation")
        log_probs: Tensor = logits.log_softmax(-1).gather(1, torch.as_tensor(actions)[:, None]).squeeze(1)
        return log_probs

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())

    def update_statistics(self, batch: Any) -> None:
        self.seen = self.seen + len(batch.samples)
        self._may_break("update_statistics")


class SyncedReference(WalkerPolicy):
    """A reference policy of which one parameter cannot follow, after another one did."""

    breaks = False

    def get_parameters(self) -> dict[str, Tensor]:
        return super().get_parameters() | ({"values": torch.zeros(1)} if self.breaks else {})


class AdaptingEstimator:
    """An estimator with a state that follows the steps."""

    def __init__(self) -> None:
        self.steps = 0
        self.breaks = False

    def __call__(self, experience: Experience) -> Tensor:
        return GroupRelative()(experience)

    def adapt(self, experience: Experience, metrics: Mapping[str, float]) -> None:
        self.steps += 1
        if self.breaks:
            raise BrokenError("adapt")

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: Any) -> None:
        self.steps = state_dict["steps"]


class AdaptingObjective(AdaptingEstimator):
    def __call__(self, *arguments: Any) -> Any:
        return GRPOObjective()(*arguments)


def state_of(trainer: Any) -> list[Any]:
    """All that a failed step must leave alone."""
    optimizer = trainer.optimizer
    return [
        [tensor.detach().clone() for tensor in trainer.policy.get_parameters().values()],
        [buffer.clone() for buffer in trainer.policy.buffers()] if isinstance(trainer.policy, nn.Module) else [],
        [id(buffer) for buffer in trainer.policy.buffers()] if isinstance(trainer.policy, nn.Module) else [],
        copy.deepcopy(optimizer.state_dict()),
        trainer.num_steps,
        [torch.get_rng_state(), trainer.generator.get_state()],
        random.getstate(),
        np.random.get_state(legacy=False)["state"],  # noqa: NPY002
    ]


def assert_unchanged(trainer: Any, before: list[Any]) -> None:
    torch.testing.assert_close(state_of(trainer), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in trainer.policy.get_parameters().values())


@pytest.fixture(params=["copied", "large"])
def _size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small models are always copied; large ones only where something may fail after the first update."""
    if request.param == "large":
        monkeypatch.setattr(grpo.training._rollback, "SMALL", 0)
    size: str = request.param
    return size


@pytest.mark.usefixtures("_size")
@pytest.mark.parametrize("good_steps", [0, 2])
@pytest.mark.parametrize("place", ["generate_actions", "second evaluation", "update_statistics"])
def test_a_policy_that_fails(place: str, good_steps: int) -> None:
    """With nothing left of a first step, and buffers put back, those included that were replaced."""
    policy = BatchNormPolicy()
    schedule = LinearSchedule(start=0.1, end=0.0, num_steps=10)
    trainer = GRPOTrainer(GRPOConfig(group_size=4, num_epochs_per_update=2, learning_rate=schedule), policy, LIKES_HIGH)
    for _ in range(good_steps):
        trainer.step([0, 1, 2])
    trainer.optimizer.zero_grad()  # type: ignore[union-attr]
    policy.evaluations, policy.breaks_in = 0, place
    before = state_of(trainer)
    with pytest.raises(BrokenError, match=place):
        trainer.step([0, 1, 2])
    assert_unchanged(trainer, before)
    assert len(trainer.optimizer.state) == (3 if good_steps else 0)  # type: ignore[union-attr]
    policy.breaks_in = ""
    assert trainer.step([0, 1, 2])["learning_rate"] == pytest.approx(0.1 - 0.01 * good_steps)


def test_buffers_of_modules_that_a_policy_holds() -> None:
    """As an attribute, in a list, in a dictionary, whatever is done with them."""

    class Holder(TablePolicy):
        def __init__(self) -> None:
            super().__init__()
            self.norms: Any = [nn.BatchNorm1d(1)]
            self.by_name = {"norm": nn.BatchNorm1d(1)}
            self.norm = nn.BatchNorm1d(1)

        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            for norm in (*self.norms, *self.by_name.values(), self.norm):
                norm(torch.randn(4, 1))
                norm.num_batches_tracked = norm.num_batches_tracked + 1
            return super().get_log_probabilities(states, actions) * torch.nan

    policy = Holder()
    norms = (*policy.norms, *policy.by_name.values(), policy.norm)
    before = [norm.state_dict() | {} for norm in norms]
    held = [norm.num_batches_tracked for norm in norms]
    with pytest.raises(ValueError, match="nan"):
        GRPOTrainer(GRPOConfig(group_size=2), policy, LIKES_HIGH).step([0])
    assert [norm.num_batches_tracked for norm in norms] == [0, 0, 0]
    assert all(norm.num_batches_tracked is buffer for norm, buffer in zip(norms, held, strict=True))
    assert all(torch.equal(norm.running_mean, torch.zeros(1)) for norm in norms)
    assert [norm.state_dict() for norm in norms] == before


@pytest.mark.usefixtures("_size")
@pytest.mark.parametrize("broken", ["estimator", "objective"])
def test_an_estimator_or_an_objective_that_fails_to_adapt(broken: str) -> None:
    parts: dict[str, Any] = {"estimator": AdaptingEstimator(), "objective": AdaptingObjective()}
    trainer = GRPOTrainer(
        GRPOConfig(group_size=4),
        TablePolicy(),
        LIKES_HIGH,
        advantage_estimator=parts["estimator"],
        objective=parts["objective"],
    )
    trainer.step([0, 1])
    trainer.optimizer.zero_grad()  # type: ignore[union-attr]
    parts[broken].breaks = True
    before = state_of(trainer)
    with pytest.raises(BrokenError, match="adapt"):
        trainer.step([0, 1])
    assert_unchanged(trainer, before)
    assert [part.steps for part in parts.values()] == [1, 1]


def test_a_coefficient_moves_only_in_steps_that_end() -> None:
    class FailsToFollow(TablePolicy):
        def update_statistics(self, batch: Any) -> None: ...

    coefficient = HorizonKLCoefficient(target=0.01, horizon=10)
    reference = TablePolicy()
    with torch.no_grad():
        reference.logits += torch.arange(4.0)
    objective = AdaptingObjective()
    estimator = KLPenalizedRewards(GroupRelative(), coefficient)
    trainer = GRPOTrainer(
        GRPOConfig(group_size=4),
        FailsToFollow(),
        LIKES_HIGH,
        reference,
        advantage_estimator=estimator,
        objective=objective,
    )
    trainer.step([0])
    value = coefficient.value
    assert value != 0.2
    objective.breaks = True
    with pytest.raises(BrokenError):
        trainer.step([0])
    assert coefficient.value == value


@pytest.mark.usefixtures("_size")
@pytest.mark.parametrize(
    "build",
    [
        lambda policy, reference, sync: GRPOTrainer(
            GRPOConfig(group_size=4, reference_sync=sync), policy, StepRewards(), reference
        ),
        lambda policy, reference, sync: DPOTrainer(DPOConfig(reference_sync=sync), policy, reference),
    ],
)
def test_a_reference_policy_that_fails_to_follow(build: Callable[..., Any]) -> None:
    reference = SyncedReference()
    trainer = build(WalkerPolicy(), reference, ReferenceSync(every=2))
    batch = [0, 1] if isinstance(trainer, GRPOTrainer) else [Preference(0, [[(0, 1, 1)]], [[(0, 0, 0)]])]
    trainer.step(batch)
    trainer.optimizer.zero_grad()
    reference.breaks = True
    before = state_of(trainer)
    with pytest.raises(ValueError, match="reference_sync needs a reference policy with parameters of the policy's"):
        trainer.step(batch)
    assert_unchanged(trainer, before)
    reference.breaks = False
    assert torch.equal(reference.logits, WalkerPolicy().logits)
    trainer.step(batch)
    assert not torch.equal(reference.logits, WalkerPolicy().logits)


class InterruptedSGD(torch.optim.SGD):
    """Ctrl-C comes in the middle of its step, between two tensors."""

    interrupts = True

    def __init__(self, tensors: list[Tensor], **settings: Any) -> None:
        super().__init__(tensors, lr=0.1, momentum=0.9)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        first, *_ = (tensor for group in self.param_groups for tensor in group["params"])
        with torch.no_grad():
            first += 1.0
        if self.interrupts:
            signal.raise_signal(signal.SIGINT)
        super().step()


@pytest.fixture
def _python_handles_interrupts() -> Any:
    original = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, original)


def build_interrupted(**settings: Any) -> Any:
    policy = TablePolicy()
    config = GRPOConfig(group_size=4, **settings)
    return GRPOTrainer(config, policy, LIKES_HIGH, optimizer=InterruptedSGD([policy.logits]))


@pytest.mark.usefixtures("_python_handles_interrupts")
@pytest.mark.parametrize("good_steps", [0, 1])
@pytest.mark.parametrize("settings", [{}, {"num_epochs_per_update": 2}])
def test_an_interrupt_within_an_update_is_undone(good_steps: int, settings: dict[str, Any]) -> None:
    trainer = build_interrupted(**settings)
    trainer.optimizer.interrupts = False
    for _ in range(good_steps):
        trainer.step([0, 1])
    trainer.optimizer.zero_grad()
    trainer.optimizer.interrupts = True
    before = state_of(trainer)
    with pytest.raises(KeyboardInterrupt):
        trainer.step([0, 1])
    assert_unchanged(trainer, before)


@pytest.mark.usefixtures("_python_handles_interrupts")
def test_an_interrupt_of_a_step_that_is_not_copied_waits_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is whole and counts, and the interrupt is told."""
    monkeypatch.setattr(grpo.training._rollback, "SMALL", 0)
    interrupted, whole = build_interrupted(), build_interrupted()
    whole.optimizer.interrupts = False
    torch.manual_seed(1)
    whole.step([0, 1])
    after = state_of(whole)
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        interrupted.step([0, 1])
    torch.testing.assert_close(state_of(interrupted), after, rtol=0, atol=0)
    assert interrupted.num_steps == 1


@pytest.mark.usefixtures("_python_handles_interrupts")
def test_an_interrupt_of_a_step_on_pairs_that_is_not_copied_waits_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpo.training._rollback, "SMALL", 0)
    policy = TablePolicy()
    trainer = DPOTrainer(DPOConfig(reference_free=True), policy, optimizer=InterruptedSGD([policy.logits]))
    with pytest.raises(KeyboardInterrupt):
        trainer.step([Preference(0, 1, 2)])
    assert trainer.num_steps == 1
    assert len(trainer.optimizer.state) == 1  # type: ignore[union-attr]


@pytest.mark.usefixtures("_python_handles_interrupts")
def test_without_undoing_an_interrupt_waits_for_the_end_of_the_update() -> None:
    """One update of two is made, and whole."""
    trainer = build_interrupted(num_epochs_per_update=2, undo_failed_updates=False)
    with pytest.raises(KeyboardInterrupt):
        trainer.step([0, 1])
    assert trainer.num_steps == 0
    [state] = trainer.optimizer.state.values()
    expected = TablePolicy().logits + 1.0 - 0.1 * state["momentum_buffer"]
    assert torch.equal(trainer.policy.logits, expected)


@pytest.mark.usefixtures("_python_handles_interrupts")
def test_an_error_of_an_optimizer_that_is_not_copied_is_told_and_the_interrupt_handler_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpo.training._rollback, "SMALL", 0)

    class Fails(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.state[self.param_groups[0]["params"][0]]["half"] = True
            raise BrokenError

    policy = TablePolicy()
    trainer = GRPOTrainer(GRPOConfig(group_size=4), policy, LIKES_HIGH, optimizer=Fails([policy.logits], lr=0.1))
    with pytest.raises(BrokenError):
        trainer.step([0])
    assert len(trainer.optimizer.state) == 0  # type: ignore[union-attr]


def test_an_interrupt_in_another_thread_is_none_of_its_own() -> None:
    """Only the main thread may set signal handlers."""
    trainer = build_interrupted(undo_failed_updates=False)
    trainer.optimizer.interrupts = False
    metrics: list[Any] = []
    thread = threading.Thread(target=lambda: metrics.append(trainer.step([0, 1])))
    thread.start()
    thread.join()
    assert metrics[0]["num_updates"] == 1


@pytest.mark.parametrize(("daemon", "rewinds"), [(False, False), (True, True)])
def test_global_generators_are_left_alone_while_another_thread_may_draw(daemon: bool, rewinds: bool) -> None:
    np.random.seed(0)  # noqa: NPY002
    np.random.rand()  # noqa: NPY002  # its words are made anew with the first draw, and then last for 312
    policy: Any = BatchNormPolicy()
    policy.generator = torch.Generator().manual_seed(0)
    policy.breaks_in = "update_statistics"
    trainer = GRPOTrainer(GRPOConfig(group_size=4), policy, LIKES_HIGH)
    done = threading.Event()
    thread = threading.Thread(target=done.wait, daemon=daemon)
    before = [torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]]  # noqa: NPY002
    own = [policy.generator.get_state(), trainer.generator.get_state()]
    thread.start()
    try:
        with pytest.raises(BrokenError):
            trainer.step([0, 1])
    finally:
        done.set()
        thread.join()
    after = [torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]]  # noqa: NPY002
    assert torch.equal(after[0], before[0]) is rewinds
    assert (after[1] == before[1]) is rewinds
    assert np.array_equal(after[2]["key"], before[2]["key"])
    assert (after[2]["pos"] == before[2]["pos"]) is rewinds
    assert all(
        torch.equal(generator.get_state(), state)
        for generator, state in zip((policy.generator, trainer.generator), own, strict=True)
    )


class RestartingSampler:
    """Goes on from call to call; counts how often it began anew."""

    def __init__(self) -> None:
        self.calls = self.restarts = 0
        self.breaks = False

    def sample(self, policy: Any, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        self.calls += 1
        if self.breaks:
            raise BrokenError
        return policy.generate_actions(states, num_actions_per_state)

    def restart(self) -> None:
        self.restarts += 1


def test_a_sampler_begins_anew_where_it_was_asked_in_a_step_that_failed() -> None:
    sampler = RestartingSampler()
    policy: Any = TablePolicy()
    trainer: Any = GRPOTrainer(GRPOConfig(group_size=2), policy, LIKES_HIGH, sampler=sampler)
    trainer.step([0])
    assert sampler.restarts == 0
    with pytest.raises(ValueError, match="states is empty"):
        trainer.step([])
    assert sampler.restarts == 0
    experience = trainer.collector.collect([0])
    good, policy.get_log_probabilities = policy.get_log_probabilities, lambda *_: None
    with pytest.raises(TypeError):
        trainer.update(experience)
    assert sampler.restarts == 0
    with pytest.raises(TypeError):
        trainer.step([0])
    assert sampler.restarts == 1
    policy.get_log_probabilities = good
    sampler.breaks = True
    with pytest.raises(BrokenError):
        trainer.step([0])
    assert sampler.restarts == 2


def test_a_sampler_begins_anew_where_preferences_could_not_be_collected() -> None:
    sampler = RestartingSampler()
    rewards = FunctionRewards(lambda state, action: torch.nan if state == 1 else float(action))
    collector: Any = PreferenceCollector(TablePolicy(), rewards, sampler=sampler, group_size=2)
    collector.collect([0])
    assert sampler.restarts == 0
    with pytest.raises(ValueError, match="nan"):
        collector.collect([1])
    assert sampler.restarts == 1
    with pytest.raises(ValueError, match="states is empty"):
        collector.collect([])
    assert sampler.restarts == 1


def test_a_collector_restarts_nothing_by_itself() -> None:
    sampler = RestartingSampler()
    sampler.breaks = True
    collector: Any = ExperienceCollector(TablePolicy(), LIKES_HIGH, sampler=sampler)
    with pytest.raises(BrokenError):
        collector.collect([0])
    assert sampler.restarts == 0
