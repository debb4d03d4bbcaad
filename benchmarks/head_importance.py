"""Give records that were made before it was measured the importance of the dense model's heads.

Asked are the dense models that `neuroprune bench run --work WORK` kept, each once. A record whose
dense model is not there any more, or has another quality, stays as it is, and is named.

Usage: python benchmarks/head_importance.py RESULTS/EXPERIMENT --work WORK --data-dir DATA
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch

from neuroprune.bench.config import RunConfig
from neuroprune.bench.runner import kept_dense
from neuroprune.evaluation.importance import head_importance, tell_importance_
from neuroprune.record import RunRecord
from neuroprune.tasks.models import load_model_and_tokenizer
from neuroprune.tasks.preparation import prepare_task
from neuroprune.tasks.reading import read_task


def of_dense(place: Path, config: RunConfig, data_dir: Path) -> Mapping[str, list[float]]:
    """Importance of the heads of one kept dense model.

    Args:
        place: its folder, with `dense/`.
        config: of a run that was compared with it.
        data_dir: what the data files are relative to.
    """
    raw = read_task(config.task, data_dir, config.training.seed)
    model, tokenizer = load_model_and_tokenizer(
        place / "dense", config.task, num_labels=raw.num_labels
    )
    return head_importance(model, prepare_task(raw, tokenizer))


def add(results: Path, kept: Path, data_dir: Path) -> list[str]:
    """Complete every record below a folder whose dense model was kept.

    Args:
        results: the folder of records.
        kept: the folder of the dense models, by their digest.
        data_dir: what the data files are relative to.

    Returns:
        What was done, a line per record.
    """
    known: dict[str, Mapping[str, list[float]]] = {}
    told = []
    for path in sorted(results.rglob("seed-*.json")):
        record = RunRecord.load(path)
        blocks = record.structure.get("dense", {}).get("blocks", [])
        if not blocks or any("importance" in block for block in blocks):
            continue
        config = RunConfig.from_dict(record.config, str(path))
        place = kept / config.dense_digest
        stored = kept_dense(place)
        if stored is None or stored.get("metrics") != record.metrics["dense"]:
            told.append(f"{path}: its dense model is not in {place}")
            continue
        if place.name not in known:
            known[place.name] = of_dense(place, config, data_dir)
        tell_importance_(record.structure["dense"], known[place.name])
        record.save(path)
        told.append(f"{path}: done")
    return told


def main() -> None:
    """Read the command line, measure, complete the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("\n".join(add(options.results, options.work / "dense", options.data_dir)))


if __name__ == "__main__":
    main()
