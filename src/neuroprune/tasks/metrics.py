"""`METRICS`: every quality metric by name, as a function of predictions and references.

Classification takes two integer arrays; regression two float arrays; generation a list of texts
and, for each, its references; language modelling, masked or not, summed losses and token counts.
Packages are imported when a metric is computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from neuroprune.tasks.errors import DataError, require
from neuroprune.tasks.presets import Kind

_GENERATION = frozenset({Kind.SUMMARISATION, Kind.TRANSLATION})
_CLASSIFICATION = frozenset({Kind.CLASSIFICATION})
_BLOCKS = frozenset({Kind.LANGUAGE_MODELLING, Kind.MASKED_LANGUAGE_MODELLING})
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Metric:
    """One quality metric.

    Args:
        name: its key in `METRICS`.
        function: `function(predictions, references) -> float`.
        kinds: the kinds of task it fits.
        greater_is_better: False where less is better.
        regression: True where it compares numbers, not classes.
        by_class: True where `function` takes the number of classes, too.
    """

    name: str
    function: Callable[..., float]
    kinds: frozenset[Kind]
    greater_is_better: bool = True
    regression: bool = False
    by_class: bool = False


def accuracy(predictions: Any, references: Any) -> float:
    """Share of predictions that are right, in [0, 1].

    Args:
        predictions: class numbers, shape (n,).
        references: class numbers, shape (n,).
    """
    return float(np.mean(np.asarray(predictions) == np.asarray(references)))


def f1(predictions: Any, references: Any, classes: int | None = None) -> float:
    """F1 of class 1 for two classes, else the unweighted mean of the classes' F1; in [0, 1].

    Args:
        predictions: class numbers, shape (n,).
        references: class numbers, shape (n,).
        classes: how many classes the task has; None for as many as are met here.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    sklearn = require("sklearn.metrics", "the metric 'f1'")
    if classes is None:
        classes = 1 + int(max(np.max(predictions), np.max(references)))
    average = "binary" if classes <= 2 else "macro"
    return float(sklearn.f1_score(references, predictions, average=average, zero_division=0.0))


def matthews(predictions: Any, references: Any) -> float:
    """Matthews correlation of the classes, in [-1, 1]; 0 where all predictions are the same.

    Args:
        predictions: class numbers, shape (n,).
        references: class numbers, shape (n,).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    sklearn = require("sklearn.metrics", "the metric 'matthews'")
    if np.unique(predictions).size == 1 or np.unique(references).size == 1:
        return 0.0
    return float(sklearn.matthews_corrcoef(references, predictions))


def pearson(predictions: Any, references: Any) -> float:
    """Pearson's correlation, in [-1, 1]; 0 where either side is constant.

    Args:
        predictions: numbers, shape (n,).
        references: numbers, shape (n,).

    Raises:
        MissingExtraError: scipy is not installed.
    """
    return _correlation("pearson", predictions, references)


def spearman(predictions: Any, references: Any) -> float:
    """Spearman's rank correlation, in [-1, 1]; 0 where either side is constant.

    Args:
        predictions: numbers, shape (n,).
        references: numbers, shape (n,).

    Raises:
        MissingExtraError: scipy is not installed.
    """
    return _correlation("spearman", predictions, references)


def _correlation(name: str, predictions: Any, references: Any) -> float:
    stats = require("scipy.stats", f"the metric {name!r}")
    first, second = np.asarray(predictions, float), np.asarray(references, float)
    if np.unique(first).size == 1 or np.unique(second).size == 1:
        return 0.0
    return float(getattr(stats, f"{name}r")(first, second).statistic)


def rouge(
    names: Sequence[str], predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """ROUGE F-measures with stemming, each the mean over examples; in [0, 1].

    An example with several references is scored against each, and the best counts. rougeLsum
    compares sentence by sentence; a text without line breaks is cut after ".", "!" and "?".

    Args:
        names: any of rouge1, rouge2, rougeL, rougeLsum.
        predictions: n texts.
        references: for each of them one text or more.

    Raises:
        MissingExtraError: rouge-score is not installed.

    Reference: Lin (2004), ROUGE: a package for automatic evaluation of summaries.
    """
    module = require("rouge_score.rouge_scorer", "a ROUGE metric")
    scorer = module.RougeScorer(list(names), use_stemmer=True)
    totals = dict.fromkeys(names, 0.0)
    for prediction, targets in zip(predictions, references, strict=True):
        scores = scorer.score_multi([_lines(t) for t in targets], _lines(prediction))
        for name in names:
            totals[name] += scores[name].fmeasure
    return {name: total / len(predictions) for name, total in totals.items()}


def _lines(text: str) -> str:
    text = text.strip()
    return text if "\n" in text else _SENTENCE_END.sub("\n", text)


def _one_rouge(name: str, predictions: Sequence[str], references: Any) -> float:
    return rouge([name], predictions, references)[name]


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU as sacrebleu computes it (13a tokens, mixed case), in [0, 100].

    Args:
        predictions: n texts.
        references: for each of them one text or more.

    Raises:
        MissingExtraError: sacrebleu is not installed.

    Reference: Post (2018), A call for clarity in reporting BLEU scores.
    """
    sacrebleu = require("sacrebleu", "the metric 'bleu'")
    return float(sacrebleu.corpus_bleu(list(predictions), _streams(references)).score)


