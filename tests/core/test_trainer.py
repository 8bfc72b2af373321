"""The trainer as its users meet it."""

from __future__ import annotations

import copy
import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FunctionRewards, Quiet, SequencePolicy, TablePolicy

from grpo import (
    Decisions,
    Evaluation,
    Experience,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    TensorBatch,
    Terms,
    Trainer,
    TrainerConfig,
)


class DummyPolicy:
    """Random log-probs and no parameters."""

    def generate_actions(self, states, num_actions_per_state, **kwargs):  # type: ignore[no-untyped-def]
        return [[f"action {index}" for index in range(num_actions_per_state)] for _ in states]

    def get_log_probabilities(self, states, actions):  # type: ignore[no-untyped-def]
        return torch.randn(len(actions))

    def get_parameters(self):  # type: ignore[no-untyped-def]
        return {}

    def train(self):  # type: ignore[no-untyped-def]
        return self

    def eval(self):  # type: ignore[no-untyped-def]
        return self

    def to(self, device):  # type: ignore[no-untyped-def]
        return self


class DummyRewards:
    """Random rewards."""

    def compute_rewards(self, states, actions):  # type: ignore[no-untyped-def]
        return torch.randn(len(actions))

    def train(self):  # type: ignore[no-untyped-def]
        return self

    def eval(self):  # type: ignore[no-untyped-def]
        return self

    def to(self, device):  # type: ignore[no-untyped-def]
        return self


def test_a_dummy_without_parameters_gives_metrics_and_one_warning() -> None:
    policy, reward_model = DummyPolicy(), DummyRewards()
    with pytest.warns(UserWarning, match="no trainable parameters") as caught:
        trainer = GRPOTrainer(
            config=GRPOConfig(group_size=4, batch_size=2, num_epochs_per_update=2),
            policy=policy,
            reference_policy=copy.deepcopy(policy),
            reward_model=reward_model,
            optimizer=None,
        )
    assert len(caught) == 1
    metrics = trainer.step(["state_1", "state_2", "state_3", "state_4"])
    assert metrics["num_samples"] == 16
    assert metrics["num_updates"] == 16
    assert {"reward", "reward_std", "loss", "kl", "clip_fraction", "approx_kl"} <= metrics.keys()
    assert all(isinstance(value, float) for value in metrics.values())


def grade(state: int, action: int) -> float:
    return float(action == state)


@pytest.mark.parametrize("settings", [{}, {"batch_size": 16, "num_epochs_per_update": 2}])
def test_a_minimal_policy_learns(settings: dict[str, int]) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        policy = TablePolicy(dtype=torch.float32)
        config = GRPOConfig(group_size=16, learning_rate=0.1, **settings)
        trainer = GRPOTrainer(config, policy, FunctionRewards(grade, torch.float32))
        for _ in range(100):
            metrics = trainer.step([0, 1, 2])
        assert metrics["reward"] > 0.9


def test_a_reference_policy_holds_the_policy_near() -> None:
    distances = []
    for kl_coefficient in (0.0, 3.0):
        torch.manual_seed(0)
        policy = TablePolicy()
        reference = copy.deepcopy(policy)
        config = GRPOConfig(group_size=16, learning_rate=0.1, kl_coefficient=kl_coefficient)
        with nullcontext() if kl_coefficient > 0 else pytest.warns(UserWarning, match="reference_policy is not used"):
            trainer = GRPOTrainer(config, policy, FunctionRewards(grade), reference)
        for _ in range(60):
            trainer.step([0, 1, 2])
        distances.append((policy.logits.softmax(-1) - reference.logits.softmax(-1)).abs().max().item())
        assert not torch.equal(policy.logits, reference.logits)
    assert distances[1] < 0.5 * distances[0]


