from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from neuroprune.tasks import ModelSourceError, learn_tokenizer
from tests.tasks.helpers import sentence


def texts():
    return (sentence(i, 9) for i in range(40))


def test_the_same_texts_give_the_same_tokenizer():
    first, second = (learn_tokenizer(texts(), 320) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert len(first) <= 320
    assert (first.pad_token_id, first.eos_token_id, first.unk_token_id) == (0, 1, 2)


def test_any_text_comes_back_whole():
    learnt = learn_tokenizer(texts(), 300)
    for text in ("red cat", " two  spaces , and commas .\n", "日本 ünï 🙂"):
        ids = learnt(text)["input_ids"]
        assert ids[-1] == learnt.eos_token_id
        assert learnt.unk_token_id not in ids
        assert learnt.decode(ids, skip_special_tokens=True) == text


def test_it_is_saved_and_loaded_by_transformers(tmp_path):
    learnt = learn_tokenizer(texts(), 300)
    learnt.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("small dog , sings")["input_ids"] == learnt("small dog , sings")["input_ids"]
    assert loaded.pad_token == "<pad>"


def test_too_small_a_vocabulary_and_no_text_are_refused():
    with pytest.raises(ModelSourceError, match="at least 259"):
        learn_tokenizer(texts(), 258)
    with pytest.raises(ModelSourceError, match="Give the task a training split"):
        learn_tokenizer(iter(()), 300)
