"""State: what is loaded, into the same object or a fresh one, goes on bitwise as if nothing had happened."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gym_environments import MatchingEnv, ParityActor, ScriptedEnv, SpacesEnv
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from safetensors.torch import load_file, load_model, save_model
from torch import nn

from grpo import PPOConfig, PPOTrainer, ReinforceConfig, ReinforceTrainer, Trainer
from grpo_adapters.gym import (
    EnvironmentFailedError,
    EnvironmentReward,
    EpisodeSampler,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
)

NUM_ENVS, NUM_STEPS = 3, 7
AnySampler = EpisodeSampler | FragmentSampler
AnyTrainer = Trainer[Any, Any]


def vector(mode: AutoresetMode) -> SyncVectorEnv:
    """Episodes of three steps, so that a rollout of seven ends where one does or in the midst of one."""
    return SyncVectorEnv([lambda: MatchingEnv(masked=True)] * NUM_ENVS, autoreset_mode=mode)


SAMPLERS: dict[str, Callable[[], AnySampler]] = {
    "episodes": lambda: EpisodeSampler(lambda: MatchingEnv(masked=True), 2),
    **{
        mode.name: lambda mode=mode: FragmentSampler(vector(mode), NUM_STEPS, seed=4)  # type: ignore[misc]
        for mode in AutoresetMode
    },
    "wrapped": lambda: FragmentSampler(
        gymnasium.wrappers.vector.RecordEpisodeStatistics(vector(AutoresetMode.NEXT_STEP)), NUM_STEPS, seed=4
    ),
    "vectorised": lambda: FragmentSampler(gymnasium.make_vec("CartPole-v1", NUM_ENVS), 20, seed=4),
    "made": lambda: FragmentSampler(gymnasium.make_vec("CartPole-v1", NUM_ENVS, vectorization_mode="sync"), 20),
}


def trainer_of(policy_class: type[GymPolicy], sampler: AnySampler, *, seed: int = 0) -> AnyTrainer:
    policy: Any = policy_class(sampler, hidden_sizes=(8,), normalize_observations=True, seed=seed)
    common: Any = {"batch_size": 4, "learning_rate": 0.01, "seed": seed}
    if policy_class is GymActorCritic:
        return PPOTrainer(PPOConfig(num_epochs_per_update=2, **common), policy, EnvironmentReward())
    return ReinforceTrainer(ReinforceConfig(**common), policy, EnvironmentReward())


def train(trainer: AnyTrainer, num_steps: int) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    """Some steps more; their metrics, and the parameters and buffers after them."""
    metrics = []
    for _ in range(num_steps):
        seeds = range(3 * trainer.num_steps, 3 * trainer.num_steps + 3)
        metrics.append(trainer.step(getattr(trainer.sampler, "states", seeds)))
    policy: Any = trainer.policy
    return metrics, [value.clone() for value in policy.state_dict().values()]


def saved_and_loaded(state: Any) -> Any:
    """Through a file that holds nothing but plain data."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def check_same(
    left: tuple[list[dict[str, float]], list[torch.Tensor]], right: tuple[list[dict[str, float]], list[torch.Tensor]]
) -> None:
    assert left[0] == right[0]
    assert all(torch.equal(one, other) for one, other in zip(left[1], right[1], strict=True))


@pytest.mark.parametrize("num_before", [0, 1, 2])
@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("policy_class", [GymPolicy, GymActorCritic])
def test_what_is_loaded_goes_on_bitwise(policy_class: type[GymPolicy], kind: str, num_before: int) -> None:
    trainer = trainer_of(policy_class, SAMPLERS[kind]())
    train(trainer, num_before)
    state = trainer.state_dict()
    expected = train(trainer, 3)
    assert expected[0][-1]["num_episodes"] > expected[0][0]["num_episodes"]
    fresh = trainer_of(policy_class, SAMPLERS[kind](), seed=1)
    for other in (fresh, trainer, trainer):
        other.load_state_dict(state)
        check_same(train(other, 3), expected)


