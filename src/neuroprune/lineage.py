"""What a model was before it was cut, and everything that was cut since: standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from neuroprune.indices import frozen, kept, read_count
from neuroprune.plan import PlanError, ShrinkPlan

FORMAT_VERSION = 1
WIDTH_VERSION = 2  # of a lineage that tells of removed hidden dimensions


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
        width: hidden dimensions of the dense model; None where its family does not declare them.

    Raises:
        PlanError: the plan names a unit or an input that the dense model does not have.
    """

    model_type: str
    heads: Mapping[str, int]
    neurons: Mapping[str, int]
    plan: ShrinkPlan = field(default_factory=ShrinkPlan)
    inputs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    width: int | None = None

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
        self._check_width()
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

    def kept_hidden(self) -> tuple[int, ...]:
        """Dense indices of the hidden dimensions that are left; none where they are not known."""
        return kept(self.width or 0, self.plan.remove_hidden)

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
            self.plan.remove_hidden,
        )
        heads, neurons, inputs = map(among, (self.heads, self.neurons, self.inputs))
        return Lineage(self.model_type, heads, neurons, plan, inputs, self.width)

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
            len(self.kept_hidden()) or None,
        )  # raises where the plan does not fit the model as it stands
        after = self.plan.then(now.plan)
        return Lineage(self.model_type, self.heads, self.neurons, after, self.inputs, self.width)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back. Widths only where some of it is gone."""
        narrow = bool(self.plan.remove_hidden)
        lineage: dict[str, Any] = {
            "format_version": WIDTH_VERSION if narrow else FORMAT_VERSION,
            "model_type": self.model_type,
            "heads": dict(self.heads),
            "neurons": dict(self.neurons),
            "plan": self.plan.to_dict(),
            **({"width": self.width} if narrow else {}),
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
                data.get("inputs", {}),
                data.get("width"),
            )
        except (KeyError, AttributeError, TypeError) as error:
            raise PlanError(f"the plan is damaged: {error!r}.") from error