def chrf(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus chrF2 as sacrebleu computes it, in [0, 100].

    Args:
        predictions: n texts.
        references: for each of them one text or more.

    Raises:
        MissingExtraError: sacrebleu is not installed.

    Reference: Popović (2015), chrF: character n-gram F-score for automatic MT evaluation.
    """
    sacrebleu = require("sacrebleu", "the metric 'chrf'")
    return float(sacrebleu.corpus_chrf(list(predictions), _streams(references)).score)


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Transpose to one list per reference number; None where an example has fewer."""
    count = max(len(targets) for targets in references)
    return [[t[i] if i < len(t) else None for t in references] for i in range(count)]


def perplexity(losses: Any, tokens: Any) -> float:
    """exp(sum of losses / sum of tokens), per token of the model's own tokenizer.

    Args:
        losses: summed negative log-likelihoods in nats, shape (n,).
        tokens: how many tokens each sum is over, shape (n,).

    Returns:
        The perplexity, at least 1; infinity where exp overflows.

    Raises:
        DataError: there is no token to predict.
    """
    total = float(np.sum(tokens))
    if total == 0:
        raise DataError("no token to predict: every block has a single token. Use longer texts.")
    try:
        return math.exp(float(np.sum(losses)) / total)
    except OverflowError:
        return math.inf


_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_ALL = (
    Metric("accuracy", accuracy, _CLASSIFICATION),
    Metric("f1", f1, _CLASSIFICATION, by_class=True),
    Metric("matthews", matthews, _CLASSIFICATION),
    Metric("pearson", pearson, _CLASSIFICATION, regression=True),
    Metric("spearman", spearman, _CLASSIFICATION, regression=True),
    *(Metric(name, partial(_one_rouge, name), _GENERATION) for name in _ROUGE),
    Metric("bleu", bleu, _GENERATION),
    Metric("chrf", chrf, _GENERATION),
    Metric("perplexity", perplexity, _BLOCKS, False),
)
METRICS = {metric.name: metric for metric in _ALL}


def score(
    names: Sequence[str], predictions: Any, references: Any, classes: int | None = None
) -> dict[str, float]:
    """Several metrics of the same predictions.

    Args:
        names: keys of `METRICS`.
        predictions: as the metrics take them.
        references: likewise.
        classes: how many classes the task has, for the metrics that ask.

    Returns:
        The value of each, in the order of `names`.

    Raises:
        DataError: an unknown metric, or nothing to score.
        MissingExtraError: a metric's package is not installed.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise DataError(f"unknown metric {unknown[0]!r}; known: {', '.join(METRICS)}.")
    if len(predictions) == 0 or len(predictions) != len(references):
        raise DataError(
            f"expected one prediction for each reference and at least one, got {len(predictions)} "
            f"predictions and {len(references)} references."
        )
    together = [name for name in names if name in _ROUGE]
    values = rouge(together, predictions, references) if together else {}
    for name in names:
        if name not in values:
            metric = METRICS[name]
            told = {"classes": classes} if metric.by_class else {}
            values[name] = metric.function(predictions, references, **told)
    return {name: values[name] for name in names}


def score_logits(
    names: Sequence[str], logits: Any, references: Any, regression: bool
) -> dict[str, float]:
    """Several metrics of what a classifier or a regressor puts out.

    Args:
        names: keys of `METRICS`.
        logits: shape (n, classes); of a regression (n, 1) or (n,).
        references: class numbers, or the numbers of a regression, shape (n,).
        regression: whether numbers are compared, not classes.

    Returns:
        The value of each, in the order of `names`.

    Raises:
        DataError: an unknown metric, or nothing to score.
        MissingExtraError: a metric's package is not installed.
    """
    if regression:
        return score(names, logits.reshape(-1), references)
    return score(names, logits.argmax(-1), references, logits.shape[-1])
