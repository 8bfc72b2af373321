"""Tests of environments are collected where their packages are installed: `make test-environments` does it."""

from __future__ import annotations

import importlib.util

PACKAGES = {
    "ale_py": "test_atari.py",
    "openenv": "test_openenv.py",
    "mpe2": "test_pettingzoo.py",
    "renderers": "test_renderers.py",
    "skyrl_gym": "test_skyrl.py",
    "verifiers": "test_verifiers.py",
}
collect_ignore = [file for package, file in PACKAGES.items() if importlib.util.find_spec(package) is None]
