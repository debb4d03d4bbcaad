"""Two graph reports in plain language: what pruning changed, and what it did not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from neuroprune.errors import ConfigError
from neuroprune.topology.graph import BlockGraph, GraphReport

# Smallest changes of a mean over blocks that are worth a sentence. Two random graphs of one size
# differ by less: 0.003 in modularity, 1% in sigma.
GINI = 0.02
RANK = 0.02  # share of the possible effective rank
MODULARITY = 0.02
SIGMA = 0.1
DEGREE = 0.01  # share of the mean degree
ERRORS = 2.0  # and they must exceed so many standard errors over the blocks

_UNITS = {"mlp": "MLP neurons", "attention": "head features"}
_QUIET = "No difference between the two models is larger than the noise of these measures."


@dataclass(frozen=True)
class Change:
    """The mean of a measure over blocks, before and after, over those where both are known.

    Args:
        before: mean before.
        after: mean after.
        error: standard error of the mean difference over the blocks; 0 for a single block.
        blocks: how many there are.
    """

    before: float
    after: float
    error: float
    blocks: int

    def exceeds(self, floor: float) -> bool:
        """Whether the difference is at least `floor`, and more than `ERRORS` standard errors."""
        difference = abs(self.after - self.before)
        return self.blocks > 0 and difference >= floor and difference > ERRORS * self.error

    @property
    def rises(self) -> bool:
        """Whether it is larger after than before."""
        return self.after > self.before


def change(pairs: Sequence[tuple[float | None, float | None]]) -> Change:
    """Means before and after, and the standard error of their difference.

        error = sd(after_b - before_b) / sqrt(n)   over the n blocks b

    Args:
        pairs: (before, after) of each block; pairs with a None are left out.
    """
    known = [(b, a) for b, a in pairs if b is not None and a is not None]
    n = len(known)
    if not n:
        return Change(0.0, 0.0, 0.0, 0)
    before, after = (sum(column) / n for column in zip(*known, strict=True))
    squares = sum((a - b - (after - before)) ** 2 for b, a in known)
    error = math.sqrt(squares / (n - 1) / n) if n > 1 else 0.0
    return Change(before, after, error, n)


def reading(before: GraphReport, after: GraphReport) -> list[str]:
    """What changed between two models, in sentences.

    A sentence is written where the mean over the blocks of a kind differs by at least the constant
    above for its measure (`GINI`, `RANK`, ...) and by more than two standard errors over the
    blocks. Blocks where a measure is not defined in either model take no part in it.

    Args:
        before: the dense model's report.
        after: that of the model that came of it.

    Returns:
        Sentences; one that says so where nothing differs.

    Raises:
        ConfigError: the reports have other blocks, settings or eps: they cannot be compared.
    """
    names = [[(b.name, b.kind) for b in report.blocks] for report in (before, after)]
    if names[0] != names[1]:
        raise ConfigError(
            f"the two models have other blocks: {len(names[0])} and {len(names[1])}. Compare a "
            "model with the dense model it came from."
        )
    if (before.eps, before.settings) != (after.eps, after.settings):
        raise ConfigError(
            "the two reports were made in different ways. Make both with the same eps and settings."
        )
    sentences: list[str] = []
    for kind, units in _UNITS.items():
        pairs = [p for p in zip(before.blocks, after.blocks, strict=True) if p[0].kind == kind]
        if pairs:
            sentences += _of_kind(pairs, units)
    return sentences or [_QUIET]


_Pairs = Sequence[tuple[BlockGraph, BlockGraph]]


def _of(pairs: _Pairs, measure: Callable[[BlockGraph], float | None]) -> Change:
    return change([(measure(before), measure(after)) for before, after in pairs])


def _of_kind(pairs: _Pairs, units: str) -> Iterator[str]:
    yield from _degree_sentences(pairs, units)
    yield from _tail_sentence(pairs, units)
    yield from _rank_sentence(pairs, units)
    yield from _community_sentences(pairs, units)


def _degree_sentences(pairs: _Pairs, units: str) -> Iterator[str]:
    mean = _of(pairs, lambda block: block.degrees.mean)
    if mean.exceeds(DEGREE * mean.before):
        word = "more" if mean.rises else "fewer"
        alone = sum(b.degrees.units - b.degrees.living for _, b in pairs)
        total = sum(b.degrees.units for _, b in pairs)
        gone = f"; {alone:,} of {total:,} have none left" if alone else ""
        yield (
            f"{_capital(units)} have {word} connections than before: {mean.before:.0f} -> "
            f"{mean.after:.0f} on average{gone}."
        )
    every = _of(pairs, lambda block: block.degrees.gini)
    if every.exceeds(GINI):
        yield (
            f"Connections of {units} are shared {'less' if every.rises else 'more'} equally than "
            f"before: Gini {every.before:.2f} -> {every.after:.2f}."
        )
        living = _of(pairs, lambda block: block.degrees.gini_living)
        if every.rises and not living.exceeds(GINI):
            yield (
                f"That is the doing of {units} without connections: among the others the Gini is "
                f"{living.after:.2f}."
            )
    strong = _of(pairs, lambda block: block.backbone.degrees.gini)
    if strong.exceeds(GINI):
        yield (
            f"The strongest connections gather in {'fewer' if strong.rises else 'more'} of the "
            f"{units} that are left: Gini {strong.before:.2f} -> {strong.after:.2f}."
        )


def _tail_sentence(pairs: _Pairs, units: str) -> Iterator[str]:
    """Counts of blocks, so no standard error: a fifth of the blocks, and two at least."""
    before, after = (sum(pair[i].backbone.degrees.tail.is_heavy for pair in pairs) for i in (0, 1))
    if abs(after - before) >= max(2.0, len(pairs) / 5):
        yield (
            f"A heavy tail of degrees (a few {units} with many strong connections) is seen in "
            f"{after} of {len(pairs)} blocks, before in {before}."
        )


def _rank_sentence(pairs: _Pairs, units: str) -> Iterator[str]:
    share = _of(pairs, rank_share)
    if share.exceeds(RANK):
        word = "larger" if share.rises else "smaller"
        where = "MLP" if units == _UNITS["mlp"] else "attention"
        yield (
            f"The {where} matrices use a {word} share of the directions they have room for: "
            f"effective rank {share.before:.0%} -> {share.after:.0%} of their smaller side."
        )


def rank_share(block: BlockGraph) -> float | None:
    """Mean effective rank of a block's matrices, as a share; None where all of them are empty.

    Args:
        block: the block.
    """
    shares = [rank.share for rank in block.effective_rank.values() if rank.side]
    return sum(shares) / len(shares) if shares else None


def _community_sentences(pairs: _Pairs, units: str) -> Iterator[str]:
    excess = _of(pairs, _excess)
    if excess.exceeds(MODULARITY):
        word = "more" if excess.rises else "less"
        yield (
            f"The strongest connections of {units} form {word} pronounced communities: modularity "
            f"above that of random graphs {excess.before:.2f} -> {excess.after:.2f}."
        )
    sigma = _of(pairs, lambda block: block.backbone.small_world.sigma)
    if sigma.exceeds(SIGMA):
        word = "more" if sigma.rises else "less"
        yield (
            f"The graph of {units} is {word} of a small world, clustered and yet short: sigma "
            f"{sigma.before:.2f} -> {sigma.after:.2f} (a random graph has 1)."
        )


def _excess(block: BlockGraph) -> float | None:
    graph = block.backbone
    if not graph.units or graph.small_world.sigma is None:
        return None  # complete, empty or in pieces
    return graph.modularity - graph.modularity_random


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
