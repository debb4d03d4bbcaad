"""Which entries of many matrices are the lowest, one matrix in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuroprune.core.connectivity import accumulation_dtype

_DIGIT = 16  # bits
_BINS = 1 << _DIGIT
Parts = Callable[[], Iterable[Tensor]]


def lowest_masks(parts: Parts, count: int) -> Iterator[Bool[Tensor, "_ _"]]:
    """Marks of the `count` lowest entries of all parts together; ties: the earlier first.

    Args:
        parts: gives the parts anew at every call, the same ones; no NaN. They are asked for once
            more per 16 bits of an entry, so that no more than one need exist at a time.
        count: how many, clipped to what there is.

    Yields:
        For each part a mask of its shape, true for the lowest. A part may change once its mask is
        out.
    """
    total = sum(part.numel() for part in parts()) if count > 0 else 0
    if total == 0 or count >= total:
        yield from (torch.full_like(part, count > 0, dtype=torch.bool) for part in parts())
        return
    level, ties = _level(parts, count)
    for part in parts():
        mask = (part < level).contiguous()
        if ties:
            equal = (part == level).flatten().nonzero().squeeze(1)[:ties]
            mask.view(-1)[equal] = True
            ties -= len(equal)
        yield mask


def lowest_mask(
    scores: Sequence[Float[Tensor, "_ _"]], count: int
) -> tuple[Bool[Tensor, "_ _"], ...]:
    """`lowest_masks` of matrices that exist.

    Args:
        scores: matrices, no NaN.
        count: how many, clipped to what there is.

    Returns:
        For each matrix a mask of its shape, true for the lowest.
    """
    return tuple(lowest_masks(lambda: scores, count))


def _level(parts: Parts, count: int) -> tuple[float, int]:
    """The count-th lowest entry, and how many of those equal to it are among the count.

    A radix selection: floats in the order of their bits, 16 bits a pass, the highest first.
    """
    prefix, bits, shift = 0, 0, 0
    while True:
        histogram = torch.zeros(_BINS, dtype=torch.int64)
        for part in parts():
            keys, bits = _ordered(part)
            if not shift:
                shift = bits
            digits = keys >> (shift - _DIGIT)
            if shift < bits:
                digits = digits[keys >> shift == prefix]
            found = torch.bincount(digits & (_BINS - 1), minlength=_BINS)
            histogram += found.cpu()
        if shift == bits:  # the highest digit has the sign: negative ones first
            histogram = histogram.roll(_BINS // 2)
        below = histogram.cumsum(0)
        digit = int(torch.searchsorted(below, count))
        count -= int(below[digit - 1]) if digit else 0
        prefix = digit - _BINS // 2 if shift == bits else (prefix << _DIGIT) | digit
        shift -= _DIGIT
        if not shift:
            return _value(prefix, bits), count


def _ordered(part: Tensor) -> tuple[Tensor, int]:
    """Integers in the order of the entries, and how many bits they have."""
    x = part.detach().to(accumulation_dtype(part.dtype)).flatten().add(0.0)  # no negative zero
    bits = 8 * x.element_size()
    keys = x.view(torch.int32 if bits == 32 else torch.int64)
    return keys ^ ((keys >> (bits - 1)) & _magnitude_bits(bits)), bits


def _value(key: int, bits: int) -> float:
    """The entry of an integer that `_ordered` made."""
    raw = key ^ _magnitude_bits(bits) if key < 0 else key
    integers, floats = (torch.int32, torch.float32) if bits == 32 else (torch.int64, torch.float64)
    return float(torch.tensor(raw, dtype=integers).view(floats))


def _magnitude_bits(bits: int) -> int:
    return (1 << (bits - 1)) - 1
