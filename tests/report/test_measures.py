"""Numbers behind the figures of heads, degrees and curves, against direct computations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroprune.record import RunRecord
from neuroprune.report import curves, degrees, heads, importance, pace
from neuroprune.report.curves import (
    apart,
    equal_heads,
    heads_left,
    plot_curves,
    plot_equal_heads,
    quality,
    rows_of,
    weight_sparsity,
)
from neuroprune.report.degrees import (
    at_least,
    degree_sd,
    histogram,
    of_role,
    plot_spread,
    pooled_sd,
)
from neuroprune.report.drawings import drawings, main_metric, not_drawn
from neuroprune.report.figure import MARKERS, PALETTE, styles
from neuroprune.report.heads import by_method, plot_relative, removals
from neuroprune.report.importance import (
    heads_removed,
    least_important,
    plot_importance,
    relative_importance,
)
from neuroprune.report.in_turns import in_turns
from neuroprune.report.pace import plot_pace, relative_pace
from neuroprune.report.runs import Cell, Collection, Experiment, Run
from neuroprune.report.structures import Matrix, Structure, read_structure
from tests.report.records import made_up, structure, whole

PATH = Path("seed-1.json")


def cell(label: str, *records: RunRecord) -> Cell:
    runs = [Run(PATH, label, r, read_structure(r.structure, PATH)) for r in records]
    return Cell(label, tuple(runs), label)


def of(*cells: Cell) -> Experiment:
    return Experiment("t", cells, "t", "t")


def left(heads: Sequence[Sequence[int]], neurons: Sequence[int]) -> Structure:
    found = read_structure(structure(heads, neurons), PATH)
    assert found is not None
    return found


# Heads


def test_importance_of_removed_heads_is_relative_to_all_heads() -> None:
    # Importances 1 2 3 4 and 2 4 6 8, mean 3.75. Removed: 3 and 4, then 2, 4 and 6.
    first, second = whole(1, 0.8, [[0, 1], [3]], [4, 4]), whole(2, 0.8, [[3], [0, 1, 2, 3]], [4, 4])
    found = cell("ours", first, second)
    mean = relative_importance(found)
    assert mean is not None and mean.count == 2
    # Seed 2 removed 1, 2 and 3 of the first layer.
    assert mean.mean == pytest.approx(((3 + 4 + 2 + 4 + 6) / 5 / 3.75 + 2 / 3.75) / 2)
    removed = heads_removed(found)
    assert removed is not None and removed.mean == 4.0


def test_without_removed_heads_or_importances_there_is_no_relative_importance() -> None:
    intact = whole(1, 0.8, [[0, 1, 2, 3]], [4])
    silent = whole(1, 0.8, [[0]], [4])
    for block in silent.structure["dense"]["blocks"]:
        block.pop("importance", None)
    for record in (intact, silent, made_up(1, 0.8, 0.5, 1.0)):
        assert relative_importance(cell("ours", record)) is None
        assert heads_removed(cell("ours", record)) is None
    assert least_important(left([[0]], [4])) == pytest.approx([1 / 2.5, 1.5 / 2.5, 2 / 2.5, 1.0])
    dead = whole(1, 0.8, [[0]], [4])
    dead.structure["dense"]["blocks"][0]["importance"] = [0.0] * 4
    assert relative_importance(cell("ours", dead)) is None
    assert relative_importance(cell("ours", silent, whole(2, 0.8, [[0]], [4]))) is None
    notes = list(not_drawn(of(cell("a", silent), cell("b", whole(1, 0.8, [[0]], [4])))))
    assert next(note for note in notes if "important" in note).endswith("removes one: a.")
    assert least_important(cell("ours", dead).structures[0]) == []


def test_removals_count_the_heads_that_are_gone() -> None:
    found = removals([left([[0, 1], [3]], [8, 8]), left([[0], [0, 1, 2, 3]], [8, 8])])
    assert found is not None
    assert found.models == 2
    assert found.layers == ("0", "1")
    assert found.shares == ((0.0, 0.5, 1.0, 1.0), (0.5, 0.5, 0.5, 0.0))
    assert found.total == 4.0  # heads a model: (5 + 3) / 2
    assert found.by_layer == [0.625, 0.375]
    assert found.by_index == [0.25, 0.5, 0.75, 0.5]
    assert found.of_all_removals(found.by_layer) == [0.625, 0.375]
    assert found.of_all_removals(found.by_index) == pytest.approx([0.125, 0.25, 0.375, 0.25])


def test_nothing_removed_has_no_shares() -> None:
    found = removals([left([[0, 1, 2, 3]], [8])])
    assert found is not None
    assert found.total == 0.0
    assert found.of_all_removals(found.by_index) == [0.0] * 4


def test_a_model_without_attention_has_no_heads() -> None:
    data = structure([[0]], [8])
    data["pruned"]["blocks"] = data["pruned"]["blocks"][1:]
    found = read_structure(data, PATH)
    assert found is not None
    assert removals([found]) is None


def test_blocks_may_have_different_numbers_of_heads() -> None:
    data = structure([[0, 1], [0]], [8, 8])
    narrow = data["pruned"]["blocks"][2]
    narrow["dense_units"] = 2
    found = read_structure(data, PATH)
    assert found is not None
    counted = removals([found])
    assert counted is not None
    assert counted.by_index == [0.0, 0.5, 1.0, 1.0]
    assert counted.by_layer == [0.5, 0.5]


def test_removals_of_a_method_are_over_all_its_settings_and_seeds() -> None:
    series = {
        "ours": [
            cell("ours-1", whole(1, 0.8, [[0]], [8]), whole(2, 0.8, [[1]], [8])),
            cell("ours-2", whole(1, 0.8, [[0, 1]], [8]), made_up(2, 0.8, 0.5, 1.0)),
        ],
        "old": [cell("old", made_up(1, 0.8, 0.5, 1.0))],
    }
    found = by_method(series)
    assert list(found) == ["ours"]
    assert found["ours"].models == 3
    assert found["ours"].shares == ((1 / 3, 1 / 3, 1.0, 1.0),)


# Degrees


def matrix_of(degrees: np.ndarray, bins: int = 20) -> Matrix:
    counts, _ = np.histogram(degrees, bins, (0.0, 1.0))
    mean, sd = float(degrees.mean()), float(degrees.std())
    return Matrix(mean, mean, sd, tuple(int(n) for n in counts), None)


def test_the_pooled_deviation_is_that_of_all_rows() -> None:
    random = np.random.default_rng(0)
    rows = [random.beta(a, b, size=n) for a, b, n in ((0.3, 2.0, 70), (5.0, 1.0, 11), (1, 1, 1))]
    found = pooled_sd([matrix_of(degrees) for degrees in rows])
    assert found == pytest.approx(float(np.concatenate(rows).std()), abs=1e-12)
    assert pooled_sd([matrix_of(np.full(9, 0.3))]) == pytest.approx(0.0, abs=1e-7)
    assert pooled_sd([]) is None


def test_shares_of_rows_by_degree_and_from_a_degree_on() -> None:
    random = np.random.default_rng(1)
    rows = [random.uniform(size=50), random.uniform(size=30) ** 2]
    shares = histogram([matrix_of(degrees, 4) for degrees in rows])
    every = np.concatenate(rows)
    assert shares == pytest.approx((np.histogram(every, 4, (0.0, 1.0))[0] / 80).tolist())
    direct = [float((every >= place).mean()) for place in (0.0, 0.25, 0.5, 0.75)]
    assert at_least(shares) == pytest.approx(direct)
    assert histogram([]) == at_least([]) == []


def test_a_gate_is_part_of_the_way_in() -> None:
    data = structure([[0]], [4])
    mlp = data["pruned"]["blocks"][1]
    mlp["matrices"]["gate"] = mlp["matrices"]["down"]
    found = read_structure(data, PATH)
    assert found is not None
    assert len(of_role(found.pruned, "up")) == 2
    assert len(of_role(found.pruned, "down")) == 1


def test_the_deviation_of_a_cell_is_over_the_runs_that_have_one() -> None:
    records = [whole(1, 0.8, [[0]], [4]), whole(2, 0.8, [[0]], [8]), made_up(3, 0.8, 0.5, 1.0)]
    found = degree_sd(cell("ours", *records), "up")
    assert found is not None
    assert (found.mean, found.count) == (pytest.approx(0.25), 2)  # 0.5 and 0
    assert degree_sd(cell("old", records[2]), "up") is None


# Curves


def test_quantities_of_a_cell() -> None:
    ours = cell("ours", whole(1, 0.86, [[0, 1]], [4]), whole(2, 0.88, [[0]], [4]))
    experiment = of(ours)
    heads, weight, accuracy = (
        heads_left(experiment),
        weight_sparsity(),
        quality(experiment, "accuracy"),
    )
    values = [quantity.of(ours) for quantity in (heads, weight, accuracy)]
    assert [v.mean for v in values if v is not None] == pytest.approx([1.5, 56.25, 87.0])
    assert heads.dense is not None
    assert heads.dense.mean == 4.0
    assert accuracy.dense is not None
    assert accuracy.dense.mean == pytest.approx(89.5)  # of 89 and 90
    assert accuracy.title == "accuracy (%)"
    titles = [quantity.title for quantity in rows_of(experiment, "accuracy")]
    assert titles == ["accuracy (%)", "speed, batch 32\n(x dense)", "training time\n(x dense)"]


def test_a_start_that_was_cut_before_has_its_own_name_and_place() -> None:
    runs = [whole(seed, 0.86, [[0, 1]], [4]) for seed in (1, 2)]
    for record in runs:
        record.sizes["dense"] |= {"structural_sparsity": 0.8, "weight_sparsity": 0.8}
    experiment = of(cell("ours", *runs))
    start = weight_sparsity(experiment).dense
    assert start is not None
    assert start.mean == pytest.approx(80.0)
    assert heads_left(experiment).dense is None  # its heads are not in the record
    titles = [quantity.title for quantity in rows_of(experiment, "accuracy")]
    assert titles[1:] == ["speed, batch 32\n(x start)", "training time\n(x start)"]


def _measured(record: RunRecord, **pruned: float) -> RunRecord:
    dense = {name: 2.0 * value for name, value in pruned.items()}
    metrics: dict[str, Any] = {"names": list(pruned), "dense": dense, "pruned": pruned}
    return dataclasses.replace(record, metrics=metrics)


@pytest.mark.parametrize(
    ("metric", "title", "mean"),
    [
        ("f1", "f1 (%)", 50.0),
        ("bleu", "bleu", 0.5),
        ("perplexity", "perplexity, less is better", 0.5),
    ],
)
def test_quality_is_in_per_cent_where_it_is_a_share(metric: str, title: str, mean: float) -> None:
    ours = cell("ours", _measured(made_up(1, 0.0, 0.5, 1.0), **{metric: 0.5}))
    found = quality(of(ours), metric)
    value = found.of(ours)
    assert found.title == title
    assert value is not None
    assert value.mean == mean
    assert found.dense is not None
    assert found.dense.mean == 2.0 * mean


def test_cells_of_two_methods_with_equally_many_heads_are_a_group() -> None:
    def leaving(label: str, method: str, *counts: int) -> Cell:
        records = (
            whole(seed, 0.8, [list(range(n))], [4], method) for seed, n in enumerate(counts, 1)
        )
        return cell(label, *records)

    cells = [
        leaving("ours-2", "neuroprune", 2, 2),
        leaving("ours-4", "neuroprune", 4),
        leaving("ours-also-4", "neuroprune", 4),
        leaving("l1-3", "l1", 3, 3),
        leaving("l1-2", "l1", 2, 1),  # 1.5 on average: within half a head of 2
        leaving("dsp-1", "dsp", 1),  # not of 2, though within half a head of 1.5
        cell("old", made_up(1, 0.8, 0.5, 1.0, "l1")),
    ]
    groups = equal_heads(of(*cells))
    assert [[c.label for c in group] for group in groups] == [["ours-2", "l1-2"]]
    assert equal_heads(of(cells[-1])) == []


def test_heads_that_are_equal_by_chance_or_all_there_are_not_compared() -> None:
    def asked(label: str, kept: list[list[int]], method: str, **setting: Any) -> Cell:
        record = whole(1, 0.8, kept, [4] * len(kept), method)
        return cell(label, dataclasses.replace(record, config={"method": setting}))

    half = [[0], [1]]
    strengths = asked("paper", half, "neuroprune", alpha=0.1)
    dsp = asked("dsp", half, "dsp", heads=2)
    sized = asked("l1", half, "l1", target=["structural:0.5"])
    all_ = [[0, 1, 2, 3]] * 2
    full = asked("a", all_, "neuroprune"), asked("b", all_, "magnitude")
    (found,) = equal_heads(of(strengths, dsp, sized, *full))
    assert [c.label for c in found] == ["paper", "dsp"]


def _timed(seed: int, dense: float, pruned: float) -> RunRecord:
    times = {"dense": {"seconds": dense}, "pruned": {"seconds": pruned}}
    return dataclasses.replace(made_up(seed, 0.8, 0.5, 1.0), training=times)


def test_training_times_are_told_where_they_can_be_compared() -> None:
    one = cell("ours-1", _timed(1, 100.0, 50.0), _timed(2, 130.0, 65.0))
    alike = of(one, cell("ours-2", _timed(1, 108.0, 20.0)))
    assert apart(alike) is None
    assert rows_of(alike, "accuracy")[-1].title == "training time\n(x dense)"
    experiment = of(one, cell("ours-2", _timed(1, 180.0, 20.0)))
    assert apart(experiment) == (1, 100.0, 180.0)
    assert all("training time" not in q.title for q in rows_of(experiment, "accuracy"))
    (note,) = [n for n in not_drawn(experiment) if "training times" in n]
    assert note.startswith("no training times, since the dense run of seed 1 took 100 to 180 s")
    measured = dataclasses.replace(experiment, in_turns={"ours-1": 0.6})
    assert rows_of(dataclasses.replace(alike, in_turns={"ours-1": 0.6}), "accuracy")[-1].title == (
        "training time\n(x dense)"
    )
    row = rows_of(measured, "accuracy")[-1]
    assert row.title == "training time,\nin turns (x dense)"
    assert row.of(measured.cells[1]) is None
    time = row.of(measured.cells[0])
    assert time is not None and (time.mean, time.sd) == (0.6, None)
    (note,) = [n for n in not_drawn(measured) if "training times" in n]
    assert note.startswith("no training times of ours-2, since the dense run of seed 1 took 100")


def test_a_measurement_is_of_the_cells_whose_training_it_took() -> None:
    shared = {"model": {"source": "m"}, "task": {"name": "t"}}
    ours = {"name": "neuroprune", "target": ["structural:0.5"]}

    def configured(label: str, method: dict[str, Any]) -> Cell:
        config = {**shared, "training": {"epochs": 2, "seed": 1}, "method": method}
        return cell(label, dataclasses.replace(made_up(1, 0.8, 0.5, 1.0), config=config))

    def measured(**changes: Any) -> Run:
        trainings = {"ours-50": ours, "l1-50": {"strength": 1.0}, "other-50": ours}
        config = {**shared, "training": {"epochs": 2, "seed": 0}, "trainings": trainings, **changes}
        speeds = {name: {"times_dense": 0.7} for name in trainings}
        record = RunRecord(config=config, method="n", task="time", seed=0, speeds=speeds)
        return Run(Path("m"), "m", record, None)

    experiment = of(configured("ours-50", ours), configured("l1-50", {"strength": 2.0}))
    assert in_turns(experiment, [measured()]) == {"ours-50": 0.7}
    assert in_turns(experiment, [measured(training={"epochs": 3})]) == {}
    assert in_turns(experiment, []) == {}


def test_many_methods_are_drawn_in_parts_with_neuroprune_in_each() -> None:
    names = ["activity", "neuroprune", *(f"rival-{c}" for c in "abcdefgh"), "zeros-a"]
    cells = []
    for name in names:
        method = "neuroprune" if name in ("activity", "neuroprune") else "l1"
        record = made_up(1, 0.8, 0.5, 1.0, method)
        if name.startswith("zeros"):
            record.sizes["pruned"]["structural_sparsity"] = 0.0
        cells.append(cell(name, record))
    collection = Collection((of(*cells),), (), ())
    found = [d for d in drawings(collection) if "curves" in d.stem]
    assert [d.title for d in found] == [
        "Quality, speed and training time (1 of 2)",
        "Quality, speed and training time (2 of 2)",
    ]
    lines = [d.draw.args[2] for d in found]  # type: ignore[attr-defined]
    assert [line[0] for line in lines] == ["neuroprune", "neuroprune"]
    assert lines[0][1] == "activity" and lines[1][-1] == "zeros-a"
    assert {name for line in lines for name in line} == set(names)
    few = Collection((of(*cells[:7]),), (), ())
    assert [d.stem for d in drawings(few) if "curves" in d.stem] == ["t-curves"]


# What the figures leave out


def test_fourteen_methods_are_told_apart() -> None:
    looks = styles([f"method {i}" for i in range(14)])
    assert len(set(looks.values())) == 14
    assert looks["method 0"] == (PALETTE[0], MARKERS[0])


def _notes(*cells: Cell) -> list[str]:
    return list(not_drawn(of(*cells)))


def test_the_first_metric_that_all_have_counts() -> None:
    both = _measured(made_up(1, 0.0, 0.5, 1.0), accuracy=0.8, f1=0.7)
    one = _measured(made_up(1, 0.0, 0.5, 1.0, "l1"), f1=0.6)
    assert main_metric(of(cell("a", both))) == "accuracy"
    mixed = cell("a", both), cell("b", one)
    assert main_metric(of(*mixed)) == "f1"
    assert _notes(*mixed) == ["curves and comparisons are of f1, since not every run has accuracy."]
    assert of(cell("b", one), cell("a", both)).metrics == ["f1", "accuracy"]


def test_cells_without_the_metric_are_named() -> None:
    has = cell("has", made_up(1, 0.8, 0.5, 1.0))
    lost = cell("lost", _measured(made_up(1, 0.0, 0.5, 1.0)))
    assert main_metric(of(has, lost)) == "accuracy"
    assert _notes(has, lost) == ["not in the curves of accuracy, and not compared: lost."]
    assert main_metric(of(lost)) is None
    assert _notes(lost)[0].startswith("no metric that all runs of a cell have")


def test_cells_without_sparsity_patterns_or_removed_heads_are_named() -> None:
    bare = dataclasses.replace(made_up(1, 0.8, 0.5, 1.0), sizes={})
    plain = whole(1, 0.8, [[0, 1, 2, 3]], [4], "l1")
    for block in plain.structure["pruned"]["blocks"]:
        for matrix in block["matrices"].values():
            del matrix["pattern"]
    assert _notes(cell("bare", bare), cell("plain", plain)) == [
        "no weight sparsity, and so in no curve against it: bare.",
        "no patterns, since the records have none: plain.",
        "no picture of removed heads, since none is removed: plain.",
    ]


# Looks: the figure as it is before it is written


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures that were made, none of them written."""
    pytest.importorskip("matplotlib")
    made: list[Any] = []
    for module in (curves, degrees, heads, importance, pace):
        monkeypatch.setattr(module, "save", lambda figure, path: made.append(figure))
    return made


