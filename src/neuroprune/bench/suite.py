"""Many experiments: find configurations, skip what is done, run the rest, keep the records."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroprune.bench.config import RunConfig
from neuroprune.config import ConfigError
from neuroprune.record import RecordError, RunRecord

CONFIG_NAME = "config.toml"


@dataclass(frozen=True)
class Job:
    """One seed of one experiment.

    Args:
        name: `<task>/<method>-<setting>`, the last two folders above the configuration.
        config: the configuration, for this seed.
        record: where its record is, or will be.
    """

    name: str
    config: RunConfig
    record: Path

    @property
    def title(self) -> str:
        """Name and seed."""
        return f"{self.name}, seed {self.config.training.seed}"

    @property
    def done(self) -> bool:
        """Whether the record is there and was made with exactly this configuration."""
        if not self.record.is_file():
            return False
        try:
            return dict(RunRecord.load(self.record).config) == self.config.to_dict()
        except RecordError:
            return False  # an older version's record is made again


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


def find_configs(paths: Iterable[Path]) -> list[Path]:
    """Every configuration named, and every `config.toml` below a folder named; sorted, each once.

    Raises:
        ConfigError: a path does not exist, or a folder holds no configuration.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_file():
            found[path] = None
            continue
        inside = sorted(path.rglob(CONFIG_NAME)) if path.is_dir() else []
        if not inside:
            what = f"no {CONFIG_NAME} below it" if path.is_dir() else "no such file or folder"
            raise ConfigError(
                f"{path}: {what}. Give experiment folders such as benchmarks/experiments/sst2, "
                "or configurations."
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


def jobs(
    configs: Iterable[Path],
    results: Path,
    seeds: Sequence[int] | None = None,
    change: Callable[[RunConfig], RunConfig] = lambda config: config,
) -> Iterator[Job]:
    """One job for each seed of each configuration.

    Args:
        configs: configuration files.
        results: folder of the records.
        seeds: in place of the seeds of the configurations.
        change: applied to every configuration, for settings given on the command line.

    Raises:
        ConfigError: a configuration is wrong; the file is named.
    """
    for path in configs:
        config, name = change(RunConfig.load(path)), job_name(path)
        for seed in seeds or config.seeds or (config.training.seed,):
            record = results / name / f"seed-{seed}.json"
            yield Job(name, config.with_seed(seed), record)


def run_suite(
    todo: Sequence[Job],
    run: Callable[[Job, Path], RunRecord],
    work: Path,
    say: Callable[[str], None],
    keep_models: bool = False,
) -> SuiteResult:
    """Run jobs one after the other; a failed one does not stop the others.

    Args:
        todo: the jobs.
        run: runs a job in the folder it is given, which takes the models, and returns its record.
        work: folder of those folders.
        say: receives one line before and after each job.
        keep_models: leave the pruned models there.
    """
    skipped = tuple(job for job in todo if job.done)
    waiting = [job for job in todo if job not in skipped]
    for job in skipped:
        say(f"{job.title}: done before, {job.record}")
    ran: list[Job] = []
    failed: list[tuple[Job, str]] = []
    start = time.perf_counter()
    for number, job in enumerate(waiting, 1):
        say(f"[{number}/{len(waiting)}] {job.title}")
        folder = work / job.name / f"seed-{job.config.training.seed}"
        try:
            run(job, folder).save(job.record)
        except RuntimeError as error:
            failed.append((job, str(error)))
            say(f"{job.title}: failed: {error}")
            continue
        ran.append(job)
        if not keep_models:
            shutil.rmtree(folder, ignore_errors=True)
        mean = (time.perf_counter() - start) / number
        left = len(waiting) - number
        say(f"{job.title}: {job.record}" + (f"; about {clock(mean * left)} to go" if left else ""))
    return SuiteResult(tuple(ran), skipped, tuple(failed))


def clock(seconds: float) -> str:
    """A duration for people: "45 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
