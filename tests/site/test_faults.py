"""A page with one fault is told so, and the same page without it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from browsing import Faults, OpenPage

PAGE = """<!DOCTYPE html><html lang="en"><head><title>A page</title><meta name="viewport" content="width=device-width">
<style>body {{ margin: 0; color: #111; background: #fff }}
@media (prefers-color-scheme: dark) {{ body {{ color: #eee; background: #111 }} }}</style></head>
<body><article><h1>A page</h1><p>∇ π ⟨words⟩</p>{}</article></body></html>"""
DATA = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
PICTURE = f"<img src='{DATA}' height=9 alt='a line' {{}}>".format
BOTH = "390 px, light", "1280 px, dark"
FAULTS = {
    "<table><tr><td><div style='width: 2000px'>wide</div></table>": ("px wide: ", *BOTH),
    "<pre style='max-width: 350px'>" + "code " * 200 + "</pre>": ("px wide: ", *BOTH),
    PICTURE("width=9 style='position: absolute; left: -40px'"): ("cut off: img", *BOTH),
    f"<div style='width: 300px; overflow: auto'>{PICTURE('width=310')}</div>": ("cut off: img", *BOTH),
    "<img src='data:image/gif,nothing' alt='a line'>": ("no picture: img", *BOTH),
    PICTURE("width=9").replace("a line", "images/line.png"): ("no words for a picture: img", *BOTH),
    PICTURE("width=9").replace("alt='a line'", ""): ("image-alt", "390 px, light"),
    "<div style='width: 9px; overflow: hidden'><p style='width: 99px'>words</p></div>": ("words cut off: div", *BOTH),
    "<div style='color: #999'>pale</div>": ("color-contrast", "390 px, light"),
    "<div style='color: #444'>dim</div>": ("color-contrast", "390 px, dark"),
    "<details><summary>more</summary><i style='color: #999'>pale</i></details>": ("color-contrast", "390 px, light"),
    "<span class='math'>\\\\(x</span>": ("formula as it is written: span.math", "390 px, light"),
    "<mjx-container><mjx-merror>\\\\fraction</mjx-merror></mjx-container>": ("formula with an error", "390 px, light"),
    "\N{REPLACEMENT CHARACTER}": ("no glyph for U+FFFD", "390 px, light"),
    "\N{EGYPTIAN HIEROGLYPH A001}": ("no glyph for U+13000", "390 px, light"),
    "<div style='height: 12000px'></div>": ("screens without a table of contents", "390 px, light"),
    "<a href='.'></a>": ("link-name", "390 px, light"),
}


@pytest.mark.parametrize(("element", "told"), FAULTS.items())
def test_fault_is_told(
    element: str, told: tuple[str, ...], tmp_path: Path, open_page: OpenPage, faults: Faults
) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE.format(element))
    fault, *places = told
    found = faults(open_page(page, 390))
    assert [line.partition(": ")[0] for line in found if fault in line] == places
    assert len(found) == len(places)


def test_page_without_faults_passes(tmp_path: Path, open_page: OpenPage, faults: Faults) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE.format(PICTURE("width=300") + "<pre style='overflow: auto'>" + "code " * 200 + "</pre>"))
    assert faults(open_page(page, 390)) == []


def test_errors_of_scripts_are_told(tmp_path: Path, open_page: OpenPage, errors: list[str]) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE.format("<script>console.error('one'); undefined.two</script>"))
    open_page(page)
    assert [error for error in errors if "one" in error or "two" in error] == errors
    assert len(errors) == 2
    errors.clear()
