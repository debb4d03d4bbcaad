"""Remove hidden dimensions: of embeddings, norms, and all that reads or writes the stream."""

from __future__ import annotations

from torch import Tensor

from neuroprune.anatomy import Anatomy, stream_of
from neuroprune.surgery.linear import (
    Replacements,
    keep_inputs_,
    keep_outputs_,
    kept_index,
    replace_,
)


def hidden_cuts(anatomy: Anatomy) -> dict[Tensor, int]:
    """Every parameter that has hidden dimensions -> which of its dimensions they are.

    Args:
        anatomy: the model's blocks.

    Raises:
        AnatomyError: the family or the model's head does not declare them.
    """
    stream = stream_of(anatomy)
    cuts: dict[Tensor, int] = {e.weight: 1 for e in stream.embeddings}
    cuts |= {reader.weight: 1 for reader in stream.readers}
    for module in (*stream.norms, *stream.writers):
        cuts |= dict.fromkeys(module.parameters(recurse=False), 0)
    return cuts


def remove_hidden_(anatomy: Anatomy, removed: tuple[int, ...]) -> Replacements:
    """Delete hidden dimensions physically, in the whole model.

    Every norm is then taken over the dimensions that are left. The function stays that of a model
    whose norms were taken over them before, and whose removed dimensions were zero behind them.

    Args:
        anatomy: the model's blocks; units may have been cut before.
        removed: dimensions to delete, counted as the stream stands.

    Returns:
        Old parameter -> replacement, for the optimizer.

    Raises:
        AnatomyError: the family or the model's head does not declare them.

    Reference: Xia, Zhong and Chen (2022), arXiv 2204.00408, section 3.1.
    """
    stream = stream_of(anatomy)
    index = kept_index(stream.width, removed, stream.norms[0].weight.device)
    done: Replacements = {}
    for embedding in stream.embeddings:
        done |= replace_(embedding, "weight", 1, index)
        embedding.embedding_dim = index.numel()
    for norm in stream.norms:
        done |= replace_(norm, "weight", 0, index) | replace_(norm, "bias", 0, index)
        norm.normalized_shape = (index.numel(),)
    for reader in stream.readers:
        done |= keep_inputs_(reader, index)
    for writer in stream.writers:
        done |= keep_outputs_(writer, index)
    return done
