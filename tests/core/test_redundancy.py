"""core.redundancy against Algorithms 2 and 3 read literally, and the properties they promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroprune.core import redundancy
from tests import strategies as draw
from tests.reference import paper

by_dtype = pytest.mark.parametrize("dtype", draw.DTYPES, ids=str)


def supersets(similarity: np.ndarray, i: int) -> list[int]:
    """Heads similar to a strict superset of what head i is similar to."""
    return [
        j
        for j in range(len(similarity))
        if (similarity[i] <= similarity[j]).all() and (similarity[i] != similarity[j]).any()
    ]


# --- similarity ----------------------------------------------------------------------------------


@by_dtype
@given(matrix=draw.heads(), eighths=st.integers(0, 6))
def test_similarity_equals_the_reference(
    dtype: torch.dtype, matrix: np.ndarray, eighths: int
) -> None:
    heads, held = draw.stored(matrix, dtype)
    got = redundancy.similarity_matrix(heads, eighths / 8)
    assert got.dtype == torch.bool
    assert np.array_equal(got.numpy(), paper.similarity_matrix(list(held), eighths / 8))


@given(seed=st.integers(0, 999), k=st.integers(1, 6), theta=st.floats(0, 3))
def test_similarity_of_drawn_weights(seed: int, k: int, theta: float) -> None:
    held = np.random.default_rng(seed).normal(size=(k, 7))
    got = redundancy.similarity_matrix(torch.tensor(held), theta)
    assert np.array_equal(got.numpy(), paper.similarity_matrix(list(held), theta))
    assert torch.equal(got, got.T)
    assert got.diagonal().all()


@by_dtype
def test_heads_exactly_theta_apart_are_similar(dtype: torch.dtype) -> None:
    heads = torch.tensor([[0.0, 1.0], [0.15, 1.0]], dtype=dtype)
    assert redundancy.similarity_matrix(heads, 0.15).all()
    further = torch.nextafter(heads, torch.full_like(heads, 2.0))
    further[0] = heads[0]
    assert redundancy.similarity_matrix(further, 0.15).tolist() == [[True, False], [False, True]]


def test_theta_zero_finds_exact_copies_only() -> None:
    heads = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0 + 1e-6]])
    assert redundancy.similarity_matrix(heads, 0.0).tolist() == [
        [True, True, False],
        [True, True, False],
        [False, False, True],
    ]


def test_one_head_and_no_head() -> None:
    assert redundancy.similarity_matrix(torch.ones(1, 4), 0.0).tolist() == [[True]]
    assert redundancy.find_dominating(torch.ones(1, 1, dtype=torch.bool)).tolist() == [0]
    assert redundancy.similarity_matrix(torch.ones(0, 4), 0.0).shape == (0, 0)
    assert redundancy.find_dominating(torch.ones(0, 0, dtype=torch.bool)).tolist() == []
    assert redundancy.merge_map(torch.zeros(0, dtype=torch.int64)) == {}


# --- FIND_DOMINATING -----------------------------------------------------------------------------


@settings(max_examples=300)
@given(similarity=st.one_of(draw.similarities(), draw.zero_one_squares()))
def test_dominating_equals_the_literal_algorithm(similarity: np.ndarray) -> None:
    d = paper.find_dominating(similarity)
    expected = [paper.dominating_head(d, i) for i in range(len(similarity))]
    for kind in (torch.bool, torch.int64, torch.float32):
        got = redundancy.find_dominating(torch.tensor(similarity, dtype=kind))
        assert got.dtype == torch.int64
        assert got.tolist() == expected


@settings(max_examples=300)
@given(similarity=draw.similarities())
def test_promises_on_symmetric_reflexive_matrices(similarity: np.ndarray) -> None:
    """D[D] = D, S[i, D(i)] = 1, D(i) maximal, and the later of equals."""
    got = redundancy.find_dominating(torch.tensor(similarity))
    assert torch.equal(got[got], got)
    for i, j in enumerate(got.tolist()):
        assert similarity[i, j] == 1
        assert supersets(similarity, j) == []
        equals = [h for h in range(len(similarity)) if (similarity[h] == similarity[j]).all()]
        assert j == max(equals)
    merges = redundancy.merge_map(got)
    assert merges == paper.merge_map(paper.find_dominating(similarity))
    assert not set(merges) & set(merges.values())
    assert len(merges) < len(similarity)


def test_promises_on_every_matrix_of_up_to_four_heads() -> None:
    for k in range(1, 5):
        pairs = list(itertools.combinations(range(k), 2))
        for bits in itertools.product((0, 1), repeat=len(pairs)):
            similarity = np.eye(k, dtype=np.int64)
            for (i, j), bit in zip(pairs, bits, strict=True):
                similarity[i, j] = similarity[j, i] = bit
            d = paper.find_dominating(similarity)
            got = redundancy.find_dominating(torch.tensor(similarity)).tolist()
            assert got == [paper.dominating_head(d, i) for i in range(k)]
            assert [got[j] for j in got] == got
            assert all(similarity[i, j] == 1 for i, j in enumerate(got))
            assert not any(supersets(similarity, j) for j in got)


def test_ties_go_to_the_later_head_and_hubs_win() -> None:
    """By hand: three equal heads; a star whose hub is similar to all; a path of four."""
    assert redundancy.find_dominating(torch.ones(3, 3)).tolist() == [2, 2, 2]
    star = torch.eye(4)
    star[1, :] = star[:, 1] = 1
    assert redundancy.find_dominating(star).tolist() == [1, 1, 1, 1]
    path = torch.eye(4) + torch.diag(torch.ones(3), 1) + torch.diag(torch.ones(3), -1)
    assert redundancy.find_dominating(path).tolist() == [1, 1, 2, 2]
    assert redundancy.find_dominating(torch.eye(3)).tolist() == [0, 1, 2]


# --- the whole elimination of one layer ----------------------------------------------------------


def layer(seed: int, k: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Blocks (3, head_dim, d) of k heads, some of them near or exact copies of others, and W_O."""
    rng = np.random.default_rng(seed)
    head_dim, d = 2, 3
    blocks = [rng.integers(-2, 3, (3, head_dim, d)) / 4 for _ in range(k)]
    for head in range(1, k):
        kind = rng.integers(0, 3)
        if kind < 2:
            noise = kind * rng.integers(-1, 2, blocks[0].shape) / 8
            blocks[head] = blocks[rng.integers(0, head)] + noise
    return blocks, rng.normal(size=(d, k * head_dim))


