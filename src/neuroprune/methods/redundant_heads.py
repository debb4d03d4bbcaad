"""Which heads are redundant, by weights or by function, and how others take over what they did."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy, AttentionBlock
from neuroprune.choices import Dominating, Redundancy
from neuroprune.core.absorption import absorb
from neuroprune.core.connectivity import accumulation_dtype
from neuroprune.core.dominating import greedy_dominating_set, minimum_dominating_set
from neuroprune.core.redundancy import find_dominating, merge_map, similarity_matrix
from neuroprune.core.similarity import ROUNDING, circuit_similarity, output_similarity
from neuroprune.errors import ConfigError


def check_circuits(how: Redundancy, anatomy: Anatomy) -> None:
    """Refuse to compare circuits where positions turn queries and keys.

    With R_d the rotation by a distance d, scores are x_q^T W_Q^T R_d W_K x_k: the product
    W_Q^T W_K alone does not tell them.

    Args:
        how: what is compared.
        anatomy: the model's blocks.

    Raises:
        ConfigError: circuits are compared, and an attention is rotary.
    """
    rotary = [block.name for block in anatomy.attentions if block.is_rotary]
    if how is Redundancy.CIRCUIT and rotary:
        raise ConfigError(
            f'redundancy="circuit" compares products of Q and K, and {rotary[0]!r} turns both by '
            'their positions, which the product does not tell. Use redundancy="output" or '
            '"weights".'
        )


@torch.no_grad()
def similar_heads(
    block: AttentionBlock, how: Redundancy, theta: float, gram: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Which heads are similar, and how similar they are.

        S[i, j] = 1  where  1 - sim[i, j] <= theta

    weights: 1 - sim is the l_inf distance of the weight blocks (the paper). circuit: sim is the
    mean cosine of the QK and OV circuits. output: sim is the cosine of what the heads add to the
    layer's output. The last two are compared with an allowance of 1e-6 for rounding. Circuits
    know neither biases nor positions inside the attention (T5's bias per head, and rotary ones,
    for which see `check_circuits`); outputs do.

    Args:
        block: the attention.
        how: what is compared.
        theta: distance up to which two heads are similar.
        gram: second moment of what enters W_O, as `FeatureMoments` gives it; for "output" only.

    Returns:
        S, bool, symmetric and reflexive, and sim; both of shape (num_heads, num_heads).

    Raises:
        ConfigError: "output" without moments, or with moments of other features.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, Algorithm 2.
    """
    if how is Redundancy.WEIGHTS:
        heads = block.heads()
        wide = heads.to(accumulation_dtype(heads.dtype))
        return similarity_matrix(heads, theta), 1 - torch.cdist(wide, wide, p=float("inf"))
    if how is Redundancy.CIRCUIT:
        sim = circuit_similarity(*_per_head(block))
    else:
        weight = block.o_proj.weight.detach()
        sim = output_similarity(_checked(block, gram), weight, block.num_heads)
    return 1 - sim <= theta + ROUNDING, sim


@torch.no_grad()
def redundant_heads(
    block: AttentionBlock,
    how: Redundancy,
    theta: float,
    dominating: Dominating = Dominating.PAPER,
    gram: Tensor | None = None,
    importance: Tensor | None = None,
) -> dict[int, int]:
    """Heads that others stand for: {head that goes: head that takes its place}.

    Where query heads share keys and values, a head can go only with its whole group; merges that
    would split a group are left out, and blocks of fewer than two heads have nothing to merge.

    Args:
        block: the attention.
        how: what is compared; see `similar_heads`.
        theta: distance up to which two heads are similar.
        dominating: how the heads that stand for others are found.
        gram: second moment of what enters W_O; for "output" only.
        importance: what each head is worth, shape (num_heads,). "exact" keeps the most important
            of the smallest sets, "greedy" breaks ties by it; the paper's rule has no place for it.

    Returns:
        A merge map for `ShrinkPlan(merge_heads={block.name: ...})`; no target is removed.

    Raises:
        ConfigError: "output" without moments, or with moments of other features.
        ImportError: "exact" without scipy.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, Algorithms 2 and 3.
    """
    if block.num_heads < 2:
        return {}
    similar, strength = similar_heads(block, how, theta, gram)
    if dominating is Dominating.PAPER:
        target = find_dominating(similar)
    elif dominating is Dominating.GREEDY:
        target = greedy_dominating_set(similar, strength, importance)
    else:
        target = minimum_dominating_set(similar, strength, importance)
    return whole_groups(block, merge_map(target))


