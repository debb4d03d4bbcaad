"""Magnitude of units cuts while training: every `every` steps of the ramp, and at its end."""

from __future__ import annotations

import pytest

from neuroprune.config import Magnitude
from tests.methods.loops import run, started
from tests.zoo import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_units_go_along_the_ramp_and_not_after_it(family: str) -> None:
    config = Magnitude(target=0.6, structure="units", begin=0.1, end=0.55, every=3)
    pruner = started(family, config, 20)
    reached = [0.0]
    run(pruner, family, range(20), lambda: reached.append(pruner.anatomy.structural_sparsity))
    cuts = [i for i in range(1, 21) if reached[i] > reached[i - 1]]
    assert cuts[:3] == [3, 6, 9] and cuts[3:] in ([], [11])  # a head too many may suffice
    largest = max(b.weights_per_head for b in pruner.anatomy.attentions)
    assert 0.6 <= reached[11] < 0.6 + largest / pruner.anatomy.dense_weights
    assert not pruner.prune() and pruner.finish() == pruner.removed


def test_single_weights_are_not_cut() -> None:
    pruner = started("bert", Magnitude(target=0.6, begin=0.0, end=0.5, every=1), 10)
    run(pruner, "bert", range(10))
    assert pruner.anatomy.structural_sparsity == 0.0
    pruner.finish()