def test_the_kl_coefficient_is_the_papers_with_a_reference_and_none_without() -> None:
    for reference, expected in ((TablePolicy(), 0.04), (None, 0.0)):
        trainer = GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade), reference)
        assert isinstance(trainer.objective, GRPOObjective)
        assert trainer.objective.kl_coefficient == expected


def test_an_entropy_bonus_keeps_the_policy_open() -> None:
    entropies = []
    for coefficient in (0.0, 1.0):
        torch.manual_seed(0)
        policy = SequencePolicy()
        config = GRPOConfig(group_size=16, learning_rate=0.1, entropy_coefficient=coefficient)
        trainer = GRPOTrainer(config, policy, FunctionRewards(lambda state, action: -float(len(action))))
        for _ in range(60):
            metrics = trainer.step([1, 2])
        entropies.append(metrics["entropy"])
    assert entropies[1] > 2 * entropies[0]


def test_your_own_estimator_and_objective() -> None:
    def estimator(experience: Experience) -> torch.Tensor:
        return experience.sample_rewards.values - 0.25

    def objective(evaluation: Evaluation, decisions: Any) -> Terms:
        return Terms(-decisions.advantages * evaluation.log_probs, {"mine": decisions.advantages})

    policy = TablePolicy()
    trainer = Trainer(
        TrainerConfig(group_size=1, learning_rate=0.1),
        policy,
        FunctionRewards(grade),
        advantage_estimator=estimator,
        objective=objective,
    )
    for _ in range(5):
        metrics = trainer.step([0, 1, 2, 0])
    assert metrics["mine"] == pytest.approx(metrics["reward"] - 0.25)


@given(st.integers(1, 40), st.integers(1, 3))
def test_every_row_is_visited_once_an_epoch(batch_size: int, epochs: int) -> None:
    policy = TablePolicy()
    config = GRPOConfig(group_size=4, batch_size=batch_size, num_epochs_per_update=epochs)
    trainer = GRPOTrainer(config, policy, FunctionRewards(grade))
    seen: list[int] = []
    objective = trainer.objective

    def counting(evaluation: Evaluation, decisions: Decisions) -> Terms:
        seen.append(len(decisions.advantages))
        return objective(evaluation, decisions)

    trainer.objective = counting
    metrics = trainer.step([0, 1, 2, 1, 0])
    assert sum(seen) == 20 * epochs
    assert max(seen) <= batch_size
    assert metrics["num_updates"] == len(seen) == config.num_updates(20)


def test_rewards_may_come_per_decision() -> None:
    class PerToken(Quiet):
        def compute_rewards(self, states: Any, actions: Any) -> torch.Tensor:
            return torch.tensor([float(token == 2) for action in actions for token in action])

    policy = SequencePolicy()
    trainer = GRPOTrainer(GRPOConfig(group_size=4), policy, PerToken())
    experience = trainer.collector.collect([1, 2])
    expected = [float(sum(token == 2 for token in action)) for action in experience.actions]
    assert experience.sample_rewards.values.tolist() == expected
    assert trainer.update(experience)["reward"] == pytest.approx(sum(expected) / 8)


def test_metrics_of_rewards() -> None:
    class Fixed(Quiet):
        def compute_rewards(self, states: Any, actions: Any) -> torch.Tensor:
            return torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0, 5.0])

    metrics = GRPOTrainer(GRPOConfig(group_size=3), TablePolicy(), Fixed()).step([0, 1])
    assert metrics["reward"] == pytest.approx(3.5)
    assert metrics["reward_std"] == pytest.approx(0.5)  # 1 and 0
    assert metrics["frac_reward_zero_std"] == 0.5


