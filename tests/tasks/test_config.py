from __future__ import annotations

import json
import subprocess
import sys

import pytest

from neuroprune.config import ConfigError
from neuroprune.tasks import METRICS, Kind, TaskConfig
from neuroprune.tasks.presets import split_hub_name

FILES = {"train": "a.jsonl", "validation": ["b.jsonl", "c.jsonl"]}


def config(**settings):
    return TaskConfig(**{"kind": "classification", "name": "mine", "files": FILES} | settings)


@pytest.mark.parametrize(
    ("dataset", "columns", "metrics", "labels"),
    [
        ("glue/cola", {"text": "sentence"}, ("matthews",), 2),
        ("glue/sst2", {"text": "sentence"}, ("accuracy",), 2),
        ("glue/mrpc", {"text": "sentence1", "text_pair": "sentence2"}, ("accuracy", "f1"), 2),
        ("glue/qqp", {"text": "question1", "text_pair": "question2"}, ("accuracy", "f1"), 2),
        ("glue/stsb", {"text": "sentence1", "text_pair": "sentence2"}, ("pearson", "spearman"), 0),
        ("glue/mnli", {"text": "premise", "text_pair": "hypothesis"}, ("accuracy",), 3),
        ("glue/qnli", {"text": "question", "text_pair": "sentence"}, ("accuracy",), 2),
        ("glue/rte", {"text": "sentence1", "text_pair": "sentence2"}, ("accuracy",), 2),
        ("glue/wnli", {"text": "sentence1", "text_pair": "sentence2"}, ("accuracy",), 2),
    ],
)
def test_the_nine_tasks_of_glue_are_known(dataset, columns, metrics, labels):
    task = TaskConfig(kind="classification", name="any", dataset=dataset)
    assert task.columns == {**columns, "label": "label"}
    assert task.metrics == metrics
    assert len(task.labels or ()) == labels
    assert task.regression is (dataset == "glue/stsb")
    expected = "validation_matched" if dataset == "glue/mnli" else "validation"
    assert task.eval_split == expected


@pytest.mark.parametrize(
    ("kind", "settings", "columns"),
    [
        ("summarisation", {"dataset": "cnn_dailymail/3.0.0"}, ("article", "highlights")),
        ("summarisation", {"dataset": "EdinburghNLP/xsum"}, ("document", "summary")),
        ("summarisation", {"name": "scitldr", "files": FILES}, ("source", "target")),
        ("summarisation", {"dataset": "scitldr/Abstract"}, ("source", "target")),
        ("translation", {"name": "multi30k_en_de", "files": FILES}, ("en", "de")),
        ("translation", {"dataset": "multi30k"}, ("en", "de")),
        ("translation", {"dataset": "iwslt14/de-en"}, ("translation.de", "translation.en")),
        (
            "translation",
            {"dataset": "bbaaaa/iwslt14-de-en/de-en"},
            ("translation.de", "translation.en"),
        ),
        ("translation", {"name": "iwslt14", "files": FILES}, ("translation.de", "translation.en")),
    ],
)
def test_known_sets_bring_their_columns(kind, settings, columns):
    task = TaskConfig(**{"kind": kind, "name": "any"} | settings)
    assert (task.source_column, task.target_column) == columns


# Names by number, as the data set itself has them: another order would swap the classes.
@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("cola", ("unacceptable", "acceptable")),
        ("sst2", ("negative", "positive")),
        ("mrpc", ("not_equivalent", "equivalent")),
        ("qqp", ("not_duplicate", "duplicate")),
        ("mnli", ("entailment", "neutral", "contradiction")),
        ("qnli", ("entailment", "not_entailment")),
        ("rte", ("entailment", "not_entailment")),
        ("wnli", ("not_entailment", "entailment")),
    ],
)
def test_the_classes_of_glue_are_in_the_order_of_the_benchmark(name, labels):
    assert TaskConfig(kind="classification", name=name, files=FILES).labels == labels


