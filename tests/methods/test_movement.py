"""Movement pruning: straight-through masks, their scores, the cut, and what cannot be resumed."""

from __future__ import annotations

import copy
import itertools
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuroprune.anatomy import Anatomy, anatomy_of
from neuroprune.checkpoint import from_pretrained, save_pretrained
from neuroprune.config import ConfigError, Movement, Weights, method_config
from neuroprune.methods import method_for
from neuroprune.methods.movement import MovementUnits
from neuroprune.methods.movement_weights import MovementBlocks, MovementWeights
from neuroprune.methods.poorest import goals_of, poorest_units
from neuroprune.methods.units import masks_of, plan_of
from neuroprune.pruner import Pruner, attach
from neuroprune.surgery import shrink_
from neuroprune.topology.sparsity import sparsity
from tests.methods.loops import GRANULARITY, OPTIMIZERS, run, started, train
from tests.reference import rivals
from tests.zoo import FAMILIES, inputs_for, logits, make_inputs, make_model

RAMP = {"begin": 0.1, "end": 0.8}


class Reference:
    """The training with masks inside the graph: w' = w * mask is a node, w the leaf."""

    def __init__(self, family: str, config: Movement, steps: int, interval: int) -> None:
        self.family, self.config, self.steps, self.interval = family, config, steps, interval
        self.model = make_model(family).double().train()
        self.own = {
            n: p.detach().clone().requires_grad_() for n, p in self.model.named_parameters()
        }
        self.optimizer = torch.optim.AdamW(self.own.values(), lr=1e-2, weight_decay=0.1)
        self.anatomy: Anatomy = anatomy_of(self.model)
        names = {id(p): n for n, p in self.model.named_parameters()}
        self.names = {b.name: [names[id(m)] for m in b.matrices()] for b in self.anatomy.blocks()}
        flat = [n for names in self.names.values() for n in names]
        self.masks = {n: torch.ones_like(self.own[n]) for n in flat}
        # A unit is silenced by what it writes with; what it reads with is masked at the end.
        reads = {n for names in self.names.values() for n in names[:-1]}
        squares = {n for b, names in self.names.items() if not is_mlp(b) for n in names}
        apart = {"units": reads, "blocks": reads - squares}.get(str(config.structure), set())
        self.silent = apart
        self.movement = {n: torch.zeros_like(self.own[n]) for n in flat}
        self.goals = goals_of(config.target, self.anatomy) if self._units else ()

    @property
    def _units(self) -> bool:
        return self.config.structure == "units"

    def _mask(self, way: float) -> None:
        masks = {"units": self._mask_units, "blocks": self._mask_blocks}
        masks.get(str(self.config.structure), self._mask_weights)(way)

    def used(self, name: str) -> Tensor:
        """What the forward pass uses of a matrix."""
        return self.own[name] * (1.0 if name in self.silent else self.masks[name])

    def step(self, number: int) -> None:
        """Forward, backward, scores, optimizer, and the mask for the next forward."""
        used = {n: self.used(n) for n in self.masks}
        for w in used.values():
            w.retain_grad()
        inputs = inputs_for(self.model, self.family, number)
        self.optimizer.zero_grad()
        everything = {**self.own, **used}
        output = torch.func.functional_call(self.model, everything, args=(), kwargs=inputs)
        output.loss.backward()
        for n, w in used.items():
            if w.grad is not None:
                self.movement[n] -= self.own[n].detach() * w.grad
        self.optimizer.step()
        done, begin, end = number + 1, round(0.1 * self.steps), round(0.8 * self.steps)
        if begin < done < end and (done - begin) % self.interval == 0:
            way = 1 - (1 - (done - begin) / (end - begin)) ** 3
            self._mask(way)

    def unit_scores(self) -> dict[str, Tensor]:
        """Movement of every unit, weight by weight."""
        out = {}
        for block, names in self.names.items():
            moved = [self.movement[n].numpy() for n in names]
            units = 24 if is_mlp(block) else 4
            found = [
                sum(rivals.read(moved, u)) for u in rivals.places(moved[:-1], moved[-1:], units)
            ]
            out[block] = torch.tensor(found, dtype=torch.float64)
        return out

    def _mask_units(self, way: float) -> None:
        gone = poorest_units(self.goals, way, self.unit_scores(), self.anatomy)
        for block, names in self.names.items():
            matrices = [self.masks[n] for n in names]
            held = [m.numpy() for m in matrices]
            places = rivals.places(held[:-1], held[-1:], len(gone[block]))
            for unit, is_gone in zip(places, gone[block].tolist(), strict=True):
                for number, i, j in unit:
                    matrices[number][i, j] = 0.0 if is_gone else 1.0

    def _mask_weights(self, way: float) -> None:
        flat = torch.cat([self.movement[n].flatten() for n in self.masks])
        count = math.ceil(way * self.config.target[0].sparsity * self.anatomy.dense_weights)
        keep = torch.ones_like(flat)
        keep[flat.argsort(stable=True)[:count]] = 0.0
        for n, part in zip(self.masks, keep.split([m.numel() for m in self.masks.values()])):  # noqa: B905
            self.masks[n] = part.view(self.masks[n].shape)

    def _mask_blocks(self, way: float) -> None:
        """Blocks of the lowest movement a weight, one after the other, until they are enough."""
        blocks: list[list[tuple[str, int, int]]] = []
        for block, names in self.names.items():
            shapes = {n: tuple(self.own[n].shape) for n in names}
            if is_mlp(block):
                *fan_in, out = names
                for unit in range(shapes[out][1]):
                    rows = [(n, unit, j) for n in fan_in for j in range(shapes[n][1])]
                    blocks.append(rows + [(out, i, unit) for i in range(shapes[out][0])])
                continue
            for n in names:
                squares: dict[tuple[int, int], list[tuple[str, int, int]]] = {}
                for i, j in itertools.product(*map(range, shapes[n])):
                    place = i // self.config.block_size, j // self.config.block_size
                    squares.setdefault(place, []).append((n, i, j))
                blocks += squares.values()
        count = math.ceil(way * self.config.target[0].sparsity * self.anatomy.dense_weights)
        for n in self.masks:
            self.masks[n] = torch.ones_like(self.masks[n])
        moved = [sum(float(self.movement[n][i, j]) for n, i, j in b) / len(b) for b in blocks]
        for number in sorted(range(len(blocks)), key=moved.__getitem__):
            if count <= 0:
                break
            for n, i, j in blocks[number]:
                self.masks[n][i, j] = 0.0
            count -= len(blocks[number])


