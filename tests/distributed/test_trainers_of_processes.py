"""What trainers of several processes check, and what differs between them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from models import FunctionRewards, Quiet, TablePolicy
from processes import answers_of_ranks, on_ranks
from torch import Tensor, nn

from grpo import (
    DPOConfig,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    Needs,
    OnlineDPOTrainer,
    RankError,
    Terms,
    Trainer,
    TrainerConfig,
    World,
    group_centered_advantages,
    leave_one_out_advantages,
)


def rewards() -> FunctionRewards:
    return FunctionRewards(lambda state, action: float(action == state))


def with_other_settings(world: World, what: str) -> None:
    policy = TablePolicy(num_actions=4 + (world.rank if what == "shape" else 0))
    if what == "value" and world.rank == 1:
        with torch.no_grad():
            policy.logits[0, 0] += 1e-15
    if what == "dtype" and world.rank == 1:
        policy = TablePolicy(dtype=torch.float32)
    if what == "trained" and world.rank == 1:
        policy.logits.requires_grad_(False)
    world.compare_every += world.rank if what == "compare_every" else 0
    GRPOTrainer(GRPOConfig(seed=world.rank if what == "seed" else 0), policy, rewards(), world=world)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("seed", "train in different ways: config.seed is 0 on rank 0 and 1 on rank 1: construct the same trainer"),
        ("compare_every", "compare_every is 100 on rank 0 and 101 on rank 1"),
        ("shape", "parameters of the policy differ between rank 0 and rank 1 in logits (float64 ["),
        ("dtype", "parameters of the policy differ between rank 0 and rank 1 in logits (float64 ["),
        ("trained", ", trained and float64 ["),
        ("value", "parameters of the policy differ between rank 0 and rank 1 in logits"),
    ],
)
def test_processes_that_differ(what: str, message: str) -> None:
    for _, error, _ in answers_of_ranks(2, with_other_settings, what):
        assert isinstance(error, ValueError)
        assert message in str(error)


class Draws:
    """A sampler that is not the policy."""

    def sample(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        return [[0] * num_actions_per_state for _ in states]


class OtherRewards(FunctionRewards):
    """Rewards of another class."""


def with_other_parts(world: World, what: str) -> None:
    policy, reference = TablePolicy(), TablePolicy()
    other = world.rank == 1
    if what == "weights of the reference" and other:
        with torch.no_grad():
            reference.logits += 1
    function = leave_one_out_advantages if what == "estimator" and other else group_centered_advantages
    parts: dict[str, Any] = {
        "advantage_estimator": GroupRelative(function),
        "objective": GRPOObjective(kl_coefficient=0.2 if what == "objective" and other else 0.1),
        "reference_policy": None if what == "reference" and not other else reference,
        "optimizer": torch.optim.SGD([policy.logits], lr=0.2 if what == "optimizer" and other else 0.1),
        "sampler": Draws() if what == "sampler" and other else None,
    }
    if what == "reference":
        parts["objective"] = GRPOObjective()
    kind = OtherRewards if what == "rewards" and other else FunctionRewards
    Trainer(TrainerConfig(), policy, kind(lambda state, action: 0.0), world=world, **parts)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "estimator",
            "advantage_estimator.function is group_centered_advantages on rank 0 and leave_one_out",
        ),
        ("objective", "objective.kl_coefficient is 0.1 on rank 0 and 0.2 on rank 1"),
        ("reference", "reference_policy is missing on rank 0 and TablePolicy on rank 1"),
        ("weights of the reference", "parameters of the reference policy differ between rank 0 and rank 1 in logits"),
        ("optimizer", "optimizer is SGD .*'lr': 0.1,.* on rank 0 and SGD .*'lr': 0.2,.* on rank 1"),
        ("sampler", "sampler is PolicySampler on rank 0 and Draws on rank 1"),
        ("rewards", "reward_model is FunctionRewards on rank 0 and OtherRewards on rank 1"),
    ],
)
def test_processes_whose_parts_differ(what: str, message: str) -> None:
    for _, error, _ in answers_of_ranks(2, with_other_parts, what):
        assert isinstance(error, ValueError)
        assert re.search(message, str(error))


class Drifting(TablePolicy):
    """A policy that changes its parameters by itself, each process otherwise."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def update_statistics(self, batch: Any) -> None:
        with torch.no_grad():
            self.logits += 0.001 * self.rank


def drifts(world: World) -> Any:
    world.compare_every = 3
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(GRPOConfig(), Drifting(world.rank), rewards(), world=world)
    for _ in range(10):
        try:
            trainer.step([world.rank])
        except ValueError as error:
            return trainer.num_steps, str(error)
    return None


def test_parameters_are_compared_now_and_then() -> None:
    for num_steps, message in on_ranks(2, drifts):
        assert num_steps == 2
        assert "parameters of the policy differ between rank 0 and rank 1 in logits after step 3" in message


def samples(world: World) -> Any:
    torch.manual_seed(5)
    policy = TablePolicy()
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(GRPOConfig(group_size=32), policy, rewards(), world=world)
    metrics = trainer.step([0])
    assert trainer.last_experience is not None
    return list(trainer.last_experience.actions), metrics, policy.logits.tolist()


def test_processes_draw_other_samples_and_tell_the_same() -> None:
    torch.manual_seed(5)
    alone, _, _ = samples(World())
    (first, first_metrics, first_logits), (second, metrics, logits) = on_ranks(2, samples)
    assert first == alone
    assert first != second
    assert first_metrics == metrics
    assert first_logits == logits
    assert metrics["num_samples"] == 64


