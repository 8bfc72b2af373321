"""The data files of the demo are what its command writes, and small."""

from __future__ import annotations

import json
import re
from typing import Any

import gymnasium
import pytest

import demo_data
from demo_data import DOCS, FOLDER
from environments.tic_tac_toe_players import BOARDS

PAGE = DOCS / "start" / "demo.md"
PARTS = sorted((DOCS / "start" / "demo").glob("*.html"))


def stored(name: str) -> Any:
    return json.loads((FOLDER / f"data-{name}.js").read_text().split(f"anygrpo.{name} = ")[1].rstrip(";\n"))


def test_the_data_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("data-*")) < 400_000


def test_the_stored_runs_are_those_of_the_library() -> None:
    for own, expected in zip(stored("recorded"), demo_data.recorded_runs(), strict=True):
        assert own["settings"] == expected["settings"]
        assert own["arms"] == expected["arms"]
        for name in ("rewards", "probabilities"):
            for row, expected_row in zip(own[name], expected[name], strict=True):
                assert row == pytest.approx(expected_row, abs=1e-9)


def test_the_stored_network_is_that_of_the_examples() -> None:
    assert stored("network") == demo_data.network()


def flights() -> list[Any]:
    return [flight for stage in stored("flights")["stages"] for flight in stage["flights"]]


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")  # of Box2D
@pytest.mark.parametrize("flight", flights(), ids=lambda flight: f"{flight['end']}, seed {flight['seed']}")
def test_the_recorded_actions_lead_where_the_flight_went(flight: Any) -> None:
    environment = gymnasium.make("LunarLander-v3")
    observation, _ = environment.reset(seed=flight["seed"])
    total, is_over = 0.0, False
    for recorded in flight["frames"][1:]:
        assert not is_over
        observation, reward, terminated, truncated, _ = environment.step(recorded[5])
        total, is_over = total + float(reward), terminated or truncated
        assert demo_data.frame(environment.unwrapped, recorded[5], total) == pytest.approx(recorded, abs=2)
    assert is_over
    assert demo_data.end_of(environment.unwrapped, observation) == flight["end"]
    assert total == pytest.approx(flight["return"], abs=0.1)


def test_the_lander_crashes_then_hovers_then_lands_as_the_page_says() -> None:
    ends = [{flight["end"] for flight in stage["flights"]} for stage in stored("flights")["stages"]]
    assert ends == [{"ends in a crash"}, {"runs out of time"}, {"ends with the lander at rest"}]


def test_the_page_names_its_command_and_its_scripts_are_there() -> None:
    page = PAGE.read_text()
    assert "PYTHONPATH=examples python docs/demo_data.py" in page
    scripts = re.findall(r'src="\.\./_static/demo/([^"]+)"', page)
    assert set(scripts) == {path.name for path in FOLDER.glob("*.js")}
    assert f"{len(BOARDS):,} boards" in page


def test_parts_have_no_handlers_inside_and_each_has_a_sentence_without_javascript() -> None:
    assert len(PARTS) == 3
    for part in PARTS:
        assert re.search(r"\son\w+=", part.read_text()) is None
        assert part.read_text().startswith("<noscript>")
        assert f":file: demo/{part.name}" in PAGE.read_text()
