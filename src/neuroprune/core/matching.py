"""Which layer of a student learns from which layer of its teacher."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def teaching_layers(depth: int, count: int = 4) -> tuple[int, ...]:
    """Numbers of the layers that teach, from 1: at equal distances, the last among them.

        T = { ceil(k * depth / count) : k = 1..count },  so 3, 6, 9, 12 of twelve

    Args:
        depth: layers of the teacher, at least 1.
        count: how many; all of them where there are fewer.

    Reference: Xia, Zhong and Chen (2022), arXiv 2204.00408, section 3.2.
    """
    count = min(count, depth)
    return tuple(-(-k * depth // count) for k in range(1, count + 1))


def state_error(mapped: Float[Tensor, "n d"], teacher: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Distance of two layers' hidden states: MSE(W H_s, H_t).

        (1 / (n d)) * sum over positions p of | W h_s(p) - h_t(p) |^2

    Args:
        mapped: W H_s, one row per position.
        teacher: H_t, likewise.

    Returns:
        The mean, a scalar; 0 where there is no position.

    Reference: Xia, Zhong and Chen (2022), arXiv 2204.00408, equation 4.
    """
    return (mapped - teacher).square().sum() / max(mapped.numel(), 1)


def closest(
    errors: Float[Tensor, "teachers students"],
    open_layers: Bool[Tensor, " students"],
    ordered: bool = False,
) -> Int64[Tensor, " teachers"]:
    """The student layer that each teacher layer is matched with.

        m(i) = argmin over open j of errors[i, j]

    Ordered, the last teacher layer chooses first, and every other one chooses among the open layers
    below the one chosen before; where there is none, it shares that one. Where no layer is open,
    all count as open.

    Args:
        errors: distances, shape (teacher layers, student layers), both in order of depth.
        open_layers: student layers that are not removed, shape (student layers,).
        ordered: whether a lower teacher layer has to be matched with a lower student layer.

    Returns:
        m, indices of student layers; ties: the lower layer.

    Reference: Xia, Zhong and Chen (2022), arXiv 2204.00408, section 3.2.
    """
    if not bool(open_layers.any()):
        open_layers = torch.ones_like(open_layers)
    distances = errors.masked_fill(~open_layers, torch.inf)
    if not ordered:
        return distances.argmin(dim=1)
    chosen: list[int] = []
    for row in distances.flip(0):
        below = row[: chosen[-1]] if chosen else row
        found = bool(below.isfinite().any())
        chosen.append(int(below.argmin()) if found or not chosen else chosen[-1])
    return torch.tensor(chosen[::-1], dtype=torch.int64, device=errors.device)
