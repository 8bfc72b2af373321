"""Workflows, templates and the pages for contributors name what there is, and the matrix begins at the lower bounds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MATRIX = json.loads((ROOT / ".ci" / "matrix.json").read_text())
OLDEST = MATRIX["include"][0]

each_workflow = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)


def jobs(workflow: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return found


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def test_there_are_workflows_and_forms() -> None:
    assert {path.stem for path in WORKFLOWS} == {"ci", "matrix", "release"}
    assert {path.stem for path in FORMS} == {"defect", "wish"}


def named_targets(text: str) -> set[str]:
    without_options = re.sub(r"(?<=make )(?:--?\S+ )+", "", text)
    lines = re.findall(r"(?:^|`|run: |\$ )make ((?:[a-z-]+ ?)+)", without_options, re.M)
    return {name for line in lines for name in line.split()}


def test_targets_are_found() -> None:
    text = "      - run: make release\nmake --jobs=2 test docs\n$ make demo    # it\nor `make wheel` to make do"
    assert named_targets(text) == {"release", "test", "docs", "demo", "wheel"}


NAMING = [".ci/run", ".github/pull_request_template.md", "CONTRIBUTING.md", "README.md", "ROADMAP.md"]


@pytest.mark.parametrize("file", [*NAMING, *(path.relative_to(ROOT) for path in WORKFLOWS)], ids=str)
def test_targets_of_make_exist(file: str | Path) -> None:
    assert named_targets((ROOT / file).read_text()) <= targets()


@each_workflow
def test_what_a_workflow_runs_of_the_tree_exists(workflow: Path) -> None:
    steps = [step for job in jobs(workflow).values() for step in [job, *job.get("steps", [])]]
    local = [step["uses"] for step in steps if step.get("uses", "").startswith("./")]
    scripts = [name for step in steps for name in re.findall(r"\.ci/[\w.]+", step.get("run", ""))]
    assert [name for name in local + scripts if not (ROOT / name).is_file()] == []


@each_workflow
def test_a_workflow_may_only_read(workflow: Path) -> None:
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}
    writing = {name for name, job in jobs(workflow).items() if "permissions" in job}
    assert writing == ({"publish"} if workflow.stem == "release" else set())


def test_nothing_is_published_but_by_a_tag_where_it_was_set_up_and_all_has_passed() -> None:
    release = jobs(ROOT / ".github" / "workflows" / "release.yml")
    publish = release.pop("publish")
    assert publish["if"] == "github.ref_type == 'tag' && vars.PUBLISH == 'true'"
    assert set(publish["needs"]) == set(release)


def lower_bounds() -> dict[str, str]:
    required = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["gym"]]
    return dict(requirement.split(">=") for requirement in required)


def test_the_matrix_begins_where_the_package_does() -> None:
    assert {"python": PROJECT["requires-python"].removeprefix(">="), **lower_bounds()} == OLDEST
    assert MATRIX["python"][0] == OLDEST["python"]


def test_versions_of_the_matrix_follow_each_other() -> None:
    for versions in (MATRIX["python"], MATRIX["torch"]):
        minors = [tuple(map(int, version.split("."))) for version in versions]
        assert minors == [(minors[0][0], minors[0][1] + more) for more in range(len(minors))]


def test_the_pinned_versions_are_in_the_matrix() -> None:
    pinned = re.search(r"^torch==(\d+\.\d+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert pinned[1] in MATRIX["torch"]
    classified = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert classified <= set(MATRIX["python"])


def run_matrix(*chosen: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / "matrix.py"), *chosen]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": ""})


def test_a_cell_without_its_python_has_not_passed() -> None:
    finished = run_matrix(OLDEST["python"], OLDEST["torch"])
    line = f"Python {OLDEST['python']}, PyTorch {OLDEST['torch']}: not tested: there is no such Python here\n"
    assert (finished.returncode, finished.stdout) == (1, line)
    assert len(run_matrix().stdout.splitlines()) == len(MATRIX["python"]) * len(MATRIX["torch"]) + 1


def test_a_cell_that_is_not_in_the_matrix_is_refused() -> None:
    finished = run_matrix("3.11", "1.0")
    assert finished.returncode == 1
    assert "3.11 1.0 is in no cell" in finished.stderr


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.name)
def test_forms_ask_for_something(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert content["name"]
    assert content["description"]
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "ROADMAP.md", "SECURITY.md", ".github/pull_request_template.md"])
def test_paths_in_pages_for_contributors_exist(page: str) -> None:
    """Links are checked with those of all pages; these are the paths in plain code."""
    named = re.findall(r"`(\.?\w[\w.]*/[\w./-]*)`", (ROOT / page).read_text())
    made = {"dist/", "docs/_build/html/index.html", "docs/_build/one"}
    real = [name for name in named if "yours" not in name and "NAME" not in name]
    assert not [name for name in real if name not in made and not (ROOT / name).exists()]
