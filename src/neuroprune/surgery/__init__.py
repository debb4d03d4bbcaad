"""Make it smaller: execute a plan, exactly. What to cut is decided elsewhere."""

from neuroprune.surgery.optimizer_state import OptimizerStateError, unwrap_optimizer
from neuroprune.surgery.shrink import adopt_, reshape_, shrink_

__all__ = [
    "OptimizerStateError",
    "adopt_",
    "reshape_",
    "shrink_",
    "unwrap_optimizer",
]
