"""The plain training loop that tests of methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from neuroprune.config import Config
from neuroprune.pruner import Pruner, attach
from tests.zoo import inputs_for, make_model

OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adafactor": torch.optim.Adafactor,
}
# The cheapest unit of the tiny models: 1 neuron of 3 * 32 or 2 * 32 weights.
GRANULARITY = 0.011


def run(
    pruner: Pruner, family: str, steps: Iterable[int], watch: Callable[[], None] | None = None
) -> None:
    """True optimizer steps, one batch each; `watch` is called after every one."""
    pruner.model.train()
    for step in steps:
        pruner.optimizer.zero_grad()
        pruner.model(**inputs_for(pruner.model, family, step)).loss.backward()
        pruner.optimizer.step()
        if watch is not None:
            watch()


def started(
    family: str,
    config: Config,
    steps: int,
    optimizer: str = "adamw",
    lr: float = 1e-3,
    dtype: torch.dtype = torch.float32,
) -> Pruner:
    """A pruner on a fresh model."""
    model = make_model(family).to(dtype).train()
    return attach(model, OPTIMIZERS[optimizer](model.parameters(), lr=lr), config, steps)


def train(family: str, config: Config, steps: int, **settings: Any) -> Pruner:
    """A whole training, with an epoch end in the middle."""
    pruner = started(family, config, steps, **settings)
    run(pruner, family, range(steps // 2))
    if steps > 1:
        pruner.prune()
    run(pruner, family, range(steps // 2, steps))
    pruner.finish()
    return pruner
