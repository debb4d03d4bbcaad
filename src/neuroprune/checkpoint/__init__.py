"""Save and load shrunk models: safetensors, config.json and the plan in neuroprune.json.

A shrunk model has layers of different sizes, which a stock config cannot describe. Loading builds
the dense model on the meta device, replays the plan on it, and lets `from_pretrained` of
transformers load the weights into the shapes that result. Where a stock config *can* describe the
result, it does, and stock `from_pretrained` loads the directory too.
"""

from neuroprune.checkpoint.files import PLAN_FILE, CheckpointError
from neuroprune.checkpoint.loading import from_pretrained, loads_with
from neuroprune.checkpoint.saving import save_pretrained

__all__ = ["PLAN_FILE", "CheckpointError", "from_pretrained", "loads_with", "save_pretrained"]