def _colours(figure: Any) -> dict[str, str]:
    from matplotlib.colors import to_hex

    (legend,) = figure.legends
    colours = [handle.get_color() for handle in legend.legend_handles]
    return {  # of bars it is a list of one
        text.get_text(): to_hex(colour if isinstance(colour, str) else colour[0])
        for text, colour in zip(legend.get_texts(), colours, strict=True)
    }


def test_a_method_has_one_colour_in_all_figures(figures: list[Any]) -> None:
    cells = [
        cell("neuroprune", whole(1, 0.8, [[0]], [4])),
        cell("dsp", whole(1, 0.8, [[0]], [4], "dsp")),
        cell("grow", made_up(1, 0.8, 0.5, 1.0, "grow")),  # in no figure of heads or degrees
        cell("l1", whole(1, 0.8, [[1]], [4], "l1")),
    ]
    experiment = of(*cells)
    names = list(experiment.series)
    shown = {name: experiment.series[name] for name in names if name != "grow"}
    plot_curves(experiment, "accuracy", list(experiment.series), PATH)
    plot_relative(by_method(shown), "dsp", names, PATH)
    plot_spread(shown, names, PATH)
    plot_importance(shown, names, PATH)
    all_of_them, *others = map(_colours, figures)
    assert list(all_of_them) == names
    assert others[1].pop("dense") == "#6b6b6b"  # beside the methods, in grey
    assert others[2].pop("least important") == "#6b6b6b"
    for found in others:
        assert set(found) == set(shown)
        assert all(all_of_them[name] == found[name] for name in found if name != "dsp")
    assert len(set(all_of_them.values())) == 4


