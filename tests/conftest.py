"""Settings that hold for every test. Imports nothing of the package: the shape checks of the
jaxtyping option must be in place before its first import.
"""

from __future__ import annotations

import os

# Before anything imports transformers, datasets or huggingface_hub: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from hypothesis import HealthCheck, settings

# Several threads are slower than one as soon as anything else runs on the machine.
torch.set_num_threads(1)

# The same examples on every run and machine, none of them timed.
settings.register_profile(
    "neuroprune",
    deadline=None,
    max_examples=40,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("neuroprune")