def is_mlp(block: str) -> bool:
    return "mlp" in block or "DenseReluDense" in block


def of(structure: str, **settings: Any) -> Movement:
    """A configuration whose squares are small enough for a tiny model."""
    if structure == "blocks":
        settings["block_size"] = 4
    return Movement(structure=structure, **{**RAMP, **settings})


def trained_with_masks(
    family: str, config: Movement, steps: int
) -> tuple[Pruner, Reference, list[dict[str, Tensor]]]:
    """Both trainings side by side, compared at every step of the ramp; and the masks."""
    model = make_model(family).double().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    pruner = attach(model, optimizer, config, steps)
    slow = Reference(family, config, steps, pruner.method.ramp.interval)
    masks = []
    for step in range(round(0.8 * steps) - 1):
        run(pruner, family, [step])
        slow.step(step)
        for name, p in model.named_parameters():
            used = slow.used(name) if name in slow.masks else slow.own[name]
            torch.testing.assert_close(p, used, rtol=1e-4, atol=1e-6, msg=f"{name}, step {step}")
        masks.append({n: m.clone() for n, m in slow.masks.items()})
    last = round(0.8 * steps) - 1
    run(pruner, family, [last])
    slow.step(last)
    return pruner, slow, masks


@pytest.mark.parametrize("family", ["bert", "t5-gated"])
def test_units_are_trained_and_scored_as_with_masks_in_the_graph(family: str) -> None:
    """Weights, scores and masks of every step, with momentum and weight decay on the masked.

    And what is left after the cut that ends the ramp is the weights as they were trained.
    """
    pruner, slow, masks = trained_with_masks(family, Movement(target=0.6, **RAMP), 40)
    gone = masks_of(slow.anatomy, pruner.removed)
    for block, scores in slow.unit_scores().items():
        found = pruner.method.movement[block].double()
        torch.testing.assert_close(found, scores[~gone[block]], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for name, p in slow.model.named_parameters():
            p.copy_(slow.own[name])
    shrink_(slow.model, pruner.removed)
    for p, q in zip(pruner.model.parameters(), slow.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    shares = [1 - float(torch.cat([m.flatten() for m in mask.values()]).mean()) for mask in masks]
    assert shares[-1] == pytest.approx(0.6, abs=0.1) and len(set(shares)) >= 4
    back = [
        name
        for earlier, later in itertools.pairwise(masks)
        for name in earlier
        if bool(((earlier[name] == 0) & (later[name] == 1)).any())
    ]
    assert back, "no unit came back; the test should see one"


@pytest.mark.parametrize(
    ("family", "given"),
    [
        ("bert", {"structure": "weights"}),
        ("bert", {"structure": "blocks", "block_size": 5}),
        ("t5-gated", {"structure": "blocks", "block_size": 4}),
    ],
)
def test_weights_are_trained_and_scored_as_with_masks_in_the_graph(
    family: str, given: dict[str, Any]
) -> None:
    config = Movement(target=0.6, **given, **RAMP)
    pruner, slow, masks = trained_with_masks(family, config, 20)
    names = dict(pruner.model.named_parameters())
    slow._mask(1.0)  # the ramp has ended
    for name, mask in slow.masks.items():
        torch.testing.assert_close(names[name], slow.own[name] * mask, rtol=1e-4, atol=1e-6)
    flat = [torch.cat([m.flatten() for m in mask.values()]) for mask in masks]
    assert any(bool(((a == 0) & (b == 1)).any()) for a, b in itertools.pairwise(flat))
    assert float(1 - flat[-1].mean()) > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_and_shrunk_give_the_same_outputs(family: str) -> None:
    pruner = started(family, Movement(target=0.6, **RAMP), 20)
    run(pruner, family, range(12))
    assert pruner.method.masked
    gone = {n: m.cpu() for n, m in pruner.method.masked.items()}
    masked = logits(pruner.model, make_inputs(family))
    shrunk = copy.deepcopy(pruner.model)
    shrink_(shrunk, plan_of(anatomy_of(shrunk), gone))
    torch.testing.assert_close(logits(shrunk, make_inputs(family)), masked, rtol=0, atol=1e-5)
    assert sparsity(pruner.anatomy).structural_sparsity == 0.0


@pytest.mark.parametrize("family", ["bert", "t5", "opt"])
def test_the_one_cut_is_at_the_end_of_the_ramp(family: str) -> None:
    pruner = started(family, Movement(target=0.6, **RAMP), 20)
    reached = []
    run(pruner, family, range(20), lambda: reached.append(pruner.anatomy.structural_sparsity))
    assert reached[:15] == [0.0] * 15
    assert 0.6 <= reached[15] <= 0.6 + GRANULARITY and len(set(reached[15:])) == 1
    assert not pruner.method._shadow._own and not pruner.method.masked
    # Nothing that stayed is masked: the weights are those that were trained behind the mask.
    assert sparsity(pruner.anatomy).zero_weights == 0
    scores = {n: s.clone() for n, s in pruner.method.movement.items()}
    run(pruner, family, range(1))
    assert all(torch.equal(scores[n], s) for n, s in pruner.method.movement.items())
    for block in pruner.anatomy.blocks():
        units = getattr(block, "d_ff", None) or block.num_kv_heads
        assert len(scores[block.name]) == units
    assert pruner.finish() == pruner.removed


@settings(max_examples=24)
@given(
    family=st.sampled_from(FAMILIES),
    target=st.floats(0.0, 0.9),
    structure=st.sampled_from(["units", "weights", "blocks"]),
    steps=st.integers(1, 40),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    lr=st.sampled_from([1e-5, 1e-3, 1e-2]),
    begin=st.floats(0.0, 0.4),
    length=st.floats(0.01, 0.6),
)
def test_the_target_is_met(
    family: str,
    target: float,
    structure: str,
    steps: int,
    optimizer: str,
    lr: float,
    begin: float,
    length: float,
) -> None:
    config = of(structure, target=target, begin=begin, end=begin + length)
    pruner = train(family, config, steps, optimizer=optimizer, lr=lr)
    found = sparsity(anatomy_of(pruner.model))
    (reached,) = pruner.reached.values()
    if structure != "units":
        assert found.weight_sparsity >= target - 1e-9
        extra = found.structural_sparsity + (0.02 if structure == "blocks" else 0.01)
        assert found.weight_sparsity <= target + extra and reached == found.weight_sparsity
    else:
        assert target - 1e-9 <= found.structural_sparsity <= target + GRANULARITY
        assert found.zero_weights == 0 or optimizer == "sgd" or target == 0
    assert torch.isfinite(logits(pruner.model, make_inputs(family))).all()


@pytest.mark.parametrize("steps", [3, 12])
@pytest.mark.parametrize("structure", ["units", "weights", "blocks"])
def test_a_run_that_stops_early_still_meets_its_target(structure: str, steps: int) -> None:
    pruner = started("bert", of(structure, target=0.6), 20)
    run(pruner, "bert", range(steps))
    assert not pruner.prune(), "masks come and go; nothing is cut before the end"
    pruner.finish()
    (reached,) = pruner.reached.values()
    assert reached == pytest.approx(0.605, abs=0.006)
    if structure == "units":
        assert sparsity(anatomy_of(pruner.model)).zero_weights == 0


def test_a_ramp_that_ends_between_two_steps_is_cut_at_once() -> None:
    pruner = started("bert", Movement(target=0.6, begin=0.0, end=0.42), 10)  # 4.2 steps
    run(pruner, "bert", range(4))
    assert pruner.anatomy.structural_sparsity >= 0.6


def test_weights_stay_fixed_after_the_ramp() -> None:
    pruner = started("bert", Movement(target=0.6, structure="weights", **RAMP), 20)
    masks = []

    def watch() -> None:
        masks.append(torch.cat([m.flatten() == 0 for m in pruner.anatomy.matrices()]))

    run(pruner, "bert", range(20), watch)
    assert all(torch.equal(m, masks[15]) for m in masks[16:])
    assert any(bool((a & ~b).any()) for a, b in itertools.pairwise(masks))
    assert not pruner.method._shadow._own and not pruner.method.movement
    assert int(masks[-1].sum()) == math.ceil(0.6 * pruner.anatomy.dense_weights)


@pytest.mark.parametrize("structure", ["units", "weights", "blocks"])
def test_detaching_gives_back_the_weights_behind_the_mask(structure: str) -> None:
    pruner = started("bert", of(structure, target=0.6), 20)
    run(pruner, "bert", range(12))
    masked = sparsity(pruner.anatomy).zero_weights
    assert masked > 0.15 * pruner.anatomy.dense_weights  # of units what they write with
    pruner.detach()
    assert sparsity(pruner.anatomy).zero_weights == 0


@pytest.mark.parametrize("structure", ["units", "weights", "blocks"])
def test_a_run_cannot_be_resumed_in_its_ramp(structure: str, tmp_path: Any) -> None:
    """The checkpoint holds the masked weights; what is behind them is in no checkpoint."""
    config = of(structure, target=0.6)
    pruner = started("bert", config, 20)
    run(pruner, "bert", range(12))
    save_pretrained(pruner.model, tmp_path / "half")
    state = json.loads(json.dumps(pruner.state_dict()))
    assert len(json.dumps(state)) < 10_000
    resumed = from_pretrained(tmp_path / "half")
    assert torch.equal(
        logits(resumed, make_inputs("bert")), logits(pruner.model, make_inputs("bert"))
    )
    assert sparsity(anatomy_of(resumed)).zero_weights == sparsity(pruner.anatomy).zero_weights > 0
    other = attach(resumed, torch.optim.SGD(resumed.parameters(), lr=0.1), config, 20)
    words = {"units": r"steps 3 to 15.*step 16 or after, or of step 2", "weights": r"steps 1 to 15"}
    words["blocks"] = words["weights"]
    with pytest.raises(ConfigError, match=words[structure]):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("structure", "stop"), [("units", 2), ("units", 17), ("weights", 17), ("blocks", 17)]
)
def test_before_and_after_the_ramp_a_run_continues(structure: str, stop: int) -> None:
    config = of(structure, target=0.6)
    whole = started("bert", config, 20)
    run(whole, "bert", range(20))
    first = started("bert", config, 20)
    run(first, "bert", range(stop))
    state = json.loads(json.dumps(first.state_dict()))
    first.detach()
    second = attach(first.model, first.optimizer, config, 20)
    second.load_state_dict(state)
    run(second, "bert", range(stop, 20))
    whole.finish()
    second.finish()
    for p, q in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("structure", ["units", "weights", "blocks"])
def test_scores_do_not_depend_on_the_loss_scale(structure: str) -> None:
    """Under a GradScaler a fused optimizer carries the scale; it may change on the way."""
    found = []
    for scales in ([1.0] * 6, [512.0, 512.0, 1024.0, 1024.0, 64.0, 64.0]):
        model = make_model("bert").train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        pruner = attach(model, optimizer, of(structure, target=0.5), 20)
        for step, scale in enumerate(scales):
            optimizer.zero_grad()
            (model(**make_inputs("bert", step)).loss * scale).backward()
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(0.0)
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf
        found.append(list(pruner.method.movement.values()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
        assert one.any()


@pytest.mark.parametrize("family", ["llama", "t5-gated", "bert"])
@pytest.mark.parametrize("structure", ["units", "blocks"])
def test_what_is_masked_goes_on_to_be_scored(family: str, structure: str) -> None:
    """A unit that is silenced on both sides would have no gradient: it could never come back."""
    pruner = started(family, of(structure, target=0.6), 30)
    method, moved = pruner.method, []
    for step in range(18):
        before = {n: s.clone() for n, s in method.movement.items()}
        masked = dict(method.masked)
        run(pruner, family, [step])
        for name, gone in masked.items():
            after = method.movement[name]
            if structure == "units":
                moved.append((after - before[name])[gone])
            elif name is pruner.anatomy.mlps[0].down_proj.weight:
                moved.append((after - before[name])[0][gone.all(dim=0)])
    assert len(moved) > 4
    found = torch.cat(moved)
    assert float((found != 0).float().mean()) > 0.9


@pytest.mark.parametrize("structure", ["units", "weights", "blocks"])
def test_gradients_that_nobody_clears_are_not_scored(structure: str) -> None:
    """Of matrices that are in no optimizer gradients pile up from batch to batch."""
    scores = []
    for clear in (False, True):
        model = make_model("bert").train()
        out = [b.matrices()[-1] for b in anatomy_of(model).blocks()]
        optimizer = torch.optim.SGD(out, lr=0.0)
        with pytest.warns(UserWarning, match="does not train all of them"):
            pruner = attach(model, optimizer, of(structure, target=0.2), 20)
        for _ in range(5):
            (model if clear else pruner.optimizer).zero_grad()
            model(**make_inputs("bert")).loss.backward()
            pruner.optimizer.step()
        scores.append([s.clone() for s in pruner.method.movement.values()])
    for one, other in zip(*scores, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("structure", ["units", "weights", "blocks"])
def test_nothing_is_chosen_before_a_step_was_taken(structure: str) -> None:
    pruner = started("bert", of(structure, target=0.5), 20)
    before = copy.deepcopy(pruner.model.state_dict())
    with pytest.raises(ConfigError, match=r"no optimizer step was taken.*detach\(\)"):
        pruner.finish()
    for name, value in pruner.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_half_precision_is_scored_in_float32() -> None:
    for structure in ("units", "weights", "blocks"):
        config = of(structure, target=0.5)
        pruner = started("t5-gated", config, 10, dtype=torch.bfloat16)
        run(pruner, "t5-gated", range(5))
        assert all(s.dtype == torch.float32 for s in pruner.method.movement.values())
        run(pruner, "t5-gated", range(5, 10))
        pruner.finish()
        assert next(iter(pruner.reached.values())) >= 0.5


def test_frozen_weights_are_left_alone_and_frozen_blocks_refused() -> None:
    model = make_model("bert").train()
    up = anatomy_of(model).mlps[0].up_proj.weight
    up.requires_grad_(False)
    before = up.detach().clone()
    config = Movement(target=0.4, structure="weights", **RAMP)
    pruner = attach(model, torch.optim.AdamW(model.parameters(), lr=1e-2), config, 10)
    run(pruner, "bert", range(10))
    assert torch.equal(up, before)
    assert sparsity(pruner.anatomy).weight_sparsity >= 0.4
    pruner.detach()
    anatomy_of(model).mlps[1].down_proj.weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with pytest.raises(ConfigError, match=r"does not train the output layers of .*layer\.1\.mlp"):
        attach(model, optimizer, Movement(target=0.4), 10)


def test_a_block_of_zeros_is_a_square_or_a_neuron_and_neurons_are_removed() -> None:
    """Sizes that the square does not divide, too."""
    pruner = started("bert", Movement(target=0.6, structure="blocks", block_size=5, **RAMP), 20)
    run(pruner, "bert", range(20))
    gone = 0
    for block in pruner.anatomy.attentions:
        for w in block.matrices():
            for rows in (w == 0).split(5):
                for square in rows.split(5, dim=1):
                    assert square.all() or not square.any()
                    gone += int(square.all())
    assert gone > 0
    neurons = 0
    for block in pruner.anatomy.mlps:
        up, down = block.matrices()
        assert torch.equal((up == 0).all(dim=1), (down == 0).all(dim=0))
        assert int((up == 0).sum()) == int((up == 0).all(dim=1).sum()) * up.shape[1]
        neurons += int((up == 0).all(dim=1).sum())
    assert neurons > 0
    pruner.finish()
    assert sum(len(units) for units in pruner.removed.remove_neurons.values()) == neurons


def test_of_a_neuron_the_matrices_that_are_trained_go() -> None:
    model = make_model("bert").train()
    up = anatomy_of(model).mlps[0].up_proj.weight
    up.requires_grad_(False)
    before = up.detach().clone()
    pruner = attach(
        model, torch.optim.AdamW(model.parameters(), lr=1e-2), of("blocks", target=0.4), 10
    )
    run(pruner, "bert", range(10))
    assert torch.equal(up, before)
    assert sparsity(pruner.anatomy).weight_sparsity >= 0.4
    down = pruner.anatomy.mlps[0].down_proj.weight
    assert bool((down == 0).all(dim=0).any())


def test_the_configuration() -> None:
    blocks = Movement(target=0.8, structure="blocks")
    assert blocks.block_size == 32 and blocks.target == (Weights(0.8),)
    for config in (Movement(), Movement(target=0.8, structure="weights", end=0.7), blocks):
        data = json.loads(json.dumps(config.to_dict()))
        assert method_config("movement", data) == config
    assert Movement(target=0.8, structure="weights").target == (Weights(0.8),)
    assert type(method_for(Movement(), 9)) is MovementUnits
    assert type(method_for(Movement(structure="weights"), 9)) is MovementWeights
    assert type(method_for(blocks, 9)) is MovementBlocks
    for settings_, words in (
        ({"target": None}, "needs a target"),
        ({"target": [0.5, "heads:3"], "structure": "weights"}, "needs a weight sparsity.*heads:3"),
        ({"target": "flops:0.5", "structure": "weights"}, "needs a weight sparsity"),
        ({"target": "weights:0.5"}, "whole heads and neurons"),
        ({"target": "flops:0.5", "structure": "blocks"}, "needs a weight sparsity"),
        ({"structure": "rows"}, "structure must be one of"),
        ({"structure": "blocks", "block_size": 0}, "block_size must be a finite number >= 1"),
        ({"structure": "blocks", "block_size": 2.5}, "block_size must be a whole number"),
        ({"block_size": 32}, 'would do nothing with structure="units"'),
        ({"structure": "weights", "block_size": 8}, 'would do nothing with structure="weights"'),
    ):
        with pytest.raises(ConfigError, match=words):
            Movement(**settings_)
    for structure in ("units", "weights", "blocks"):
        with pytest.raises(ConfigError, match="total_steps=N"):
            method_for(Movement(structure=structure))
