"""The site: MyST pages, executed notebooks, and an API reference that misses no public name."""

import os
import re
import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import grpo

HERE = Path(__file__).parent
ROOT = HERE.parent
NOTEBOOKS = ["grpo_dynamic_bandit_demo.ipynb", "grpo_language_model.ipynb"]

# What GitHub shows beside the code is a page of the site too; files that are none are named without a link.
PROJECT_PAGES = {"CONTRIBUTING.md": "contributing.md", "ROADMAP.md": "roadmap.md", "SECURITY.md": "security.md"}
PLACES = PROJECT_PAGES | {"CHANGELOG.md": "../reference/changelog.md", "grpo/README.md": "../library/components.md"}


def project_page(text: str) -> str:
    """A file of the project's root as a page of the site."""

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found.groups(default="")
        place = f"../{target.removeprefix('docs/')}" if target.startswith("docs/") else PLACES.get(target)
        return f"[{words}]({place}{anchor})" if place else f"`{target}`"

    text = re.sub(
        r"<!-- packages -->.*<!-- /packages -->", "(Drawn in [](../library/components.md).)", text, flags=re.DOTALL
    )
    return re.sub(r"\[([^\]]+)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", link, text)


(HERE / "project").mkdir(exist_ok=True)
for name, page in PROJECT_PAGES.items():
    (HERE / "project" / page).write_text(project_page((ROOT / name).read_text(encoding="utf-8")), encoding="utf-8")

sys.path.append(str(HERE))  # for the extensions beside this file
from public_names import public_names  # noqa: E402

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))  # for figures.py
(HERE / "tutorials").mkdir(exist_ok=True)
for notebook in NOTEBOOKS:
    shutil.copyfile(ROOT / "examples" / notebook, HERE / "tutorials" / notebook)

project = "anygrpo"
author = "The anygrpo developers"
copyright = "2026, The anygrpo developers"
release = version = grpo.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
    "command_reference",
    "public_names",
    "readable_signatures",
    "reference_contents",
    "settings_reference",
    "snippets",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "anygrpo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "navigation_with_keys": True,
    "top_of_page_buttons": [],
    "light_css_variables": {
        "color-brand-primary": "#00629b",
        "color-brand-content": "#00629b",
        "color-brand-visited": "#882255",
        "color-api-name": "#00629b",
        "color-api-pre-name": "var(--color-foreground-secondary)",
        "color-admonition-title": "#00629b",
        "color-admonition-title-background": "#0072b21a",
        "color-sidebar-item-background--current": "#0072b21a",
    },
    "dark_css_variables": {
        "color-brand-primary": "#6cb8ec",
        "color-brand-content": "#6cb8ec",
        "color-brand-visited": "#d79ac0",
        "color-api-name": "#6cb8ec",
        "color-api-pre-name": "var(--color-foreground-secondary)",
        "color-admonition-title": "#6cb8ec",
        "color-admonition-title-background": "#6cb8ec1a",
        "color-sidebar-item-background--current": "#6cb8ec1a",
    },
}

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_code_prompt_show = "How this is drawn"
nb_code_prompt_hide = "Close"
nb_render_markdown_format = "myst"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "special-members": "__call__", "exclude-members": "model_config"}
autodoc_preserve_defaults = True
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 68
suppress_warnings = ["mystnb.unknown_mime_type"]


def require_all_public_names(app: Sphinx, exception: Exception | None) -> None:
    """Fail the build of the whole site if a public name of the packages has no entry in the reference."""
    if exception is not None or app.config.include_patterns != ["**"]:
        return
    documented = {name for name, *_ in app.env.get_domain("py").get_objects()}
    missing = [name for name, _ in public_names() if name not in documented]
    if missing:
        raise ExtensionError(f"public names without an entry in the API reference: {', '.join(missing)}")


def setup(app: Sphinx) -> None:
    """Register the check."""
    app.connect("build-finished", require_all_public_names)
