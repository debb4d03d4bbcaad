"""What to remove: `ShrinkPlan` (one cut) and `Lineage` (every cut so far, and the dense sizes).

Standard library only, so that a plan can be read, written and checked without torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from neuroprune.indices import (
    PlanError,
    frozen,
    kept,
    read_count,
    read_groups,
    read_indices,
    to_earlier,
)

FORMAT_VERSION = 1

__all__ = ["FORMAT_VERSION", "Lineage", "PlanError", "ShrinkPlan"]


def _merges(block: str, mapping: Any, removed: tuple[int, ...]) -> Mapping[int, int]:
    if not isinstance(mapping, Mapping):
        raise PlanError(
            f"merge_heads[{block!r}]: expected {{removed: surviving}}, got {mapping!r}."
        )
    read_indices(f"merge_heads[{block!r}]", [*mapping.keys(), *mapping.values()])
    for i, j in mapping.items():
        if j in removed or j in mapping:
            raise PlanError(
                f"merge_heads[{block!r}]: head {i} is merged into head {j}, which is itself "
                "removed. Merge into a head that stays."
            )
    return MappingProxyType({int(i): int(mapping[i]) for i in sorted(mapping)})


@dataclass(frozen=True, init=False, eq=False)
class ShrinkPlan:
    """Heads, neurons and input dimensions to remove, and heads to merge into others, in one cut.

    Indices count the units of the model *as it stands*. The keys of `merge_heads` are removed too:
    before head i goes, what reads it (its columns of the output projection) is added to what
    reads head j. Plans compose: `first.then(second)` is the one plan that does both.

    Args:
        remove_heads: block name -> head indices.
        remove_neurons: block name -> neuron indices.
        merge_heads: block name -> {removed head i: surviving head j}.
        remove_inputs: block name -> group of its matrices -> input dimensions that they stop
            reading, counted among those they read. The groups of an attention are "qkv", or "q" and
            "kv" where it is cross-attention; that of an MLP is "up" (the gate included).

    Raises:
        PlanError: a negative or non-integer index, a head merged into itself or into a head that
            is removed.

    Example:
        >>> plan = ShrinkPlan(remove_heads={"encoder.layer.0.attention": [3]})
        >>> plan.remove_heads["encoder.layer.0.attention"]
        (3,)

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, Algorithms 2 and 3.
    """

    remove_heads: Mapping[str, tuple[int, ...]]
    remove_neurons: Mapping[str, tuple[int, ...]]
    merge_heads: Mapping[str, Mapping[int, int]]
    remove_inputs: Mapping[str, Mapping[str, tuple[int, ...]]]

    def __init__(
        self,
        remove_heads: Mapping[str, Iterable[int]] | None = None,
        remove_neurons: Mapping[str, Iterable[int]] | None = None,
        merge_heads: Mapping[str, Mapping[int, int]] | None = None,
        remove_inputs: Mapping[str, Mapping[str, Iterable[int]]] | None = None,
    ) -> None:
        for what, given in (
            ("remove_heads", remove_heads),
            ("remove_neurons", remove_neurons),
            ("merge_heads", merge_heads),
            ("remove_inputs", remove_inputs),
        ):
            if given is not None and not isinstance(given, Mapping):
                raise PlanError(f"{what}: expected block names -> units, got {given!r}.")
        heads = {
            b: read_indices(f"remove_heads[{b!r}]", v) for b, v in (remove_heads or {}).items()
        }
        neurons = {
            b: read_indices(f"remove_neurons[{b!r}]", v) for b, v in (remove_neurons or {}).items()
        }
        merges: dict[str, Mapping[int, int]] = {}
        for block, mapping in (merge_heads or {}).items():
            merges[block] = _merges(block, mapping, heads.get(block, ()))
            heads[block] = tuple(sorted({*heads.get(block, ()), *merges[block]}))
        merges = {b: m for b, m in merges.items() if m}
        inputs = {
            b: read_groups(f"remove_inputs[{b!r}]", g) for b, g in (remove_inputs or {}).items()
        }
        object.__setattr__(self, "remove_heads", frozen({b: v for b, v in heads.items() if v}))
        object.__setattr__(self, "remove_neurons", frozen({b: v for b, v in neurons.items() if v}))
        object.__setattr__(self, "merge_heads", frozen(merges))
        object.__setattr__(self, "remove_inputs", frozen({b: g for b, g in inputs.items() if g}))

    def __bool__(self) -> bool:
        return bool(self.remove_heads or self.remove_neurons or self.remove_inputs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShrinkPlan) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_dict, (self.to_dict(),))

    @property
    def num_heads(self) -> int:
        """Number of heads this plan removes, merged ones included."""
        return sum(map(len, self.remove_heads.values()))

    @property
    def num_neurons(self) -> int:
        """Number of MLP neurons this plan removes."""
        return sum(map(len, self.remove_neurons.values()))

    @property
    def num_inputs(self) -> int:
        """Number of input dimensions this plan removes, those of every group counted."""
        return sum(len(v) for groups in self.remove_inputs.values() for v in groups.values())

    def blocks(self) -> set[str]:
        """Names of the blocks this plan touches."""
        return set(self.remove_heads) | set(self.remove_neurons) | set(self.remove_inputs)

    def then(self, later: ShrinkPlan) -> ShrinkPlan:
        """The one plan equal to applying this plan and then `later` to what is left.

        `later` counts the units left by this plan; the result counts the units before it. A merge
        chain i -> j -> l becomes i -> l and j -> l; a merge into a head that `later` drops outright
        becomes a plain removal, since what was added to it goes with it.
        """
        heads: dict[str, list[int]] = {b: list(v) for b, v in self.remove_heads.items()}
        neurons: dict[str, list[int]] = {b: list(v) for b, v in self.remove_neurons.items()}
        merges: dict[str, dict[int, int]] = {b: dict(m) for b, m in self.merge_heads.items()}
        for block, indices in later.remove_neurons.items():
            gone = self.remove_neurons.get(block, ())
            neurons[block] = [*gone, *to_earlier(gone, indices)]
        for block, indices in later.remove_heads.items():
            gone = self.remove_heads.get(block, ())
            removed = to_earlier(gone, indices)
            later_merges = later.merge_heads.get(block, {})
            target = dict(
                zip(
                    to_earlier(gone, later_merges),
                    to_earlier(gone, later_merges.values()),
                    strict=True,
                )
            )
            resolved: dict[int, int] = {}
            for i, j in merges.get(block, {}).items():
                if j in target:
                    resolved[i] = target[j]
                elif j not in removed:
                    resolved[i] = j
            merges[block] = resolved | target
            heads[block] = [*gone, *removed]
        inputs = {
            b: {g: list(v) for g, v in groups.items()} for b, groups in self.remove_inputs.items()
        }
        for block, groups in later.remove_inputs.items():
            mine = inputs.setdefault(block, {})
            for group, indices in groups.items():
                gone = tuple(mine.get(group, ()))
                mine[group] = [*gone, *to_earlier(gone, indices)]
        return ShrinkPlan(heads, neurons, merges, inputs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back. No inputs to remove: no entry for them."""
        plan: dict[str, Any] = {
            "remove_heads": {b: list(v) for b, v in self.remove_heads.items()},
            "remove_neurons": {b: list(v) for b, v in self.remove_neurons.items()},
            "merge_heads": {
                b: {str(i): j for i, j in m.items()} for b, m in self.merge_heads.items()
            },
        }
        if self.remove_inputs:
            plan["remove_inputs"] = {
                b: {g: list(v) for g, v in groups.items()}
                for b, groups in self.remove_inputs.items()
            }
        return plan

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ShrinkPlan:
        """Read what `to_dict` wrote.

        Raises:
            PlanError: a key is missing, unknown or of the wrong kind.
        """
        expected = {"remove_heads", "remove_neurons", "merge_heads"}
        if not isinstance(data, Mapping) or set(data) - {"remove_inputs"} != expected:
            got = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise PlanError(
                f"a plan has the keys {sorted(expected)} and may have 'remove_inputs'; got {got}."
            )
        try:  # JSON has string keys only
            merges = {b: {int(i): j for i, j in m.items()} for b, m in data["merge_heads"].items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise PlanError(
                f"merge_heads maps blocks to {{removed: surviving}}: {error}."
            ) from error
        if None in data.values():
            raise PlanError("a plan maps block names to indices; got null.")
        return cls(data["remove_heads"], data["remove_neurons"], merges, data.get("remove_inputs"))


@dataclass(frozen=True, eq=False)
class Lineage:
    """Where every surviving unit of a shrunk model came from.

    Args:
        model_type: the `config.model_type` of the family.
        heads: attention block name -> number of heads of the dense model.
        neurons: MLP block name -> number of neurons of the dense model.
        plan: all cuts so far as one plan, counting the dense model's units.
        inputs: block name -> group of its matrices -> input dimensions the dense model reads. Saved
            only where the plan removes some; a file without it is of a model that reads them all.

    Raises:
        PlanError: the plan names a unit or an input that the dense model does not have.
    """

    model_type: str
    heads: Mapping[str, int]
    neurons: Mapping[str, int]
    plan: ShrinkPlan = field(default_factory=ShrinkPlan)
    inputs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", frozen(self.heads))
        object.__setattr__(self, "neurons", frozen(self.neurons))
        object.__setattr__(self, "inputs", frozen({b: frozen(g) for b, g in self.inputs.items()}))
        for block, total in (*self.heads.items(), *self.neurons.items()):
            read_count(repr(block), total)
        for block, groups in self.inputs.items():
            for group, width in groups.items():
                read_count(f"the input {group!r} of {block!r}", width)
        for what, totals, removed in (
            ("attention", self.heads, self.plan.remove_heads),
            ("MLP", self.neurons, self.plan.remove_neurons),
        ):
            for block, indices in removed.items():
                if block not in totals:
                    raise PlanError(
                        f"the plan names the {what} block {block!r}, which this {self.model_type} "
                        f"model does not have. Its {what} blocks: {', '.join(totals) or 'none'}."
                    )
                if indices[-1] >= totals[block]:
                    raise PlanError(
                        f"the plan removes unit {indices[-1]} of {block!r}, which has "
                        f"{totals[block]} (counted from 0). Was it made for another model?"
                    )
        for block, merges in self.plan.merge_heads.items():
            if max(merges.values()) >= self.heads[block]:
                raise PlanError(
                    f"the plan merges into head {max(merges.values())} of {block!r}, which has "
                    f"{self.heads[block]} (counted from 0). Was it made for another model?"
                )
        for block, removed_inputs in self.plan.remove_inputs.items():
            for group, indices in removed_inputs.items():
                self._check_inputs(block, group, indices[-1])

    def _check_inputs(self, block: str, group: str, last: int) -> None:
        widths = self.inputs.get(block, {})
        if group not in widths:
            groups = ", ".join(map(repr, widths)) or "none; the block is not there"
            raise PlanError(
                f"the plan removes inputs {group!r} of {block!r}, which this {self.model_type} "
                f"model does not have. The block's groups: {groups}."
            )
        if last >= widths[group]:
            raise PlanError(
                f"the plan removes input {last} of {group!r} of {block!r}, which reads "
                f"{widths[group]} (counted from 0). Was it made for another model?"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lineage) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_dict, (self.to_dict(),))

    def kept_heads(self, block: str) -> tuple[int, ...]:
        """Dense indices of the heads that are left in `block`."""
        return kept(self.heads[block], self.plan.remove_heads.get(block, ()))

    def kept_neurons(self, block: str) -> tuple[int, ...]:
        """Dense indices of the neurons that are left in `block`."""
        return kept(self.neurons[block], self.plan.remove_neurons.get(block, ()))

    def kept_inputs(self, block: str, group: str) -> tuple[int, ...]:
        """Dense indices of the input dimensions that a group of matrices of `block` still reads."""
        removed = self.plan.remove_inputs.get(block, {}).get(group, ())
        return kept(self.inputs[block][group], removed)

    def removed_inputs(self, block: str, group: str) -> int:
        """How many input dimensions a group of matrices of `block` no longer reads."""
        return len(self.plan.remove_inputs.get(block, {}).get(group, ()))

    def restricted_to(self, blocks: Iterable[str]) -> Lineage:
        """The lineage of a part of the model, such as the encoder alone.

        Args:
            blocks: names of the blocks that are there; others are left out.
        """
        here = set(blocks)

        def among(mapping: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in mapping.items() if name in here}

        plan = ShrinkPlan(
            among(self.plan.remove_heads),
            among(self.plan.remove_neurons),
            among(self.plan.merge_heads),
            among(self.plan.remove_inputs),
        )
        heads, neurons, inputs = map(among, (self.heads, self.neurons, self.inputs))
        return Lineage(self.model_type, heads, neurons, plan, inputs)

    def then(self, plan: ShrinkPlan) -> Lineage:
        """The lineage after `plan`, which counts the units left so far."""
        now = Lineage(
            self.model_type,
            {b: len(self.kept_heads(b)) for b in self.heads},
            {b: len(self.kept_neurons(b)) for b in self.neurons},
            plan,
            {
                b: {g: len(self.kept_inputs(b, g)) for g in groups}
                for b, groups in self.inputs.items()
            },
        )  # raises where the plan does not fit the model as it stands
        after = self.plan.then(now.plan)
        return Lineage(self.model_type, self.heads, self.neurons, after, self.inputs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back."""
        lineage: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "model_type": self.model_type,
            "heads": dict(self.heads),
            "neurons": dict(self.neurons),
            "plan": self.plan.to_dict(),
        }
        if self.plan.remove_inputs:
            lineage["inputs"] = {block: dict(groups) for block, groups in self.inputs.items()}
        return lineage

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Lineage:
        """Read what `to_dict` wrote.

        Raises:
            PlanError: another format version, a missing key, or a plan that does not fit.
        """
        version = data.get("format_version") if isinstance(data, Mapping) else None
        if version != FORMAT_VERSION:
            raise PlanError(
                f"expected plan format version {FORMAT_VERSION}, got {version!r}. Load it with the "
                "neuroprune that wrote it, or update neuroprune."
            )
        try:
            return cls(
                data["model_type"],
                data["heads"],
                data["neurons"],
                ShrinkPlan.from_dict(data["plan"]),
                data.get("inputs", {}),
            )
        except (KeyError, AttributeError, TypeError) as error:
            raise PlanError(f"the plan is damaged: {error!r}.") from error