def rewards_and_metrics(sampler: AnySampler, policy: GymPolicy) -> tuple[list[list[float]], dict[str, float]]:
    groups = [sampler.sample(policy, getattr(sampler, "states", [7, 8, 9]), 1) for _ in range(2)]
    return [group[0].rewards.tolist() for rollout in groups for group in rollout], sampler.get_metrics()


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_sampler_alone_goes_on_from_its_state(kind: str) -> None:
    """Nothing that happens to it later changes a state that was taken of it, or that was loaded."""
    sampler, fresh = SAMPLERS[kind](), SAMPLERS[kind]()
    policy = GymPolicy(sampler)
    rewards_and_metrics(sampler, policy)
    generator = policy.generator.get_state()
    state = sampler.state_dict()
    expected = rewards_and_metrics(sampler, policy)
    for other in (fresh, fresh, sampler):
        policy.generator.set_state(generator)
        other.load_state_dict(state)
        assert rewards_and_metrics(other, policy) == expected


def test_steps_are_counted_on_from_a_state() -> None:
    def sampler(**failures: Any) -> FragmentSampler:
        return FragmentSampler(SyncVectorEnv([lambda: ScriptedEnv(**failures)]), 2, seed=2)

    first, policy = sampler(fails_at=(2, 0, 3)), GymPolicy(ScriptedEnv())
    first.sample(policy, [0], 1)
    second = sampler()
    second.load_state_dict(first.state_dict())
    with pytest.raises(EnvironmentFailedError, match=r"environment 0 \(seed 2\) raised RuntimeError at step 3 of its"):
        second.sample(policy, [0], 1)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_state_can_be_saved(kind: str) -> None:
    trainer = trainer_of(GymActorCritic, SAMPLERS[kind]())
    train(trainer, 1)
    state = saved_and_loaded(trainer.state_dict())
    expected = train(trainer, 2)
    fresh = trainer_of(GymActorCritic, SAMPLERS[kind](), seed=1)
    fresh.load_state_dict(state)
    check_same(train(fresh, 2), expected)


def test_the_vector_environment_stays_the_same_object() -> None:
    """Who made it goes on changing its attributes, and what made its environments is still there."""
    envs: Any = gymnasium.wrappers.vector.RecordEpisodeStatistics(vector(AutoresetMode.SAME_STEP))
    makers = envs.unwrapped.env_fns
    sampler = FragmentSampler(envs, 4)
    policy = GymPolicy(sampler, seed=0)
    sampler.sample(policy, sampler.states, 1)
    state = sampler.state_dict()
    seen = [environment.unwrapped.cue for environment in envs.unwrapped.envs]
    sampler.sample(policy, sampler.states, 1)
    sampler.load_state_dict(state)
    assert sampler.envs is sampler.environments.envs is envs
    assert envs.unwrapped.env_fns is makers
    assert [environment.unwrapped.cue for environment in envs.unwrapped.envs] == seen


def test_what_environments_share_is_shared_by_their_copies() -> None:
    board: list[int] = []

    class Shares(ScriptedEnv):
        def __init__(self) -> None:
            super().__init__()
            self.board = board

    envs = SyncVectorEnv([Shares] * NUM_ENVS)
    sampler = FragmentSampler(envs, 4)
    sampler.load_state_dict(copy.deepcopy(sampler.state_dict()))
    first, *others = (environment.board for environment in envs.envs)  # type: ignore[attr-defined]
    assert first is not board
    assert all(other is first for other in others)


class Locked(ScriptedEnv):
    def __init__(self) -> None:
        super().__init__()
        self.lock = Lock()


