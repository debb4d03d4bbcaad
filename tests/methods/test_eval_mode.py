"""What is measured on training passes says so where a training is in eval mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neuroprune.config import ConfigError, NeuroPrune
from neuroprune.pruner import Pruner, attach
from neuroprune.topology.sparsity import sparsity
from tests.zoo import make_inputs, make_model

NEEDED: list[dict[str, Any]] = [
    {"target": 0.5, "connectivity": "activity"},
    {"target": 0.5, "connectivity": "mixed"},
    {"target": 0.5, "redundancy": "output", "theta": 0.5},
    {"target": 0.5, "redundancy": "circuit", "theta": 0.5},
    {"target": 0.5, "repair": True},
    {"redundancy": "output"},
    {"redundancy": "circuit"},
]
FREE: list[dict[str, Any]] = [
    {"target": 0.5},
    {"target": 0.5, "connectivity": "strength"},
    {"target": 0.5, "redundancy": "weights", "theta": 0.5},
    {"redundancy": "weights"},
    {},
]
ACTIVITY = NeuroPrune(target=0.5, connectivity="activity", end=0.9)


def attached(config: NeuroPrune, steps: int = 10) -> Pruner:
    model = make_model("bert")
    return attach(model, torch.optim.AdamW(model.parameters(), lr=1e-3), config, steps)


def step_(pruner: Pruner, seed: int = 0) -> None:
    pruner.optimizer.zero_grad()
    pruner.model(**make_inputs("bert", seed)).loss.backward()
    pruner.optimizer.step()


@pytest.mark.parametrize("settings", NEEDED, ids=str)
def test_training_in_eval_mode_is_refused_at_its_first_step(settings: dict[str, Any]) -> None:
    pruner = attached(NeuroPrune(**settings))
    before = [p.detach().clone() for p in pruner.model.parameters()]
    pruner.model.eval()
    with pytest.raises(ConfigError, match=r"nothing to see in this step.*model\.train\(\)"):
        step_(pruner)
    assert all(map(torch.equal, before, pruner.model.parameters()))
    pruner.model.train()
    step_(pruner)
    pruner.detach()


@pytest.mark.parametrize("settings", FREE, ids=str)
def test_what_needs_no_activations_is_free_to_train_in_eval_mode(settings: dict[str, Any]) -> None:
    pruner = attached(NeuroPrune(**settings))
    pruner.model.eval()
    for seed in range(10):
        step_(pruner, seed)
    pruner.finish()
    if "target" in settings:
        reached = sparsity(pruner.anatomy).structural_sparsity
        assert reached == pytest.approx(0.5055, abs=0.0056)


def test_a_training_that_stays_in_eval_mode_after_an_evaluation_is_refused() -> None:
    pruner = attached(ACTIVITY)
    for seed in range(2):
        pruner.model.train()
        step_(pruner, seed)
        pruner.model.eval()
        pruner.model(**make_inputs("bert"))  # an evaluation that forgot no_grad
    with pytest.raises(ConfigError, match="nothing to see"):
        step_(pruner)


def test_a_frozen_part_in_eval_mode_is_seen() -> None:
    """Lower layers are often frozen and put in eval mode; they are pruned like the others."""
    pruner = attached(ACTIVITY)
    whole = attached(ACTIVITY)
    frozen = pruner.model.bert.encoder.layer[0]
    for one in (pruner, whole):
        one.model.train()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    frozen.eval()
    step_(pruner)
    step_(whole)
    assert isinstance(pruner.method.connectivity.activity, dict)
    for name, activity in whole.method.connectivity.activity.items():
        assert torch.equal(pruner.method.connectivity.activity[name], activity)


@pytest.mark.parametrize("settings", [NEEDED[0], NEEDED[2], NEEDED[4]], ids=str)
def test_blocks_may_be_left_out_of_a_step(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pruner = attached(NeuroPrune(**settings))
    pruner.model.train()
    layer = pruner.model.bert.encoder.layer[1]
    for seed in range(10):
        with monkeypatch.context() as patch:
            if seed % 3 == 0:
                patch.setattr(layer, "forward", lambda hidden, *args, **kwargs: hidden)
            step_(pruner, seed)
    pruner.finish()
    assert 0.5 <= sparsity(pruner.anatomy).structural_sparsity <= 0.511


def test_an_accumulated_step_counts_all_of_its_batches() -> None:
    """The mean over the batches of a step, whichever came last."""
    whole, rowwise = attached(ACTIVITY), attached(ACTIVITY)
    inputs = make_inputs("bert")
    rows = len(inputs["input_ids"])
    assert rows > 1
    for pruner, parts in ((whole, 1), (rowwise, rows)):
        model = pruner.model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for _ in range(2):
            pruner.optimizer.zero_grad()
            for part in range(parts):
                some = slice(part * rows // parts, (part + 1) * rows // parts)
                batch = {k: v[some] for k, v in inputs.items()}
                (model(**batch).loss / parts).backward()
            pruner.optimizer.step()
    found = rowwise.method.connectivity.activity
    for name, activity in whole.method.connectivity.activity.items():
        torch.testing.assert_close(found[name], activity, rtol=1e-3, atol=1e-6)
