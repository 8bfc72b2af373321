"""What importing the core loads."""

import importlib
import json
import pickle
import re
import subprocess
import sys
from typing import Any

import pytest
from public_names import public_names

import grpo

SCRIPT = """
import json, sys, torch, pydantic, typing_extensions
before = set(sys.modules)
import grpo
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})))
"""


def is_error(public: Any) -> bool:
    return isinstance(public, type) and issubclass(public, BaseException)


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


@pytest.mark.parametrize("name", [name for name, public in public_names() if is_error(public)])
def test_an_error_is_named_in_a_traceback_as_it_can_be_imported(name: str) -> None:
    package, _, own = name.rpartition(".")
    error = getattr(importlib.import_module(package), own)
    assert error.__module__ == package or not re.search(r"\._|^_", error.__module__)
    assert getattr(importlib.import_module(error.__module__), own) is error
    assert pickle.loads(pickle.dumps(error)) is error