def test_heads_have_whole_numbers_and_no_column_without_any(figures: list[Any]) -> None:
    plot_curves(of(cell("ours", whole(1, 0.8, [[0, 1]], [4]))), "accuracy", ["ours"], PATH)
    plot_curves(of(cell("old", made_up(1, 0.8, 0.5, 1.0))), "accuracy", ["old"], PATH)
    with_heads, without = (figure.axes for figure in figures)
    titles = [axes.get_xlabel() for axes in with_heads[-2:]]
    assert titles == ["weight sparsity (%)", "heads left"]
    assert all(float(tick).is_integer() for tick in with_heads[-1].get_xticks())
    most, fewest = with_heads[-1].get_xlim()
    assert fewest < 2.0 < most and most - fewest >= 3.0  # one point, and a scale beside it
    assert with_heads[-1].xaxis_inverted()
    assert len(without) == 3
    assert without[-1].get_xlabel() == "weight sparsity (%)"


def test_the_legend_of_many_methods_covers_no_axis(figures: list[Any]) -> None:
    names = ["neuroprune", *(f"method {chr(97 + i)}" for i in range(13))]
    cells = [cell(name, whole(1, 0.8, [[0, 1]], [4], name)) for name in names]
    experiment = of(*cells)
    plot_equal_heads(experiment, equal_heads(experiment), "accuracy", PATH)
    (figure,) = figures
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert len(figure.legends[0].get_texts()) == 14
    assert legend.y1 <= figure.axes[0].xaxis.label.get_window_extent().y0


