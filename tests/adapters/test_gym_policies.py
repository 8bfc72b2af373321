"""Policies of environments: they pass the conformance kit, copy and save as modules do, and normalise as they say."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gym_environments import ExactCritic, MatchingEnv, ParityActor, SpacesEnv
from gymnasium import spaces
from torch import nn

from grpo import PPOConfig, PPOTrainer, check_policy_model, check_reward_model
from grpo_adapters.gym import (
    MLP,
    ActorCriticMLP,
    EnvironmentReward,
    EpisodeSampler,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
    RunningNormalization,
)

BOX = spaces.Box(-1, 1, (2,))
KINDS = [GymPolicy, GymActorCritic]


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


def spread(policy: GymPolicy, seed: int = 0) -> GymPolicy:
    """The policy with larger last weights, so that it tells observations apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.actor.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
    return policy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_conformance(kind: type[GymPolicy], normalize: bool, masked: bool) -> None:
    sampler = EpisodeSampler(lambda: MatchingEnv(masked=masked), num_envs=100)
    policy = spread(kind(sampler, normalize_observations=normalize))
    if policy.normalization is not None:
        policy.normalization.update(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + 1)
    check_policy_model(policy, [0, 1, 5], num_samples=1000)
    check_policy_model(policy, [0, 1, 5], discrete=False, num_samples=1000)


@pytest.mark.parametrize("action_space", [BOX, spaces.Box(-np.inf, np.inf, (1,)), spaces.MultiDiscrete([2, 3])])
def test_conformance_with_other_actions(action_space: Any) -> None:
    policy = spread(GymActorCritic(EpisodeSampler(lambda: SpacesEnv(BOX, action_space), num_envs=8)))
    check_policy_model(policy, [0, 1], discrete=False, num_samples=500)


class CountingActor(nn.Module):
    """A wrong policy: its log-probs are not those that it samples from, since each call gives others."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.0, 1.0, -1.0]))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        tilt = torch.tensor([1.0, 0.0, 0.0]) if torch.is_grad_enabled() else torch.zeros(3)
        return (self.logits + tilt).expand(len(features), -1)


def test_the_conformance_kit_sees_episodes_that_are_not_sampled_from_their_log_probs() -> None:
    policy = GymPolicy(EpisodeSampler(MatchingEnv, num_envs=8), CountingActor())
    with pytest.raises(ValueError, match="not sampled from the density"):
        check_policy_model(policy, [0, 1], discrete=False, num_samples=1000)


def test_the_reward_model_conforms() -> None:
    policy = GymPolicy(EpisodeSampler(MatchingEnv))
    actions = [group[0] for group in policy.generate_actions([0, 1], 1)]
    check_reward_model(EnvironmentReward(), [0, 1], actions, decisions_per_sample=[3, 3])


def test_numbers_of_numpy_are_numbers() -> None:
    sizes: Any = (np.int64(4), 4)
    policy = GymPolicy(SpacesEnv(BOX, BOX), hidden_sizes=sizes, seed=np.int64(3))  # type: ignore[arg-type]
    same = GymPolicy(SpacesEnv(BOX, BOX), hidden_sizes=(4, 4), seed=3)
    torch.testing.assert_close(policy.get_parameters(), same.get_parameters(), rtol=0, atol=0)


@pytest.mark.parametrize("hidden_sizes", [(), (16,), (16, 8)])
def test_actor_and_critic_share_nothing(hidden_sizes: tuple[int, ...]) -> None:
    """The gradient of a value reaches no weight of the actor, that of a log-prob none of the critic."""
    policy = GymActorCritic(EpisodeSampler(MatchingEnv), hidden_sizes=hidden_sizes)
    batch = policy.encode_actions([0], [policy.generate_actions([0], 1)[0][0]])
    reached = []
    for part in ("log_probs", "values"):
        policy.zero_grad()
        getattr(policy.evaluate_actions(batch), part).sum().backward()
        gradients = (torch.zeros_like(p) if p.grad is None else p.grad for p in policy.parameters())
        reached.append(torch.cat([gradient.flatten() for gradient in gradients]) != 0)
    assert reached[0].any()
    assert reached[1].any()
    assert not (reached[0] & reached[1]).any()


def paired(hidden_sizes: tuple[int, ...]) -> ActorCriticMLP:
    actor = GymActorCritic(SpacesEnv(BOX, BOX), hidden_sizes=hidden_sizes).actor
    assert isinstance(actor, ActorCriticMLP)
    return actor


def separated(network: ActorCriticMLP) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Weights [out, in] and biases of the layers of the actor and of the critic."""
    heads = (network.actor_head, network.critic_head)
    hidden: list[Any] = list(network.hidden)
    return [
        [
            *((layer.weight[index].T.detach(), layer.bias[index, 0].detach()) for layer in hidden),
            (head.weight, head.bias),
        ]
        for index, head in enumerate(heads)
    ]


