"""From a model to its `Anatomy`, by `config.model_type`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from neuroprune.anatomy.blocks import Anatomy, AttentionBlock, MLPBlock, input_widths
from neuroprune.anatomy.patterns import (
    AnatomyError,
    AttentionPattern,
    Family,
    MLPPattern,
    find_root,
    has_modules,
    linear_at,
    matched_paths,
)
from neuroprune.lineage import Lineage

_FAMILIES: dict[str, Family] = {}
# Classes that wrap a model so that its parameters or its forward are no longer its own.
_WRAPPERS = {
    "DataParallel",
    "DistributedDataParallel",
    "FullyShardedDataParallel",
    "FSDPModule",
    "OptimizedModule",
    "DeepSpeedEngine",
}


class UnknownFamilyError(AnatomyError):
    """The model's type has not been declared."""


class WrappedModelError(AnatomyError):
    """The model is wrapped (data parallel, sharded or compiled) and cannot be cut safely."""


def register_family(family: Family) -> Family:
    """Declare where the blocks of an architecture are. Later declarations replace earlier ones.

    Args:
        family: the declaration; its `model_type` is the key.

    Returns:
        The family, so that the call can be the module's one statement.

    Example: see docs/adding_a_family.md.
    """
    _FAMILIES[family.model_type] = family
    return family


def family_of(model: nn.Module) -> Family:
    """The declaration that fits `model.config.model_type`.

    Raises:
        UnknownFamilyError: the model has no config, or its type was not declared.
    """
    import neuroprune.anatomy.families  # noqa: F401  (declares the families that ship)

    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type not in _FAMILIES:
        raise UnknownFamilyError(
            f"model type {model_type!r} of {type(model).__name__} is not known. Known: "
            f"{', '.join(sorted(_FAMILIES))}. To add one, declare a Family and pass it to "
            "neuroprune.anatomy.register_family (docs/adding_a_family.md)."
        )
    return _FAMILIES[model_type]


def families_with_streams() -> dict[str, Family]:
    """Model type -> family, for those that declare their residual stream."""
    import neuroprune.anatomy.families  # noqa: F401  (declares the families that ship)

    return {name: _FAMILIES[name] for name in sorted(_FAMILIES) if _FAMILIES[name].stream}


def anatomy_of(model: nn.Module) -> Anatomy:
    """Every attention and MLP block of a model, with any head or none.

    Args:
        model: a transformers model of a declared family, not wrapped.

    Returns:
        The blocks, named by their dotted path inside the family's root module.

    Raises:
        UnknownFamilyError: the model's type was not declared.
        WrappedModelError: the model is wrapped; the message names the remedy.
        AnatomyError: the model does not look as its family was declared.

    Example:
        >>> [block.name for block in anatomy_of(model).attentions]  # doctest: +SKIP
        ['encoder.layer.0.attention', 'encoder.layer.1.attention', ...]
    """
    refuse_wrapped(model)
    family = family_of(model)
    root = find_root(model, family)
    shared = _group_size(root, family)
    attentions = tuple(b for p in family.attention for b in _attentions(root, p, shared))
    mlps = tuple(b for p in family.mlp for b in _mlps(root, p))
    if not attentions or not mlps:
        raise AnatomyError(
            f"found {len(attentions)} attention and {len(mlps)} MLP blocks in this "
            f"{family.model_type!r} model; expected some of both (docs/adding_a_family.md)."
        )
    order = {name: i for i, (name, _) in enumerate(root.named_modules())}
    attentions = tuple(sorted(attentions, key=lambda b: order[b.name]))
    lineage = _lineage(family, root, attentions, mlps)
    return Anatomy(family.model_type, model, root, attentions, mlps, lineage)


def refuse_wrapped(model: nn.Module) -> None:
    """Refuse a model whose parameters are not its own to replace.

    Raises:
        WrappedModelError: with the remedy.
    """
    for kind in type(model).__mro__:
        if kind.__name__ in _WRAPPERS:
            raise WrappedModelError(
                f"the model is wrapped in {kind.__name__}. Pass the inner model "
                "(accelerator.unwrap_model(model), model.module or model._orig_mod) on one device, "
                "and wrap or compile it when pruning has finished."
            )
    for module in model.modules():
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        if not compiled and type(module).__name__ != "OptimizedModule":
            continue
        raise WrappedModelError(
            "the model, or a part of it, was compiled in place. Prune first, "
            "compile after finish()."
        )


