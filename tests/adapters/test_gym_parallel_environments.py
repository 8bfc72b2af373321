"""A vector environment in several processes gives what one in a single process does."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from grpo import PPOConfig, PPOTrainer
from grpo_adapters.gym import (
    EnvironmentFailedError,
    EnvironmentReward,
    FragmentSampler,
    GymActorCritic,
    ParallelVectorEnv,
    evaluate,
)
from grpo_adapters.gym.environments import environment_workers


def cart_poles(count: int) -> list[Callable[[], gymnasium.Env[Any, Any]]]:
    return [lambda: gymnasium.make("CartPole-v1")] * count


class Fails(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Raises in the third step of each episode, but the first time only."""

    steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == 3:
            raise ArithmeticError("of an environment")
        return super().step(action)


def assert_same(left: Any, right: Any) -> None:
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for name in left:
            assert_same(left[name], right[name])
    elif isinstance(left, tuple) or (isinstance(left, np.ndarray) and left.dtype == object):
        assert len(left) == len(right)
        for own, other in zip(left, right, strict=True):
            assert_same(own, other)
    else:
        np.testing.assert_array_equal(left, right)
        assert np.asarray(left).dtype == np.asarray(right).dtype


@contextmanager
def parallel(*arguments: Any, **options: Any) -> Iterator[ParallelVectorEnv]:
    with closing(ParallelVectorEnv(*arguments, **options)) as envs:
        yield envs


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("num_workers", [1, 3])
def test_it_plays_as_a_synchronous_one(mode: AutoresetMode, num_workers: int) -> None:
    generator = np.random.default_rng(0)
    with (
        closing(SyncVectorEnv(cart_poles(5), autoreset_mode=mode)) as sync,
        parallel(cart_poles(5), num_workers, autoreset_mode=mode) as envs,
    ):
        assert_same(sync.reset(seed=3), envs.reset(seed=3))
        num_ended = 0
        for _ in range(80):
            actions = generator.integers(0, 2, 5)
            expected, came = sync.step(actions), envs.step(actions)
            for own, other in zip(expected, came, strict=True):
                assert_same(own, other)
            done = expected[2] | expected[3]
            num_ended += int(done.sum())
            if mode is AutoresetMode.DISABLED and done.any():
                masks: list[NDArray[np.bool_]] = [done.copy(), done.copy()]
                assert_same(
                    sync.reset(seed=[1, None, 2, 3, None], options={"reset_mask": masks[0]}),
                    envs.reset(seed=[1, None, 2, 3, None], options={"reset_mask": masks[1]}),
                )
        assert num_ended > 5


class Varied(gymnasium.Env[Any, Any]):
    """Observations of one kind of space, and of everything else all kinds that an environment may give."""

    def __init__(self, kind: str) -> None:
        self.pixels = kind == "pixels"
        box = gymnasium.spaces.Box(0, 255, (2, 3), np.uint8 if self.pixels else np.float64)
        self.observation_space = gymnasium.spaces.Dict({"box": box}) if kind == "columns" else box
        self.action_space = gymnasium.spaces.Dict({"box": gymnasium.spaces.Discrete(250)})
        self.is_keyed = kind == "columns"

    def observed(self, number: int) -> Any:
        seen = np.full((2, 3), number, np.uint8 if self.pixels else np.float64) / (1 if self.pixels else 3)
        seen = seen.astype(np.uint8) if self.pixels else seen
        return {"box": seen} if self.is_keyed else seen

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return self.observed(0), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        reward = [0.1, 1, np.float32(0.1), np.float64(0.1)][self.at % 4]
        truncated = np.bool_(self.at == 11) if self.at % 2 else self.at == 20
        info = {"at": self.at} if self.at % 5 == 0 else {}
        return self.observed(int(action["box"])), reward, False, truncated, info


@pytest.mark.parametrize("kind", ["pixels", "numbers", "columns"])
def test_whatever_environments_give_comes_out_as_of_a_synchronous_one(kind: str) -> None:
    functions = [lambda: Varied(kind)] * 4
    with (
        closing(SyncVectorEnv(functions, autoreset_mode=AutoresetMode.SAME_STEP)) as sync,
        parallel(functions) as envs,
    ):
        assert_same(sync.reset(seed=3), envs.reset(seed=3))
        for at in range(30):
            actions = {"box": np.arange(4) + 7 * at}
            expected, came = sync.step(actions), envs.step(actions)
            for own, other in zip(expected, came, strict=True):
                assert_same(own, other)