def _paced(seed: int, dense: Sequence[float], pruned: Sequence[float]) -> RunRecord:
    record = whole(seed, 0.8, [[0]], [4])
    sides = {"dense": {"seconds": 1.0, "pace": dense}, "pruned": {"seconds": 1.0, "pace": pruned}}
    return dataclasses.replace(record, training=sides)


def test_a_pace_is_relative_to_the_same_batches_of_the_dense_run() -> None:
    records = [_paced(1, [2.0, 1.0], [2.0, 0.5]), _paced(2, [1.0, 4.0], [1.0, 0.4])]
    assert relative_pace(records) == pytest.approx([1.0, (0.5 + 0.1) / 2])
    silent = whole(3, 0.8, [[0]], [4])
    assert relative_pace([*records, silent]) == pytest.approx([1.0, 0.3])
    assert relative_pace([silent, _paced(4, [], []), _paced(4, [], [1.0])]) == []
    short = _paced(5, [1.0], [9.0])  # its one part is no half of a training
    assert relative_pace([*records, short]) == pytest.approx([1.0, 0.3])


def test_the_pace_is_drawn_where_it_is_told(figures: list[Any]) -> None:
    told = cell("ours-50", _paced(1, [2.0, 2.0], [2.0, 1.0]))
    silent = cell("ours-80", whole(1, 0.8, [[0]], [4]))
    experiment = of(told, silent)
    paces = [d for d in drawings(Collection((experiment,), (), ())) if "-pace-" in d.stem]
    assert [d.stem for d in paces] == ["t-pace-ours-50"]
    plot_pace("ours", [told, silent], PATH)
    (figure,) = figures
    assert list(_colours(figure)) == ["ours-50 (62%)", "dense"]
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [25.0, 75.0]
    assert list(line.get_ydata()) == [1.0, 0.5]


