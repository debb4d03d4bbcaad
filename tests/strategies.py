"""Hypothesis strategies: small inputs that sit where the equations have corners.

Zeros, ties, entries exactly at eps, one row, one column and one head are drawn on purpose, not
waited for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuroprune.plan import ShrinkPlan

EPS = 1e-4
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
# Relative accuracy to ask of a few operations in each type (2^-8 is one unit of bfloat16).
RTOL = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-2}


def stored(values: np.ndarray, dtype: torch.dtype) -> tuple[torch.Tensor, np.ndarray]:
    """The values as a tensor of `dtype`, and exactly what that tensor holds, in float64."""
    tensor = torch.tensor(values, dtype=dtype)
    return tensor, as_float64(tensor)


def as_float64(tensor: torch.Tensor) -> np.ndarray:
    """What the tensor holds, in float64."""
    return tensor.detach().to(torch.float64).numpy()


def rounded(value: float, dtype: torch.dtype) -> float:
    """The number of `dtype` nearest to `value`: what a comparison in `dtype` compares with."""
    return float(torch.tensor(value, dtype=dtype))


def entries(eps: float = EPS) -> st.SearchStrategy[float]:
    """One weight: exactly 0, exactly at or beside eps, one of a few tied values, or anything."""
    corners = [0.0, -0.0, eps, -eps, eps / 2, -eps / 2, 2 * eps, float(np.nextafter(eps, 0))]
    return st.one_of(
        st.sampled_from(corners),
        st.sampled_from([0.25, -0.25, 0.5, -1.0]),
        st.floats(-2, 2, allow_subnormal=False, width=32),
    )


@st.composite
def matrices(
    draw: st.DrawFn,
    max_rows: int = 5,
    max_cols: int = 6,
    elements: st.SearchStrategy[float] | None = None,
) -> np.ndarray:
    """A float64 matrix, often of one row or one column, with all-zero, tied and repeated rows."""
    rows = draw(st.one_of(st.just(1), st.integers(1, max_rows)))
    cols = draw(st.one_of(st.just(1), st.integers(1, max_cols)))
    matrix = draw(
        hnp.arrays(np.float64, (rows, cols), elements=entries() if elements is None else elements)
    )
    for row in range(rows):
        kind = draw(st.sampled_from(["drawn", "drawn", "drawn", "zero", "tied", "repeated"]))
        if kind == "zero":
            matrix[row] = 0.0
        elif kind == "tied":
            matrix[row] = draw(st.sampled_from([0.25, -0.5]))
        elif kind == "repeated":
            matrix[row] = matrix[0]
    return matrix


def smooth_matrices(max_rows: int = 4, max_cols: int = 5) -> st.SearchStrategy[np.ndarray]:
    """Matrices away from every kink: no entry near 0, nor near eps."""
    size = st.floats(0.0625, 2, width=32)
    signed = st.builds(lambda value, negative: -value if negative else value, size, st.booleans())
    return st.tuples(st.integers(1, max_rows), st.integers(1, max_cols)).flatmap(
        lambda shape: hnp.arrays(np.float64, shape, elements=signed)
    )


def strengths() -> st.SearchStrategy[float]:
    """A step size times a strength: 0, huge, a round number, or anything between."""
    return st.one_of(st.sampled_from([0.0, 1e-8, 1e-3, 0.5, 1.0, 1e6]), st.floats(1e-4, 3))


def heads(max_heads: int = 6) -> st.SearchStrategy[np.ndarray]:
    """Weight blocks, one row per head: multiples of 1/8, so that distances hit theta exactly."""
    return st.tuples(st.one_of(st.just(1), st.integers(1, max_heads)), st.integers(1, 4)).flatmap(
        lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(-3, 3)).map(
            lambda eighths: eighths / 8.0
        )
    )


@st.composite
def similarities(draw: st.DrawFn, max_heads: int = 8) -> np.ndarray:
    """A symmetric, reflexive 0/1 matrix, sparse and dense alike."""
    k = draw(st.one_of(st.just(1), st.integers(1, max_heads)))
    share = draw(st.sampled_from([1, 3, 5, 7, 9]))
    matrix = np.eye(k, dtype=np.int64)
    for i in range(k):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = draw(st.integers(0, 9)) < share
    return matrix


def zero_one_squares(max_heads: int = 7) -> st.SearchStrategy[np.ndarray]:
    """Any square 0/1 matrix, neither symmetric nor reflexive."""
    return st.integers(1, max_heads).flatmap(
        lambda k: hnp.arrays(np.int64, (k, k), elements=st.integers(0, 1))
    )


Sizes = dict[str, dict[str, int]]
GROUP = "qkv"  # the one group of matrices of every block of a toy model


@st.composite
def plans(draw: st.DrawFn, sizes: Sizes) -> ShrinkPlan:
    """A plan that fits a model with `sizes` = {"heads", "neurons", "inputs": {block: n}}.

    Without "inputs", none are removed.
    """
    remove_heads: dict[str, Any] = {}
    remove_neurons: dict[str, Any] = {}
    merge_heads: dict[str, Any] = {}
    for block, total in sizes["heads"].items():
        gone = draw(_subset(total))
        kept = [i for i in range(total) if i not in gone]
        merged = [i for i in gone if kept and draw(st.booleans())]
        merge_heads[block] = {i: draw(st.sampled_from(kept)) for i in merged}
        remove_heads[block] = [i for i in gone if i not in merged or draw(st.booleans())]
    for block, total in sizes["neurons"].items():
        remove_neurons[block] = draw(_subset(total))
    remove_inputs = {
        b: {GROUP: draw(_subset(total))} for b, total in sizes.get("inputs", {}).items()
    }
    return ShrinkPlan(remove_heads, remove_neurons, merge_heads, remove_inputs)


@st.composite
def plan_chains(draw: st.DrawFn, length: int) -> tuple[Sizes, tuple[ShrinkPlan, ...]]:
    """The sizes of a toy model, and plans that fit it one after the other."""
    sizes = {
        "heads": {"a": draw(st.integers(1, 6)), "b": draw(st.integers(1, 3))},
        "neurons": {"m": draw(st.integers(1, 6))},
        "inputs": {"a": draw(st.integers(1, 6)), "m": draw(st.integers(1, 3))},
    }
    chain = []
    left = sizes
    for _ in range(length):
        plan = draw(plans(left))
        chain.append(plan)
        left = {
            "heads": {b: n - len(plan.remove_heads.get(b, ())) for b, n in left["heads"].items()},
            "neurons": {
                b: n - len(plan.remove_neurons.get(b, ())) for b, n in left["neurons"].items()
            },
            "inputs": {
                b: n - len(plan.remove_inputs.get(b, {}).get(GROUP, ()))
                for b, n in left["inputs"].items()
            },
        }
    return sizes, tuple(chain)


def _subset(total: int) -> st.SearchStrategy[list[int]]:
    if total == 0:
        return st.just([])
    return st.lists(st.integers(0, total - 1), unique=True, max_size=total)
