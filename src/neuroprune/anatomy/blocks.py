"""The two kinds of block a transformer is pruned in, and the matrix views of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuroprune.anatomy.patterns import AnatomyError
from neuroprune.lineage import Lineage


@dataclass(frozen=True)
class AttentionBlock:
    """One multi-head attention: four linear layers and the module that runs them.

    Args:
        name: dotted path inside the family's root module.
        q_proj: reads the queries' space, weight (num_heads * head_dim, d).
        k_proj: reads the keys' space, weight (num_kv_heads * head_dim, d).
        v_proj: reads the values' space, weight (num_kv_heads * head_dim, d).
        o_proj: reads the heads, weight (d, num_heads * head_dim).
        head_dim: features per head.
        is_cross: True where queries and keys/values read different spaces.
        owner: the module whose forward runs the attention.
        head_attributes: attributes of `owner` that hold the number of heads.
        width_attributes: attributes of `owner` that hold num_heads * head_dim.
        shares_position_bias: True where a bias per head of the dense model is handed to this block.
        is_rotary: True where queries and keys are rotated by their positions.
        group_attribute: attribute of `owner` that holds `group_size`; None where there is none.
        empty_group_size: `group_size` for a block without heads, whose weights do not tell it.
    """

    name: str
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear
    head_dim: int
    is_cross: bool
    owner: nn.Module
    head_attributes: tuple[str, ...] = ()
    width_attributes: tuple[str, ...] = ()
    shares_position_bias: bool = False
    is_rotary: bool = False
    group_attribute: str | None = None
    empty_group_size: int = 1

    @property
    def num_heads(self) -> int:
        """Number of query heads, read off the weights."""
        return self.q_proj.weight.shape[0] // self.head_dim

    @property
    def num_kv_heads(self) -> int:
        """Number of key/value heads, read off the weights."""
        return self.k_proj.weight.shape[0] // self.head_dim

    @property
    def group_size(self) -> int:
        """Query heads that share one key/value head; 1 where each has its own."""
        kv_heads = self.num_kv_heads
        return self.num_heads // kv_heads if kv_heads else self.empty_group_size

    @property
    def weights_per_group(self) -> int:
        """Weights (no biases) of heads that stand or fall together: q, k, v rows, W_O columns.

        Of the matrices as they stand: rows of inputs that were removed are shorter.
        """
        own = self.q_proj.weight.shape[1] + self.o_proj.weight.shape[0]
        shared = self.k_proj.weight.shape[1] + self.v_proj.weight.shape[1]
        return self.head_dim * (self.group_size * own + shared)

    @property
    def weights_per_head(self) -> float:
        """Weights that go with one query head; of shared keys and values it has its part."""
        return self.weights_per_group / self.group_size

    def matrices(self) -> tuple[Tensor, ...]:
        """The weights of q, k, v and o."""
        return tuple(layer.weight for layer in self.linears())

    def linears(self) -> tuple[nn.Linear, ...]:
        """The layers q, k, v and o."""
        return (self.q_proj, self.k_proj, self.v_proj, self.o_proj)

    def input_groups(self) -> tuple[tuple[Tensor, ...], ...]:
        """The stored matrices whose column i, together, is all that reads input dimension i.

        Self-attention has one group, (q, k, v); cross-attention two, (q,) and (k, v). Transposed
        (a view), they are the parts of A = [Q, K, V] that `attention_penalty` takes; they are not
        concatenated, which would copy them.
        """
        return tuple(tuple(p.weight for p in group) for group in self.readers().values())

    def readers(self) -> dict[str, tuple[nn.Linear, ...]]:
        """The layers of each input group, by the group's name in a plan."""
        q, k, v = self.q_proj, self.k_proj, self.v_proj
        return {"q": (q,), "kv": (k, v)} if self.is_cross else {"qkv": (q, k, v)}

    def heads(self) -> Tensor:
        """Weight blocks A_H = [Q_H, K_H, V_H], one flattened row per head, shape (k, features).

        Weights only. A query head that shares its keys and values is given its group's.
        """
        k = self.num_heads
        rows = []
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            weight = projection.weight.detach()
            owned = weight.shape[0] // self.head_dim
            per_head = weight.reshape(owned, self.head_dim * weight.shape[1])
            if per_head.shape[0] != k:
                per_head = per_head.repeat_interleave(k // per_head.shape[0], dim=0)
            rows.append(per_head)
        return torch.cat(rows, dim=1)


@dataclass(frozen=True)
class MLPBlock:
    """One feed-forward network, plain or gated.

    plain: down(act(up(x)));  gated: down(act(gate(x)) * up(x)).

    Args:
        name: dotted path inside the family's root module.
        up_proj: weight (d_ff, d).
        down_proj: weight (d, d_ff).
        gate_proj: weight (d_ff, d), or None where the network is plain.
        activation: the nonlinearity act.
    """

    name: str
    up_proj: nn.Linear
    down_proj: nn.Linear
    gate_proj: nn.Linear | None
    activation: Callable[[Tensor], Tensor]

    @property
    def d_ff(self) -> int:
        """Number of neurons, read off the weights."""
        return self.up_proj.weight.shape[0]

    @property
    def weights_per_neuron(self) -> int:
        """Weights (no biases) that go with one neuron: its rows of up and gate, column of down.

        Of the matrices as they stand: rows of inputs that were removed are shorter.
        """
        return sum(p.weight.shape[1] for p in self.fan_in()) + self.down_proj.weight.shape[0]

    def fan_in(self) -> tuple[nn.Linear, ...]:
        """The layers whose row n feeds neuron n: up, and gate where there is one."""
        return (self.up_proj,) if self.gate_proj is None else (self.up_proj, self.gate_proj)

    def readers(self) -> dict[str, tuple[nn.Linear, ...]]:
        """The layers of the one input group, by its name in a plan."""
        return {"up": self.fan_in()}

    def matrices(self) -> tuple[Tensor, ...]:
        """The weights of up, gate (if any) and down."""
        return tuple(layer.weight for layer in self.linears())

    def linears(self) -> tuple[nn.Linear, ...]:
        """The layers up, gate (if any) and down."""
        return (*self.fan_in(), self.down_proj)


def input_widths(block: AttentionBlock | MLPBlock) -> dict[str, int]:
    """Input dimensions that each group of a block's matrices reads, read off the weights.

    Args:
        block: the block.

    Raises:
        AnatomyError: matrices of one group read different numbers of them.
    """
    widths = {}
    for group, layers in block.readers().items():
        found = {layer.weight.shape[1] for layer in layers}
        if len(found) != 1:
            raise AnatomyError(
                f"the layers {group!r} of {block.name!r} share their input, but their weights have "
                f"{sorted(found)} columns. Was one of them changed by hand?"
            )
        widths[group] = found.pop()
    return widths


@dataclass(frozen=True)
class Anatomy:
    """Every prunable block of a model, in order of depth.

    Args:
        model_type: the family's key, `config.model_type`.
        model: the whole model, with its head.
        root: the module that the block names are relative to.
        attentions: attention blocks.
        mlps: MLP blocks.
        lineage: where the units came from, and the dense sizes.
    """

    model_type: str
    model: nn.Module
    root: nn.Module
    attentions: tuple[AttentionBlock, ...]
    mlps: tuple[MLPBlock, ...]
    lineage: Lineage

    def blocks(self) -> Iterator[AttentionBlock | MLPBlock]:
        """All blocks, attention first."""
        yield from self.attentions
        yield from self.mlps

    def linears(self) -> Iterator[nn.Linear]:
        """Every prunable layer, in the order of `matrices`."""
        for block in self.blocks():
            yield from block.linears()

    def matrices(self) -> Iterator[Tensor]:
        """Every prunable weight matrix: q, k, v, o, up, gate, down."""
        for block in self.blocks():
            yield from block.matrices()

    @property
    def kept_weights(self) -> int:
        """Prunable weights that are still stored, zeros included."""
        return sum(matrix.numel() for matrix in self.matrices())

    @property
    def structural_sparsity(self) -> float:
        """Share of the dense model's prunable weights that is physically removed."""
        return 1.0 - self.kept_weights / self.dense_weights

    @property
    def dense_weights(self) -> int:
        """Prunable weights of the dense model: the denominator of both sparsities."""
        return sum(map(self.dense_weights_of, self.blocks()))

    def dense_weights_of(self, block: AttentionBlock | MLPBlock) -> int:
        """Prunable weights that a block has in the dense model: its units, at the dense width.

        Args:
            block: the block as it stands.
        """
        removed = {
            layer: self.lineage.removed_inputs(block.name, group)
            for group, layers in block.readers().items()
            for layer in layers
        }
        if isinstance(block, AttentionBlock):
            size = block.group_size
            rows = sum(n * (size if p is block.q_proj else 1) for p, n in removed.items())
            per_group = block.weights_per_group + block.head_dim * rows
            weights = self.lineage.heads[block.name] // size * per_group
        else:
            per_neuron = block.weights_per_neuron + sum(removed.values())
            weights = self.lineage.neurons[block.name] * per_neuron
        if not self.lineage.plan.remove_hidden:
            return weights
        # Every matrix of a block has one side that is the stream's width.
        return weights * (self.lineage.width or 0) // len(self.lineage.kept_hidden())
