"""Model types that share another's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import neuroprune
from neuroprune import NeuroPrune
from neuroprune.evaluation.size import size_report
from tests.methods.loops import run
from tests.zoo import D_FF, D_MODEL, HEADS, LAYERS, VOCAB, logits, make_inputs

ENCODER = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": D_FF,
}
STACKS = {
    "d_model": D_MODEL,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "d_ff": D_FF,
    "d_kv": 8,
    "decoder_start_token_id": 0,
}
KIN: dict[str, tuple[Any, dict[str, Any]]] = {
    "xlm-roberta": (transformers.AutoModelForSequenceClassification, ENCODER),
    "camembert": (transformers.AutoModelForSequenceClassification, ENCODER),
    "electra": (transformers.AutoModelForSequenceClassification, ENCODER),
    "mt5": (transformers.AutoModelForSeq2SeqLM, STACKS),
}


@pytest.mark.parametrize("kind", KIN)
def test_the_kin_of_a_family_are_pruned_and_reload(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    auto, sizes = KIN[kind]
    model = auto.from_config(
        transformers.AutoConfig.for_model(kind, vocab_size=VOCAB, pad_token_id=1, **sizes)
    )
    family = "t5" if kind == "mt5" else "bert"
    inputs = make_inputs(family)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = neuroprune.attach(model, optimizer, NeuroPrune(target=0.5), total_steps=8)
    run(pruner, family, range(8))
    pruner.finish()
    assert size_report(model).structural_sparsity == pytest.approx(0.5, abs=0.02)
    neuroprune.save_pretrained(model, tmp_path)
    assert torch.equal(logits(neuroprune.from_pretrained(tmp_path), inputs), logits(model, inputs))


@pytest.mark.parametrize("kind", ["xlm-roberta", "camembert"])
def test_hidden_dimensions_of_the_kin_go(kind: str) -> None:
    torch.manual_seed(0)
    auto, sizes = KIN[kind]
    config = transformers.AutoConfig.for_model(kind, vocab_size=VOCAB, pad_token_id=1, **sizes)
    model = auto.from_config(config).eval()
    neuroprune.shrink_(model, neuroprune.ShrinkPlan(remove_hidden=[0, 5]))
    assert model.classifier.dense.weight.shape[1] == D_MODEL - 2
    assert logits(model, make_inputs("bert")).shape == (3, 2)
