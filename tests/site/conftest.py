"""Pages of the built site are opened in Chromium, without a server: `make test-site` does it after `make docs`."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

SITE = Path(__file__).parent.parent.parent / "docs" / "_build" / "html"
PACKAGES = ("axe_playwright_python", "playwright")
collect_ignore_glob = [] if all(map(importlib.util.find_spec, PACKAGES)) else ["test_*.py"]
FLAGS = "no-sandbox disable-gpu no-first-run disable-quic disable-background-networking"
FLAGS += " disable-component-update disable-sync"
MATHS_STANDS = "() => window.MathJax === undefined ? true : window.MathJax.startup?.promise.then(() => true)"


class OpenPage(Protocol):
    """Opens a page of the site, named as ``"start/demo.html"``, or a file, and waits until its formulas stand."""

    def __call__(self, path: str | Path, width: int = 1280, height: int = 844) -> Page: ...


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium")
    if executable is None:
        raise FileNotFoundError("no chromium on the PATH; install it: apt-get install --no-install-recommends chromium")
    with sync_playwright() as playwright:
        arguments = [f"--{flag}" for flag in FLAGS.split()]
        started = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """A function that opens pages; errors that they write to the console fail the test."""
    contexts, errors = [], list[str]()

    def opened(path: str | Path, width: int = 1280, height: int = 844) -> Page:
        file = SITE / path
        if not file.exists():
            raise FileNotFoundError(f"{file} is not there; build the site first: make docs")
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(file.as_uri())
        page.wait_for_function(MATHS_STANDS)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []
