"""The conformance kits: good models pass, and every way of being wrong is found, all of them in one go."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from models import (
    EpisodePolicy,
    FunctionRewards,
    Quiet,
    SequencePolicy,
    SequentialTablePolicy,
    TablePolicy,
    WalkBatch,
    WalkerPolicy,
)
from torch import Tensor, nn

from grpo import ConformanceError, Evaluation, TensorBatch, ValueEstimates, check_policy_model, check_reward_model
from grpo_adapters.bandit import ContextualSoftmaxPolicy
from grpo_adapters.gym.networks.perceptrons import MLP

STATES = [0, 1, 2]


def problems_of(policy: Any, **options: Any) -> list[str]:
    with pytest.raises(ConformanceError) as caught:
        check_policy_model(policy, STATES, **options)
    return caught.value.problems


def assert_found(policy: Any, problem: str, **options: Any) -> None:
    problems = problems_of(policy, **options)
    assert any(problem in found for found in problems), problems


class Normal(Quiet):
    """A Gaussian policy; ``spread`` other than 1 makes its log-probs wrong."""

    def __init__(self, spread: float = 1.0) -> None:
        self.mean = torch.zeros(1, requires_grad=True)
        self.log_std = torch.zeros(1, requires_grad=True)
        self.spread = spread

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Tensor:
        return self.mean + self.spread * self.log_std.exp() * torch.randn(len(states), num_actions_per_state)

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        density = torch.distributions.Normal(self.mean, self.log_std.exp())
        log_probs: Tensor = density.log_prob(torch.as_tensor(actions))
        return log_probs

    def get_parameters(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "log_std": self.log_std}


class ModulePolicy(nn.Module):
    """A policy that is a module."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4)

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        probabilities = self.table(torch.tensor(states)).softmax(-1)
        return torch.multinomial(probabilities, num_actions_per_state, replacement=True).tolist()

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        log_probs: Tensor = self.table(torch.tensor(states)).log_softmax(-1)
        return log_probs.gather(1, torch.tensor(actions).unsqueeze(1)).squeeze(1)

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())


@pytest.mark.parametrize(
    "policy", [TablePolicy(), SequentialTablePolicy(), SequencePolicy(), EpisodePolicy(), ModulePolicy()]
)
def test_good_policies_pass(policy: Any) -> None:
    check_policy_model(policy, STATES)


def test_a_good_density_passes() -> None:
    check_policy_model(Normal(), STATES, discrete=False)


