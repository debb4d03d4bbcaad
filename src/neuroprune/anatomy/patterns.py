"""Declarations of a family: dotted paths with one '*' for the layer number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn


class AnatomyError(ValueError):
    """A model does not look as its family was declared; the message says where."""


@dataclass(frozen=True)
class AttentionPattern:
    """Where the attentions of a family are.

    Args:
        path: dotted path of the block, one '*' for the layer number; also the block's name.
        q: path of the query layer, relative to `path`; likewise k, v, o.
        k: path of the key layer.
        v: path of the value layer.
        o: path of the output layer.
        owner: path, relative to `path`, of the module whose forward runs the attention.
        head_dim: attribute of `owner` that holds the features per head.
        head_attributes: attributes of `owner` that hold the number of heads.
        width_attributes: attributes of `owner` that hold heads * head_dim.
        is_cross: True for cross-attention.
        optional: True where a model of the family may lack these blocks.
        shares_position_bias: True where one block's position bias is handed to all others.
        is_rotary: True where queries and keys are rotated by their positions.
        group_attribute: attribute of `owner` that holds how many query heads share a key/value
            head.
    """

    path: str
    q: str
    k: str
    v: str
    o: str
    head_dim: str
    owner: str = ""
    head_attributes: tuple[str, ...] = ()
    width_attributes: tuple[str, ...] = ()
    is_cross: bool = False
    optional: bool = False
    shares_position_bias: bool = False
    is_rotary: bool = False
    group_attribute: str | None = None


@dataclass(frozen=True)
class MLPPattern:
    """Where the MLPs of a family are.

    Args:
        path: dotted path with one '*' of the module the roles are relative to.
        up: path of the layer into the neurons.
        down: path of the layer out of them.
        activation: path of the nonlinearity (a module or a callable attribute).
        gate: path of the gate layer; a family with both kinds declares two patterns.
        suffix: appended to the matched path to give the block's name.
        optional: True where a model of the family may lack these blocks.
    """

    path: str
    up: str
    down: str
    activation: str
    gate: str | None = None
    suffix: str = ""
    optional: bool = False


@dataclass(frozen=True)
class StreamPattern:
    """Where a family with norms behind its blocks writes and reads its residual stream.

    Every hidden state is what one of the norms returns; the blocks are declared already.

    Args:
        embeddings: paths of the embeddings, whose columns are hidden dimensions.
        norms: paths of the norms, with '*' for the layer number or without.
        width_key: config key of the hidden width.
        heads: name of a model class -> paths, in the whole model, of its layers that read the
            stream outside the blocks. A class that is not named is refused.
        readers: paths of such layers inside the root, such as a pooler; they may be absent.
    """

    embeddings: tuple[str, ...]
    norms: tuple[str, ...]
    width_key: str
    heads: Mapping[str, tuple[str, ...]]
    readers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One architecture: where its blocks are and how its config names their sizes.

    Args:
        model_type: `config.model_type`.
        attention: attention patterns.
        mlp: MLP patterns.
        heads_key: config key of the number of heads.
        d_ff_key: config key of the MLP width.
        fixed_head_dim: True where the stock model computes head_dim = hidden / heads, so that a
            config with fewer heads would describe other heads; MLP-only cuts can be expressed.
        kv_heads_key: config key of the number of key/value heads, where query heads may share
            them; None where the model has as many as query heads.
        position_bias: paths of the embeddings of shape (buckets, heads) shared by a stack.
        single_stack: True where one list of layers holds everything, which `per_layer_config` of
            transformers can describe.
        stream: where the residual stream is; None where its width cannot be cut.
    """

    model_type: str
    attention: tuple[AttentionPattern, ...]
    mlp: tuple[MLPPattern, ...]
    heads_key: str
    d_ff_key: str
    fixed_head_dim: bool = True
    kv_heads_key: str | None = None
    position_bias: tuple[str, ...] = ()
    single_stack: bool = True
    stream: StreamPattern | None = None

    def __post_init__(self) -> None:
        patterns: list[AttentionPattern | MLPPattern] = [*self.attention, *self.mlp]
        for pattern in patterns:
            if pattern.path.count("*") != 1:
                raise AnatomyError(
                    f"family {self.model_type!r}: the path {pattern.path!r} must hold exactly one "
                    "'*', which stands for the layer number."
                )


def find_root(model: nn.Module, family: Family) -> nn.Module:
    """The module that all of the family's paths are relative to: the model, or its body.

    Raises:
        AnatomyError: no module, or more than one, matches every required path.
    """
    patterns: list[AttentionPattern | MLPPattern] = [*family.attention, *family.mlp]
    names = [name for name, _ in model.named_modules()]
    prefixes = None
    for pattern in patterns:
        regex = re.compile(rf"(?:(.*)\.)?{_to_regex(pattern.path)}")
        found = {match.group(1) or "" for name in names if (match := regex.fullmatch(name))}
        if not found and not pattern.optional:
            raise AnatomyError(
                f"no module of this {family.model_type!r} model matches {pattern.path!r}. Was the "
                "model wrapped or renamed? See docs/adding_a_family.md to declare its layout."
            )
        if found:
            prefixes = found if prefixes is None else prefixes & found
    if not prefixes or len(prefixes) > 1:
        raise AnatomyError(
            f"the {family.model_type!r} layout matches at {sorted(prefixes or [])}; expected it "
            "exactly once. Pass the inner model that is to be pruned."
        )
    return model.get_submodule(prefixes.pop())


def matched_paths(root: nn.Module, path: str) -> list[str]:
    """Names of the modules of `root` that match `path`, by layer number."""
    regex = re.compile(_to_regex(path))
    found = [
        (int(m.group("layer")), n) for n, _ in root.named_modules() if (m := regex.fullmatch(n))
    ]
    return [name for _, name in sorted(found)]


def linear_at(root: nn.Module, path: str) -> nn.Linear:
    """The linear layer at `path`.

    Raises:
        AnatomyError: nothing is there, or it is not a plain linear layer.
    """
    try:
        module = root.get_submodule(path)
    except AttributeError as error:
        raise AnatomyError(f"expected a linear layer at {path!r}, found nothing.") from error
    if type(module).__name__ == "Conv1D":
        raise AnatomyError(
            f"{path!r} is a Conv1D, as GPT-2 has them: its weight is transposed, and its q, k and "
            "v are one matrix, which cannot be cut here. Take a model with a plain nn.Linear for "
            "each, such as OPT or Llama."
        )
    plain = isinstance(module, nn.Linear) and "weight" in module._parameters
    if not isinstance(module, nn.Linear) or not plain or not module.weight.is_floating_point():
        raise AnatomyError(
            f"expected an nn.Linear with floating-point weights at {path!r}, got "
            f"{type(module).__module__}.{type(module).__name__}. Merge adapters, de-quantise, and "
            "remove parametrisations (torch.nn.utils.prune.remove) before pruning."
        )
    return module


def has_modules(root: nn.Module, path: str, roles: Iterable[str]) -> bool:
    """Whether every role exists below `path`."""
    module = root.get_submodule(path)
    present = {name for name, _ in module.named_modules()}
    return all(role in present for role in roles)


def _to_regex(path: str) -> str:
    return re.escape(path).replace(r"\*", r"(?P<layer>\d+)")
