"""Every page of the site can be read on a phone and on a desk, in light and in dark, by eye or by ear."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from browsing import Faults, OpenPage

SITE = Path(__file__).parent.parent.parent / "docs" / "_build" / "html"
GENERATED = ("_modules", "_static", "genindex.html", "py-modindex.html", "search.html")
PAGES = [path.relative_to(SITE) for path in sorted(SITE.rglob("*.html"))]
READ = [path.as_posix() for path in PAGES if path.parts[0] not in GENERATED]


def test_the_site_is_there() -> None:
    assert "index.html" in READ, f"{SITE} has no pages; build the site first: make docs"


@pytest.mark.parametrize("path", READ)
def test_page_can_be_read(path: str, open_page: OpenPage, faults: Faults) -> None:
    found = faults(open_page(path, width=390))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("width", [390, 1280])
def test_frame_of_all_pages_can_be_read(width: int, open_page: OpenPage, frame_faults: Faults) -> None:
    found = frame_faults(open_page("learn/ppo.html", width))
    assert not found, "\n".join(found)
