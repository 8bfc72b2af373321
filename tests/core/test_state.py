"""A trainer owns all that changes in a training: it is told, and taken back, as a whole."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from models import (
    FunctionRewards,
    Quiet,
    SequencePolicy,
    SequentialTablePolicy,
    StepRewards,
    TablePolicy,
    WalkerPolicy,
)
from state_laws import TrainerSteps, check_goes_on, check_refuses
from torch import Tensor, nn

from grpo import (
    AdaptiveKLCoefficient,
    DPOConfig,
    DPOTrainer,
    DynamicSampling,
    ExperienceCollector,
    GeneralizedAdvantage,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    HorizonKLCoefficient,
    KLPenalizedRewards,
    KLPenaltySurrogate,
    LinearSchedule,
    PPOConfig,
    PPOTrainer,
    Preference,
    PreferenceCollector,
    ReferenceSync,
    ReinforceConfig,
    ReinforceTrainer,
    StateLoader,
)

STATES = [0, 1, 2]


def rewards(state: int, action: int) -> float:
    return float(action == state) - 0.1 * action


class NoisyRewards(FunctionRewards):
    """Rewards with noise of a generator of their own, and a state of their own besides: how often they were asked."""

    def __init__(self) -> None:
        super().__init__(rewards)
        self.generator = torch.Generator().manual_seed(3)
        self.num_calls = 0

    def compute_rewards(self, states: Sequence[Any], actions: Sequence[Any]) -> Tensor:
        self.num_calls += 1
        noise = torch.randn(len(actions), generator=self.generator, dtype=torch.float64)
        return super().compute_rewards(states, actions) + self.num_calls * noise

    def state_dict(self) -> dict[str, Any]:
        return {"num_calls": self.num_calls}

    def load_state_dict(self, state_dict: Any) -> None:
        self.num_calls = state_dict["num_calls"]


class NumPyRewards(FunctionRewards):
    """Rewards with noise of a generator of NumPy's."""

    def __init__(self) -> None:
        super().__init__(rewards)
        self.generator = np.random.default_rng(3)

    def compute_rewards(self, states: Sequence[Any], actions: Sequence[Any]) -> Tensor:
        return super().compute_rewards(states, actions) + torch.from_numpy(self.generator.normal(size=len(actions)))


class TwiceNoisyRewards(FunctionRewards):
    """Rewards with noise of two generators, which they tell, and nothing else."""

    def __init__(self, count: int = 2) -> None:
        super().__init__(rewards)
        self.generators: list[Any] = [torch.Generator().manual_seed(3), np.random.default_rng(3)][:count]

    def compute_rewards(self, states: Sequence[Any], actions: Sequence[Any]) -> Tensor:
        first, second = self.generators
        noise = torch.randn(len(actions), generator=first) + torch.from_numpy(second.normal(size=len(actions)))
        return super().compute_rewards(states, actions) + noise


class ModulePolicy(nn.Module):
    """A policy of a module, with a generator of its own and with statistics that each evaluation in training moves."""

    def __init__(self, num_actions: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.logits = nn.Parameter(torch.randn(3, num_actions, generator=generator))
        self.norm = nn.BatchNorm1d(num_actions)
        self.generator = torch.Generator().manual_seed(5)

    def _log_probs(self, states: Sequence[int]) -> Tensor:
        log_probs: Tensor = self.norm(self.logits[torch.tensor(states)]).log_softmax(-1)
        return log_probs

    def generate_actions(self, states: Sequence[int], num_actions_per_state: int, **kwargs: Any) -> Tensor:
        probabilities = self._log_probs(states).exp()
        return torch.multinomial(probabilities, num_actions_per_state, replacement=True, generator=self.generator)

    def get_log_probabilities(self, states: Sequence[int], actions: Sequence[int]) -> Tensor:
        return self._log_probs(states).gather(1, torch.as_tensor(actions).unsqueeze(1)).squeeze(1)

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())


class HoldsModule(Quiet):
    """The same without a state to tell: the module is an attribute."""

    def __init__(self) -> None:
        self.module = ModulePolicy()
        self.generator = self.module.generator

    def generate_actions(self, states: Sequence[int], num_actions_per_state: int, **kwargs: Any) -> Tensor:
        return self.module.generate_actions(states, num_actions_per_state)

    def get_log_probabilities(self, states: Sequence[int], actions: Sequence[int]) -> Tensor:
        return self.module.get_log_probabilities(states, actions)

    def get_parameters(self) -> dict[str, Tensor]:
        return self.module.get_parameters()

    def train(self) -> None:
        self.module.train()

    def eval(self) -> None:
        self.module.eval()


