"""neuroprune: make a Hugging Face transformer several times smaller while it is fine-tuned.

    pruner = neuroprune.attach(model, optimizer, neuroprune.NeuroPrune(target=0.8), total_steps=N)
    ...  # ordinary loop; pruner.prune() at the end of each epoch
    pruner.finish()
    neuroprune.save_pretrained(model, "out/")

Names are resolved on first use, so that importing the package imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neuroprune.config import (
    DSP,
    L1,
    CoFi,
    ConfigError,
    Fisher,
    Flops,
    Heads,
    Latency,
    Magnitude,
    Movement,
    NeuroPrune,
    Parameters,
    ProximalGroup,
    Structural,
    Weights,
)
from neuroprune.plan import PlanError, ShrinkPlan

if TYPE_CHECKING:
    from neuroprune.anatomy import AnatomyError, anatomy_of
    from neuroprune.checkpoint import CheckpointError, from_pretrained, save_pretrained
    from neuroprune.pruner import NonFiniteError, PrunerError, attach
    from neuroprune.surgery import OptimizerStateError, shrink_

    NeuroPruneCallback: Any

__version__ = "0.1.0"

_LAZY = {
    "AnatomyError": "neuroprune.anatomy",
    "CheckpointError": "neuroprune.checkpoint",
    "NeuroPruneCallback": "neuroprune.integrations",
    "NonFiniteError": "neuroprune.pruner",
    "OptimizerStateError": "neuroprune.surgery",
    "PrunerError": "neuroprune.pruner",
    "anatomy_of": "neuroprune.anatomy",
    "attach": "neuroprune.pruner",
    "from_pretrained": "neuroprune.checkpoint",
    "save_pretrained": "neuroprune.checkpoint",
    "shrink_": "neuroprune.surgery",
}

__all__ = [
    "DSP",
    "L1",
    "AnatomyError",
    "CheckpointError",
    "CoFi",
    "ConfigError",
    "Fisher",
    "Flops",
    "Heads",
    "Latency",
    "Magnitude",
    "Movement",
    "NeuroPrune",
    "NeuroPruneCallback",
    "NonFiniteError",
    "OptimizerStateError",
    "Parameters",
    "PlanError",
    "ProximalGroup",
    "PrunerError",
    "ShrinkPlan",
    "Structural",
    "Weights",
    "anatomy_of",
    "attach",
    "from_pretrained",
    "save_pretrained",
    "shrink_",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
