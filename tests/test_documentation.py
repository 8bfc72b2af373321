"""Snippets in the documentation run, and what it says of the code is true."""

from __future__ import annotations

import ast
import importlib.util
import json
import pkgutil
import re
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from markdown_it.renderer import RendererHTML
from mdit_py_plugins.anchors import anchors_plugin
from models import FunctionRewards, SequencePolicy, TruncatingPaddedBatch, TruncatingSequencePolicy
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from myst_parser.slugs import github_slugify
from sphinx.errors import ExtensionError

import grpo
import packages
from adventure_game import ADVENTURE
from agent_start import make_policy
from grpo import (
    AdaptiveKLCoefficient,
    DPOConfig,
    DPOTrainer,
    DynamicSampling,
    GroupRelative,
    GRPOConfig,
    GRPOTrainer,
    ImportanceCorrection,
    KLPenalizedRewards,
    KLPenaltySurrogate,
    PartialRewards,
    PolicyEvaluation,
    PPOConfig,
    PPOObjective,
    PPOTrainer,
    Preference,
)
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic, evaluate
from grpo_adapters.huggingface import ConversationReward
from snippets import SNIPPET, run_snippets

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "grpo" / "README.md"]
PROJECT = [ROOT / "CONTRIBUTING.md", ROOT / "ROADMAP.md", ROOT / "SECURITY.md"]
PAGES = [*READMES, *PROJECT, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.ipynb"))]


@pytest.mark.parametrize("page", READMES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run_one_after_the_other(page: Path) -> None:
    """Those of the pages of the site are run by the same function when it is built."""
    assert "```python" in page.read_text()
    run_snippets(page.name, page.read_text())


def test_a_snippet_that_raises_is_named() -> None:
    page = "```python\nkept = 1\n```\n\n```python\nassert kept == 2\n```\n"
    with pytest.raises(ExtensionError, match=r"a page, snippet 2 raised 'AssertionError.*expected 'nothing'"):
        run_snippets("a page", page)


def test_an_error_that_a_page_quotes_must_be_raised() -> None:
    snippet, quoted = "```python\nraise ValueError('got 3')\n```\n\n", "```text\nValueError: got 1137\n```\n"
    run_snippets("a page", snippet + quoted)
    with pytest.raises(ExtensionError, match="raised 'ValueError: got 3"):
        run_snippets("a page", snippet + quoted.replace("got", "lacks"))
    with pytest.raises(ExtensionError, match="snippet 1 raised 'nothing'"):
        run_snippets("a page", "```python\npass\n```\n\n" + quoted)


def first_snippet_of_the_readme() -> str:
    found = SNIPPET.search((ROOT / "README.md").read_text())
    assert found is not None
    return found[1]


def test_the_readme_model_learns(capsys: pytest.CaptureFixture[str]) -> None:
    snippet = first_snippet_of_the_readme()
    for seed in range(3):
        torch.manual_seed(seed)
        exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
        miss = re.search(r"misses by ([\d.]+) m", capsys.readouterr().out)
        assert miss is not None
        assert float(miss[1]) < 0.6


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_a_model_of_ones_own_takes_fewer_than_40_lines() -> None:
    snippet = first_snippet_of_the_readme()
    assert len(snippet[snippet.index("class Thrower") :].strip().splitlines()) < 40


class TellingBatch(TruncatingPaddedBatch):
    """One that tells with which log-probs its tokens were drawn."""

    sampling_log_probs: torch.Tensor


class TellingSequencePolicy(TruncatingSequencePolicy):
    """Draws with log-probs of its own."""

    def encode_actions(self, states: Any, actions: Any) -> TellingBatch:
        encoded = super().encode_actions(states, actions)
        batch = TellingBatch(encoded.starts, encoded.tokens, encoded.lengths)
        batch.truncated = encoded.truncated
        batch.sampling_log_probs = self.evaluate_actions(batch).log_probs.detach()
        return batch


class AllScored(FunctionRewards):
    """Says that it could score everything."""

    def compute_rewards(self, states: Any, actions: Any) -> Any:
        rewards = super().compute_rewards(states, actions)
        return PartialRewards(rewards, scored=torch.ones(len(rewards), dtype=torch.bool))


def test_the_glossary_defines_every_metric() -> None:
    entries = "\n".join(re.findall(r"^`.*`$", (ROOT / "docs/reference/glossary.md").read_text(), re.M))
    defined = {name for name in re.findall(r"`([\w/]+)`", entries) if not name.startswith("engine/")}
    config = GRPOConfig(num_epochs_per_update=2, entropy_coefficient=0.1)
    bandit = GRPOTrainer(config, SoftmaxPolicy(3), StationaryBandit([0.1, 0.5, 0.9]), SoftmaxPolicy(3))
    sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=2), num_steps=64)
    penalty = KLPenaltySurrogate(coefficient=AdaptiveKLCoefficient(target=0.01))
    objective = PPOObjective(surrogate=penalty)
    player = GymActorCritic(sampler)
    cart = PPOTrainer(PPOConfig(), player, EnvironmentReward(), objective=objective)
    sequences = GRPOTrainer(
        GRPOConfig(dynamic_sampling=DynamicSampling(max_rounds=1), importance_correction=ImportanceCorrection()),
        TellingSequencePolicy(),
        AllScored(lambda state, action: float(len(action))),
        SequencePolicy(),
        advantage_estimator=KLPenalizedRewards(GroupRelative()),
    )
    pairs = DPOTrainer(DPOConfig(sft_coefficient=0.1), SoftmaxPolicy(3), SoftmaxPolicy(3))
    agents: GRPOTrainer[Any, Any] = GRPOTrainer(
        GRPOConfig(), make_policy(ADVENTURE, 0), ConversationReward(), sampler=ADVENTURE.sampler()
    )
    reported = [
        agents.step(ADVENTURE.make_rows(0)[0][:1]),
        bandit.step(["the only state"]),
        cart.step(sampler.states),
        sequences.step([1, 2]),
        pairs.step([Preference("the only state", chosen=2, rejected=0)]),
    ]
    evaluated = PolicyEvaluation(["the only state"], bandit.reward_model)(bandit.policy)
    played = evaluate(player, gymnasium.make("CartPole-v1"), num_episodes=1).to_metrics()
    assert set().union(*reported) | {f"evaluation/{name}" for name in evaluated | played} == defined


