"""Settings of all tests: one thread; Hypothesis without deadlines, since machines are shared, and repeatable in CI."""

import os

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("default", deadline=None, max_examples=60, derandomize="CI" in os.environ)
settings.load_profile("default")
