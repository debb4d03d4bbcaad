"""Graph measures in the report: those that `topology.graph` wrote, and what may be missing."""

from __future__ import annotations

import copy
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from neuroprune.anatomy import anatomy_of
from neuroprune.record import RunRecord
from neuroprune.report.figure import ReportError
from neuroprune.report.graphs import GraphSummary, graph_summary
from neuroprune.report.page import write_report
from neuroprune.report.runs import Run
from neuroprune.topology.graph import GraphReport, graph_report
from neuroprune.topology.reading import reading
from tests.report.records import made_up, whole
from tests.zoo import make_model

MEASURES = 10


@pytest.fixture(scope="module")
def reports() -> tuple[GraphReport, GraphReport]:
    """Of a dense tiny model, and of one with half of its weights."""
    pytest.importorskip("networkx")
    pytest.importorskip("powerlaw")
    model = make_model("bert")
    anatomy = anatomy_of(model)
    dense = graph_report(anatomy)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in anatomy.blocks():
            for weight in block.matrices():
                weight[torch.rand(weight.shape, generator=generator) < 0.5] = 0.0
    return dense, graph_report(anatomy)


@pytest.fixture
def topology(reports: tuple[GraphReport, GraphReport]) -> dict[str, Any]:
    """As a record holds it."""
    dense, pruned = reports
    return {"dense": dense.to_dict(), "pruned": pruned.to_dict(), "reading": reading(dense, pruned)}


def run(topology: Any, seed: int = 1) -> Run:
    record = dataclasses.replace(made_up(seed, 0.8, 0.5, 1.0), structure={"topology": topology})
    return Run(Path(f"t/ours/seed-{seed}.json"), "ours", record, None)


def summary(*runs: Run) -> GraphSummary:
    found = graph_summary(runs)
    assert found is not None
    return found


def values(found: GraphSummary, kind: str, measure: str) -> tuple[str, str]:
    return next((d, p) for k, m, d, p in found.rows if (k, m) == (kind, measure))


def test_the_rows_are_means_over_the_blocks_of_the_report(
    reports: tuple[GraphReport, GraphReport], topology: dict[str, Any]
) -> None:
    found = summary(run(topology))
    assert len(found.rows) == 2 * MEASURES
    assert (found.seed, found.runs) == (1, 1)
    assert found.reading == tuple(reading(*reports))
    for kind, told in (("attention", "attention"), ("mlp", "MLP")):
        dense, pruned = ([b for b in report.blocks if b.kind == kind] for report in reports)
        degree, gini, modularity = (
            values(found, told, measure)
            for measure in ("mean degree", "Gini of degrees", "strongest 5%: modularity")
        )
        for blocks, side in ((dense, 0), (pruned, 1)):
            assert degree[side] == f"{statistics.fmean(b.degrees.mean for b in blocks):.0f}"
            assert gini[side] == f"{statistics.fmean(b.degrees.gini for b in blocks):.2f}"
            mean = statistics.fmean(b.backbone.modularity for b in blocks)
            assert modularity[side] == f"{mean:.2f}"
            shares = [statistics.fmean(r.share for r in b.effective_rank.values()) for b in blocks]
            rank = values(found, told, "effective rank")[side]
            assert rank == f"{statistics.fmean(shares):.0%}"
    assert int(values(found, "MLP", "mean degree")[1]) < int(values(found, "MLP", "mean degree")[0])


def test_a_heavy_tail_is_what_the_fit_calls_heavy(topology: dict[str, Any]) -> None:
    from neuroprune.topology.tails import Comparison, TailFit

    verdicts = [
        ({"ratio": 3.0, "p": 0.01}, {"ratio": 1.0, "p": 0.5}),
        ({"ratio": 3.0, "p": 0.01}, {"ratio": -1.0, "p": 0.01}),
        ({"ratio": 3.0, "p": 0.5}, {"ratio": 1.0, "p": 0.5}),
        ({"ratio": -3.0, "p": 0.01}, {"ratio": 1.0, "p": 0.5}),
        ({"ratio": 3.0, "p": 0.01}, {"ratio": -1.0, "p": 0.5}),
    ]
    for against, other in verdicts:
        fit = TailFit(exponential=Comparison(**against), lognormal=Comparison(**other))
        for of, degrees in (
            ("degrees", lambda block: block["degrees"]),
            ("strongest 5%", lambda block: block["backbone"]["degrees"]),
        ):
            for block in topology["pruned"]["blocks"]:
                degrees(block)["tail"] |= {"exponential": against, "lognormal": other}
            told = values(summary(run(topology)), "MLP", f"{of}: blocks with a heavy tail")[1]
            assert told == ("100%" if fit.is_heavy else "0%")