class DrawingSampler:
    """Draws actions of any probability, with a generator and nothing else to tell."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(2)

    def sample(self, policy: Any, states: Sequence[int], num_actions_per_state: int, **kwargs: Any) -> Any:
        return torch.randint(4, (len(states), num_actions_per_state), generator=self.generator).tolist()


class CountingSampler:
    """Gives other actions at each call, and tells how many there were."""

    def __init__(self) -> None:
        self.num_calls = 0

    def sample(self, policy: Any, states: Sequence[int], num_actions_per_state: int, **kwargs: Any) -> Any:
        self.num_calls += 1
        generator = torch.Generator().manual_seed(self.num_calls)
        return torch.randint(4, (len(states), num_actions_per_state), generator=generator).tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"num_calls": self.num_calls}

    def load_state_dict(self, state_dict: Any) -> None:
        self.num_calls = state_dict["num_calls"]


class WideMomentum(torch.optim.Optimizer):
    """Momentum that is kept in double precision, whatever the precision of the parameters."""

    def __init__(self, parameters: Any, learning_rate: float) -> None:
        super().__init__(parameters, {"lr": learning_rate})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for tensor in group["params"]:
                momentum = self.state[tensor].setdefault("momentum", torch.zeros_like(tensor, dtype=torch.float64))
                momentum.mul_(0.9).add_(tensor.grad)
                tensor.sub_(group["lr"] * momentum)


def table(**settings: Any) -> TrainerSteps:
    config = GRPOConfig(group_size=4, batch_size=5, num_epochs_per_update=2, learning_rate=0.05, **settings)
    return TrainerSteps(GRPOTrainer(config, TablePolicy(), FunctionRewards(rewards)), STATES)


def with_policy(policy: Any, reward_model: Any = None, **parts: Any) -> TrainerSteps:
    config = GRPOConfig(group_size=4, num_epochs_per_update=2, learning_rate=0.05)
    return TrainerSteps(GRPOTrainer(config, policy, reward_model or FunctionRewards(rewards), **parts), STATES)


def scheduled() -> TrainerSteps:
    policy = WalkerPolicy()
    config = PPOConfig(learning_rate=LinearSchedule(start=0.1, end=0.0, num_steps=8), batch_size=7)
    optimizer = torch.optim.SGD([policy.logits], lr=0.1, momentum=0.9)
    trainer = PPOTrainer(config, policy, StepRewards(), optimizer=optimizer)
    optimizer.add_param_group({"params": [policy.values], "lr": 0.03})
    return TrainerSteps(trainer, STATES)


def synced() -> TrainerSteps:
    sync = ReferenceSync(mixing=0.5, every=2)
    config = GRPOConfig(group_size=4, learning_rate=0.05, kl_coefficient=0.1, reference_sync=sync)
    policy = SequencePolicy()
    rewarded = FunctionRewards(lambda state, action: float(len(action)))
    return TrainerSteps(GRPOTrainer(config, policy, rewarded, SequencePolicy()), STATES)


def penalized_rewards() -> TrainerSteps:
    policy = WalkerPolicy()
    estimator = KLPenalizedRewards(GeneralizedAdvantage(), HorizonKLCoefficient(0.01, horizon=100))
    trainer = PPOTrainer(
        PPOConfig(learning_rate=0.1), policy, StepRewards(), copy.deepcopy(policy), advantage_estimator=estimator
    )
    return TrainerSteps(trainer, STATES)


def penalized_loss() -> TrainerSteps:
    objective = GRPOObjective(surrogate=KLPenaltySurrogate(coefficient=AdaptiveKLCoefficient(target=1e-5)))
    return with_policy(TablePolicy(), objective=objective)


def dynamic() -> TrainerSteps:
    policy = TablePolicy()
    trainer = GRPOTrainer(
        GRPOConfig(group_size=2, dynamic_sampling=DynamicSampling(max_rounds=3), learning_rate=0.05),
        policy,
        NoisyRewards(),
    )
    return TrainerSteps(trainer, STATES)


def fresh_states() -> TrainerSteps:
    loader = StateLoader(STATES, 2)
    config = GRPOConfig(group_size=2, dynamic_sampling=DynamicSampling(max_rounds=3, draw_states=loader.draw))
    return TrainerSteps(GRPOTrainer(config, TablePolicy(), FunctionRewards(rewards)), STATES)


def reinforce() -> TrainerSteps:
    trainer = ReinforceTrainer(ReinforceConfig(learning_rate=0.05), WalkerPolicy(), StepRewards())
    return TrainerSteps(trainer, STATES)


def preferences() -> TrainerSteps:
    policy = TablePolicy()
    config = DPOConfig(batch_size=2, learning_rate=0.05, reference_sync=ReferenceSync(mixing=0.5, every=2))
    pairs = [Preference(state, chosen, (chosen + 1 + state) % 4) for state in STATES for chosen in range(3)]
    return TrainerSteps(DPOTrainer(config, policy, copy.deepcopy(policy)), pairs)


class OnlinePreferences(TrainerSteps):
    """DPO on a policy's own actions: trainer and collector tell their states each."""

    def __init__(self) -> None:
        policy = SequentialTablePolicy()
        trainer = DPOTrainer(DPOConfig(learning_rate=0.05, reference_free=True), policy)
        super().__init__(trainer, None)
        self.collector = PreferenceCollector(policy, NoisyRewards(), sampler=CountingSampler(), group_size=4)

    def step(self) -> Any:
        collected = self.collector.collect(STATES)
        self.states = collected.preferences
        return collected.metrics, super().step()

    def state_dict(self) -> dict[str, Any]:
        return {"trainer": super().state_dict(), "collector": self.collector.state_dict()}

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict["trainer"])
        self.collector.load_state_dict(state_dict["collector"])