def test_states_and_actions_may_be_tensors() -> None:
    class Gaussian(Quiet):
        def __init__(self) -> None:
            self.weight = torch.zeros(2, 3, requires_grad=True)

        def generate_actions(self, states: torch.Tensor, num_actions_per_state: int, **kwargs: Any) -> torch.Tensor:
            assert isinstance(states, torch.Tensor)
            mean = (states @ self.weight).unsqueeze(1)
            return mean + torch.randn(len(states), num_actions_per_state, 3)

        def get_log_probabilities(self, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
            assert actions.shape == (len(states), 3)
            return -0.5 * (actions - states @ self.weight).square().sum(-1)

        def get_parameters(self) -> dict[str, torch.Tensor]:
            return {"weight": self.weight}

    class NearTarget(Quiet):
        def compute_rewards(self, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
            return -(actions - states.sum(-1, keepdim=True)).square().sum(-1)

    torch.manual_seed(0)
    policy = Gaussian()
    trainer = GRPOTrainer(GRPOConfig(group_size=16, batch_size=32, learning_rate=0.05), policy, NearTarget())
    for _ in range(60):
        trainer.step(torch.randn(8, 2))
    torch.testing.assert_close(policy.weight.detach(), torch.ones(2, 3), rtol=0, atol=0.3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_log_probs_of_half_precision_models_are_raised_to_float32(dtype: torch.dtype) -> None:
    policy = TablePolicy(dtype=dtype)
    trainer = GRPOTrainer(
        GRPOConfig(group_size=8, batch_size=8, learning_rate=0.05), policy, FunctionRewards(grade, torch.float32)
    )
    experience = trainer.collector.collect([0, 1, 2])
    assert experience.old_log_probs is not None
    assert experience.old_log_probs.dtype == torch.float32
    metrics = trainer.update(experience)
    assert metrics["grad_norm"] > 0
    assert policy.logits.dtype == dtype


def test_the_gradient_norm_is_bounded() -> None:
    changes = []
    for bound in (None, 1e-3):
        torch.manual_seed(0)
        policy = TablePolicy()
        before = policy.logits.detach().clone()
        optimizer = torch.optim.SGD([policy.logits], lr=1.0)
        config = GRPOConfig(max_grad_norm=bound)
        metrics = GRPOTrainer(config, policy, FunctionRewards(grade), optimizer=optimizer).step([0, 1, 2])
        changes.append((policy.logits.detach() - before).norm().item())
        assert metrics["grad_norm"] == pytest.approx(changes[0])
    assert changes[1] == pytest.approx(1e-3, rel=1e-3)


def test_modes_and_devices() -> None:
    class Noting(TablePolicy):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def train(self) -> None:
            self.calls.append("train")

        def eval(self) -> None:
            self.calls.append("eval")

        def to(self, device: Any) -> None:
            self.calls.append(f"to {device}")

        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            self.calls.append("generate")
            return super().generate_actions(states, num_actions_per_state)

    policy = Noting()
    GRPOTrainer(GRPOConfig(device="cpu"), policy, FunctionRewards(grade)).step([0])
    assert policy.calls == ["to cpu", "eval", "generate", "train"]


def test_generation_options_reach_the_policy() -> None:
    class Noting(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            assert kwargs == {"temperature": 0.5}
            return super().generate_actions(states, num_actions_per_state)

    GRPOTrainer(GRPOConfig(), Noting(), FunctionRewards(grade)).step([0], temperature=0.5)


def test_no_step_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade)).step([0, 1])


def test_tensor_batch_counts_must_agree() -> None:
    with pytest.raises(ValueError, match="3 observations, 2 actions"):
        TensorBatch(torch.zeros(3, 1), torch.zeros(2))


def test_losses_are_of_the_precision_of_the_log_probs() -> None:
    seen = []
    policy = TablePolicy(dtype=torch.float32)
    trainer = GRPOTrainer(GRPOConfig(), policy, FunctionRewards(grade, torch.float64))
    objective = trainer.objective

    def noting(evaluation: Evaluation, decisions: Decisions) -> Terms:
        terms = objective(evaluation, decisions)
        seen.append(terms.loss.dtype)
        return terms

    trainer.objective = noting
    trainer.step([0])
    assert seen == [torch.float32]


def test_groups_of_tensors_of_different_shapes_stay_apart() -> None:
    class Ragged(Quiet):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return [torch.full((num_actions_per_state, length), 1.0) for length in states]

        def get_log_probabilities(self, states: Any, actions: Any) -> torch.Tensor:
            assert [len(action) for action in actions] == states
            return torch.zeros(len(actions))

        def get_parameters(self) -> dict[str, torch.Tensor]:
            return {}

    with pytest.warns(UserWarning, match="no trainable parameters"):
        trainer = GRPOTrainer(GRPOConfig(), Ragged(), FunctionRewards(lambda state, action: float(action.sum())))
    assert trainer.step([2, 5])["reward"] == 3.5


def test_a_sequential_policy_behind_a_proxy_stays_sequential() -> None:
    class Proxy:
        def __init__(self, policy: Any) -> None:
            self.policy = policy

        def __getattr__(self, name: str) -> Any:
            return getattr(self.policy, name)

    results = []
    for wrap in (lambda policy: policy, Proxy):
        torch.manual_seed(0)
        trainer = GRPOTrainer(GRPOConfig(), wrap(SequencePolicy()), FunctionRewards(lambda state, action: action[0]))
        results.append(trainer.step([1, 2]))
    assert results[0] == results[1]
    assert results[0]["num_decisions"] > results[0]["num_samples"]


def test_a_step_learns_within_no_grad() -> None:
    policy = TablePolicy()
    before = policy.logits.detach().clone()
    trainer = GRPOTrainer(GRPOConfig(), policy, FunctionRewards(lambda state, action: float(action)))
    with torch.no_grad():
        trainer.step([0, 1, 2])
    assert not torch.equal(policy.logits, before)


def test_gradients_of_parameters_that_the_optimizer_does_not_hold_do_not_pile_up() -> None:
    class TwoTables(TablePolicy):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)

        def get_log_probabilities(self, states: Any, actions: Any) -> torch.Tensor:
            log_probs = (self.logits + self.bias).log_softmax(-1)
            return log_probs[torch.tensor(states), torch.tensor(actions)]

        def get_parameters(self) -> dict[str, torch.Tensor]:
            return {"logits": self.logits, "bias": self.bias}

    policy = TwoTables()
    optimizer = torch.optim.SGD([policy.logits], lr=0.0)
    trainer = GRPOTrainer(GRPOConfig(), policy, FunctionRewards(grade), optimizer=optimizer)
    norms = []
    for _ in range(3):
        torch.manual_seed(0)
        trainer.step([0, 1, 2])
        assert policy.bias.grad is not None
        norms.append(policy.bias.grad.norm().item())
    assert norms[0] == pytest.approx(norms[2])


@pytest.mark.parametrize(("setting", "told"), [("learning_rate", "with lr=0.1"), ("adam_epsilon", "with eps=1e-08")])
def test_what_is_said_of_adamw_beside_an_optimizer_of_ones_own_is_told(setting: str, told: str) -> None:
    policy = TablePolicy()
    optimizer = torch.optim.AdamW([policy.logits], lr=0.1)
    config = GRPOConfig.model_validate({setting: 0.5})
    with pytest.warns(UserWarning, match=f"config.{setting}=0.5 is not used.* AdamW {told}"):
        GRPOTrainer(config, policy, FunctionRewards(grade), optimizer=optimizer)


def test_an_estimator_that_changes_rewards_in_place_does_not_change_the_metrics() -> None:
    def in_place(experience: Experience) -> torch.Tensor:
        rewards = experience.sample_rewards.values
        rewards -= rewards.mean()
        return rewards

    trainer = GRPOTrainer(
        GRPOConfig(), TablePolicy(), FunctionRewards(lambda state, action: 6.0 + action), advantage_estimator=in_place
    )
    assert trainer.step([0])["reward"] >= 6