@torch.no_grad()
def absorb_heads_(
    block: AttentionBlock, merges: Mapping[int, int], gram: Tensor, ridge: float = 1e-6
) -> None:
    """Let every dominating head take over, in least squares, what the heads merged into it did.

        W_O[:, j] += W_O[:, i] M,   M = G_ij (G_jj + lam I)^-1,   then W_O[:, i] = 0

    The paper adds W_O[:, i] itself (M = I), which is right only where both heads speak the same
    basis. What is left of head i is dead, so that removing it, merged or outright, changes nothing.
    The order of the merges does not matter.

    Args:
        block: the attention; the values of W_O change, in place.
        merges: {head i that goes: head j that stays}.
        gram: second moment G of what enters W_O, as `FeatureMoments` gives it.
        ridge: damping, relative to the mean second moment of head j.

    Raises:
        ConfigError: the moments are missing or of other features, a target goes itself, or a group
            of heads that share keys and values would be split. Nothing is changed.
    """
    if not merges:
        return
    split = sorted(set(merges) - set(whole_groups(block, merges)))
    if split:
        raise ConfigError(
            f"{block.name!r} shares each key/value head among {block.group_size} query heads, and "
            f"merging the heads {split} would split a group. Merge whole groups, as "
            "redundant_heads does."
        )
    outside = [h for pair in merges.items() for h in pair if not 0 <= h < block.num_heads]
    if outside or set(merges) & set(merges.values()):
        raise ConfigError(
            f"expected merges of the {block.num_heads} heads of {block.name!r} into heads that "
            f"stay, got {dict(merges)}."
        )
    moments, weight = _checked(block, gram), block.o_proj.weight.data
    columns = torch.arange(weight.shape[1], device=weight.device).reshape(block.num_heads, -1)
    absorbed = weight.to(accumulation_dtype(weight.dtype), copy=True)
    for i, j in merges.items():
        absorbed[:, columns[j]] = absorb(moments, absorbed, columns[j], columns[i], ridge)
        absorbed[:, columns[i]] = 0
    weight.copy_(absorbed)


def _per_head(block: AttentionBlock) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Q, K, V and W_O^T per query head, each (num_heads, width, d)."""
    k = block.num_heads
    parts = []
    for weight in (
        block.q_proj.weight,
        block.k_proj.weight,
        block.v_proj.weight,
        block.o_proj.weight.T,
    ):
        owned = weight.shape[0] // block.head_dim
        per_head = weight.detach().reshape(owned, block.head_dim, weight.shape[1])
        parts.append(per_head.repeat_interleave(k // len(per_head), dim=0))
    q, keys, v, o = parts
    return q, keys, v, o


def whole_groups(block: AttentionBlock, merges: Mapping[int, int]) -> dict[int, int]:
    """The merges that take whole key/value groups; all of them, where every head has its own.

    Args:
        block: the attention.
        merges: {head that goes: head that takes its place}.
    """
    group = block.group_size

    def goes(i: int) -> bool:
        first = i - i % group
        return all(h in merges for h in range(first, first + group))

    return {i: j for i, j in merges.items() if goes(i)}


def _checked(block: AttentionBlock, gram: Tensor | None) -> Tensor:
    """The moments, if they are those of what enters W_O, on the device of W_O."""
    weight = block.o_proj.weight
    if gram is None:
        raise ConfigError(
            f"{block.name!r}: comparing or absorbing heads by their outputs needs the moments of "
            "what enters the output projection: FeatureMoments().attach(anatomy) before training."
        )
    if tuple(gram.shape) != (weight.shape[1], weight.shape[1]):
        raise ConfigError(
            f"{block.name!r}: expected moments of {weight.shape[1]} features, got a matrix of "
            f"shape {tuple(gram.shape)}. Call FeatureMoments.forget() after every cut."
        )
    return gram.to(weight.device)
