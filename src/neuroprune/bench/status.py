"""How far experiments and matrices are: seeds done and wanted per cell, and what is in the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from neuroprune.bench.matrix import Plan
from neuroprune.bench.suite import Job, State
from neuroprune.record import RecordError, RunRecord


@dataclass(frozen=True)
class Cell:
    """One experiment or cell of a matrix, over its seeds.

    Args:
        name: `<task>/<method>-<setting>`.
        seeds: how each wanted seed stands, and why it is not done.
    """

    name: str
    seeds: Mapping[int, tuple[State, str]]

    def of(self, state: State) -> list[int]:
        """The seeds that stand so."""
        return [seed for seed, (found, _) in self.seeds.items() if found is state]

    @property
    def complete(self) -> bool:
        """Whether every wanted seed is done."""
        return len(self.of(State.DONE)) == len(self.seeds)

    @property
    def reasons(self) -> dict[int, str]:
        """Seed -> what failed, or why its record does not count."""
        return {seed: f"{state}: {why}" for seed, (state, why) in self.seeds.items() if why}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        told = {state.value: self.of(state) for state in State}
        reasons = {str(seed): why for seed, why in self.reasons.items()}
        return {"name": self.name, "wanted": list(self.seeds), **told, "reasons": reasons}


def cells_of(jobs: Iterable[Job]) -> list[Cell]:
    """The cells that jobs belong to, in order.

    Args:
        jobs: of any number of experiments.
    """
    found: dict[str, dict[int, tuple[State, str]]] = {}
    for job in jobs:
        found.setdefault(job.name, {})[job.seed] = job.look()
    return [Cell(name, seeds) for name, seeds in found.items()]


def strays(plan: Plan) -> dict[str, str]:
    """Files among the records of a plan that none of its jobs asks for: name -> what it is.

    Args:
        plan: experiments and matrices.
    """
    wanted = {job.record for job in plan.jobs}
    out: dict[str, str] = {}
    for folder in plan.folders:
        for path in sorted(folder.rglob("*.json")):
            if path not in wanted:
                try:
                    record = RunRecord.load(path)
                except RecordError as error:
                    out[str(path)] = str(error)
                else:
                    out[str(path)] = f"a record of {record.method}, seed {record.seed}"
    return out
