"""Magnitude of units cuts while training: every `every` steps of the ramp, and at its end."""

from __future__ import annotations

import pytest

from neuroprune.anatomy import anatomy_of
from neuroprune.config import L1, Config, ConfigError, Magnitude, NeuroPrune, ProximalGroup
from neuroprune.methods import method_for
from neuroprune.surgery import shrink_
from neuroprune.topology.sparsity import sparsity
from tests.methods.loops import run, started
from tests.zoo import FAMILIES, make_model


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


@pytest.mark.parametrize("every", [8, 100])
def test_the_mask_of_single_weights_is_final_at_the_end_of_the_ramp(every: int) -> None:
    """Also where no multiple of `every` falls on it, or on the ramp at all."""
    config = Magnitude(target=0.6, begin=0.1, end=0.55, every=every)
    pruner = started("bert", config, 20)
    found = [0.0]
    run(pruner, "bert", range(20), lambda: found.append(sparsity(pruner.anatomy).weight_sparsity))
    assert found[11] == pytest.approx(0.6, abs=1e-3) and found[10] < 0.6
    assert found[11:] == [found[11]] * 10
    assert (found[8] > 0.0) is (every == 8)


def test_a_target_that_takes_the_best_unit_of_a_block_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"leaves every block its best unit.*at most 0\.\d+ removed"
    ):
        started("bert", Magnitude(target=0.99, structure="units"), 20)
    started("bert", Magnitude(target=0.99), 20)  # single weights have no such floor


def test_single_weights_are_not_cut() -> None:
    pruner = started("bert", Magnitude(target=0.6, begin=0.0, end=0.5, every=1), 10)
    run(pruner, "bert", range(10))
    assert pruner.anatomy.structural_sparsity == 0.0
    pruner.finish()


@pytest.mark.parametrize("structure", ["units", "weights"])
def test_the_target_is_met_where_training_ends_early(structure: str) -> None:
    config = Magnitude(target=0.6, structure=structure, begin=0.0, end=0.9, every=3)
    pruner = started("bert", config, 100)
    run(pruner, "bert", range(10))
    with pytest.warns(UserWarning, match="the rest goes at once"):
        pruner.finish()
    (name,) = pruner.reached
    assert name == ("structural:0.6" if structure == "units" else "weights:0.6")
    found = sparsity(pruner.anatomy)
    reached = found.structural_sparsity if structure == "units" else found.weight_sparsity
    assert pruner.reached[name] == pytest.approx(reached)
    largest = max(b.weights_per_head for b in pruner.anatomy.attentions)
    assert 0.6 <= reached < 0.6 + largest / pruner.anatomy.dense_weights


def test_weights_that_tie_do_not_go_together() -> None:
    pruner = started("bert", Magnitude(target=0.5, begin=0.0, end=0.5), 10, lr=0.0)
    for weight in pruner.anatomy.matrices():
        weight.data.fill_(0.25)
    run(pruner, "bert", range(10))
    pruner.finish()
    assert pruner.reached["weights:0.5"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    "config",
    [Magnitude(target=0.8), NeuroPrune(alpha=1e-4), ProximalGroup(strength=1.0), L1(strength=1.0)],
)
def test_a_budget_is_refused_where_there_is_no_way_to_a_target(config: Config) -> None:
    method = method_for(config, 10)
    with pytest.raises(ConfigError, match=r"takes no budget.*got 0\.5"):
        method.select(anatomy_of(make_model("bert")), 0.5)


def test_a_budget_is_a_share_of_the_way() -> None:
    anatomy = anatomy_of(make_model("bert"))
    method = method_for(Magnitude(target=0.8, structure="units"), 10)
    shrink_(anatomy.model, method.select(anatomy, 0.5))
    assert anatomy_of(anatomy.model).structural_sparsity == pytest.approx(0.4, abs=0.1)
