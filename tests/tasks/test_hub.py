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


def test_a_name_that_the_hub_does_not_have(online, answering, monkeypatch):
    def load(*_):
        raise FileNotFoundError("no such data set.")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"'me/mine'.*no such data set\. Check its name"):
        read_task(TaskConfig(kind="classification", name="x", dataset="me/mine"))
