"""Settings of all tests: one thread and one seed; Hypothesis without deadlines, and repeatable in CI.

``pytest --hypothesis-profile=nightly`` draws many more examples, other ones each time.
"""

import os
import signal

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the processes that tests start
settings.register_profile("default", deadline=None, max_examples=60, derandomize="CI" in os.environ)
settings.register_profile("nightly", deadline=None, max_examples=1000, derandomize=False)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)
