"""Tiny texts, tasks and models that the tests of tasks and evaluation share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neuroprune.tasks import TaskConfig, learn_tokenizer

WORDS = "red blue green small large cat dog house tree sings runs sleeps".split()

BERT = {
    "model_type": "bert",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
T5 = {
    "model_type": "t5",
    "vocab_size": 300,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 4,
}
OPT = {
    "model_type": "opt",
    "vocab_size": 300,
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 24,
    "max_position_embeddings": 64,
}
MARIAN = {
    "model_type": "marian",
    "vocab_size": 300,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
}


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sentence(number: int, length: int = 5) -> str:
    """A sentence that its number fixes."""
    return " ".join(WORDS[(number * 7 + i * (number % 5 + 1)) % len(WORDS)] for i in range(length))


def tokenizer() -> Any:
    """A tokenizer of 300 tokens."""
    return learn_tokenizer((sentence(i, 9) for i in range(40)), 300)


def classification(folder: Path, train: int = 20, evaluation: int = 9, **more: Any) -> TaskConfig:
    """Two classes, texts of different lengths, in files below `folder`."""
    for name, count in (("train", train), ("validation", evaluation)):
        rows = ({"text": sentence(i, 2 + i % 7), "label": i % 2} for i in range(count))
        write_lines(folder / f"{name}.jsonl", rows)
    return TaskConfig(kind="classification", name="tiny", files=_files(folder), **more)


def generation(folder: Path, kind: str = "translation", **more: Any) -> TaskConfig:
    """Pairs of sentences; in the evaluation split some have two references."""
    for name, count in (("train", 12), ("validation", 5)):
        rows = []
        for i in range(count):
            target: Any = sentence(i + 1)
            if name == "validation" and i % 2:
                target = [sentence(i + 1), sentence(i + 2)]
            rows.append({"source": sentence(i, 3 + i % 4), "target": target})
        write_lines(folder / f"{name}.jsonl", rows)
    settings = {"source_column": "source", "target_column": "target", "max_target_length": 12}
    return TaskConfig(kind=kind, name="tiny", files=_files(folder), **settings | more)


def masked(folder: Path, **more: Any) -> TaskConfig:
    """The same text, with tokens to guess."""
    return language_modelling(folder, **more, kind="masked-language-modelling")


def language_modelling(folder: Path, kind: str = "language-modelling", **more: Any) -> TaskConfig:
    """Running text, one sentence a line."""
    for name, count in (("train", 30), ("validation", 11)):
        text = "".join(f"{sentence(i, 6)} .\n\n" for i in range(count))
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    files = {name: str(folder / f"{name}.txt") for name in ("train", "validation")}
    settings = {"max_length": 16, **more}
    return TaskConfig(kind=kind, name="tiny", files=files, **settings)


def _files(folder: Path) -> dict[str, str]:
    return {name: str(folder / f"{name}.jsonl") for name in ("train", "validation")}
