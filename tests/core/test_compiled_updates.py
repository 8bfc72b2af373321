"""``compile_updates`` computes what is computed without it, and says what it cannot compile.

PyTorch traces and differentiates here as it always does, but what it has made is run as it is: to generate and compile
C++ takes seconds for each case. Trainings with it, from an empty cache, are among the tests of reliability.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from changing_numbers import USES, Use, history
from models import EpisodePolicy, FunctionRewards, SequencePolicy, SequentialTablePolicy, TablePolicy, parameter_values
from off_policy_updates import OBJECTIVES, Policy, every_objective, reward, update
from state_laws import TrainerSteps, check_goes_on
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager
from torch.nn.modules.module import register_module_forward_pre_hook

from grpo import (
    AdaptiveKLCoefficient,
    Decisions,
    Evaluation,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    KLPenaltySurrogate,
    LinearSchedule,
    NonFiniteError,
    TensorBatch,
    Terms,
    World,
)
from grpo.training._gradient_sum import GradientSum


@pytest.fixture(autouse=True)
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Trace, but generate no code; what was traced so far."""
    compiled = torch.compile
    traced: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        traced.append(graph)
        return aot_eager(graph, inputs)

    @functools.wraps(compiled)
    def traced_only(function: Any, *, options: Any, **settings: Any) -> Any:
        return compiled(function, backend=backend, **settings)

    monkeypatch.setattr(torch, "compile", traced_only)
    return traced


def trainer(policy: Any, **settings: Any) -> GRPOTrainer[Any, Any]:
    config = {"group_size": 6, "batch_size": 8, "learning_rate": 0.1, "compile_updates": True} | settings
    objective = config.pop("objective", None)
    return GRPOTrainer(GRPOConfig(**config), policy, FunctionRewards(reward), objective=objective)


