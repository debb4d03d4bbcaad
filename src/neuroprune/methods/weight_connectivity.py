"""How much every single weight matters to the loss, followed while training."""

from __future__ import annotations

import base64
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy
from neuroprune.core.importance import first_order_per_weight, square_factors
from neuroprune.methods.connectivity import to_mean_one


class WeightConnectivity:
    """Running first-order importance of single weights, in factors.

        (r, s) <- (r, s) + ((r, s)_batch - (r, s)) / min(n, horizon),    n = batches seen
        score_ij = |w_ij| * sqrt(r_i s_j / mean(r))

    r and s are row and column means of a matrix's squared gradient, divided by the mean over all
    matrices: only ratios matter to a ranking, and a mean of ratios does not depend on the scale of
    the loss, on gradient clipping or on a gradient scaler. What is followed of a matrix of n x m
    weights takes n + m numbers, so that a checkpoint can hold it.

    Args:
        horizon: batches that the running means remember.
    """

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self.seen = 0
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def observe_(self, anatomy: Anatomy, trained: Container[Tensor]) -> None:
        """Take in the gradients of one batch.

        Args:
            anatomy: the model's blocks.
            trained: the parameters that the optimizer trains; gradients of others pile up.
        """
        found = {
            name: square_factors(w.grad)
            for name, w in _named(anatomy)
            if w.grad is not None and w.numel() and w in trained
        }
        if not found:
            return
        self.seen += 1
        total = torch.stack([r.sum().float() * len(s) for r, s in found.values()]).sum()
        factor = to_mean_one(total, sum(len(r) * len(s) for r, s in found.values()))
        rate = 1.0 / min(self.seen, self.horizon)
        for name, (r, s) in found.items():
            new = (r.mul_(factor), s.mul_(factor))
            old = self._factors.get(name, new)
            self._factors[name] = (
                old[0].to(new[0]).lerp(new[0], rate),
                old[1].to(new[1]).lerp(new[1], rate),
            )

    def scores_of(self, anatomy: Anatomy) -> Callable[[Tensor], Tensor]:
        """A function: matrix -> score of each of its weights, a new tensor; 0 without a gradient.

        Args:
            anatomy: the model's blocks.
        """
        names = {matrix: name for name, matrix in _named(anatomy)}

        def score(w: Tensor) -> Tensor:
            nothing = (torch.zeros(w.shape[0]), torch.zeros(w.shape[1]))
            r, s = self._factors.get(names[w], nothing)
            return first_order_per_weight(w, r.to(w.device), s.to(w.device))

        return score

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state; the factors as safetensors in base64."""
        from safetensors.torch import save

        flat = {}
        for name, (r, s) in self._factors.items():
            flat[f"{name}.rows"], flat[f"{name}.columns"] = r.cpu(), s.cpu()
        return {"seen": self.seen, "factors": base64.b64encode(save(flat)).decode("ascii")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read what `state_dict` wrote; it moves to the model's device when it is used.

        Args:
            state: the state.
        """
        from safetensors.torch import load

        self.seen = int(state["seen"])
        flat = load(base64.b64decode(state["factors"]))
        names = {key.rpartition(".")[0] for key in flat}
        self._factors = {n: (flat[f"{n}.rows"], flat[f"{n}.columns"]) for n in sorted(names)}


def _named(anatomy: Anatomy) -> Iterator[tuple[str, Tensor]]:
    """The prunable matrices, with a name that a checkpoint can keep."""
    for block in anatomy.blocks():
        for number, matrix in enumerate(block.matrices()):
            yield f"{block.name}.{number}", matrix
