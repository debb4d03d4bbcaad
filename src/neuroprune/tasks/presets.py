"""What is known of a kind of task, and of some public data sets: columns, labels, metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """The kinds of task."""

    CLASSIFICATION = "classification"
    SUMMARISATION = "summarisation"
    TRANSLATION = "translation"
    LANGUAGE_MODELLING = "language-modelling"
    MASKED_LANGUAGE_MODELLING = "masked-language-modelling"

    @property
    def is_generation(self) -> bool:
        """True where the model writes a text (sequence to sequence)."""
        return self in (Kind.SUMMARISATION, Kind.TRANSLATION)

    @property
    def predicts_tokens(self) -> bool:
        """True where blocks of text are read and their own tokens predicted."""
        return self in (Kind.LANGUAGE_MODELLING, Kind.MASKED_LANGUAGE_MODELLING)


_SEQ2SEQ_SETTINGS = frozenset(
    {"source_column", "target_column", "prefix", "num_beams", "max_target_length"}
)
# Settings that only some kinds read; giving one to another kind is an error.
SETTINGS: Mapping[Kind, frozenset[str]] = {
    Kind.CLASSIFICATION: frozenset(
        {"text_column", "text_pair_column", "label_column", "labels", "regression"}
    ),
    Kind.SUMMARISATION: _SEQ2SEQ_SETTINGS,
    Kind.TRANSLATION: _SEQ2SEQ_SETTINGS,
    Kind.LANGUAGE_MODELLING: frozenset({"text_column"}),
    Kind.MASKED_LANGUAGE_MODELLING: frozenset({"text_column"}),
}
_TEXT = {"text_column": "text", "metrics": ("perplexity",), "max_length": 128}
# Where a setting is neither given nor known of the data set. Lengths are tokens.
DEFAULTS: Mapping[Kind, Mapping[str, Any]] = {
    Kind.CLASSIFICATION: {
        "text_column": "text",
        "label_column": "label",
        "regression": False,
        "metrics": ("accuracy",),
        "max_length": 128,
    },
    Kind.SUMMARISATION: {
        "source_column": "document",
        "target_column": "summary",
        "metrics": ("rouge1", "rouge2", "rougeL", "rougeLsum"),
        "max_length": 512,
        "max_target_length": 64,
        "prefix": "",
        "num_beams": 1,
    },
    Kind.TRANSLATION: {
        "metrics": ("bleu", "chrf"),
        "max_length": 128,
        "max_target_length": 128,
        "prefix": "",
        "num_beams": 1,
    },
    Kind.LANGUAGE_MODELLING: _TEXT,
    Kind.MASKED_LANGUAGE_MODELLING: _TEXT,
}


@dataclass(frozen=True)
class Preset:
    """Settings of a public data set, columns named as in Hugging Face `datasets`.

    Args:
        kind: the kind of task they are for.
        settings: values for `TaskConfig`, by field name.
    """

    kind: Kind
    settings: Mapping[str, Any]


def _glue(
    text: str, pair: str | None, labels: tuple[str, ...] | None, *metrics: str, **more: Any
) -> Preset:
    settings = {"text_column": text, "metrics": metrics, **more}
    if pair is not None:
        settings["text_pair_column"] = pair
    if labels is not None:
        settings["labels"] = labels
    return Preset(Kind.CLASSIFICATION, settings)


_ENTAILMENT = ("entailment", "not_entailment")
_PARAPHRASE = ("not_equivalent", "equivalent")
_MNLI = ("premise", "hypothesis", ("entailment", "neutral", "contradiction"), "accuracy")

PRESETS: Mapping[str, Preset] = {
    "cola": _glue("sentence", None, ("unacceptable", "acceptable"), "matthews"),
    "sst2": _glue("sentence", None, ("negative", "positive"), "accuracy"),
    "mrpc": _glue("sentence1", "sentence2", _PARAPHRASE, "accuracy", "f1"),
    "qqp": _glue("question1", "question2", ("not_duplicate", "duplicate"), "accuracy", "f1"),
    "stsb": _glue("sentence1", "sentence2", None, "pearson", "spearman", regression=True),
    "mnli": _glue(*_MNLI, eval_split="validation_matched"),  # or "validation_mismatched"
    "mnli_matched": _glue(*_MNLI),  # these two of the hub have no training split
    "mnli_mismatched": _glue(*_MNLI),
    "qnli": _glue("question", "sentence", _ENTAILMENT, "accuracy"),
    "rte": _glue("sentence1", "sentence2", _ENTAILMENT, "accuracy"),
    "wnli": _glue("sentence1", "sentence2", ("not_entailment", "entailment"), "accuracy"),
    "movie_reviews": Preset(Kind.CLASSIFICATION, {"labels": ("negative", "positive")}),
    "cnn_dailymail": Preset(
        Kind.SUMMARISATION,
        {"source_column": "article", "target_column": "highlights", "max_target_length": 128},
    ),
    "xsum": Preset(Kind.SUMMARISATION, {"source_column": "document", "target_column": "summary"}),
    "scitldr": Preset(Kind.SUMMARISATION, {"source_column": "source", "target_column": "target"}),
    "iwslt14": Preset(
        Kind.TRANSLATION,
        {"source_column": "translation.de", "target_column": "translation.en"},
    ),
    "multi30k": Preset(Kind.TRANSLATION, {"source_column": "en", "target_column": "de"}),
    "wikitext": Preset(Kind.LANGUAGE_MODELLING, {"text_column": "text"}),
}
# Other names of the same sets.
_ALIASES = {
    "cnndm": "cnn_dailymail",
    "iwslt14_de_en": "iwslt14",
    "multi30k_en_de": "multi30k",
    "sts_b": "stsb",
    "sst_2": "sst2",
    "wikitext2": "wikitext",
    "wikitext103": "wikitext",
}
# Short hub names of sets that have several configurations -> repository.
_REPOSITORIES = {
    "cnn_dailymail": "abisee/cnn_dailymail",
    "glue": "nyu-mll/glue",
    "iwslt14": "bbaaaa/iwslt14-de-en",
    "multi30k": "bentrevett/multi30k",
    "rotten_tomatoes": "cornell-movie-review-data/rotten_tomatoes",
    "scitldr": "allenai/scitldr",
    "wikitext": "Salesforce/wikitext",
    "wmt14": "wmt/wmt14",
    "wmt16": "wmt/wmt16",
    "xsum": "EdinburghNLP/xsum",
}


def split_hub_name(name: str) -> tuple[str, str | None]:
    """Repository and configuration of a hub data set's name.

    "owner/set/configuration", "owner/set", and for a few well-known sets "set/configuration" or
    "set" alone ("glue/sst2", "cnn_dailymail/3.0.0", "wmt16/de-en", "xsum").

    Returns:
        The repository, and the configuration or None.

    Raises:
        ValueError: the name has none of these forms.
    """
    parts = name.split("/")
    if all(parts):
        if len(parts) <= 2 and parts[0] in _REPOSITORIES:
            return _REPOSITORIES[parts[0]], parts[1] if len(parts) == 2 else None
        if len(parts) == 2:
            return name, None
        if len(parts) == 3:
            return f"{parts[0]}/{parts[1]}", parts[2]
    raise ValueError(
        f"{name!r} is no name of a hub data set: expected 'owner/set', 'owner/set/configuration', "
        f"or 'set/configuration' with set one of {', '.join(sorted(_REPOSITORIES))}."
    )


def find_preset(kind: Kind, *names: str | None) -> Preset | None:
    """The first preset of this kind that one of the names (or a part of a hub name) stands for."""
    for name in names:
        # The configuration of a hub name says more than its repository: "glue/sst2" is sst2.
        for part in reversed((name or "").lower().split("/")):
            key = part.replace("-", "_")
            preset = PRESETS.get(_ALIASES.get(key, key))
            if preset is not None and preset.kind is kind:
                return preset
    return None
