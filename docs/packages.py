"""The picture of the core's packages in CONTRIBUTING.md, drawn from their imports: ``python docs/packages.py``."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
PICTURE = re.compile(r"(?<=<!-- packages -->\n).*(?=<!-- /packages -->)", re.DOTALL)

Edges = set[tuple[str, str]]


def imports_between_packages(core: Path) -> Edges:
    """Who imports from whom, of the packages in the folder ``core``."""
    edges = set()
    for path in core.glob("*/**/*.py"):
        package = path.relative_to(core).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            edges |= {(package, imported) for imported in imported_packages(node, core.name)} - {(package, package)}
    return edges


def imported_packages(node: ast.AST, root: str) -> set[str]:
    """The packages under ``root`` that an import statement names."""
    names: Iterable[str] = ()
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        assert node.module is not None
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith(f"{root}.")}


def without_shortcuts(edges: Edges) -> Edges:
    """Only the edges that no way over others implies; there must be no circle."""
    return {(start, end) for start, end in edges if end not in reached(start, edges - {(start, end)})}


def reached(start: str, edges: Edges) -> set[str]:
    """All that can be reached from ``start``."""
    found: set[str] = set()
    to_visit = [start]
    while to_visit:
        here = to_visit.pop()
        beyond = {end for begin, end in edges if begin == here} - found
        found |= beyond
        to_visit += beyond
    return found


def picture(edges: Edges) -> str:
    """The edges as a chart that GitHub draws."""
    arrows = "".join(f"    {start} --> {end}\n" for start, end in sorted(edges))
    return f"```mermaid\nflowchart TD\n{arrows}```\n"


def drawn(page: str) -> str:
    """The page with the picture as the imports are now."""
    new = picture(without_shortcuts(imports_between_packages(ROOT / "grpo")))
    page, count = PICTURE.subn(lambda _: new, page)
    assert count == 1, f"{PAGE.name} has {count} places for the picture"
    return page


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
