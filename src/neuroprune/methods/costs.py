"""What a model costs by its numbers of units: weights, parameters, operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from neuroprune.anatomy import Anatomy, AttentionBlock, MLPBlock
from neuroprune.anatomy.inputs import count_flops, sample_inputs
from neuroprune.control.cost import CostModel, Curve
from neuroprune.methods.dense import dense_counts, dense_twin


def unit_counts(anatomy: Anatomy) -> dict[str, int]:
    """Units of every block: query heads and neurons.

    Args:
        anatomy: the model's blocks.
    """
    heads = {b.name: b.num_heads for b in anatomy.attentions}
    return heads | {b.name: b.d_ff for b in anatomy.mlps}


def weight_cost(anatomy: Anatomy) -> CostModel:
    """Prunable weights: those of q, k, v, o, up, gate and down, no biases.

    Args:
        anatomy: the model's blocks.
    """
    curves = {b.name: Curve.linear(b.num_heads, b.weights_per_head) for b in anatomy.attentions}
    curves |= {b.name: Curve.linear(b.d_ff, b.weights_per_neuron) for b in anatomy.mlps}
    return CostModel("weights", 0.0, curves)


def parameter_cost(anatomy: Anatomy, model: nn.Module) -> CostModel:
    """All parameters of a model, embeddings, biases and head included, shared ones once.

    Args:
        anatomy: the model's blocks.
        model: the whole model.
    """
    counts = unit_counts(anatomy)
    curves = {b.name: Curve.linear(counts[b.name], unit_parameters(b)) for b in anatomy.blocks()}
    return _with_fixed("parameters", sum(p.numel() for p in model.parameters()), curves, counts)


def unit_parameters(block: AttentionBlock | MLPBlock) -> float:
    """Parameters that go with one query head or neuron, biases of its rows included.

    A head that shares its keys and values has its part of them.

    Args:
        block: the block.
    """
    if isinstance(block, MLPBlock):
        return float(block.weights_per_neuron + sum(p.bias is not None for p in block.fan_in()))
    rows = float(block.q_proj.weight.shape[1] + (block.q_proj.bias is not None))
    for layer in (block.k_proj, block.v_proj):
        rows += _kv_share(block) * (layer.weight.shape[1] + (layer.bias is not None))
    return block.head_dim * (rows + block.o_proj.weight.shape[0])


def flops_cost(model: nn.Module, anatomy: Anatomy, batch: int, length: int) -> CostModel:
    """Floating-point operations of a forward pass, as `count_flops` counts them.

        neuron:  2 * (sum of n_l * d_l over up, gate and down)
        head:    2 * head_dim * (n_q d_q + n_k d_k + n_v d_v + n_o d_o)
                 + 4 * head_dim * n_q * n_k / batch

    n_l is the number of tokens that layer l is given in a pass, and d_l the width it reads (up,
    gate, q, k, v) or writes (down, o). The tokens are counted in the pass, since a decoder's
    queries and the keys of its cross-attention come from different sequences. An attention without
    heads runs on a placeholder, which costs it the second line of one head.

    Args:
        model: the whole model.
        anatomy: its blocks.
        batch: sequences of a pass.
        length: tokens per sequence, in encoder and decoder.
    """
    with _tokens(anatomy) as n:
        total = count_flops(model, sample_inputs(model, batch, length))
    curves = _flops_curves(anatomy, n, batch)
    return _with_fixed("FLOPs", total, curves, unit_counts(anatomy))


def dense_flops(model: nn.Module, anatomy: Anatomy, batch: int, length: int) -> float:
    """Floating-point operations that a pass of the dense model took, in the terms of `flops_cost`.

    Units and inputs that are gone are added to what the model as it stands is counted to take:
    exact, and without the dense model. Where hidden dimensions are gone, everything is narrower,
    and a model of the dense sizes is made and counted.

    Args:
        model: the whole model, cut before or not.
        anatomy: its blocks.
        batch: sequences of a pass.
        length: tokens per sequence, in encoder and decoder.

    Raises:
        ConfigError: hidden dimensions are gone, and the dense model cannot be made.
    """
    if anatomy.lineage.plan.remove_hidden:
        twin = dense_twin(model, anatomy)
        return float(count_flops(twin, sample_inputs(twin, batch, length)))
    with _tokens(anatomy) as n:
        total = count_flops(model, sample_inputs(model, batch, length))
    now = _with_fixed("FLOPs", total, _flops_curves(anatomy, n, batch), unit_counts(anatomy))
    wide = _flops_curves(anatomy, n, batch, dense=True)
    return CostModel("FLOPs", now.fixed, wide).kept(dense_counts(anatomy))


def _flops_curves(
    anatomy: Anatomy, n: Mapping[nn.Module, int], batch: int, dense: bool = False
) -> dict[str, Curve]:
    """Operations of every block, for the inputs that it reads, or read in the dense model."""
    curves = {}
    for block in anatomy.attentions:
        d = _widths(block, anatomy, dense)
        q, k, v, o = block.linears()
        own = n[q] * d[q] + n[o] * o.weight.shape[0]
        shared = n[k] * d[k] + n[v] * d[v]
        products = 4.0 * block.head_dim * n[q] * n[k] / batch
        one = 2.0 * block.head_dim * (own + _kv_share(block) * shared) + products
        heads = max(anatomy.lineage.heads[block.name], 1)
        points = {0: products, 1: one, heads: one * heads}
        curves[block.name] = Curve(tuple(points), tuple(points.values()))
    for mlp in anatomy.mlps:
        d = _widths(mlp, anatomy, dense)
        linear = sum(n[layer] * d[layer] for layer in mlp.fan_in())
        linear += n[mlp.down_proj] * mlp.down_proj.weight.shape[0]
        curves[mlp.name] = Curve.linear(mlp.d_ff, 2.0 * linear)
    return curves


def _widths(
    block: AttentionBlock | MLPBlock, anatomy: Anatomy, dense: bool
) -> dict[nn.Module, int]:
    """Input dimensions of every layer that reads the block's input."""
    gone = anatomy.lineage.removed_inputs
    return {
        layer: layer.weight.shape[1] + (gone(block.name, group) if dense else 0)
        for group, layers in block.readers().items()
        for layer in layers
    }


def _kv_share(block: AttentionBlock) -> float:
    """Key/value heads per query head."""
    return 1.0 / block.group_size


def _with_fixed(
    unit: str, total: int, curves: Mapping[str, Curve], counts: Mapping[str, int]
) -> CostModel:
    """The cost model that says `total` of the model as it stands."""
    return CostModel(unit, total - CostModel(unit, 0.0, curves).kept(counts), curves)


@contextmanager
def _tokens(anatomy: Anatomy) -> Iterator[Counter[nn.Module]]:
    """Count the tokens that every prunable layer is given; 0 where it is not run."""
    seen: Counter[nn.Module] = Counter()

    def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[module] += args[0].shape[:-1].numel()

    hooks = [layer.register_forward_pre_hook(count) for layer in anatomy.linears()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