def test_nothing_is_left_changed() -> None:
    policy = ModulePolicy().eval()
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    random_state = torch.get_rng_state()
    check_policy_model(policy, STATES)
    torch.testing.assert_close(dict(policy.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not policy.training
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_parameters_that_are_no_numbers_are_not_taken_for_changed() -> None:
    policy = ModulePolicy()
    for parameter in policy.get_parameters().values():
        parameter.data.fill_(torch.nan)
    assert not any("changed the values of parameters" in found for found in problems_of(policy))


def test_groups_that_are_not_in_the_order_of_the_states() -> None:
    class Mixed(ModulePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            groups = torch.tensor(super().generate_actions(states, num_actions_per_state))
            return groups.T.reshape(len(states), num_actions_per_state).tolist()

    torch.manual_seed(0)
    assert_found(Mixed(), "actions are not sampled as often as their log-probs say")


def test_false_alarms_are_rare() -> None:
    for seed in range(30):
        torch.manual_seed(seed)
        check_policy_model(TablePolicy(), STATES, num_samples=500)
        check_policy_model(Normal(), STATES, discrete=False, num_samples=500)


def test_everything_wrong_is_told_in_one_go() -> None:
    class Bad(Quiet):
        def __init__(self) -> None:
            self.logits = torch.zeros(4, requires_grad=True)

        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return [[0] * num_actions_per_state for _ in states]

        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            return self.logits.detach()[torch.tensor(actions)] + 0.5

        def get_parameters(self) -> dict[str, Any]:
            return {"doubled": self.logits * 2}

        def train(self) -> Any:
            return True

        to: Any = None

    problems = "\n".join(problems_of(Bad()))
    for part in (
        "to is missing: add def to(self, device)",
        "'doubled', which was computed",
        "other tensors each time",
        "train returned a bool",
        "a probability above 1",
        "no gradient to any parameter",
    ):
        assert part in problems


@pytest.mark.parametrize("name", ["generate_actions", "get_log_probabilities", "get_parameters", "train", "eval", "to"])
def test_missing_methods(name: str) -> None:
    broken = type("Broken", (TablePolicy,), {name: None})()
    assert_found(broken, f"{name} is missing: add def {name}(self")


def test_generation() -> None:
    class FlatActions(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return super().generate_actions(states, num_actions_per_state)[0]

    assert_found(FlatActions(), "expected a sequence of 3 actions")

    class AlwaysTwo(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return super().generate_actions(states, 2)

    assert_found(AlwaysTwo(), "returned 2 actions for state 0, expected 3")

    class Raises(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            raise RuntimeError("out of arms")

    assert_found(Raises(), "generate_actions raised RuntimeError: out of arms")

    class Forgetful(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            groups = super().generate_actions(states, num_actions_per_state)
            self.logits.data += 1
            return groups

    assert_found(Forgetful(), "generate_actions changes parameters or buffers")


def log_probs_of(change: Any) -> Any:
    """A policy whose log-probs are changed on their way out."""

    class Changed(TablePolicy):
        def get_log_probabilities(self, states: Any, actions: Any) -> Any:
            return change(self, super().get_log_probabilities(states, actions))

    return Changed()


def drift(policy: TablePolicy, log_probs: Tensor) -> Tensor:
    policy.logits.data[0, 0] += 0.1
    return log_probs


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda policy, x: x.unsqueeze(1), "squeeze the last dimension"),
        (lambda policy, x: x.sum(), "expected [9], one a decision"),
        (lambda policy, x: x.tolist(), "returned a list, expected a tensor"),
        (lambda policy, x: x.exp().round().long(), "dtype torch.int64"),
        (lambda policy, x: x * torch.nan, "with nan for pair 0"),
        (lambda policy, x: x + 3.0, "a probability above 1"),
        (lambda policy, x: x.detach(), "no gradient to any parameter"),
        (lambda policy, x: x.detach().requires_grad_(), "reaches none of the tensors in get_parameters"),
        (lambda policy, x: x - x.mean() - 3.0, "another value alone than among others"),
        (lambda policy, x: x.sort().values, "another value alone than among others"),
        (lambda policy, x: x - torch.rand(()), "when it is called again in eval mode"),
        (drift, "changes parameters or buffers"),
        (lambda policy, x: x / 2, "sum to"),
        (lambda policy, x: x * 2, "not sampled as often as their log-probs say"),
    ],
)
def test_log_probs(change: Any, problem: str) -> None:
    assert_found(log_probs_of(change), problem)


def test_frequencies_of_a_policy_that_samples_from_another_distribution() -> None:
    class Tempered(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            probabilities = (self.logits.detach()[torch.tensor(states)] / 0.5).softmax(-1)
            return torch.multinomial(probabilities, num_actions_per_state, replacement=True).tolist()

    assert_found(Tempered(), "not sampled as often as their log-probs say")


def test_densities_that_samples_do_not_follow() -> None:
    assert_found(Normal(spread=1.5), "not sampled from the density", discrete=False)


def test_frequencies_that_cannot_be_checked_are_told() -> None:
    class Countless(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return torch.randint(2**40, (len(states), num_actions_per_state)).tolist()

        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            return -27.7 + 0 * self.logits.sum() * torch.ones(len(actions))

    with pytest.warns(UserWarning, match="frequencies were not checked"):
        check_policy_model(Countless(), STATES, num_samples=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_policy_model(Countless(), STATES, num_samples=0)


def test_modes() -> None:
    class Copies(TablePolicy):
        def to(self, device: Any) -> Any:
            return TablePolicy()

    assert_found(Copies(), "to returned a TablePolicy, expected None or the model itself: act in place")

    class Replaces(TablePolicy):
        def to(self, device: Any) -> None:
            self.logits = self.logits.detach().clone().requires_grad_()

    assert_found(Replaces(), "replaced the tensors in get_parameters")

    class Resets(TablePolicy):
        def train(self) -> None:
            self.logits.data.zero_()

    assert_found(Resets(), "changed the values of parameters")

    class Stuck(TablePolicy):
        training = True

    assert_found(Stuck(), "after eval() the attribute training is True, expected False")

    class Freezes(TablePolicy):
        def train(self) -> None:
            self.logits.requires_grad_(False)

    assert_found(Freezes(), "changed which parameters require a gradient")


def test_what_normalises_over_the_batch_while_it_trains_is_found() -> None:
    class Normalising(ModulePolicy):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.table = nn.Sequential(self.table, layer)  # type: ignore[assignment]

    assert_found(Normalising(nn.BatchNorm1d(4)), "moves buffers, as batch normalisation does")
    check_policy_model(Normalising(nn.LayerNorm(4)), STATES, num_samples=0)
    check_policy_model(Normalising(nn.Dropout(0.5)), STATES, num_samples=0)


def test_sequential_policies_must_agree_with_themselves() -> None:
    class Disagrees(SequencePolicy):
        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            return 1.1 * super().get_log_probabilities(states, actions)

    assert_found(Disagrees(), "summed over decisions, than get_log_probabilities")

    class Padded(SequencePolicy):
        def evaluate_actions(self, batch: Any) -> Evaluation:
            log_probs = super().evaluate_actions(batch).log_probs
            return Evaluation(torch.cat((log_probs, log_probs.new_zeros(1))))

        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            batch = self.encode_actions(states, actions)
            return batch.samples.sum(super().evaluate_actions(batch).log_probs)

    assert_found(Padded(), "one a decision")

    class Half(TablePolicy):
        def encode_actions(self, states: Any, actions: Any) -> Any: ...

    assert_found(Half(), "evaluate_actions is missing: encode_actions and evaluate_actions are of use together only")


def test_reward_models() -> None:
    check_reward_model(FunctionRewards(lambda state, action: 1.0), STATES, STATES)

    class Bad(Quiet):
        eval: Any = None

        def compute_rewards(self, states: Any, actions: Any) -> Any:
            states.pop()
            return torch.zeros(len(actions), 1)

        def train(self) -> Any:
            return 1

    with pytest.raises(ConformanceError) as caught:
        check_reward_model(Bad(), list(STATES), list(STATES))
    problems = "\n".join(caught.value.problems)
    for part in ("eval is missing", "train returned a int", "squeeze the last dimension", "changes the batches"):
        assert part in problems
    with pytest.raises(ConformanceError, match="returned nan for sample 0"):
        check_reward_model(FunctionRewards(lambda state, action: float("nan")), STATES, STATES)
    with pytest.raises(ConformanceError, match=r"compute_rewards raised KeyError: 7"):
        check_reward_model(FunctionRewards(lambda state, action: dict[int, float]()[7]), STATES, STATES)


@pytest.mark.parametrize("method", ["generate_actions", "get_log_probabilities", "get_parameters"])
def test_methods_that_return_none_are_found(method: str) -> None:
    broken = type("Broken", (TablePolicy,), {method: lambda self, *arguments, **options: None})()
    assert_found(broken, f"{method} returned a NoneType")


def test_a_reward_model_that_returns_none_is_found() -> None:
    class Silent(Quiet):
        def compute_rewards(self, states: Any, actions: Any) -> Any: ...

    with pytest.raises(ConformanceError, match="compute_rewards returned a NoneType"):
        check_reward_model(Silent(), STATES, STATES)


def test_models_that_change_their_input_are_found() -> None:
    class Overwrites(Quiet):
        def compute_rewards(self, states: Any, actions: Tensor) -> Tensor:
            return actions.zero_().float()

    with pytest.raises(ConformanceError, match="changes the batches"):
        check_reward_model(Overwrites(), torch.tensor(STATES), torch.tensor([1, 2, 3]))

    class Renames(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            states[0] = 1
            return super().generate_actions(states, num_actions_per_state)

    assert_found(Renames(), "generate_actions changes the states it is given")


def test_rewards_per_decision_pass() -> None:
    class PerToken(Quiet):
        def compute_rewards(self, states: Any, actions: Any) -> Tensor:
            return torch.tensor([float(token) for action in actions for token in action])

    check_reward_model(PerToken(), [0, 1], [(1, 2), (3,)], decisions_per_sample=[2, 1])
    with pytest.raises(ValueError, match="got 3 states and 2 actions"):
        check_reward_model(PerToken(), [0, 1, 2], [(1, 2), (3,)])


def test_actions_made_of_tensors_are_counted_by_value() -> None:
    class Pairs(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            groups = super().generate_actions(states, num_actions_per_state)
            return [[(torch.tensor(action), "x") for action in group] for group in groups]

        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            return super().get_log_probabilities(states, [int(action) for action, _ in actions])

    check_policy_model(Pairs(), STATES)


def test_actions_that_equal_only_themselves_are_told() -> None:
    class Thing:
        def __init__(self, action: int) -> None:
            self.action = action

    class Things(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return [[Thing(a) for a in group] for group in super().generate_actions(states, num_actions_per_state)]

        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            return super().get_log_probabilities(states, [thing.action for thing in actions])

    check_policy_model(Things(), STATES)  # other parameters explain them no better
    things = Things()
    things.logits.requires_grad_(False)
    with pytest.warns(UserWarning, match="frequencies were not checked: actions have no __eq__"):
        check_policy_model(things, STATES)


def test_densities_without_parameters_pass() -> None:
    class Fixed(Normal):
        def get_parameters(self) -> dict[str, Tensor]:
            return {}

    check_policy_model(Fixed(), STATES, discrete=False)


def test_a_change_in_the_middle_of_a_long_tensor_is_found() -> None:
    class Overwrites(Quiet):
        def compute_rewards(self, states: Tensor, actions: Tensor) -> Tensor:
            if len(states) > 1:
                states[1000] += 1
            return torch.zeros(len(actions))

    with pytest.raises(ConformanceError, match="changes the batches"):
        check_reward_model(Overwrites(), torch.zeros(2000), torch.zeros(2000))


class BrokenCritic(WalkerPolicy):
    """An actor-critic whose two ways of telling values may disagree."""

    def __init__(self, broken: str) -> None:
        super().__init__()
        self.broken = broken

    def estimate_values(self, batch: WalkBatch) -> ValueEstimates:
        estimates = super().estimate_values(batch)
        if self.broken == "next":
            return ValueEstimates(estimates.values, estimates.next_values[:-1])
        return ValueEstimates(estimates.values + (self.broken == "differs"), estimates.next_values)

    def evaluate_actions(self, batch: WalkBatch) -> Evaluation:
        evaluation = super().evaluate_actions(batch)
        return Evaluation(evaluation.log_probs) if self.broken == "missing" else evaluation


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("next", "policy.estimate_values returned next_values of shape"),
        ("differs", "estimate_values gives decisions other values than evaluate_actions"),
        ("missing", "evaluate_actions returns no values though there is estimate_values"),
    ],
)
def test_critics(broken: str, problem: str) -> None:
    check_policy_model(BrokenCritic("not"), [0, 1], num_samples=0)
    with pytest.raises(ConformanceError, match=problem):
        check_policy_model(BrokenCritic(broken), [0, 1], num_samples=0)


class LongSequences(SequencePolicy):
    """Sequences of 20 tokens out of 50, of which none ever comes twice."""

    def __init__(self, temperature: float = 1.0, told: float | None = None) -> None:
        super().__init__(num_tokens=50)
        self.temperature = temperature
        self.told = told

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        table = (self.transitions.detach() / self.temperature).softmax(-1)
        tokens = [torch.tensor(states).repeat_interleave(num_actions_per_state)]
        for _ in range(20):
            tokens.append(torch.multinomial(table[tokens[-1]], 1).squeeze(1))
        flat = [tuple(row) for row in torch.stack(tokens[1:], dim=1).tolist()]
        return [flat[first : first + num_actions_per_state] for first in range(0, len(flat), num_actions_per_state)]

    def encode_actions(self, states: Any, actions: Any) -> Any:
        batch: Any = super().encode_actions(states, actions)
        if self.told is not None:
            batch.sampling_log_probs = self.evaluate_actions(batch).log_probs.detach() + self.told
        return batch


@pytest.mark.parametrize("temperature", [0.8, 1.25])
def test_a_sampler_with_another_temperature_is_found_where_no_sequence_comes_twice(temperature: float) -> None:
    assert_found(LongSequences(temperature), "not sampled from the distribution that their log-probs say")


def test_long_sequences_that_follow_their_log_probs_pass() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        check_policy_model(LongSequences(), STATES, num_samples=300)


def test_the_likelihood_ratio_test_gives_no_false_alarms_where_some_actions_are_rare() -> None:
    for seed in range(40):
        torch.manual_seed(seed)
        policy = TablePolicy()
        policy.logits.data += torch.tensor([0.0, 9.0, 3.0, 0.0])
        options: dict[str, Any] = {"num_actions_per_state": 1, "num_samples": 300}
        check_policy_model(policy, STATES, **options)


def test_sampling_log_probs_must_be_those_of_the_policy() -> None:
    check_policy_model(LongSequences(told=0.0), STATES, num_samples=0)
    assert_found(LongSequences(told=-0.2), "sampling_log_probs of the batch are not the policy's", num_samples=0)


class Slots(TablePolicy):
    """Runs one environment for each state: all of them step at once, and each goes on in one way only."""

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def get_sampler(self) -> Any:
        return self

    def sample(self, policy: Any, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        if num_actions_per_state != 1 or list(states) != STATES:
            raise ValueError("all environments step at once, in one way")
        probabilities = (self.logits.detach() / self.temperature).softmax(-1)
        return torch.multinomial(probabilities, 1).tolist()


def test_a_sampler_of_running_environments_is_asked_for_what_it_takes() -> None:
    check_policy_model(Slots(), STATES, num_actions_per_state=1)
    assert_found(Slots(temperature=2.0), "not sampled from the distribution", num_actions_per_state=1)
    assert_found(Slots(), "Slots.sample raised ValueError: all environments step at once")
    with pytest.raises(ValueError, match="num_actions_per_state is 0, expected at least 1"):
        check_policy_model(Slots(), STATES, num_actions_per_state=0)


def test_a_sampler_of_its_own_is_checked_in_place_of_the_policy() -> None:
    check_policy_model(TablePolicy(), STATES, sampler=Slots(), num_actions_per_state=1)
    assert_found(TablePolicy(), "not sampled from", sampler=Slots(temperature=2.0), num_actions_per_state=1)


def test_ppo_policies_on_running_environments_conform() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    from grpo_adapters.gym import FragmentSampler, GymActorCritic

    for space in ("CartPole-v1", "Pendulum-v1"):
        sampler = FragmentSampler(gymnasium.make_vec(space, num_envs=4), num_steps=8)
        policy = GymActorCritic(sampler)
        is_discrete = space == "CartPole-v1"
        check_policy_model(policy, sampler.states, num_actions_per_state=1, discrete=is_discrete, num_samples=200)


class Chooser(Quiet):
    """Chooses one of three candidates that come with the state at random: an action carries what was given."""

    def __init__(self, temperature: float = 1.0) -> None:
        self.scores = torch.tensor([0.0, 1.0, 2.0, -1.0], requires_grad=True)
        self.temperature = temperature

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        return [[self._choose() for _ in range(num_actions_per_state)] for _ in states]

    def _choose(self) -> tuple[tuple[int, ...], int]:
        candidates = sorted(torch.randperm(4)[:3].tolist())
        chosen = int(torch.multinomial((self.scores.detach()[candidates] / self.temperature).softmax(0), 1))
        return tuple(candidates), candidates[chosen]

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        given = self.scores[torch.tensor([candidates for candidates, _ in actions])]
        return self.scores[torch.tensor([chosen for _, chosen in actions])] - given.logsumexp(1)

    def get_parameters(self) -> dict[str, Tensor]:
        return {"scores": self.scores}


def test_a_part_of_an_action_that_was_given_is_told_apart() -> None:
    check_policy_model(Chooser(), STATES, given_part=lambda action: action[0])
    assert_found(Chooser(), "12 different actions sampled in one state sum to 4, more than 1")
    assert_found(Chooser(), "given_part=lambda action: ...")
    assert_found(Chooser(2.0), "not sampled as often", given_part=lambda action: action[0])


class GroupedTablePolicy(SequentialTablePolicy):
    """Told which actions answer the same state; may take them for those of another."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.shift = shift

    def encode_groups(self, states: Any, actions: Any, groups: Any) -> TensorBatch:
        ids = (groups.ids + self.shift) % len(states)
        return TensorBatch(torch.tensor(states)[ids], torch.tensor(actions))


def test_encode_groups_must_agree_with_the_rest() -> None:
    check_policy_model(GroupedTablePolicy(), STATES)
    assert_found(GroupedTablePolicy(shift=1), "samples from encode_groups have other log-probs")


@pytest.mark.parametrize("name", ["entropy", "values"])
@pytest.mark.parametrize("order", ["flipped", "rolled", "transposed"])
def test_what_is_told_besides_belongs_to_the_decision_in_its_place(name: str, order: str) -> None:
    class Misplaced(SequentialTablePolicy):
        def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
            told = batch.observations.double()
            columns = len(STATES) if len(told) > len(STATES) else 1
            orders = {"flipped": told.flip(0), "rolled": told.roll(1), "transposed": told.view(-1, columns).T.flatten()}
            told = orders[order]
            return replace(super().evaluate_actions(batch), **{name: told})

    assert_found(Misplaced(), f"evaluate_actions gives rows other {name} when select takes or reorders them")


def test_what_is_told_of_some_batches_only() -> None:
    class Forgetful(SequentialTablePolicy):
        def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
            evaluation = super().evaluate_actions(batch)
            return evaluation if len(batch.rows) == 1 else replace(evaluation, entropy=evaluation.log_probs.exp())

    assert_found(Forgetful(), "evaluate_actions gives rows other entropy")


class Fresh(ContextualSoftmaxPolicy):
    """A network as it is new, which is nearly uniform; ``change`` makes other groups [S, G] of its own."""

    def __init__(self, seed: int, change: Callable[[Tensor], Tensor]) -> None:
        generator = torch.Generator().manual_seed(seed)
        hidden = MLP(4, (16,), 4, output_gain=0.01, generator=generator)
        super().__init__(hidden)
        self.change = change

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Tensor:
        return self.change(super().generate_actions(states, num_actions_per_state))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("change", "is_wrong"),
    [
        (lambda groups: groups.flip(0), True),
        (lambda groups: groups.T.reshape(groups.shape), True),
        (lambda groups: (groups + 1) % 4, True),
        (lambda groups: groups, False),
    ],
    ids=["mixed", "transposed", "shifted", "right"],
)
def test_a_network_that_is_new_shows_what_is_wrong_with_its_samples(seed: int, change: Any, is_wrong: bool) -> None:
    policy = Fresh(seed, change)
    before = copy.deepcopy(policy.state_dict())
    states = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    if is_wrong:
        with pytest.raises(ConformanceError, match="with parameters that tell the states apart"):
            check_policy_model(policy, states)
    else:
        check_policy_model(policy, states)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_keywords_that_a_trainer_hands_on_must_be_taken() -> None:
    class TakesNone(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int) -> Any:  # type: ignore[override]
            return super().generate_actions(states, num_actions_per_state)

    policy: Any = TakesNone()
    assert_found(policy, "generate_actions takes no **kwargs: a trainer hands on to it what step is given")
    check_policy_model(policy, STATES, sampler=PlaysThem())


class PlaysThem:
    """A sampler that asks the policy for nothing but actions."""

    def sample(self, policy: Any, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        return policy.generate_actions(states, num_actions_per_state)