@pytest.mark.parametrize("hidden_sizes", [(5,), (16, 8)])
def test_paired_networks_compute_what_two_networks_would(hidden_sizes: tuple[int, ...]) -> None:
    network = paired(hidden_sizes)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    features = torch.randn(7, 2)
    expected = []
    for layers in separated(network):
        units = features
        for weight, bias in layers[:-1]:
            units = torch.tanh(torch.nn.functional.linear(units, weight, bias))
        expected.append(torch.nn.functional.linear(units, *layers[-1]))
    outputs, values = network.both(features)
    torch.testing.assert_close(outputs, expected[0])
    torch.testing.assert_close(values, expected[1])
    torch.testing.assert_close(network(features), expected[0])


@pytest.mark.parametrize(("index", "gain"), [(0, 0.01), (1, 1.0)])
def test_orthogonal_weights(index: int, gain: float) -> None:
    layers = separated(paired((16, 8)))[index]
    assert [len(bias) for _, bias in layers] == [16, 8, 2 - index]
    for (weight, bias), scale in zip(layers, [math.sqrt(2), math.sqrt(2), gain], strict=True):
        product = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        torch.testing.assert_close(product, scale**2 * torch.eye(len(product)), atol=1e-5, rtol=1e-5)
        assert not bias.detach().any()


@pytest.mark.parametrize(("network", "gain"), [("actor", 0.01), ("critic", 1.0)])
def test_orthogonal_weights_of_one_network(network: str, gain: float) -> None:
    own: dict[str, Any] = {"actor": torch.nn.Linear(2, 2), "critic": torch.nn.Linear(2, 1)}
    del own[network]
    layers = linear_layers(getattr(GymActorCritic(SpacesEnv(BOX, BOX), **own, hidden_sizes=(16, 8)), network))
    assert [layer.out_features for layer in layers] == [16, 8, 2 if network == "actor" else 1]
    for layer, scale in zip(layers, [math.sqrt(2), math.sqrt(2), gain], strict=True):
        weight = layer.weight.detach()
        product = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        torch.testing.assert_close(product, scale**2 * torch.eye(len(product)), atol=1e-5, rtol=1e-5)
        assert not layer.bias.detach().any()


def test_the_seed_gives_the_weights_whatever_the_global_generator_does() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.rand(1)
        policy = GymActorCritic(SpacesEnv(BOX, BOX), seed=seed)
        return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    "sampler", [EpisodeSampler(MatchingEnv), FragmentSampler(gymnasium.make_vec("CartPole-v1"), 4)]
)
def test_a_copy_shares_the_environments_and_nothing_else(sampler: Any) -> None:
    policy = GymActorCritic(sampler, normalize_observations=True)
    copied = copy.deepcopy(policy)
    assert copied.sampler is policy.sampler is sampler
    for name, parameter in policy.named_parameters():
        other = copied.get_parameters()[name]
        assert torch.equal(other, parameter)
        assert other.data_ptr() != parameter.data_ptr()
    assert copied.normalization is not policy.normalization
    drawn = torch.rand(3, generator=policy.generator)
    assert torch.equal(torch.rand(3, generator=copied.generator), drawn)


def seen(policy: GymPolicy, batch: torch.Tensor) -> None:
    assert policy.normalization is not None
    policy.normalization.update(batch)


