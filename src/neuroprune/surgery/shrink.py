"""`shrink_`: the one public verb of surgery. It executes a plan; it never decides."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy, anatomy_of, family_of
from neuroprune.anatomy.patterns import find_root
from neuroprune.lineage import Lineage
from neuroprune.plan import PlanError, ShrinkPlan
from neuroprune.surgery.heads import (
    fold_constant_heads_,
    kv_heads_kept,
    remove_heads_,
)
from neuroprune.surgery.hidden import hidden_cuts, remove_hidden_
from neuroprune.surgery.inputs import check_layers, gather_, remove_inputs_
from neuroprune.surgery.linear import Replacements, skip_empty_gradients_
from neuroprune.surgery.neurons import fold_constant_neurons_, remove_neurons_
from neuroprune.surgery.optimizer_state import (
    OptimizerStateError,
    check_state,
    rebind_,
    unwrap_optimizer,
)
from neuroprune.surgery.ragged_attention import check_implementation, install_


def shrink_(model: nn.Module, plan: ShrinkPlan, optimizer: Any = None) -> None:
    """Remove heads (merging first), neurons, input and hidden dimensions from a model, in place.

    In eval mode and float32 the outputs do not change where the plan removes units whose fan-out is
    zero, units that emit a constant which an output bias can take up, or input dimensions whose
    columns are zero. Where hidden dimensions go, norms are taken over those that are left.
    Parameters are replaced, not resized; give the optimizer so that its groups and state follow.
    Schedulers and gradient scalers need no care.

    Args:
        model: a transformers model of a declared family, not wrapped.
        plan: what to remove, counting the units of the model as it stands.
        optimizer: the optimizer that trains the model, or accelerate's wrapper of it.

    Raises:
        UnknownFamilyError: the model's type was not declared.
        AnatomyError: hidden dimensions would go, and the model's head does not declare what reads
            them.
        WrappedModelError: the model is wrapped or compiled.
        PlanError: the plan names a block, a unit or an input that the model does not have, splits
            a group of heads that share keys and values, removes heads of a family with a shared
            position bias under an attention implementation that takes none, or inputs of a layer
            of another class than nn.Linear.
        OptimizerStateError: the optimizer is another model's, or keeps a state of unknown shape.
        Nothing is changed in any of these cases.

    Example:
        >>> shrink_(model, ShrinkPlan(remove_heads={"encoder.layer.0.attention": [3]}), optimizer)
        ... # doctest: +SKIP

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, Algorithm 2.
    """
    if not isinstance(plan, ShrinkPlan):
        raise PlanError(
            f"expected a ShrinkPlan, got {type(plan).__name__}. Write "
            "ShrinkPlan(remove_heads={block: [i, ...]}, remove_neurons={block: [...]})."
        )
    anatomy = anatomy_of(model)
    lineage = anatomy.lineage.then(plan)
    check_implementation(anatomy, plan)
    check_layers(anatomy, plan)
    inner = None if optimizer is None else unwrap_optimizer(optimizer)
    cuts = _parameter_cuts(anatomy, plan)
    hidden = hidden_cuts(anatomy) if plan.remove_hidden else {}
    if inner is not None:
        _check_owner(model, inner)
        check_state(inner, cuts)
        check_state(inner, _column_cuts(anatomy, plan))
        check_state(inner, hidden)
    if not plan:
        return
    # Units first: what a constant neuron emits is folded while its layers are whole.
    for cut in (_cut_, _cut_inputs_, _cut_hidden_):  # one dimension of a parameter after the other
        replaced = cut(anatomy, plan)
        if inner is not None:
            rebind_(inner, replaced)
    adopt_(model, lineage)


def reshape_(model: nn.Module, lineage: Lineage) -> None:
    """Give a freshly built dense model the shapes of a shrunk one, whose weights are loaded next.

    Unlike `shrink_`, values play no part, so it works on the meta device: nothing is merged or
    folded, since the weights to be loaded already are.

    Args:
        model: a dense model as its config describes it.
        lineage: of the model whose weights will be loaded.

    Raises:
        PlanError: the dense sizes of the lineage are not those of the model.
    """
    anatomy = anatomy_of(model)
    here = anatomy.lineage
    lineage = lineage.restricted_to([*here.heads, *here.neurons])
    if (
        here.model_type,
        here.heads,
        here.neurons,
        lineage.inputs or here.inputs,
        here.width if lineage.width is None else lineage.width,
    ) != (
        lineage.model_type,
        lineage.heads,
        lineage.neurons,
        here.inputs,
        here.width,
    ):
        raise PlanError(
            "the plan was made for a model with other blocks or sizes than this config describes. "
            "Load the checkpoint with the config.json that was saved beside it."
        )
    for attention in anatomy.attentions:
        if attention.name in lineage.plan.remove_heads:
            remove_heads_(attention, lineage.plan.remove_heads[attention.name])
    for mlp in anatomy.mlps:
        if mlp.name in lineage.plan.remove_neurons:
            remove_neurons_(mlp, lineage.plan.remove_neurons[mlp.name])
    _cut_inputs_(anatomy, lineage.plan)
    _cut_hidden_(anatomy, lineage.plan)
    adopt_(model, lineage)


def adopt_(model: nn.Module, lineage: Lineage) -> None:
    """Record in a model's own config where its units came from, and make its heads line up.

    From now on every way of saving the model carries its lineage, also where nothing was cut yet.

    Args:
        model: a model whose shapes already are those of the lineage.
        lineage: what was cut so far.
    """
    stream = family_of(model).stream
    for config in own_configs_(model):
        config.neuroprune = lineage.to_dict()
        if lineage.plan.remove_hidden and stream is not None:
            # What reads a config wants to know how wide the hidden states are. Loading goes by the
            # lineage's width, since head_dim may be computed from this one.
            setattr(config, stream.width_key, len(lineage.kept_hidden()))
    anatomy = anatomy_of(model)
    install_(anatomy)
    gather_(anatomy)
    for layer in anatomy.linears():
        skip_empty_gradients_(layer)


def _check_owner(model: nn.Module, optimizer: Optimizer) -> None:
    held = {p for group in optimizer.param_groups for p in group["params"]}
    if not any(p in held for p in model.parameters()):
        raise OptimizerStateError(
            "the optimizer holds none of this model's parameters. Pass the optimizer that trains "
            "this model, or none."
        )


def _parameter_cuts(anatomy: Anatomy, plan: ShrinkPlan) -> dict[Tensor, int]:
    """Every parameter of the plan's units -> the dimension of the cut; raises what cannot be."""
    cuts: dict[Tensor, int] = {}
    for attention in anatomy.attentions:
        removed = plan.remove_heads.get(attention.name)
        if removed:
            kv_heads_kept(attention, removed)
            for layer in (attention.q_proj, attention.k_proj, attention.v_proj):
                cuts |= dict.fromkeys(layer.parameters(recurse=False), 0)
            cuts[attention.o_proj.weight] = 1
    for mlp in anatomy.mlps:
        if mlp.name in plan.remove_neurons:
            for layer in mlp.fan_in():
                cuts |= dict.fromkeys(layer.parameters(recurse=False), 0)
            cuts[mlp.down_proj.weight] = 1
    return cuts


