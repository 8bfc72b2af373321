"""A training on one, two and four processes: the same decisions, and the same parameters to rounding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import on_ranks
from runs_of_ranks import Case, train

from grpo import World

EXACT = ("num_samples", "num_decisions", "num_pairs", "num_updates", "skipped_updates", "num_groups_resampled")
DECIDED_BY_ROUNDING = ("rewards/accuracies", "clip_fraction", "clip_fraction_low", "clip_fraction_high")
"""Where a margin or an advantage is 0, its sign is that of a rounding error."""
RELATIVE = 1e-9


def check_the_same(case: Case, sizes: tuple[int, ...] = (2, 4)) -> dict[str, Any]:
    """Compare a training on several processes with that on one; what came out of that."""
    alone: dict[str, Any] = train(World(), case)
    for size in sizes:
        for rank, together in enumerate(on_ranks(size, train, case)):
            where = f"rank {rank} of {size}"
            for kind in ("parameters", "reference"):
                for name, expected in alone[kind].items():
                    error = (together[kind][name] - expected).norm() / expected.norm().clamp(min=1e-300)
                    assert error <= RELATIVE, f"{where}: {kind} {name} are {error.item():.3g} off"
            assert together["coefficients"] == pytest.approx(alone["coefficients"], rel=RELATIVE), where
            assert torch.equal(together["seen"], alone["seen"]), where
            assert torch.equal(together["generator"], alone["generator"]), where
            for told, expected in zip(together["metrics"], alone["metrics"], strict=True):
                assert told.keys() == expected.keys(), where
                for name, value in expected.items():
                    if name in DECIDED_BY_ROUNDING:
                        continue
                    exactly = name in EXACT or name.startswith("num_")
                    tolerance = {"rel_tol": 0.0} if exactly else {"rel_tol": 1e-7, "abs_tol": 1e-9}
                    assert math.isclose(told[name], value, **tolerance), f"{where}: {name}, {told[name]} and {value}"
    return alone


KEYS = st.lists(st.integers(0, 60), min_size=1, max_size=7, unique=True).map(tuple)
UPDATES = {
    "batch_size": st.sampled_from([None, 3, 8]),
    "micro_batch_size": st.sampled_from([None, 2]),
    "num_epochs_per_update": st.integers(1, 2),
    "max_grad_norm": st.sampled_from([None, 0.05]),
}
SAMPLING = {
    "loss_averaging": st.sampled_from(["per_sample", "per_decision", 7]),
    "advantage_normalization": st.sampled_from([None, "per_step", "per_minibatch"]),
    "target_kl": st.sampled_from([None, 1e-3]),
}
COMMON = {
    "states": st.tuples(KEYS, KEYS, KEYS),
    "optimizer": st.sampled_from(["sgd", "adam"]),
    "cuts": st.integers(0, 1000),
}


@given(
    case=st.builds(
        Case,
        algorithm=st.sampled_from(["grpo", "reinforce"]),
        policy=st.sampled_from(["table", "sequence", "episode"]),
        estimator=st.sampled_from([None, "centered", "batch", "own group function", "mean", "time", "own"]),
        settings=st.fixed_dictionaries(UPDATES | SAMPLING),
        **COMMON,
    )
)
@settings(max_examples=10)
def test_what_samples_weigh(case: Case) -> None:
    check_the_same(case)


@given(
    case=st.builds(
        Case,
        policy=st.sampled_from(["table", "episode"]),
        estimator=st.sampled_from(["kl", "horizon"]),
        objective=st.sampled_from([None, "penalty", "gspo"]),
        settings=st.fixed_dictionaries(
            UPDATES | {"reference_sync": st.sampled_from([None, (0.5, 2)]), "target_kl": st.sampled_from([None, 3e-3])}
        ),
        reference=st.just(True),
        **COMMON,
    )
)
@settings(max_examples=6)
def test_what_follows_a_divergence(case: Case) -> None:
    check_the_same(case)


@given(
    case=st.builds(
        Case,
        policy=st.sampled_from(["table", "sequence", "episode"]),
        settings=st.fixed_dictionaries(UPDATES | {"dynamic_sampling": st.integers(1, 3)}),
        draws=st.booleans(),
        **COMMON,
    )
)
@settings(max_examples=6)
def test_dynamic_sampling(case: Case) -> None:
    check_the_same(case)


@given(
    case=st.builds(
        Case,
        algorithm=st.just("ppo"),
        policy=st.just("walker"),
        settings=st.fixed_dictionaries({"group_size": st.integers(1, 3)} | UPDATES | SAMPLING),
        **COMMON,
    )
)
@settings(max_examples=6)
def test_a_critic(case: Case) -> None:
    check_the_same(case)


@given(
    case=st.builds(
        Case,
        algorithm=st.sampled_from(["dpo", "online dpo"]),
        policy=st.sampled_from(["table", "sequence"]),
        settings=st.fixed_dictionaries(UPDATES | {"sft_coefficient": st.sampled_from([0.0, 0.1])}),
        reference=st.just(True),
        states=st.tuples(*[st.lists(st.integers(0, 60), min_size=3, max_size=7, unique=True).map(tuple)] * 3),
        optimizer=st.sampled_from(["sgd", "adam"]),
        cuts=st.integers(0, 1000),
    )
)
@settings(max_examples=6)
def test_preferences(case: Case) -> None:
    check_the_same(case)


@pytest.mark.parametrize("masks", [True, "decisions"])
@pytest.mark.parametrize("policy", ["truncating sequence", "truncating episode"])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_samples_that_were_cut_short(masks: Any, policy: str, batch_size: int | None) -> None:
    check_the_same(Case(policy=policy, settings={"mask_truncated": masks, "batch_size": batch_size}))


@pytest.mark.parametrize("bad", [(1,), (6,), (0, 5, 11)])
def test_samples_that_are_not_finite_are_skipped_on_all(bad: tuple[int, ...]) -> None:
    alone = check_the_same(Case(bad=bad, settings={"non_finite": "skip", "batch_size": 8}))
    skipped = [metrics["skipped_updates"] for metrics in alone["metrics"]]
    assert skipped == [float(any(key in bad for key in keys)) for keys in Case().states]


@given(
    case=st.builds(
        Case,
        policy=st.sampled_from(["table", "sequence", "episode"]),
        objective=st.just("own"),
        settings=st.fixed_dictionaries({"batch_size": st.sampled_from([None, 3]), "mask_truncated": st.just(False)}),
        **COMMON,
    )
)
@settings(max_examples=5)
def test_an_objective_that_looks_at_all_samples(case: Case) -> None:
    check_the_same(case)


@pytest.mark.parametrize("policy", ["table", "episode"])
def test_compiled_updates(policy: str) -> None:
    settings = {"compile_updates": True, "batch_size": 8, "micro_batch_size": 3, "num_epochs_per_update": 2}
    check_the_same(Case(policy=policy, settings=settings), sizes=(2,))
