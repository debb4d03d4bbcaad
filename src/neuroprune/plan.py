"""What to remove in one cut: `ShrinkPlan`. Standard library only, so that it needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from neuroprune.indices import (
    PlanError,
    frozen,
    read_groups,
    read_indices,
    to_earlier,
)

_OPTIONAL = {"remove_inputs", "remove_hidden"}  # keys that a plan without them leaves out

__all__ = ["PlanError", "ShrinkPlan"]


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
    """Heads, neurons, input and hidden dimensions to remove, and heads to merge, in one cut.

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
        remove_hidden: dimensions of the residual stream, which all blocks share. A model loses
            these or inputs of single layers, not both.

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
    remove_hidden: tuple[int, ...]

    def __init__(
        self,
        remove_heads: Mapping[str, Iterable[int]] | None = None,
        remove_neurons: Mapping[str, Iterable[int]] | None = None,
        merge_heads: Mapping[str, Mapping[int, int]] | None = None,
        remove_inputs: Mapping[str, Mapping[str, Iterable[int]]] | None = None,
        remove_hidden: Iterable[int] = (),
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
        object.__setattr__(self, "remove_hidden", read_indices("remove_hidden", remove_hidden))
        if self.remove_inputs and self.remove_hidden:
            raise PlanError(
                "a model loses input dimensions of single layers or hidden dimensions of all, "
                "not both. Leave one of remove_inputs and remove_hidden out."
            )

    def __bool__(self) -> bool:
        units = self.remove_heads or self.remove_neurons
        return bool(units or self.remove_inputs or self.remove_hidden)

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
        hidden = [*self.remove_hidden, *to_earlier(self.remove_hidden, later.remove_hidden)]
        return ShrinkPlan(heads, neurons, merges, inputs, hidden)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back. Of dimensions only where any go."""
        plan: dict[str, Any] = {
            "remove_heads": {b: list(v) for b, v in self.remove_heads.items()},
            "remove_neurons": {b: list(v) for b, v in self.remove_neurons.items()},
            "merge_heads": {
                b: {str(i): j for i, j in m.items()} for b, m in self.merge_heads.items()
            },
        }
        if self.remove_hidden:
            plan["remove_hidden"] = list(self.remove_hidden)
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
        if not isinstance(data, Mapping) or set(data) - _OPTIONAL != expected:
            got = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise PlanError(
                f"a plan has the keys {sorted(expected)} and may have {sorted(_OPTIONAL)}; "
                f"got {got}."
            )
        try:  # JSON has string keys only
            merges = {b: {int(i): j for i, j in m.items()} for b, m in data["merge_heads"].items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise PlanError(
                f"merge_heads maps blocks to {{removed: surviving}}: {error}."
            ) from error
        if None in data.values():
            raise PlanError("a plan maps block names to indices; got null.")
        hidden = data.get("remove_hidden", ())
        inputs = data.get("remove_inputs")
        return cls(data["remove_heads"], data["remove_neurons"], merges, inputs, hidden)
