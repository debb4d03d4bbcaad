"""The residual stream of a model: every layer that writes a hidden dimension or reads one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from neuroprune.anatomy.blocks import Anatomy
from neuroprune.anatomy.patterns import AnatomyError, StreamPattern, linear_at, matched_paths
from neuroprune.anatomy.registry import families_with_streams, family_of


@dataclass(frozen=True)
class Stream:
    """What a hidden dimension consists of, in a model with norms behind its blocks.

    Args:
        embeddings: they write the stream; column k of each weight is dimension k.
        norms: every hidden state is what one of them returns; entry k of each is dimension k.
        readers: column k of each weight reads dimension k: q, k, v, up, gate, and what the model's
            head has.
        writers: row k of each weight, and of the bias, writes dimension k: o and down.
    """

    embeddings: tuple[nn.Embedding, ...]
    norms: tuple[nn.LayerNorm, ...]
    readers: tuple[nn.Linear, ...]
    writers: tuple[nn.Linear, ...]

    @property
    def width(self) -> int:
        """Hidden dimensions, read off the weights."""
        return int(self.norms[0].weight.shape[0])


def stream_of(anatomy: Anatomy) -> Stream:
    """The residual stream of a model, as its family declares it.

    Args:
        anatomy: the model's blocks.

    Raises:
        AnatomyError: the family does not declare its stream, the model's head is not declared, or
            the model has layers that the declaration does not know.
    """
    family, model, root = family_of(anatomy.model), anatomy.model, anatomy.root
    pattern = family.stream
    if pattern is None:
        raise AnatomyError(
            f"the residual stream of {family.model_type!r} models is not declared, so that hidden "
            f"dimensions cannot be removed. Families with one: {', '.join(families_with_streams())}"
            " (docs/adding_a_family.md)."
        )
    name = type(model).__name__
    if name not in pattern.heads or any(block.is_cross for block in anatomy.attentions):
        what = "cross-attention reads another stream" if name in pattern.heads else "not declared"
        raise AnatomyError(
            f"what reads the hidden dimensions of a {name} is not known ({what}), so that none can "
            f"be removed. Heads that are declared: {', '.join(pattern.heads)} "
            "(docs/adding_a_family.md)."
        )
    embeddings = tuple(_found(root, path, nn.Embedding) for path in pattern.embeddings)
    norms = tuple(
        _found(root, path, nn.LayerNorm)
        for entry in pattern.norms
        for path in (matched_paths(root, entry) if "*" in entry else [entry])
    )
    _check_complete(root, pattern, {*embeddings, *norms})
    present = {path for path, _ in root.named_modules()}
    outside = [linear_at(root, path) for path in pattern.readers if path in present]
    outside += [linear_at(model, path) for path in pattern.heads[name]]
    readers: list[nn.Linear] = []
    writers: list[nn.Linear] = []
    for block in anatomy.blocks():
        *reads, write = block.linears()
        readers += reads
        writers.append(write)
    return Stream(embeddings, norms, (*readers, *outside), tuple(writers))


def _found(root: nn.Module, path: str, kind: type[Any]) -> Any:
    try:
        module = root.get_submodule(path)
    except AttributeError as error:
        raise AnatomyError(f"expected {kind.__name__} at {path!r}, found nothing.") from error
    whole = {"weight", "bias"} if kind is nn.LayerNorm else {"weight"}
    parameters = {name for name, p in module._parameters.items() if p is not None}
    if type(module) is not kind or not whole <= parameters:
        raise AnatomyError(
            f"expected a plain nn.{kind.__name__} with {' and '.join(sorted(whole))} at {path!r}, "
            f"got {type(module).__name__}."
        )
    return module


def _check_complete(root: nn.Module, pattern: StreamPattern, known: set[nn.Module]) -> None:
    """Refuse norms and embeddings that the declaration does not name: they would keep the width."""
    strange = [
        path
        for path, module in root.named_modules()
        if isinstance(module, nn.Embedding | nn.LayerNorm) and module not in known
    ]
    if strange:
        raise AnatomyError(
            f"{', '.join(strange)}: not in the declaration of this family's residual stream, which "
            f"names {', '.join((*pattern.embeddings, *pattern.norms))}. Declare the model as it is "
            "(docs/adding_a_family.md)."
        )
