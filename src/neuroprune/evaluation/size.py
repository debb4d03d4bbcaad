"""How large a model is: parameters, both sparsities, bytes and FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from neuroprune.anatomy import Anatomy, AttentionBlock, MLPBlock, anatomy_of, stream_of
from neuroprune.anatomy.inputs import count_flops
from neuroprune.methods.costs import unit_counts, unit_parameters
from neuroprune.topology.sparsity import sparsity


@dataclass(frozen=True, kw_only=True)
class SizeReport:
    """A model's size, beside that of the dense model it came from.

    The denominator of both sparsities is `dense_weights`: the dense model's weights of q, k, v, o,
    up, gate and down, without biases, embeddings and head.

    Args:
        dense_parameters: all parameters of the dense model.
        parameters: all parameters of this one; shared ones count once.
        dense_weights: prunable weights of the dense model.
        kept_weights: prunable weights that are still stored.
        zero_weights: stored prunable weights that are exactly zero.
        weight_sparsity: share of `dense_weights` that is zero or removed.
        structural_sparsity: share of `dense_weights` that is removed.
        bytes_on_disk: size of all files of the saved directory, if one was given.
        flops: floating-point operations of one forward pass, if inputs were given.
    """

    dense_parameters: int
    parameters: int
    dense_weights: int
    kept_weights: int
    zero_weights: int
    weight_sparsity: float
    structural_sparsity: float
    bytes_on_disk: int | None = None
    flops: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; what was not measured is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def size_report(
    model: nn.Module,
    sample_inputs: Mapping[str, Tensor] | None = None,
    directory: Path | str | None = None,
) -> SizeReport:
    """Measure a model's size.

    Args:
        model: a transformers model of a declared family, dense or shrunk.
        sample_inputs: keyword arguments of a forward pass whose FLOPs are counted.
        directory: where the model was saved.

    Returns:
        The report.

    Raises:
        FileNotFoundError: there is no such directory.
        UnknownFamilyError: the model's family was not declared.

    Example:
        >>> size_report(model, directory="out/").structural_sparsity  # doctest: +SKIP
        0.42
    """
    anatomy = anatomy_of(model)
    counts = sparsity(anatomy)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return SizeReport(
        dense_parameters=parameters + removed_parameters(anatomy),
        parameters=parameters,
        dense_weights=counts.dense_weights,
        kept_weights=counts.kept_weights,
        zero_weights=counts.zero_weights,
        weight_sparsity=counts.weight_sparsity,
        structural_sparsity=counts.structural_sparsity,
        bytes_on_disk=None if directory is None else bytes_on_disk(directory),
        flops=None if sample_inputs is None else count_flops(model, sample_inputs),
    )


def removed_parameters(anatomy: Anatomy) -> int:
    """Parameters that went with removed heads, neurons, inputs and hidden dimensions, biases too.

    Args:
        anatomy: the model's blocks.
    """
    lineage = anatomy.lineage
    dense = {**lineage.heads, **lineage.neurons}
    counts = unit_counts(anatomy)
    removed = 0.0
    for block in anatomy.blocks():
        units = dense[block.name] - counts[block.name]
        removed += units * unit_parameters(block)
        for group, layers in block.readers().items():
            rows = sum(_rows_per_unit(block, layer, counts[block.name]) for layer in layers)
            removed += lineage.removed_inputs(block.name, group) * rows * dense[block.name]
    return round(removed) + _removed_hidden(anatomy)


def _rows_per_unit(block: AttentionBlock | MLPBlock, layer: nn.Linear, units: int) -> float:
    if units:
        return layer.weight.shape[0] / units
    if isinstance(block, MLPBlock):
        return 1
    return block.head_dim / (1 if layer is block.q_proj else block.group_size)


def _removed_hidden(anatomy: Anatomy) -> int:
    """Parameters that went with the hidden dimensions, of the units removed before included."""
    plan = anatomy.lineage.plan
    if not plan.remove_hidden:
        return 0
    stream, inside = stream_of(anatomy), set(anatomy.linears())
    rows = sum(e.num_embeddings for e in stream.embeddings) + 2 * len(stream.norms)
    rows += sum(r.out_features for r in stream.readers if r not in inside)
    rows += sum(w.bias is not None for w in stream.writers)
    # Every unit of the dense model has the same weights in each dimension.
    weights = anatomy.dense_weights // (anatomy.lineage.width or 1)
    return (rows + weights) * len(plan.remove_hidden)


def bytes_on_disk(directory: Path | str) -> int:
    """Size of all files in a directory, subdirectories included, in bytes.

    Args:
        directory: where a model was saved.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory: save the model there first.")
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


__all__ = ["SizeReport", "bytes_on_disk", "count_flops", "removed_parameters", "size_report"]
