"""Whatever a model answers, a step ends well or leaves everything as it was, with an error that says why."""

from __future__ import annotations

import copy
import linecache
import math
import random
import traceback
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken_models import (
    WAYS,
    Breaker,
    BrokenActorCritic,
    BrokenEstimator,
    BrokenObjective,
    BrokenPolicy,
    BrokenRewards,
    BrokenSampler,
    BrokenSequentialPolicy,
    Fault,
    WrongBatch,
)
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from models import EpisodePolicy, SequencePolicy, SequentialTablePolicy, TablePolicy, WalkerPolicy

import grpo
from grpo import (
    AdaptiveKLCoefficient,
    DPOConfig,
    DPOTrainer,
    DynamicSampling,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    ImportanceCorrection,
    KLPenalizedRewards,
    PPOConfig,
    PPOTrainer,
    Preference,
    ReferenceSync,
    ReinforceConfig,
    ReinforceTrainer,
    SampleClippedSurrogate,
)
from grpo.data._equality import are_equal

CORE = str(Path(grpo.__file__).parent)
STATES = [0, 1]
POLICIES: dict[str, tuple[type, type]] = {
    "table": (TablePolicy, BrokenPolicy),
    "sequential table": (SequentialTablePolicy, BrokenSequentialPolicy),
    "sequences": (SequencePolicy, BrokenSequentialPolicy),
    "episodes": (EpisodePolicy, BrokenSequentialPolicy),
    "walker": (WalkerPolicy, BrokenActorCritic),
}
PAIRS: dict[str, list[Preference[int, Any]]] = {
    "table": [Preference(0, 1, 2), Preference(1, 0, 3), Preference(2, 3, 0)],
    "sequences": [Preference(0, (1, 0), (2, 3, 0)), Preference(1, (2,), (0,)), Preference(2, (3, 3), (1,))],
}
PAIRS |= {"sequential table": PAIRS["table"], "episodes": PAIRS["sequences"]}


@dataclass(frozen=True)
class Case:
    """A trainer, its settings, and what is wrong with its models."""

    policy: str
    trainer: str
    is_double: bool
    per_decision: bool
    tells_sampling: bool
    has_sampler: bool
    settings: tuple[tuple[str, Any], ...]
    faults: tuple[Fault, ...]
    looks_ahead: bool


