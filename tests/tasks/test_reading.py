from __future__ import annotations

import pytest

from neuroprune.tasks import DataError, TaskConfig, read_task
from neuroprune.tasks.labels import label_map, scores
from tests.tasks.helpers import classification, generation, language_modelling, write_lines


def labelled(folder, train, validation, **more):
    for name, labels in (("train", train), ("validation", validation)):
        rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]
        write_lines(folder / f"{name}.jsonl", rows)
    files = {"train": "train.jsonl", "validation": "validation.jsonl"}
    config = TaskConfig(kind="classification", name="mine", files=files, **more)
    return read_task(config, folder)


def test_several_files_are_one_split(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": "one", "label": 0}])
    write_lines(tmp_path / "b.jsonl", [{"text": "two", "label": 1, "more": None}])
    files = {"validation": ["a.jsonl", "b.jsonl"]}
    raw = read_task(TaskConfig(kind="classification", name="mine", files=files), tmp_path)
    assert raw.evaluation.columns == {"text": ["one", "two"], "label": [0, 1]}
    assert raw.train is None
    assert raw.num_labels == 2


def test_limits_draw_once_and_evaluation_does_not_depend_on_the_seed(tmp_path):
    config = classification(tmp_path, train=50, evaluation=30, train_limit=9, eval_limit=7)
    first, again, other = (read_task(config, seed=seed) for seed in (1, 1, 2))
    assert len(first.train) == 9
    assert len(first.evaluation) == 7
    assert first.train == again.train
    assert first.train != other.train
    assert first.evaluation == other.evaluation
    whole = read_task(classification(tmp_path, train=50, evaluation=30))
    assert set(first.train.columns["text"]) <= set(whole.train.columns["text"])
    assert len(whole.evaluation) == 30


def test_evaluation_alone_still_knows_the_classes_of_the_training_split(tmp_path):
    labelled(tmp_path, ["b", "c", "a"], ["c", "b"])
    files = {"train": "train.jsonl", "validation": "validation.jsonl"}
    config = TaskConfig(kind="classification", name="mine", files=files)
    raw = read_task(config, tmp_path, with_train=False)
    assert raw.train is None
    assert raw.label_names == ("a", "b", "c")
    assert raw.evaluation.columns["label"] == [2, 1]


@pytest.mark.parametrize(
    ("train", "validation", "names", "expected"),
    [
        (["pos", "neg"], ["neg", "pos"], ("neg", "pos"), [0, 1]),
        ([10, 2, 1], [10, 1], ("1", "2", "10"), [2, 0]),
        ([True, False], [True], ("0", "1"), [1]),
        ([1.0, 0.0], [1], ("0", "1"), [1]),
        (["1", "0"], [1], ("0", "1"), [1]),
    ],
)
def test_classes_are_learnt_in_sorted_order(tmp_path, train, validation, names, expected):
    raw = labelled(tmp_path, train, validation)
    assert raw.label_names == names
    assert raw.evaluation.columns["label"] == expected


def test_given_labels_fix_the_order_and_numbers_count_them(tmp_path):
    raw = labelled(tmp_path, ["good", 0], ["bad", 1], labels=["bad", "good"])
    assert raw.train.columns["label"] == [1, 0]
    assert raw.evaluation.columns["label"] == [0, 1]


@pytest.mark.parametrize(
    ("train", "validation", "more", "message"),
    [
        (["a", "b"], ["a", "x"], {}, r"example 2: unknown label 'x'; known: a, b\. Correct"),
        ([0, 1], [1, -1], {}, "unknown label -1.*eval_split to a labelled split"),
        ([0, -1], [1], {}, "label -1 marks examples without a label"),
        ([0.5, 1.5], [1], {}, "'0.5' is not a class number. Set regression = true"),
        ([1, 1], [1], {}, "every label is '1'; expected at least two classes. Check label_column"),
        ([0, 2], [0], {"labels": ["a", "b"]}, "unknown label 2; known: 0, 1, a, b"),
        ([0.5, "high"], [1], {"regression": True}, "'high' is not a finite number"),
        ([0.5, 3], [-1, "-1.0"], {"regression": True}, r"every label is -1.*labelled split"),
    ],
)
def test_labels_that_do_not_fit_say_what_to_do(tmp_path, train, validation, more, message):
    with pytest.raises(DataError, match=message):
        labelled(tmp_path, train, validation, **more)


def test_regression_reads_numbers(tmp_path):
    raw = labelled(tmp_path, ["0.5", 3], [1], regression=True)
    assert raw.train.columns["label"] == [0.5, 3.0]
    assert raw.num_labels == 1
    assert scores([True - 0.5], "x") == [0.5]
    with pytest.raises(DataError, match="not a finite number"):
        scores([float("nan")], "x")


def test_label_map_of_names_accepts_names_and_numbers():
    mapping = label_map([], ["no", "yes"], "here")
    assert mapping.apply(["yes", 0, "1"], "here") == [1, 0, 1]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_split_is_named_with_its_file(tmp_path, split):
    config = classification(tmp_path)
    (tmp_path / f"{split}.jsonl").write_text("\n")
    with pytest.raises(DataError, match=rf"'{split}' .*is empty: .*{split}\.jsonl.*examples"):
        read_task(config)


def test_a_split_that_is_not_there_lists_those_that_are(tmp_path):
    config = classification(tmp_path, eval_split="test")
    with pytest.raises(
        DataError, match=r"no split 'test'; it has train, validation\. Set eval_split"
    ):
        read_task(config)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": None, "label": 1}, r"row 2: the column 'text' is missing \(null\).*text_column"),
        ({"text": 7, "label": 1}, "must hold a text, got 7"),
        ({"label": 1}, "row 2 has no column 'text'; its columns are 'label'"),
        ({"text": "a", "label": None}, "the column 'label' is missing"),
    ],
)
def test_bad_rows_name_file_row_and_column(tmp_path, row, message):
    config = classification(tmp_path)
    write_lines(tmp_path / "train.jsonl", [{"text": "fine", "label": 0}, row])
    with pytest.raises(DataError, match=rf"train\.jsonl, row 2.*{message.split('row 2')[-1]}"):
        read_task(config)


