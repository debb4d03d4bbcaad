"""The files of a checkpoint: reading, checking, and moving into place all or nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

PLAN_FILE = "neuroprune.json"
CHECKPOINT_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, foreign, or could not be written."""


class StrandedError(CheckpointError):
    """A save failed, and old files are left beside their place; the message says where."""


def move_into_place(stage: Path, directory: Path) -> None:
    """Swap the new files in, the plan last; an error puts the old ones back.

    Raises:
        StrandedError: the old ones cannot be put back; `stage` has to stay.
        OSError: the swap failed, and what was there is there again.
    """
    new = sorted(stage.iterdir(), key=lambda f: f.name == PLAN_FILE)
    if not directory.exists():
        umask = os.umask(0)  # mkdtemp makes private folders; give the mode any new one would have
        os.umask(umask)
        stage.chmod(0o777 & ~umask)
        stage.rename(directory)
        return
    old = {directory / f.name for f in new} | set(directory.glob("model*.safetensors*"))
    backup = stage / "old"
    backup.mkdir()
    placed: list[Path] = []
    try:
        for file in sorted(old, key=lambda f: f.name != PLAN_FILE):
            if file.exists():
                file.replace(backup / file.name)
        for file in new:
            placed.append(file.replace(directory / file.name))
    except BaseException as error:
        _put_back(placed, backup, directory, error)
        raise


def _put_back(placed: list[Path], backup: Path, directory: Path, cause: BaseException) -> None:
    """Undo a swap that failed: what was placed goes, what was there returns."""
    for file in placed:
        with suppress(OSError):  # an old file of this name takes its place anyway
            file.unlink()
    left = []
    for file in sorted(backup.iterdir()):
        try:
            file.replace(directory / file.name)
        except OSError:
            left.append(file.name)
    if left:
        raise StrandedError(
            f"could not save to {directory} ({cause}), nor put back what was there: "
            f"{', '.join(left)} of the old model are in {backup}. Move them to {directory}."
        ) from cause


def read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: not a complete model directory.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Save the model again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is damaged: expected a JSON object. Save the model again.")
    return data


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(directory: Path, digests: Any) -> None:
    present = {f.name for f in directory.glob("*.safetensors")}
    if not isinstance(digests, dict):
        raise CheckpointError(f"{directory}: the plan is damaged. Save the model again.")
    extra = {name for name in present if name.startswith("model")} - set(digests)
    if set(digests) - present or extra:
        raise CheckpointError(
            f"{directory}: the plan lists the weight files {sorted(digests or [])}, the directory "
            f"holds {sorted(present)}. Copy the whole directory, or save the model again."
        )
    for name, digest in digests.items():
        if sha256_of(directory / name) != digest:
            raise CheckpointError(
                f"{directory / name} was truncated or altered after it was saved (its SHA-256 is "
                "not the one in the plan). Copy it again, or save the model again. If another save "
                "has overwritten it since, with stock transformers, load it with them, and remove "
                f"{PLAN_FILE}, which is of the model before."
            )


def unwritable(directory: Path, error: BaseException) -> CheckpointError:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    remedy = "free some space" if full else "check that the place exists and can be written"
    return CheckpointError(
        f"could not save to {directory}: {error}. Nothing that was there has changed; {remedy} and "
        "save again."
    )