def wide_optimizer() -> TrainerSteps:
    policy = TablePolicy(dtype=torch.float32)
    return with_policy(policy, optimizer=WideMomentum([policy.logits], 0.05))


CASES: dict[str, Callable[[], TrainerSteps]] = {
    "minimal policy": table,
    "minimal policy, skipping": lambda: table(non_finite="skip"),
    "minimal policy, without copies": lambda: table(undo_failed_updates=False),
    "module with a generator": lambda: with_policy(ModulePolicy()),
    "module in an attribute": lambda: with_policy(HoldsModule()),
    "rewards with state and generator": lambda: with_policy(TablePolicy(), NoisyRewards()),
    "rewards with a generator of NumPy's": lambda: with_policy(TablePolicy(), NumPyRewards()),
    "rewards with several generators": lambda: with_policy(TablePolicy(), TwiceNoisyRewards()),
    "sampler with a generator": lambda: with_policy(TablePolicy(), sampler=DrawingSampler()),
    "sampler with a state": lambda: with_policy(TablePolicy(), sampler=CountingSampler()),
    "optimizer of a wider precision": wide_optimizer,
    "schedule over two groups": scheduled,
    "reference that follows": synced,
    "penalty in the rewards": penalized_rewards,
    "penalty in the loss": penalized_loss,
    "dynamic sampling": dynamic,
    "dynamic sampling of fresh states": fresh_states,
    "reinforce": reinforce,
    "preferences": preferences,
    "preferences of its own": OnlinePreferences,
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_goes_on_as_if_nothing_had_happened(case: str) -> None:
    check_goes_on(CASES[case], num_before=3, num_after=3)


def test_a_state_is_taken_without_any_part_twice() -> None:
    class SamplesItself(TablePolicy):
        def sample(self, policy: Any, states: Sequence[int], num_actions_per_state: int, **kwargs: Any) -> Any:
            return self.generate_actions(states, num_actions_per_state)

    policy = SamplesItself()
    training = with_policy(policy, sampler=policy)
    assert "sampler" not in training.state_dict()["parts"]
    training.load_state_dict(training.state_dict())


def test_a_collector_goes_on() -> None:
    def make() -> Any:
        collector: Any = ExperienceCollector(TablePolicy(), NoisyRewards(), sampler=CountingSampler(), group_size=2)
        collector.step = lambda: collector.collect(STATES).rewards
        return collector

    check_goes_on(make)
    other = ExperienceCollector(TablePolicy(), NoisyRewards(), sampler=DrawingSampler(), group_size=2)
    check_refuses(make(), other.state_dict(), "sampler", "CountingSampler")


@pytest.mark.parametrize("kind", [np.random.RandomState, random.Random])
def test_generators_of_other_kinds_are_refused_by_name(kind: Any) -> None:
    rewards = TwiceNoisyRewards()
    rewards.generators[1] = kind(0)
    with pytest.raises(TypeError, match=rf"TwiceNoisyRewards.generators holds a {kind.__name__}, expected torch.Gener"):
        with_policy(TablePolicy(), rewards).state_dict()


def test_a_state_of_fewer_generators_is_refused() -> None:
    state = with_policy(TablePolicy(), TwiceNoisyRewards(count=1)).state_dict()
    check_refuses(with_policy(TablePolicy(), TwiceNoisyRewards()), state, "reward_model", "generators", "list of 2")


class Refuses(NoisyRewards):
    """Rewards that do not take the state back that they began with, and by then have lost their own."""

    def load_state_dict(self, state_dict: Any) -> None:
        self.num_calls = state_dict["num_calls"]
        if self.num_calls == 0:
            raise KeyError("weather")


def other_optimizer() -> TrainerSteps:
    policy = TablePolicy()
    return with_policy(policy, optimizer=torch.optim.SGD([policy.logits], lr=0.05))


def two_groups() -> TrainerSteps:
    policy = TablePolicy()
    groups: list[dict[str, Any]] = [{"params": [policy.logits]}, {"params": []}]
    return with_policy(policy, optimizer=torch.optim.AdamW(groups, lr=0.05))


class Frozen(TablePolicy):
    def get_parameters(self) -> dict[str, Tensor]:
        return {"logits": self.logits.detach()}


def frozen() -> TrainerSteps:
    with pytest.warns(UserWarning, match="no trainable parameters"):
        return with_policy(Frozen())


DIFFERENT: dict[str, tuple[Callable[[], TrainerSteps], tuple[str, ...]]] = {
    "more actions": (
        lambda: with_policy(TablePolicy(num_actions=5)),
        ("policy TablePolicy", "logits", "[3, 5]", "[3, 4]"),
    ),
    "another precision": (lambda: with_policy(TablePolicy(dtype=torch.float32)), ("logits", "float32", "float64")),
    "other parameters": (lambda: with_policy(SequencePolicy()), ("logits", "transitions")),
    "a module": (lambda: with_policy(ModulePolicy()), ("policy TablePolicy", "generator", "tensors")),
    "rewards with a state": (lambda: with_policy(TablePolicy(), NoisyRewards()), ("reward_model", "FunctionRewards")),
    "a reference policy": (
        lambda: with_policy(TablePolicy(), reference_policy=TablePolicy(), objective=GRPOObjective(kl_coefficient=0.1)),
        ("reference_policy",),
    ),
    "an estimator with a state": (
        lambda: with_policy(
            TablePolicy(),
            reference_policy=None,
            advantage_estimator=GroupRelative(),
            objective=GRPOObjective(surrogate=KLPenaltySurrogate(coefficient=AdaptiveKLCoefficient(target=0.1))),
        ),
        ("objective GRPOObjective", "surrogate"),
    ),
    "another optimizer": (other_optimizer, ("optimizer AdamW", "momentum", "betas")),
    "an optimizer of two groups": (two_groups, ("optimizer AdamW", "a group of 0 tensors")),
    "no optimizer": (frozen, ("no optimizer", "AdamW")),
    "another trainer": (lambda: preferences(), ("advantage_estimator", "reward_model", "GRPOTrainer")),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_a_state_of_another_construction_is_refused_as_a_whole(case: str) -> None:
    make_other, names = DIFFERENT[case]
    ours = with_policy(TablePolicy())
    ours.step()
    check_refuses(ours, make_other().state_dict(), *names)


def test_a_module_of_another_construction_is_refused_as_a_whole() -> None:
    ours = with_policy(ModulePolicy())
    ours.step()
    check_refuses(ours, with_policy(ModulePolicy(num_actions=5)).state_dict(), "optimizer over", "[3, 5]", "[3, 4]")
    check_refuses(ours, with_policy(ModulePolicy().double()).state_dict(), "policy ModulePolicy", "float64", "float32")


def test_what_was_loaded_before_a_failure_is_put_back() -> None:
    ours = with_policy(TablePolicy(), Refuses())
    state = ours.state_dict()
    ours.step()
    check_refuses(ours, state, "reward_model Refuses", "KeyError", "weather")


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (lambda state: state.pop("num_steps"), ("num_steps", "GRPOTrainer")),
        (lambda state: state.update(generator=torch.zeros(3)), ("generator of GRPOTrainer", "float32 of shape [3]")),
        (lambda state: state["parts"].pop("policy"), ("policy",)),
        (lambda state: state["parts"].update(policy=3), ("policy TablePolicy", "int")),
    ],
)
def test_a_damaged_state_is_refused(spoil: Callable[[Any], Any], names: tuple[str, ...]) -> None:
    ours = with_policy(TablePolicy())
    state = ours.state_dict()
    spoil(state)
    check_refuses(ours, state, *names)


def test_a_reference_made_in_inference_mode_takes_its_state_back() -> None:
    with torch.inference_mode():
        reference = TablePolicy()
    trainer = GRPOTrainer(
        GRPOConfig(group_size=4, kl_coefficient=0.1), TablePolicy(), FunctionRewards(rewards), reference
    )
    trainer.load_state_dict(trainer.state_dict())
