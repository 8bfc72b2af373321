"""What tests of this folder run on: a GPU where there is one, the CPU in small otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from devices import Machine

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
FIGURES = pytest.StashKey[dict[str, Any]]()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Print what was measured, as the last line."""
    if FIGURES in config.stash:
        print(json.dumps(config.stash[FIGURES]))


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest, machine: Machine) -> dict[str, Any]:
    """What is measured, by name, for the last line."""
    name = torch.cuda.get_device_name() if machine.has_gpu else "cpu"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__}
    return request.config.stash.setdefault(FIGURES, found)


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The device with the sizes that it is fit for."""
    return Machine.here()


@pytest.fixture(scope="session")
def device(machine: Machine) -> torch.device:
    """Where everything is computed."""
    return machine.device


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Precision of the parameters."""
    found: torch.dtype = request.param
    return found


@pytest.fixture
def deterministic() -> Iterator[None]:
    """PyTorch's deterministic algorithms; what has none raises an error."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
