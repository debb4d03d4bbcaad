"""Of a grid of strengths the best cell at each of the paper's sparsities counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from neuroprune.report.collect import collect
from neuroprune.report.drawings import chosen, comparisons_of, not_drawn
from neuroprune.report.grids import best_of_grids
from tests.report.records import made_up

# strength -> weight sparsity reached, accuracy
_GRID = {
    "1e-07": (0.02, 0.90),  # near no level
    "1e-06": (0.24, 0.88),
    "1e-05": (0.29, 0.89),  # the better one at 25%
    "0.0001": (0.52, 0.87),
    "0.001": (0.62, 0.99),  # between two levels, near none
    "0.01": (0.78, 0.85),
    "0.1": (0.83, 0.84),
    "1.0": (0.95, 0.70),
}
_BEST = {"1e-05", "0.0001", "0.01", "1.0"}


def _save(root: Path, size: int = 8, **method: object) -> None:
    for strength, (sparsity, accuracy) in list(_GRID.items())[:size]:
        record = made_up(1, accuracy, 0.0, 1.0)
        record.sizes["pruned"]["weight_sparsity"] = sparsity
        config = {"method": {"name": "neuroprune", **method}}
        label = f"neuroprune-alpha{strength}-beta0.1"
        dataclasses.replace(record, config=config).save(root / "grid" / label / "seed-1.json")
    rival = made_up(1, 0.86, 0.0, 1.0, "l1")
    rival.sizes["pruned"]["weight_sparsity"] = 0.51
    rival.save(root / "grid" / "l1-weights-50" / "seed-1.json")


def _strengths(experiment: object) -> set[str]:
    cells = experiment.series["neuroprune"]  # type: ignore[attr-defined]
    return {cell.label.removeprefix("neuroprune-alpha").removesuffix("-beta0.1") for cell in cells}


def test_the_best_of_each_level_stays(tmp_path: Path) -> None:
    _save(tmp_path)
    (experiment,) = collect(tmp_path).experiments
    assert len(experiment.series["neuroprune"]) == 8  # one line of a plot
    shown = chosen(experiment)
    assert _strengths(shown) == _BEST
    assert list(shown.series) == ["neuroprune", "l1-weights"]
    (pair,) = comparisons_of(shown)
    assert (pair.ours.label, pair.rival.label) == (
        "neuroprune-alpha0.0001-beta0.1",
        "l1-weights-50",
    )
    said = " ".join(not_drawn(experiment))
    assert "4 settings of its grids in no curve and no comparison" in said
    assert "the best accuracy within 5 points" in said


def test_less_is_better_where_it_is(tmp_path: Path) -> None:
    _save(tmp_path)
    (experiment,) = collect(tmp_path).experiments
    for run in experiment.runs:
        for side in ("dense", "pruned"):
            run.record.metrics[side] = {"perplexity": run.record.metrics[side]["accuracy"]}
    assert _strengths(best_of_grids(experiment, "perplexity")) == (_BEST - {"1e-05", "0.01"}) | {
        "1e-06",
        "0.1",
    }


@pytest.mark.parametrize("few", [True, False])
def test_few_settings_and_those_with_a_target_are_no_grid(tmp_path: Path, few: bool) -> None:
    if few:
        _save(tmp_path, size=6)
    else:
        _save(tmp_path, target=["structural:0.8"])
    (experiment,) = collect(tmp_path).experiments
    assert chosen(experiment) is experiment
    assert "grids" not in " ".join(not_drawn(experiment))
