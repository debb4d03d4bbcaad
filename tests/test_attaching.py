"""What a model and an optimizer may not be when a pruner is attached, and what it says."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from neuroprune.anatomy import anatomy_of
from neuroprune.config import L1, CoFi, ConfigError, Flops, Magnitude, NeuroPrune
from neuroprune.integrations import NeuroPruneCallback
from neuroprune.plan import ShrinkPlan
from neuroprune.pruner import PrunerError, attach
from neuroprune.surgery import shrink_
from tests.zoo import make_inputs, make_model


def step(model: nn.Module, optimizer: Any, family: str = "bert") -> None:
    model(**make_inputs(family)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_parameters_that_another_optimizer_may_train_are_named() -> None:
    model = make_model("bert").train()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "encoder.layer" in n]
    first = torch.optim.AdamW(matrices)
    with pytest.warns(UserWarning, match=r"encoder\.layer\.0\.attention.*this optimizer does not"):
        attach(model, first, NeuroPrune(target=0.5), 10).detach()
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is p for p in matrices))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(model, first, NeuroPrune(target=0.5), 10).detach()


def test_a_model_has_one_pruner() -> None:
    model = make_model("bert").train()
    config = NeuroPrune(target=0.5, teacher="dense")
    pruner = attach(model, torch.optim.AdamW(model.parameters()), config, 10)
    with pytest.raises(PrunerError, match="the model has a pruner already, with another"):
        attach(model, torch.optim.AdamW(model.parameters()), config, 10)
    assert len(model._forward_hooks) == 1
    pruner.detach()
    attach(model, torch.optim.AdamW(model.parameters()), config, 10).detach()


@pytest.mark.parametrize("config", [NeuroPrune(alpha=1e-3, beta=1e-3), L1(strength=1e-3)])
def test_optimizers_that_choose_their_own_steps_finish(config: Any) -> None:
    model = make_model("bert").train()
    optimizer = transformers.Adafactor(model.parameters())
    pruner = attach(model, optimizer, config, 3)
    for _ in range(3):
        step(model, optimizer)
    pruner.finish()


@pytest.mark.parametrize("config", [Magnitude(target=0.5), NeuroPrune(target="weights:0.5")])
def test_where_a_learning_rate_is_needed_it_is_missed_at_once(config: Any) -> None:
    model = make_model("bert")
    with pytest.raises(ConfigError, match="chooses its own steps"):
        attach(model, transformers.Adafactor(model.parameters()), config, 3)


def test_a_cut_by_hand_under_a_pruner_is_refused() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters())
    pruner = attach(model, optimizer, NeuroPrune(target=0.5), 40)
    step(model, optimizer)
    shrink_(model, ShrinkPlan({"encoder.layer.0.attention": [0]}), optimizer)
    model(**make_inputs("bert")).loss.backward()
    with pytest.raises(PrunerError, match="cut by hand while a pruner is attached"):
        optimizer.step()
    pruner.detach()


def test_an_optimizer_that_never_stepped_is_named() -> None:
    model = make_model("bert").train()
    pruner = attach(model, torch.optim.AdamW(model.parameters()), NeuroPrune(alpha=1e-3))
    step(model, torch.optim.AdamW(model.parameters()))
    with pytest.warns(UserWarning, match="has not made a step"):
        pruner.finish()


@pytest.mark.parametrize("steps", [True, 0, None])
def test_a_length_that_is_no_number_of_steps(steps: Any) -> None:
    model = make_model("bert")
    with pytest.raises(ConfigError, match=f"total_steps=N.*got {steps!r}"):
        attach(model, torch.optim.AdamW(model.parameters()), CoFi(target=0.5), steps)


@pytest.mark.parametrize("kind", ["BertForQuestionAnswering", "BertForPreTraining"])
def test_heads_without_one_set_of_logits_have_no_teacher(kind: str) -> None:
    model = getattr(transformers, kind)(make_model("bert").config)
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ConfigError, match=f"{kind} gives none"):
        attach(model, optimizer, NeuroPrune(target=0.5, teacher="dense"), 10)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("bert", "BertForMultipleChoice"),
        ("t5", "T5ForSequenceClassification"),
        ("t5", "T5ForQuestionAnswering"),
    ],
)
def test_operations_are_counted_with_every_head(family: str, kind: str) -> None:
    model = getattr(transformers, kind)(copy.deepcopy(make_model(family).config))
    config = NeuroPrune(target=Flops(0.8, length=16))
    attach(model, torch.optim.AdamW(model.parameters()), config, 10).detach()


def test_a_length_without_positions_is_refused_with_a_shorter_one() -> None:
    model = make_model("bert")
    with pytest.raises(ConfigError, match=r"cannot be run on 4000 tokens.*@1x2000"):
        attach(
            model,
            torch.optim.AdamW(model.parameters()),
            NeuroPrune(target=Flops(0.8, length=4000)),
            10,
        )


@pytest.mark.parametrize("given", [0.8, NeuroPruneCallback, None])
def test_a_callback_wants_a_configuration(given: Any) -> None:
    with pytest.raises(ConfigError, match="expected the configuration of a method"):
        NeuroPruneCallback(given)


def test_a_scheduler_that_ran_after_a_failed_step_has_the_last_word() -> None:
    class Failing(torch.optim.SGD):
        fails = False

        def step(self, closure: Any = None) -> Any:
            if self.fails:
                raise RuntimeError("out of memory")
            return super().step(closure)

    model = make_model("bert").train()
    optimizer = Failing(model.parameters(), lr=1e-2)
    pruner = attach(model, optimizer, NeuroPrune(target=0.8, end=0.5), 8)
    for _ in range(6):
        step(model, optimizer)
    optimizer.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        step(model, optimizer)
    optimizer.fails = False
    optimizer.param_groups[0]["lr"] = 5e-3  # as schedulers with a closed form do
    step(model, optimizer)
    assert optimizer.param_groups[0]["lr"] == 5e-3
    pruner.finish()


def test_one_of_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("bert")
    optimizer = torch.optim.AdamW(model.parameters())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match="pruned in one process, and this is one of 2"):
        attach(model, optimizer, NeuroPrune(target=0.5), 10)


def test_an_encoder_that_is_frozen_is_told() -> None:
    model = make_model("bert")
    model.bert.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters())  # holds what is frozen, too
    with pytest.warns(UserWarning, match=r"no prunable matrix requires.*requires_grad_\(True\)"):
        attach(model, optimizer, NeuroPrune(alpha=0.1), 10)


def test_a_method_that_is_refused_leaves_nothing_behind() -> None:
    model = make_model("llama")
    optimizer = torch.optim.AdamW(model.parameters())
    config = NeuroPrune(target=0.5, connectivity="activity", redundancy="circuit")
    with pytest.raises(ConfigError, match="circuit"):
        attach(model, optimizer, config, 10)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_a_model_that_a_quantizer_loaded_is_refused() -> None:
    """With plain layers, too: transformers would not save it."""
    from transformers import GgufConfig
    from transformers.quantizers.quantizer_gguf import GgufHfQuantizer

    model = make_model("llama")
    model.hf_quantizer = GgufHfQuantizer(GgufConfig())
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ConfigError, match=r"by a quantizer \(gguf\).*GgufConfig\(dequantize=True"):
        attach(model, optimizer, NeuroPrune(target=0.5), 10)


def test_a_model_on_several_devices_is_refused() -> None:
    model = make_model("bert")
    anatomy_of(model).mlps[0].up_proj.to("meta")
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ConfigError, match="a model on one device, got one on cpu, meta"):
        attach(model, optimizer, NeuroPrune(target=0.5), 10)