def test_state_dict_holds_everything_that_decides() -> None:
    sampler = EpisodeSampler(lambda: SpacesEnv(BOX, spaces.Box(-np.inf, np.inf, (2,))))
    policy = spread(GymActorCritic(sampler, normalize_observations=True))
    seen(policy, 3 * torch.randn(50, 2, generator=torch.Generator().manual_seed(1)) + 1)
    with torch.no_grad():
        policy.get_parameters()["distribution.log_std"].fill_(-1.0)
    other = GymActorCritic(sampler, normalize_observations=True, seed=9)
    observations = np.array([[0.5, -0.5], [1.0, 0.0]])
    assert not np.array_equal(other.predict(observations), policy.predict(observations))
    other.load_state_dict(policy.state_dict())
    assert np.array_equal(other.predict(observations), policy.predict(observations))
    actions = [policy.generate_actions([3], 1)[0][0]]
    assert torch.equal(other.generate_actions([3], 1)[0][0].decisions, actions[0].decisions)
    mine, theirs = (each.evaluate_actions(each.encode_actions([3], actions)) for each in (policy, other))
    assert torch.equal(mine.log_probs, theirs.log_probs)
    assert mine.values is not None
    assert theirs.values is not None
    assert torch.equal(mine.values, theirs.values)
    seen(policy, torch.ones(5, 2))
    seen(other, torch.ones(5, 2))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in policy.state_dict().items())


def test_running_normalisation_is_that_of_all_that_was_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [100 + 5 * torch.randn(size, 3, generator=generator) for size in (1, 7, 2, 90)]
    normalization = RunningNormalization((3,))
    features = torch.randn(4, 3, generator=generator)
    torch.testing.assert_close(normalization(features), features)
    for index, batch in enumerate(batches):
        normalization.update(batch)
        everything = torch.cat(batches[: index + 1]).double()
        torch.testing.assert_close(normalization.mean, everything.mean(0), rtol=1e-12, atol=0)
        torch.testing.assert_close(normalization.variance, everything.var(0, correction=0), rtol=1e-9, atol=1e-9)
        assert normalization.count == len(everything)
    normalized = normalization(torch.cat(batches))
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalized.var(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert normalization(torch.tensor([[1e6, -1e6, 100.0]]))[0, :2].tolist() == [10.0, -10.0]


@pytest.mark.parametrize("num_epochs_per_update", [1, 2])
def test_the_first_updates_are_made_with_statistics_of_the_first_rollout(num_epochs_per_update: int) -> None:
    """As by hand: log-probs of the policy that sampled, then the statistics, then values and updates with them."""

    def make() -> tuple[FragmentSampler, GymActorCritic, PPOTrainer[Any, Any]]:
        sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=2), 16, seed=1)
        policy = GymActorCritic(sampler, nn.Linear(4, 2), critic=nn.Linear(4, 1), normalize_observations=True)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
        settings = PPOConfig(batch_size=None, num_epochs_per_update=num_epochs_per_update, learning_rate=0.1)
        return sampler, policy, PPOTrainer(settings, policy, EnvironmentReward())

    sampler, policy, trainer = make()
    assert not policy.has_statistics()
    trainer.step(sampler.states)
    assert policy.has_statistics()
    told = trainer.last_experience
    assert told is not None
    assert told.values is not None
    assert told.old_log_probs is not None

    sampler, by_hand, trainer = make()
    experience = trainer.collector.collect(sampler.states)
    torch.testing.assert_close(told.old_log_probs, experience.old_log_probs)
    batch: Any = experience.batch
    by_hand.update_statistics(batch)
    with torch.no_grad():
        assert not torch.allclose(by_hand.evaluate_actions(batch).log_probs, told.old_log_probs, atol=0.1)
    assert policy.normalization.count == by_hand.normalization.count == experience.samples.total
    torch.testing.assert_close(told.values.values, by_hand.estimate_values(batch).values)
    trainer.update(replace(experience, values=by_hand.estimate_values(batch)))
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(policy.get_parameters()[name], parameter)


