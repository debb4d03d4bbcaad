"""One run, many sizes: a reloadable model at every budget on the way, with its quality."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from neuroprune.anatomy.inputs import evaluating
from neuroprune.checkpoint import save_pretrained
from neuroprune.record import write_text_atomic

Evaluate = Callable[[Any], Mapping[str, float]]


class Snapshots:
    """Saves the model at each budget, and keeps a list of what was saved.

    `directory/structural-0.50/` and so on are reloadable models; `directory/snapshots.json` lists
    them: structural sparsity reached, step, folder, and metrics where `evaluate` is given. On the
    way a budget is met from below, by less than one head; the last one is met exactly.

    Args:
        directory: where they go.
        evaluate: measures a model; called in eval mode without gradients.
    """

    def __init__(self, directory: Path | str, evaluate: Evaluate | None = None) -> None:
        self.directory = Path(directory)
        self.evaluate = evaluate
        self.taken: list[dict[str, Any]] = []

    def take(self, model: nn.Module, budget: float, reached: float, step: int) -> None:
        """Save the model as it is now.

        Args:
            model: the model.
            budget: structural sparsity that was asked for.
            reached: structural sparsity that it has.
            step: optimizer steps so far.
        """
        path = self.directory / f"structural-{budget:.4g}"
        save_pretrained(model, path)
        metrics: dict[str, float] = {}
        if self.evaluate is not None:
            with evaluating(model):
                metrics = {name: float(value) for name, value in self.evaluate(model).items()}
        entry = {
            "asked": budget,
            "structural_sparsity": reached,
            "step": step,
            "path": os.path.relpath(path, self.directory),
            "metrics": metrics,
        }
        self.taken = [e for e in self.taken if e["asked"] != budget] + [entry]
        write_text_atomic(
            self.directory / "snapshots.json", json.dumps(self.taken, indent=2) + "\n"
        )