class TellsItsState(Locked):
    """One that knows better than anyone what changes in it."""

    def state_dict(self) -> dict[str, Any]:
        return {"place": np.array([self.seed, self.episode, self.steps])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed, self.episode, self.steps = state["place"].tolist()


def test_environments_that_hold_what_is_no_data() -> None:
    sampler = FragmentSampler(SyncVectorEnv([Locked]), 4)
    message = (
        r"in Locked, SyncVectorEnv\.envs\[0\]\.lock is a lock, which is more than attributes in Python\. Pass "
        r"FragmentSampler\(\.\.\., environments_in_state='restart'\).*, or give the environment methods state_dict"
    )
    with pytest.raises(TypeError, match=message):
        trainer_of(GymPolicy, sampler).state_dict()


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")
def test_environments_of_box2d_are_no_data() -> None:
    sampler = FragmentSampler(gymnasium.make_vec("LunarLander-v3", vectorization_mode="sync"), 4)
    with pytest.raises(TypeError, match=r"in LunarLander, SyncVectorEnv\.envs\[0\].*\.world\.this is a SwigPyObject"):
        sampler.state_dict()


def test_environments_in_other_processes_are_no_data() -> None:
    envs = AsyncVectorEnv([ScriptedEnv], context="spawn")
    try:
        with pytest.raises(TypeError, match=r"in AsyncVectorEnv, .* runs its environments in other processes"):
            FragmentSampler(gymnasium.wrappers.vector.RecordEpisodeStatistics(envs), 4).state_dict()
    finally:
        envs.close()


def test_an_environment_that_tells_its_own_state() -> None:
    def make() -> FragmentSampler:
        return FragmentSampler(SyncVectorEnv([lambda: gymnasium.wrappers.TimeLimit(TellsItsState(), 99)]), 4, seed=5)

    sampler, fresh = make(), make()
    policy = GymPolicy(sampler, ParityActor())
    sampler.sample(policy, [0], 1)
    state = saved_and_loaded(sampler.state_dict())
    rewards = [sampler.sample(policy, [0], 1)[0][0].rewards.tolist() for _ in range(3)]
    for other in (fresh, sampler):
        other.load_state_dict(state)
        assert [other.sample(policy, [0], 1)[0][0].rewards.tolist() for _ in range(3)] == rewards


def test_an_environment_that_does_not_take_its_own_state_back() -> None:
    class Refuses(TellsItsState):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise ValueError("the wheel came off")

    sampler = FragmentSampler(SyncVectorEnv([Refuses]), 4)
    sampler.sample(GymPolicy(sampler), [0], 1)
    with pytest.raises(RuntimeError, match=r"a part of the state \(ValueError: the wheel came off\): make it anew"):
        sampler.load_state_dict(sampler.state_dict())


def fragments(num_envs: int = NUM_ENVS) -> FragmentSampler:
    return FragmentSampler(SyncVectorEnv([ScriptedEnv] * num_envs), 4)


@pytest.mark.parametrize(
    ("sampler", "state", "message"),
    [
        (
            fragments(),
            fragments(2).state_dict(),
            "the state of 2 environments in a SyncVectorEnv, expected 3 in a Sync",
        ),
        (
            fragments(1),
            FragmentSampler(gymnasium.make_vec("CartPole-v1"), 4).state_dict(),
            "1 environments in a CartPoleVectorEnv, expected 1 in a SyncVectorEnv: load it into a sampler",
        ),
        (
            fragments(),
            EpisodeSampler(ScriptedEnv).state_dict(),
            r"FragmentSampler.* was given \['statistics'\], expected",
        ),
        (
            EpisodeSampler(ScriptedEnv),
            fragments().state_dict(),
            r"EpisodeSampler.* expected \['statistics'\]: pass what",
        ),
        (EpisodeSampler(ScriptedEnv), None, r"EpisodeSampler.load_state_dict was given NoneType, expected"),
    ],
)
def test_states_of_something_else(sampler: AnySampler, state: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict(state)


@pytest.mark.parametrize("make_sampler", [fragments, lambda: EpisodeSampler(ScriptedEnv)])
def test_a_restart_after_loading_keeps_the_statistics_that_were_loaded(make_sampler: Callable[[], AnySampler]) -> None:
    sampler, fresh = make_sampler(), make_sampler()
    sampler.sample(GymPolicy(ScriptedEnv()), [0, 1, 2], 1)
    fresh.load_state_dict(sampler.state_dict())
    fresh.restart()
    assert fresh.get_metrics() == sampler.get_metrics()
    assert fresh.get_metrics()["num_episodes"] > 0


def policy_of(seed: int) -> GymActorCritic:
    return GymActorCritic(SpacesEnv(spaces.Box(-1, 1, (2,)), spaces.Discrete(2)), hidden_sizes=(4,), seed=seed)


def drawn(policy: GymPolicy) -> torch.Tensor:
    return torch.rand(4, generator=policy.generator)


def weights_of(policy: GymPolicy) -> dict[str, torch.Tensor]:
    """What a file held before generators were in it."""
    return {**dict(policy.named_parameters()), **dict(policy.named_buffers())}


def test_the_generator_is_in_the_state_beside_the_weights() -> None:
    policy, other = policy_of(0), policy_of(1)
    assert policy.state_dict().keys() - {"_extra_state"} == policy.get_parameters().keys()
    drawn(policy)
    state = policy.state_dict()
    expected = drawn(policy)
    assert str(other.load_state_dict(state)) == "<All keys matched successfully>"
    assert torch.equal(drawn(other), expected)
    assert torch.equal(drawn(policy.to("cpu")), drawn(other))


def test_safetensors_hold_the_generator(tmp_path: Path) -> None:
    policy, other = policy_of(0), policy_of(1)
    drawn(policy)
    save_model(policy, str(tmp_path / "policy.safetensors"))
    missing, unexpected = load_model(other, str(tmp_path / "policy.safetensors"))
    assert not missing
    assert not unexpected
    assert torch.equal(drawn(policy), drawn(other))
    assert load_file(tmp_path / "policy.safetensors").keys() == policy.state_dict().keys()


@pytest.mark.parametrize("is_strict", [True, False])
def test_weights_without_a_generator_leave_the_policy_its_own(is_strict: bool) -> None:
    policy, other, expected = policy_of(0), policy_of(1), drawn(policy_of(1))
    weights = weights_of(policy)
    keys = set(weights)
    loaded = other.load_state_dict(weights, strict=is_strict)
    assert loaded.missing_keys == loaded.unexpected_keys == []
    assert weights.keys() == keys
    assert torch.equal(drawn(other), expected)
    assert all(torch.equal(value, other.get_parameters()[name]) for name, value in weights.items())
    nested = nn.ModuleDict({"policy": policy_of(2)})
    nested.load_state_dict({f"policy.{name}": value for name, value in weights.items()})


def test_weights_that_miss_something_else_are_refused() -> None:
    weights = weights_of(policy_of(0))
    del weights["actor.critic_head.bias"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "actor\.critic_head\.bias"\.'):
        policy_of(1).load_state_dict(weights)


@pytest.mark.parametrize("name", ["lunarlander", "tictactoe"])
def test_stored_weights_still_load(name: str) -> None:
    weights = load_file(Path(__file__).parents[2] / "examples" / "weights" / f"{name}.safetensors")
    hidden_sizes = [weights[key].shape[-1] for key in sorted(weights) if key.endswith(".bias") and ".hidden." in key]
    num_inputs, num_actions = weights["actor.hidden.0.weight"].shape[1], len(weights["actor.actor_head.bias"])
    environment = SpacesEnv(spaces.Box(-1, 1, (num_inputs,)), spaces.Discrete(num_actions))
    is_normalized = "normalization.mean" in weights
    policy = GymActorCritic(environment, hidden_sizes=hidden_sizes, normalize_observations=is_normalized)
    policy.load_state_dict(weights)
    assert all(torch.equal(value, policy.state_dict()[key]) for key, value in weights.items())
