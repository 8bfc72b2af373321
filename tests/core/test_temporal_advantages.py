"""Credit along episodes: constants worked out by hand, and what holds for any rewards, values and cut into episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import StepRewards, WalkerPolicy
from torch import Tensor

from grpo import (
    Experience,
    GeneralizedAdvantage,
    GRPOConfig,
    GRPOTrainer,
    HasTurns,
    MonteCarlo,
    PairBatch,
    PPOConfig,
    PPOTrainer,
    Segments,
    TensorBatch,
    ValueEstimates,
    episode_returns,
    generalized_advantages,
    group_time_baseline,
    mean_baseline,
    normalized_advantages,
    rewards_to_go,
    value_baseline,
)

cuts = st.lists(st.integers(1, 12), min_size=1, max_size=6)
walks = st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=3), min_size=1, max_size=5)
fractions = st.sampled_from([0.0, 0.25, 0.9, 0.99, 1.0])
seeds = st.integers(0, 10_000)


def randn(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@dataclass
class Episodes:
    """A batch whose samples hold several episodes, given by their lengths in each sample."""

    lengths: list[list[int]]

    @property
    def samples(self) -> Segments:
        return Segments.of_lengths([sum(episodes) for episodes in self.lengths])

    @property
    def rows(self) -> Segments:
        return Segments(self.samples.total, 1)

    @property
    def episodes(self) -> Segments:
        return Segments.of_lengths([length for episodes in self.lengths for length in episodes])

    def select(self, rows: Tensor) -> Any:
        raise NotImplementedError


@dataclass
class Conversations(Episodes):
    """The same where each episode is a conversation, given by the number of decisions in each of its turns."""

    turn_lengths: list[list[int]]

    @property
    def turns(self) -> Segments:
        return Segments.of_lengths([length for turns in self.turn_lengths for length in turns])


def conversation_of(turn_lengths: list[list[int]], rewards: Tensor, groups: list[int]) -> Experience:
    """A sample for each list of turns."""
    batch = Conversations([[sum(turns)] for turns in turn_lengths], turn_lengths)
    count = len(turn_lengths)
    return Experience([0] * count, [0] * count, batch, Segments.of_lengths(groups), rewards)


def experience_of(
    lengths: list[list[int]], seed: int, *, per_sample: bool = False, groups: list[int] | None = None
) -> Experience:
    """Random rewards and values; the end of an episode is as often a termination as not."""
    batch = Episodes(lengths)
    total, count = batch.samples.total, len(batch.samples)
    next_values = randn(total, seed + 2)
    next_values[batch.episodes.last] *= randn(len(batch.episodes), seed + 3) > 0
    return Experience(
        [0] * count,
        [0] * count,
        batch,
        Segments.of_lengths(groups or [count]),
        randn(count if per_sample else total, seed),
        values=ValueEstimates(randn(total, seed + 1), next_values),
    )


def gae_by_a_plain_loop(experience: Experience, discount: float, gae_lambda: float) -> Tensor:
    """The recursion A_t = δ_t + γλ A_{t+1}, sample by sample and episode by episode."""
    assert experience.values is not None
    assert isinstance(experience.batch, Episodes)
    rewards = experience.rewards.tolist()
    values, next_values = experience.values.values.tolist(), experience.values.next_values.tolist()
    advantages = [0.0] * len(values)
    decision = 0
    for index, episodes in enumerate(experience.batch.lengths):
        if len(experience.rewards) == len(experience.batch.lengths) != len(values):
            rewards_of_sample = [0.0] * (sum(episodes) - 1) + [rewards[index]]
        else:
            rewards_of_sample = rewards[decision : decision + sum(episodes)]
        start = decision
        for length in episodes:
            advantage = 0.0
            for t in reversed(range(decision, decision + length)):
                error = rewards_of_sample[t - start] + discount * next_values[t] - values[t]
                advantage = error + discount * gae_lambda * advantage
                advantages[t] = advantage
            decision += length
    return torch.tensor(advantages, dtype=torch.float64)


@given(walks, fractions, fractions, seeds, st.booleans())
def test_gae_equals_a_plain_loop(
    lengths: list[list[int]], discount: float, gae_lambda: float, seed: int, per_sample: bool
) -> None:
    experience = experience_of(lengths, seed, per_sample=per_sample)
    advantages = GeneralizedAdvantage(discount=discount, gae_lambda=gae_lambda)(experience)
    torch.testing.assert_close(advantages, gae_by_a_plain_loop(experience, discount, gae_lambda))


@given(walks, fractions, seeds)
def test_lambda_one_is_the_return_minus_the_value(lengths: list[list[int]], discount: float, seed: int) -> None:
    """The return goes on with the value of what came after, where the episode was cut short."""
    experience = experience_of(lengths, seed)
    assert experience.values is not None
    rewards = experience.rewards.clone()
    last = experience.episodes.last
    rewards[last] += discount * experience.values.next_values[last]
    # within an episode the successor's value is the next decision's
    between = torch.ones(len(rewards), dtype=torch.bool)
    between[last] = False
    experience.values.next_values[between] = experience.values.values.roll(-1)[between]
    advantages = GeneralizedAdvantage(discount=discount, gae_lambda=1.0)(experience)
    expected = []
    for part in rewards.split(experience.episodes.lengths.tolist()):
        powers = discount ** torch.arange(len(part), dtype=torch.float64)
        expected += [(powers[: len(part) - t] * part[t:]).sum() for t in range(len(part))]
    torch.testing.assert_close(advantages, torch.stack(expected) - experience.values.values)


@given(walks, fractions, seeds)
def test_lambda_zero_is_the_one_step_error(lengths: list[list[int]], discount: float, seed: int) -> None:
    experience = experience_of(lengths, seed)
    assert experience.values is not None
    values, next_values = experience.values.values, experience.values.next_values
    advantages = GeneralizedAdvantage(discount=discount, gae_lambda=0.0)(experience)
    torch.testing.assert_close(advantages, experience.rewards + discount * next_values - values)


@given(cuts, seeds, st.sampled_from([torch.float32, torch.float64]))
def test_advantages_of_an_episode_do_not_depend_on_its_neighbours(
    lengths: list[int], seed: int, dtype: torch.dtype
) -> None:
    total = sum(lengths)
    rewards, values, next_values = (randn(total, seed + index, dtype) for index in range(3))
    together = generalized_advantages(
        rewards, ValueEstimates(values, next_values), Segments.of_lengths(lengths), discount=0.99, gae_lambda=0.95
    )
    alone = [
        generalized_advantages(part, ValueEstimates(now, after), Segments(1, len(part)), discount=0.99, gae_lambda=0.95)
        for part, now, after in zip(*(tensor.split(lengths) for tensor in (rewards, values, next_values)), strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))
    assert together.dtype == dtype


def test_gae_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 2.0, 1.0])
    values = ValueEstimates(torch.tensor([1.0, 2.0, 0.0, 4.0]), torch.tensor([2.0, 0.0, 0.0, 6.0]))
    advantages = generalized_advantages(rewards, values, Segments.of_lengths([3, 1]), discount=0.5, gae_lambda=0.5)
    # errors: 1 + 1 - 1 = 1, 0 + 0 - 2 = -2, 2 + 0 - 0 = 2 | 1 + 3 - 4 = 0; γλ = 1/4
    # 2; -2 + 2/4 = -1.5; 1 - 1.5/4 = 0.625 | 0
    assert advantages.tolist() == [0.625, -1.5, 2.0, 0.0]


def test_returns_by_hand() -> None:
    rewards = torch.tensor([1.0, 2.0, 4.0, 3.0, 5.0])
    episodes = Segments.of_lengths([3, 2])
    assert rewards_to_go(rewards, episodes, discount=0.5).tolist() == [3.0, 4.0, 4.0, 5.5, 5.0]
    assert episode_returns(rewards, episodes, discount=0.5).tolist() == [3.0, 3.0, 3.0, 5.5, 5.5]
    assert rewards_to_go(rewards, episodes, discount=0.0).tolist() == rewards.tolist()
    assert rewards_to_go(rewards, episodes, discount=1.0).tolist() == [7.0, 6.0, 4.0, 8.0, 5.0]


@given(cuts, fractions, seeds)
def test_returns_equal_a_plain_loop(lengths: list[int], discount: float, seed: int) -> None:
    rewards = randn(sum(lengths), seed)
    episodes = Segments.of_lengths(lengths)
    to_go, whole = [], []
    for part in rewards.split(lengths):
        returns = [
            sum(discount**step * float(part[t + step]) for step in range(len(part) - t)) for t in range(len(part))
        ]
        to_go += returns
        whole += [returns[0]] * len(part)
    for function, expected in ((rewards_to_go, to_go), (episode_returns, whole)):
        ours = function(rewards, episodes, discount=discount)
        torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64))


def test_truncation_bootstraps_and_termination_does_not() -> None:
    """The same two walks of one step: one is cut short, the other ends; a critic that expects 10 everywhere."""
    policy = WalkerPolicy(num_positions=2, num_episodes=1, max_length=1)
    policy.values.detach().fill_(10.0)
    walks = [[[(1, 0, 0)]], [[(1, 1, 2)]]]
    batch = policy.encode_actions([1, 1], walks)
    rewards = StepRewards(end=2, prize=0.0, cost=-1.0).compute_rewards([1, 1], walks)
    experience = Experience([1, 1], walks, batch, Segments(1, 2), rewards, values=policy.estimate_values(batch))
    advantages = GeneralizedAdvantage(discount=0.5, gae_lambda=0.7)(experience)
    assert advantages.tolist() == [1 + 5 - 10, 1 - 10]


def test_the_reward_of_a_sample_lands_on_its_last_decision() -> None:
    experience = experience_of([[2, 1], [1], [3]], 0)
    per_sample = Experience(
        experience.states,
        experience.actions,
        experience.batch,
        experience.groups,
        torch.tensor([5.0, 6.0, 7.0]),
    )
    assert per_sample.decision_rewards.tolist() == [0, 0, 5, 6, 0, 0, 7]
    assert MonteCarlo(discount=0.5)(per_sample).tolist() == [0, 0, 5, 6, 1.75, 3.5, 7]
    assert MonteCarlo(discount=0.5, reward_to_go=False)(per_sample).tolist() == [0, 0, 5, 6, 1.75, 1.75, 1.75]
    assert torch.equal(experience.decision_rewards, experience.rewards)


def test_a_sample_is_one_episode_unless_its_batch_says_otherwise() -> None:
    pairs = PairBatch([0, 0], [0, 0], Segments.of_lengths([2, 1]))
    experience = Experience([0, 0], [0, 0], pairs, Segments(1, 2), torch.tensor([1.0, 2.0, 3.0]))
    assert experience.episodes is experience.samples
    assert experience_of([[2, 1], [3]], 0).episodes.lengths.tolist() == [2, 1, 3]
    assert experience.turns.lengths.tolist() == [1, 1, 1]
    assert isinstance(Conversations([[3]], [[1, 2]]), HasTurns)
    assert not isinstance(pairs, HasTurns)


@pytest.mark.parametrize(
    "turns", [Segments(3, 1), Segments.of_lengths([1, 2, 1]), [2, 2]], ids=["too few", "across samples", "list"]
)
def test_turns_that_are_none_are_refused(turns: Any) -> None:
    class Wrong(WalkerPolicy):
        def encode_actions(self, states: Any, actions: Any) -> Any:
            return ToldBatch(torch.tensor([0, 1, 0, 1]), torch.zeros(4), Segments(2, 2))

    class ToldBatch(TensorBatch):
        pass

    ToldBatch.turns = turns  # type: ignore[attr-defined]

    trainer = GRPOTrainer(GRPOConfig(group_size=2), Wrong(), StepRewards())
    with pytest.raises(ValueError, match=r"encode_actions returned a batch with turns .*, expected Segments of its 4"):
        trainer.step([0])


def baseline_of(
    baseline: Callable[[Experience, Tensor], Tensor], lengths: list[list[int]], returns: list[float], groups: list[int]
) -> list[float]:
    experience = experience_of(lengths, 0, groups=groups)
    values: list[float] = baseline(experience, torch.tensor(returns, dtype=torch.float64)).tolist()
    return values


def test_the_group_time_baseline_by_hand() -> None:
    """Groups of two and of three samples, whose lengths differ: at each time, the mean over those that got so far."""
    returns = [4.0, 1.0, 7.0, 2.0, 1.0, 5.0, 2.0, 7.0, 9.0, 6.0]
    # the first group, at times 0, 1 and 2: (4 + 2)/2, 1, 7; the second: (1 + 2 + 6)/3, (5 + 7)/2, 9
    baseline = baseline_of(group_time_baseline, [[3], [1], [2], [3], [1]], returns, [2, 3])
    assert baseline == [3.0, 1.0, 7.0, 3.0, 3.0, 6.0, 3.0, 6.0, 9.0, 3.0]
    uniform = baseline_of(group_time_baseline, [[2], [2], [2], [2]], [1.0, 2.0, 3.0, 6.0, 5.0, 8.0, 7.0, 8.0], [2, 2])
    assert uniform == [2.0, 4.0, 2.0, 4.0, 6.0, 8.0, 6.0, 8.0]


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4), seeds, st.booleans())
def test_the_group_time_baseline_equals_a_plain_loop(groups: list[list[int]], seed: int, whole: bool) -> None:
    lengths = [length for group in groups for length in group]
    experience = experience_of([[length] for length in lengths], seed, groups=[len(group) for group in groups])
    ours = MonteCarlo(baseline=group_time_baseline, reward_to_go=not whole)(experience)
    function = episode_returns if whole else rewards_to_go
    parts = function(experience.rewards, experience.episodes, discount=1.0).split(lengths)
    expected = []
    for index, group in enumerate(groups):
        first = sum(len(other) for other in groups[:index])
        members = parts[first : first + len(group)]
        for member in members:
            for time, value in enumerate(member):
                reached = torch.stack([other[time] for other in members if len(other) > time])
                expected.append(value - reached.mean())
    torch.testing.assert_close(ours, torch.stack(expected))


def test_credit_by_turns_by_hand() -> None:
    """Two conversations of a group, of three turns and of two: a turn of many tokens counts as one of few."""
    rewards = torch.tensor([0.0, 1.0, 2.0, 0.0, 0.0, 4.0, 3.0, 0.0, 6.0], dtype=torch.float64)
    experience = conversation_of([[2, 1, 3], [1, 2]], rewards, [2])
    # returns of the turns 7, 6, 4 and 9, 6; means at turns 0, 1 and 2: 8, 6, 4
    advantages = MonteCarlo(baseline=group_time_baseline)(experience)
    assert advantages.tolist() == [-1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    # with γ = 1/2 from turn to turn: 4 and 2 + 4/2 = 4 and 1 + 4/2 = 3; 6 and 3 + 6/2 = 6
    to_go = MonteCarlo(discount=0.5)(experience)
    assert to_go.tolist() == [3.0, 3.0, 4.0, 4.0, 4.0, 4.0, 6.0, 6.0, 6.0]
    whole = MonteCarlo(discount=0.5, reward_to_go=False)(experience)
    assert whole.tolist() == [3.0] * 6 + [6.0] * 3
    advantages = MonteCarlo(discount=0.5, baseline=group_time_baseline)(experience)
    assert advantages.tolist() == [-1.5, -1.5, -1.0, 0.0, 0.0, 0.0, 1.5, 1.0, 1.0]


def test_a_reward_within_a_turn_is_for_the_decisions_up_to_it() -> None:
    experience = conversation_of([[3, 1]], torch.tensor([0.0, 5.0, 0.0, 8.0]), [1])
    assert MonteCarlo(discount=0.5)(experience).tolist() == [9.0, 9.0, 4.0, 8.0]
    # turns of returns 6 and 2 from their first decisions on, whose mean is 4
    experience = conversation_of([[2], [1]], torch.tensor([4.0, 2.0, 2.0]), [2])
    assert MonteCarlo(baseline=group_time_baseline)(experience).tolist() == [2.0, -2.0, -2.0]


def test_a_critics_credit_is_discounted_by_turns() -> None:
    """Errors 0 + 2 - 1 = 1, 1 + 4/2 - 2 = 1 and 3 - 4 = -1; γλ is 1/2 within the turn and 1/4 after it."""
    experience = conversation_of([[2, 1]], torch.tensor([0.0, 1.0, 3.0]), [1])
    values = ValueEstimates(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 4.0, 0.0]))
    advantages = GeneralizedAdvantage(discount=0.5, gae_lambda=0.5)(replace(experience, values=values))
    assert advantages.tolist() == [1.375, 0.75, -1.0]


@given(
    st.lists(
        st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=3), min_size=1, max_size=3
    ),
    seeds,
    fractions,
)
def test_turns_are_credited_as_if_each_were_one_decision(
    groups: list[list[list[int]]], seed: int, discount: float
) -> None:
    """Exactly, where rewards come with the last decision of each turn, however many decisions it has."""
    turn_lengths = [turns for group in groups for turns in group]
    sizes = [len(group) for group in groups]
    turns = Segments.of_lengths([length for own in turn_lengths for length in own])
    turn_rewards = randn(len(turns), seed)
    rewards = turn_rewards.new_zeros(turns.total)
    rewards[turns.last] = turn_rewards
    estimator = MonteCarlo(discount=discount, baseline=group_time_baseline)
    short = experience_of([[len(own)] for own in turn_lengths], seed, groups=sizes)
    expected = estimator(replace(short, rewards=turn_rewards))
    torch.testing.assert_close(estimator(conversation_of(turn_lengths, rewards, sizes)), turns.expand(expected))
    of_one = conversation_of([[1] * len(own) for own in turn_lengths], turn_rewards, sizes)
    assert torch.equal(estimator(of_one), expected)


@given(
    reward=st.floats(-1e4, 1e4, width=32),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    length=st.integers(1, 5),
)
def test_equal_returns_have_no_advantage_over_the_group_time_baseline(
    reward: float, sizes: list[int], length: int
) -> None:
    """Exactly 0, also beside a group of longer samples whose returns differ."""
    count = sum(sizes)
    batch = Episodes([[length]] * count + [[length + 1], [length + 2]])
    rewards = torch.cat((torch.full((count,), reward), torch.tensor([1.0, -3.0])))
    experience = Experience([0] * len(rewards), [0] * len(rewards), batch, Segments.of_lengths([*sizes, 2]), rewards)
    advantages = MonteCarlo(baseline=group_time_baseline)(experience)
    assert not advantages[: count * length].any()
    assert advantages[count * length :].any()


def test_other_baselines_by_hand() -> None:
    experience = experience_of([[2], [1]], 0)
    assert experience.values is not None
    returns = [1.0, 3.0, 8.0]
    assert baseline_of(mean_baseline, [[2], [1]], returns, [2]) == [4.0, 4.0, 4.0]
    assert baseline_of(value_baseline, [[2], [1]], returns, [2]) == experience.values.values.tolist()

    def half(experience: Experience, returns: Tensor) -> Tensor:
        return returns / 2

    own = MonteCarlo(discount=0.0, baseline=half)(experience)
    torch.testing.assert_close(own, experience.rewards / 2)
    assert torch.equal(MonteCarlo(discount=0.0)(experience), experience.rewards)


def test_a_value_baseline_without_values() -> None:
    experience = experience_of([[2], [1]], 0)
    bare = Experience(experience.states, experience.actions, experience.batch, experience.groups, experience.rewards)
    with pytest.raises(ValueError, match="experience has no values of a critic"):
        MonteCarlo(baseline=value_baseline)(bare)


def test_what_estimators_ask_for() -> None:
    assert GeneralizedAdvantage().needs.critic
    assert MonteCarlo(baseline=value_baseline).needs.critic
    assert MonteCarlo(baseline=lambda experience, returns: returns).needs.critic is None
    assert MonteCarlo(baseline=mean_baseline).needs.critic is False
    assert MonteCarlo().needs.critic is False
    assert MonteCarlo(baseline=group_time_baseline).needs.group_size == 2
    assert MonteCarlo(baseline=mean_baseline).needs.group_size == 1
    with pytest.raises(ValueError, match="group_size is 1, expected at least 2"):
        PPOTrainer(
            PPOConfig(),
            WalkerPolicy(),
            StepRewards(),
            advantage_estimator=MonteCarlo(discount=1.0, baseline=group_time_baseline),
        )


@pytest.mark.parametrize("settings", [{"discount": 1.1}, {"discount": -0.1}, {"gae_lambda": 1.5}, {"lambda": 0.5}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    for make in (GeneralizedAdvantage, MonteCarlo, PPOConfig):
        with pytest.raises(ValueError, match=next(iter(settings))):
            make(**settings)


def test_values_are_those_of_the_policy_that_sampled() -> None:
    """Asked for once, before the update, in evaluation mode and without gradient; not asked for where nobody reads."""

    class Noting(WalkerPolicy):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def train(self) -> None:
            self.calls.append("train")

        def eval(self) -> None:
            self.calls.append("eval")

        def estimate_values(self, batch: Any) -> ValueEstimates:
            self.calls.append("values")
            assert not torch.is_grad_enabled()
            return super().estimate_values(batch)

    torch.manual_seed(0)
    policy = Noting()
    PPOTrainer(PPOConfig(num_epochs_per_update=2, batch_size=5), policy, StepRewards()).step([0, 1])
    assert policy.calls == ["eval", "values", "train"]
    policy = Noting()
    experience = PPOTrainer(PPOConfig(), policy, StepRewards()).collector.collect([0, 1])
    batch: Any = experience.batch
    assert experience.values is not None
    expected = WalkerPolicy().estimate_values(batch)
    assert torch.equal(experience.values.values, expected.values)
    assert torch.equal(experience.values.next_values, expected.next_values)
    assert not experience.values.values.requires_grad
    policy = Noting()
    GRPOTrainer(GRPOConfig(), policy, StepRewards()).step([0, 1])
    assert policy.calls == ["eval", "train"]


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20))
def test_normalized_advantages_have_mean_zero_and_deviation_one(values: list[float]) -> None:
    advantages = torch.tensor(values, dtype=torch.float64)
    normalized = normalized_advantages(advantages)
    spread = advantages.std()
    if spread > 1e-6:
        assert normalized.mean().item() == pytest.approx(0, abs=1e-6)
        assert normalized.std().item() == pytest.approx(1)
        torch.testing.assert_close(normalized * spread + advantages.mean(), advantages, rtol=1e-6, atol=1e-6)


@given(st.floats(-1e6, 1e6, width=32), st.integers(1, 20))
def test_equal_advantages_are_normalized_to_exactly_zero(value: float, count: int) -> None:
    assert not normalized_advantages(torch.full((count,), value)).any()


def test_normalized_advantages_by_hand() -> None:
    # mean 3, squares 4 + 1 + 1 + 4 = 10 over 3: std √(10/3)
    expected = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64) / (10 / 3) ** 0.5
    ours = normalized_advantages(torch.tensor([1.0, 2.0, 4.0, 5.0], dtype=torch.float64))
    torch.testing.assert_close(ours, expected)
