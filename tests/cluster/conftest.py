"""Tests of clusters are collected where their packages are installed: `make test-cluster` does it."""

from __future__ import annotations

import importlib.util
import os
import secrets

PACKAGES = ("kubernetes_validate", "ray")
collect_ignore_glob = [] if all(map(importlib.util.find_spec, PACKAGES)) else ["test_*.py"]

os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray leaves one in the home directory