def _cut_(anatomy: Anatomy, plan: ShrinkPlan) -> Replacements:
    replaced: Replacements = {}
    for attention in anatomy.attentions:
        removed = plan.remove_heads.get(attention.name, ())
        if removed:
            merges = plan.merge_heads.get(attention.name, {})
            outright = tuple(i for i in removed if i not in merges)
            fold_constant_heads_(attention, outright)
            replaced |= remove_heads_(attention, removed, merges)
    for mlp in anatomy.mlps:
        removed = plan.remove_neurons.get(mlp.name, ())
        if removed:
            fold_constant_neurons_(mlp, removed)
            replaced |= remove_neurons_(mlp, removed)
    return replaced


def _column_cuts(anatomy: Anatomy, plan: ShrinkPlan) -> dict[Tensor, int]:
    """Every weight whose inputs the plan removes -> the dimension of its columns."""
    return {
        layer.weight: 1
        for block in anatomy.blocks()
        for group in plan.remove_inputs.get(block.name, {})
        for layer in block.readers()[group]
    }


def _cut_hidden_(anatomy: Anatomy, plan: ShrinkPlan) -> Replacements:
    """Remove hidden dimensions from everything that reads or writes the residual stream."""
    return remove_hidden_(anatomy, plan.remove_hidden) if plan.remove_hidden else {}


def _cut_inputs_(anatomy: Anatomy, plan: ShrinkPlan) -> Replacements:
    replaced: Replacements = {}
    for block in anatomy.blocks():
        replaced |= remove_inputs_(block, plan.remove_inputs.get(block.name, {}))
    return replaced


def own_configs_(model: nn.Module) -> list[Any]:
    """Give a model configurations of its own, so that writing into them touches no other model.

    Several models may have been made from one config object, so it is copied before every change.
    The copy replaces the original in every submodule that holds it.

    Args:
        model: a transformers model, or a module with a `config` around one.

    Returns:
        The configurations the model now owns: its own, and that of the body where it is another.
    """
    body: Any = find_root(model, family_of(model))
    whole: Any = model.config
    shared = [whole] if body.config is whole else [whole, body.config]
    owned = []
    for config in shared:
        own = copy.deepcopy(config)
        owned.append(own)
        for module in model.modules():
            if getattr(module, "config", None) is config:
                module.config = own
    return owned
