"""One tiny random model per family. Every test that needs a model gets it here."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.anatomy import Anatomy, anatomy_of
from neuroprune.anatomy.blocks import input_widths
from neuroprune.lineage import Lineage

D_MODEL, HEADS, D_FF, LAYERS, VOCAB, HEAD_DIM = 32, 4, 24, 2, 60, 8


def _bert_settings(**kwargs: Any) -> dict[str, Any]:
    return {
        "hidden_size": D_MODEL,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": D_FF,
        "vocab_size": VOCAB,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **kwargs,
    }


def _bert(**kwargs: Any) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(**_bert_settings(**kwargs)))


def _bert_cross(**kwargs: Any) -> nn.Module:
    from transformers import BertConfig, BertLMHeadModel

    settings = _bert_settings(is_decoder=True, add_cross_attention=True, **kwargs)
    return BertLMHeadModel(BertConfig(**settings))


def _roberta(**kwargs: Any) -> nn.Module:
    from transformers import RobertaConfig, RobertaForMaskedLM

    return RobertaForMaskedLM(RobertaConfig(**_bert_settings(pad_token_id=1, **kwargs)))


def _distilbert(**kwargs: Any) -> nn.Module:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(
        dim=D_MODEL,
        n_layers=LAYERS,
        n_heads=HEADS,
        hidden_dim=D_FF,
        vocab_size=VOCAB,
        max_position_embeddings=64,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
        **kwargs,
    )
    return DistilBertForSequenceClassification(config)


def _t5(feed_forward_proj: str, **kwargs: Any) -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=D_MODEL,
        d_kv=HEAD_DIM,
        d_ff=D_FF,
        num_layers=LAYERS,
        num_heads=HEADS,
        vocab_size=VOCAB,
        feed_forward_proj=feed_forward_proj,
        decoder_start_token_id=0,
        dropout_rate=0.0,
        **kwargs,
    )
    return T5ForConditionalGeneration(config)


def _opt(**kwargs: Any) -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        hidden_size=D_MODEL,
        word_embed_proj_dim=D_MODEL,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        ffn_dim=D_FF,
        vocab_size=VOCAB,
        max_position_embeddings=64,
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **kwargs,
    )
    return OPTForCausalLM(config)


def _llama(**kwargs: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "hidden_size": D_MODEL,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "intermediate_size": D_FF,
        "vocab_size": VOCAB,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | kwargs))


ZOO: dict[str, Callable[..., nn.Module]] = {
    "bert": _bert,
    "bert-cross": _bert_cross,
    "roberta": _roberta,
    "distilbert": _distilbert,
    "t5": lambda **kwargs: _t5("relu", **kwargs),
    "t5-gated": lambda **kwargs: _t5("gated-gelu", **kwargs),
    "opt": _opt,
    "llama": _llama,
}
FAMILIES = tuple(ZOO)
GENERATIVE = ("t5", "t5-gated", "opt", "llama")


def make_model(family: str, seed: int = 0, attention: str = "sdpa") -> Any:
    """A tiny random model with weights and biases large enough for every unit to matter."""
    torch.manual_seed(seed)
    model = ZOO[family](attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_inputs(family: str, seed: int = 1, batch: int = 3, length: int = 7) -> dict[str, Tensor]:
    """A batch with padding, labels included."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randint(3, VOCAB, shape, generator=generator)

    mask = torch.ones(batch, length, dtype=torch.long)
    mask[1, length - 2 :] = 0
    inputs = {"input_ids": draw(batch, length), "attention_mask": mask}
    if family in ("bert", "distilbert"):
        inputs["labels"] = torch.arange(batch) % 2
    elif family.startswith("t5"):
        inputs["labels"] = draw(batch, 5)
    else:
        inputs["labels"] = inputs["input_ids"].clone()
    if family == "bert-cross":
        inputs["encoder_hidden_states"] = torch.randn(batch, 4, D_MODEL, generator=generator)
    return inputs


def inputs_for(model: nn.Module, family: str, seed: int) -> dict[str, Tensor]:
    """`make_inputs` with floating-point inputs in the precision of the model."""
    dtype = next(model.parameters()).dtype
    inputs = make_inputs(family, seed)
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Logits in eval mode, without a graph."""
    model.eval()
    with torch.no_grad():
        result: Tensor = model(**inputs).logits
    return result


@torch.no_grad()
def silence_(anatomy: Anatomy, heads: dict[str, list[int]], neurons: dict[str, list[int]]) -> None:
    """Mask units: zero what reads them."""
    for block in anatomy.attentions:
        for head in heads.get(block.name, []):
            columns = slice(head * block.head_dim, (head + 1) * block.head_dim)
            block.o_proj.weight[:, columns] = 0
    for mlp in anatomy.mlps:
        mlp.down_proj.weight[:, neurons.get(mlp.name, [])] = 0


def unit_counts(model: nn.Module) -> tuple[dict[str, int], dict[str, int]]:
    """Heads and neurons per block, as the model stands."""
    anatomy = anatomy_of(model)
    heads = {b.name: b.num_heads for b in anatomy.attentions}
    return heads, {b.name: b.d_ff for b in anatomy.mlps}


def lineage_of(model: nn.Module) -> Lineage:
    """Where the units of a model came from."""
    return anatomy_of(model).lineage


Inputs = dict[str, dict[str, list[int]]]


def random_inputs(model: nn.Module, seed: int) -> Inputs:
    """Random input dimensions per block and group; none and all of a group are likely."""
    draw, chosen = random.Random(seed), {}
    for block in anatomy_of(model).blocks():
        chosen[block.name] = {
            group: draw.sample(range(width), draw.choice([0, 1, width // 2, width]))
            for group, width in input_widths(block).items()
        }
    return chosen


@torch.no_grad()
def silence_inputs_(anatomy: Anatomy, inputs: Inputs) -> None:
    """Mask input dimensions: zero the columns that read them."""
    for block in anatomy.blocks():
        for group, layers in block.readers().items():
            for layer in layers:
                layer.weight[:, inputs.get(block.name, {}).get(group, [])] = 0
