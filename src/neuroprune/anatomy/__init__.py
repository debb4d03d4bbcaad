"""Where things are: the blocks of a model, found by the declaration of its family."""

from neuroprune.anatomy.blocks import Anatomy, AttentionBlock, MLPBlock
from neuroprune.anatomy.patterns import (
    AnatomyError,
    AttentionPattern,
    Family,
    MLPPattern,
    StreamPattern,
)
from neuroprune.anatomy.registry import (
    UnknownFamilyError,
    WrappedModelError,
    anatomy_of,
    family_of,
    refuse_wrapped,
    register_family,
)
from neuroprune.anatomy.stream import Stream, stream_of

__all__ = [
    "Anatomy",
    "AnatomyError",
    "AttentionBlock",
    "AttentionPattern",
    "Family",
    "MLPBlock",
    "MLPPattern",
    "Stream",
    "StreamPattern",
    "UnknownFamilyError",
    "WrappedModelError",
    "anatomy_of",
    "family_of",
    "refuse_wrapped",
    "register_family",
    "stream_of",
]
