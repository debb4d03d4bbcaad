"""Hooks around an optimizer step: once a step, whatever the class of the optimizer does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neuroprune.config import NeuroPrune
from neuroprune.pruner import attach
from neuroprune.step_hooks import around_step
from tests.zoo import inputs_for, make_model


class Nested(torch.optim.AdamW):
    """An optimizer whose step is that of its base class and something after it."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(0.999)
        return loss


def weight_of(optimizer: torch.optim.Optimizer) -> torch.nn.Parameter:
    weight: torch.nn.Parameter = optimizer.param_groups[0]["params"][0]
    return weight


def ready(kind: type[torch.optim.AdamW]) -> tuple[torch.optim.Optimizer, list[tuple[str, float]]]:
    """An optimizer of one weight, and what its hooks see."""
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])  # from now on AdamW.step has hooks
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer = kind([weight], lr=0.1, weight_decay=0.0)
    seen: list[tuple[str, float]] = []
    around_step(
        optimizer,
        lambda o, *_: seen.append(("before", weight_of(o).item())),
        lambda o, *_: seen.append(("after", weight_of(o).item())),
    )
    return optimizer, seen


def test_torch_calls_step_hooks_twice_where_a_step_calls_its_base_class() -> None:
    optimizer, _ = ready(Nested)
    calls: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    optimizer.step()
    assert len(calls) == 2, "torch no longer does so: step_hooks.py can go"


@pytest.mark.parametrize("kind", [torch.optim.AdamW, Nested])
def test_hooks_are_called_once_around_the_whole_step(kind: type[torch.optim.AdamW]) -> None:
    optimizer, seen = ready(kind)
    optimizer.step()
    assert [name for name, _ in seen] == ["before", "after"]
    assert [value for _, value in seen] == [1.0, weight_of(optimizer).item()]
    optimizer.step()
    assert [name for name, _ in seen] == ["before", "after"] * 2


def test_a_step_that_raises_leaves_nothing_behind() -> None:
    optimizer, seen = ready(Nested)

    def fails(*args: Any) -> None:
        raise RuntimeError("out of memory")

    handle = optimizer.register_step_pre_hook(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step()
    handle.remove()
    seen.clear()
    optimizer.step()
    assert [name for name, _ in seen] == ["before", "after"]


def test_handles_take_the_hooks_away() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    calls: list[int] = []
    for handle in around_step(optimizer, lambda *_: calls.append(0), lambda *_: calls.append(1)):
        handle.remove()
    optimizer.step()
    assert calls == []


def test_a_pruner_counts_a_nested_step_once() -> None:
    model = make_model("bert")
    torch.optim.AdamW(model.parameters())  # from now on AdamW.step has hooks
    optimizer = Nested(model.parameters(), lr=1e-3)
    pruner = attach(model, optimizer, NeuroPrune(target=0.5), total_steps=4)
    for number in (1, 2, 3, 4):
        model(**inputs_for(model, "bert", 0)).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert pruner.steps == number
    pruner.finish()
