"""The demo computes what the library computes, and can be used by keyboard and on a phone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import demo_data
from environments import TicTacToe
from environments.tic_tac_toe_players import BOARDS, OBSERVATIONS
from grpo_adapters.bandit import GaussianRewards, random_walk_means
from grpo_adapters.bandit.baselines import UCB1, DiscountedUCB, EpsilonGreedy, play
from grpo_adapters.gym import GymActorCritic
from tictactoe import HIDDEN_SIZES, WEIGHTS

if TYPE_CHECKING:
    from browsing import OpenPage
    from playwright.sync_api import Browser, Locator, Page

DOCS = Path(__file__).parent.parent.parent / "docs"
RAW = re.compile(r"```\{raw\} html\n(?::file: (\S+)\n)?(.*?)```", re.DOTALL)
HEAD = '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
DEFAULTS = {"groupSize": 8, "learningRate": 0.1, "entropyCoefficient": 0.2, "normalizes": False, "drift": 0.02}
RACE = """settings => [1, 2, 3, 4, 5, 6].map(seed => {
    const race = new anygrpo.Race(settings, seed);
    race.playUntil(6000);
    return race.players.map(own => own.regret);
})"""
REPLAYED = """([name, options, arms, rewards]) => {
    const player = new anygrpo[name](5, ...options);
    return rewards.map((reward, time) => {
        const [own] = player.decide(() => 0.999);
        player.learn([arms[time]], [reward]);
        return own;
    });
}"""


@pytest.fixture
def demo_file(tmp_path: Path) -> Path:
    """The page without the site around it, under some path."""
    shutil.copytree(DOCS / "_static" / "demo", tmp_path / "some" / "path" / "_static" / "demo")
    blocks = RAW.findall((DOCS / "start" / "demo.md").read_text())
    parts = [(DOCS / "start" / name).read_text() if name else text for name, text in blocks]
    file = tmp_path / "some" / "path" / "start" / "demo.html"
    file.parent.mkdir()
    file.write_text(f"{HEAD}<title>demo</title></head><body>{''.join(parts)}</body></html>")
    return file


@pytest.fixture
def demo(demo_file: Path, open_page: OpenPage) -> Page:
    return open_page(demo_file, 390)


def part(page: Page, section: str, name: str) -> Locator:
    return page.locator(f"#demo-{section} [data-part={name}]")


def test_the_recorded_probabilities_are_replayed(demo: Page) -> None:
    differences = demo.evaluate("anygrpo.recorded.map(anygrpo.largestDifference)")
    assert len(differences) == 2
    assert max(differences) < 1e-9
    assert "differ from the library's by at most" in part(demo, "bandit", "check").inner_text()


@pytest.mark.parametrize("normalizes", [True, False])
def test_grpo_learns_as_the_library_does_with_other_settings(demo: Page, normalizes: bool) -> None:
    run = demo_data.recorded_run(group_size=5, learning_rate=0.3, entropy_coefficient=0.1, normalizes=normalizes)
    assert demo.evaluate("run => anygrpo.largestDifference(run)", run) < 1e-9
    run["rewards"][0][0] += 0.01
    assert demo.evaluate("run => anygrpo.largestDifference(run)", run) > 1e-6


STRATEGIES: list[tuple[str, list[float], Callable[[], Any]]] = [
    ("UpperConfidenceBound", [0.5, 1], lambda: UCB1(1, 5, reward_std=0.5)),
    ("UpperConfidenceBound", [0.5, 0.9], lambda: DiscountedUCB(1, 5, discount=0.9, reward_std=0.5)),
    ("EpsilonGreedy", [0], lambda: EpsilonGreedy(1, 5, epsilon=0)),
]


@pytest.mark.parametrize(("name", "options", "make"), STRATEGIES)
def test_strategies_choose_as_those_of_the_library(
    demo: Page, name: str, options: list[float], make: Callable[[], Any]
) -> None:
    path = random_walk_means(300, 5, step_std=0.1).double().unsqueeze(0)
    arms, rewards = (values[0].tolist() for values in play(make(), path, GaussianRewards(0.5)))
    assert demo.evaluate(REPLAYED, [name, options, arms, rewards]) == arms


def test_regrets_compare_as_the_page_says(demo: Page) -> None:
    """GRPO, ε-greedy, UCB1 and discounted UCB on the bandits of the page."""

    def regrets(**changed: float) -> list[float]:
        mean: list[float] = np.mean(demo.evaluate(RACE, DEFAULTS | changed), axis=0).tolist()
        return mean

    grpo, *others = regrets()
    assert others[2] < grpo < min(others[:2])
    settled, *same_others = regrets(entropyCoefficient=0)
    assert settled > 2 * grpo
    assert same_others == others
    still = regrets(drift=0)
    assert min(still) == still[2]


def test_the_page_starts_with_these_settings(demo: Page) -> None:
    shown = demo.locator("#demo-bandit output").all_inner_texts()
    assert shown == [str(DEFAULTS[name]) for name in ("groupSize", "learningRate", "entropyCoefficient", "drift")]
    assert not part(demo, "bandit", "normalizes").is_checked()


def test_a_group_of_pulls_by_keyboard(demo: Page) -> None:
    before = part(demo, "bandit", "arms").inner_text()
    part(demo, "bandit", "step").focus()
    demo.keyboard.press("Enter")
    assert part(demo, "bandit", "time").inner_text() == "8 of 6,000 pulls"
    assert part(demo, "bandit", "arms").inner_text() != before
    assert "after 8 pulls. Summed regret: GRPO" in part(demo, "bandit", "status").inner_text()
    demo.locator("#demo-group-size").focus()
    demo.keyboard.press("ArrowRight")
    part(demo, "bandit", "step").press("Enter")
    assert part(demo, "bandit", "time").inner_text() == "17 of 6,000 pulls"


def test_the_bandit_runs_and_pauses_and_shows_another_player(demo: Page) -> None:
    picture = "document.querySelector('[data-part=regrets]').toDataURL()"
    before, run = demo.evaluate(picture), part(demo, "bandit", "run")
    run.click()
    demo.wait_for_function("parseFloat(document.querySelector('[data-part=time]').textContent) > 40")
    run.click()
    assert run.inner_text() == "Run"
    assert "Paused" in part(demo, "bandit", "status").inner_text()
    assert demo.evaluate(picture) != before
    part(demo, "bandit", "player").select_option(label="UCB1")
    assert "last 100 pulls of UCB1" in part(demo, "bandit", "shares-title").inner_text()


@torch.no_grad()
def test_the_network_gives_what_pytorch_gives_on_every_board(demo: Page) -> None:
    policy = GymActorCritic(TicTacToe(), hidden_sizes=HIDDEN_SIZES)
    policy.load_state_dict(load_file(WEIGHTS))
    logits = policy.actor(torch.from_numpy(OBSERVATIONS)).masked_fill(torch.from_numpy(BOARDS != 0), -torch.inf)
    own = torch.tensor(demo.evaluate("boards => boards.map(anygrpo.moveProbabilities)", BOARDS.tolist()))
    torch.testing.assert_close(own, logits.softmax(1), atol=1e-5, rtol=0)
    assert torch.equal(own.argmax(1), torch.from_numpy(policy.predict(OBSERVATIONS, BOARDS == 0)))


def stones(demo: Page) -> str:
    """The nine fields, with a point where there is no stone."""
    return "".join(text or "." for text in demo.locator("#demo-tictactoe td span").all_inner_texts())


def take_by_keyboard(demo: Page, cell: int) -> None:
    at = int(demo.evaluate("[...document.querySelectorAll('td button')].indexOf(document.activeElement)"))
    for key, distance in (("ArrowDown", cell // 3 - at // 3), ("ArrowRight", cell % 3 - at % 3)):
        for _ in range(distance % 3):
            demo.keyboard.press(key)
    demo.keyboard.press("Enter")


@pytest.mark.parametrize("begins", ["person", "policy"])
def test_a_game_is_played_to_its_end_by_keyboard(demo: Page, begins: str) -> None:
    part(demo, "tictactoe", begins).focus()
    demo.keyboard.press("Enter")
    status = part(demo, "tictactoe", "status")
    own, other = ("X", "O") if begins == "person" else ("O", "X")
    while status.inner_text().endswith("Your turn."):
        before = stones(demo)
        assert before.count(other) - before.count(own) == (begins == "policy")
        take_by_keyboard(demo, before.index("."))
        assert stones(demo).count(own) == before.count(own) + 1
    assert "The policy wins." in status.inner_text() or "The game is a draw." in status.inner_text()
    ended = stones(demo)
    demo.keyboard.press("Enter")
    assert stones(demo) == ended


def test_a_field_that_is_taken_stays_as_it_is_and_fields_say_what_they_hold(demo: Page) -> None:
    fields = demo.locator("#demo-tictactoe td button")
    fields.nth(0).click()
    held = stones(demo)
    fields.nth(0).click(force=True)
    assert stones(demo) == held
    assert "There is a stone on row 1, column 1. Your turn." in part(demo, "tictactoe", "status").inner_text()
    assert fields.nth(0).get_attribute("aria-label") == "row 1, column 1, X, yours"
    labels = [str(fields.nth(cell).get_attribute("aria-label")) for cell in range(9)]
    shares = [float(share) for label in labels for share in re.findall(r"gave it (?:< )?([\d.]+) %", label)]
    assert len(shares) == 8
    assert sum(shares) == pytest.approx(100, abs=2)


def step_shown(demo: Page) -> int:
    found = re.match(r"Step (\d+) of", part(demo, "lander", "frame").inner_text())
    assert found is not None
    return int(found[1])


def test_a_flight_is_played_paused_and_stepped(demo: Page) -> None:
    picture = "document.querySelector('[data-part=picture]').toDataURL()"
    part(demo, "lander", "stage").select_option("1")
    start, play_button = demo.evaluate(picture), part(demo, "lander", "play")
    play_button.click()
    demo.wait_for_function("Number(document.querySelector('[data-part=position]').value) > 3")
    play_button.click()
    reached = step_shown(demo)
    assert demo.evaluate(picture) != start
    part(demo, "lander", "back").press("Enter")
    assert step_shown(demo) == reached - 1
    label = str(part(demo, "lander", "picture").get_attribute("aria-label"))
    assert label.endswith(part(demo, "lander", "frame").inner_text())
    part(demo, "lander", "position").press("End")
    assert part(demo, "lander", "position").get_attribute("max") == str(step_shown(demo))
    play_button.click()
    assert step_shown(demo) < int(str(part(demo, "lander", "position").get_attribute("max")))


def test_a_flight_that_is_played_to_its_end_says_how_it_ended(demo: Page) -> None:
    part(demo, "lander", "speed").select_option("4")
    part(demo, "lander", "play").click()
    demo.wait_for_function("document.querySelector('#demo-lander [role=status]').textContent.startsWith('The flight')")
    assert part(demo, "lander", "play").inner_text() == "Play"
    part(demo, "lander", "stage").select_option("2")
    assert step_shown(demo) == 0
    assert "After 1,000,000 steps: mean return over 100" in part(demo, "lander", "stage-text").inner_text()


def test_who_wants_less_motion_sees_a_picture_a_second(demo: Page) -> None:
    demo.emulate_media(reduced_motion="reduce")
    demo.evaluate("""() => {
        globalThis.steps = [];
        const position = document.querySelector("[data-part=position]");
        new MutationObserver(() => globalThis.steps.push(position.value)).observe(
            document.querySelector("[data-part=frame]"), { childList: true });
    }""")
    part(demo, "lander", "play").click()
    demo.wait_for_function("globalThis.steps.length > 0")
    assert demo.evaluate("globalThis.steps[0]") == "50"


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_scrolls_sideways_and_buttons_are_as_large_as_a_thumb(
    demo_file: Path, open_page: OpenPage, width: int
) -> None:
    demo = open_page(demo_file, width)
    assert demo.evaluate("document.documentElement.scrollWidth") == width
    boxes = [box.bounding_box() for box in demo.locator(".demo :is(button, select, input[type=range])").all()]
    assert len(boxes) > 20
    assert all(box is not None and box["height"] >= 44 for box in boxes)


def test_without_javascript_sentences_say_what_one_would_see(demo_file: Path, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(demo_file.as_uri())
    sentences = page.locator("noscript p").all()
    assert [sentence.is_visible() for sentence in sentences] == [True] * 3
    assert all(sentence.inner_text().startswith("With JavaScript you would") for sentence in sentences)
    assert not any(section.is_visible() for section in page.locator(".demo").all())
    context.close()
