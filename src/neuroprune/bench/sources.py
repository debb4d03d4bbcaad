"""Which files the records of a results folder are made from, and where they are kept.

In a repository they lie beside the results, in `matrices/` and `experiments/`. Elsewhere
`neuroprune bench run` leaves a copy among the records, so that a report knows what was wanted:
`RESULTS/NAME/matrix.toml` and `RESULTS/NAME/CELL/config.toml`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from neuroprune.bench.matrix import is_matrix, read_toml
from neuroprune.bench.suite import CONFIG_NAME, find_configs, is_config, job_name
from neuroprune.record import write_text_atomic

_MATRIX_NAME = "matrix.toml"


def sources_of(results: Path, name: str) -> list[Path]:
    """The matrix files and the experiment folder that the records of `name` are made from.

    Args:
        results: folder of the records; `experiments/` and `matrices/` are looked for beside it, and
            where there is nothing, copies among the records.
        name: experiment folder inside it.

    Raises:
        ConfigError: a matrix beside the results is not TOML.
    """
    folder = results.parent / "experiments" / name
    found = [file for file, own in _matrices_beside(results).items() if own == name]
    found += [folder] if any(folder.rglob(CONFIG_NAME)) else []
    if found:
        return found
    copied = results / name / _MATRIX_NAME
    if copied.is_file():
        found.append(copied)
    elif any((results / name).rglob(CONFIG_NAME)):
        found.append(results / name)
    return found


def keep_sources(paths: Iterable[Path], results: Path) -> None:
    """Leave copies of matrices and configurations among their records.

    Where `sources_of` finds files beside the results, nothing is copied. An older copy is replaced.

    Args:
        paths: experiment folders, configurations, matrices, or folders of any of them.
        results: folder of the records.

    Raises:
        ConfigError: a path does not exist, or a file is not TOML.
        OSError: a copy cannot be written.
    """
    for path in find_configs(paths, lambda file: is_config(file) or is_matrix(file)):
        if is_matrix(path):
            name = str(read_toml(path).get("name"))
            copy = results / name / _MATRIX_NAME
        else:
            name, _, cell = job_name(path).partition("/")
            copy = results / name / cell / CONFIG_NAME
        beside = [file for file in sources_of(results, name) if results not in file.parents]
        if not beside and path.resolve() != copy.resolve():
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(copy, path.read_text(encoding="utf-8"))


def _matrices_beside(results: Path) -> dict[Path, str]:
    """Matrix file beside the results -> its name."""
    files = sorted((results.parent / "matrices").rglob("*.toml"))
    return {file: str(read_toml(file).get("name")) for file in files if is_matrix(file)}


def not_begun(results: Path) -> list[str]:
    """Names of the matrices and experiments beside the results of which there is no record.

    Args:
        results: folder of the records.

    Raises:
        ConfigError: a matrix beside the results is not TOML.
    """
    names = list(_matrices_beside(results).values())
    configs = sorted((results.parent / "experiments").rglob(CONFIG_NAME))
    names += [job_name(file).partition("/")[0] for file in configs]
    return [n for n in dict.fromkeys(names) if not any((results / n).rglob("*.json"))]
