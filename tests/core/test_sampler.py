"""Who makes the actions: a sampler beside the policy, and what its log-probs are compared with and corrected by."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import EpisodePolicy, FunctionRewards, SequencePolicy, StepRewards, TablePolicy, WalkerPolicy
from torch import Tensor

from grpo import (
    ClippedSurrogate,
    Decisions,
    DiffersFromPolicy,
    DPOConfig,
    EqualGroups,
    Evaluation,
    Experience,
    ExperienceCollector,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    HasSampler,
    HasSamplingLogProbs,
    ImportanceCorrection,
    KLPenaltySurrogate,
    Needs,
    NonFiniteError,
    OnlineDPOTrainer,
    PPOConfig,
    PPOTrainer,
    PreferenceCollector,
    ReinforceConfig,
    ReinforceTrainer,
    Sampler,
    Segments,
    TensorBatch,
    Terms,
    Trainer,
    TrainerConfig,
    effective_sample_size,
    group_centered_advantages,
    importance_weights,
)
from grpo.rollout.importance import corrected_fraction

LIKES_HIGH = FunctionRewards(lambda state, action: float(action))
LIKES_LONG = FunctionRewards(lambda state, action: float(len(action)))


class Counting:
    """Gives the actions 0, 1, ... to every state, whatever the policy, and reports how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def sample(self, policy: Any, states: Any, num_actions_per_state: int, **kwargs: Any) -> list[list[int]]:
        self.asked.append((policy, list(states), num_actions_per_state, kwargs))
        return [list(range(num_actions_per_state)) for _ in states]

    def get_metrics(self) -> dict[str, float]:
        return {"sampler/calls": float(len(self.asked))}