class Normalised(nn.Module):
    """A network with batch normalisation, whose running mean depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))

    def generate_actions(self, states: Tensor, num_actions_per_state: int, **kwargs: Any) -> Tensor:
        return torch.randint(0, 3, (len(states), num_actions_per_state))

    def get_log_probabilities(self, states: Tensor, actions: Tensor) -> Tensor:
        log_probs: Tensor = self.network(states).log_softmax(-1).gather(1, actions[:, None])[:, 0]
        return log_probs

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())


def normalises(world: World) -> list[Any]:
    world.compare_every = 1
    policy = Normalised()
    reward = FunctionRewards(lambda state, action: float(action), dtype=torch.float32)
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(GRPOConfig(), policy, reward, world=world)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        trainer.step(torch.randn(4, 2, generator=generator)[world.part_of(4)])
    return [buffer.tolist() for buffer in policy.buffers()]


def test_buffers_that_a_forward_pass_moves_stay_alike() -> None:
    first, second = on_ranks(2, normalises)
    assert first == second
    assert first[2] > 0


class Failing(Quiet):
    """Rewards that fail on one process, at one step."""

    def __init__(self, rank: int, world: World) -> None:
        self.fails = rank == world.rank
        self.calls = 0

    def compute_rewards(self, states: Any, actions: Any) -> Tensor:
        self.calls += 1
        if self.fails and self.calls == 2:
            raise KeyError("no such answer")
        return torch.tensor([float(a == s) for s, a in zip(states, actions, strict=True)], dtype=torch.float64)


def goes_on(world: World) -> Any:
    policy = TablePolicy()
    config = GRPOConfig(batch_size=4, num_epochs_per_update=2, learning_rate=0.1)
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(config, policy, Failing(1, world), world=world)
    trainer.step([world.rank])
    before, generator, random = policy.logits.detach().clone(), trainer.generator.get_state(), torch.get_rng_state()
    try:
        trainer.step([world.rank])
    except (KeyError, RankError) as error:
        told = f"{type(error).__name__}: {error}"
    assert torch.equal(policy.logits, before)
    assert torch.equal(trainer.generator.get_state(), generator)
    assert torch.equal(torch.get_rng_state(), random)
    assert trainer.num_steps == 1
    trainer.step([world.rank])
    return told, policy.logits.tolist()


def test_a_step_that_fails_on_one_process_is_put_back_on_all() -> None:
    (first, first_logits), (second, logits) = on_ranks(2, goes_on)
    assert first == "RankError: rank 1 failed: KeyError: 'no such answer'"
    assert second == "KeyError: 'no such answer'"
    assert first_logits == logits


def without_states(world: World) -> None:
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(GRPOConfig(), TablePolicy(), rewards(), world=world)
    trainer.step([])


def test_no_states_on_any_process() -> None:
    for _, error, _ in answers_of_ranks(2, without_states):
        assert isinstance(error, ValueError)
        assert "states is empty on all processes" in str(error)


def test_a_world_that_is_none() -> None:
    with pytest.raises(TypeError, match=r"world is 2, expected a grpo.World"):
        GRPOTrainer(GRPOConfig(), TablePolicy(), rewards(), world=2)  # type: ignore[arg-type]


def test_an_objective_that_looks_at_all_samples_takes_no_micro_batches() -> None:
    @Needs(critic=False, reference=False, all_samples=True)
    def objective(evaluation: Any, decisions: Any) -> Terms:
        return Terms(-evaluation.log_probs * decisions.advantages, {})

    with pytest.raises(ValueError, match="micro_batch_size=2 would show it parts"):
        GRPOTrainer(GRPOConfig(micro_batch_size=2), TablePolicy(), rewards(), objective=objective)


def test_a_process_of_several_that_is_told_of_no_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.warns(UserWarning, match=r"one of 4, but the trainer was given no world, and trains by itself"):
        GRPOTrainer(GRPOConfig(), TablePolicy(), rewards())
    GRPOTrainer(GRPOConfig(), TablePolicy(), rewards(), world=World())


def test_a_policy_that_averages_gradients_itself_is_refused() -> None:
    policy: Any = Normalised()
    policy.network = type("Wrapped", (nn.parallel.DistributedDataParallel,), {"__init__": nn.Module.__init__})()
    for wrapped in (policy, policy.network):
        with pytest.raises(TypeError, match=r"holds a DistributedDataParallel.*model\.module.*World\.from_environment"):
            GRPOTrainer(GRPOConfig(), wrapped, rewards())
        with pytest.raises(TypeError, match="holds a DistributedDataParallel"):
            OnlineDPOTrainer(DPOConfig(), wrapped, rewards(), wrapped)


def on_devices_of_their_own(world: World) -> float:
    config = GRPOConfig(device=("cpu", "cpu:0")[world.rank])
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(config, TablePolicy(), rewards(), world=world)
    return trainer.step([world.rank])["num_samples"]


def test_each_process_may_have_a_device_of_its_own() -> None:
    assert on_ranks(2, on_devices_of_their_own) == [16, 16]


def trained_in_order(world: World, transposed: bool) -> Tensor:
    torch.manual_seed(5)
    policy = TablePolicy()
    if transposed:
        policy.logits = policy.logits.detach().T.contiguous().T.requires_grad_()
    trainer = GRPOTrainer(GRPOConfig(group_size=4, learning_rate=0.1), policy, rewards(), world=world)
    for _ in range(2):
        trainer.step(world.share([0, 1, 2]))
    return policy.logits.detach().contiguous()


def test_parameters_that_lie_otherwise_in_memory() -> None:
    straight, transposed = (on_ranks(2, trained_in_order, order)[0] for order in (False, True))
    torch.testing.assert_close(transposed, straight)
