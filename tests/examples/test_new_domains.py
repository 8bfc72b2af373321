"""The examples of tours, denoising chains and formulas: their policies keep the protocol, and their checks hold."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from torch import nn

import denoising
import formulas
import tsp
from grpo import check_policy_model


def small_traveller() -> tsp.Traveller:
    return tsp.Traveller(nn.Linear(2, tsp.UNITS), nn.ReLU(), nn.Linear(tsp.UNITS, 4 * tsp.UNITS))


def small_denoiser() -> denoising.Denoiser:
    return denoising.Denoiser(nn.Linear(2 + denoising.NUM_STEPS, 2))


def small_writer() -> formulas.Writer:
    return formulas.Writer(nn.Linear(formulas.LONGEST * (formulas.END + 1), formulas.END))


@pytest.mark.parametrize(
    ("make", "states", "discrete"),
    [
        (small_traveller, torch.rand(2, 4, 2), True),
        (small_denoiser, torch.randn(2, 2), False),
        (small_writer, ["x", "x + 1"], False),  # hardly a formula comes twice
    ],
    ids=["tsp", "denoising", "formulas"],
)
def test_the_policies_keep_the_protocol(make: Callable[[], Any], states: Any, discrete: bool) -> None:
    check_policy_model(make(), states, discrete=discrete)


def test_dynamic_programming_finds_the_shortest_of_all_tours() -> None:
    maps = torch.rand(3, 6, 2)
    every = torch.tensor(list(itertools.permutations(range(1, 6))))
    rewards = [tsp.MinusLength().compute_rewards(own.expand(len(every), -1, -1), every) for own in maps]
    assert tsp.shortest(maps).tolist() == pytest.approx([-own.max().item() for own in rewards])


def test_a_tour_is_as_long_as_its_ways() -> None:
    square = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]])
    for tour, length in (([1, 2, 3], 4.0), ([2, 1, 3], 2 + 2 * math.sqrt(2))):
        assert tsp.MinusLength().compute_rewards(square, torch.tensor([tour])).item() == pytest.approx(-length)


def numbers(printed: str) -> dict[str, list[float]]:
    """Of each row of a table, by the words that it begins with."""
    rows = re.findall(r"^(.+?)  +((?:-?\d+\.\d+%?\s*)+)$", printed, re.MULTILINE)
    return {name: [float(number) for number in re.findall(r"-?\d+\.\d+", row)] for name, row in rows}


def test_learnt_tours_are_nearly_the_shortest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shorter than those of the nearest neighbour, after a tenth of the steps on maps of another size."""
    tsp.main(steps=40, figure=tmp_path / "new" / "tsp.svg")
    gaps = numbers(capsys.readouterr().out)
    assert list(gaps) == ["8 cities", "9 cities", "10 cities"]
    for learnt, nearest, random in gaps.values():
        assert 0 < learnt < nearest < random
    assert (tmp_path / "new" / "tsp.svg").stat().st_size > 5_000


def test_denoising_comes_near_what_is_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    denoising.main(steps=60, figure=tmp_path / "denoising.png")
    results = numbers(capsys.readouterr().out)
    first, best, tuned = (results[name] for name in ("first model", "best possible", "fine-tuned"))
    assert first[1] == 0
    assert first[2] == first[0]
    assert first[2] + 0.7 * (best[2] - first[2]) < tuned[2] < best[2] + 0.02
    off = [sum(abs(own - wanted) for own, wanted in zip(row[3:], best[3:], strict=True)) for row in (first, tuned)]
    assert off[1] < off[0] / 2
    assert (tmp_path / "denoising.png").stat().st_size > 5_000


def test_a_formula_that_fits_is_found_where_random_ones_miss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed is evaluated here once more."""
    formulas.main(targets=("x**3 + x**2 + x",), steps=30, figure=tmp_path / "formulas.png")
    _, *rows = capsys.readouterr().out.splitlines()
    matches = [re.match(r"x\*\*3 \+ x\*\*2 \+ x +(\w+) +(\d+) +(\S+)  (.+)$", row) for row in rows]
    [random, learnt] = [own.groups() for own in matches if own is not None]
    assert (random[0], learnt[0]) == ("random", "learnt")
    assert float(learnt[2]) < 1e-12 < 1e-3 < float(random[2])
    assert int(learnt[1]) < int(random[1]) == 30 * formulas.GROUP
    for x in (-1.7, 0.3, 5.0):
        assert eval(learnt[3], {"sin": math.sin, "cos": math.cos, "x": x}) == pytest.approx(x**3 + x**2 + x)
    assert (tmp_path / "formulas.png").stat().st_size > 5_000


def test_formulas_end_in_time_and_read_as_python_does() -> None:
    """Those of a policy that would rather go on for ever."""
    writer, fit = small_writer(), formulas.Fit()
    with torch.no_grad():
        writer[0].bias[:3] = 9.0
    [written] = writer.generate_actions(["x"], 50)
    assert ((written < formulas.END).sum(1) == formulas.LONGEST - 1).all()
    for formula in written.tolist():
        spelled = formulas.fold(iter(formula), lambda at, parts: formulas.NAMES[at].format(*parts))
        values = formulas.fold(iter(formula), lambda at, parts: formulas.FUNCTIONS[at](*parts or [fit.points]))
        assert values.tolist() == pytest.approx(formulas.by_python(spelled, fit.points).tolist())


@pytest.mark.parametrize("example", [tsp, denoising, formulas])
def test_help_explains_every_option(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(example.main, description=example.__doc__, args=["--help"])
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    explained = re.findall(r"^ {8}(\w+): (.+)$", example.main.__doc__, re.MULTILINE)
    assert {*(f"--{name}" for name, _ in explained), "--help"} == set(re.findall(r"--[a-z][a-z-]*", told))
    assert all(explanation in told for _, explanation in explained)
