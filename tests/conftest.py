"""Settings of all tests: one thread and one seed; Hypothesis without deadlines, and repeatable in CI.

``pytest --hypothesis-profile=nightly`` draws many more examples, other ones each time.
"""

import os
import signal

import pytest
import torch
from dealing import dealt
from hypothesis import settings

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the processes that tests start
settings.register_profile("default", deadline=None, max_examples=40, derandomize="CI" in os.environ)
settings.register_profile("nightly", deadline=None, max_examples=1000, derandomize=False)
settings.load_profile("default")

LONG = ("examples", "test_broken_models", "test_kill")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the longest tests come first on each worker: one would be left over at the end."""
    long = [item for item in items if any(name in item.nodeid for name in LONG)]
    items[:] = dealt(items, long, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)
