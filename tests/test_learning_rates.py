"""Learning rates of one step, and how they grow as a model shrinks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neuroprune.anatomy import anatomy_of
from neuroprune.config import ConfigError, NeuroPrune
from neuroprune.learning_rates import LearningRates
from neuroprune.pruner import Pruner, attach
from tests.zoo import inputs_for, make_model

STEPS = 20


def trained(
    config: NeuroPrune, lr: float = 0.01
) -> tuple[Pruner, torch.optim.SGD, list[float], list[float]]:
    """A whole training: the learning rate of every step, and the share of weights before it."""
    model = make_model("bert").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    pruner = attach(model, optimizer, config, total_steps=STEPS)
    taken: list[float] = []
    # Hooks run in the order of their registration: this one sees what the step will take.
    optimizer.register_step_pre_hook(lambda o, *_: taken.append(o.param_groups[0]["lr"]))
    left = []
    for seed in range(STEPS):
        left.append(1.0 - anatomy_of(model).structural_sparsity)
        optimizer.zero_grad()
        model(**inputs_for(model, "bert", seed)).loss.backward()
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == lr  # between steps, the user's own
    return pruner, optimizer, taken, left


def test_groups_that_share_a_tensor_are_scaled_once() -> None:
    """Torch puts one tensor, `lr=torch.tensor(...)`, into every group."""
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    groups = [{"params": [w], "weight_decay": 0.1 * i} for i, w in enumerate(weights)]
    optimizer = torch.optim.AdamW(groups, lr=torch.tensor(1e-3))
    assert len({id(group["lr"]) for group in optimizer.param_groups}) == 1
    rates = LearningRates(optimizer)
    for _ in range(5):
        rates.scale_(2.0)
        assert [float(g["lr"]) for g in optimizer.param_groups] == [pytest.approx(2e-3)] * 3
        rates.restore_()
        assert [float(g["lr"]) for g in optimizer.param_groups] == [pytest.approx(1e-3)] * 3


@pytest.mark.parametrize("growth", [0.5, 1 / 3])
def test_a_smaller_model_takes_larger_steps(growth: float) -> None:
    pruner, optimizer, taken, left = trained(NeuroPrune(target=0.7, lr_growth=growth))
    assert taken == pytest.approx([0.01 * share**-growth for share in left])
    assert taken[-1] > 1.3 * taken[0]
    pruner.finish()
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_without_growth_the_users_rate_is_taken() -> None:
    _, _, taken, left = trained(NeuroPrune(target=0.7, lr_growth=0.0))
    assert taken == [0.01] * STEPS
    assert left[-1] < 0.35


def test_growth_is_counted_from_where_training_began() -> None:
    model = make_model("bert").train()
    config = NeuroPrune(target=0.5, connectivity="strength")
    first = attach(model, torch.optim.SGD(model.parameters(), lr=0.01), config, total_steps=STEPS)
    first.finish()
    later = attach(
        model, torch.optim.SGD(model.parameters(), lr=0.01), NeuroPrune(target=0.6), total_steps=9
    )
    assert later.method.rate_scale(later.anatomy) == 1.0


def test_growth_goes_on_after_resuming() -> None:
    pruner, _, _, _ = trained(NeuroPrune(target=0.7))
    scale = pruner.method.rate_scale(pruner.anatomy)
    state = pruner.state_dict()
    pruner.detach()
    model = pruner.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    again = attach(model, optimizer, NeuroPrune(target=0.7), total_steps=STEPS)
    again.load_state_dict(state)
    assert again.method.rate_scale(again.anatomy) == scale > 1.5


def test_growth_is_bounded() -> None:
    pruner, _, _, _ = trained(NeuroPrune(target=0.7, lr_growth=1.0))
    assert 1.0 < pruner.method.rate_scale(pruner.anatomy) <= 20**0.5


def test_a_step_that_raises_does_not_leave_a_scaled_rate() -> None:
    pruner, optimizer, _, _ = trained(NeuroPrune(target=0.7))

    def fails(*args: Any) -> None:
        raise RuntimeError("out of memory")

    optimizer.register_step_pre_hook(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] > 0.01
    pruner.detach()
    assert optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)])
def test_rates_are_scaled_and_given_back(lr: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight], lr=lr, foreach=False)
    rates = LearningRates(optimizer)
    rates.scale_(3.0)
    rates.scale_(2.0)  # the last one holds
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.2)
    if isinstance(lr, torch.Tensor):
        assert optimizer.param_groups[0]["lr"] is lr
    rates.restore_()
    rates.restore_()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1)


def test_a_group_without_a_rate_is_left_alone() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.param_groups[0]["lr"] = None
    rates = LearningRates(optimizer)
    rates.scale_(2.0)
    assert optimizer.param_groups[0]["lr"] is None
    rates.restore_()
    assert optimizer.param_groups[0]["lr"] is None


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), True])
def test_growth_is_a_number_between_0_and_1(value: Any) -> None:
    with pytest.raises(ConfigError, match="lr_growth"):
        NeuroPrune(target=0.5, lr_growth=value)


def test_growth_belongs_to_target_mode() -> None:
    with pytest.raises(ConfigError, match=r"only for target mode: NeuroPrune\.lr_growth"):
        NeuroPrune(lr_growth=0.2)