def test_a_first_step_that_fails_takes_its_statistics_back() -> None:
    class Failing(GymActorCritic):
        def estimate_values(self, batch: Any) -> Any:
            if self.has_statistics():
                raise RuntimeError("no values today")
            return super().estimate_values(batch)

    sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=2), 16, seed=1)
    policy = Failing(sampler, normalize_observations=True)
    with pytest.raises(RuntimeError, match="no values today"):
        PPOTrainer(PPOConfig(), policy, EnvironmentReward()).step(sampler.states)
    assert not policy.has_statistics()


def test_statistics_move_once_a_step_and_take_in_every_decision() -> None:
    sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=4), 32, seed=1)
    policy = GymActorCritic(sampler, normalize_observations=True)
    observed: list[torch.Tensor] = []
    assert policy.normalization is not None
    trainer = PPOTrainer(PPOConfig(batch_size=16, num_epochs_per_update=2), policy, EnvironmentReward())
    for _ in range(3):
        experience = trainer.collector.collect(sampler.states)
        mean = policy.normalization.mean.clone()
        trainer.update(experience)
        assert not torch.equal(policy.normalization.mean, mean)
        observed += [fragment.observations for fragment in experience.actions]
        everything = torch.cat(observed).double()
        assert policy.normalization.count == len(everything)
        torch.testing.assert_close(policy.normalization.mean, everything.mean(0), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            policy.normalization.variance, everything.var(0, correction=0), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("kind", ["fragments", "episodes"])
def test_the_ratio_of_the_first_update_is_one(kind: str) -> None:
    """Sampling, old log-probs and the update see observations normalised in the same way."""
    sampler: Any
    if kind == "fragments":
        sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=4), 32, seed=1)
        states = sampler.states
    else:
        sampler, states = EpisodeSampler(lambda: SpacesEnv(BOX, BOX)), [1, 2, 3]
    policy = GymActorCritic(sampler, normalize_observations=True)
    frozen = PPOConfig(batch_size=None, num_epochs_per_update=2, learning_rate=0.0)
    trainer = PPOTrainer(frozen, policy, EnvironmentReward())
    for _ in range(3):
        experience = trainer.collector.collect(states)
        assert experience.old_log_probs is not None
        policy.train()
        batch: Any = experience.batch
        evaluation = policy.evaluate_actions(batch)
        assert torch.equal(evaluation.log_probs, experience.old_log_probs)
        assert experience.values is not None
        assert evaluation.values is not None
        torch.testing.assert_close(experience.values.values, evaluation.values.detach())
        _, after = policy._outputs_and_values(policy.features(batch.next_observations))
        after = after.masked_fill(batch.terminated, 0)
        torch.testing.assert_close(experience.values.next_values[batch.episodes.last], after.detach())
        assert trainer.update(experience)["approx_kl"] == 0


def test_hooks_of_the_paired_networks_are_called_by_all() -> None:
    sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=2), 4)
    policy = GymActorCritic(sampler, hidden_sizes=(4,))
    assert isinstance(policy.actor, ActorCriticMLP)
    policy.actor.hidden[0].register_forward_hook(lambda module, given, units: 2 * units)
    experience = PPOTrainer(PPOConfig(), policy, EnvironmentReward()).collector.collect(sampler.states)
    batch: Any = experience.batch
    assert experience.values is not None
    evaluation = policy.evaluate_actions(batch)
    torch.testing.assert_close(experience.values.values, evaluation.values, check_stride=False)
    decided = policy.actor(policy.features(batch.observations))
    torch.testing.assert_close(decided, policy.actor.both(policy.features(batch.observations))[0])


def test_custom_networks() -> None:
    space = spaces.Box(0, 1, (3, 4, 4))
    sampler = EpisodeSampler(lambda: SpacesEnv(space, spaces.Discrete(3)), num_envs=2)
    actor = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3))
    critic = nn.Sequential(nn.Flatten(), nn.Linear(48, 1), nn.Flatten(0))
    policy = GymActorCritic(sampler, actor, critic)
    assert policy.actor is actor
    assert policy.critic is critic
    assert actor.training
    metrics = PPOTrainer(PPOConfig(batch_size=4), policy, EnvironmentReward()).step([0, 1])
    assert metrics["num_decisions"] == 8
    assert GymActorCritic(SpacesEnv(spaces.Box(0, 9, (3,)), spaces.Discrete(2)), ParityActor(), ExactCritic()).predict(
        [[1.0, 2.0, 4.0], [1.0, 1.0, 0.0]]
    ).tolist() == [1, 0]


