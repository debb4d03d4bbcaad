"""Suites: names, skipping, failures, time left. Nothing is trained here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from neuroprune.bench.config import RunConfig
from neuroprune.bench.suite import (
    Job,
    State,
    clock,
    find_configs,
    job_name,
    jobs_of,
    run_suite,
)
from neuroprune.config import ConfigError
from neuroprune.plan import PlanError
from neuroprune.record import RunRecord
from neuroprune.tasks import DataError

CONFIG = """
seeds = [1, 2]
[model]
source = "some/model"
[task]
kind = "classification"
name = "sst2"
files = { train = "train.jsonl", validation = "dev.jsonl" }
"""


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    for name in ("sst2/l1-penalty", "sst2/neuroprune-paper", "mrpc/l1-penalty"):
        folder = tmp_path / "experiments" / name
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(CONFIG)
    return tmp_path / "experiments"


def jobs(
    configs: Iterable[Path], results: Path, seeds: Sequence[int] | None = None
) -> Iterator[Job]:
    """Of experiments, as `neuroprune bench run` makes them."""
    for path in configs:
        yield from jobs_of(job_name(path), RunConfig.load(path), path, results, seeds)


def _record(job: Job, _: Path) -> RunRecord:
    config = job.config
    return RunRecord(config=config.to_dict(), method="l1", task="sst2", seed=config.training.seed)


def test_every_config_below_a_folder_is_found_once(experiments: Path) -> None:
    found = find_configs([experiments / "sst2", experiments / "sst2/l1-penalty/config.toml"])
    assert [path.parent.name for path in found] == ["l1-penalty", "neuroprune-paper"]


def test_a_folder_without_experiments_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.toml below it"):
        find_configs([tmp_path])
    with pytest.raises(ConfigError, match="no such file or folder"):
        find_configs([tmp_path / "absent"])


def test_names_are_task_and_setting(tmp_path: Path) -> None:
    base = tmp_path / "experiments"
    assert job_name(base / "sst2/l1-penalty/config.toml") == "sst2/l1-penalty"
    assert job_name(base / "demo/config.toml") == "demo/default"
    assert job_name(base / "demo/quick.toml") == "demo/quick"
    assert job_name(tmp_path / "elsewhere/mine.toml") == "elsewhere/mine"


def test_one_job_and_one_record_per_seed(experiments: Path, tmp_path: Path) -> None:
    todo = list(jobs(find_configs([experiments / "sst2"]), tmp_path / "results"))
    assert [str(job.record.relative_to(tmp_path)) for job in todo] == [
        "results/sst2/l1-penalty/seed-1.json",
        "results/sst2/l1-penalty/seed-2.json",
        "results/sst2/neuroprune-paper/seed-1.json",
        "results/sst2/neuroprune-paper/seed-2.json",
    ]
    assert [job.config.training.seed for job in todo] == [1, 2, 1, 2]


def test_what_is_done_is_skipped_and_what_changed_is_not(experiments: Path, tmp_path: Path) -> None:
    results, work = tmp_path / "results", tmp_path / "work"
    lines: list[str] = []
    first = list(jobs(find_configs([experiments / "mrpc"]), results))
    assert len(run_suite(first, _record, work, lines.append).ran) == 2
    again = run_suite(first, _record, work, lines.append)
    assert (len(again.ran), len(again.skipped)) == (0, 2)
    changed = experiments / "mrpc/l1-penalty/config.toml"
    changed.write_text(CONFIG + "[training]\nepochs = 1\n")
    third = run_suite(list(jobs([changed], results)), _record, work, lines.append)
    assert (len(third.ran), len(third.skipped)) == (2, 0)


def test_a_damaged_record_is_made_again(experiments: Path, tmp_path: Path) -> None:
    todo = list(jobs(find_configs([experiments / "mrpc"]), tmp_path / "results", seeds=[5]))
    run_suite(todo, _record, tmp_path / "work", lambda _: None)
    todo[0].record.write_text(json.dumps({"record_version": 0}))
    result = run_suite(todo, _record, tmp_path / "work", lambda _: None)
    assert len(result.ran) == 1


@pytest.mark.parametrize("error", [RuntimeError, DataError, PlanError, OSError])
def test_a_failed_job_does_not_stop_the_others(
    error: type[Exception], experiments: Path, tmp_path: Path
) -> None:
    def run(job: Job, folder: Path) -> RunRecord:
        if job.config.training.seed == 1:
            raise error("the loss became nan")
        return _record(job, folder)

    todo = list(jobs(find_configs([experiments / "mrpc"]), tmp_path / "results"))
    lines: list[str] = []
    result = run_suite(todo, run, tmp_path / "work", lines.append)
    assert [job.config.training.seed for job in result.ran] == [2]
    assert result.failed[0][1] == "the loss became nan"
    assert not todo[0].record.exists()
    assert any("about" in line and "to go" in line for line in lines) is False
    assert "mrpc/l1-penalty, seed 1: failed: the loss became nan" in lines


def test_models_are_kept_once_their_record_is_saved(experiments: Path, tmp_path: Path) -> None:
    """Not before: what cannot be kept must not cost a run that is done."""
    todo = list(jobs(find_configs([experiments / "mrpc"]), tmp_path / "results"))
    kept = []

    def run(job: Job, folder: Path) -> RunRecord:
        folder.mkdir(parents=True)
        return _record(job, folder)

    def keep(job: Job, folder: Path) -> None:
        assert job.record.is_file()
        kept.append(folder)

    run_suite(todo, run, tmp_path / "work", lambda _: None, keep)
    assert kept == [tmp_path / f"work/mrpc/l1-penalty/seed-{seed}" for seed in (1, 2)]
    assert all(folder.is_dir() for folder in kept)


def test_time_left_is_told_while_jobs_wait(experiments: Path, tmp_path: Path) -> None:
    todo = list(jobs(find_configs([experiments / "mrpc"]), tmp_path / "results"))
    lines: list[str] = []
    run_suite(todo, _record, tmp_path / "work", lines.append)
    assert any("; about 0 s to go" in line for line in lines)


def test_a_record_of_an_empty_configuration_is_said_to_be_one(
    experiments: Path, tmp_path: Path
) -> None:
    (job,) = jobs(find_configs([experiments / "mrpc"]), tmp_path / "results", seeds=[1])
    RunRecord(config={}, method="l1", task="sst2", seed=1).save(job.record)
    assert job.look() == (State.STALE, "made with another configuration: an empty one")


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (600, "10 min"), (12600, "3.5 h")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