class InOnePiece(Counting):
    """The same actions as one tuple, cut into groups of ``size``."""

    def __init__(self, size: int, missing: int = 0) -> None:
        super().__init__()
        self.size, self.missing = size, missing

    def sample(self, policy: Any, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        groups = super().sample(policy, states, num_actions_per_state, **kwargs)
        actions = tuple(action for group in groups for action in group)
        return EqualGroups(actions[: len(actions) - self.missing], self.size)


class Silent(TablePolicy):
    """A policy that cannot generate by itself."""

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        raise AssertionError


class Walking:
    def sample(self, policy: Any, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        return [[[[(state, 1, state + 1)]]] * num_actions_per_state for state in states]


def test_a_sampler_is_asked_in_place_of_the_policy_and_reported() -> None:
    sampler, policy = Counting(), Silent()
    assert isinstance(sampler, Sampler)
    trainer = GRPOTrainer(GRPOConfig(group_size=3), policy, LIKES_HIGH, sampler=sampler)
    assert trainer.sampler is sampler
    metrics = trainer.step([0, 1], temperature=0.5, seed=3)
    assert sampler.asked == [(policy, [0, 1], 3, {"temperature": 0.5, "seed": 3})]
    assert metrics["sampler/calls"] == 1
    assert metrics["reward"] == 1


def test_every_trainer_and_collector_takes_a_sampler() -> None:
    walker, rewards, walking = WalkerPolicy(), StepRewards(), Walking()
    trainers: list[Any] = [
        PPOTrainer(PPOConfig(), walker, rewards, sampler=walking),
        ReinforceTrainer(ReinforceConfig(), walker, rewards, sampler=walking),
        GRPOTrainer(GRPOConfig(group_size=2), walker, rewards, sampler=walking),
        Trainer(
            TrainerConfig(group_size=2),
            walker,
            rewards,
            sampler=walking,
            advantage_estimator=GroupRelative(),
            objective=GRPOObjective(),
        ),
    ]
    for trainer in trainers:
        assert trainer.step([3, 3])["reward"] == pytest.approx(0.9)
    counting = Counting()
    collector: Any = PreferenceCollector(Silent(), LIKES_HIGH, sampler=counting, group_size=3)
    [pair] = collector.collect([0], top_k=5).preferences
    assert (pair.chosen, pair.rejected) == (2, 0)
    assert counting.asked[0][2:] == (3, {"top_k": 5})


def test_a_policy_may_bring_its_sampler() -> None:
    """One that is given goes first; None stands for the policy itself."""

    class Brings(TablePolicy):
        own: Any = None

        def get_sampler(self) -> Any:
            return self.own

    policy = Brings()
    assert isinstance(policy, HasSampler)
    config = GRPOConfig(group_size=2)
    GRPOTrainer(config, policy, LIKES_HIGH).step([0])
    policy.own = own = Counting()
    assert GRPOTrainer(config, policy, LIKES_HIGH).sampler is own
    other = Counting()
    assert GRPOTrainer(config, policy, LIKES_HIGH, sampler=other).sampler is other


@pytest.mark.parametrize(
    "wrong", [object(), "text", lambda *arguments: None, Counting], ids=["object", "text", "function", "class"]
)
def test_a_sampler_that_is_none(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^sampler .*(is not a Sampler: it lacks sample|is the class Counting)"):
        GRPOTrainer(GRPOConfig(), TablePolicy(), LIKES_HIGH, sampler=wrong)


def test_errors_name_the_sampler() -> None:
    class TooFew(Counting):
        def sample(self, policy: Any, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return [[0]]

    with pytest.raises(ValueError, match=r"^TooFew.sample returned 1 actions for state 0, expected 4"):
        GRPOTrainer(GRPOConfig(group_size=4), TablePolicy(), LIKES_HIGH, sampler=TooFew()).step([0])


def test_a_collector_takes_plain_arguments() -> None:
    """It notes whatever there is, and what it is told."""
    policy, rewards, reference = WalkerPolicy(), StepRewards(), WalkerPolicy(spread=0.0)
    collector: Any = ExperienceCollector(policy, rewards, reference)
    experience = collector.collect([0, 1])
    assert len(experience.samples) == 16
    assert None not in (experience.old_log_probs, experience.reference_log_probs, experience.values)
    by_rows: Any = ExperienceCollector(policy, rewards, reference, group_size=4, rows_per_call=3)
    torch.manual_seed(0)
    in_parts = by_rows.collect([0])
    by_rows.rows_per_call = None
    torch.manual_seed(0)
    whole = by_rows.collect([0])
    torch.testing.assert_close(in_parts.old_log_probs, whole.old_log_probs)
    torch.testing.assert_close(in_parts.reference_log_probs, whole.reference_log_probs)
    nothing: Any = ExperienceCollector(policy, rewards, reference, needs=Needs(critic=False, reference=False))
    experience = nothing.collect([0])
    assert (experience.old_log_probs, experience.reference_log_probs, experience.values) == (None, None, None)


@pytest.mark.parametrize("group_size", [0, -1, True, 2.0, None])
def test_a_collector_refuses_a_wrong_group_size(group_size: Any) -> None:
    with pytest.raises(ValueError, match=f"group_size is {group_size}, expected at least 1"):
        ExperienceCollector(TablePolicy(), LIKES_HIGH, group_size=group_size)


# Log-probs of who sampled.


class ToldBatch(TensorBatch):
    """Decisions with the log-probs that they were drawn with."""

    sampling_log_probs: Any


class AtTemperature:
    """Draws from the policy at a temperature, and hands on each action with its log-prob."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def sample(self, policy: Any, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        log_probs = (policy.logits.detach() / self.temperature).log_softmax(-1)[torch.tensor(states)]
        actions = torch.multinomial(log_probs.exp(), num_actions_per_state, replacement=True)
        told = log_probs.gather(1, actions)
        return [list(zip(*own, strict=True)) for own in zip(actions.tolist(), told.tolist(), strict=True)]


class ToldPolicy(TablePolicy):
    def encode_actions(self, states: Any, actions: Any) -> ToldBatch:
        chosen, told = zip(*actions, strict=True)
        batch = ToldBatch(torch.tensor(states), torch.tensor(chosen))
        batch.sampling_log_probs = torch.tensor(told, dtype=torch.float64)
        return batch

    def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
        return Evaluation(self.logits.log_softmax(-1)[batch.observations, batch.actions])


LIKES_FIRST = FunctionRewards(lambda state, action: float(action[0]))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_sampler_at_another_temperature_is_seen_at_the_first_step(temperature: float) -> None:
    policy = ToldPolicy()
    config = GRPOConfig(group_size=64)
    trainer: Any = GRPOTrainer(config, policy, LIKES_FIRST, sampler=AtTemperature(temperature))
    with pytest.warns(UserWarning, match="AtTemperature drew") if temperature > 1 else nullcontext():
        metrics = trainer.step([0, 1, 2])
    told = [metrics[f"sampling/{name}"] for name in ("kl", "max_ratio", "effective_sample_size")]
    if temperature == 1:
        assert told == pytest.approx([0.0, 1.0, 192.0])
        return
    table = TablePolicy().logits.detach()
    own, other = table.log_softmax(-1), (table / temperature).log_softmax(-1)
    expected = (other.exp() * (other - own)).sum(-1).mean().item()
    assert told[0] == pytest.approx(expected, rel=0.25)
    assert told[1] == pytest.approx((own - other).max().exp().item())
    spread = (own.exp().square() / other.exp()).sum(-1).mean().item()  # E[r²] under who sampled
    assert told[2] == pytest.approx(192 / spread, rel=0.05)


class TellsOf(TablePolicy):
    """Two decisions of probability 1/2, with log-probs that they are said to be drawn with."""

    def __init__(self, told: Any) -> None:
        super().__init__(num_states=1, num_actions=2)
        self.logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
        self.told = told

    def encode_actions(self, states: Any, actions: Any) -> ToldBatch:
        batch = ToldBatch(torch.tensor(states), torch.tensor(actions))
        batch.sampling_log_probs = self.told
        return batch

    def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
        return Evaluation(self.logits.log_softmax(-1)[batch.observations, batch.actions])


def test_sampling_metrics_by_hand() -> None:
    policy = TellsOf(torch.tensor([0.25, 1.0], dtype=torch.float64).log())
    assert isinstance(policy.encode_actions([0], [0]), HasSamplingLogProbs)
    with pytest.warns(UserWarning, match=r"PolicySampler drew actions with are 0.69 nats from the policy's"):
        metrics = GRPOTrainer(GRPOConfig(group_size=2), policy, LIKES_HIGH).step([0])
    assert metrics["sampling/log_prob_gap"] == pytest.approx(math.log(2))
    assert "sampling/corrected_fraction" not in metrics
    # ratios 2 and 1/2: (2 - log 2 - 1 + 1/2 + log 2 - 1) / 2, and (5/2)² / (4 + 1/4)
    assert metrics["sampling/kl"] == pytest.approx(0.25)
    assert metrics["sampling/max_ratio"] == pytest.approx(2.0)
    assert metrics["sampling/effective_sample_size"] == pytest.approx(6.25 / 4.25)


@pytest.mark.parametrize("is_dpo", [False, True])
def test_a_wide_gap_is_warned_of_once(is_dpo: bool) -> None:
    """At 0.1 nats nothing is said; the warning points at the line that calls ``step``."""

    class Changes(TellsOf):
        def encode_actions(self, states: Any, actions: Any) -> ToldBatch:
            self.told = torch.full((len(actions),), math.log(0.5) - self.gap, dtype=torch.float64)
            return super().encode_actions(states, actions)

        gap = 0.0

    policy = Changes(None)
    trainer: Any
    if is_dpo:
        config = DPOConfig(learning_rate=0.0, reference_free=True)
        trainer = OnlineDPOTrainer(config, policy, LIKES_HIGH, group_size=2)
    else:
        trainer = GRPOTrainer(GRPOConfig(learning_rate=0.0, group_size=2), policy, LIKES_HIGH)
    torch.manual_seed(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for gap in (0.0, -0.0999, 0.11, 0.3):
            policy.gap = gap
            assert trainer.step([0])["sampling/log_prob_gap"] == pytest.approx(abs(gap), abs=1e-6)
            assert len(caught) == (gap > 0.1)
    assert caught[0].filename == __file__
    assert "Look for weights of an earlier step" in str(caught[0].message)


def test_without_them_nothing_is_told() -> None:
    policy = TellsOf(None)
    assert not any("sampling/" in name for name in GRPOTrainer(GRPOConfig(group_size=2), policy, LIKES_HIGH).step([0]))


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        (torch.zeros(3), ValueError, r"of shape \[3\], expected \[2\], one a decision"),
        (torch.zeros(2, 1), ValueError, r"of shape \[2, 1\], expected \[2\], one a decision: squeeze"),
        ([0.0, 0.0], TypeError, "of type list, expected a tensor"),
        (torch.zeros(2, dtype=torch.int64), TypeError, "of dtype torch.int64, expected a floating-point"),
        (torch.tensor([0.0, torch.nan]), NonFiniteError, "with nan for sample 1, expected finite values"),
        (torch.tensor([-torch.inf, 0.0]), NonFiniteError, "with -inf for sample 0, expected finite values"),
    ],
)
def test_wrong_sampling_log_probs(told: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^policy's batch returned sampling_log_probs {message}"):
        GRPOTrainer(GRPOConfig(group_size=2), TellsOf(told), LIKES_HIGH).step([0])


# Weights.

LOG_RATIOS = torch.tensor([4.0, 0.5, 1.5, 0.1]).log()
TWO_SAMPLES = Segments.of_lengths([3, 1])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2.0, 0.5, 1.5, 0.1]),
        ({"max_ratio": 1.0}, [1.0, 0.5, 1.0, 0.1]),
        ({"kind": "mask"}, [0.0, 0.5, 1.5, 0.1]),
        ({"kind": "mask", "max_ratio": 4.1, "min_ratio": 0.25}, [4.0, 0.5, 1.5, 0.0]),
        ({"per": "sample"}, [2.0, 2.0, 2.0, 0.1]),
        ({"per": "sample", "max_ratio": 5.0}, [3.0, 3.0, 3.0, 0.1]),
        ({"per": "sample", "kind": "mask"}, [0.0, 0.0, 0.0, 0.1]),
        ({"per": "sample", "kind": "mask", "max_ratio": 3.1, "min_ratio": 0.5}, [3.0, 3.0, 3.0, 0.0]),
    ],
)
def test_weights_by_hand(settings: dict[str, Any], expected: list[float]) -> None:
    log_probs = torch.full((4,), -3.0, requires_grad=True)
    weights = importance_weights(log_probs, -3.0 - LOG_RATIOS, TWO_SAMPLES, ImportanceCorrection(**settings))
    assert weights.tolist() == pytest.approx(expected, rel=1e-5)
    assert not weights.requires_grad


def test_ratios_of_long_samples_stay_finite() -> None:
    weights = importance_weights(
        torch.zeros(1000),
        torch.full((1000,), -1.0),
        Segments(1, 1000),
        ImportanceCorrection(per="sample", max_ratio=1e9),
    )
    assert weights.tolist() == pytest.approx([math.exp(20)] * 1000)


@pytest.mark.parametrize(
    "settings",
    [{"max_ratio": 0.9}, {"kind": "mask", "min_ratio": 1.1}, {"min_ratio": 0.5}, {"kind": "clip"}, {"per": "x"}],
)
def test_wrong_corrections(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"max_ratio|min_ratio|kind|per"):
        ImportanceCorrection(**settings)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_the_effective_sample_size_is_between_one_and_all(weights: list[float]) -> None:
    size = effective_sample_size(torch.tensor(weights, dtype=torch.float64)).item()
    assert 1 - 1e-9 <= size <= len(weights) + 1e-9
    assert effective_sample_size(torch.full((7,), weights[0])).item() == pytest.approx(7)


@given(st.integers(0, 1000), st.sampled_from(["truncate", "mask"]), st.sampled_from(["decision", "sample"]))
def test_the_corrected_fraction_is_that_of_the_weights_that_are_not_ratios(seed: int, kind: Any, per: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    gap, samples = torch.randn(6, generator=generator, dtype=torch.float64), Segments.of_lengths([3, 1, 2])
    bounds = {"max_ratio": 1.5, "min_ratio": 0.5 if kind == "mask" else 0.0}
    arguments = gap, torch.zeros(6, dtype=torch.float64), samples
    weights = importance_weights(*arguments, ImportanceCorrection(kind=kind, per=per, **bounds))
    ratio = (samples.expand(samples.sum(gap)) if per == "sample" else gap).exp()
    fraction = corrected_fraction(*arguments, ImportanceCorrection(kind=kind, per=per, **bounds))
    assert fraction == pytest.approx((weights != ratio).double().mean().item())


def test_a_ratio_at_the_bound_is_not_corrected() -> None:
    """So that it is 0 wherever the sampler is the policy."""
    fraction = corrected_fraction(torch.zeros(2), torch.zeros(2), Segments(2, 1), ImportanceCorrection(max_ratio=1.0))
    assert fraction == 0


# The correction in a step.

WIDE_GAP = pytest.mark.filterwarnings("ignore:the log-probs that .* drew actions with:UserWarning")


def gaps(num_decisions: int) -> Tensor:
    """How far the log-probs of the policy are above those that it is said to be sampled with; never 0."""
    return torch.sin(1.7 * torch.arange(1, num_decisions + 1, dtype=torch.float64)) / 2


class TellingBatch:
    """A batch that says what its decisions were drawn with; rows of it are those of the inner one."""

    def __init__(self, inner: Any, sampling_log_probs: Tensor) -> None:
        self.inner, self.samples, self.rows = inner, inner.samples, inner.rows
        self.sampling_log_probs = sampling_log_probs

    def select(self, rows: Tensor) -> Any:
        return self.inner.select(rows)


def tells(base: Any, scale: float = 1.0) -> Any:
    """A policy of sequences whose batches say that they were drawn with log-probs some way off its own."""

    class Tells(base):  # type: ignore[misc]
        def encode_actions(self, states: Any, actions: Any) -> Any:
            batch = super().encode_actions(states, actions)
            own = super().evaluate_actions(batch).log_probs.detach()
            return TellingBatch(batch, own - scale * gaps(len(own)))

        def evaluate_actions(self, batch: Any) -> Any:
            return super().evaluate_actions(batch.inner if isinstance(batch, TellingBatch) else batch)

    return Tells()


def moved_by(
    policy: Any, objective: Any, correction: ImportanceCorrection | None, estimator: Any = None, **settings: Any
) -> Tensor:
    """Where a step on the same samples takes the parameters."""
    reference = SequencePolicy()
    with torch.no_grad():
        reference.transitions *= 0.5
    config = TrainerConfig(group_size=4, max_grad_norm=None, importance_correction=correction, **settings)
    trainer: Any = Trainer(
        config,
        policy,
        LIKES_LONG,
        reference if objective.kl_coefficient > 0 else None,
        torch.optim.SGD([policy.transitions], lr=0.5),
        advantage_estimator=GroupRelative(group_centered_advantages) if estimator is None else estimator,
        objective=objective,
    )
    torch.manual_seed(5)
    trainer.step([1, 2])
    transitions: Tensor = policy.transitions.detach()
    return transitions


CORRECTIONS = pytest.mark.parametrize(
    "correction",
    [
        ImportanceCorrection(max_ratio=1.2),
        ImportanceCorrection(kind="mask", max_ratio=1.2, min_ratio=0.7),
        ImportanceCorrection(per="sample", max_ratio=1.2),
        ImportanceCorrection(per="sample", kind="mask", max_ratio=1.2),
    ],
    ids=lambda correction: f"{correction.kind} per {correction.per}",
)


@WIDE_GAP
@CORRECTIONS
@pytest.mark.parametrize("base", [SequencePolicy, EpisodePolicy])
@pytest.mark.parametrize("normalization", [None, "per_minibatch"])
def test_a_corrected_step_does_not_depend_on_micro_batches(
    correction: ImportanceCorrection, base: Any, normalization: Any
) -> None:
    def moved(**settings: Any) -> Tensor:
        own = {"advantage_normalization": normalization, "num_epochs_per_update": 2, **settings}
        return moved_by(tells(base), GRPOObjective(entropy_coefficient=0.1), correction, **own)

    for batch_size in (None, 3):
        whole = moved(batch_size=batch_size)
        assert not torch.allclose(whole, base().transitions, atol=1e-3)
        for micro_batch_size in (1, 2):
            parts = moved(batch_size=batch_size, micro_batch_size=micro_batch_size)
            torch.testing.assert_close(parts, whole)


class WeightedSurrogate:
    """The clipped surrogate with its loss multiplied by the weights, which it works out itself."""

    needs = Needs(critic=False, reference=False, old_log_probs=True)

    def __init__(self, inner: Any, policy: Any, correction: ImportanceCorrection) -> None:
        self.inner, self.policy, self.correction = inner, policy, correction
        self.seen: Experience | None = None

    def __call__(self, log_probs: Tensor, decisions: Decisions) -> Terms:
        assert decisions.importance_weights is None
        assert decisions.old_log_probs is not None
        sampling = decisions.old_log_probs - gaps(len(log_probs))
        weights = importance_weights(decisions.old_log_probs, sampling, decisions.samples, self.correction)
        terms: Terms = self.inner(log_probs, decisions)
        return Terms(terms.loss * weights, terms.metrics)


@WIDE_GAP
@CORRECTIONS
@pytest.mark.parametrize("normalization", [None, "per_step", "per_minibatch"])
@pytest.mark.parametrize("dual_clip", [None, 1.5])
def test_it_multiplies_the_loss_of_the_surrogate_and_nothing_else(
    correction: ImportanceCorrection, normalization: Any, dual_clip: float | None
) -> None:
    """Not the divergence from the reference, nor the entropy."""
    settings = {"advantage_normalization": normalization, "num_epochs_per_update": 3}
    terms = {"kl_coefficient": 0.3, "entropy_coefficient": 0.2}
    surrogate = ClippedSurrogate(clip_low=0.05, clip_high=0.05, dual_clip=dual_clip)
    corrected = moved_by(tells(SequencePolicy), GRPOObjective(surrogate=surrogate, **terms), correction, **settings)
    policy = SequencePolicy()
    by_hand = GRPOObjective(surrogate=WeightedSurrogate(surrogate, policy, correction), **terms)
    torch.testing.assert_close(corrected, moved_by(policy, by_hand, None, **settings))
    plain = moved_by(SequencePolicy(), GRPOObjective(surrogate=surrogate, **terms), None, **settings)
    assert not torch.allclose(corrected, plain)


@WIDE_GAP
def test_the_penalty_of_a_surrogate_is_not_weighted() -> None:
    """Of -ρA + β KL(π_old‖π) only the first term is what an advantage makes: without any weight it is as if A = 0."""
    nothing = ImportanceCorrection(kind="mask", max_ratio=1.0, min_ratio=1.0)
    objective = GRPOObjective(surrogate=KLPenaltySurrogate(coefficient=5.0), entropy_coefficient=0.1)

    def no_advantages(experience: Experience) -> Tensor:
        return torch.zeros(len(experience.samples), dtype=torch.float64)

    masked = moved_by(tells(EpisodePolicy), objective, nothing, num_epochs_per_update=2)
    assert torch.equal(masked, moved_by(EpisodePolicy(), objective, None, no_advantages, num_epochs_per_update=2))
    assert not torch.allclose(masked, EpisodePolicy().transitions)


@CORRECTIONS
def test_where_the_log_probs_agree_it_changes_nothing(correction: ImportanceCorrection) -> None:
    agrees = moved_by(tells(SequencePolicy, 0.0), GRPOObjective(), correction, num_epochs_per_update=2)
    assert torch.equal(agrees, moved_by(SequencePolicy(), GRPOObjective(), None, num_epochs_per_update=2))


def test_a_correction_needs_batches_that_tell() -> None:
    config = GRPOConfig(group_size=2, importance_correction=ImportanceCorrection())
    with pytest.raises(ValueError, match=r"importance_correction needs .* but PairBatch does not tell: give"):
        GRPOTrainer(config, TablePolicy(), LIKES_HIGH).step([0])
    with pytest.raises(ValueError, match=r"importance_correction needs .* but ToldBatch does not tell"):
        GRPOTrainer(config, TellsOf(None), LIKES_HIGH).step([0])


class Recommends(Counting):
    """A sampler that differs from the policy, and says what to do about it."""

    def __init__(self, correction: Any) -> None:
        super().__init__()
        self.correction = correction

    def get_importance_correction(self) -> Any:
        return self.correction


MASK = ImportanceCorrection(kind="mask", per="sample", max_ratio=3.0)
BOUND = ImportanceCorrection(max_ratio=1.5)


@WIDE_GAP
@pytest.mark.parametrize(
    ("settings", "recommended", "weights"),
    [
        ({}, MASK, [2.0, 0.0]),
        ({}, BOUND, [1.5, 1.5]),
        ({}, None, None),
        ({"importance_correction": "sampler"}, MASK, [2.0, 0.0]),
        ({"importance_correction": None}, MASK, None),
        ({"importance_correction": BOUND}, MASK, [1.5, 1.5]),
        ({"importance_correction": BOUND}, None, [1.5, 1.5]),
    ],
)
def test_what_a_sampler_recommends_is_done_where_the_config_leaves_it_open(
    settings: dict[str, Any], recommended: Any, weights: list[float] | None
) -> None:
    """Ratios of 2 and 4, and REINFORCE's loss with advantages of 1: what is left is the log-prob times the weight."""
    sampler = Recommends(recommended)
    assert isinstance(sampler, DiffersFromPolicy)
    assert not isinstance(Counting(), DiffersFromPolicy)
    trainer: Any = ReinforceTrainer(
        ReinforceConfig(group_size=2, advantage_normalization=None, loss_averaging="per_decision", **settings),
        TellsOf(torch.tensor([0.25, 0.125], dtype=torch.float64).log()),
        FunctionRewards(lambda state, action: 1.0),
        sampler=sampler,
    )
    metrics = trainer.step([0])
    expected = weights or [1.0, 1.0]
    assert metrics["loss"] == pytest.approx(math.log(2) * sum(expected) / 2)
    if weights is None:
        assert "sampling/corrected_fraction" not in metrics
    else:
        assert metrics["sampling/corrected_fraction"] == (0.5 if 0.0 in weights else 1.0)


def test_a_recommended_correction_needs_batches_that_tell() -> None:
    trainer = GRPOTrainer(GRPOConfig(group_size=2), TablePolicy(), LIKES_HIGH, sampler=Recommends(MASK))
    with pytest.raises(ValueError, match=r"importance_correction needs .* or set it to None in the config"):
        trainer.step([0])


def test_a_recommendation_that_is_none_of_ours() -> None:
    message = "Recommends.get_importance_correction returned 'mask', expected a grpo.ImportanceCorrection"
    with pytest.raises(TypeError, match=message):
        GRPOTrainer(GRPOConfig(), TablePolicy(), LIKES_HIGH, sampler=Recommends("mask"))
    with pytest.raises(ValueError, match="importance_correction"):
        GRPOConfig(importance_correction="mask")


@WIDE_GAP
def test_a_corrected_sampler_learns_what_the_policy_would() -> None:
    """On average the corrected gradient of a sampler at another temperature is the policy's own."""

    def mean_gradient(temperature: float, correction: ImportanceCorrection | None) -> Tensor:
        torch.manual_seed(0)
        policy = ToldPolicy()
        optimizer = torch.optim.SGD([policy.logits], lr=1.0)
        config = ReinforceConfig(
            group_size=20_000,
            max_grad_norm=None,
            importance_correction=correction,
            advantage_normalization=None,
            loss_averaging="per_decision",
        )
        sampler = AtTemperature(temperature)
        trainer: Any = ReinforceTrainer(config, policy, LIKES_FIRST, None, optimizer, sampler=sampler)
        trainer.step([0])
        return policy.logits.detach()[0] - TablePolicy().logits.detach()[0]

    on_policy = mean_gradient(1.0, None)
    corrected = mean_gradient(2.0, ImportanceCorrection(max_ratio=10.0))
    uncorrected = mean_gradient(2.0, None)
    assert (corrected - on_policy).abs().max() < 0.02
    assert (uncorrected - on_policy).abs().max() > 0.05


def test_groups_cut_from_one_piece_stay_in_one() -> None:
    whole, apart = (
        ExperienceCollector(TablePolicy(3, 4), LIKES_HIGH, sampler=sampler, group_size=4).collect([2, 0])
        for sampler in (InOnePiece(4), Counting())
    )
    assert whole.actions == (0, 1, 2, 3) * 2
    assert apart.actions == [0, 1, 2, 3] * 2
    assert torch.equal(whole.rewards, apart.rewards)
    assert torch.equal(whole.groups.lengths, apart.groups.lengths)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (InOnePiece(2), "sample returned 4 groups, expected 2"),
        (InOnePiece(4, missing=4), "sample returned 1 groups, expected 2"),
        (InOnePiece(3), "8 actions cannot be cut into groups of 3"),
        (InOnePiece(0), "cannot be cut into groups of 0"),
    ],
)
def test_groups_cut_otherwise_than_asked_for_are_named(sampler: InOnePiece, message: str) -> None:
    collector = ExperienceCollector(TablePolicy(3, 4), LIKES_HIGH, sampler=sampler, group_size=4)
    with pytest.raises(ValueError, match=message):
        collector.collect([2, 0])