class Harness:
    """A trainer that has made a good step, and everything that a failed one must leave alone."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        random.seed(0)
        self.policy = self._policy(case)
        parameter = next(iter(self.policy.policy.get_parameters().values()))
        self.breaker = Breaker(parameter, case.faults)
        self.policy.breaker = self.breaker
        self.states: Any = list(STATES)
        if case.trainer == "dpo":
            self.states = list(PAIRS[case.policy])
        self.trainer = self._trainer(case)
        self.trainer.step(self.states)

    def _policy(self, case: Case, role: str = "") -> Any:
        made, wrapper = POLICIES[case.policy]
        policy = made() if "table" in case.policy else made(max_length=3)
        dtype = torch.float64 if case.is_double else torch.float32
        for name, tensor in policy.get_parameters().items():
            setattr(policy, name, tensor.detach().to(dtype).requires_grad_())
        if case.tells_sampling and case.policy != "table":
            encode = policy.encode_actions

            def encode_actions(states: Any, actions: Any) -> Any:
                batch = encode(states, actions)
                log_probs = policy.evaluate_actions(batch).log_probs.detach()
                truncated = torch.arange(len(actions)) % 3 == 0
                return WrongBatch(batch, sampling_log_probs=log_probs - 0.05, truncated=truncated)

            policy.encode_actions = encode_actions
        return wrapper(policy, getattr(self, "breaker", None), role)

    def _trainer(self, case: Case) -> Any:
        settings = dict(case.settings)
        reference = self._policy(case, "reference.") if settings.pop("reference") else None
        self.reference = reference
        if case.trainer == "dpo":
            trainer: Any = DPOTrainer(DPOConfig(reference_free=reference is None, **settings), self.policy, reference)
        else:
            self.rewards = BrokenRewards(
                self.breaker, case.per_decision, torch.float64 if case.is_double else torch.float32
            )
            sampler = BrokenSampler(self.breaker) if case.has_sampler else None
            trainer = self._online(case.trainer, settings, reference, sampler)
            vars(trainer)["advantage_estimator"] = BrokenEstimator(trainer.advantage_estimator, self.breaker)
        trainer.objective = BrokenObjective(trainer.objective, self.breaker)
        return trainer

    def _online(self, kind: str, settings: dict[str, Any], reference: Any, sampler: Any) -> Any:
        models = (self.policy, self.rewards, reference)
        if kind == "ppo":
            return PPOTrainer(
                PPOConfig(kl_coefficient=0.1 * (reference is not None), **settings), *models, sampler=sampler
            )
        if kind == "reinforce":
            return ReinforceTrainer(ReinforceConfig(**settings), self.policy, self.rewards, sampler=sampler)
        parts: dict[str, Any] = {}
        if kind == "grpo of samples":
            parts["objective"] = GRPOObjective(
                surrogate=SampleClippedSurrogate(), kl_coefficient=0.1 * (reference is not None)
            )
        if kind == "adaptive grpo":
            parts["advantage_estimator"] = KLPenalizedRewards(GroupRelative(), AdaptiveKLCoefficient(target=0.01))
        return GRPOTrainer(GRPOConfig(group_size=3, **settings), *models, sampler=sampler, **parts)

    def state(self) -> dict[str, Any]:
        """All that a failed step must leave as it was."""
        trainer, inner = self.trainer, self.policy.policy
        models = [self.policy, *([] if self.reference is None else [self.reference])]
        return {
            "parameters": [own.detach().clone() for model in models for own in model.policy.get_parameters().values()],
            "identities": [id(own) for own in inner.get_parameters().values()],
            "buffers": [buffer.clone() for buffer in self.policy.statistics.buffers()],
            "optimizer": copy.deepcopy(trainer.optimizer.state_dict()),
            "rates": list(trainer._optimization.rates),
            "generators": [torch.get_rng_state(), trainer.generator.get_state()]
            + [model.generator.get_state() for model in models],
            "python": random.getstate(),
            "numpy": dict(np.random.get_state(legacy=False)["state"]),  # noqa: NPY002
            "steps": trainer.num_steps,
            "parts": [
                copy.deepcopy(part.state_dict()) for part in trainer._parts.values() if hasattr(part, "state_dict")
            ],
            "states": copy.deepcopy(self.states),
        }

    def gradients(self) -> list[torch.Tensor | None]:
        """Those that are left of the last step."""
        return [own.grad for own in self.policy.policy.get_parameters().values()]

    def values(self) -> list[torch.Tensor]:
        """The parameters."""
        return [own.detach().clone() for own in self.policy.policy.get_parameters().values()]


def step(harness: Harness) -> dict[str, float] | BaseException:
    """The metrics of a step, or its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "the log-probs that .* drew actions with")  # what broken ones tell is far off
        warnings.filterwarnings("ignore", "target_kl=.* has left out a whole step")  # and further than it allows
        try:
            metrics: dict[str, float] = harness.trainer.step(harness.states)
        except BaseException as error:
            return error
    return metrics


def why_not_clear(error: BaseException) -> str | None:
    """What is wrong with an error: it must be the model's own, or one that the core raised on purpose."""
    if error.args == ("deliberate",):
        return None
    if isinstance(error.__cause__, StopIteration):  # Python itself lets none out of a generator
        return None
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(CORE)]
    models = [
        frame for frame in frames if "/tests/" in frame.filename and not frame.filename.endswith(Path(__file__).name)
    ]
    last = frames[-1]
    if models and frames.index(models[-1]) > (frames.index(ours[-1]) if ours else -1):
        return None  # the model itself fell over what it was given
    line = linecache.getline(last.filename, last.lineno or 0).strip()
    if isinstance(error, TypeError | ValueError) and last.filename.startswith(CORE) and line.startswith("raise"):
        return None
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno} {line}"


def assert_unchanged(after: dict[str, Any], before: dict[str, Any]) -> None:
    for name, value in before.items():
        assert are_equal(after[name], value), f"{name} changed: {after[name]}, expected {value}"


