"""Configurations of the methods that NeuroPrune is compared with, one a method.

Each follows its paper; what differs, and why, is in its card under docs/methods/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neuroprune.choices import (
    Apply,
    Distill,
    Granularity,
    Structure,
    Training,
    check_choice,
    check_finite,
    check_flag,
    check_teacher,
    check_whole,
)
from neuroprune.errors import ConfigError
from neuroprune.settings import Config
from neuroprune.targeted import Budgeted, Free, Targeted, default_of
from neuroprune.targets import Heads, Structural, Weights

_OF_LAYERS = ("layer_weight", "teacher_layers", "ordered")  # settings of CoFi's distillation
_OF_A_TEACHER = ("distill", "temperature", *_OF_LAYERS)


@dataclass(frozen=True, kw_only=True)
class L1(Free):
    """The paper's baseline: strength * sum of |w| over the prunable matrices.

    Without a target nothing but dead units is removed. With one, the units of the least mean |w|
    go along the schedule, while the penalty acts; with a target of `Weights`, single weights.

    Args:
        strength: weight of the penalty; with a target it acts until `end`.
        eps: a weight below eps in absolute value counts as zero when training ends; without a
            target only, since a target says how much goes.
        apply: "penalty" or "prox", as in `NeuroPrune`.
        target: see `Budgeted`; None (the default) leaves the size to the strength, as in the paper.

    Raises:
        ConfigError: a value is negative, NaN or infinite, a choice is unknown, or a setting would
            do nothing.
    """

    strength: float = 1e-4
    eps: float = 1e-4
    apply: Apply | str = Apply.PENALTY

    def __post_init__(self) -> None:
        check_finite(self, "strength", 0.0)
        check_finite(self, "eps", 0.0)
        check_choice(self, "apply", Apply)
        super().__post_init__()

    def _takes_weights(self) -> bool:
        return True

    def _idle(self) -> tuple[str, ...]:
        return super()._idle() if self.target is None else ("eps",)


@dataclass(frozen=True, kw_only=True)
class Magnitude(Config):
    """Gradual magnitude pruning on the cubic schedule of Zhu and Gupta (2017).

    sparsity(t) = target * (1 - (1 - (t - t_begin) / (t_end - t_begin))^3) between
    t_begin = begin * total_steps and t_end = end * total_steps.

    Args:
        target: final share of the prunable weights that is zero or removed, in [0, 1).
        structure: "weights" zeroes the smallest weights of the whole model; "units" removes the
            heads and neurons of the smallest mean squared weight.
        begin: share of the training before the first cut.
        end: share of the training after which the target holds; the rest is recovery.
        every: steps between two cuts, or two updates of the mask.
        eps: a weight below eps in absolute value counts as zero when training ends.

    Raises:
        ConfigError: a value is outside its range, or begin is not before end.
    """

    target: float = 0.5
    structure: Structure | str = Structure.WEIGHTS
    begin: float = 0.05
    end: float = 0.6
    every: int = 10
    eps: float = 1e-4

    def __post_init__(self) -> None:
        check_finite(self, "target", 0.0, 0.999)
        check_finite(self, "begin", 0.0, 1.0)
        check_finite(self, "end", 0.0, 1.0)
        check_whole(self, "every", 1)
        check_finite(self, "eps", 0.0)
        if self.begin >= self.end:
            raise ConfigError(f"Magnitude.begin ({self.begin}) must be before end ({self.end}).")
        check_choice(self, "structure", Structure)


@dataclass(frozen=True, kw_only=True)
class Movement(Budgeted):
    """Movement pruning: what moves away from zero stays, what moves towards it goes.

    Args:
        structure: "units" scores whole heads and neurons and removes them physically at the end of
            the ramp; "weights" scores single weights; "blocks" scores squares of the attention
            matrices, and whole neurons (hybrid block pruning).
        target: see `Budgeted`; for "weights" and "blocks" a share, or a target of `Weights`.
        block_size: side of the squares, in weights; 32 where "blocks" is given and this is not.

    Raises:
        ConfigError: see `Budgeted`; or the target or the block size does not go with the structure.

    Reference: Sanh et al. (2020), arXiv 2005.07683; Lagunas et al. (2021), arXiv 2109.04838.
    """

    structure: Granularity | str = Granularity.UNITS
    block_size: int | None = None

    def __post_init__(self) -> None:
        check_choice(self, "structure", Granularity)
        super().__post_init__()
        if self.target is None:
            raise ConfigError("Movement needs a target, such as target=0.5: it has no strength.")
        if self.structure is not Granularity.UNITS:
            first, *others = self.target
            if isinstance(first, Structural) and not others:
                object.__setattr__(self, "target", (Weights(first.sparsity),))
            elif not isinstance(first, Weights):
                raise ConfigError(
                    f'Movement(structure="{self.structure}") needs a weight sparsity, such as '
                    f"target=0.8, got {', '.join(map(str, self.target))}."
                )
        self._settle_block_size()

    def _settle_block_size(self) -> None:
        if self.structure is Granularity.BLOCKS and self.block_size is None:
            object.__setattr__(self, "block_size", 32)
        if self.block_size is None:
            return
        check_whole(self, "block_size", 1)
        if self.structure is not Granularity.BLOCKS:
            raise ConfigError(
                "Movement.block_size is of squares of weights, and would do nothing with "
                f'structure="{self.structure}". Set structure="blocks", or leave it out.'
            )

    def _takes_weights(self) -> bool:
        return self.structure is not Granularity.UNITS


@dataclass(frozen=True, kw_only=True)
class CoFi(Budgeted):
    """Coarse- and fine-grained pruning by hard-concrete L0 gates and a Lagrangian.

    Gates stand on attention blocks, heads, MLP blocks and neurons, and, where asked for, on the
    hidden dimensions that all layers share. The expected sparsity is driven
    to the target, which is warmed up linearly between `begin` and `warm`. At `end` the gates are
    fixed, the least open units are removed physically, and the rest recovers.

    With a teacher, and w = `layer_weight`, the task's loss gives way to

        (1 - w) * T^2 * KL(teacher || student) + w * sum_i MSE(W H_s^m(i), H_t^i)

    where i goes over `teacher_layers`, m(i) is the closest student layer whose MLP is not removed,
    and W is learnt, the identity at first.

    Args:
        target: a structural sparsity; see `Budgeted`.
        begin: share of the training before the gates begin to learn.
        warm: share of the training at which the Lagrangian's target is the whole target.
        end: share of the training at which the gates are fixed and the cut is made.
        gate_learning_rate: of the gates and the Lagrange multipliers (Adam).
        hidden: gates on hidden dimensions, too, as in the paper; for families that declare their
            residual stream (BERT, RoBERTa and DistilBERT with a classification head).
        teacher: as in `NeuroPrune`; it should know the task, since no label is looked at. None:
            off.
        distill: "layers", as above, or "logits", as in `NeuroPrune`.
        temperature: T of the logits.
        layer_weight: w, in [0, 1]; 1 - lambda of the paper.
        teacher_layers: numbers of the layers that teach, from 1. None: four at equal distances, the
            last among them.
        ordered: a lower teacher layer is matched with a lower student layer, for small data sets.

    Raises:
        ConfigError: a value is outside its range, or would do nothing.

    Reference: Xia et al. (2022), arXiv 2204.00408; Louizos et al. (2018), arXiv 1712.01312.
    """

    begin: float = 0.05
    warm: float = 0.3
    end: float = 0.6
    gate_learning_rate: float = 0.1
    hidden: bool = False
    teacher: str | None = None
    distill: Distill | str = Distill.LAYERS
    temperature: float = 2.0
    layer_weight: float = 0.9
    teacher_layers: tuple[int, ...] | None = None
    ordered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(self, "warm", self.begin, self.end)
        check_finite(self, "gate_learning_rate", 0.0)
        targets: tuple[Any, ...] = tuple(self.target or ())
        if len(targets) != 1 or not isinstance(targets[0], Structural):
            raise ConfigError(
                "CoFi drives an expected structural sparsity to its target: give one, such as "
                f"target=0.8, got {', '.join(map(str, targets)) or None}."
            )
        self._check_teaching()

    def _check_teaching(self) -> None:
        check_teacher(self)
        check_choice(self, "distill", Distill)
        check_finite(self, "temperature", 1e-3)
        check_finite(self, "layer_weight", 0.0, 1.0)
        for name in ("ordered", "hidden"):
            check_flag(self, name)
        if self.teacher_layers is not None:
            object.__setattr__(self, "teacher_layers", _layer_numbers(self.teacher_layers))
        idle = [n for n in _OF_LAYERS if getattr(self, n) != default_of(type(self), n)]
        if idle and self.distill is Distill.LOGITS:
            raise ConfigError(
                f'CoFi.{", ".join(idle)} would do nothing with distill="logits". Leave it out, or '
                'use distill="layers".'
            )

    @property
    def teaching(self) -> dict[str, Any]:
        """The settings that need a teacher and are not at their defaults."""
        found = {n: getattr(self, n) for n in _OF_A_TEACHER}
        return {n: v for n, v in found.items() if v != default_of(type(self), n)}

    def to_dict(self) -> dict[str, Any]:
        """JSON- and TOML-ready form; what only a teacher needs is left out where there is none."""
        out = super().to_dict()
        if self.teacher_layers is not None:
            out["teacher_layers"] = list(self.teacher_layers)
        if self.teacher is None and not self.teaching:
            idle: tuple[str, ...] = _OF_A_TEACHER
        else:
            idle = _OF_LAYERS if self.distill is Distill.LOGITS else ()
        if not self.hidden:  # records from before there was a choice say nothing of it
            idle = (*idle, "hidden")
        return {k: v for k, v in out.items() if k not in idle}


def _layer_numbers(values: Any) -> tuple[int, ...]:
    good = isinstance(values, list | tuple) and len(values) > 0
    numbers = tuple(values) if good else ()
    whole = all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in numbers)
    if not good or not whole or sorted(set(numbers)) != list(numbers):
        raise ConfigError(
            "CoFi.teacher_layers must be rising numbers of layers, counted from 1, such as "
            f"[3, 6, 9, 12], got {values!r}."
        )
    return numbers


@dataclass(frozen=True, kw_only=True)
class DSP(Config):
    """Differentiable subset pruning: exactly `heads` heads stay, chosen by Gumbel top-k gates.

    Args:
        heads: query heads kept in the whole model.
        mode: "joint" learns gates and weights together; "pipelined" trains densely first, then
            learns the gates with the weights frozen, cuts, and fine-tunes again.
        begin: share of the training before the gates begin to learn.
        end: share of the training at which the best `heads` are kept and the others removed.
        gate_learning_rate: of the gates' logits (Adam).
        tau_start: temperature of the relaxed top-k when the gates begin to learn.
        tau_end: temperature at `end`; it falls exponentially.

    Raises:
        ConfigError: a value is outside its range.

    Reference: Li et al. (2021), arXiv 2108.04657.
    """

    heads: int = 24
    mode: Training | str = Training.JOINT
    begin: float = 0.05
    end: float = 0.6
    gate_learning_rate: float = 0.5
    tau_start: float = 1.0
    tau_end: float = 1e-2

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", Heads(self.heads).count)
        check_choice(self, "mode", Training)
        check_finite(self, "begin", 0.0, 1.0)
        check_finite(self, "end", 0.0, 1.0)
        for name in ("gate_learning_rate", "tau_start", "tau_end"):
            check_finite(self, name, 1e-9)
        if self.begin >= self.end:
            raise ConfigError(f"DSP.begin ({self.begin}) must be before end ({self.end}).")
        if self.tau_end > self.tau_start:
            raise ConfigError(
                f"DSP.tau_end ({self.tau_end}) must not be above tau_start ({self.tau_start})."
            )


@dataclass(frozen=True, kw_only=True)
class ProximalGroup(Free):
    """Proximal group lasso on heads and neurons: the plain structured baseline.

    Args:
        target: see `Budgeted`; None (the default) leaves the size to the strength, and removes
            what has died.
        strength: lambda of  lambda * sum over units of sqrt(size) * |w_unit|_2,  applied as a
            decoupled proximal step with the learning rate as its step size; until `end` where
            there is a target. The root mean square weight of every unit falls by learning rate *
            strength a step.

    Raises:
        ConfigError: a value is outside its range, or would do nothing.

    Reference: Yuan and Lin (2006); Parikh and Boyd (2014), section 6.5.
    """

    strength: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(self, "strength", 0.0)


@dataclass(frozen=True, kw_only=True)
class Fisher(Targeted):
    """Fisher mask search, rearrangement and tuning: one cut, with or without training after it.

    Args:
        target: see `Targeted`; any target of whole units.
        at: share of the training at which the one cut is made; 1 cuts when training ends, so that
            nothing is trained afterwards.
        batches: optimizer steps before the cut whose gradients make up the Fisher information.
        rearrange: exchange units of a block for the interactions between them, after the search.
        tune: scale the units that stay so that every block does what it did, by least squares.

    Raises:
        ConfigError: a value is outside its range.

    Reference: Kwon et al. (2022), arXiv 2204.09656.
    """

    at: float = 0.4
    batches: int = 64
    rearrange: bool = True
    tune: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target is None:
            raise ConfigError("Fisher needs a target, such as target=0.5: it has no strength.")
        check_finite(self, "at", 0.0, 1.0)
        if not self.at:
            raise ConfigError(
                "Fisher.at must be above 0: gradients of some training steps are needed before "
                f"the cut, got {self.at!r}."
            )
        check_whole(self, "batches", 1, 1e6)
        for name in ("rearrange", "tune"):
            check_flag(self, name)
