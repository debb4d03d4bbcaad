"""The callback gives the plain loop's trajectory; checkpoints resume; bad settings are refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import neuroprune
from neuroprune.anatomy import anatomy_of
from neuroprune.config import CoFi, ConfigError, Magnitude, NeuroPrune
from neuroprune.topology.sparsity import sparsity
from tests.zoo import inputs_for, lineage_of, make_inputs, make_model

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*")
CONFIG = NeuroPrune(alpha=0.5, beta=0.2, theta=0.55, apply="prox")
ROWS, BATCH = 12, 4


class Rows(torch.utils.data.Dataset):
    """Fixed sentences without padding, so that every batch has one shape."""

    def __init__(self) -> None:
        inputs = make_inputs("bert", batch=ROWS)
        self.ids, self.labels = inputs["input_ids"], inputs["labels"]

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


def trainer_for(
    model: Any, directory: Path, method: Any = CONFIG, teacher: Any = None, **settings: Any
) -> Any:
    from transformers import Trainer, TrainingArguments

    arguments = {
        "output_dir": str(directory),
        "num_train_epochs": 4,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 5e-3,
        "lr_scheduler_type": "linear",
        "max_grad_norm": 0.0,
        "report_to": [],
        "save_strategy": "epoch",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
        "dataloader_pin_memory": False,
        **settings,
    }
    callback = neuroprune.NeuroPruneCallback(method, teacher=teacher)
    return Trainer(
        model, TrainingArguments(**arguments), train_dataset=Rows(), callbacks=[callback]
    )


def read_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a Trainer read the rows in order, so that a plain loop can do the same."""
    from transformers import Trainer

    def sequential(self: Any, *args: Any, **kwargs: Any) -> Any:
        return torch.utils.data.SequentialSampler(Rows())

    monkeypatch.setattr(Trainer, "_get_train_sampler", sequential)


