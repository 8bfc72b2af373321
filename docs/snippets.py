"""The Python snippets of a page are run when it is read; the build fails where one does not run as the page says."""

import io
import re
import traceback
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

SNIPPET = re.compile(r"^```python\n(.*?)^```$(?:\n+^```text\n([\w.]+Error: .*?)^```$)?", re.DOTALL | re.MULTILINE)
ROOT = Path(__file__).parent.parent
SOURCES = [path for package in ("grpo", "adapters/grpo_adapters") for path in (ROOT / package).rglob("*.py")]


def run_snippets(page: str, text: str) -> None:
    """Run the snippets of a page one after the other in one namespace.

    Args:
        page: its name, for messages.
        text: its MyST source. Where the error of a snippet is meant, a ``text`` block after it quotes the error as
            Python prints it; numbers may differ.

    Raises:
        ExtensionError: at the first snippet that raises what the page does not quote, or fails to raise what it quotes.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the models are small, and what builds the site may be busy
    names: dict[str, Any] = {"__name__": "snippets"}
    for number, (snippet, quoted) in enumerate(SNIPPET.findall(text), start=1):
        name, raised, cause = f"{page}, snippet {number}", "", None
        try:
            with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="error"):
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # by peft
                warnings.filterwarnings("ignore", ".torch.jit.", DeprecationWarning)  # by torch.compile
                exec(compile(snippet, name, "exec"), names)  # noqa: S102
        except Exception as error:
            raised, cause = "".join(traceback.format_exception_only(error)), error
        if re.sub(r"\d+", "0", raised) != re.sub(r"\d+", "0", quoted):
            raise ExtensionError(f"{name} raised {raised or 'nothing'!r}, expected {quoted or 'nothing'!r}") from cause


def run_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Run the snippets of a page that is read; a change of the packages has it read again."""
    if app.env.doc2path(docname).suffix == ".md" and SNIPPET.search(source[0]):
        for path in SOURCES:
            app.env.note_dependency(path)
        run_snippets(docname, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Run the snippets of every page that is read."""
    app.connect("source-read", run_page)
    return {"parallel_read_safe": True}
