"""Every page of the site can be read on a phone and on a desk, in light and dark, by eye or by ear."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import OpenPage


def test_first_page_has_a_title(open_page: OpenPage) -> None:
    assert open_page("index.html", 390).title()