@pytest.mark.parametrize("part", ["mnli_matched", "mnli_mismatched"])
def test_the_evaluation_sets_of_mnli_are_known_by_themselves(part):
    task = TaskConfig(kind="classification", name="any", dataset=f"glue/{part}")
    assert task.columns == {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    assert (len(task.labels), task.eval_split) == (3, "validation")
    other = TaskConfig(
        kind="classification", name=part, dataset="glue/mnli", eval_split="validation_mismatched"
    )
    assert (other.eval_split, other.labels) == ("validation_mismatched", task.labels)


@pytest.mark.parametrize("name", ["wikitext-2-raw-v1", "wikitext-103-v1"])
def test_wikitext_is_known_in_both_sizes(name):
    task = TaskConfig(kind="language-modelling", name="any", dataset=f"wikitext/{name}")
    assert split_hub_name(task.dataset) == ("Salesforce/wikitext", name)
    assert (task.text_column, task.metrics) == ("text", ("perplexity",))


def test_a_column_that_is_given_wins_over_the_known_one():
    task = config(name="sst2", text_column="review")
    assert task.columns == {"text": "review", "label": "label"}


def test_round_trip_through_json_is_exact():
    for task in (
        config(labels=["no", "yes"], metrics=["f1"], train_limit=5),
        TaskConfig(kind="translation", name="multi30k", files=FILES, num_beams=4),
        TaskConfig(kind="language-modelling", name="wikitext", dataset="wikitext/wikitext-2-v1"),
        TaskConfig(kind="classification", name="stsb", dataset="glue/stsb"),
    ):
        data = json.loads(json.dumps(task.to_dict()))
        assert data == task.to_dict()
        assert TaskConfig.from_dict(data) == task


def test_the_kind_is_typed():
    assert config().task_kind is Kind.CLASSIFICATION
    with pytest.raises(ConfigError, match=r"'summarisation', 'translation'.*got 'poetry'"):
        config(kind="poetry")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"files": None}, "exactly one source.*got none"),
        ({"dataset": "glue/sst2"}, "exactly one source.*dataset and files"),
        ({"files": {}}, "must give a path"),
        ({"files": {"train": []}}, "split 'train' has no path"),
        ({"files": None, "dataset": "a/b/c/d"}, "expected 'owner/set'"),
        ({"files": None, "dataset": "sst2"}, "set/configuration' with set one of"),
        ({"name": ""}, "non-empty text"),
        ({"source_column": "x"}, "no meaning for classification"),
        ({"prefix": "go: "}, "prefix has no meaning"),
        ({"max_length": 0}, "integer >= 1"),
        ({"train_limit": True}, "integer >= 1"),
        ({"labels": ["one"]}, "two or more different names"),
        ({"labels": "ab"}, "list of names"),
        ({"regression": True, "labels": ["a", "b"]}, "no meaning with regression"),
        ({"metrics": []}, "leave it out for the usual ones"),
        ({"metrics": ["bleu"]}, "does not fit classification; choose from accuracy, f1, matthews"),
        ({"metrics": ["pearson"]}, "does not fit classification"),
        ({"regression": True, "metrics": ["f1"]}, "choose from pearson, spearman"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)


def test_an_unknown_metric_lists_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        config(metrics=["acuracy"])
    for name in METRICS:
        assert name in str(caught.value)


def test_translation_needs_its_columns():
    with pytest.raises(ConfigError, match=r"source_column = 'translation\.en'"):
        TaskConfig(kind="translation", name="wmt", dataset="wmt16/de-en")


def test_hub_names():
    assert split_hub_name("glue/sst2") == ("nyu-mll/glue", "sst2")
    assert split_hub_name("iwslt14/de-en") == ("bbaaaa/iwslt14-de-en", "de-en")
    assert split_hub_name("xsum") == ("EdinburghNLP/xsum", None)
    assert split_hub_name("owner/set") == ("owner/set", None)
    assert split_hub_name("owner/set/part") == ("owner/set", "part")


def test_reading_a_config_loads_nothing_heavy():
    code = (
        "import sys, neuroprune.tasks.config as c\n"
        "c.TaskConfig(kind='classification', name='sst2', dataset='glue/sst2')\n"
        "print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
