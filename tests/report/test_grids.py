"""Of a grid of strengths the best cell at each of the paper's sparsities counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from neuroprune.bench.tables import pairs_table
from neuroprune.record import RunRecord
from neuroprune.report.collect import collect
from neuroprune.report.curves import equal_heads
from neuroprune.report.drawings import chosen, comparisons_of, drawings, not_drawn
from neuroprune.report.grids import best_of_grids, best_of_group
from neuroprune.report.levels import level_rows
from tests.report.records import made_up, structure

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
    assert (
        "in no curve against sparsity and no comparison: 4 of the 8 settings of neuroprune" in said
    )
    assert "the best accuracy within 5 points" in said


def test_a_table_of_pairs_says_that_it_shows_the_best_of_a_grid(tmp_path: Path) -> None:
    _save(tmp_path)
    assert "4 of the 8 settings of neuroprune, a grid of which" in pairs_table(tmp_path, "grid")
    _save(tmp_path / "few", size=6)
    assert "a grid" not in pairs_table(tmp_path / "few", "grid")


def test_equal_heads_have_the_best_of_a_grid_at_each_number_of_them(tmp_path: Path) -> None:
    _save(tmp_path)
    sizes = {label: 3 if label in ("1e-07", "0.001") else 2 for label in _GRID}
    for strength, heads in sizes.items():
        path = tmp_path / "grid" / f"neuroprune-alpha{strength}-beta0.1" / "seed-1.json"
        record = RunRecord.load(path)
        dataclasses.replace(record, structure=structure([list(range(heads))], [4])).save(path)
    rival = made_up(1, 0.8, 0.0, 1.0, "dsp")
    dataclasses.replace(rival, structure=structure([[0, 1, 2]], [4])).save(
        tmp_path / "grid" / "dsp-heads3" / "seed-1.json"
    )
    (experiment,) = collect(tmp_path).experiments
    (group,) = equal_heads(experiment)
    assert len(group) == 3
    best = best_of_group(group, experiment, "accuracy")
    assert {cell.label for cell in best} == {"neuroprune-alpha0.001-beta0.1", "dsp-heads3"}
    assert "neuroprune-alpha0.001-beta0.1" not in {c.label for c in chosen(experiment).cells}
    assert any(d.stem.endswith("equal-heads") for d in drawings(collect(tmp_path)))


def test_a_column_for_each_of_the_papers_sparsities(tmp_path: Path) -> None:
    _save(tmp_path)
    (experiment,) = collect(tmp_path).experiments
    header, rows = level_rows(chosen(experiment))
    assert header == ["method", "measure", "dense", "25% zero", "50% zero", "80% zero", "95% zero"]
    told = {tuple(row[:2]): row[2:] for row in rows}
    assert told["neuroprune", "accuracy (%)"][1:] == ["89.00", "87.00", "85.00", "70.00"]
    assert told["l1-weights", "accuracy (%)"][1:] == ["-", "86.00", "-", "-"]
    assert {measure for _, measure in told} >= {"accuracy (%)", "training time (x dense)"}


def test_the_nearest_of_several_settings_stands_for_a_method(tmp_path: Path) -> None:
    for size in (48, 51, 54):
        record = made_up(1, size / 100, 0.0, 1.0, "l1")
        record.sizes["pruned"]["weight_sparsity"] = size / 100
        record.save(tmp_path / "some" / f"l1-{size}" / "seed-1.json")
    (experiment,) = collect(tmp_path).experiments
    assert level_rows(experiment)[1][0] == ["l1", "accuracy (%)", "89.00", "51.00"]
    for run in experiment.runs:
        run.record.sizes["pruned"]["weight_sparsity"] = 0.6
    assert level_rows(experiment)[1] == []


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