@every_objective
@pytest.mark.parametrize("policy_class", [TablePolicy, SequentialTablePolicy, EpisodePolicy])
def test_the_same_gradient_and_metrics(policy_class: type[Policy], objective: Any, traces: list[Any]) -> None:
    expected, expected_metrics = update(policy_class, objective)
    assert not traces
    compiled, metrics = update(policy_class, objective, compile_updates=True)
    assert len(traces) == 1
    torch.testing.assert_close(compiled, expected, rtol=1e-9, atol=1e-12)
    assert metrics == pytest.approx(expected_metrics, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("settings", [{"micro_batch_size": 3}, {"target_kl": 0.01}, {"max_grad_norm": 0.1}])
def test_the_same_training_with_sizes_that_change(settings: dict[str, Any], traces: list[Any]) -> None:
    """Thirty rows in minibatches of eight: the last one has six, and is split otherwise."""
    clip = LinearSchedule(start=0.3, end=0.0, num_steps=3)
    changes = {"num_epochs_per_update": 2, "clip_low": clip, "clip_high": clip, **settings}
    histories = []
    for compiled in (False, True):
        torch.manual_seed(0)
        training = trainer(SequentialTablePolicy(), compile_updates=compiled, **changes)
        histories.append([training.step([0, 1, 2, 0, 1]) for _ in range(5)])
    for metrics, expected in zip(histories[1], histories[0], strict=True):
        assert metrics == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert 1 <= len(traces) <= 3, "nothing is compiled again for another size or step, but where a schedule has ended"


def test_an_objective_that_adapts_is_refused() -> None:
    objective = GRPOObjective(surrogate=KLPenaltySurrogate(coefficient=AdaptiveKLCoefficient(target=1e-4)))
    with pytest.raises(ValueError, match=r"GRPOObjective adapts from step to step.*leave compile_updates out"):
        trainer(SequentialTablePolicy(), objective=objective)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_numbers_that_change_are_those_of_the_step(use: Use) -> None:
    numbers = (0.9, 0.5, 0.7, 0.5)
    expected = history(use, numbers, compile_updates=False)
    for metrics, others in zip(history(use, numbers, compile_updates=True), expected, strict=True):
        assert metrics == pytest.approx(others, rel=1e-9, abs=1e-12)


def test_a_training_goes_on_as_it_was() -> None:
    check_goes_on(lambda: TrainerSteps(trainer(SequentialTablePolicy(), num_epochs_per_update=2), [0, 1, 2, 1]))


def test_dropout_draws_the_same() -> None:
    class Dropping(SequentialTablePolicy):
        def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
            kept = torch.nn.functional.dropout(self.logits, 0.5)
            return Evaluation(kept.log_softmax(-1)[batch.observations, batch.actions])

    expected, _ = update(Dropping, OBJECTIVES["reinforce"])
    compiled, _ = update(Dropping, OBJECTIVES["reinforce"], compile_updates=True)
    torch.testing.assert_close(compiled, expected)


def test_what_cannot_be_compiled_is_named_and_nothing_changes() -> None:
    policy = SequencePolicy()  # how many decisions a row has depends on what was drawn
    training = trainer(policy)
    before = parameter_values(policy.get_parameters())
    generator = training.generator.get_state()
    with pytest.raises(ValueError, match=r"SequencePolicy and objective GRPOObjective cannot be compiled.*leave comp"):
        training.step([0, 1, 2])
    assert training.num_steps == 0
    assert torch.equal(training.generator.get_state(), generator)
    assert torch.equal(policy.transitions, before["transitions"])


def test_what_changes_with_every_step_is_refused_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo.training._compiled_gradient.MOST_VERSIONS", 3)

    class Renamed(SequentialTablePolicy):
        name = "a"

        def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
            assert self.name != "nobody"
            return super().evaluate_actions(batch)

    policy = Renamed()
    training = trainer(policy)
    for number in range(3):
        policy.name = f"number {number}"
        training.step([0, 1, 2])
    policy.name = "one more"
    with pytest.raises(ValueError, match=r"Renamed and.*compiled for the 4th time, since attributes.*leave compile_"):
        training.step([0, 1, 2])


def test_errors_of_models_come_by_themselves() -> None:
    class Wrong(SequentialTablePolicy):
        def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
            return Evaluation(super().evaluate_actions(batch).log_probs.unsqueeze(1))

    class Infinite(SequentialTablePolicy):
        def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
            log_probs = super().evaluate_actions(batch).log_probs
            return Evaluation(log_probs * torch.where(batch.actions == 2, float("inf"), 1.0))

    class Raising(SequentialTablePolicy):
        def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
            if torch.is_grad_enabled():
                raise RuntimeError("the network is not there")
            return super().evaluate_actions(batch)

    def detached(evaluation: Evaluation, decisions: Any) -> Terms:
        return Terms(-evaluation.log_probs.detach() * decisions.advantages, {})

    with pytest.raises(ValueError, match=r"log-probs of shape \[18, 1\], expected \[18\].*squeeze the last"):
        trainer(Wrong(), batch_size=None).step([0, 1, 2])
    with pytest.raises(NonFiniteError, match=r"log-probs with -?(inf|nan) for sample \d+"):
        trainer(Infinite()).step([0, 1, 2])
    with pytest.raises(RuntimeError, match="the network is not there"):
        trainer(Raising()).step([0, 1, 2])
    with pytest.raises(ValueError, match="objective returned a loss without gradient"):
        trainer(SequentialTablePolicy(), objective=detached).step([0, 1, 2])


def test_an_update_that_is_not_finite_is_left_out() -> None:
    class SometimesInfinite(SequentialTablePolicy):
        def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
            log_probs = super().evaluate_actions(batch).log_probs
            return Evaluation(log_probs + torch.where(batch.observations == 2, float("inf"), 0.0))

    training = trainer(SometimesInfinite(), batch_size=None, non_finite="skip")
    assert training.step([0, 1])["skipped_updates"] == 0
    assert training.step([0, 2])["skipped_updates"] == 1


def test_hooks_of_parameters_are_refused_and_those_of_modules_called() -> None:
    class Module(SequentialTablePolicy):
        def __init__(self) -> None:
            super().__init__()
            self.same = torch.nn.Identity()

        def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
            evaluation = super().evaluate_actions(batch)
            return Evaluation(self.same(evaluation.log_probs))

    policy = Module()
    hooked = trainer(policy)
    handle = policy.logits.register_hook(lambda gradient: 2 * gradient)
    with pytest.raises(ValueError, match=r"a parameter of shape \[3, 4\] has a hook, which compiled updates would not"):
        hooked.step([0, 1, 2])
    handle.remove()
    hooked.step([0, 1, 2])
    policy.same.register_forward_hook(lambda module, given, output: output.detach() + 0 * output)
    assert hooked.step([0, 1, 2])["grad_norm"] == 0


def test_hooks_of_all_modules_are_refused() -> None:
    handle = register_module_forward_pre_hook(lambda module, given: None)
    try:
        with pytest.raises(ValueError, match="a hook of all modules is registered"):
            trainer(SequentialTablePolicy()).step([0, 1, 2])
    finally:
        handle.remove()


def test_a_step_that_is_looked_up_is_the_right_one() -> None:
    def looked_up(evaluation: Evaluation, decisions: Decisions) -> Terms:
        factor = {0: 3.0, 1: 2.0}.get(decisions.step, 1.0)
        return Terms(-factor * evaluation.log_probs * decisions.advantages, {})

    norms = []
    for compiled in (False, True):
        torch.manual_seed(0)
        training = trainer(SequentialTablePolicy(), objective=looked_up, compile_updates=compiled)
        norms.append([training.step([0, 1, 2])["grad_norm"] for _ in range(4)])
    assert norms[1] == pytest.approx(norms[0])


@pytest.mark.parametrize("non_finite", ["raise", "skip"])
def test_what_is_not_finite_once_is_not_taken_the_second_time(non_finite: Any) -> None:
    """It is evaluated again without compilation, to say where."""

    class Once(SequentialTablePolicy):
        def __init__(self) -> None:
            super().__init__()
            self.times = torch.zeros(())

        def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
            evaluation = super().evaluate_actions(batch)
            if not torch.is_grad_enabled():
                return evaluation
            self.times.add_(1)
            return Evaluation(evaluation.log_probs * torch.where(self.times == 1, float("inf"), 1.0))

    training = trainer(Once(), non_finite=non_finite, batch_size=None)
    if non_finite == "skip":
        assert [training.step([0, 1, 2])["skipped_updates"] for _ in range(2)] == [1, 0]
    else:
        with pytest.raises(NonFiniteError, match="finite numbers when it was asked again without"):
            training.step([0, 1, 2])


def test_frozen_tensors_of_the_optimizer_stay_as_they_are() -> None:
    policy = SequentialTablePolicy()
    frozen = torch.ones(2)
    optimizer = torch.optim.SGD([policy.logits, frozen], lr=0.1)
    config = GRPOConfig(group_size=4, compile_updates=True)
    GRPOTrainer(config, policy, FunctionRewards(reward), optimizer=optimizer).step([0, 1, 2])
    assert frozen.grad is None
    assert torch.equal(frozen, torch.ones(2))


def test_a_gradient_that_is_the_weight_itself_leaves_the_weight_alone() -> None:
    """Of w²/2 it is w, and it is scaled down before the update."""

    def decay(evaluation: Evaluation, decisions: Decisions) -> Terms:
        return Terms(evaluation.log_probs * 0 + policy.logits.square().sum() / 2, {})

    changes = []
    for compiled in (False, True):
        torch.manual_seed(0)
        policy = SequentialTablePolicy()
        with torch.no_grad():
            policy.logits.copy_(torch.arange(12.0).view(3, 4))
        trainer(policy, objective=decay, compile_updates=compiled, max_grad_norm=0.1).step([0, 1, 2])
        changes.append(policy.logits.detach())
    torch.testing.assert_close(changes[1], changes[0])


def test_another_objective_is_the_one_that_counts() -> None:
    training = trainer(SequentialTablePolicy(), objective=GRPOObjective())
    assert training.step([0, 1, 2])["grad_norm"] > 0

    def nothing(evaluation: Evaluation, decisions: Decisions) -> Terms:
        return Terms(0 * evaluation.log_probs, {})

    training.objective = nothing
    assert training.step([0, 1, 2])["grad_norm"] == 0


def test_a_trainer_is_copied() -> None:
    training = trainer(SequentialTablePolicy())
    training.step([0, 1, 2])
    copied = copy.deepcopy(training)
    metrics = []
    for each in (training, copied):
        torch.manual_seed(1)
        metrics.append(each.step([0, 1, 2]))
    assert metrics[0] == metrics[1]


class SummedTables(SequentialTablePolicy):
    """Of tables that get the same gradient, one in single precision, and one that gets none."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = [torch.zeros(3, 4, dtype=dtype).requires_grad_() for dtype in (torch.float64, torch.float32)]
        self.tables.append(torch.ones(2).requires_grad_())

    def get_parameters(self) -> dict[str, Tensor]:
        return super().get_parameters() | {f"table {index}": table for index, table in enumerate(self.tables)}

    def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
        summed = self.logits + self.tables[0] + self.tables[1].double()
        return Evaluation(summed.log_softmax(-1)[batch.observations, batch.actions])


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_gradients_that_are_the_same_are_summed_and_scaled_once(micro_batch_size: int | None) -> None:
    trained = []
    for compiled in (False, True):
        torch.manual_seed(0)
        policy = SummedTables()
        sgd = torch.optim.SGD(policy.get_parameters().values(), lr=1.0)
        settings = {"max_grad_norm": 0.1, "micro_batch_size": micro_batch_size, "compile_updates": compiled}
        config = GRPOConfig(group_size=6, batch_size=8, **settings)
        training = GRPOTrainer(config, policy, FunctionRewards(reward), optimizer=sgd)
        norms = [training.step([0, 1, 2])["grad_norm"] for _ in range(3)]
        assert policy.tables[-1].grad is None
        trained.append((norms, parameter_values(policy.get_parameters())))
    assert min(trained[0][0]) > 0.1
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-6, atol=1e-8)


def test_what_another_optimizer_trains_gets_its_gradient() -> None:
    gradients = []
    for compiled in (False, True):
        torch.manual_seed(0)
        policy = SummedTables()
        sgd = torch.optim.SGD([policy.logits], lr=1.0)
        config = GRPOConfig(group_size=6, compile_updates=compiled)
        GRPOTrainer(config, policy, FunctionRewards(reward), optimizer=sgd).step([0, 1, 2])
        gradients.append([policy.tables[0].grad, policy.tables[1].grad])
    assert all(gradient is not None and gradient.any() for gradient in gradients[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-8)


def test_hooks_of_sums_over_processes_are_left_alone() -> None:
    policy = SummedTables()
    training = GRPOTrainer(GRPOConfig(group_size=6, compile_updates=True), policy, FunctionRewards(reward))
    GradientSum([policy.logits, *policy.tables], World())  # of two kinds, and so in two buckets
    assert training.step([0, 1, 2])["grad_norm"] > 0
    policy.logits.register_post_accumulate_grad_hook(print)
    with pytest.raises(ValueError, match=r"a parameter of shape \[3, 4\] has a hook"):
        training.step([0, 1, 2])


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_anomalies_are_not_looked_for() -> None:
    training = trainer(SequentialTablePolicy())
    with (
        torch.autograd.set_detect_anomaly(True),
        pytest.raises(ValueError, match=r"set_detect_anomaly is on.*leave compile_updates out"),
    ):
        training.step([0, 1, 2])
    assert training.step([0, 1, 2])["grad_norm"] > 0


def test_what_pytorch_must_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, *, fullgraph=False, dynamic=None: model)
    with pytest.raises(ValueError, match=rf"compile_updates needs PyTorch 2.13 or newer.*{torch.__version__[:4]}"):
        trainer(SequentialTablePolicy())
