"""Settings of these tests: no deadlines, no example database, one thread of torch for each worker."""

from __future__ import annotations

import torch
from hypothesis import settings

settings.register_profile("handheld", deadline=None, database=None, max_examples=50)
settings.load_profile("handheld")
torch.set_num_threads(1)
