"""Movement pruning of single weights and of blocks of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import ConfigError, Movement
from neuroprune.core.movement import movement
from neuroprune.core.selection import lowest_mask
from neuroprune.core.tiles import Tile, lowest_tiles, over_tiles, sum_per_tile, tile_sizes
from neuroprune.methods.method import StepSizeOf, trained, trained_by
from neuroprune.methods.ranked_weights import RankedWeights
from neuroprune.methods.shadow import Shadow, check_resumable, loss_scale


class MovementWeights(RankedWeights[Movement]):
    """Single weights are masked by their movement, until a target of `Weights` is met.

        S <- S - w * dL/dw',    w' = w * mask

    Until the mask is final, what it takes may come back, and so may weights that were zero before.

    Args:
        config: with a target of `Weights`.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.

    Reference: Sanh et al. (2020), arXiv 2005.07683.
    """

    config_type: ClassVar = Movement

    def __init__(self, config: Movement, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        self.movement: dict[Tensor, Tensor] = {}
        self.masked: dict[Tensor, Tensor] = {}  # parameter -> weights out of the forward pass
        self._shadow = Shadow()
        self._optimizer: Optimizer | None = None
        self._settled = False  # whether the mask is final

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Refuse what cannot be reached."""
        super().setup(anatomy, optimizer)
        self._optimizer = optimizer

    @torch.no_grad()
    def observe_(self, anatomy: Anatomy) -> None:
        """Score; keep the gradient from what is masked; give the optimizer the trained weights."""
        if self._settled:
            return
        scale, held = loss_scale(self._optimizer), trained_by(self._optimizer)
        for w in anatomy.matrices():
            if w.grad is None or w not in held:
                continue
            self._score(w, movement(self._shadow.of(w), w.grad).div_(scale))
            if w in self.masked:
                w.grad.masked_fill_(self.masked[w], 0.0)
        self._shadow.restore_()

    def _score(self, parameter: Tensor, moved: Tensor) -> None:
        self._of(parameter).add_(moved)

    def _of(self, parameter: Tensor) -> Tensor:
        if parameter not in self.movement:
            self.movement[parameter] = torch.zeros_like(parameter, dtype=torch.float32)
        return self.movement[parameter]

    @torch.no_grad()
    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Mask what is lowest; after the ramp, hold it at zero."""
        if self._settled:
            super().prox_(anatomy, step_size_of)
            return
        self.step += 1
        if self.step >= self.ramp.last:
            self.mask_(anatomy, step_size_of, self.gone(anatomy))
            self._settle(anatomy)
            return
        if self.ramp.is_due(self.step):
            self._choose(anatomy, step_size_of, self.gone(anatomy))
            self.masked = self._acting(self.masked)
        self._shadow.save(self.masked)
        for w, gone in self.masked.items():
            w.masked_fill_(gone, 0.0)

    def _choose(self, anatomy: Anatomy, step_size_of: StepSizeOf, gone: int) -> None:
        matrices = [w for w in trained(tuple(anatomy.matrices()), step_size_of) if w.numel()]
        count = gone - (anatomy.dense_weights - anatomy.kept_weights)
        self.masked = dict(zip(matrices, self._lowest(matrices, count), strict=True))

    def _acting(self, masked: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """What acts in the forward pass while masks come and go."""
        return masked

    def _lowest(self, matrices: Sequence[Tensor], count: int) -> Iterable[Tensor]:
        return lowest_mask([self._of(w) for w in matrices], count)

    def mask_(self, anatomy: Anatomy, step_size_of: StepSizeOf, gone: int) -> None:
        """Those of the lowest movement become zero for good.

        Raises:
            ConfigError: no step was taken.
        """
        if not self._settled:
            check_scored(self.movement)
            self._shadow.release_()
            self._choose(anatomy, step_size_of, gone)
            for w, mask in self.masked.items():
                w.masked_fill_(mask, 0.0)

    def _settle(self, anatomy: Anatomy) -> None:
        self._settled = True
        self.masked, self.movement = {}, {}
        self._mask.remember(anatomy)

    def zero_small_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """When training ends: meet the target, wherever the schedule stands."""
        super().zero_small_(anatomy, step_size_of)
        self._settle(anatomy)

    def teardown(self) -> None:
        """The weights come back from behind a mask that is not final."""
        self._shadow.release_()
        self.masked = {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step.

        Raises:
            ConfigError: it is in the ramp or before it, of which the scores are not saved.
        """
        check_resumable(int(state["step"]), 1, self.ramp.last)
        super().load_state_dict(state)
        self._settled = self.step >= self.ramp.last


