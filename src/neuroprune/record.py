"""`RunRecord`: what was run, on what, and what came out. One JSON file, standard library only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

RECORD_VERSION = 1
_TOLD = 3  # differences between two configurations that a message names
_SECTIONS = ("config", "metrics", "sizes", "speeds", "structure", "training", "environment")
_TABLES = {  # what is an object wherever it is there
    "metrics": ("dense", "pruned"),
    "sizes": ("dense", "pruned"),
    "speeds": ("dense", "speedup"),
    "training": ("dense", "pruned"),
    "environment": ("packages",),
}
_PACKAGES = ("neuroprune", "torch", "transformers", "accelerate", "datasets", "numpy")


@cache  # of the first call: the files may change while a process runs the code it has read
def _source() -> str:
    """Digest of this package's own code: between two releases the version says too little."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class RecordError(ValueError):
    """A file is not a RunRecord of this version."""


def environment(threads: int | None = None) -> dict[str, Any]:
    """Machine, interpreter, package versions and a digest of this code, for the record.

    Args:
        threads: the number of compute threads the run used.
    """
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "packages": versions,
        "source": _source(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def write_text_atomic(path: Path | str, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)  # mkstemp makes private files; give the mode any new file would have
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run: its configuration, seed and results.

    Args:
        config: the run's configuration, complete enough to replay it.
        method: name of the method ("dense" for the unpruned run).
        task: name of the task.
        seed: the run's seed.
        metrics: quality by name, on the split named in the config.
        sizes: parameters, sparsities with their denominators, bytes on disk, FLOPs.
        speeds: medians and inter-quartile ranges, seconds.
        structure: what is left of every matrix, as `topology.structure` tells it.
        training: seconds, steps, step-time statistics.
        environment: machine, threads, versions.
        created: ISO 8601, UTC.
    """

    config: Mapping[str, Any]
    method: str
    task: str
    seed: int
    metrics: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    speeds: Mapping[str, Any] = field(default_factory=dict)
    structure: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def target(self) -> str:
        """What was asked for, such as "structural:0.8"; empty for a method without a target."""
        method = self.config.get("method")
        method = method if isinstance(method, Mapping) else {}
        heads, asked = method.get("heads"), method.get("target")
        if asked is None:
            return "" if heads is None else f"heads:{heads}"
        share = "weights" if method.get("structure") == "weights" else "structural"
        targets = asked if isinstance(asked, list | tuple) else [asked]
        return ", ".join(t if isinstance(t, str) else f"{share}:{t}" for t in targets)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, with the record's version and what was asked for."""
        return {
            "record_version": RECORD_VERSION,
            **dataclasses.asdict(self),
            "target": self.target,
        }

    def save(self, path: Path | str) -> None:
        """Write the record as JSON, atomically.

        Args:
            path: the file.

        Raises:
            RecordError: a value is NaN or infinite.
        """
        try:
            text = json.dumps(self.to_dict(), indent=2, sort_keys=True, allow_nan=False)
        except ValueError as error:
            raise RecordError(
                "a record holds a NaN or an infinite number, which JSON cannot. Leave "
                "the value out, or find out why it was not computed."
            ) from error
        write_text_atomic(path, text + "\n")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunRecord:
        """Read what `to_dict` wrote.

        Raises:
            RecordError: not a record, a record of another version, or one with a value that is not
                of the form that every record has there.
        """
        version = data.get("record_version") if isinstance(data, Mapping) else None
        if version != RECORD_VERSION:
            raise RecordError(
                f"expected a RunRecord of version {RECORD_VERSION}, got {version!r}. "
                "Run the experiment again with this neuroprune."
            )
        values = {k: v for k, v in data.items() if k not in {"record_version", "target"}}
        names = {f.name for f in dataclasses.fields(cls)}
        if set(values) - names or {"config", "method", "task", "seed"} - set(values):
            raise RecordError(f"a RunRecord has the keys {sorted(names)}; got {sorted(values)}.")
        record = cls(**values)
        wrong = _wrong_form(record)
        if wrong:
            raise RecordError(f"{wrong}. Make the record again, or remove it.")
        return record

    @classmethod
    def load(cls, path: Path | str) -> RunRecord:
        """Read a record from a JSON file.

        Raises:
            RecordError: the file is not JSON, or not a record of this version; the file is named.
        """
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:  # no text, no JSON, or JSON without an end
            raise RecordError(f"{path} is not a RunRecord: {error}") from error
        try:
            return cls.from_dict(data)
        except RecordError as error:
            raise RecordError(f"{path}: {error}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _wrong_form(record: RunRecord) -> str:
    """What is not as every record has it; empty where all is well."""
    if isinstance(record.seed, bool) or not isinstance(record.seed, int):
        return f"expected an integer as seed, got {record.seed!r}"
    for name in ("method", "task"):
        if not isinstance(getattr(record, name), str):
            return f"expected a name as {name}, got {getattr(record, name)!r}"
    for name in _SECTIONS:
        value = getattr(record, name)
        if not isinstance(value, Mapping):
            return f"expected an object as {name}, got {value!r:.80}"
        for side in _TABLES.get(name, ()):
            if not isinstance(value.get(side, {}), Mapping):
                return f"expected an object as {name}.{side}, got {value[side]!r:.80}"
    return _wrong_numbers(record)


def _wrong_numbers(record: RunRecord) -> str:
    names = record.metrics.get("names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return f"expected names as metrics.names, got {names!r:.80}"
    for side in _TABLES["training"]:
        pace = record.training.get(side, {}).get("pace", [])
        if not isinstance(pace, list) or not all(map(_is_time, pace)):
            return f"expected times above 0 as training.{side}.pace, got {pace!r:.80}"
    if not record.metrics:
        return ""  # a measurement, which may have speeds of its own
    odd = [batch for batch in record.speeds.get("dense", {}) if not batch.isdecimal()]
    return f"expected batch sizes in speeds.dense, got {odd[0]!r}" if odd else ""


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0.0 < value < math.inf


# Settings younger than some records, with the value that says what the code did before.
_BEFORE = {"method.lr_growth": 0.0}


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configurations of records differ: dotted name -> both values.

    A setting that is null says no more than an absent one, and one that is younger than one side
    has there the value that it was made with.

    Args:
        old: a configuration.
        new: another.

    Returns:
        By name, in order; None stands for an absent value.
    """
    was, now = (dict(_settings(side)) for side in (old, new))
    for key in {*was, *now} & _BEFORE.keys():
        was.setdefault(key, _BEFORE[key])
        now.setdefault(key, _BEFORE[key])
    names = sorted({*was, *now})
    return {k: (was.get(k), now.get(k)) for k in names if was.get(k) != now.get(k)}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In which settings two configurations differ: "training.epochs 1, now 2"; empty for none.

    A setting that one of them lacks is "absent" there; none at all are "an empty one".

    Args:
        old: that of a record.
        new: the one it is compared with.
    """
    if new and not old:
        return "an empty one"
    found = differing(old, new)
    told = [f"{key} {_told(was)}, now {_told(now)}" for key, (was, now) in found.items()]
    more = [f"{len(told) - _TOLD} more"] if len(told) > _TOLD else []
    return "; ".join(told[:_TOLD] + more)


def _told(value: Any) -> str:
    return "absent" if value is None else str(value)


def _settings(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every setting; an empty table is a value."""
    for key, value in data.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping) and value:
            yield from _settings(value, name)
        else:
            yield name, value
