"""A classifier that trains in a second: random BERT, learnable made-up sentences, one TOML file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = ("the", "a", "film", "plot", "cast", "scene", "good", "fine", "bad", "poor", "was", "and")
GOOD = {"good", "fine"}
CONFIG = """
seeds = [3]

[model]
source = "{model}"

[task]
kind = "classification"
name = "tiny"
files = {{ train = "train.jsonl", validation = "validation.jsonl" }}
max_length = 12

[method]
name = "neuroprune"
alpha = 40.0
beta = 4.0
theta = 0.0
apply = "prox"

[training]
epochs = 2
batch_size = 8
learning_rate = 1e-3
seed = 3
threads = 1

[evaluation]
speed_batches = [1, 4]
speed_tokens = 8
speed_repeats = 2
speed_warmup = 1
"""


def evaluate_here(config: Any, models: Any, data_dir: Any) -> dict[str, Any]:
    """In place of `runner.evaluate_fresh`: a fresh process takes seconds to start."""
    from neuroprune.bench.runner import evaluate_saved

    return {n: evaluate_saved(config, m, data_dir)["metrics"] for n, m in models.items()}


def write_data(folder: Path, rows: int = 48) -> None:
    """Sentences whose label is whether one of two words occurs; the same rows for all splits."""
    generator = random.Random(0)
    for split in ("train", "validation"):
        lines = []
        for _ in range(rows):
            words = generator.choices(WORDS, k=generator.randint(3, 8))
            label = int(bool(GOOD & set(words)))
            lines.append(json.dumps({"text": " ".join(words), "label": label}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def write_model(folder: Path) -> None:
    """A random BERT of two layers with a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_config(path: Path, model: Path, **changes: Any) -> Path:
    """The experiment as TOML; `changes` replace text, old=new."""
    text = CONFIG.format(model=model)
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
