"""The shipped experiments: they load, share their dense runs, and name no place of one machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neuroprune.bench.config import RunConfig
from neuroprune.bench.suite import find_configs, job_name

EXPERIMENTS = Path(__file__).parents[2] / "benchmarks" / "experiments"
CONFIGS = find_configs([EXPERIMENTS])


@pytest.mark.parametrize("path", CONFIGS, ids=job_name)
def test_an_experiment_loads_and_is_independent_of_the_machine(path: Path) -> None:
    config = RunConfig.load(path)
    assert RunConfig.from_dict(config.to_dict()) == config
    source = config.model.source
    assert source is None or source.startswith(("pypi:", "$NEUROPRUNE_MODELS/"))
    for files in (config.task.files or {}).values():
        for file in [files] if isinstance(files, str) else files:
            assert not Path(file).is_absolute()
            assert ".." not in Path(file).parts


@pytest.mark.parametrize("path", CONFIGS, ids=job_name)
def test_files_come_with_the_name_of_a_public_set(path: Path) -> None:
    if RunConfig.load(path).task.files is not None:
        assert "--data-dir or $NEUROPRUNE_DATA" in path.read_text(encoding="utf-8")
        assert 'dataset = "' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CONFIGS, ids=job_name)
def test_a_file_says_what_it_computes(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    told = " ".join(line for line in lines if line.startswith("#"))
    assert re.search(r"Compute\b.* steps|\d min a seed", told)


@pytest.mark.parametrize(
    ("task", "count"),
    [
        ("sst2", 2),
        ("sst2-target", 3),
        ("sst2-one-knob", 3),
        ("mrpc-target", 2),
        ("connectivity", 7),
    ],
)
def test_methods_of_one_task_share_their_dense_runs(task: str, count: int) -> None:
    configs = [RunConfig.load(path) for path in find_configs([EXPERIMENTS / task])]
    assert len(configs) == count
    assert len({config.with_seed(1).dense_digest for config in configs}) == 1
    assert len({config.digest for config in configs}) == count
    assert {config.seeds for config in configs} == {(1, 2, 3)}


def test_the_tasks_that_are_asked_for_are_there() -> None:
    tasks = {job_name(path).split("/")[0] for path in CONFIGS}
    assert tasks == {
        "connectivity",
        "demo",
        "sst2",
        "snapshots",
        "sst2-one-knob",
        "sst2-target",
        "mrpc-target",
        "scitldr",
        "multi30k",
        "multi30k-scratch",
        "paper",
        "wikitext2",
        "pretraining-opt",
        "pretraining-bert",
        "reviews",
        "sst2-to-reviews",
        "sst2-dense-to-reviews",
        "mrpc-to-rte",
        "rte-to-mrpc",
        "post-training",
    }
