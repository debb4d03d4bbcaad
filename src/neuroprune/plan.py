"""What to remove: `ShrinkPlan` (one cut) and `Lineage` (every cut so far, and the dense sizes).

Standard library only, so that a plan can be read, written and checked without torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

FORMAT_VERSION = 1
WIDTH_VERSION = 2  # of a lineage that tells of removed hidden dimensions


class PlanError(ValueError):
    """A plan contradicts itself or does not fit the model it is applied to."""


def _indices(where: str, values: Iterable[int]) -> tuple[int, ...]:
    out = []
    if hasattr(
        values, "tolist"
    ):  # an array: its dtype decides, so that a mask is not read as indices
        values = values.tolist()
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise PlanError(f"{where}: expected a list of indices, got {values!r}.")
    for value in values:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise PlanError(f"{where}: expected integer indices, got {value!r}.")
        index = value.__index__()
        if index < 0:
            raise PlanError(
                f"{where}: index {index} is negative. Count units from 0, as "
                "`neuroprune inspect` lists them."
            )
        out.append(index)
    return tuple(sorted(set(out)))


def _merges(block: str, mapping: Any, removed: tuple[int, ...]) -> Mapping[int, int]:
    if not isinstance(mapping, Mapping):
        raise PlanError(
            f"merge_heads[{block!r}]: expected {{removed: surviving}}, got {mapping!r}."
        )
    _indices(f"merge_heads[{block!r}]", [*mapping.keys(), *mapping.values()])
    for i, j in mapping.items():
        if j in removed or j in mapping:
            raise PlanError(
                f"merge_heads[{block!r}]: head {i} is merged into head {j}, which is itself "
                "removed. Merge into a head that stays."
            )
    return MappingProxyType({int(i): int(mapping[i]) for i in sorted(mapping)})


def _frozen(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(sorted(mapping.items(), key=lambda item: _natural(item[0]))))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    parts = str(name).split(".")
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


@dataclass(frozen=True, init=False, eq=False)
class ShrinkPlan:
    """Heads, neurons and hidden dimensions to remove, and heads to merge into others, in one cut.

    Indices count the units of the model *as it stands*. The keys of `merge_heads` are removed too:
    before head i goes, what reads it (its columns of the output projection) is added to what
    reads head j. Plans compose: `first.then(second)` is the one plan that does both.

    Args:
        remove_heads: block name -> head indices.
        remove_neurons: block name -> neuron indices.
        merge_heads: block name -> {removed head i: surviving head j}.
        remove_hidden: dimensions of the residual stream, which all blocks share.

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
    remove_hidden: tuple[int, ...]

    def __init__(
        self,
        remove_heads: Mapping[str, Iterable[int]] | None = None,
        remove_neurons: Mapping[str, Iterable[int]] | None = None,
        merge_heads: Mapping[str, Mapping[int, int]] | None = None,
        remove_hidden: Iterable[int] = (),
    ) -> None:
        for what, given in (
            ("remove_heads", remove_heads),
            ("remove_neurons", remove_neurons),
            ("merge_heads", merge_heads),
        ):
            if given is not None and not isinstance(given, Mapping):
                raise PlanError(f"{what}: expected block names -> units, got {given!r}.")
        heads = {b: _indices(f"remove_heads[{b!r}]", v) for b, v in (remove_heads or {}).items()}
        neurons = {
            b: _indices(f"remove_neurons[{b!r}]", v) for b, v in (remove_neurons or {}).items()
        }
        merges: dict[str, Mapping[int, int]] = {}
        for block, mapping in (merge_heads or {}).items():
            merges[block] = _merges(block, mapping, heads.get(block, ()))
            heads[block] = tuple(sorted({*heads.get(block, ()), *merges[block]}))
        merges = {b: m for b, m in merges.items() if m}
        object.__setattr__(self, "remove_heads", _frozen({b: v for b, v in heads.items() if v}))
        object.__setattr__(self, "remove_neurons", _frozen({b: v for b, v in neurons.items() if v}))
        object.__setattr__(self, "merge_heads", _frozen(merges))
        object.__setattr__(self, "remove_hidden", _indices("remove_hidden", remove_hidden))

    def __bool__(self) -> bool:
        return bool(self.remove_heads or self.remove_neurons or self.remove_hidden)

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

    def blocks(self) -> set[str]:
        """Names of the blocks this plan touches."""
        return set(self.remove_heads) | set(self.remove_neurons)

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
            neurons[block] = [*gone, *_to_earlier(gone, indices)]
        for block, indices in later.remove_heads.items():
            gone = self.remove_heads.get(block, ())
            removed = _to_earlier(gone, indices)
            later_merges = later.merge_heads.get(block, {})
            target = dict(
                zip(
                    _to_earlier(gone, later_merges),
                    _to_earlier(gone, later_merges.values()),
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
        hidden = [*self.remove_hidden, *_to_earlier(self.remove_hidden, later.remove_hidden)]
        return ShrinkPlan(heads, neurons, merges, hidden)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back. Of hidden dimensions only where any go."""
        hidden = {"remove_hidden": list(self.remove_hidden)} if self.remove_hidden else {}
        return {
            "remove_heads": {b: list(v) for b, v in self.remove_heads.items()},
            "remove_neurons": {b: list(v) for b, v in self.remove_neurons.items()},
            "merge_heads": {
                b: {str(i): j for i, j in m.items()} for b, m in self.merge_heads.items()
            },
            **hidden,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ShrinkPlan:
        """Read what `to_dict` wrote.

        Raises:
            PlanError: a key is missing, unknown or of the wrong kind.
        """
        expected = {"remove_heads", "remove_neurons", "merge_heads"}
        if not isinstance(data, Mapping) or set(data) - {"remove_hidden"} != expected:
            got = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise PlanError(f"a plan has the keys {sorted(expected)}; got {got}.")
        try:  # JSON has string keys only
            merges = {b: {int(i): j for i, j in m.items()} for b, m in data["merge_heads"].items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise PlanError(
                f"merge_heads maps blocks to {{removed: surviving}}: {error}."
            ) from error
        if None in data.values():
            raise PlanError("a plan maps block names to indices; got null.")
        hidden = data.get("remove_hidden", ())
        return cls(data["remove_heads"], data["remove_neurons"], merges, hidden)


def _to_earlier(gone: Iterable[int], indices: Iterable[int]) -> list[int]:
    """Positions among the survivors of `gone` -> positions before `gone` was removed."""
    gone = sorted(gone)
    out = []
    for index in indices:
        earlier = index
        for removed in gone:
            if removed > earlier:
                break
            earlier += 1
        out.append(earlier)
    return out


@dataclass(frozen=True, eq=False)
class Lineage:
    """Where every surviving unit of a shrunk model came from.

    Args:
        model_type: the `config.model_type` of the family.
        heads: attention block name -> number of heads of the dense model.
        neurons: MLP block name -> number of neurons of the dense model.
        plan: all cuts so far as one plan, counting the dense model's units.
        width: hidden dimensions of the dense model; None where its family does not declare them.

    Raises:
        PlanError: the plan names a unit that the dense model does not have.
    """

    model_type: str
    heads: Mapping[str, int]
    neurons: Mapping[str, int]
    plan: ShrinkPlan = field(default_factory=ShrinkPlan)
    width: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", _frozen(self.heads))
        object.__setattr__(self, "neurons", _frozen(self.neurons))
        for block, total in (*self.heads.items(), *self.neurons.items()):
            if isinstance(total, bool) or not isinstance(total, int) or total < 0:
                raise PlanError(
                    f"the lineage is damaged: {block!r} has {total!r} units; expected a count >= 0."
                )
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
        self._check_width()
        for block, merges in self.plan.merge_heads.items():
            if max(merges.values()) >= self.heads[block]:
                raise PlanError(
                    f"the plan merges into head {max(merges.values())} of {block!r}, which has "
                    f"{self.heads[block]} (counted from 0). Was it made for another model?"
                )

    def _check_width(self) -> None:
        if not self.plan.remove_hidden:
            return
        if not isinstance(self.width, int) or isinstance(self.width, bool):
            raise PlanError(
                f"the plan removes hidden dimensions, but where a {self.model_type} model has them "
                "is not declared. See docs/adding_a_family.md, or leave remove_hidden out."
            )
        if self.plan.remove_hidden[-1] >= self.width or len(self.plan.remove_hidden) == self.width:
            raise PlanError(
                f"the plan removes {len(self.plan.remove_hidden)} hidden dimensions up to "
                f"{self.plan.remove_hidden[-1]} (counted from 0) of a model with {self.width}, of "
                "which one at least has to stay. Was it made for another model?"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lineage) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_dict, (self.to_dict(),))

    def kept_heads(self, block: str) -> tuple[int, ...]:
        """Dense indices of the heads that are left in `block`."""
        return _kept(self.heads[block], self.plan.remove_heads.get(block, ()))

    def kept_neurons(self, block: str) -> tuple[int, ...]:
        """Dense indices of the neurons that are left in `block`."""
        return _kept(self.neurons[block], self.plan.remove_neurons.get(block, ()))

    def kept_hidden(self) -> tuple[int, ...]:
        """Dense indices of the hidden dimensions that are left; none where they are not known."""
        return _kept(self.width or 0, self.plan.remove_hidden)

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
            self.plan.remove_hidden,
        )
        return Lineage(self.model_type, among(self.heads), among(self.neurons), plan, self.width)

    def then(self, plan: ShrinkPlan) -> Lineage:
        """The lineage after `plan`, which counts the units left so far."""
        now = Lineage(
            self.model_type,
            {b: len(self.kept_heads(b)) for b in self.heads},
            {b: len(self.kept_neurons(b)) for b in self.neurons},
            plan,
            len(self.kept_hidden()) or None,
        )  # raises where the plan does not fit the model as it stands
        plan = self.plan.then(now.plan)
        return Lineage(self.model_type, self.heads, self.neurons, plan, self.width)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back. The width only where some of it is gone."""
        narrow = bool(self.plan.remove_hidden)
        return {
            "format_version": WIDTH_VERSION if narrow else FORMAT_VERSION,
            "model_type": self.model_type,
            "heads": dict(self.heads),
            "neurons": dict(self.neurons),
            "plan": self.plan.to_dict(),
            **({"width": self.width} if narrow else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Lineage:
        """Read what `to_dict` wrote.

        Raises:
            PlanError: another format version, a missing key, or a plan that does not fit.
        """
        version = data.get("format_version") if isinstance(data, Mapping) else None
        if version not in (FORMAT_VERSION, WIDTH_VERSION) or isinstance(version, bool):
            raise PlanError(
                f"expected plan format version {FORMAT_VERSION} or {WIDTH_VERSION}, got "
                f"{version!r}. Load it with the neuroprune that wrote it, or update neuroprune."
            )
        try:
            return cls(
                data["model_type"],
                data["heads"],
                data["neurons"],
                ShrinkPlan.from_dict(data["plan"]),
                data.get("width"),
            )
        except (KeyError, AttributeError, TypeError) as error:
            raise PlanError(f"the plan is damaged: {error!r}.") from error


def _kept(total: int, removed: Iterable[int]) -> tuple[int, ...]:
    gone = set(removed)
    return tuple(i for i in range(total) if i not in gone)
