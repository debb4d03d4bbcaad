"""Where gates act: in front of the layers that read the units, and behind the norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.anatomy import Stream
from neuroprune.config import ConfigError
from neuroprune.core.importance import first_order_per_unit
from neuroprune.methods.units import Block, fan_out, unit_number, unit_width


class GateHooks:
    """Multiplies units by gates, in front of the layer that reads them.

    A gate stands on every head (group of heads that share keys and values) and neuron. It acts on
    the input of the output layer, whatever computed it. In training mode the sampled gates act and
    gather gradients, over all forward passes of a step; in eval mode the fixed ones act.
    """

    def __init__(self) -> None:
        self._hooks: list[Any] = []
        self._blocks: tuple[Block, ...] = ()
        self._sampled: dict[str, Tensor] = {}
        self._fixed: dict[str, Tensor] = {}

    @property
    def attached(self) -> bool:
        """Whether the gates act."""
        return bool(self._hooks)

    def set_(self, blocks: Sequence[Block], sampled: Tensor, fixed: Tensor) -> None:
        """Let these gates act from now on; gradients gathered before are dropped.

        Args:
            blocks: blocks with units.
            sampled: gates of training mode, block after block, shape (units,).
            fixed: gates of eval mode, likewise.
        """
        self._blocks = tuple(blocks)
        sizes = [unit_number(b) for b in blocks]
        # Leaves of their own: every micro-batch runs its own backward, which must end here.
        for block, own, other in zip(blocks, sampled.split(sizes), fixed.split(sizes), strict=True):
            self._sampled[block.name] = own.detach().clone().requires_grad_()
            self._fixed[block.name] = other.detach().clone()
        if not self._hooks:
            for block in blocks:
                hook = partial(self._multiply, block.name, unit_width(block))
                self._hooks.append(fan_out(block).register_forward_pre_hook(hook))

    def closes(self, name: str) -> bool:
        """Whether the gates of this step shut out all units of a block.

        Args:
            name: of the block.
        """
        return self.attached and name in self._sampled and not bool(self._sampled[name].any())

    def detach(self) -> None:
        """Take the gates away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _multiply(
        self, name: str, width: int, layer: nn.Module, args: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        x: Tensor = args[0]
        gate = (self._sampled if layer.training else self._fixed)[name].to(x.device)
        if width > 1:
            gate = gate.repeat_interleave(width)
        return ((x * gate).to(x.dtype), *args[1:])  # multiplied in the wider type of the two

    def gradient(self) -> Tensor:
        """Gradient of the task loss with respect to the sampled gates, shape (units,).

        Raises:
            ConfigError: no forward pass in training mode went through a gate.
        """
        if all(g.grad is None for g in self._sampled.values()):
            raise ConfigError(
                "the gates had no say in this step: no gradient came through them. Train in "
                "training mode: call model.train() before the forward pass."
            )
        gates = (self._sampled[b.name] for b in self._blocks)
        return torch.cat([torch.zeros_like(g) if g.grad is None else g.grad for g in gates])

    @torch.no_grad()
    def carried_scale(self) -> float:
        """By how much the gates' gradients are larger than what the weights' have become.

            sum_j w_uj dL/dw_uj = z_u dL/dz_u,   j over the outgoing weights of unit u

        holds after the backward pass. What was done to the weights' gradients since then, by a
        gradient scaler that divides by its scale or by clipping, has to be done to the gates', too.

        Returns:
            The ratio of the norms of both sides, >= 1; 1 where it cannot be told.
        """
        ours = theirs = torch.zeros(())
        for block in self._blocks:
            gate, weight = self._sampled[block.name], fan_out(block).weight
            if gate.grad is not None and weight.grad is not None:
                ours = ours.to(gate.device) + (gate * gate.grad).square().sum()
                score = first_order_per_unit(weight, weight.grad, unit_width(block))
                theirs = theirs.to(score.device) + score.sum()
        squared = float(ours) / float(theirs) if float(theirs) > 0 else 1.0
        return squared**0.5 if 1.0 < squared < float("inf") else 1.0


@torch.no_grad()
def fold_(blocks: Sequence[Block], gates: Tensor) -> None:
    """Write gates into the weights that read the units: their columns are multiplied.

    Args:
        blocks: blocks with units.
        gates: block after block, shape (units,).
    """
    parts = gates.split([unit_number(b) for b in blocks])
    for block, gate in zip(blocks, parts, strict=True):
        weight = fan_out(block).weight
        weight.mul_(gate.to(weight.device, weight.dtype).repeat_interleave(unit_width(block)))


@dataclass(frozen=True)
class _Gates:
    """Gates of one mode, and the dimensions that are open where not all are."""

    values: Tensor
    open: Tensor | None

    @classmethod
    def of(cls, values: Tensor) -> _Gates:
        index = (values.detach() > 0).nonzero().squeeze(1)
        return cls(values, None if len(index) == len(values) else index)


class StreamHooks:
    """Multiplies hidden dimensions by gates, where norms write them: z_k behind every norm.

        O = { k : z_k > 0 },   h_k = z_k * (g_k * (x_k - mean_O x) / sqrt(var_O x + eps) + b_k)

    for k in O, and h_k = 0 elsewhere: the norm is taken over the open dimensions. So a model
    without the others, with z multiplied into g and b, does the same. In training mode the sampled
    gates act and gather gradients; in eval mode the fixed ones act. (The original's code multiplies
    by z what is added to x, too.)

    Args:
        stream: the model's residual stream.

    Reference: Xia, Zhong and Chen (2022), arXiv 2204.00408, section 3.1 and the authors' code.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._hooks: list[Any] = []
        nothing = torch.zeros(0)
        self._sampled = self._fixed = _Gates(nothing, None)

    @property
    def width(self) -> int:
        """Hidden dimensions: d."""
        return self._stream.width

    def set_(self, sampled: Tensor, fixed: Tensor) -> None:
        """Let these gates act from now on; gradients gathered before are dropped.

        Args:
            sampled: gates of training mode, shape (d,).
            fixed: gates of eval mode, shape (d,).
        """
        self._sampled = _Gates.of(sampled.detach().clone().requires_grad_())
        self._fixed = _Gates.of(fixed.detach().clone())
        if not self._hooks:
            self._hooks = [n.register_forward_hook(self._gate) for n in self._stream.norms]

    def detach(self) -> None:
        """Take the gates away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _gate(self, norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        assert isinstance(norm, nn.LayerNorm)
        gates = self._sampled if norm.training else self._fixed
        z = gates.values.to(output.device)
        # Where all are closed there is nothing to take a norm over: every dimension is 0.
        if gates.open is None or not len(gates.open):
            return (output * z).to(output.dtype)  # multiplied in the wider type of the two
        index = gates.open.to(output.device)
        x, weight, bias = args[0][..., index], norm.weight[index], norm.bias[index]
        normed = nn.functional.layer_norm(x, (len(index),), weight, bias, norm.eps) * z[index]
        closed = normed.new_zeros(output.shape)
        return closed.index_copy(-1, index, normed).to(output.dtype)

    def gradient(self) -> Tensor:
        """Gradient of the task loss with respect to the sampled gates, shape (d,)."""
        z = self._sampled.values
        return torch.zeros_like(z) if z.grad is None else z.grad

    @torch.no_grad()
    def fold_(self, gates: Tensor) -> None:
        """Write gates into the norms: g and b of every norm are multiplied.

        Args:
            gates: shape (d,).
        """
        for norm in self._stream.norms:
            for parameter in (norm.weight, norm.bias):
                parameter.mul_(gates.to(parameter.device, parameter.dtype))
