"""Pages of the built site are opened in Chromium, without a server: `make test-site` does it after `make docs`."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from browsing import Faults, OpenPage
    from playwright.sync_api import Browser, Page

SITE = Path(__file__).parent.parent.parent / "docs" / "_build" / "html"
LOOK = Path(__file__).with_name("look.js")
PACKAGES = ("axe_playwright_python", "playwright")
collect_ignore_glob = [] if all(map(importlib.util.find_spec, PACKAGES)) else ["test_*.py"]
FLAGS = "no-sandbox disable-gpu no-first-run disable-quic disable-background-networking"
FLAGS += " disable-component-update disable-sync"
MATHS_STANDS = "() => window.MathJax === undefined ? true : window.MathJax.startup?.promise.then(() => true)"


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
def errors() -> Iterator[list[str]]:
    """What pages write to the console as errors; what is left of them fails the test."""
    written = list[str]()
    yield written
    assert written == []


@pytest.fixture
def open_page(browser: Browser, errors: list[str]) -> Iterator[OpenPage]:
    """A function that opens pages."""
    contexts = []

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


def look(page: Page, *questions: str) -> list[str]:
    """What look.js answers, with the width and the colours that the page stands in."""
    ask = """(questions) => Promise.all(questions.map((question) => look[question]())).then((found) => [
        `${innerWidth} px, ${matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"}`, found.flat()])"""
    where, found = page.evaluate(ask, list(questions))
    return [f"{where}: {fault}" for fault in found]


def prepare(page: Page) -> None:
    from axe_playwright_python.base import AXE_FILE_PATH

    page.add_style_tag(content="*, ::before, ::after { animation: none !important; transition: none !important }")
    page.add_script_tag(url=AXE_FILE_PATH.as_uri())
    page.add_script_tag(url=LOOK.as_uri())


@pytest.fixture(scope="session")
def faults() -> Faults:
    """A function that names what is wrong with the text of a page."""
    readable = set[str]()

    def contrast(page: Page) -> list[str]:
        styles = page.evaluate("(known) => look.styles(known)", list(readable))
        found = look(page, "contrast")
        readable.update([] if found else styles)
        return found

    def found(page: Page) -> list[str]:
        prepare(page)
        found = look(page, "length", "letters", "formulas")
        page.evaluate("document.querySelectorAll('details').forEach((own) => own.open = true)")
        found += look(page, "width", "figures", "words", "access") + contrast(page)
        page.emulate_media(color_scheme="dark")
        found += contrast(page)
        page.set_viewport_size({"width": 1280, "height": 844})
        return found + look(page, "width", "figures", "words")

    return found


@pytest.fixture(scope="session")
def frame_faults() -> Faults:
    """A function that names what is wrong around the text."""

    def found(page: Page) -> list[str]:
        prepare(page)
        found = look(page, "frame")
        page.emulate_media(color_scheme="dark")
        return found + look(page, "frame")

    return found
