"""Settings of all tests: one thread, and Hypothesis without deadlines, since machines are shared."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("default", deadline=None, max_examples=60)
settings.load_profile("default")
