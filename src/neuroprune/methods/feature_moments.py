"""Second moments of what enters output layers, gathered while training."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.anatomy import Anatomy
from neuroprune.core.connectivity import accumulation_dtype
from neuroprune.errors import ConfigError
from neuroprune.methods.training_passes import TrainingPasses
from neuroprune.methods.units import Block, fan_out


class FeatureMoments:
    """Running second moments of what enters output layers: G = E[x x^T] over positions.

        G <- G + (x^T x / rows - G) / min(n, batches),   n = batches taken in so far

    Only forward passes of a training step count (training mode, gradients on), of those one in
    `every`, beginning after the first `first`, and of that at most `rows` positions, drawn at
    random: x^T x of every output layer at all positions is about half the arithmetic of a training
    step, and is taken in float32 where training may be in bfloat16. Padding counts like any other
    position.
    Batches with infinities or NaN are passed over. Under data parallelism every process sees its
    own batches: average `gram` over the processes before deciding by it.

    Args:
        every: forward passes per pass that is taken in.
        batches: passes that the running mean remembers.
        rows: positions taken in of one pass.

    Raises:
        ConfigError: a setting is not a positive integer.

    Example:
        >>> moments = FeatureMoments()
        >>> moments.attach(anatomy)  # doctest: +SKIP
        >>> moments.gram(anatomy.attentions[0].o_proj)  # doctest: +SKIP
    """

    def __init__(self, every: int = 50, batches: int = 16, rows: int = 2048) -> None:
        for name, value in (("every", every), ("batches", batches), ("rows", rows)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a positive integer, got {value!r}.")
        self.every = every
        self.batches = batches
        self.rows = rows
        self.paused = False  # while it is, passes are neither taken in nor counted
        self._passes = TrainingPasses()
        self._names: dict[nn.Linear, str] = {}  # of the blocks, for a checkpoint
        self._calls: dict[nn.Linear, int] = {}
        self._taken: dict[nn.Linear, int] = {}
        self._moments: dict[nn.Linear, Tensor] = {}
        self._hooks: dict[nn.Linear, Any] = {}

    def watch(self, linears: Iterable[nn.Linear]) -> None:
        """Begin to watch layers; those already watched are left as they are.

        Args:
            linears: layers whose inputs are measured.
        """
        for linear in linears:
            if linear not in self._hooks:
                self._hooks[linear] = linear.register_forward_pre_hook(self._take_in)

    def attach(self, anatomy: Anatomy, mlps: bool = True) -> None:
        """Begin to watch the output layers of a model's blocks.

        Args:
            anatomy: the model's blocks.
            mlps: False to watch the attentions alone; a d_ff x d_ff matrix per MLP is saved.
        """
        blocks: tuple[Block, ...] = (*anatomy.attentions, *(anatomy.mlps if mlps else ()))
        self._passes.of(anatomy.model)
        self._names.update((fan_out(block), block.name) for block in blocks)
        self.watch(self._names)

    def check_seen(self, what: str) -> None:
        """See, once per optimizer step, that the training runs in training mode.

        Args:
            what: what the moments are for.

        Raises:
            ConfigError: no forward pass of the step was one of training.
        """
        if any(linear.in_features for linear in self._hooks):
            self._passes.check_(what)

    def gram(self, linear: nn.Linear) -> Tensor | None:
        """The second moment of a layer's input, shape (in, in), float32 or wider.

        Args:
            linear: a watched layer.

        Returns:
            The running mean itself, not a copy; None where nothing was seen since the layer got
            its present width.
        """
        moments = self._moments.get(linear)
        return None if moments is None or len(moments) != linear.in_features else moments

    def forget(self) -> None:
        """After a cut: begin anew with the next forward pass. The layers stay watched."""
        self._calls.clear()
        self._taken.clear()
        self._moments.clear()

    def keep(self, linear: nn.Linear, columns: Tensor) -> None:
        """After a cut: what was seen of the features that stay is kept.

        Args:
            linear: a watched layer.
            columns: its input features that stay, int64.
        """
        moments = self._moments.get(linear)
        if moments is not None:
            columns = columns.to(moments.device)
            self._moments[linear] = moments[columns][:, columns]

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state of the blocks watched by `attach`; the moments as safetensors in base64.

        Of a moment the upper triangle is kept: 2 n^2 bytes for n features in float32, a third more
        in base64. That is 19 MB for the attentions of BERT-base.
        """
        from safetensors.torch import save

        upper = {}
        for linear, name in self._names.items():
            if linear in self._moments:
                moments = self._moments[linear].cpu()
                upper[name] = moments[_upper(len(moments))]
        return {
            "every": self.every,
            "calls": {name: self._calls.get(x, 0) for x, name in self._names.items()},
            "taken": {name: self._taken.get(x, 0) for x, name in self._names.items()},
            "moments": base64.b64encode(save(upper)).decode("ascii"),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read what `state_dict` wrote, for the same blocks.

        Args:
            state: the state.
        """
        from safetensors.torch import load

        self.forget()
        self.every = int(state["every"])
        upper = load(base64.b64decode(state["moments"]))
        for linear, name in self._names.items():
            self._calls[linear] = int(state["calls"].get(name, 0))
            self._taken[linear] = int(state["taken"].get(name, 0))
            if name in upper:
                moments = _mirrored(upper[name])
                self._moments[linear] = moments.to(linear.weight.device)

    def remove(self) -> None:
        """Stop watching, and forget."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()
        self._names.clear()
        self.forget()

    def _take_in(self, linear: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(linear, nn.Linear)
        training = self._passes.counts(linear)
        if self.paused or not (training and torch.is_grad_enabled()) or not args:
            return
        x = args[0]
        # An attention without heads is fed a placeholder that it does not read.
        if not isinstance(x, Tensor) or x.numel() == 0 or x.shape[-1] != linear.in_features:
            return
        calls = self._calls.get(linear, 0)
        self._calls[linear] = calls + 1
        if calls % self.every == 0:
            rows = x.detach().reshape(-1, x.shape[-1])
            if len(rows) > self.rows:
                # Of its own generator: watching a model must not change how it is trained.
                own = torch.Generator().manual_seed(calls)
                chosen = torch.randperm(len(rows), generator=own)[: self.rows]
                rows = rows[chosen.to(rows.device)]
            self._average(linear, rows)

    @torch.no_grad()
    def _average(self, linear: nn.Linear, rows: Tensor) -> None:
        rows = rows.to(accumulation_dtype(rows.dtype))
        with torch.autocast(rows.device.type, enabled=False):  # or the product is in bfloat16
            batch = rows.T @ rows / len(rows)
        # Symmetric but for rounding; made so exactly, since a checkpoint holds one triangle.
        batch = batch.triu() + batch.triu(1).T
        if not bool(batch.isfinite().all()):
            return
        old = self.gram(linear)
        taken = 1 if old is None else self._taken[linear] + 1
        self._taken[linear] = taken
        rate = 1.0 / min(taken, self.batches)
        self._moments[linear] = batch if old is None else old.lerp_(batch, rate)


def _upper(size: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the upper triangle of a square matrix."""
    rows, columns = torch.triu_indices(size, size)
    return rows, columns


def _mirrored(upper: Tensor) -> Tensor:
    """The symmetric matrix with this upper triangle, of n (n + 1) / 2 entries."""
    size = (math.isqrt(8 * len(upper) + 1) - 1) // 2
    rows, columns = _upper(size)
    matrix = upper.new_empty(size, size)
    matrix[rows, columns] = upper
    matrix[columns, rows] = upper
    return matrix
