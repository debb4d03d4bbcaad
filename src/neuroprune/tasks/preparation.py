"""`prepare_task`: from examples to token ids and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from neuroprune.tasks.config import TaskConfig
from neuroprune.tasks.data import RawTask, Split, TaskData
from neuroprune.tasks.errors import DataError, require
from neuroprune.tasks.presets import Kind
from neuroprune.tasks.reading import read_task

IGNORED = -100  # a label that no loss counts
_CHUNK = 1000
_MASK_SEED = 0  # evaluation hides the same tokens in every run
Examples = dict[str, list[Any]]


def load_task(
    config: TaskConfig,
    tokenizer: Any,
    data_dir: Path | str | None = None,
    seed: int = 0,
    with_train: bool = True,
) -> TaskData:
    """`read_task`, then `prepare_task`.

    Args:
        config: the task.
        tokenizer: the model's tokenizer.
        data_dir: what relative paths are relative to; `$NEUROPRUNE_DATA` where None.
        seed: picks the training examples where `config.train_limit` is set.
        with_train: False leaves the training split out.

    Raises:
        DataError: see `read_task` and `prepare_task`.
        MissingExtraError: a package that is needed is not installed.
    """
    return prepare_task(read_task(config, data_dir, seed, with_train), tokenizer)


def prepare_task(raw: RawTask, tokenizer: Any) -> TaskData:
    """Tokenise a task.

    Classification: one or two sentences, cut to `max_length`, padded batch by batch. Generation:
    `prefix` + source, and the (first) target as labels. Language modelling: the texts in one
    stream, cut into blocks of `max_length`; a text that does not end with a line break is a
    document of its own and is closed with the end-of-text token. The last, short block is dropped
    from training, and kept in evaluation. Masked language modelling: the same blocks; of their
    tokens 15% are to be predicted, of which 80% are hidden, 10% replaced and 10% left (Devlin et
    al. 2019, section 3.1). Training draws them anew for every batch, evaluation has them fixed.

    Args:
        raw: the examples.
        tokenizer: the model's tokenizer.

    Returns:
        Datasets, collator and references.

    Raises:
        DataError: the tokenizer has no padding token or, where it is needed, no mask token; or
            there is less text than one block.
        MissingExtraError: `datasets` is not installed.

    Example:
        >>> data = prepare_task(raw, tokenizer)  # doctest: +SKIP
    """
    require("datasets", "preparing a task")
    if tokenizer.pad_token is None:
        raise DataError(
            "the tokenizer has no padding token: set tokenizer.pad_token = tokenizer.eos_token, or "
            "use load_model_and_tokenizer, which does."
        )
    masked = raw.config.task_kind is Kind.MASKED_LANGUAGE_MODELLING
    if masked and tokenizer.mask_token is None:
        raise DataError(
            "masked language modelling needs a tokenizer with a mask token, and this one has none. "
            "Take a model that was trained with masks, such as a BERT, or language-modelling."
        )
    encode = _ENCODERS[raw.config.task_kind]
    train = None if raw.train is None else encode(raw.config, raw.train, tokenizer, True)
    references: tuple[tuple[str, ...], ...] = ()
    if raw.config.task_kind.is_generation:
        references = tuple(raw.evaluation.columns["target"])
    return TaskData(
        raw.config,
        tokenizer,
        train,
        encode(raw.config, raw.evaluation, tokenizer, False),
        _collator(raw.config.task_kind, tokenizer),
        raw.num_labels,
        raw.label_names,
        references,
    )


def _collator(kind: Kind, tokenizer: Any) -> Callable[[list[dict[str, Any]]], Any]:
    from transformers import (
        DataCollatorForLanguageModeling,
        DataCollatorForSeq2Seq,
        DataCollatorWithPadding,
    )

    collator: Callable[[list[dict[str, Any]]], Any]
    if kind is Kind.MASKED_LANGUAGE_MODELLING:
        padded = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
        masks = DataCollatorForLanguageModeling(tokenizer)
        # Blocks of the evaluation have their masks, and labels.
        return lambda examples: (padded if "labels" in examples[0] else masks)(examples)
    if kind is Kind.CLASSIFICATION:
        collator = DataCollatorWithPadding(tokenizer)
    else:  # pads inputs with the padding token, labels with -100; blocks of text are the same case
        collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
    return collator


def _dataset(chunks: Iterator[Examples]) -> Any:
    """One Arrow table of the chunks; only one of them is held as Python numbers."""
    import datasets

    return datasets.concatenate_datasets([datasets.Dataset.from_dict(chunk) for chunk in chunks])


def _rows(count: int) -> Iterator[slice]:
    for start in range(0, count, _CHUNK):
        yield slice(start, start + _CHUNK)


def _classification(config: TaskConfig, split: Split, tokenizer: Any, train: bool) -> Any:
    columns = split.columns

    def chunks() -> Iterator[Examples]:
        for rows in _rows(len(split)):
            pair = [list(columns["text_pair"][rows])] if "text_pair" in columns else []
            encoded = tokenizer(
                list(columns["text"][rows]), *pair, truncation=True, max_length=config.max_length
            )
            yield {**encoded, "labels": list(columns["label"][rows])}

    return _dataset(chunks())


def _generation(config: TaskConfig, split: Split, tokenizer: Any, train: bool) -> Any:
    columns = split.columns

    def chunks() -> Iterator[Examples]:
        for rows in _rows(len(split)):
            sources = [f"{config.prefix}{text}" for text in columns["source"][rows]]
            targets = [references[0] for references in columns["target"][rows]]
            encoded = tokenizer(sources, truncation=True, max_length=config.max_length)
            labels = tokenizer(
                text_target=targets, truncation=True, max_length=config.max_target_length
            )
            yield {
                "input_ids": encoded["input_ids"],
                "attention_mask": encoded["attention_mask"],
                "labels": labels["input_ids"],
            }

    return _dataset(chunks())


def _language_modelling(config: TaskConfig, split: Split, tokenizer: Any, train: bool) -> Any:
    return _dataset(
        {"input_ids": ids, "attention_mask": [[1] * len(block) for block in ids], "labels": ids}
        for ids in _blocks(config, split, tokenizer, train)
    )


def _masked_blocks(config: TaskConfig, split: Split, tokenizer: Any, train: bool) -> Any:
    from transformers import DataCollatorForLanguageModeling

    masks = DataCollatorForLanguageModeling(tokenizer, seed=_MASK_SEED)

    def chunks() -> Iterator[Examples]:
        for ids in _blocks(config, split, tokenizer, train):
            ones = [[1] * len(block) for block in ids]
            if train:
                yield {"input_ids": ids, "attention_mask": ones}
                continue
            hidden = [masks([{"input_ids": block}]) for block in ids]
            told = {key: [h[key][0].tolist() for h in hidden] for key in ("input_ids", "labels")}
            yield {**told, "attention_mask": ones}

    return _dataset(chunks())


def _blocks(
    config: TaskConfig, split: Split, tokenizer: Any, train: bool
) -> Iterator[list[list[int]]]:
    """The texts as blocks of token ids, a thousand at a time."""
    size = int(config.max_length or 0)
    stream = list(chain.from_iterable(_token_runs(split.columns["text"], tokenizer)))
    count = len(stream) // size
    if (train and not count) or len(stream) < 2:
        raise DataError(
            f"the {'training' if train else 'evaluation'} text of the task {config.name!r} is "
            f"{len(stream)} tokens, less than one block of max_length = {size}. Use more text, or "
            "a smaller max_length."
        )
    blocks = [stream[i * size : (i + 1) * size] for i in range(count)]
    if not train and len(stream) - count * size > 1:
        blocks.append(stream[count * size :])
    for rows in _rows(len(blocks)):
        yield blocks[rows]


def _token_runs(texts: Sequence[str], tokenizer: Any) -> Iterator[list[int]]:
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    for rows in _rows(len(texts)):
        chunk = [text for text in texts[rows] if text]
        if not chunk:
            continue
        ids = tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]
        for text, run in zip(chunk, ids, strict=True):
            closed = text.endswith("\n") or end is None
            yield run if closed else [*run, end]


_ENCODERS: dict[Kind, Callable[[TaskConfig, Split, Any, bool], Any]] = {
    Kind.CLASSIFICATION: _classification,
    Kind.SUMMARISATION: _generation,
    Kind.TRANSLATION: _generation,
    Kind.LANGUAGE_MODELLING: _language_modelling,
    Kind.MASKED_LANGUAGE_MODELLING: _masked_blocks,
}