@pytest.mark.parametrize("normalize", [False, True])
def test_dictionaries_and_numbers_of_observations(normalize: bool) -> None:
    space = spaces.Dict(
        {"position": spaces.Box(-1, 1, (2, 2)), "kind": spaces.Discrete(3), "flags": spaces.MultiBinary(2)}
    )
    sampler = EpisodeSampler(lambda: SpacesEnv(space, spaces.MultiDiscrete([2, 3])), num_envs=2)
    policy = GymActorCritic(sampler, normalize_observations=normalize)
    assert policy.get_parameters()["actor.hidden.0.weight"].shape[1] == 9
    metrics = PPOTrainer(PPOConfig(), policy, EnvironmentReward()).step([0, 1, 2])
    assert metrics["num_decisions"] == 12
    observations = {"position": np.zeros((5, 2, 2)), "kind": np.arange(5) % 3, "flags": np.ones((5, 2))}
    assert policy.predict(observations).shape == (5, 2)


def test_predictions() -> None:
    policy = spread(GymPolicy(MatchingEnv(start=4)))
    cues = np.array([0, 1, 2])
    logits = policy.actor(torch.eye(3))
    assert policy.predict(cues).tolist() == (logits.argmax(-1) + 4).tolist()
    drawn = np.stack([policy.predict(cues, deterministic=False) for _ in range(3000)]) - 4
    for cue in range(3):
        frequencies = np.bincount(drawn[:, cue], minlength=3) / 3000
        np.testing.assert_allclose(frequencies, logits[cue].softmax(-1).detach().numpy(), atol=0.04)
    best = logits.argmax(-1).numpy()
    masks = np.ones((3, 3), dtype=np.int8)
    masks[np.arange(3), best] = 0
    allowed = policy.predict(cues, masks)
    assert allowed.tolist() == (logits.masked_fill(torch.eye(3, dtype=torch.bool)[best], -99).argmax(-1) + 4).tolist()
    for _ in range(50):
        assert (policy.predict(cues, masks, deterministic=False) - 4 != best).all()


def test_log_probs_of_trajectories_honour_their_masks() -> None:
    policy = spread(GymPolicy(EpisodeSampler(lambda: MatchingEnv(masked=True), num_envs=2)))
    (trajectory,) = policy.generate_actions([4], 1)[0]
    cues = trajectory.observations.argmax(-1)
    logits = policy.actor(trajectory.observations).scatter(-1, ((cues + 1) % 3).unsqueeze(-1), -math.inf)
    expected = logits.log_softmax(-1).gather(-1, trajectory.decisions.unsqueeze(-1)).sum()
    torch.testing.assert_close(policy.get_log_probabilities([4], [trajectory])[0], expected)


def test_a_policy_of_continuous_actions_learns_their_spread() -> None:
    policy = GymPolicy(SpacesEnv(BOX, BOX))
    assert policy.get_parameters()["distribution.log_std"].tolist() == [0.0, 0.0]


def test_a_policy_tells_the_sampler_that_it_was_built_from() -> None:
    sampler = EpisodeSampler(MatchingEnv)
    assert GymPolicy(sampler).get_sampler() is sampler
    for environment in (MatchingEnv(), gymnasium.make("CartPole-v1"), gymnasium.make_vec("CartPole-v1")):
        assert GymPolicy(environment).get_sampler() is None


def test_an_environment_with_a_method_of_that_name_is_no_sampler() -> None:
    class Replayed(MatchingEnv):
        def sample(self) -> int:
            return 0

    assert GymPolicy(Replayed()).get_sampler() is None


def test_perceptrons_have_as_many_layers_as_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 3, 1, generator=generator)
    network = MLP(3, (), 2, output_gain=1.0, generator=generator)
    (last,) = linear_layers(network)
    torch.testing.assert_close(network(features), last(features[..., 0]))
    network = MLP(3, (4,), 2, output_gain=1.0, generator=generator, activation=torch.relu)
    first, last = linear_layers(network)
    torch.testing.assert_close(network(features), last(first(features[..., 0]).relu()))
