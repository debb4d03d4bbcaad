"""l1 with a target: the size that was asked for, while the penalty acts."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroprune.anatomy import anatomy_of
from neuroprune.config import L1, ConfigError
from neuroprune.methods import method_for
from neuroprune.methods.l1 import L1Method, L1Units, L1Weights
from neuroprune.pruner import attach
from neuroprune.topology.sparsity import sparsity
from tests.methods.loops import GRANULARITY, OPTIMIZERS, run, started, train
from tests.reference import rivals
from tests.zoo import FAMILIES, logits, make_inputs, make_model


def test_the_target_picks_the_variant() -> None:
    for config, kind in (
        (L1(), L1Method),
        (L1(target=0.5), L1Units),
        (L1(target=["heads:3", "flops:0.5"]), L1Units),
        (L1(target="weights:0.5"), L1Weights),
    ):
        assert type(method_for(config, 10)) is kind
    for target in (0.5, "weights:0.5"):
        with pytest.raises(ConfigError, match="total_steps=N"):
            method_for(L1(target=target))


@settings(max_examples=12)
@given(
    family=st.sampled_from(FAMILIES),
    target=st.floats(0.0, 0.9),
    weights=st.booleans(),
    steps=st.integers(1, 30),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    apply=st.sampled_from(["penalty", "prox"]),
    begin=st.floats(0.0, 0.4),
)
def test_the_target_is_met(
    family: str, target: float, weights: bool, steps: int, optimizer: str, apply: str, begin: float
) -> None:
    kind = "weights" if weights else "structural"
    config = L1(target=f"{kind}:{target}", strength=1e-3, apply=apply, begin=begin, end=begin + 0.4)
    pruner = train(family, config, steps, optimizer=optimizer)
    found = sparsity(anatomy_of(pruner.model))
    ((name, reached),) = pruner.reached.items()
    assert name.startswith(kind)
    if weights:
        assert reached >= target - 1e-9
        assert found.weight_sparsity <= target + max(GRANULARITY, found.structural_sparsity)
    else:
        assert target - 1e-9 <= reached <= target + GRANULARITY
        assert reached == pytest.approx(found.structural_sparsity)
    assert torch.isfinite(logits(pruner.model, make_inputs(family))).all()


@pytest.mark.parametrize("family", ["bert", "bert-cross", "t5-gated"])
def test_units_are_scored_by_mean_weight(family: str) -> None:
    anatomy = anatomy_of(make_model(family))
    scores = L1Units(L1(target=0.5), 10).scores(anatomy)
    for block in anatomy.blocks():
        matrices = [m.detach().double().numpy() for m in block.matrices()]
        units = len(scores[block.name])
        places = rivals.places(matrices[:-1], matrices[-1:], units)
        slow = [rivals.mean_absolute(rivals.read(matrices, unit)) for unit in places]
        np.testing.assert_allclose(scores[block.name].numpy(), slow, rtol=1e-5)


@pytest.mark.parametrize("target", ["structural:0", "weights:0"])
@pytest.mark.parametrize("apply", ["penalty", "prox"])
def test_the_penalty_acts_until_the_ramp_ends(target: str, apply: str) -> None:
    """Without gradients of the task, weights shrink until `end` and stand still after it."""
    config = L1(target=target, strength=0.1, apply=apply, begin=0.0, end=0.5)
    pruner = started("bert", config, 10, "sgd", 0.1)
    weight = anatomy_of(pruner.model).mlps[0].up_proj.weight
    sizes = [float(weight.detach().abs().sum())]
    penalties = [float(pruner.penalty())]
    for _ in range(10):
        pruner.optimizer.zero_grad()
        (pruner.model(**make_inputs("bert")).loss * 0.0).backward()
        pruner.optimizer.step()
        sizes.append(float(weight.detach().abs().sum()))
        penalties.append(float(pruner.penalty()))
    acted = 5 if apply == "penalty" else 4  # the step of the last cut cuts
    assert all(b < a for a, b in itertools.pairwise(sizes[: acted + 1]))
    assert len(set(sizes[acted:])) == 1
    assert all(p > 0 for p in penalties[:5]) and not any(penalties[5:])
    assert type(pruner.method.penalty(pruner.anatomy)) is torch.Tensor


@pytest.mark.parametrize("apply", ["penalty", "prox"])
def test_the_penalty_is_that_of_the_method_without_a_target(apply: str) -> None:
    """Before the ramp, all three variants train the same."""
    found = []
    for target in (None, 0.5, "weights:0.5"):
        ramp = {} if target is None else {"begin": 0.9, "end": 1.0}
        config = L1(target=target, strength=0.01, apply=apply, **ramp)
        pruner = started("bert", config, 20, lr=1e-2)
        run(pruner, "bert", range(3))
        found.append([p.detach().clone() for p in pruner.model.parameters()])
        pruner.detach()
    for p, q, r in zip(*found, strict=True):
        assert torch.equal(p, q) and torch.equal(p, r)


def test_masked_weights_are_the_smallest_and_stay_zero() -> None:
    config = L1(target="weights:0.5", strength=0.0, begin=0.0, end=0.5)
    pruner = started("bert", config, 10, "sgd", 1e-6)
    before = torch.cat([m.detach().flatten() for m in anatomy_of(pruner.model).matrices()])
    masks = []

    def watch() -> None:
        flat = torch.cat([m.flatten() for m in anatomy_of(pruner.model).matrices()])
        masks.append(flat == 0)

    run(pruner, "bert", range(10), watch)
    assert all(bool((later | ~earlier).all()) for earlier, later in itertools.pairwise(masks))
    assert len({int(m.sum()) for m in masks}) >= 3
    assert all(torch.equal(m, masks[4]) for m in masks[5:])
    assert float(before[masks[-1]].abs().max()) <= float(before[~masks[-1]].abs().min()) + 1e-5


@pytest.mark.parametrize("target", ["structural:0.6", "weights:0.6"])
def test_a_run_continues_from_its_state(target: str) -> None:
    """Stop in the middle of the ramp, and go on in a new pruner: the same trajectory."""
    config = L1(target=target, strength=1e-3)
    whole = started("bert", config, 30)
    run(whole, "bert", range(30))
    first = started("bert", config, 30)
    run(first, "bert", range(8))
    state = json.loads(json.dumps(first.state_dict()))
    first.detach()
    second = attach(first.model, first.optimizer, config, 30)
    second.load_state_dict(state)
    run(second, "bert", range(8, 30))
    whole.finish()
    second.finish()
    for p, q in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"begin": 0.1}, r"L1\.begin would do nothing without a target"),
        ({"begin": 0.1, "end": 0.5}, r"L1\.begin, end would do nothing without"),
        ({"eps": 0.1, "target": 0.5}, r"L1\.eps would do nothing with a target"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(given_: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        L1(**given_)


@pytest.mark.parametrize("config", [L1(), L1(target=0.5, end=0.6), L1(target="weights:0.3")])
def test_the_configuration_round_trips(config: L1) -> None:
    assert L1.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_sparsity_that_was_passed_already_is_refused() -> None:
    pruner = train("bert", L1(target=0.5), 4)
    for target in ("weights:0.2", "structural:0.2"):
        with pytest.raises(ConfigError, match="cannot be reached"):
            attach(pruner.model, pruner.optimizer, L1(target=target), 4)