def test_long_names_stand_in_fewer_columns_and_inside_the_figure(figures: list[Any]) -> None:
    names = ["neuroprune", *(f"a method of a very long name, {chr(97 + i)}" for i in range(6))]
    cells = [cell(name, whole(1, 0.8, [[0, 1]], [4], name)) for name in names]
    experiment = of(*cells)
    plot_curves(experiment, "accuracy", list(experiment.series), PATH)
    plot_equal_heads(experiment, equal_heads(experiment), "accuracy", PATH)
    for figure in figures:
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert 0.0 <= box.x0 and box.x1 <= figure.bbox.width
        assert box.y1 <= min(axes.xaxis.label.get_window_extent().y0 for axes in figure.axes[-1:])


def test_equal_heads_without_a_quality_or_a_sparsity_are_left_out(figures: list[Any]) -> None:
    full, bare = whole(1, 0.8, [[0]], [4]), whole(1, 0.7, [[1]], [4], "l1")
    experiment = of(cell("ours", full), cell("l1", dataclasses.replace(bare, sizes={})))
    plot_equal_heads(experiment, equal_heads(experiment), "accuracy", PATH)
    assert list(_colours(figures[0])) == ["ours"]
    assert list(not_drawn(experiment)) == ["no weight sparsity, and so in no curve against it: l1."]