def check(case: Case) -> bool:
    """The law for one set of models; whether anything was wrong at all."""
    harness = Harness(case)
    before, gradients = harness.state(), harness.gradients()
    harness.breaker.armed = True
    result = step(harness)
    harness.breaker.armed = False
    fired = list(dict.fromkeys(harness.breaker.fired))
    if not fired:
        return False
    if isinstance(result, BaseException):
        why = why_not_clear(result)
        assert why is None, f"unclear: {why}"
        assert_unchanged(harness.state(), before)
        kept = zip(harness.gradients(), gradients, strict=True)
        assert all(own is None or own is former for own, former in kept), "a gradient of the failed step is left"
        assert any(fault.change.outcome != "same" for fault in fired), f"a harmless answer was refused: {result!r}"
        if case.looks_ahead:
            assert_goes_on(harness, case)
    else:
        assert all(value.isfinite().all() for value in harness.values()), "parameters are not finite"
        assert harness.state()["states"] == before["states"]
        assert harness.trainer.num_steps == before["steps"] + 1
        assert all(isinstance(value, float) for value in result.values())
        if all(fault.change.outcome == "same" for fault in fired):
            assert_same_as_right(harness, case, result)
        elif len(fired) == 1 and fired[0].change.outcome == "refused":
            assert result.get("skipped_updates", 0) > 0, f"accepted: {fired[0]}"
            assert dict(case.settings)["non_finite"] == "skip"
    return True


def right_one(case: Case) -> Harness:
    """The same models with nothing wrong."""
    return Harness(replace(case, faults=()))


def assert_goes_on(harness: Harness, case: Case) -> None:
    """The next step is what it would have been without the failed one."""
    metrics, values = step(harness), harness.values()
    right = right_one(case)
    assert_same(metrics, step(right), rtol=1e-12)
    for own, expected in zip(values, right.values(), strict=True):
        assert torch.equal(own, expected), "a failed step has left something behind"