class MovementBlocks(MovementWeights):
    """Blocks of weights are masked by their movement, until a target of `Weights` is met.

        S_b <- S_b - sum over the block's weights of w * dL/dw',    w' = w * mask

    A block is a square of q, k, v or o, or a neuron: its row of up (and gate) and its column of
    down. All compete in one ranking of S_b a weight; whole blocks go, so that a little more may be
    masked than was asked. Heads and neurons that end without weights are removed physically at
    `finish()`.

    Args:
        config: with a target of `Weights` and a block size.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.

    Reference: Lagunas et al. (2021), arXiv 2109.04838 (hybrid).
    """

    def __init__(self, config: Movement, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        self._groups: list[tuple[Tensor, ...]] = []  # matrices whose tiles go together
        self._tiles: dict[Tensor, Tile] = {}

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Refuse what cannot be reached; lay out the blocks."""
        super().setup(anatomy, optimizer)
        side = int(self.config.block_size or 1)
        squares = [w for attention in anatomy.attentions for w in attention.matrices()]
        self._groups = [(w,) for w in squares]
        self._tiles = dict.fromkeys(squares, (side, side))
        for mlp in anatomy.mlps:
            *fan_in, out = mlp.matrices()
            self._groups.append((*fan_in, out))
            self._tiles |= {w: (1, max(w.shape[1], 1)) for w in fan_in}
            self._tiles[out] = (max(out.shape[0], 1), 1)

    def _settle(self, anatomy: Anatomy) -> None:
        super()._settle(anatomy)
        self._groups, self._tiles = [], {}  # they hold matrices that a cut may replace

    def _score(self, parameter: Tensor, moved: Tensor) -> None:
        self._of(parameter).add_(sum_per_tile(moved, self._tiles[parameter]))

    def _of(self, parameter: Tensor) -> Tensor:
        if parameter not in self.movement:
            sizes = tile_sizes(parameter.shape, self._tiles[parameter])
            self.movement[parameter] = torch.zeros(sizes.shape, device=parameter.device)
        return self.movement[parameter]

    def _acting(self, masked: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """Of a neuron what it writes with, where that is trained: see `MovementUnits`."""
        silent = {w for *fan_in, out in self._groups if out in masked for w in fan_in}
        return {w: mask for w, mask in masked.items() if w not in silent}

    def _lowest(self, matrices: Sequence[Tensor], count: int) -> Iterable[Tensor]:
        trained = set(matrices)
        groups = [found for g in self._groups if (found := [w for w in g if w in trained])]
        sizes, means = [], []
        for group in groups:
            entries = _sum(tile_sizes(w.shape, self._tiles[w]) for w in group)
            moved = _sum(self._of(w).cpu() for w in group)
            sizes.append(entries)
            means.append(moved / entries)
        masks = {}
        for group, marks in zip(groups, lowest_tiles(means, sizes, count), strict=True):
            for w in group:
                grid = marks.to(w.device).view(self._of(w).shape)
                masks[w] = over_tiles(grid, w.shape, self._tiles[w])
        return [masks[w] for w in matrices]


def check_scored(movement: Collection[Any]) -> None:
    """Refuse to choose by movement that was never seen.

    Args:
        movement: what was seen.

    Raises:
        ConfigError: nothing.
    """
    if not movement:
        raise ConfigError(
            "movement is read off gradients while training, and no optimizer step was taken. Call "
            "finish() after training, or detach() to leave the model as it is."
        )


def _sum(grids: Iterable[Tensor]) -> Tensor:
    """Tile by tile over matrices of equally many, whichever way they lie."""
    return torch.stack([grid.view(1, -1) for grid in grids]).sum(dim=0)