def test_targets_are_one_reference_or_several_and_sentences_are_joined(tmp_path):
    rows = [
        {"source": ["One.", "Two."], "target": ["a", "b"]},
        {"source": "Three.", "target": "c"},
    ]
    write_lines(tmp_path / "x.jsonl", rows)
    files = {"train": "x.jsonl", "validation": "x.jsonl"}
    raw = read_task(TaskConfig(kind="summarisation", name="scitldr", files=files), tmp_path)
    assert raw.evaluation.columns["source"] == ["One. Two.", "Three."]
    assert raw.evaluation.columns["target"] == [("a", "b"), ("c",)]
    assert list(raw.texts()) == ["One. Two.", "Three.", "a", "c"]


@pytest.mark.parametrize("target", [[], 3, [1], {"a": "b"}])
def test_targets_that_are_no_text_are_refused(tmp_path, target):
    config = generation(tmp_path)
    write_lines(tmp_path / "train.jsonl", [{"source": "a", "target": target}])
    with pytest.raises(DataError, match="row 1: the column 'target' must hold a text or a list"):
        read_task(config)


def test_text_to_model_is_read_line_by_line(tmp_path):
    raw = read_task(language_modelling(tmp_path))
    assert raw.num_labels is None
    text = (tmp_path / "train.txt").read_text()
    assert "".join(raw.texts()) == text


def test_translations_of_iwslt_in_local_files(tmp_path):
    write_lines(tmp_path / "test.jsonl", [{"translation": {"de": "Baum", "en": "tree"}}])
    settings = {"kind": "translation", "name": "iwslt14", "files": {"test": "test.jsonl"}}
    raw = read_task(TaskConfig(**settings, eval_split="test"), tmp_path)
    assert raw.evaluation.columns == {"source": ["Baum"], "target": [("tree",)]}
    other = TaskConfig(**settings, eval_split="test", target_column="translation.fr")
    with pytest.raises(DataError, match=r"no column 'translation\.fr'"):
        read_task(other, tmp_path)