class Stumbles(gymnasium.Env[Any, Any]):
    """Fails in the second step where it is told to, and writes over the one dictionary that it tells things in."""

    observation_space = gymnasium.spaces.Box(-9.0, 9.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    mark = 0

    def __init__(self, error: Exception | None = None, length: int = 99, reward: Any = 1.0) -> None:
        self.error, self.length, self.reward = error, length, reward
        self.told: dict[str, Any] = {"steps": 0}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.told["steps"] = 0
        return np.zeros(1, np.float32), self.told

    def step(self, action: Any) -> Any:
        self.told["steps"] += 1
        if self.error is not None and self.told["steps"] == 2:
            raise self.error
        info = {} if self.reward != 1.0 else self.told
        return np.zeros(1, np.float32), self.reward, self.told["steps"] == self.length, False, info


STILL = np.zeros(3, dtype=np.int64)


def test_what_an_error_elsewhere_left_is_no_answer_to_another_question() -> None:
    functions: list[Callable[[], Any]] = [lambda: Stumbles(ValueError("fuel empty")), Stumbles, Stumbles]
    with parallel(functions) as envs:
        envs.reset(seed=0)
        envs.step(STILL)
        for _ in range(2):
            with pytest.raises(ValueError, match="fuel empty"):
                envs.step(STILL)
            envs.set_attr("mark", 7)
            assert envs.get_attr("mark") == (7, 7, 7)
            envs.reset(seed=0)
            envs.step(STILL)


def test_what_is_told_at_an_end_is_as_it_was_before_the_reset() -> None:
    functions = [lambda: Stumbles(length=2)] * 3
    with (
        closing(SyncVectorEnv(functions, autoreset_mode=AutoresetMode.SAME_STEP)) as sync,
        parallel(functions) as envs,
    ):
        for each in (sync, envs):
            each.reset(seed=0)
            each.step(STILL)
        expected, came = (each.step(STILL)[4] for each in (sync, envs))
        assert expected["final_info"]["steps"].tolist() == came["final_info"]["steps"].tolist() == [2, 2, 2]


class UnusualError(Exception):
    """Is made of two things, and cannot be made of what it says."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(f"{what} {how}")


def test_an_error_that_cannot_be_sent_says_what_it_said() -> None:
    with parallel([Stumbles, lambda: Stumbles(UnusualError("fuel", "empty"))]) as envs:
        envs.reset(seed=0)
        envs.step(STILL[:2])
        with pytest.raises(RuntimeError, match="UnusualError: fuel empty"):
            envs.step(STILL[:2])


def test_a_reward_that_is_no_number_of_floating_point_is_refused_as_by_a_synchronous_one() -> None:
    functions: list[Callable[[], Any]] = [Stumbles, lambda: Stumbles(reward=10**400)]
    with closing(SyncVectorEnv(functions)) as sync, parallel(functions) as envs:
        for each in (sync, envs):
            each.reset(seed=0)
            with pytest.raises(OverflowError):
                each.step(STILL[:2])
        envs.reset(seed=0)


@pytest.mark.parametrize("line", range(80))
def test_after_an_interrupt_anywhere_it_goes_on_or_says_that_it_is_broken(line: int) -> None:
    """The interrupt comes at each line that sends or receives, one after another."""
    lines = 0

    def interrupts(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != environment_workers.__file__ or frame.f_code.co_name == "_wait":
            return None
        if event in ("line", "return"):
            lines += 1
            if lines == line + 1:
                raise KeyboardInterrupt
        return interrupts

    with closing(SyncVectorEnv(cart_poles(2))) as sync, parallel(cart_poles(2)) as envs:
        actions = np.ones(2, dtype=np.int64)
        envs.reset(seed=3)
        sys.settrace(interrupts)
        try:
            with suppress(KeyboardInterrupt):
                envs.step(actions)
        finally:
            sys.settrace(None)
        if envs._workers[0]._is_broken:
            with pytest.raises(RuntimeError, match=r"has ended \(exit code -9\).*anew"):
                envs.reset(seed=3)
            return
        observations, _ = envs.reset(seed=3)
        np.testing.assert_array_equal(observations, sync.reset(seed=3)[0])
        np.testing.assert_array_equal(envs.step(actions)[0], sync.step(actions)[0])


def test_an_interrupt_leaves_no_answer_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(SyncVectorEnv(cart_poles(4))) as sync, parallel(cart_poles(4)) as envs:
        sync.reset(seed=3)
        envs.reset(seed=3)
        [worker] = envs._workers
        actions = np.array([0, 1, 1, 0])

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(environment_workers, "_wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                envs.step(actions)
        worker._is_awaited = False  # as where it was interrupted between sending and noting so
        sync.step(actions)
        np.testing.assert_array_equal(sync.step(actions)[0], envs.step(actions)[0])


def test_training_and_evaluation_do_not_see_it() -> None:
    def trained(envs: Any) -> list[float]:
        sampler = FragmentSampler(envs, num_steps=16, environments_in_state="restart")
        policy = GymActorCritic(sampler)
        trainer = PPOTrainer(PPOConfig(batch_size=32), policy, EnvironmentReward())
        metrics = [trainer.step(sampler.states) for _ in range(3)]
        assert trainer.state_dict()
        result = evaluate(policy, envs, num_episodes=6)
        return [*(own["loss"] for own in metrics), *map(float, result.returns)]

    with (
        closing(SyncVectorEnv(cart_poles(4), autoreset_mode=AutoresetMode.SAME_STEP)) as sync,
        parallel(cart_poles(4), 2) as envs,
    ):
        assert trained(sync) == trained(envs)


@pytest.mark.parametrize("place", [0, 3])
def test_an_environment_that_fails_is_named_and_the_next_rollout_starts_anew(place: int) -> None:
    functions = cart_poles(4)
    functions[place] = lambda: Fails(gymnasium.make("CartPole-v1"))
    with parallel(functions) as envs:
        sampler = FragmentSampler(envs, num_steps=8, seed=5, environments_in_state="restart")
        policy = GymActorCritic(sampler)
        message = rf"environment {place} \(seed {5 + place}\) raised ArithmeticError at step 2.*of an environment"
        with pytest.raises(EnvironmentFailedError, match=message):
            sampler.sample(policy, sampler.states, 1)
        [[fragment], *_] = sampler.sample(policy, sampler.states, 1)
        assert len(fragment) == 8


def test_too_few_actions_are_refused_as_by_a_synchronous_one() -> None:
    with closing(SyncVectorEnv(cart_poles(4))) as sync, parallel(cart_poles(4)) as envs:
        for each in (sync, envs):
            each.reset(seed=0)
            with pytest.raises(ValueError, match=r"argument 2 is longer|shorter"):
                each.step(np.zeros(2, dtype=np.int64))
        assert envs.get_attr("_elapsed_steps") == sync.get_attr("_elapsed_steps") == (1, 1, 0, 0)


class Tells(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Knows where it is."""

    mark = 0

    def process(self) -> int:
        return os.getpid()

    def plus(self, number: int) -> int:
        return self.mark + number


def test_a_process_that_is_gone_is_named() -> None:
    with parallel([lambda: Tells(gymnasium.make("CartPole-v1"))] * 4) as envs:
        envs.reset(seed=0)
        here, also_here, there, also_there = envs.call("process")
        assert here == also_here == os.getpid() != there == also_there
        os.kill(there, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"process of environments 2 to 3 has ended \(exit code -9\).*anew"):
            envs.step(np.zeros(4, dtype=np.int64))


def test_environments_of_workers_answer_to_names() -> None:
    with parallel([lambda: Tells(gymnasium.make("CartPole-v1", render_mode="rgb_array"))] * 3) as envs:
        envs.reset(seed=0)
        envs.set_attr("mark", [1, 2, 3])
        assert envs.get_attr("mark") == (1, 2, 3)
        assert envs.call("plus", 10) == (11, 12, 13)
        assert [np.shape(picture) for picture in envs.render()] == [(400, 600, 3)] * 3


class TellsALock(gymnasium.Wrapper[Any, Any, Any, Any]):
    """What it tells stays in its process."""

    def reset(self, **options: Any) -> Any:
        return super().reset(**options)[0], {"lock": threading.Lock()}


def test_what_cannot_be_sent_is_said() -> None:
    with parallel([lambda: TellsALock(gymnasium.make("CartPole-v1"))] * 2) as envs:
        with pytest.raises(RuntimeError, match=r"cannot be sent to another process: cannot pickle '_thread.lock'"):
            envs.reset(seed=0)
        assert envs.get_attr("_elapsed_steps") == (0, 0)


def raises(message: str) -> None:
    raise ArithmeticError(message)


class OnlyThere:
    """Cannot be unpickled."""

    def __reduce__(self) -> Any:
        return raises, ("not here",)


class TellsOnlyThere(gymnasium.Wrapper[Any, Any, Any, Any]):
    """What it tells can be sent, but not received."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"told": OnlyThere()}


def test_what_cannot_be_received_is_said() -> None:
    with parallel([lambda: TellsOnlyThere(gymnasium.make("CartPole-v1"))] * 2) as envs:
        envs.reset(seed=0)
        with pytest.raises(RuntimeError, match=r"environments 1 to 1 gave what cannot be unpickled.*not here"):
            envs.step(np.zeros(2, dtype=np.int64))
        assert envs.get_attr("_elapsed_steps") == (1, 1)


def test_a_state_asks_for_a_restart() -> None:
    with parallel(cart_poles(2)) as envs:
        sampler = FragmentSampler(envs, num_steps=4)
        with pytest.raises(TypeError, match="environments_in_state='restart'"):
            sampler.state_dict()


@pytest.mark.parametrize("num_workers", [0, 2, 5])
def test_every_process_has_an_environment(num_workers: int) -> None:
    with pytest.raises(ValueError, match=f"num_workers is {num_workers}, expected from 1 to 1"):
        ParallelVectorEnv(cart_poles(2), num_workers)
