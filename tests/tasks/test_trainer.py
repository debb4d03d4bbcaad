"""The metrics inside a Trainer are those that `evaluate` gives."""

from __future__ import annotations

import pytest
import torch

from neuroprune.evaluation import evaluate
from neuroprune.tasks import (
    DataError,
    compute_metrics,
    load_model_and_tokenizer,
    prepare_task,
    preprocess_logits,
    read_task,
)
from tests.tasks.helpers import (
    BERT,
    OPT,
    T5,
    classification,
    generation,
    language_modelling,
    masked,
)

CASES = [
    pytest.param(BERT, classification, {"metrics": ["accuracy", "f1", "matthews"]}, id="classes"),
    pytest.param(BERT, classification, {"regression": True}, id="regression"),
    pytest.param(T5, generation, {}, id="translation"),
    pytest.param(T5, generation, {"kind": "summarisation"}, id="summarisation"),
    pytest.param(OPT, language_modelling, {}, id="language-modelling"),
    pytest.param(BERT, masked, {}, id="masked-language-modelling"),
]


def build(folder, shape, make, settings):
    config = make(folder, **{"max_length": 32} | settings)
    raw = read_task(config)
    model, words = load_model_and_tokenizer(
        shape, config, num_labels=raw.num_labels, texts=raw.texts()
    )
    with torch.no_grad():  # away from the symmetric start, so that predictions differ
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=SEED))
    return model, prepare_task(raw, words)


SEED = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("shape", "make", "settings"), CASES)
def test_trainer_and_evaluate_agree(tmp_path, shape, make, settings):
    import transformers

    model, data = build(tmp_path, shape, make, settings)
    arguments = {
        "output_dir": str(tmp_path / "out"),
        "per_device_eval_batch_size": 4,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    trainer_class, argument_class = transformers.Trainer, transformers.TrainingArguments
    if data.config.task_kind.is_generation:
        trainer_class = transformers.Seq2SeqTrainer
        argument_class = transformers.Seq2SeqTrainingArguments
        arguments |= {"predict_with_generate": True, "generation_num_beams": 1}
        model.generation_config.max_new_tokens = data.config.max_target_length
        model.generation_config.max_length = None
    trainer = trainer_class(
        model=model,
        args=argument_class(**arguments),
        eval_dataset=data.evaluation,
        data_collator=data.collator,
        compute_metrics=compute_metrics(data),
        preprocess_logits_for_metrics=preprocess_logits(data),
    )
    inside = trainer.evaluate()
    outside = evaluate(model, data, batch_size=3)
    assert list(outside) == list(data.config.metrics)
    for name, value in outside.items():
        assert inside[f"eval_{name}"] == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_other_predictions_than_the_tasks_are_refused(tmp_path):
    from transformers import EvalPrediction

    _, data = build(tmp_path, T5, generation, {})
    with pytest.raises(DataError, match=r"2 generated texts for 5 references"):
        compute_metrics(data)(EvalPrediction([[1], [1]], [[1], [1]]))


def test_language_modelling_asks_for_the_preprocessing(tmp_path):
    from transformers import EvalPrediction

    _, data = build(tmp_path, OPT, language_modelling, {})
    logits = torch.zeros(2, 4, 5).numpy()
    with pytest.raises(DataError, match="preprocess_logits_for_metrics"):
        compute_metrics(data)(EvalPrediction(logits, logits))
