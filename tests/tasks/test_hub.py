from __future__ import annotations

import http.server
import socket
import threading
import time

import datasets
import pytest
from huggingface_hub import constants

from neuroprune.tasks import DataError, ModelSourceError, TaskConfig, read_task, resolve_source
from neuroprune.tasks.hub import unreachable

SST2 = TaskConfig(kind="classification", name="sst2", dataset="glue/sst2")

SCITLDR = {"source": ["one", "two"], "target": ["three"], "paper_id": "x"}
XSUM = {"document": "one two", "summary": "three", "id": "x"}
IWSLT14 = {"translation": {"de": "one two", "en": "three"}}


@pytest.fixture
def online(monkeypatch):
    """The libraries believe that there is a network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def answering(monkeypatch):
    """A server that stands for the hub and answers every HEAD with the status set on it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.status = 200
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_offline_mode_fails_at_once_with_the_remedy():
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"glue/sst2.*offline mode is set.*local files.*--data-dir"):
        read_task(SST2)
    assert time.perf_counter() - start < 3.0


def test_no_network_fails_at_once_with_the_remedy(online, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("tried to load"))
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"refused.*local files.*--data-dir.*HF_HUB_OFFLINE=1"):
        read_task(SST2)
    with pytest.raises(ModelSourceError, match=r"neither cached nor reachable.*pypi:PACKAGE"):
        resolve_source("owner/model")
    assert time.perf_counter() - start < 3.0


