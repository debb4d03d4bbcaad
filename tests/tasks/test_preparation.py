from __future__ import annotations

import pytest
import torch

from neuroprune.tasks import (
    DataError,
    TaskConfig,
    learn_tokenizer,
    load_task,
    prepare_task,
    read_task,
)
from tests.tasks.helpers import (
    classification,
    generation,
    language_modelling,
    masked,
    tokenizer,
    write_lines,
)


@pytest.fixture(scope="module")
def words():
    return tokenizer()


def batch_of(data, rows):
    return data.collator([data.evaluation[i] for i in rows])


def test_classification_pads_each_batch_to_its_longest(tmp_path, words):
    data = load_task(classification(tmp_path), words)
    lengths = [len(data.evaluation[i]["input_ids"]) for i in range(3)]
    assert len(set(lengths)) > 1
    batch = batch_of(data, range(3))
    assert batch["input_ids"].shape == (3, max(lengths))
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["labels"].tolist() == [0, 1, 0]
    assert (data.num_labels, data.label_names) == (2, ("0", "1"))
    assert len(data.train) == 20
    assert data.references == ()


def test_two_sentences_are_encoded_together_and_cut(tmp_path, words):
    rows = [{"a": "red cat", "b": "blue dog " * 30, "label": i} for i in range(2)]
    write_lines(tmp_path / "x.jsonl", rows)
    config = TaskConfig(
        kind="classification",
        name="pairs",
        files={"validation": str(tmp_path / "x.jsonl")},
        text_column="a",
        text_pair_column="b",
        max_length=20,
    )
    data = load_task(config, words)
    ids = data.evaluation[0]["input_ids"]
    assert len(ids) == 20
    assert words.decode(ids).startswith("red cat</s>blue dog")
    assert data.train is None


def test_regression_labels_are_floats(tmp_path, words):
    write_lines(tmp_path / "x.jsonl", [{"text": "cat", "label": 1}, {"text": "dog", "label": 2.5}])
    files = {"validation": str(tmp_path / "x.jsonl")}
    config = TaskConfig(kind="classification", name="r", files=files, regression=True)
    data = load_task(config, words)
    labels = batch_of(data, range(2))["labels"]
    assert labels.dtype == torch.float32
    assert labels.tolist() == [1.0, 2.5]
    assert data.num_labels == 1


def test_generation_has_prefix_ignored_padding_and_all_references(tmp_path, words):
    config = generation(tmp_path, "summarisation", prefix="shorten: ", max_target_length=9)
    raw = read_task(config)
    data = prepare_task(raw, words)
    assert words.decode(data.evaluation[0]["input_ids"], skip_special_tokens=True) == (
        "shorten: " + raw.evaluation.columns["source"][0]
    )
    assert [len(r) for r in data.references] == [1, 2, 1, 2, 1]
    first = words(text_target=data.references[1][0], truncation=True, max_length=9)["input_ids"]
    assert data.evaluation[1]["labels"] == first
    batch = batch_of(data, range(5))
    lengths = [len(data.evaluation[i]["labels"]) for i in range(5)]
    assert (batch["labels"] != -100).sum(1).tolist() == lengths
    assert max(lengths) <= 9
    assert set(data.train.column_names) == {"input_ids", "attention_mask", "labels"}


def test_running_text_is_one_stream_cut_into_blocks(tmp_path, words):
    data = load_task(language_modelling(tmp_path), words)
    text = (tmp_path / "validation.txt").read_text()
    blocks = [row["input_ids"] for row in data.evaluation]
    assert all(len(block) == 16 for block in blocks[:-1])
    assert 1 < len(blocks[-1]) <= 16
    stream = [i for block in blocks for i in block]
    assert words.decode(stream) == text  # nothing lost, nothing added between lines
    assert {len(row["input_ids"]) for row in data.train} == {16}
    batch = batch_of(data, [0, len(blocks) - 1])
    padded = 16 - len(blocks[-1])
    assert (batch["labels"] == -100).sum(1).tolist() == [0, padded]
    assert (batch["attention_mask"] == 0).sum(1).tolist() == [0, padded]
    assert torch.equal(batch["labels"][0], batch["input_ids"][0])


def test_masks_are_drawn_anew_in_training_and_fixed_in_evaluation(tmp_path):
    config = masked(tmp_path, max_length=16)
    words = learn_tokenizer(read_task(config).texts(), 300, masked=True)
    data, again = load_task(config, words), load_task(config, words)
    plain = load_task(language_modelling(tmp_path), words)
    hidden = 0
    for row, same, whole in zip(data.evaluation, again.evaluation, plain.evaluation, strict=True):
        assert row == same
        pairs = list(zip(row["labels"], row["input_ids"], whole["input_ids"], strict=True))
        assert all(label in (-100, token) for label, _, token in pairs)  # what stood there
        assert all(seen == token for label, seen, token in pairs if label == -100)
        hidden += sum(seen == words.mask_token_id for _, seen, _ in pairs)
    assert hidden > 0
    assert set(data.train.column_names) == {"input_ids", "attention_mask"}
    first, second = (data.collator([data.train[i] for i in range(6)]) for _ in range(2))
    assert not torch.equal(first["labels"], second["labels"])
    batch = batch_of(data, [0, len(data.evaluation) - 1])
    assert batch["labels"][0].tolist() == data.evaluation[0]["labels"]


def test_masks_need_a_mask_token(tmp_path, words):
    with pytest.raises(DataError, match="needs a tokenizer with a mask token"):
        load_task(masked(tmp_path), words)


def test_documents_are_closed_with_the_end_token(tmp_path, words):
    write_lines(tmp_path / "x.jsonl", [{"text": "cat dog"}, {"text": ""}, {"text": "tree"}])
    files = {"validation": str(tmp_path / "x.jsonl")}
    config = TaskConfig(kind="language-modelling", name="docs", files=files)
    (block,) = [row["input_ids"] for row in load_task(config, words).evaluation]
    assert words.decode(block) == "cat dog</s>tree</s>"


def test_less_text_than_one_block_is_an_error(tmp_path, words):
    with pytest.raises(
        DataError, match=r"training text .* less than one block of max_length = 5000"
    ):
        load_task(language_modelling(tmp_path, max_length=5000), words)


def test_more_rows_than_one_chunk_stay_in_order(tmp_path, words):
    data = load_task(classification(tmp_path, train=2105, evaluation=2), words)
    assert len(data.train) == 2105
    assert data.train["labels"][:] == [i % 2 for i in range(2105)]


def test_a_tokenizer_without_padding_is_refused(tmp_path):
    bare = tokenizer()
    bare.pad_token = None
    with pytest.raises(DataError, match=r"tokenizer\.pad_token = tokenizer\.eos_token"):
        load_task(classification(tmp_path), bare)