def test_the_exponent_is_that_of_all_degrees(topology: dict[str, Any]) -> None:
    blocks = [b for b in topology["pruned"]["blocks"] if b["kind"] == "mlp"]
    for number, block in enumerate(blocks):
        block["degrees"]["tail"]["alpha"] = 2.0 + number
    told = values(summary(run(topology)), "MLP", "degrees: exponent of a power law")
    assert told == ("-", f"{2.0 + (len(blocks) - 1) / 2:.1f}")  # dense: all degrees are equal


def test_values_that_could_not_be_computed_are_left_out(topology: dict[str, Any]) -> None:
    blocks = [b for b in topology["pruned"]["blocks"] if b["kind"] == "mlp"]
    for block in blocks:
        block["backbone"]["small_world"]["sigma"] = None
        block["backbone"]["degrees"]["tail"] |= {"exponential": None, "lognormal": None}
        block["effective_rank"] = {}
    found = summary(run(topology))
    assert values(found, "MLP", "strongest 5%: blocks with a heavy tail")[1] == "-"
    assert values(found, "MLP", "effective rank")[1] == "-"
    assert values(found, "MLP", "strongest 5%: sigma")[1] == "-"
    blocks[0]["backbone"]["small_world"]["sigma"] = 1.25
    assert values(summary(run(topology)), "MLP", "strongest 5%: sigma")[1] == "1.25"


def test_runs_are_averaged_and_the_reading_is_of_the_first(topology: dict[str, Any]) -> None:
    other = copy.deepcopy(topology) | {"reading": ["Something else."]}
    for block in other["pruned"]["blocks"]:
        block["degrees"]["mean"] = 0.0
    bare = Run(Path("seed-1.json"), "ours", made_up(1, 0.8, 0.5, 1.0), None)
    found = summary(bare, run(topology, 2), run(other, 3))
    assert (found.seed, found.runs) == (2, 2)
    assert found.reading == tuple(topology["reading"])
    one = summary(run(topology))
    half = float(values(one, "MLP", "mean degree")[1]) / 2
    assert float(values(found, "MLP", "mean degree")[1]) == pytest.approx(half, abs=0.5)


def test_a_kind_of_block_that_is_not_there_has_no_rows(topology: dict[str, Any]) -> None:
    for side in ("dense", "pruned"):
        topology[side]["blocks"] = [b for b in topology[side]["blocks"] if b["kind"] == "mlp"]
    assert {row[0] for row in summary(run(topology)).rows} == {"MLP"}


def test_without_measures_there_is_no_summary() -> None:
    record = whole(1, 0.8, [[0]], [4])
    assert graph_summary([Run(Path("a"), "a", record, None)]) is None
    assert graph_summary([]) is None


@pytest.mark.parametrize(
    "damaged",
    [
        [],
        {"dense": {"blocks": []}},
        {"dense": {"blocks": []}, "pruned": {"blocks": []}},
        {"dense": {"blocks": []}, "pruned": {"blocks": []}, "reading": "one text"},
        {"dense": {"blocks": []}, "pruned": {"blocks": [{"kind": "mlp"}]}, "reading": []},
    ],
)
def test_damaged_measures_are_refused_and_their_file_named(
    topology: dict[str, Any], damaged: Any
) -> None:
    with pytest.raises(ReportError, match="expected graph measures") as caught:
        graph_summary([run(topology), run(damaged, 2)])
    assert str(caught.value).startswith("t/ours/seed-2.json: ")


def _with_measures(topology: Any, seed: int) -> RunRecord:
    record = whole(seed, 0.8, [[0]], [4])
    return dataclasses.replace(record, structure={**record.structure, "topology": topology})


def test_the_page_has_the_measures_and_says_whose_words_they_are(
    tmp_path: Path, topology: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2")
    monkeypatch.setattr("neuroprune.report.page.drawings", lambda found: [])
    for seed in (1, 2):
        _with_measures(topology, seed).save(tmp_path / f"results/t/ours/seed-{seed}.json")
    text = write_report(tmp_path / "results", tmp_path / "out").page.read_text()
    assert "<h4>ours, 2 runs</h4>" in text
    assert "In words, of seed 1 alone:" in text
    assert '<th scope="row" class="text">strongest 5%: modularity</th>' in text


def test_damaged_measures_are_found_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2")
    drawn: list[Path] = []
    monkeypatch.setattr("neuroprune.report.drawings.plot_heads", lambda *args: drawn.append(args))
    _with_measures({}, 1).save(tmp_path / "results/t/ours/seed-1.json")
    with pytest.raises(ReportError, match=r"seed-1\.json: expected graph measures"):
        write_report(tmp_path / "results", tmp_path / "out")
    assert drawn == []
    assert not (tmp_path / "out").exists()
