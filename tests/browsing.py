"""Types of the fixtures with which the site is looked at in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page


class OpenPage(Protocol):
    """Opens a page of the site, named as ``"start/demo.html"``, or a file, and waits until its formulas stand."""

    def __call__(self, path: str | Path, width: int = 1280, height: int = 844) -> Page: ...


class Faults(Protocol):
    """Names all that is wrong with a page that is open at the width of a phone, a line each."""

    def __call__(self, page: Page) -> list[str]: ...
