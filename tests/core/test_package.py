"""What importing the core loads."""

import json
import subprocess
import sys

import grpo

SCRIPT = """
import json, sys, torch, pydantic, typing_extensions
before = set(sys.modules)
import grpo
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})))
"""


def test_the_core_loads_nothing_but_its_three_packages() -> None:
    output = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    loaded = {name for name in json.loads(output) if not name.startswith("_sysconfigdata")}
    allowed = {
        "grpo",
        "torch",
        "pydantic",
        "pydantic_core",
        "typing_extensions",
        "annotated_types",
        "typing_inspection",
    }
    assert loaded - set(sys.stdlib_module_names) <= allowed


def test_every_public_name_exists_and_is_documented() -> None:
    for name in grpo.__all__:
        assert getattr(grpo, name).__doc__, name
    assert sorted(grpo.__all__) == grpo.__all__
