"""What changes under a trainer between steps, or in a step that is left out, is named or put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import FunctionRewards, TablePolicy
from torch import Tensor, nn

from grpo import Experience, ExperienceCollector, GRPOConfig, GRPOTrainer, Needs
from grpo.data.state import load_state
from grpo_adapters.bandit import ContextualSoftmaxPolicy

REWARDS = FunctionRewards(lambda state, action: float(action))


class Linear(nn.Module):
    """A policy of two parameters, told in an order of one's choice."""

    def __init__(self, names: tuple[str, ...] = ("weight", "bias")) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.names = names

    def generate_actions(self, states: Tensor, num_actions_per_state: int, **kwargs: Any) -> Tensor:
        probabilities: Tensor = self.layer(states).softmax(-1)
        return torch.multinomial(probabilities, num_actions_per_state, replacement=True)

    def get_log_probabilities(self, states: Tensor, actions: Tensor) -> Tensor:
        log_probs: Tensor = self.layer(states).log_softmax(-1).gather(1, actions.unsqueeze(1)).squeeze(1)
        return log_probs

    def get_parameters(self) -> dict[str, Tensor]:
        return {name: getattr(self.layer, name) for name in self.names}


class Values:
    def compute_rewards(self, states: Any, actions: Tensor) -> Tensor:
        return actions.float()

    def train(self) -> None: ...

    def eval(self) -> None: ...

    def to(self, device: Any) -> None: ...


STATES = torch.ones(2, 2)


def test_a_state_over_tensors_in_another_order_is_refused() -> None:
    one = GRPOTrainer(GRPOConfig(group_size=4), Linear(), Values())
    other = GRPOTrainer(GRPOConfig(group_size=4), Linear(("bias", "weight")), Values())
    one.step(STATES)
    other.step(STATES)
    with pytest.raises(ValueError, match=r"state of an optimizer over .* in this order"):
        other.load_state_dict(one.state_dict())


def test_of_many_tensors_of_another_shape_the_first_is_named_and_the_others_are_counted() -> None:
    trainers = [
        GRPOTrainer(GRPOConfig(), ContextualSoftmaxPolicy(nn.Sequential(*layers)), Values())
        for layers in ([nn.Linear(2, 9), nn.Linear(9, 3)], [nn.Linear(2, 8), nn.Linear(8, 3)])
    ]
    message = r"network\.0\.weight is \(torch\.Size\(\[9, 2\]\), .*expected .*\[8, 2\].*, and 2 more differ: construct"
    with pytest.raises(ValueError, match=message):
        trainers[1].load_state_dict(trainers[0].state_dict())


def test_what_a_module_says_of_many_tensors_is_told_in_short() -> None:
    state = nn.Sequential(*[nn.Linear(2, 9) for _ in range(5)]).state_dict()
    with pytest.raises(ValueError, match=r"size mismatch for 0\.weight.* \.\.\. and 9 more\): load it into") as refused:
        load_state(nn.Sequential(*[nn.Linear(2, 8) for _ in range(5)]), state, "reward_model")
    assert len(str(refused.value)) < 400


def resize(policy: Linear) -> None:
    policy.layer.weight.data = torch.zeros(5, 2)
    policy.layer.bias.data = torch.zeros(5)


def freeze(policy: Linear) -> None:
    policy.requires_grad_(False)


def forget(policy: Linear) -> None:
    policy.names = ("weight",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (resize, r"now holds 'weight' as .*\[5, 2\].*it was .*\[3, 2\]"),
        (lambda policy: policy.double(), "torch.float64.*it was .*torch.float32"),
        (freeze, "holds nothing any more that requires a gradient"),
        (forget, "no longer holds bias"),
    ],
)
def test_parameters_that_change_under_the_optimizer_are_named(change: Callable[[Linear], Any], message: str) -> None:
    policy = Linear()
    trainer = GRPOTrainer(GRPOConfig(group_size=4), policy, Values())
    trainer.step(STATES)
    change(policy)
    with pytest.raises(ValueError, match=message):
        trainer.step(STATES)
    assert trainer.num_steps == 1


class Normalised(Linear):
    """Batch normalisation before the layer; the states of a training forward pass may be broken."""

    def __init__(self) -> None:
        super().__init__()
        self.normalisation = nn.BatchNorm1d(2)
        self.breaks = False

    def get_log_probabilities(self, states: Tensor, actions: Tensor) -> Tensor:
        states = states * torch.nan if self.breaks and self.training else states
        return super().get_log_probabilities(self.normalisation(states), actions)


def test_an_update_that_is_left_out_leaves_no_nan_in_buffers() -> None:
    policy = Normalised()
    trainer = GRPOTrainer(GRPOConfig(group_size=4, non_finite="skip"), policy, Values())
    trainer.step(STATES)
    mean = policy.normalisation.running_mean
    assert mean is not None
    before = mean.clone()
    policy.breaks = True
    assert trainer.step(STATES)["skipped_updates"] == 1
    assert torch.equal(mean, before)


def test_what_fails_while_undoing_is_noted_and_draws_nothing() -> None:
    class Restarting:
        def sample(self, policy: Any, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return policy.generate_actions(states, num_actions_per_state)

        def restart(self) -> None:
            torch.rand(3)
            raise RuntimeError("no way back")

    def fails(evaluation: Any, decisions: Any) -> Any:
        raise ZeroDivisionError("by design")

    config = GRPOConfig(group_size=4)
    trainer = GRPOTrainer(config, TablePolicy(), REWARDS, sampler=Restarting(), objective=fails)
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError, match="by design") as caught:
        trainer.step([0])
    assert "no way back" in caught.value.__notes__[0]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("thing", [None, "x", [1]])
def test_an_update_takes_an_experience(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"update takes a grpo\.Experience"):
        GRPOTrainer(GRPOConfig(group_size=4), TablePolicy(), REWARDS).update(thing)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"needs": "critic"}, r"needs is 'critic', expected grpo\.Needs"),
        ({"needs": Needs(critic=True)}, "needs a critic"),
        ({"rows_per_call": 0}, "rows_per_call is 0, expected at least 1"),
        ({"dynamic_sampling": "yes"}, "dynamic_sampling is 'yes'"),
    ],
)
def test_wrong_arguments_of_a_collector(settings: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        ExperienceCollector(TablePolicy(), REWARDS, **settings)


@pytest.mark.parametrize("wrong", [{"critic": "yes"}, {"group_size": "2"}, {"group_size": -3}, {"old_log_probs": None}])
def test_wrong_needs(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"Needs got {next(iter(wrong))}="):
        Needs(**wrong)


def test_needs_without_brackets_as_a_decorator() -> None:
    def estimator(experience: Experience) -> Tensor:
        return experience.sample_rewards.values

    with pytest.raises(TypeError, match=r"Needs got critic=.* as a decorator it is written"):
        Needs(estimator)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_steps", -4, "num_steps=-4, expected a number of steps"),
        ("num_steps", 2.7, "num_steps=2.7"),
        ("learning_rates", "abc", "learning_rates 'abc', expected a finite number"),
        ("learning_rates", [float("nan")], "expected a finite number"),
    ],
)
def test_a_state_of_wrong_numbers_is_refused(name: str, value: Any, message: str) -> None:
    trainer = GRPOTrainer(GRPOConfig(group_size=4), TablePolicy(), REWARDS)
    with pytest.raises(ValueError, match=message):
        trainer.load_state_dict({**trainer.state_dict(), name: value})