MODULES = sorted(path for package in ("grpo", "adapters") for path in (ROOT / package).rglob("*.py"))
MAX_FUNCTION_LINES = 50


def lines_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    assert docstring.end_lineno is not None
    return lines - (docstring.end_lineno - docstring.lineno + 1)


def test_the_length_of_a_function_is_that_of_what_it_does() -> None:
    source = 'def doubled(number):\n    """Twice as much.\n\n    Really.\n    """\n    return 2 * number\n'
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert lines_without_docstring(function) == 2


def test_no_function_is_long() -> None:
    """As CONTRIBUTING.md says."""
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and lines_without_docstring(node) > MAX_FUNCTION_LINES
    ]
    assert not long


def test_every_module_is_one_thing() -> None:
    """Its first line names it without an "and"; a package may tell what it gathers."""
    docstrings = {path: ast.get_docstring(ast.parse(path.read_text())) or "" for path in MODULES}
    first_lines = {path: docstring.partition("\n")[0] for path, docstring in docstrings.items()}
    assert not [path for path, line in first_lines.items() if not line.endswith((".", "?"))]
    several = [path for path, line in first_lines.items() if " and " in line and path.name != "__init__.py"]
    assert not several


def test_the_picture_of_the_packages_is_that_of_their_imports() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert packages.drawn(page) == page, "run `make picture`"