def _group_size(root: Any, family: Family) -> int:
    """Query heads per key/value head, as the config has it: what an emptied attention had."""
    if family.kv_heads_key is None:
        return 1
    heads, shared = (getattr(root.config, k) for k in (family.heads_key, family.kv_heads_key))
    return int(heads) // max(int(shared or heads), 1) or 1


def _attentions(root: nn.Module, pattern: AttentionPattern, shared: int) -> list[AttentionBlock]:
    blocks = []
    for name in matched_paths(root, pattern.path):
        owner = root.get_submodule(f"{name}.{pattern.owner}" if pattern.owner else name)
        q, k, v, o = (
            linear_at(root, f"{name}.{r}") for r in (pattern.q, pattern.k, pattern.v, pattern.o)
        )
        blocks.append(
            AttentionBlock(
                name=name,
                q_proj=q,
                k_proj=k,
                v_proj=v,
                o_proj=o,
                head_dim=int(getattr(owner, pattern.head_dim)),
                is_cross=pattern.is_cross,
                owner=owner,
                head_attributes=pattern.head_attributes,
                width_attributes=pattern.width_attributes,
                shares_position_bias=pattern.shares_position_bias,
                is_rotary=pattern.is_rotary,
                group_attribute=pattern.group_attribute,
                empty_group_size=shared,
            )
        )
    return blocks


def _mlps(root: nn.Module, pattern: MLPPattern) -> list[MLPBlock]:
    blocks = []
    roles = [r for r in (pattern.up, pattern.down, pattern.gate) if r]
    for name in matched_paths(root, pattern.path):
        if not has_modules(root, name, roles):
            if pattern.optional:
                continue
            raise AnatomyError(f"expected the layers {roles} below {name!r}; one is missing.")
        activation: Any = root.get_submodule(name)
        for attribute in pattern.activation.split("."):
            activation = getattr(activation, attribute)
        blocks.append(
            MLPBlock(
                name=name + pattern.suffix,
                up_proj=linear_at(root, f"{name}.{pattern.up}"),
                down_proj=linear_at(root, f"{name}.{pattern.down}"),
                gate_proj=linear_at(root, f"{name}.{pattern.gate}") if pattern.gate else None,
                activation=activation,
            )
        )
    return blocks


def _lineage(
    family: Family,
    root: nn.Module,
    attentions: tuple[AttentionBlock, ...],
    mlps: tuple[MLPBlock, ...],
) -> Lineage:
    """The lineage that the config carries, or that of a model nothing was cut from yet."""
    heads = {b.name: b.num_heads for b in attentions}
    neurons = {b.name: b.d_ff for b in mlps}
    inputs = {b.name: input_widths(b) for b in attentions} | {b.name: input_widths(b) for b in mlps}
    config: Any = root.config
    stored = getattr(config, "neuroprune", None)
    here = None if family.stream is None else int(mlps[0].down_proj.weight.shape[0])
    if stored is None:
        return Lineage(config.model_type, heads, neurons, inputs=inputs, width=here)
    lineage = Lineage.from_dict(stored)
    if not lineage.inputs:  # saved only where some were removed
        lineage = replace(lineage, inputs=inputs)
    if lineage.width is None:
        lineage = replace(lineage, width=here)
    kept_heads = {name: len(lineage.kept_heads(name)) for name in lineage.heads}
    kept_neurons = {name: len(lineage.kept_neurons(name)) for name in lineage.neurons}
    kept_inputs = {
        name: {group: len(lineage.kept_inputs(name, group)) for group in groups}
        for name, groups in lineage.inputs.items()
    }
    fits = (kept_heads, kept_neurons, kept_inputs) == (heads, neurons, inputs)
    if lineage.plan.remove_hidden:
        fits = fits and len(lineage.kept_hidden()) == here
        if family.fixed_head_dim:  # a dense model of the narrow width would have narrower heads
            sizes = {b.head_dim * lineage.heads[b.name] for b in attentions}
            fits = fits and sizes == {lineage.width}
    if not fits:
        raise AnatomyError(
            "the model's config carries the plan of a model with other shapes. Load a pruned model "
            "with neuroprune.from_pretrained, and do not build a dense model from its config."
        )
    return lineage