def test_a_hub_that_never_answers_is_given_up(online, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        start = time.perf_counter()
        reason = unreachable(seconds=0.3)
        assert time.perf_counter() - start < 1.5
    assert reason is not None
    assert address in reason


def test_name_resolution_that_hangs_is_given_up(online, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(
        "neuroprune.tasks.hub._probe", lambda endpoint, seconds: release.wait(20) and None
    )
    start = time.perf_counter()
    assert "no answer" in (unreachable(seconds=0.2) or "")
    assert time.perf_counter() - start < 1.5
    release.set()


@pytest.mark.parametrize(
    ("status", "reached"), [(200, True), (404, True), (403, False), (407, False), (503, False)]
)
def test_an_answer_counts_unless_a_gateway_refuses(online, answering, status, reached):
    answering.status = status
    assert (unreachable() is None) is reached


def test_a_hub_data_set_is_read_by_its_known_columns(online, answering, monkeypatch):
    asked = []

    def load(*names):
        asked.append(names)
        features = datasets.Features(
            {
                "idx": datasets.Value("int32"),
                "sentence": datasets.Value("string"),
                "label": datasets.ClassLabel(names=["negative", "positive"]),
            }
        )
        rows = {"idx": [0, 1], "sentence": ["bad", "good"], "label": [0, 1]}
        split = datasets.Dataset.from_dict(rows, features=features)
        return datasets.DatasetDict({"train": split, "validation": split})

    monkeypatch.setattr(datasets, "load_dataset", load)
    raw = read_task(SST2)
    assert asked == [("nyu-mll/glue", "sst2")]
    assert raw.evaluation.columns == {"text": ["bad", "good"], "label": [0, 1]}
    assert raw.label_names == ("negative", "positive")
    other = TaskConfig(kind="classification", name="x", dataset="me/mine", text_column="text")
    with pytest.raises(DataError, match="no column 'text'; its columns are 'idx', 'sentence'"):
        read_task(other)
    named = TaskConfig(kind="classification", name="x", dataset="me/mine", text_column="sentence")
    assert read_task(named).label_names == ("negative", "positive")  # from the set's own features


def test_nested_columns_of_a_hub_data_set(online, answering, monkeypatch):
    split = datasets.Dataset.from_dict({"translation": [{"en": "tree", "de": "Baum"}]})
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_: datasets.DatasetDict({"validation": split})
    )
    settings = {"source_column": "translation.en", "target_column": "translation.de"}
    config = TaskConfig(kind="translation", name="wmt", dataset="wmt16/de-en", **settings)
    raw = read_task(config)
    assert raw.evaluation.columns == {"source": ["tree"], "target": [("Baum",)]}


@pytest.mark.parametrize(
    ("dataset", "kind", "names", "row"),
    [
        ("scitldr/Abstract", "summarisation", ("allenai/scitldr", "Abstract"), SCITLDR),
        ("xsum", "summarisation", ("EdinburghNLP/xsum", "default"), XSUM),
        ("iwslt14/de-en", "translation", ("bbaaaa/iwslt14-de-en", "de-en"), IWSLT14),
    ],
)
def test_a_set_that_is_a_program_is_read_from_its_conversion(
    online, answering, monkeypatch, tmp_path, dataset, kind, names, row
):
    """In the layout of the hub's conversions: CONFIGURATION/SPLIT/NUMBER.parquet."""
    repository, configuration = names
    asked = []
    for split in ("train", "validation", "test"):
        for folder in (configuration, "another"):
            path = tmp_path / "hub" / folder / split
            path.mkdir(parents=True)
            row_there = row if folder == configuration else {"other": "set"}
            datasets.Dataset.from_list([row_there]).to_parquet(str(path / "0000.parquet"))
    original = datasets.load_dataset

    def load(*names, **more):
        asked.append((names, more))
        if "revision" not in more:
            raise RuntimeError("Dataset scripts are no longer supported, but found it.py")
        folder = str(tmp_path / "hub")
        return original(folder, data_dir=more["data_dir"], cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    raw = read_task(TaskConfig(kind=kind, name="any", dataset=dataset, eval_split="test"))
    assert asked[0][0][0] == repository
    assert asked[1] == (
        (repository,),
        {"data_dir": configuration, "revision": "refs/convert/parquet"},
    )
    expected = {"source": ["one two"], "target": [("three",)]}
    assert raw.train.columns == raw.evaluation.columns == expected


def test_another_failure_is_not_tried_again(online, answering, monkeypatch):
    calls = []

    def load(*names, **more):
        calls.append(names)
        raise RuntimeError("the disk is full.")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"cannot be loaded: the disk is full\."):
        read_task(SST2)
    assert len(calls) == 1


@pytest.mark.parametrize(("config", "unlabelled"), [("sst2", -1), ("stsb", -1.0)])
def test_a_test_set_of_glue_without_labels_is_refused(
    online, answering, monkeypatch, config, unlabelled
):
    rows = {"sentence": ["a", "b"], "sentence1": ["a", "b"], "sentence2": ["c", "d"]}
    labelled = datasets.Dataset.from_dict(rows | {"label": [0, 1]})
    test = datasets.Dataset.from_dict(rows | {"label": [unlabelled] * 2})
    splits = datasets.DatasetDict({"train": labelled, "validation": labelled, "test": test})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: splits)
    settings = {"kind": "classification", "name": config, "dataset": f"glue/{config}"}
    assert len(read_task(TaskConfig(**settings)).evaluation) == 2
    with pytest.raises(DataError, match=r"split 'test'.*-1.*without a label.*labelled split"):
        read_task(TaskConfig(**settings, eval_split="test"))


def test_the_translation_feature_of_a_hub_data_set(online, answering, monkeypatch):
    features = datasets.Features({"translation": datasets.Translation(languages=["de", "en"])})
    rows = {"translation": [{"de": "Baum", "en": "tree"}, {"de": "Haus", "en": "house"}]}
    split = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_: datasets.DatasetDict({"validation": split})
    )
    raw = read_task(TaskConfig(kind="translation", name="any", dataset="iwslt14/de-en"))
    expected = {"source": ["Baum", "Haus"], "target": [("tree",), ("house",)]}
    assert raw.evaluation.columns == expected


def test_a_name_that_the_hub_does_not_have(online, answering, monkeypatch):
    def load(*_):
        raise FileNotFoundError("no such data set.")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"'me/mine'.*no such data set\. Check its name"):
        read_task(TaskConfig(kind="classification", name="x", dataset="me/mine"))
