"""`save_pretrained`."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from neuroprune.anatomy import Anatomy, Family, anatomy_of, family_of
from neuroprune.checkpoint.files import (
    CHECKPOINT_VERSION,
    PLAN_FILE,
    CheckpointError,
    StrandedError,
    move_into_place,
    read_json,
    sha256_of,
    unwritable,
)
from neuroprune.checkpoint.layout import per_layer, stock_settings, stock_state
from neuroprune.record import write_text_atomic


def save_pretrained(model: nn.Module, directory: Path | str, tokenizer: Any = None) -> None:
    """Save a model, shrunk or dense, so that `from_pretrained` loads it with one call.

    Everything is written beside the target first and moved into place when complete, the plan with
    the weights' digests last: a crash leaves the old files or a directory that refuses to load.

    Args:
        model: a transformers model of a declared family, not wrapped.
        directory: where to save; made if need be. Foreign files in it are left alone.
        tokenizer: saved along, if given.

    Raises:
        CheckpointError: the model is none of transformers'; or the disk is full or the directory
            cannot be written: what was there before is untouched, or the message says where it is.

    Example:
        >>> neuroprune.save_pretrained(model, "out/", tokenizer)  # doctest: +SKIP
    """
    if not str(directory):
        raise CheckpointError("expected a directory to save into, got an empty name.")
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise CheckpointError(
            f"expected a tokenizer or processor that can be saved, got {tokenizer!r}."
        )
    if not hasattr(model, "save_pretrained"):
        raise CheckpointError(
            f"expected a transformers model, which has save_pretrained; got a "
            f"{type(model).__name__}. Save the model inside it."
        )
    directory = Path(directory)
    anatomy, family = anatomy_of(model), family_of(model)
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is a file; give a directory to save into.")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        # On the file system of the target, which may be a link or a mount point.
        near = directory if directory.is_dir() else directory.parent
        stage = Path(tempfile.mkdtemp(prefix=".neuroprune-", dir=near))
    except OSError as error:
        raise unwritable(directory, error) from error
    stranded = False
    try:
        _write(model, stage, anatomy, family, tokenizer)
        move_into_place(stage, directory)
    except StrandedError:
        stranded = True
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None and "No space left" not in str(error):
            raise
        raise unwritable(directory, error) from error
    finally:
        if not stranded:
            shutil.rmtree(stage, ignore_errors=True)


def _write(model: Any, stage: Path, anatomy: Anatomy, family: Family, tokenizer: Any) -> None:
    lineage = anatomy.lineage
    overrides = stock_settings(anatomy, family)
    state = None if overrides is None else stock_state(model, anatomy, family, overrides)
    model.save_pretrained(stage, state_dict=state)
    if tokenizer is not None:
        tokenizer.save_pretrained(stage)
    settings = read_json(stage / "config.json")
    settings.pop("neuroprune", None)
    dense = None
    if overrides is not None:
        dense = {key: settings[key] for key in overrides}
        settings |= overrides
    elif family.single_stack:
        told = settings | {"per_layer_config": per_layer(anatomy, family)}
        settings = told if _is_readable(model.config, told) else settings
    write_text_atomic(stage / "config.json", json.dumps(settings, indent=2, sort_keys=True) + "\n")
    plan = {
        "checkpoint_version": CHECKPOINT_VERSION,
        "lineage": lineage.to_dict(),
        # Stock layout: the config describes the small model, and these were the dense values.
        "stock_layout": dense,
        "sha256": {f.name: sha256_of(f) for f in sorted(stage.glob("*.safetensors"))},
    }
    write_text_atomic(stage / PLAN_FILE, json.dumps(plan, indent=2, sort_keys=True) + "\n")


def _is_readable(config: Any, settings: dict[str, Any]) -> bool:
    """Whether transformers makes a config of settings: Llama's looks at one number of heads."""
    try:
        type(config).from_dict(dict(settings))
    except Exception:  # whatever a config class of the user's own makes of them
        return False
    return True
