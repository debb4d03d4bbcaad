from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neuroprune.evaluation import EvaluationError, evaluate
from neuroprune.tasks import load_model_and_tokenizer, prepare_task, read_task
from tests.tasks.helpers import BERT, OPT, T5, classification, generation, language_modelling


def build(folder, shape, make, **settings):
    config = make(folder, **{"max_length": 32} | settings)
    raw = read_task(config)
    model, words = load_model_and_tokenizer(
        shape, config, num_labels=raw.num_labels, texts=raw.texts()
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model, prepare_task(raw, words)


@pytest.fixture
def classifier(tmp_path):
    return build(tmp_path, BERT, classification, eval_limit=None)


def one_by_one(model, data):
    """Logits of each evaluation example, alone, without padding."""
    out = []
    for row in data.evaluation:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            out.append(model(input_ids=ids).logits[0])
    return out


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_accuracy_is_that_of_examples_seen_alone(classifier, batch_size):
    model, data = classifier
    right = [
        int(logits.argmax()) == label
        for logits, label in zip(one_by_one(model, data), data.evaluation["labels"], strict=True)
    ]
    assert 0 < sum(right) < len(right)  # a mixed result, or the test could not fail
    assert evaluate(model, data, batch_size)["accuracy"] == pytest.approx(np.mean(right))


def test_regression_is_scored_on_the_output_itself(tmp_path):
    model, data = build(tmp_path, BERT, classification, regression=True)
    outputs = [float(logits[0]) for logits in one_by_one(model, data)]
    expected = np.corrcoef(outputs, data.evaluation["labels"][:])[0, 1]
    assert evaluate(model, data)["pearson"] == pytest.approx(expected, abs=1e-5)


def test_perplexity_is_that_of_blocks_seen_alone(tmp_path):
    model, data = build(tmp_path, OPT, language_modelling, max_length=16)
    total, count = 0.0, 0
    for row in data.evaluation:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss
        total, count = total + float(loss) * (ids.shape[1] - 1), count + ids.shape[1] - 1
    for batch_size in (1, 7):
        value = evaluate(model, data, batch_size)["perplexity"]
        assert value == pytest.approx(math.exp(total / count), rel=1e-5)


def test_generation_is_scored_in_the_order_of_the_references(tmp_path, monkeypatch):
    model, data = build(tmp_path, T5, generation)
    sources = data.tokenizer.batch_decode(data.evaluation["input_ids"][:], skip_special_tokens=True)
    answers = dict(zip(sources, (r[0] for r in data.references), strict=True))

    def perfect(input_ids, **settings):
        assert settings["max_new_tokens"] == 12
        assert settings["num_beams"] == 1
        texts = data.tokenizer.batch_decode(input_ids, skip_special_tokens=True)
        found = [answers[text] for text in texts]
        return data.tokenizer(found, return_tensors="pt", padding=True)["input_ids"]

    monkeypatch.setattr(model, "generate", perfect)
    values = evaluate(model, data, batch_size=2)
    assert values["bleu"] == pytest.approx(100.0)
    assert values["chrf"] == pytest.approx(100.0)


def test_beams_are_used(tmp_path, monkeypatch):
    model, data = build(tmp_path, T5, generation, kind="summarisation", num_beams=3)
    seen = []
    real = model.generate
    monkeypatch.setattr(
        model, "generate", lambda **settings: seen.append(settings) or real(**settings)
    )
    values = evaluate(model, data, batch_size=5)
    assert [s["num_beams"] for s in seen] == [3]
    assert set(values) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}


def test_modes_and_gradients_are_left_as_they_were(classifier):
    model, data = classifier
    model.train()
    model.bert.encoder.layer[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    evaluate(model, data)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


def test_dropout_is_off_while_evaluating(tmp_path):
    shape = BERT | {"hidden_dropout_prob": 0.5}
    model, data = build(tmp_path, shape, classification, regression=True)
    model.train()
    assert evaluate(model, data) == evaluate(model, data)


def test_modes_come_back_after_an_error(classifier, monkeypatch):
    model, data = classifier
    model.train()
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    with pytest.raises(EvaluationError, match=r"not finite.*lower the learning rate"):
        evaluate(model, data)
    assert model.training


def test_a_model_of_another_task_is_refused(classifier, tmp_path):
    model, _ = classifier
    (tmp_path / "other").mkdir()
    _, data = build(tmp_path / "other", BERT, classification, labels=["a", "b", "c"])
    with pytest.raises(
        EvaluationError, match=r"2 labels, the task 'tiny' has 3\. Evaluate a model"
    ):
        evaluate(model, data)
    with pytest.raises(EvaluationError, match="batch_size must be at least 1"):
        evaluate(model, data, batch_size=0)


def test_progress_is_shown_on_standard_error_only(classifier, capsys):
    model, data = classifier
    evaluate(model, data, progress=True)
    assert capsys.readouterr().out == ""


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_of_the_model_is_used(classifier):
    model, data = classifier
    expected = evaluate(model, data)
    assert evaluate(model.cuda(), data) == expected
