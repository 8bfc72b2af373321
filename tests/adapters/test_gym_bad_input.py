"""Bad input from users and from environments: what is wrong, where, and how to go on; the next step works again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gym_environments import EPISODES, MatchingEnv, ParityActor, ScriptedEnv, SpacesEnv
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from torch import nn

from grpo import GRPOConfig, GRPOTrainer, NonFiniteError, PPOConfig, PPOTrainer, Trainer
from grpo_adapters.gym import (
    DiagonalGaussian,
    EnvironmentFailedError,
    EnvironmentReward,
    EpisodeSampler,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
    ObservationEncoder,
    StateDependentExploration,
    distribution_for,
)

BOX = spaces.Box(-1, 1, (3,))
TWO = spaces.Discrete(2)
SEED = 5


def scripted(**failures: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: ScriptedEnv(**failures)] * 3)


def of_odd_mode() -> SyncVectorEnv:
    envs = scripted()
    envs.metadata["autoreset_mode"] = "whenever"
    return envs


def shared_environment() -> EpisodeSampler:
    environment = ScriptedEnv()
    return EpisodeSampler(lambda: environment)


def of_any_kind(**settings: Any) -> GymPolicy:
    return GymPolicy(SpacesEnv(BOX, BOX), **settings)


def as_is(value: Any) -> Any:
    return value


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: GymPolicy(SpacesEnv(BOX, spaces.Text(2))),
        TypeError,
        r"action space Text.* is not supported, expected a Discrete.*in gymnasium\.wrappers\.TransformActi",
    ),
    (lambda: distribution_for(spaces.Box(0, 5, (2,), np.int32)), TypeError, r"action space Box.*not supported"),
    (
        lambda: distribution_for(spaces.Dict(turn=TWO, say=spaces.Text(2))),
        TypeError,
        r"action space Text.* of the part 'say' is not supported",
    ),
    (lambda: distribution_for(spaces.Tuple(())), TypeError, r"action space Tuple\(\) has no parts"),
    (
        lambda: DiagonalGaussian(BOX, 0.0),
        ValueError,
        r"initial_std is 0\.0, expected a finite standard deviation above 0",
    ),
    (lambda: StateDependentExploration(BOX, num_latents=0), ValueError, r"num_latents is 0, expected at least 1"),
    (lambda: StateDependentExploration(BOX, resample_every=0), ValueError, r"resample_every is 0, expected at least 1"),
    (
        lambda: GymPolicy(SpacesEnv(BOX, BOX), hidden_sizes=(32,), distribution=StateDependentExploration),
        ValueError,
        r"actor returned shape \[2, 35\] for 2 observations, but .* takes \[n, 67\]: end the network with 67 outputs, "
        r"3 means and num_latents=64 units to explore by, or pass distribution=.*as the last hidden layer has",
    ),
    (
        lambda: GymPolicy(SpacesEnv(spaces.Graph(BOX, None), TWO)),
        TypeError,
        r"observation space Graph.* is not supported, expected a Box.*in gymnasium\.wrappers\.TransformObservation$",
    ),
    (
        lambda: GymPolicy(SpacesEnv(spaces.Dict({"a": spaces.Sequence(BOX), "b": BOX}), TWO)),
        TypeError,
        r"space Sequence.* of the part 'a' of the observation is not supported.*without_keys\(environment, 'a'\)",
    ),
    (lambda: GymPolicy("CartPole-v1"), TypeError, r"environment is a str, expected .* pass gymnasium\.make"),
    (
        lambda: GymPolicy(SpacesEnv(BOX, TWO), nn.Linear(3, 4)),
        ValueError,
        r"actor returned shape \[2, 4\] for 2 observations, but Discrete\(2\) takes \[n, 2\]: end the network with 2",
    ),
    (
        lambda: GymPolicy(SpacesEnv(BOX, TWO), nn.Linear(5, 2)),
        ValueError,
        r"actor cannot take 2 observations as features of shape \[2, 3\]: .*",
    ),
    (
        lambda: GymActorCritic(SpacesEnv(BOX, TWO), critic=nn.Linear(3, 2)),
        ValueError,
        r"critic returned shape \[2, 2\] for 2 observations, but one value is expected.*with one output",
    ),
    (
        lambda: GymActorCritic(SpacesEnv(BOX, TWO), critic=nn.Linear(4, 1)),
        ValueError,
        r"critic cannot take 2 observations as features of shape \[2, 3\]",
    ),
    (
        lambda: FragmentSampler(of_odd_mode(), 8),
        ValueError,
        r"SyncVectorEnv has autoreset_mode 'whenever' in its metadata, expected one of AutoresetMode\.NEXT_STEP.*: set",
    ),
    (lambda: FragmentSampler(ScriptedEnv(), 8), TypeError, r"envs is a ScriptedEnv, expected a vector .*make_vec"),
    (lambda: of_any_kind(hidden_sizes=64), TypeError, r"hidden_sizes is 64, expected .* \(64, 64\)"),
    (lambda: of_any_kind(hidden_sizes=[6.0]), TypeError, r"hidden_sizes is \[6\.0\], expected"),
    (lambda: of_any_kind(hidden_sizes=(8, 0)), ValueError, r"expected at least 1 unit in each"),
    (
        lambda: of_any_kind(normalize_observations="no"),
        TypeError,
        "normalize_observations is 'no', expected True or False",
    ),
    (lambda: of_any_kind(seed=None), TypeError, "seed is None, expected an integer"),
    (
        lambda: FragmentSampler(scripted(), as_is(8.0)),
        TypeError,
        r"num_steps is 8\.0, expected an integer of at least 1",
    ),
    (lambda: EpisodeSampler(MatchingEnv, as_is("8")), TypeError, "num_envs is '8', expected an integer of at least 1"),
    (lambda: FragmentSampler(scripted(), 0), ValueError, r"num_steps is 0, expected at least 1"),
    (lambda: FragmentSampler(scripted(), 1), ValueError, r"num_steps is 1, expected at least 2 for .*NEXT_STEP"),
    (lambda: FragmentSampler(scripted(), 8, seed=-1), TypeError, r"seed is -1, expected a seed, an integer of at lea"),
    (lambda: FragmentSampler(scripted(), 8, seed=0.5), TypeError, r"seed is 0\.5, expected a seed"),  # type: ignore[arg-type]
    (
        lambda: EpisodeSampler(ScriptedEnv()),  # type: ignore[arg-type]
        TypeError,
        r"make_environment is a ScriptedEnv, expected a function .*: pass lambda: gymnasium\.make",
    ),
    (lambda: EpisodeSampler(scripted), TypeError, r"make_environment made a SyncVectorEnv, expected a gymnasium\.Env"),  # type: ignore[arg-type]
    (shared_environment, ValueError, r"make_environment returned one environment twice, expected a new one each time"),
    (lambda: EpisodeSampler(ScriptedEnv, 0), ValueError, r"num_envs is 0, expected at least 1"),
    (
        lambda: PPOTrainer(PPOConfig(), GymPolicy(FragmentSampler(scripted(), 8)), EnvironmentReward()),  # type: ignore[arg-type]
        TypeError,
        r"needs a critic, but policy GymPolicy has none: ",
    ),
    (
        lambda: GymPolicy(ScriptedEnv()).generate_actions([0], 1),
        TypeError,
        r"this GymPolicy was built from an environment and only predicts: give .* or an EpisodeSampler as sampler=, or",
    ),
]


@pytest.mark.parametrize(("build", "kind", "message"), WRONG)
def test_what_does_not_fit_together(build: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.compile(message, re.DOTALL)):
        build()


def test_one_step_is_enough_where_none_is_for_a_reset() -> None:
    envs = SyncVectorEnv([ScriptedEnv] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    sampler = FragmentSampler(envs, 1)
    assert [len(group[0]) for group in GymPolicy(sampler).generate_actions(sampler.states, 1)] == [1, 1, 1]


def snapshot(trainer: Trainer[Any, Any]) -> list[torch.Tensor]:
    policy = trainer.policy
    assert isinstance(policy, GymPolicy)
    return [value.clone() for value in (*policy.get_parameters().values(), *policy.state_dict().values())]


def check_failure_and_recovery(
    trainer: Trainer[Any, Any], states: Any, kind: type[Exception], message: str, good_states: Any = None
) -> None:
    """The step fails with the message and leaves the policy alone; then a step works, and the policy learns."""
    before = snapshot(trainer)
    with pytest.raises(kind, match=message):
        trainer.step(states)
    assert all(torch.equal(left, right) for left, right in zip(snapshot(trainer), before, strict=True))
    for _ in range(3):
        metrics = trainer.step(states if good_states is None else good_states)
        assert np.isfinite(list(metrics.values())).all()
    assert not torch.equal(snapshot(trainer)[0], before[0])


def fragment_trainer(envs: Any, num_steps: int = 6, config: PPOConfig | None = None) -> PPOTrainer[Any, Any]:
    sampler = FragmentSampler(envs, num_steps, seed=SEED)
    return PPOTrainer(config or PPOConfig(batch_size=6), GymActorCritic(sampler), EnvironmentReward())


def episode_trainer(make_environment: Callable[[], Any], num_envs: int = 2) -> GRPOTrainer[Any, Any]:
    policy = GymPolicy(EpisodeSampler(make_environment, num_envs))
    return GRPOTrainer(GRPOConfig(group_size=2, learning_rate=0.1), policy, EnvironmentReward())


@pytest.mark.parametrize("mode", AutoresetMode)
def test_an_environment_that_raises_in_a_rollout(mode: AutoresetMode) -> None:
    envs = SyncVectorEnv([lambda: ScriptedEnv(fails_at=(6, 0, 1))] * 3, autoreset_mode=mode)
    message = (
        r"^environment 1 \(seed 6\) raised RuntimeError at step 1 of its episode: the wheel came off "
        r"\(the next rollout starts anew\)$"
    )
    check_failure_and_recovery(fragment_trainer(envs), [0, 1, 2], EnvironmentFailedError, message)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_the_step_is_counted_from_the_start_of_the_episode(mode: AutoresetMode) -> None:
    envs = SyncVectorEnv([lambda: ScriptedEnv(fails_at=(7, 3, 1))] * 3, autoreset_mode=mode)
    message = r"environment 2 \(seed 7\) raised RuntimeError at step 1 of its episode: the wheel came off"
    check_failure_and_recovery(fragment_trainer(envs, num_steps=12), [0, 1, 2], EnvironmentFailedError, message)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_nothing_of_a_failed_rollout_is_carried_over(mode: AutoresetMode) -> None:
    """The third environment had just ended an episode, the first one was in the midst of one."""
    envs = SyncVectorEnv([lambda: ScriptedEnv(fails_at=(6, 0, 1))] * 3, autoreset_mode=mode)
    sampler = FragmentSampler(envs, 6, seed=SEED)
    policy = GymPolicy(sampler, ParityActor())
    with pytest.raises(EnvironmentFailedError):
        policy.generate_actions(sampler.states, 1)
    assert sampler.get_metrics() == {"num_episodes": 0}
    returns = []
    for (fragment,) in policy.generate_actions(sampler.states, 1):
        seed, episode, step = fragment.observations[0].tolist()
        assert (episode, step) == ((2 if seed == 7 and mode is not AutoresetMode.NEXT_STEP else 1), 0)
        for number, rewards in enumerate(fragment.rewards.split(fragment.episode_lengths)):
            script, _ = EPISODES[int(seed + episode + number) % len(EPISODES)]
            returns += [rewards.sum().item()] if len(rewards) == len(script) else []
    assert sampler.get_metrics()["episode_return"] == pytest.approx(np.mean(returns))


def test_after_a_failure_a_rollout_does_not_go_on_where_the_last_good_one_ended() -> None:
    sampler = FragmentSampler(scripted(fails_at=(6, 0, 2)), 2, seed=SEED)
    policy = GymPolicy(sampler, ParityActor())
    policy.generate_actions(sampler.states, 1)
    with pytest.raises(EnvironmentFailedError, match=r"environment 1 \(seed 6\) raised RuntimeError at step 2 of its"):
        policy.generate_actions(sampler.states, 1)
    starts = [fragment.observations[0, 2].item() for (fragment,) in policy.generate_actions(sampler.states, 1)]
    assert starts == [0, 0, 0]


@pytest.mark.parametrize("episode", [0, 1])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_an_environment_that_raises_in_reset(mode: AutoresetMode, episode: int) -> None:
    """The first reset is by a seed, later ones come with the end of an episode."""
    envs = SyncVectorEnv([lambda: ScriptedEnv(fails_at=(6, episode, -1))] * 3, autoreset_mode=mode)
    trainer = fragment_trainer(envs, num_steps=7)
    message = r"environment 1 \(seed 6\) raised RuntimeError at reset: the door is stuck"
    if episode == 0:
        with pytest.raises(EnvironmentFailedError, match=message):
            trainer.step([0, 1, 2])
        envs.envs[1].fails_at = None  # type: ignore[attr-defined]
        assert trainer.step([0, 1, 2])["num_updates"] > 0
        assert isinstance(trainer.policy, GymPolicy)
        return
    check_failure_and_recovery(trainer, [0, 1, 2], EnvironmentFailedError, message)


def test_an_environment_that_raises_behind_a_wrapper() -> None:
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(scripted(fails_at=(6, 0, 1)))
    check_failure_and_recovery(
        fragment_trainer(envs), [0, 1, 2], EnvironmentFailedError, r"environment 1 \(seed 6\) raised .* at step 1 of"
    )


@pytest.mark.filterwarnings("ignore:.*ERROR")
def test_an_environment_that_raises_in_a_process_of_its_own() -> None:
    makers = [ScriptedEnv, lambda: ScriptedEnv(fails_at=(6, 0, 1))]
    envs = AsyncVectorEnv(makers, context="spawn")
    try:
        trainer = fragment_trainer(envs)
        message = r"environment 1 \(seed 6\) raised RuntimeError at step 1 .*make the AsyncVectorEnv anew"
        with pytest.raises(EnvironmentFailedError, match=message):
            trainer.step([0, 1])
    finally:
        envs.close(terminate=True)


def test_a_vector_environment_that_raises_as_a_whole() -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=3)
    trainer = fragment_trainer(envs)
    trainer.step([0, 1, 2])
    working_step = envs.unwrapped.step

    def broken_step(actions: Any) -> Any:
        envs.unwrapped.step = working_step  # type: ignore[method-assign]
        raise RuntimeError("the wheel came off")

    envs.unwrapped.step = broken_step  # type: ignore[method-assign]
    message = r"one of 3 environments \(seeds 5 to 7\) raised RuntimeError at steps 6, 6, 6 of their episodes"
    check_failure_and_recovery(trainer, [0, 1, 2], EnvironmentFailedError, message)


@pytest.mark.parametrize("num_envs", [1, 2, 5])
@pytest.mark.parametrize(
    ("step", "when"), [(-1, "reset of its episode: the door"), (1, "step 1 of its episode: the wheel")]
)
def test_an_environment_that_raises_in_an_episode(num_envs: int, step: int, when: str) -> None:
    trainer = episode_trainer(lambda: ScriptedEnv(fails_at=(6, 0, step)), num_envs)
    message = rf"the environment \(seed 6\) raised RuntimeError at {when}"
    check_failure_and_recovery(trainer, [5, 6, 8], EnvironmentFailedError, message, [5, 8, 12])


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("place", [(6, 0, 1), (6, 0, 3), (6, 1, 1), (5, 0, 0), (6, 1, 0)])
def test_an_observation_that_is_not_finite(mode: AutoresetMode, place: tuple[int, int, int]) -> None:
    """In the midst of an episode, right after a terminated and a truncated one, at the start, after a reset."""
    envs = SyncVectorEnv([lambda: ScriptedEnv(bad_observation=place)] * 3, autoreset_mode=mode)
    step = {(6, 0, 1): 1, (6, 0, 3): 3, (6, 1, 1): 4, (5, 0, 0): 0, (6, 1, 0): 3}[place]
    if mode is AutoresetMode.NEXT_STEP and place[:2] == (6, 1):
        step += 1  # one for the reset
    message = (
        rf"environment {place[0] - 5} \(seed {place[0]}\) gave the observation \[nan, {place[1]}\.0, {place[2]}\.0\] "
        rf"at step {step} of the rollout, expected finite numbers: clip them in a wrapper"
    )
    check_failure_and_recovery(fragment_trainer(envs), [0, 1, 2], NonFiniteError, message)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_last_observation_that_is_not_finite(mode: AutoresetMode) -> None:
    """What comes after the last step of a rollout is what its return is estimated from."""
    envs = SyncVectorEnv([lambda: ScriptedEnv(bad_observation=(5, 0, 2))] * 3, autoreset_mode=mode)
    message = r"environment 0 \(seed 5\) gave the observation \[nan, 0.0, 2.0\] at step 2 of the rollout"
    check_failure_and_recovery(fragment_trainer(envs, num_steps=2), [0, 1, 2], NonFiniteError, message)


def test_a_reward_that_is_not_finite() -> None:
    message = r"environment 2 \(seed 7\) gave the reward inf at step 2 of the rollout, expected finite numbers"
    trainer = fragment_trainer(scripted(bad_reward=(7, 1, 0)))
    check_failure_and_recovery(trainer, [0, 1, 2], NonFiniteError, message)


@pytest.mark.parametrize("bad", ["bad_observation", "bad_reward"])
def test_rollouts_that_are_not_finite_can_be_skipped(bad: str) -> None:
    trainer = fragment_trainer(scripted(**{bad: (6, 0, 1)}), config=PPOConfig(batch_size=6, non_finite="skip"))
    assert trainer.step([0, 1, 2]) == {"num_updates": 0, "skipped_updates": 1}
    assert trainer.step([0, 1, 2])["num_updates"] > 0


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ({"bad_observation": (6, 0, 0)}, r"gave the observation \[nan, 0\.0, 0\.0\] at step 0"),
        ({"bad_observation": (6, 0, 3)}, r"gave the observation \[nan, 0\.0, 3\.0\] at step 3"),
        ({"bad_reward": (6, 0, 1)}, r"gave the reward inf at step 1"),
    ],
)
def test_episodes_that_are_not_finite(failures: Any, message: str) -> None:
    trainer = episode_trainer(lambda: ScriptedEnv(**failures))
    check_failure_and_recovery(
        trainer, [5, 6], NonFiniteError, r"the environment \(seed 6\) " + message + " of the rollout", [5, 8]
    )


class Stuck(ScriptedEnv):
    """Allows nothing at the second step of the first episode of seed 6; its choices are two pairs."""

    def __init__(self, mask: Any) -> None:
        super().__init__()
        self.mask = mask
        if len(mask) == 4:
            self.action_space: Any = spaces.MultiDiscrete([2, 2])

    def reset(self, **options: Any) -> Any:
        observation, _ = super().reset(**options)
        return observation, {"action_mask": np.ones(len(self.mask), dtype=np.int8)}

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, _ = super().step(np.ravel(action)[0])
        stuck = (self.seed, self.episode, self.steps) == (6, 0, 1) or terminated or truncated
        mask = np.array(self.mask if stuck else [1] * len(self.mask), dtype=np.int8)
        return observation, reward, terminated, truncated, {"action_mask": mask}


@pytest.mark.parametrize("mask", [[0, 0], [0, 0, 1, 1]])
def test_masks_that_allow_nothing(mask: list[int]) -> None:
    """Where an episode is over nothing need be allowed; else something must be of each choice."""
    message = r" gave an action_mask that allows nothing at step 1 of the rollout: end the episode"
    for mode in AutoresetMode:
        envs = SyncVectorEnv([lambda: Stuck(mask)] * 3, autoreset_mode=mode)
        trainer = fragment_trainer(envs)
        check_failure_and_recovery(trainer, [0, 1, 2], ValueError, r"environment 1 \(seed 6\)" + message)
    check_failure_and_recovery(
        episode_trainer(lambda: Stuck(mask)), [5, 6], ValueError, r"the environment \(seed 6\)" + message, [5, 8]
    )


def test_masks_of_another_size() -> None:
    class Odd(MatchingEnv):
        def mask(self) -> Any:
            return np.ones(4, dtype=np.int8)

    with pytest.raises(ValueError, match=r"action_mask of 2 environments has shape \[2, 4\], expected \[2, 3\]"):
        fragment_trainer(SyncVectorEnv([lambda: Odd(masked=True)] * 2)).step([0, 1])
    with pytest.raises(ValueError, match=r"action_mask of 2 environments has shape \[2, 4\], expected \[2, 3\]"):
        episode_trainer(lambda: Odd(masked=True)).step([0, 1])


def test_masks_of_a_single_number() -> None:
    class Odd(MatchingEnv):
        def mask(self) -> Any:
            return 1

    for trainer in (
        fragment_trainer(SyncVectorEnv([lambda: Odd(masked=True)] * 3)),
        episode_trainer(lambda: Odd(masked=True)),
    ):
        with pytest.raises(ValueError, match=r"an action_mask is .*1.*, expected an entry for each option"):
            trainer.step([0, 1, 2])


@pytest.mark.parametrize(
    ("states", "group_size", "message"),
    [
        ([0, 1, 2], 2, r"group_size is 2, but a running environment goes on in one way only: set group_size=1"),
        ([0, 1], 1, r"states are \[0, 1\], but all 3 environments step at once: pass sampler\.states"),
        ([2, 1, 0], 1, r"states are \[2, 1, 0\], but all 3"),
    ],
)
def test_states_and_groups_that_a_running_environment_cannot_take(states: Any, group_size: int, message: str) -> None:
    config = PPOConfig(batch_size=6, group_size=group_size)
    trainer = fragment_trainer(scripted(), config=config)
    with pytest.raises(ValueError, match=message):
        trainer.step(states)
    if group_size == 1:
        first = trainer.step([0, 1, 2])
        with pytest.raises(ValueError, match=message):
            trainer.step(states)
        assert trainer.step([0, 1, 2])["num_episodes"] > first["num_episodes"]


@pytest.mark.parametrize(
    ("seed", "shown"),
    [(-1, "-1"), (0.5, "0.5"), ("7", "'7'"), (True, "True"), (torch.tensor(1.0), "1.0"), (None, "None")],
)
def test_states_that_are_no_seeds(seed: Any, shown: str) -> None:
    message = rf"a state is {re.escape(shown)}, expected a seed, an integer of at least 0"
    check_failure_and_recovery(episode_trainer(ScriptedEnv), [5, seed], TypeError, message, [5, 6])


def test_predict_refuses_what_training_refuses() -> None:
    policy = GymPolicy(SpacesEnv(spaces.Box(-1, 1, (2,)), spaces.Discrete(2)))
    with pytest.raises(NonFiniteError, match="predict was given observations that are not finite"):
        policy.predict([[0.0, np.nan]])
    with pytest.raises(ValueError, match=r"masks of shape \[\], expected \[1, 2\].*write deterministic=\.\.\. with"):
        policy.predict(np.zeros((1, 2)), True)
    with pytest.raises(ValueError, match=r"an action_mask is .*-inf.*, expected True or False .*pass values == 0"):
        policy.predict([[0.0, 0.0]], [[0.0, -np.inf]])
    assert policy.predict([[0.0, 0.0]], [[0.0, 1.0]]).item() == 1
    with pytest.raises(ValueError, match="predict was given masks that allow nothing"):
        policy.predict([[0.0, 0.0]], [[0, 0]])


def test_observations_outside_of_a_discrete_space() -> None:
    for space, wrong in ((spaces.Discrete(3), -1), (spaces.Discrete(3), 3), (spaces.MultiDiscrete([2, 3]), [2, 0])):
        with pytest.raises(ValueError, match="which is not in its space"):
            ObservationEncoder(space).single(wrong)


def test_bounds_that_leave_nothing_to_choose() -> None:
    with pytest.raises(ValueError, match="leaves nothing to choose"):
        GymPolicy(SpacesEnv(spaces.Box(-1, 1, (2,)), spaces.Box(1, 1, (1,))))


def test_policies_in_double_precision() -> None:
    policy = GymActorCritic(scripted_sampler := FragmentSampler(scripted(), 4, seed=SEED), normalize_observations=True)
    trainer = PPOTrainer(PPOConfig(), policy.double(), EnvironmentReward())
    assert trainer.step(scripted_sampler.states)["num_updates"] > 0
    assert policy.predict([[0.0, 0.0, 0.0]]).shape == (1,)