def assert_same_as_right(harness: Harness, case: Case, result: Any) -> None:
    right = right_one(case)
    assert_same(result, step(right), rtol=1e-4)
    for own, expected in zip(harness.values(), right.values(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)


def assert_same(metrics: Any, expected: Any, rtol: float = 0.0) -> None:
    assert isinstance(metrics, dict), metrics
    assert metrics.keys() == expected.keys()
    for name, value in metrics.items():
        assert math.isclose(value, expected[name], rel_tol=rtol, abs_tol=rtol) or value != value, (
            name,
            value,
            expected[name],
        )


TRAINERS = {
    "table": ["grpo", "adaptive grpo", "grpo of samples", "reinforce", "dpo"],
    "walker": ["ppo", "grpo", "adaptive grpo", "reinforce"],
}


def _methods(case: Case) -> list[str]:
    """Those that a trainer calls, of which one is to break."""
    is_pairwise = case.policy == "table"
    methods = ["get_parameters", "get_metrics", "objective", "train"]
    methods += ["get_log_probabilities"] if is_pairwise else ["encode_actions", "evaluate_actions"]
    if dict(case.settings)["reference"]:
        methods += [f"reference.{name}" for name in methods if name not in ("get_metrics", "objective", "train")]
    if case.trainer == "dpo":
        return methods
    methods += ["generate_actions", "compute_rewards", "advantage_estimator", "adapt", "update_statistics", "eval"]
    methods += ["sample"] if case.has_sampler else []
    return methods + (["estimate_values"] if case.trainer in ("ppo", "reinforce") and case.policy == "walker" else [])


def _ways(method: str, case: Case) -> list[str]:
    """In which ways it may, for this policy."""
    ways = WAYS[method.removeprefix("reference.")]
    left_out = [] if case.policy == "walker" else ["values"]
    if "table" in case.policy:
        left_out.append("entropy")
    return [way for way in ways if not (method.endswith("evaluate_actions") and way.startswith(tuple(left_out)))]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A trainer whose models have one fault, seldom more."""
    policy = draw(st.sampled_from(sorted(POLICIES)))
    trainer = draw(st.sampled_from(TRAINERS.get(policy, TRAINERS["table"])))
    reference = trainer == "adaptive grpo" or (trainer != "reinforce" and draw(st.booleans()))
    chosen: dict[str, Any] = {
        "reference": reference,
        "batch_size": draw(st.sampled_from([None, 2, 5])),
        "micro_batch_size": draw(st.sampled_from([None, 1, 3])),
        "num_epochs_per_update": draw(st.sampled_from([1, 2])),
        "non_finite": draw(st.sampled_from(["raise", "skip"])),
        "max_grad_norm": draw(st.sampled_from([None, 0.5])),
        "reference_sync": ReferenceSync(every=2) if reference and draw(st.booleans()) else None,
    }
    tells_sampling = draw(st.booleans())
    if trainer != "dpo":
        tells = tells_sampling and policy != "table"
        chosen |= {
            "loss_averaging": draw(st.sampled_from(["per_sample", "per_decision", 4])),
            "advantage_normalization": draw(st.sampled_from([None, "per_step", "per_minibatch"])),
            "target_kl": draw(st.sampled_from([None, 1e-9])),
            "importance_correction": ImportanceCorrection() if tells and draw(st.booleans()) else None,
            "mask_truncated": tells and draw(st.booleans()),
        }
        if trainer in ("grpo", "adaptive grpo", "grpo of samples"):
            chosen["dynamic_sampling"] = DynamicSampling(max_rounds=1) if draw(st.booleans()) else None
    case = Case(
        policy,
        trainer,
        is_double=draw(st.booleans()),
        per_decision=draw(st.booleans()),
        tells_sampling=tells_sampling,
        has_sampler=draw(st.booleans()),
        settings=tuple(chosen.items()),
        faults=(),
        looks_ahead=draw(st.sampled_from([True, False, False])),
    )
    methods = st.sampled_from(_methods(case))
    faults = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        method = draw(methods)
        faults.append(
            Fault(method, draw(st.sampled_from(_ways(method, case))), draw(st.sampled_from([0, 0, 1, 2, None, None])))
        )
    return replace(case, faults=tuple(dict.fromkeys(faults)))


PLAIN = Case(
    policy="table",
    trainer="grpo",
    is_double=False,
    per_decision=False,
    tells_sampling=False,
    has_sampler=False,
    settings=(("reference", False), ("non_finite", "raise")),
    faults=(),
    looks_ahead=True,
)
SYNCED = (("reference", True), ("reference_sync", ReferenceSync(every=2)))
ROUNDS = (("reference", False), ("dynamic_sampling", DynamicSampling(max_rounds=3)))


@pytest.mark.parametrize(
    ("method", "way", "call", "changes"),
    [
        ("compute_rewards", "reused memory", None, {"settings": ROUNDS}),
        ("compute_rewards", "given emptied", 0, {}),
        ("compute_rewards", "meta", 0, {"settings": ROUNDS}),
        ("compute_rewards", "nested", 0, {"policy": "walker", "per_decision": True, "settings": ROUNDS}),
        ("compute_rewards", "partial, sparse values", 0, {}),
        ("compute_rewards", "partial, nested values", 0, {}),
        ("generate_actions", "lying negative", 0, {}),
        ("generate_actions", "lying group not an iterator", 0, {}),
        ("get_parameters", "list", 1, {}),
        ("get_parameters", "renamed", 2, {"settings": SYNCED}),
        ("reference.get_parameters", "None", 1, {"settings": SYNCED}),
        ("get_parameters", "on meta", 2, {"settings": SYNCED}),
        ("get_metrics", "no text", 0, {}),
        (
            "encode_actions",
            "select is no method",
            0,
            {"policy": "sequential table", "settings": (*ROUNDS, ("batch_size", 2))},
        ),
        (
            "encode_actions",
            "samples elsewhere",
            0,
            {"policy": "sequential table", "trainer": "dpo", "settings": SYNCED},
        ),
        ("objective", "metric: complex", 0, {}),
        ("objective", "metric: sparse", 0, {}),
        ("objective", "metric: nested", 0, {}),
    ],
)
def test_what_once_fell(method: str, way: str, call: int | None, changes: dict[str, Any]) -> None:
    settings = dict(PLAIN.settings) | dict(changes.get("settings", ()))
    changes = changes | {"settings": tuple(settings.items()), "faults": (Fault(method, way, call),)}
    assert check(replace(PLAIN, **changes))


def test_groups_that_hold_fewer_actions_than_they_say_are_named() -> None:
    harness = Harness(replace(PLAIN, faults=(Fault("generate_actions", "lying group fewer", 0),)))
    harness.breaker.armed = True
    with pytest.raises(ValueError, match="generate_actions returned groups of 6 actions by their lengths, but 5 come"):
        harness.trainer.step(harness.states)


IS_NIGHTLY = settings.get_current_profile_name() == "nightly"
NUM_EXAMPLES = 30 * settings().max_examples if IS_NIGHTLY else 1400


def test_at_least_a_thousand_broken_models_end_well_or_change_nothing() -> None:
    """The same ones each time; ``--hypothesis-profile=nightly`` draws others, and more of them."""
    broken: set[Case] = set()

    @settings(max_examples=NUM_EXAMPLES, derandomize=not IS_NIGHTLY, phases=[Phase.generate, Phase.shrink])
    @given(cases())
    def every_one(case: Case) -> None:
        if check(case):
            broken.add(case)

    every_one()
    assert len(broken) >= 1000
