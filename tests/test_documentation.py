"""Snippets in the documentation run, and what it says of the code is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from models import FunctionRewards, SequencePolicy, TruncatingSequencePolicy

import grpo
from grpo import (
    AdaptiveKLCoefficient,
    ConformanceError,
    DynamicSampling,
    GroupRelative,
    GRPOConfig,
    GRPOTrainer,
    KLPenalizedRewards,
    KLPenaltySurrogate,
    PartialRewards,
    PPOConfig,
    PPOObjective,
    PPOTrainer,
)
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "grpo" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNNABLE = [page for page in PAGES if "```python" in page.read_text() and page.name != "index.md"]
RAISES: dict[str, type[Exception]] = {"check-a-model.md": ConformanceError}


def snippets(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run_one_after_the_other(page: Path) -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "snippets"}

    def run() -> None:
        for index, snippet in enumerate(snippets(page)):
            exec(compile(snippet, f"{page.name}, snippet {index}", "exec"), names)

    if page.name in RAISES:
        with pytest.raises(RAISES[page.name]) as caught:
            run()
        quoted = re.sub(r"came \d+ times", "came 1137 times", str(caught.value))
        assert quoted in page.read_text()
    else:
        run()


def test_the_readme_model_learns(capsys: pytest.CaptureFixture[str]) -> None:
    snippet = snippets(ROOT / "README.md")[0]
    for seed in range(3):
        torch.manual_seed(seed)
        exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
        miss = re.search(r"misses by ([\d.]+) m", capsys.readouterr().out)
        assert miss is not None
        assert float(miss[1]) < 0.6


def test_a_model_of_ones_own_takes_fewer_than_40_lines() -> None:
    snippet = snippets(ROOT / "README.md")[0]
    assert len(snippet[snippet.index("class Thrower") :].strip().splitlines()) < 40


class AllScored(FunctionRewards):
    """Says that it could score everything."""

    def compute_rewards(self, states: Any, actions: Any) -> Any:
        rewards = super().compute_rewards(states, actions)
        return PartialRewards(rewards, scored=torch.ones(len(rewards), dtype=torch.bool))


def test_the_glossary_defines_every_metric() -> None:
    defined = set(
        re.findall(r"`(\w+)`", "\n".join(re.findall(r"^`.*`$", (ROOT / "docs/glossary.md").read_text(), re.M)))
    )
    config = GRPOConfig(num_epochs_per_update=2, entropy_coefficient=0.1)
    bandit = GRPOTrainer(config, SoftmaxPolicy(3), StationaryBandit([0.1, 0.5, 0.9]), SoftmaxPolicy(3))
    sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=2), num_steps=64)
    penalty = KLPenaltySurrogate(coefficient=AdaptiveKLCoefficient(target=0.01))
    objective = PPOObjective(surrogate=penalty)
    cart = PPOTrainer(PPOConfig(), GymActorCritic(sampler), EnvironmentReward(), objective=objective)
    sequences = GRPOTrainer(
        GRPOConfig(dynamic_sampling=DynamicSampling(max_rounds=1)),
        TruncatingSequencePolicy(),
        AllScored(lambda state, action: float(len(action))),
        SequencePolicy(),
        advantage_estimator=KLPenalizedRewards(GroupRelative()),
    )
    reported = bandit.step(["the only state"]).keys() | cart.step(sampler.states).keys() | sequences.step([1, 2]).keys()
    assert reported == defined


def test_the_readme_is_true_about_the_length_of_modules() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "grpo").rglob("*.py")}
    assert max(lengths.values()) <= 300, lengths


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_local_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        place = page.parent / target
        if place.suffix == ".ipynb":  # copied there when the site is built
            place = ROOT / "examples" / place.name
        assert place.exists(), f"{page}: {target}"


def test_versions_agree() -> None:
    assert f'version = "{grpo.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {grpo.__version__}" in (ROOT / "CHANGELOG.md").read_text()
