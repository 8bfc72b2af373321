"""Settings that come with the package, and what they need: wrappers, a wide start, normalised rewards."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from grpo import PPOConfig, PPOTrainer, World
from grpo_adapters.cli import main
from grpo_adapters.cli.errors import UsageError
from grpo_adapters.cli.gym_environments import make, make_several, wrapper_of
from grpo_adapters.cli.gym_options import GymPPOOptions, load_options, parse_options
from grpo_adapters.cli.gym_presets import zoo_files
from grpo_adapters.cli.gym_training import build, resolve
from grpo_adapters.cli.toml_files import read_toml
from grpo_adapters.gym import FragmentSampler, GymActorCritic, NormalizedReward, Trajectory

SMALL = ["--num-steps", "8", "--num-envs", "2", "--batch-size", "16", "--evaluation-episodes", "1"]
REPEAT = "gymnasium.wrappers:RepeatAction {num_repeats = 4}"
STACK = "gymnasium.wrappers:FrameStackObservation {stack_size = 3}"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", zoo_files())
def test_settings_are_found_by_their_name_and_by_the_environment(name: str) -> None:
    settings = read_toml(zoo_files()[name])
    by_name = parse_options(["--config", name])
    assert by_name == load_options(settings)
    assert by_name == parse_options([settings["environment"], "--algorithm", settings["algorithm"]])
    is_of_another_package = by_name.environment.startswith(("minigrid:", "ale_py:"))
    assert is_of_another_package or by_name.environment in gymnasium.registry


def test_no_two_settings_are_of_the_same_environment_by_the_same_algorithm() -> None:
    settings = [read_toml(path) for path in zoo_files().values()]
    own = {(each["environment"], each["algorithm"]) for each in settings}
    assert len(own) == len(settings)


def test_a_schedule_ends_with_the_training() -> None:
    checked = 0
    for name in zoo_files():
        options: Any = parse_options(["--config", name])
        if not isinstance(options, GymPPOOptions):
            continue
        assert options.until_decisions is not None
        steps = options.until_decisions / (options.num_envs * options.num_steps)
        for schedule in (options.learning_rate, options.clip_low, options.clip_high):
            if not isinstance(schedule, float):
                assert schedule.num_steps == int(steps), name
                checked += 1
    assert checked


def test_a_file_goes_before_the_settings_of_its_name() -> None:
    Path("cartpole").write_text('environment = "Pendulum-v1"\n')
    assert parse_options(["--config", "cartpole"]).environment == "Pendulum-v1"


def test_a_name_that_is_not_in_the_zoo_is_told_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"there is no file cartpol, and none of that name in the zoo.* acrobot.*"):
        parse_options(["--config", "cartpol"])


def test_wrappers_are_around_every_environment_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "gym", "CartPole-v1", *SMALL, "--wrappers", REPEAT, STACK, "--until-steps", "3"]
    assert main([*words, "--folder", "run", "--hidden-sizes", "4"]) == 0
    assert read_toml(Path("run", "config.toml"))["wrappers"] == [REPEAT, STACK]
    evaluations = [json.loads(line) for line in Path("run", "evaluations.jsonl").read_text().splitlines()]
    for line in evaluations:
        assert line["evaluation/mean_length"] == math.ceil(line["evaluation/mean_return"] / 4)
    capsys.readouterr()
    assert main(["evaluate", "run", "--episodes", "1"]) == 0
    assert "over 1 episodes" in capsys.readouterr().out


def test_the_first_wrapper_is_the_innermost() -> None:
    environment = make("CartPole-v1", [REPEAT, STACK])
    assert isinstance(environment, gymnasium.wrappers.FrameStackObservation)
    assert isinstance(environment.env, gymnasium.wrappers.RepeatAction)
    several: Any = make_several("CartPole-v1", [REPEAT, STACK], 2)
    assert [type(own) for own in several.envs] == [type(environment)] * 2
    several.close()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("RepeatAction", "is not understood, expected module:class"),
        ("gymnasium.wrappers:RepeatAction 4", "is not understood, expected module:class"),
        ("gymnasium.wrappers:RepeatActions", "is not found: .*RepeatActions"),
        ("no_such_module:RepeatAction", "is not found: .*no_such_module"),
        ("gymnasium.wrappers:RepeatAction", "cannot take CartPole-v1: TypeError: .*num_repeats"),
        ("gymnasium.wrappers:RepeatAction {num_repeats = 0}", "cannot take CartPole-v1: ValueError"),
        (
            "gymnasium.wrappers:RescaleAction {min_action = 0, max_action = 1}",
            "cannot take CartPole-v1: TypeError: RescaleAction",
        ),
    ],
)
def test_what_is_wrong_with_a_wrapper_is_told(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        make("CartPole-v1", [text])


def test_what_is_tried_as_a_fix_is_understood() -> None:
    with pytest.raises(UsageError) as error:
        wrapper_of("FrameStackObservation")
    example = str(error.value).split("'")[-2]
    assert make("CartPole-v1", [example]).observation_space.shape == (4, 4)


def test_continuous_actions_begin_with_the_standard_deviation_that_is_given() -> None:
    options = resolve(parse_options(["Pendulum-v1", *SMALL, "--initial-std", "3", "--folder", "run"]))
    run = build(options, [], World())
    policy: Any = run.trainer.policy
    torch.testing.assert_close(policy.distribution.log_std.exp(), torch.tensor([3.0]))


def test_continuous_actions_are_clipped_where_that_is_asked_for() -> None:
    options = resolve(parse_options(["Pendulum-v1", *SMALL, "--squash", "False", "--folder", "run"]))
    policy: Any = build(options, [], World()).trainer.policy
    assert not policy.distribution.squashed.any()


def test_discrete_actions_have_no_standard_deviation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "gym", "CartPole-v1", *SMALL, "--initial-std", "3"]) == 2
    assert "initial_std is 3.0, but the actions are not continuous: Discrete(2)" in capsys.readouterr().err


# What was reached

ROOT = Path(__file__).parents[2]
RESULTS = [json.loads(line) for line in (ROOT / "tests/benchmarks/zoo.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", sorted({line["name"] for line in RESULTS}))
def test_results_are_of_the_settings_as_they_are(name: str) -> None:
    settings = parse_options(["--config", name]).model_dump(mode="json", exclude={"until_decisions"})
    for line in RESULTS:
        if line["name"] == name:
            trained = line["settings"]
            assert {key: trained[key] for key in settings.keys() & trained.keys()} == {
                key: settings[key] for key in settings.keys() & trained.keys()
            }


def test_the_page_tells_what_each_training_came_to() -> None:
    page = (ROOT / "docs/measured/zoo.md").read_text(encoding="utf-8").splitlines()
    trained = {(line["name"], line["contender"], line["settings"]["until_decisions"]) for line in RESULTS}
    for key in trained:
        finals = sorted(
            line["final"]
            for line in RESULTS
            if (line["name"], line["contender"], line["settings"]["until_decisions"]) == key
        )
        cut = len(finals) // 4  # of each end by an interquartile mean
        mean = sum(finals[cut : len(finals) - cut]) / (len(finals) - 2 * cut)
        told = f"**{mean:.2f}**" if abs(mean) < 10 else f"**{mean:.1f}**"
        assert any(line.startswith(f"| `{key[0]}` |") and told in line for line in page), key
    for name in set(zoo_files()) - {line["name"] for line in RESULTS}:
        assert any(line.startswith(f"| `{name}` |") and "not run here" in line for line in page), name


def test_the_page_of_long_episodes_tells_what_each_training_came_to() -> None:
    rows = (ROOT / "docs/how-to/long-episodes.md").read_text(encoding="utf-8").splitlines()
    results = (ROOT / "tests/benchmarks/long_episodes.jsonl").read_text(encoding="utf-8").splitlines()
    finals: dict[tuple[str, int], list[str]] = {}
    for line in map(json.loads, results):
        finals.setdefault((line["name"], line["budget"]), []).append(f"{line['final']:.0f}")
    for (name, budget), own in finals.items():
        told = f"({', '.join(own)})"
        assert any(row.startswith(f"| `{name}` |") and f" {budget:,} " in row and told in row for row in rows), name


# Normalised rewards


def trajectory(rewards: list[float], lengths: tuple[int, ...], terminated: list[bool]) -> Trajectory:
    steps = len(rewards)
    return Trajectory(
        observations=torch.zeros(steps, 1),
        decisions=torch.zeros(steps, dtype=torch.long),
        rewards=torch.tensor(rewards),
        episode_lengths=lengths,
        next_observations=torch.zeros(len(lengths), 1),
        terminated=torch.tensor(terminated),
    )


def test_rewards_are_divided_by_the_spread_of_returns() -> None:
    """Returns 1 and 2.5 of the one environment, 2 and, behind a termination, 4 of the other: variance 1.171875."""
    model = NormalizedReward(discount=0.5)
    played = [trajectory([1.0, 2.0], (2,), [False]), trajectory([2.0, 4.0], (1, 1), [True, False])]
    rewards = model.compute_rewards([0, 1], played)
    torch.testing.assert_close(rewards, torch.tensor([1.0, 2.0, 2.0, 4.0]) / math.sqrt(1.171875))


def test_returns_go_on_from_rollout_to_rollout() -> None:
    """Returns 2; then 1 + 2/2 = 2 and 4 + 2/2 = 5: mean 3, variance 2."""
    model = NormalizedReward(discount=0.5)
    model.compute_rewards([7], [trajectory([2.0], (1,), [False])])
    rewards = model.compute_rewards([7], [trajectory([1.0, 4.0], (1, 1), [False, False])])
    torch.testing.assert_close(rewards, torch.tensor([1.0, 4.0]) / math.sqrt(2))


def test_no_reward_is_above_ten_standard_deviations() -> None:
    model = NormalizedReward(discount=0.0)
    rewards = model.compute_rewards([0], [trajectory([0.0] * 999 + [1.0], (1000,), [False])])
    assert rewards.max() == 10.0


def test_a_discount_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"discount is 1\.5, expected 0 to 1"):
        NormalizedReward(discount=1.5)


def test_it_goes_on_from_its_state() -> None:
    model, other = NormalizedReward(0.9), NormalizedReward(0.9)
    played = [trajectory([1.0, 3.0, 2.0], (3,), [False])]
    model.compute_rewards([0], played)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.compute_rewards([0], played), other.compute_rewards([0], played))
    with pytest.raises(ValueError, match=r"NormalizedReward.load_state_dict was given \[\]"):
        other.load_state_dict({})


def test_a_run_with_normalised_rewards_goes_on_where_it_was() -> None:
    words = ["train", "gym", "Acrobot-v1", *SMALL, "--normalize-rewards", "True"]
    assert main([*words, "--folder", "whole", "--until-steps", "4"]) == 0
    assert main([*words, "--folder", "parts", "--until-steps", "2"]) == 0
    assert main(["resume", "parts", "--until-steps", "4"]) == 0
    assert Path("whole", "metrics.jsonl").read_text() == Path("parts", "metrics.jsonl").read_text()


def test_reported_returns_are_of_rewards_as_they_are() -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    sampler = FragmentSampler(envs, num_steps=64)
    trainer = PPOTrainer(PPOConfig(), GymActorCritic(sampler), NormalizedReward(0.99))
    metrics = trainer.step(sampler.states)
    assert metrics["episode_return"] == metrics["episode_length"]
