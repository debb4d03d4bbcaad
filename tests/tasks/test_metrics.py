from __future__ import annotations

import math

import numpy as np
import pytest

from neuroprune.tasks import METRICS, DataError, MissingExtraError
from neuroprune.tasks.metrics import score

PREDICTED, TRUE = np.array([1, 0, 1, 1, 0, 0]), np.array([1, 0, 0, 1, 1, 0])


def test_accuracy_f1_and_matthews_by_hand():
    # true positives 2, false positives 1, false negatives 1, true negatives 2
    values = score(["accuracy", "f1", "matthews"], PREDICTED, TRUE)
    assert values["accuracy"] == pytest.approx(4 / 6)
    assert values["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert values["matthews"] == pytest.approx((2 * 2 - 1 * 1) / math.sqrt(3 * 3 * 3 * 3))
    assert list(values) == ["accuracy", "f1", "matthews"]


def test_f1_of_three_classes_is_their_mean_also_where_the_third_is_never_met():
    predicted, true = np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1])
    of_two, of_three = (score(["f1"], predicted, true, classes)["f1"] for classes in (2, 3))
    assert of_two == score(["f1"], predicted, true)["f1"] == pytest.approx(4 / 5)
    assert of_three == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_f1_of_several_classes_is_their_mean():
    # per class: 0 -> 1.0, 1 -> 2/3, 2 -> 0
    value = METRICS["f1"].function(np.array([0, 1, 1]), np.array([0, 1, 2]))
    assert value == pytest.approx((1 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
def test_a_constant_prediction_has_no_correlation(name):
    assert METRICS[name].function(np.zeros(4), np.array([0, 1, 1, 0])) == 0.0


def test_correlations_by_hand():
    predictions, scores = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    assert METRICS["pearson"].function(predictions, scores) == pytest.approx(
        np.corrcoef(predictions, scores)[0, 1]
    )
    assert METRICS["spearman"].function(predictions, scores) == pytest.approx(0.5)


def test_rouge_by_hand():
    values = score(["rouge1", "rouge2", "rougeL"], ["the cat sat"], [("the cat lay down",)])
    # unigrams: 2 of 3 and 2 of 4; bigrams: 1 of 2 and 1 of 3; longest common: "the cat"
    assert values["rouge1"] == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert values["rouge2"] == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert values["rougeL"] == values["rouge1"]


def test_rouge_takes_the_best_reference_and_the_mean_over_examples():
    references = [("nothing alike", "a red house"), ("the cat", "also unlike")]
    assert score(["rouge1"], ["a red house", "dog"], references) == {"rouge1": 0.5}


def test_rouge_lsum_compares_sentence_by_sentence():
    prediction, reference = "one two. three four.", ("three four. one two.",)
    values = score(["rougeL", "rougeLsum"], [prediction], [reference])
    assert values["rougeLsum"] == pytest.approx(1.0)
    assert values["rougeL"] == pytest.approx(0.5)
    lines = score(["rougeLsum"], ["one two\nthree four"], [("three four\none two",)])
    assert lines["rougeLsum"] == pytest.approx(1.0)


def test_bleu_and_chrf_are_those_of_sacrebleu():
    import sacrebleu

    predictions = ["a man runs in the park today", "two dogs play"]
    references = [
        ("a man is running in the park today", "a man runs in a park"),
        ("two dogs play",),
    ]
    values = score(["bleu", "chrf"], predictions, references)
    streams = [[r[0] for r in references], ["a man runs in a park", None]]
    assert values["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, streams).score)
    assert 0 < values["bleu"] < 100
    assert values["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predictions, streams).score)
    single = score(["bleu", "chrf"], predictions[1:], references[1:])
    assert single["chrf"] == pytest.approx(100)


def test_perplexity_weighs_by_tokens():
    value = METRICS["perplexity"].function([2.0, 10.0], [1, 9])
    assert value == pytest.approx(math.exp(12 / 10))
    assert METRICS["perplexity"].function([1e9], [1]) == math.inf
    assert not METRICS["perplexity"].greater_is_better
    with pytest.raises(DataError, match="Use longer texts"):
        METRICS["perplexity"].function([0.0], [0])


def test_unknown_metrics_and_mismatched_lengths():
    with pytest.raises(DataError, match="unknown metric 'wer'; known: accuracy, f1"):
        score(["wer"], [1], [1])
    with pytest.raises(DataError, match="2 predictions and 1 references"):
        score(["accuracy"], [1, 2], [1])
    with pytest.raises(DataError, match="at least one"):
        score(["accuracy"], [], [])


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("f1", "sklearn.metrics"),
        ("matthews", "sklearn.metrics"),
        ("pearson", "scipy.stats"),
        ("spearman", "scipy.stats"),
        ("rougeLsum", "rouge_score.rouge_scorer"),
        ("bleu", "sacrebleu"),
        ("chrf", "sacrebleu"),
    ],
)
def test_a_missing_extra_names_the_command(name, module, monkeypatch):
    import importlib

    package = module.partition(".")[0]
    real = importlib.import_module

    def missing(wanted, *args):
        if wanted.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(wanted, *args)

    monkeypatch.setattr("neuroprune.tasks.errors.import_module", missing)
    texts = [["a"], [("a",)]] if name in ("rougeLsum", "bleu", "chrf") else [PREDICTED, TRUE]
    with pytest.raises(MissingExtraError, match=r"pip install 'neuroprune\[bench\]'"):
        score([name], *texts)


def test_a_broken_installation_is_not_called_a_missing_extra(monkeypatch):
    def broken(wanted):
        raise ModuleNotFoundError("No module named 'other'", name="other")

    monkeypatch.setattr("neuroprune.tasks.errors.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="'other'") as caught:
        score(["bleu"], ["a"], [("a",)])
    assert not isinstance(caught.value, MissingExtraError)