def test_the_picture_of_packages_follows_imports_and_leaves_shortcuts_out(tmp_path: Path) -> None:
    core = tmp_path / "core"
    sources = {
        "top/one.py": "from core.middle.two import two\nfrom core.bottom import three\nimport torch",
        "middle/two.py": "def late():\n    import core.bottom.three\nfrom core.middle.other import own",
        "bottom/three.py": "import math\nfrom . import sibling",
    }
    for name, source in sources.items():
        (core / name).parent.mkdir(parents=True)
        (core / name).write_text(source)
    edges = packages.imports_between_packages(core)
    assert edges == {("top", "middle"), ("top", "bottom"), ("middle", "bottom")}
    assert packages.without_shortcuts(edges) == {("top", "middle"), ("middle", "bottom")}


def markdown(page: Path) -> str:
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return page.read_text()


@cache
def links_and_anchors(page: Path) -> tuple[list[str], set[str]]:
    """Where a page leads to, and the anchors of its headings as the site makes them (myst_heading_anchors = 3)."""
    parser = create_md_parser(MdParserConfig(), RendererHTML)
    parser.use(anchors_plugin, max_level=3, slug_func=github_slugify)
    tokens = parser.parse(markdown(page))
    inline = [child for token in tokens for child in token.children or ()]
    targets = [str(child.attrs.get("href") or child.attrs.get("src", "")) for child in inline]
    links = [target for target in targets if target and ":" not in target]
    return links, {str(token.attrs["id"]) for token in tokens if token.type == "heading_open" and "id" in token.attrs}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_local_links_lead_somewhere(page: Path) -> None:
    folder = ROOT / "docs" / "tutorials" if page.suffix == ".ipynb" else page.parent
    for link in links_and_anchors(page)[0]:
        target, _, anchor = link.partition("#")
        place = (folder / target).resolve() if target else page
        if place.suffix == ".ipynb":  # copied there when the site is built
            place = ROOT / "examples" / place.name
        if place.parent == ROOT / "docs" / "project":  # made of the file when the site is built
            place = ROOT / f"{place.stem.upper()}.md"
        assert place.exists(), f"{page}: {link}"
        assert not anchor or anchor in links_and_anchors(place)[1], f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_the_code_exist(page: Path) -> None:
    """Sphinx leaves a name that it does not know as plain text, without a word."""
    for name in re.findall(r"\{(?:class|func|meth|exc)\}`(?:[^`<]*<)?~?([\w.]+)>?`", markdown(page)):
        pkgutil.resolve_name(name)


def test_the_references_name_every_paper() -> None:
    number = re.compile(r"(?:arxiv\.org/abs/|arXiv:)(\d{4}\.\d{4,5})")
    sources = [*PAGES, *(path for package in ("grpo", "adapters") for path in (ROOT / package).rglob("*.py"))]
    named = set(number.findall((ROOT / "docs/reference/papers.md").read_text()))
    missing = {str(path): cited for path in sources if (cited := set(number.findall(path.read_text())) - named)}
    assert not missing


def fields_of(module: str, file: str, name: str) -> set[str]:
    """The fields of a data class of a package, which is not imported."""
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.submodule_search_locations is not None
    tree = ast.parse((Path(found.submodule_search_locations[0]) / file).read_text(encoding="utf-8"))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return {line.target.id for line in body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)}


def test_every_option_of_trl_is_told() -> None:
    own = fields_of("trl", "trainer/grpo_config.py", "GRPOConfig")
    inherited = fields_of("transformers", "training_args.py", "TrainingArguments")
    assert {"num_generations", "max_steps"} <= own | inherited
    rows = [line for line in (ROOT / "docs/how-to/coming-from-trl.md").read_text().splitlines() if line[:1] == "|"]
    told = {name for row in rows for code in re.findall(r"`([^`]+)`", row) for name in re.findall(r"\w+", code)}
    assert not (own | inherited) - told


def test_versions_agree() -> None:
    assert f'version = "{grpo.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {grpo.__version__}" in (ROOT / "CHANGELOG.md").read_text()