@given(seed=st.integers(0, 999), k=st.integers(1, 6), theta=st.sampled_from([0.0, 0.125, 0.25]))
def test_merges_of_a_layer_equal_the_reference(seed: int, k: int, theta: float) -> None:
    blocks, w_o = layer(seed, k)
    kept, _, expected = paper.eliminate_heads(blocks, w_o, theta)
    flat = torch.tensor(np.stack([block.ravel() for block in blocks]))
    similarity = redundancy.similarity_matrix(flat, theta)
    merges = redundancy.merge_map(redundancy.find_dominating(similarity))
    assert merges == expected
    assert len(kept) == k - len(merges) >= 1


@given(seed=st.integers(0, 999), k=st.integers(1, 5))
def test_merging_exact_copies_keeps_the_output(seed: int, k: int) -> None:
    """What makes the rule sound: at theta = 0 the layer computes the same with fewer heads."""
    blocks, w_o = layer(seed, k)
    x = np.random.default_rng(seed + 1).normal(size=(3, 3))
    kept, smaller, merges = paper.eliminate_heads(blocks, w_o, 0.0)
    assert smaller.shape[1] == w_o.shape[1] - 2 * len(merges)
    np.testing.assert_allclose(
        paper.attend(kept, smaller, x), paper.attend(blocks, w_o, x), atol=1e-12
    )


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [-1e-9, math.nan, math.inf])
def test_bad_theta_names_itself_and_its_range(theta: float) -> None:
    with pytest.raises(ValueError, match=rf"theta must be .*>= 0.* got {theta!r}"):
        redundancy.similarity_matrix(torch.ones(2, 2), theta)


def test_a_similarity_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match=r"square .*\(heads x heads\), got \(2, 3\)"):
        redundancy.find_dominating(torch.ones(2, 3))


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, math.nan])
def test_a_similarity_of_other_values_is_refused(value: float) -> None:
    similarity = torch.eye(3)
    similarity[0, 1] = value
    with pytest.raises(ValueError, match="0 and 1; threshold it first"):
        redundancy.find_dominating(similarity)


@pytest.mark.parametrize("dominating", [[1, 2, 2], [1, 0], [0, 5], [-1, 1]])
def test_a_map_whose_targets_do_not_stay_is_refused(dominating: list[int]) -> None:
    with pytest.raises(ValueError, match=r"does not stay.* symmetric, reflexive"):
        redundancy.merge_map(torch.tensor(dominating))


def test_heads_without_weights_are_alike() -> None:
    """All inputs of a layer may be dead and dropped; the reference's loop finds no difference."""
    similar = redundancy.similarity_matrix(torch.zeros(3, 0), 0.0)
    assert similar.all()
    assert similar.shape == (3, 3)
    assert (paper.similarity_matrix([np.zeros((2, 0))] * 3, 0.0) == 1).all()
