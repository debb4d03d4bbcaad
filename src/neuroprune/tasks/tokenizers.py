"""A tokenizer learnt from the training text, for models that start from random weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from neuroprune.tasks.errors import ModelSourceError

# What the tokenizer reserves; the order fixes the numbers.
SPECIAL_TOKENS = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
MASK_TOKEN = {"mask_token": "<mask>"}
_BYTES = 256


def learn_tokenizer(texts: Iterable[str], vocabulary: int, masked: bool = False) -> Any:
    """Byte-level byte-pair encoding learnt from texts; the same texts give the same tokenizer.

    Every byte has a token, so no text is unknown. An encoded text ends with `</s>`; there is no
    token at its beginning.

    Args:
        texts: what to learn from.
        vocabulary: number of tokens, special tokens and the 256 bytes included. Fewer are made
            where the texts hold fewer pairs.
        masked: reserve a token that stands for a hidden one, for masked language modelling.

    Returns:
        A fast transformers tokenizer.

    Raises:
        ModelSourceError: `vocabulary` has no room for the bytes, or there is no text.

    Reference: Sennrich et al. (2016), Neural machine translation of rare words with subword units.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    names = {**SPECIAL_TOKENS, **(MASK_TOKEN if masked else {})}
    special = list(names.values())
    least = _BYTES + len(special)
    if vocabulary < least:
        raise ModelSourceError(
            f"the vocabulary must be at least {least} (bytes and special tokens), got {vocabulary}."
        )
    texts = iter(texts)
    first = next(texts, None)
    if first is None:
        raise ModelSourceError(
            "a model from scratch learns its tokenizer from the training text, and there is none. "
            "Give the task a training split."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for part in ([first], texts) for text in part), trainer)
    end = SPECIAL_TOKENS["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, special.index(end))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names
    )
