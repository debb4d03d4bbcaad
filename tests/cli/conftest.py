"""Fixtures of the tests of the command line. Imports nothing of the package, as the one above."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a model and an experiment, all tiny."""
    folder = tmp_path_factory.mktemp("cli")
    tiny.write_data(folder)
    tiny.write_model(folder / "model")
    tiny.write_config(folder / "config.toml", folder / "model")
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