def equal(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    pairs = list(zip(a.parameters(), b.parameters(), strict=True))
    return all(
        p.shape == q.shape and torch.allclose(p, q, rtol=0, atol=tolerance) for p, q in pairs
    )


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("apply", ["prox", "penalty"])
def test_same_trajectory_as_the_plain_loop(
    apply: str, accumulation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_in_order(monkeypatch)
    # float64: Adam turns the rounding noise of gradients that are zero into full steps.
    method = NeuroPrune(alpha=0.5, beta=0.2, theta=0.55, apply=apply)
    model = make_model("bert").double()
    plain = copy.deepcopy(model)
    trainer = trainer_for(
        model, tmp_path, method, save_strategy="no", gradient_accumulation_steps=accumulation
    )
    # The loss of a classifier ignores the number of items; let the Trainer average it instead.
    trainer.model_accepts_loss_kwargs = False
    groups = trainer.create_optimizer().param_groups
    trainer.train()

    decay = set(trainer.get_decay_parameter_names(plain))
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p for n, p in plain.named_parameters() if n in decay],
                "weight_decay": groups[0]["weight_decay"],
            },
            {
                "params": [p for n, p in plain.named_parameters() if n not in decay],
                "weight_decay": 0.0,
            },
        ],
        lr=5e-3,
    )
    batches = ROWS // BATCH
    total = 4 * batches // accumulation
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0, 1 - step / total))
    pruner = neuroprune.attach(plain, optimizer, method, total)
    rows = Rows()
    plain.train()
    for _ in range(4):
        for batch in range(batches):
            index = slice(batch * BATCH, (batch + 1) * BATCH)
            loss = plain(input_ids=rows.ids[index], labels=rows.labels[index]).loss
            (loss / accumulation).backward()
            if (batch + 1) % accumulation == 0:
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        pruner.prune()
    removed = pruner.finish()
    assert lineage_of(plain) == lineage_of(model)
    assert removed == next(
        c.removed for c in trainer.callback_handler.callbacks if hasattr(c, "removed")
    )
    if apply == "prox":
        assert removed.num_neurons > 0 or removed.num_heads > 0
    for (name, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=0, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


RESUMED = {
    "neuroprune": CONFIG,
    "magnitude": Magnitude(target=0.7, structure="units", begin=0.0, end=0.9),
    "output": NeuroPrune(alpha=0.5, theta=0.9, apply="prox", redundancy="output"),
    "target-output": NeuroPrune(target=0.7, redundancy="output", theta=0.9, begin=0.0, end=0.9),
    "target-circuit": NeuroPrune(target=0.7, redundancy="circuit", theta=0.9, end=0.9),
    "repair": NeuroPrune(target=0.7, repair=True, end=0.9),
}


@pytest.mark.parametrize("method", RESUMED.values(), ids=RESUMED.keys())
def test_a_checkpoint_after_a_cut_resumes_on_the_same_trajectory(
    method: Any, tmp_path: Path
) -> None:
    through = make_model("bert")
    trainer_for(through, tmp_path / "a", method).train()
    checkpoint = tmp_path / "a" / "checkpoint-6"  # after the second of four epochs
    resumed = neuroprune.from_pretrained(checkpoint)
    assert lineage_of(resumed).plan, "something was cut before this checkpoint"
    trainer_for(resumed, tmp_path / "b", method).train(resume_from_checkpoint=str(checkpoint))
    assert lineage_of(resumed) == lineage_of(through)
    assert equal(resumed, through)
    trainer = trainer_for(resumed, tmp_path / "c", method, save_strategy="no")
    trainer.save_model(str(tmp_path / "saved"))
    assert equal(neuroprune.from_pretrained(tmp_path / "saved"), resumed)


def test_a_checkpoint_by_step_at_an_epochs_end_is_cut_when_it_is_resumed(tmp_path: Path) -> None:
    """It was saved before the epoch's end, at which heads go."""
    through = make_model("bert")
    settings = {"save_strategy": "steps", "save_steps": 3}  # an epoch has three
    trainer_for(through, tmp_path / "a", CONFIG, **settings).train()
    checkpoint = tmp_path / "a" / "checkpoint-3"
    resumed = neuroprune.from_pretrained(checkpoint)
    before = lineage_of(resumed)
    trainer = trainer_for(resumed, tmp_path / "b", CONFIG, **settings)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert lineage_of(resumed) == lineage_of(through) != before
    assert equal(resumed, through)


def test_resuming_with_a_dense_model_says_what_to_give(tmp_path: Path) -> None:
    trainer_for(make_model("bert"), tmp_path / "a").train()
    dense = make_model("bert")
    trainer = trainer_for(dense, tmp_path / "b")
    with pytest.raises(ConfigError, match=r"of a model that was cut.*from_pretrained\(checkpoint"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-6"))
    assert not dense._load_state_dict_pre_hooks
    trainer_for(dense, tmp_path / "c", save_strategy="no").train()
    assert not dense._load_state_dict_pre_hooks


def test_loading_into_a_model_of_a_trainer_is_looked_at_once(tmp_path: Path) -> None:
    model = make_model("bert")
    state = model.state_dict()
    state["classifier.weight"] = torch.zeros(5, *state["classifier.weight"].shape[1:])
    trainer_for(model, tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch for classifier"):  # torch's own: no cut
        model.load_state_dict(state, strict=False)
    assert not model._load_state_dict_pre_hooks


def test_resuming_without_the_callbacks_state_is_refused(tmp_path: Path) -> None:
    trainer = trainer_for(make_model("bert"), tmp_path / "a")
    trainer.callback_handler.callbacks = [
        c for c in trainer.callback_handler.callbacks if type(c).__name__ != "NeuroPruneCallback"
    ]
    trainer.state.stateful_callbacks.clear()
    trainer.train()
    again = trainer_for(make_model("bert"), tmp_path / "b")
    with pytest.raises(ConfigError, match="start a new training"):
        again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"load_best_model_at_end": True, "eval_strategy": "epoch"},
            "load_best_model_at_end.*neuroprune.from_pretrained",
        ),
        ({"torch_compile": True}, "torch_compile.*compile the finished model"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"restore_callback_states_from_checkpoint": True}, "restores itself"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_the_start(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    from transformers import Trainer, TrainingArguments

    with pytest.raises(ConfigError, match=message):
        Trainer(
            make_model("bert"),
            TrainingArguments(output_dir=str(tmp_path), save_strategy="epoch", **settings),
            train_dataset=Rows(),
            eval_dataset=Rows(),
            callbacks=[neuroprune.NeuroPruneCallback(CONFIG)],
        )


def test_smoothed_labels_leave_a_teacher_without_a_say(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path), label_smoothing_factor=0.1)
    taught = neuroprune.NeuroPrune(target=0.5, teacher="dense")
    for callback in (
        neuroprune.NeuroPruneCallback(taught),
        neuroprune.NeuroPruneCallback(neuroprune.NeuroPrune(target=0.5), teacher="dense"),
    ):
        with pytest.raises(ConfigError, match="label_smoothing_factor"):
            Trainer(make_model("bert"), arguments, train_dataset=Rows(), callbacks=[callback])
    Trainer(
        make_model("bert"),
        arguments,
        train_dataset=Rows(),
        callbacks=[neuroprune.NeuroPruneCallback(CONFIG)],
    )


def test_accelerate_loop_prunes_the_unwrapped_model() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = make_model("bert").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model, optimizer = accelerator.prepare(model, optimizer)
    pruner = neuroprune.attach(accelerator.unwrap_model(model), optimizer, CONFIG)
    for seed in range(8):
        with accelerator.accumulate(model):
            accelerator.backward(model(**inputs_for(model, "bert", seed)).loss)
            optimizer.step()
            optimizer.zero_grad()
    assert pruner.steps == 4
    assert pruner.finish()
    assert anatomy_of(accelerator.unwrap_model(model)).lineage.plan


def test_importing_the_callback_is_what_imports_transformers() -> None:
    import subprocess
    import sys

    code = (
        "import sys, neuroprune; "
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'accelerate'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "import neuroprune.pruner, neuroprune.checkpoint, neuroprune.integrations; "
        "heavy -= {'torch'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "neuroprune.NeuroPruneCallback; assert 'transformers' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_checkpoint_carries_the_plan_also_before_the_first_cut(tmp_path: Path) -> None:
    nothing = NeuroPrune(alpha=0.0, beta=0.0, theta=0.0, eps=0.0)
    model = make_model("bert")
    trainer = trainer_for(model, tmp_path, nothing, num_train_epochs=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    for directory in (tmp_path / "checkpoint-3", tmp_path / "saved"):
        assert equal(neuroprune.from_pretrained(directory), model)


def test_an_interrupted_training_can_be_started_again(tmp_path: Path) -> None:
    trainer = trainer_for(make_model("bert"), tmp_path, save_strategy="no", num_train_epochs=1)
    stop, step = [True], trainer.training_step

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if stop and stop.pop():
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    trainer.training_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()
    assert trainer.state.global_step == 3


@pytest.mark.parametrize("resumed_at", ["checkpoint-3", "checkpoint-9"])
def test_a_target_is_met_with_the_callback_alone_and_after_resuming(
    resumed_at: str, tmp_path: Path
) -> None:
    """One knob under the Trainer; a checkpoint from within the ramp, and one from after it."""
    method = NeuroPrune(target=0.6, begin=0.1, end=0.7)
    whole = make_model("bert")
    trainer = trainer_for(whole, tmp_path / "a", method)
    trainer.train()
    reached = sparsity(anatomy_of(whole)).structural_sparsity
    assert 0.6 <= reached <= 0.606
    ours = next(c for c in trainer.callback_handler.callbacks if hasattr(c, "reached"))
    assert ours.reached == {"structural:0.6": reached}
    folder = tmp_path / "a" / resumed_at
    again = neuroprune.from_pretrained(folder)
    trainer_for(again, tmp_path / "b", method).train(resume_from_checkpoint=str(folder))
    assert lineage_of(again).to_dict() == lineage_of(whole).to_dict()
    assert equal(whole, again, 1e-6)


@pytest.mark.parametrize(
    "target", ["weights:0.5", "parameters:11000", "flops:0.2@1x32", "heads:3", [0.6, "heads:4"]]
)
def test_every_kind_of_target_resumes_after_the_ramp(target: Any, tmp_path: Path) -> None:
    method = NeuroPrune(target=target, begin=0.1, end=0.6)
    whole = make_model("bert")
    trainer_for(whole, tmp_path / "a", method).train()
    folder = tmp_path / "a" / "checkpoint-9"
    again = neuroprune.from_pretrained(folder)
    trainer_for(again, tmp_path / "b", method).train(resume_from_checkpoint=str(folder))
    assert lineage_of(again).to_dict() == lineage_of(whole).to_dict()
    assert equal(whole, again, 1e-6)


def test_snapshots_go_to_the_output_folder(tmp_path: Path) -> None:
    method = NeuroPrune(target=0.6, begin=0.1, end=0.9, snapshots=[0.3])
    trainer_for(make_model("bert"), tmp_path, method, save_strategy="no").train()
    assert {p.name for p in (tmp_path / "snapshots").iterdir()} == {
        "snapshots.json",
        "structural-0.3",
        "structural-0.6",
    }


def test_the_teacher_works_under_the_trainer(tmp_path: Path) -> None:
    losses = []
    for teacher in (None, "dense"):
        model = make_model("bert")
        method = NeuroPrune(target=0.3, teacher=teacher)
        trainer = trainer_for(model, tmp_path, method, save_strategy="no")
        losses.append(trainer.train().training_loss)
        assert not model._forward_hooks
    assert losses[0] != losses[1]


def test_layers_are_distilled_and_resumed_under_the_trainer(tmp_path: Path) -> None:
    """From before the gates learn, and from after the cut, with the transformation as it was."""
    method, teacher = CoFi(target=0.5, begin=0.3, warm=0.4, end=0.6), make_model("bert", seed=5)
    whole = make_model("bert")
    trainer_for(whole, tmp_path / "a", method, teacher).train()
    assert lineage_of(whole).to_dict() != lineage_of(make_model("bert")).to_dict()
    for number in (3, 9):
        folder = tmp_path / "a" / f"checkpoint-{number}"
        again = neuroprune.from_pretrained(folder)
        trainer = trainer_for(again, tmp_path / "b", method, teacher)
        trainer.train(resume_from_checkpoint=str(folder))
        assert equal(whole, again, 1e-6)
