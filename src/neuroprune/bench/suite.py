"""Many experiments: find configurations, skip what is done, run the rest, keep the records."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from neuroprune.bench.config import RunConfig
from neuroprune.config import ConfigError
from neuroprune.record import RecordError, RunRecord, differences, write_text_atomic
from neuroprune.report.names import number

_FAILURES = (RuntimeError, ValueError, ImportError, OSError)  # the library's own, and a full disk

CONFIG_NAME = "config.toml"
FAILURE_SUFFIX = ".failed.txt"


class State(StrEnum):
    """How a job stands.

    done: its record is there and was made with exactly its configuration.
    stale: a record is there, of another configuration or another record version.
    failed: its last run failed.
    missing: it has not been run.
    """

    DONE = "done"
    STALE = "stale"
    FAILED = "failed"
    MISSING = "missing"


@dataclass(frozen=True)
class Job:
    """One seed of one experiment.

    Args:
        name: `<task>/<method>-<setting>`, the last two folders above the configuration.
        config: the configuration, for this seed.
        record: where its record is, or will be.
        source: the file it comes from.
    """

    name: str
    config: RunConfig
    record: Path
    source: Path

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.config.training.seed

    @property
    def title(self) -> str:
        """Name and seed."""
        return f"{self.name}, seed {self.seed}"

    @property
    def failure(self) -> Path:
        """Where the reason is kept when it fails, beside the record."""
        return self.record.with_suffix(FAILURE_SUFFIX)

    @property
    def done(self) -> bool:
        """Whether the record is there and was made with exactly this configuration."""
        return self.look()[0] is State.DONE

    def look(self) -> tuple[State, str]:
        """How the job stands, and why it is not done."""
        stale = _stale(self.record, self.config) if self.record.is_file() else None
        if stale == "":
            return State.DONE, ""
        if self.failure.is_file():
            return State.FAILED, self.failure.read_text(encoding="utf-8").strip()
        return (State.MISSING, "") if stale is None else (State.STALE, stale)


def _stale(record: Path, config: RunConfig) -> str:
    """Why a record is not that of a configuration; empty where it is."""
    try:
        made_with = RunRecord.load(record).config
    except RecordError as error:
        return str(error)
    found = differences(made_with, config.to_dict())
    return f"made with another configuration: {found}" if found else ""


@dataclass(frozen=True)
class SuiteResult:
    """What a suite did.

    Args:
        ran: jobs that ran now.
        skipped: jobs whose record was there.
        failed: jobs that failed, with the reason.
    """

    ran: tuple[Job, ...]
    skipped: tuple[Job, ...]
    failed: tuple[tuple[Job, str], ...]


def is_config(path: Path) -> bool:
    """Whether a file found in a folder is an experiment: its name says so."""
    return path.name == CONFIG_NAME


def find_configs(paths: Iterable[Path], wanted: Callable[[Path], bool] = is_config) -> list[Path]:
    """Every file named, and every wanted one below a folder named; sorted, each once.

    Args:
        paths: files and folders.
        wanted: which TOML files of a folder are meant.

    Raises:
        ConfigError: a path does not exist, or a folder holds nothing that is wanted.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_file():
            found[path] = None
            continue
        inside = sorted(filter(wanted, path.rglob("*.toml"))) if path.is_dir() else []
        if not inside:
            what = f"no {CONFIG_NAME} below it" if path.is_dir() else "no such file or folder"
            raise ConfigError(
                f"{path}: {what}. Give experiment folders such as benchmarks/experiments/sst2, "
                "configurations, or matrices such as benchmarks/matrices/sst2.toml."
            )
        found |= dict.fromkeys(inside)
    return list(found)


def job_name(config: Path) -> str:
    """`<task>/<method>-<setting>` of `.../<task>/<method>-<setting>/config.toml`.

    A configuration of another name adds it: `.../<task>/<name>` of `.../<task>/<name>.toml`. One
    that lies only one folder deep, such as `experiments/demo/config.toml`, is `demo/default`.
    """
    parts = list(config.resolve().parent.parts)
    own = [] if config.name == CONFIG_NAME else [config.stem]
    if "experiments" in parts:
        below = parts[len(parts) - parts[::-1].index("experiments") :] + own
        return "/".join(below if len(below) > 1 else [*below, "default"])
    return "/".join((parts + own)[-2:])


def jobs_of(
    name: str, config: RunConfig, source: Path, results: Path, seeds: Sequence[int] | None = None
) -> Iterator[Job]:
    """One job for each seed of a configuration.

    Args:
        name: of the jobs, and the folder of their records.
        config: the configuration.
        source: the file it comes from.
        results: folder of the records.
        seeds: in place of the configuration's.
    """
    for seed in seeds or config.seeds or (config.training.seed,):
        record = results / name / f"seed-{seed}.json"
        yield Job(name, config.with_seed(seed), record, source)


def seed_by_seed(todo: Iterable[Job]) -> list[Job]:
    """The first seed of every experiment, then the second of every one, and so on.

    After an interruption, all of them have as many seeds as possible.

    Args:
        todo: the jobs, the seeds of each experiment in order.
    """
    met: Counter[str] = Counter()
    ranked = []
    for job in todo:
        ranked.append((met[job.name], job))
        met[job.name] += 1
    return [job for _, job in sorted(ranked, key=lambda pair: pair[0])]


def run_suite(
    todo: Sequence[Job],
    run: Callable[[Job, Path], RunRecord],
    work: Path,
    say: Callable[[str], None],
    keep: Callable[[Job, Path], object] | None = None,
) -> SuiteResult:
    """Run jobs one after the other; a failed one does not stop the others.

    Why a job failed is kept beside its record, until it succeeds.

    Args:
        todo: the jobs.
        run: runs a job in the folder it is given, which takes the models, and returns its record.
        work: folder of those folders.
        say: receives one line before each job, with the time left, and one after it.
        keep: leave the models there, and call this with a job and its folder once its record is
            saved; None leaves nothing.
    """
    done = {job.record for job in todo if job.done}
    waiting = [job for job in todo if job.record not in done]
    say(f"{number(len(todo), 'run')}: {len(done)} done before, {len(waiting)} to do")
    ran: list[Job] = []
    failed: list[tuple[Job, str]] = []
    spent = 0.0
    for position, job in enumerate(waiting, 1):
        state, reason = job.look()
        if state is State.DONE:  # by another process, since this one began
            done.add(job.record)
            continue
        left = len(waiting) - position + 1
        time_left = f"; about {clock(spent / len(ran) * left)} to go" if ran else ""
        again = f"; again, since its record was {reason}" if state is State.STALE else ""
        say(f"[{position}/{len(waiting)}] {job.title}{time_left}{again}")
        folder = work / job.name / f"seed-{job.seed}"
        start = time.perf_counter()
        try:
            run(job, folder).save(job.record)
        except _FAILURES as error:  # such as a target this model cannot meet, or a full disk
            failed.append((job, str(error)))
            write_text_atomic(job.failure, f"{error}\n")
            say(f"{job.title}: failed: {error}")
            continue
        spent += time.perf_counter() - start
        ran.append(job)
        job.failure.unlink(missing_ok=True)
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            keep(job, folder)
        say(f"{job.title}: {job.record}")
    skipped = tuple(job for job in todo if job.record in done)
    return SuiteResult(tuple(ran), skipped, tuple(failed))


def clock(seconds: float) -> str:
    """A duration for people: "45 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
