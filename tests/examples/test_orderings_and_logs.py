"""Orders by Plackett and Luce, and bandits from logs: the examples' own checks, and those that they do not make."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch

import logged_bandit
import offers
import ordering
from grpo import check_policy_model
from grpo_adapters.bandit import ContextualSoftmaxPolicy


def test_probabilities_of_orders_by_hand() -> None:
    """Of six documents, with weights of 1 to 6: the sixth, the first and the second, 6/21 · 1/15 · 2/14."""
    policy = ordering.Ordering()
    identity = torch.nn.Linear(1, 1)
    torch.nn.init.ones_(identity.weight)
    torch.nn.init.zeros_(identity.bias)
    policy.network = torch.nn.Sequential(identity)
    queries = torch.arange(1.0, 7.0).log().view(1, 6, 1)
    probability = policy.get_log_probabilities(queries, torch.tensor([[5, 0, 1]])).exp().item()
    assert probability == pytest.approx(6 / 21 * 1 / 15 * 2 / 14, rel=1e-5)


def test_orders_are_drawn_as_often_as_their_probability_says() -> None:
    policy, query, count = ordering.Ordering(), torch.randn(1, ordering.DOCUMENTS, ordering.FEATURES), 40_000
    check_policy_model(policy, query.repeat(2, 1, 1))
    with torch.no_grad():
        drawn = policy.generate_actions(query, count)[0]
        expected = policy.get_log_probabilities(query.repeat(len(ordering.LISTS), 1, 1), ordering.LISTS).exp()
    frequencies = (drawn.unsqueeze(1) == ordering.LISTS).all(2).float().mean(0)
    assert frequencies.sum() == pytest.approx(1)
    assert ((frequencies - expected).abs() < 5 * (expected / count).sqrt()).all()


def test_the_best_of_all_lists_is_sorted_by_relevance() -> None:
    user, queries = ordering.User(), torch.randn(20, ordering.DOCUMENTS, ordering.FEATURES)
    _, clicks = ordering.of_all_lists(ordering.Ordering(), user, queries)
    by_relevance = user.network(queries).squeeze(-1).argsort(dim=1, descending=True)[:, : ordering.PLACES]
    torch.testing.assert_close(clicks.amax(1), user.click_probabilities(queries, by_relevance).sum(1))
    assert len(set(map(tuple, ordering.LISTS.tolist()))) == len(list(itertools.permutations(range(6), 3))) == 120


def test_an_order_is_learnt_from_clicks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ordering.main(ordering.Options(steps=150, seeds=1, figure=tmp_path / "new" / "figure.svg"))
    _, row = capsys.readouterr().out.splitlines()
    chance, learnt, likeliest = (float(share) for share in re.findall(r"([\d.]+)%", row))
    assert learnt > 93 > chance + 15
    assert likeliest >= learnt
    assert float(row.split()[-1]) < 1e-5
    assert 0 < (tmp_path / "new" / "figure.svg").stat().st_size < 60_000


def test_estimates_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two decisions in the same context; the policy takes each of five offers with probability 0.2."""
    monkeypatch.setattr(logged_bandit, "DECISIONS", 2)
    network = torch.nn.Linear(offers.FEATURES, offers.OFFERS)
    for own in network.parameters():
        torch.nn.init.zeros_(own)
    contexts = torch.tensor([[1.0, 0, 0, 0, 0]] * 2)
    log = offers.Log(contexts, torch.tensor([0, 1]), torch.tensor([0.4, 0.1]).log(), torch.tensor([1.0, 0.0]))
    regression = torch.zeros(offers.FEATURES, offers.OFFERS)
    regression[0] = torch.tensor([0.8, 0.5, 0.0, 0.0, 0.2])
    terms = logged_bandit.estimates(log, ContextualSoftmaxPolicy(network), regression)
    assert {name: pytest.approx(own.mean().item()) for name, own in terms.items()} == {
        "mean of the log": 0.5,
        "regression": 0.3,
        "IPS": (0.5 * 1 + 2 * 0) / 2,
        "self-normalised": 0.5 / 2.5,
        "doubly robust": (0.3 + 0.5 * 0.2 + 0.3 + 2 * -0.5) / 2,
    }


def test_a_policy_learns_from_a_log_and_intervals_cover_what_it_is_worth(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged_bandit, "LOGS", 100)
    logged_bandit.main(logged_bandit.Options(steps=100, figure=tmp_path / "new" / "figure.svg"))
    told, _, *rows = capsys.readouterr().out.splitlines()
    old, learnt, live, best = (float(value) for value in re.findall(r"\d\.\d+", told))
    assert old + 0.6 * (best - old) < learnt < live < best
    covered = {row[:16].strip(): float(row.split()[-1].removesuffix("%")) for row in rows}
    assert covered.pop("mean of the log") == 0
    assert covered.pop("regression") < 95
    assert len(covered) == 3
    assert all(share >= 88 for share in covered.values())
    assert 0 < (tmp_path / "new" / "figure.svg").stat().st_size < 60_000
