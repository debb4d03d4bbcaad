"""Frozen, typed configurations that validate themselves. Their *type* picks the behaviour."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from neuroprune.baselines import (
    DSP,
    L1,
    CoFi,
    Fisher,
    Magnitude,
    Movement,
    ProximalGroup,
)
from neuroprune.choices import (
    Apply,
    Connectivity,
    Dominating,
    Granularity,
    Redundancy,
    Structure,
    check_choice,
    check_finite,
    check_flag,
    check_teacher,
)
from neuroprune.errors import ConfigError
from neuroprune.settings import Config
from neuroprune.targets import (
    Flops,
    Heads,
    Latency,
    Parameters,
    Structural,
    Target,
    Weights,
    parse_targets,
)

_PAPER_ONLY = ("alpha", "beta", "apply")
SPAN = (0.05, 0.4)  # begin and end of the ramp, as shares of the training
SPAN_WITH_SNAPSHOTS = (0.3, 0.85)


@dataclass(frozen=True, kw_only=True)
class NeuroPrune(Config):
    """Preferential attachment and redundant heads: the paper's method, or one knob.

    *Paper mode*, without a target:
    task loss + alpha * sum_layers [R_mlp(L_in) + R_mlp(L_out)] + beta * sum_layers R_attn(A),
    and after every epoch the removal of heads within l_inf distance theta of a dominating head.

    *Target mode*: ask for a size, a speed or a number of heads. Whole heads and neurons compete in
    one ranking of connectivity per unit of cost; the poorest are pushed, the harder the poorer,
    and removed physically while training goes on, along a cubic schedule from `begin` to `end` of
    the training. The last cut meets the target; what follows is recovery.

    Args:
        alpha: strength of the connectivity-weighted l1 penalty on the MLP matrices (paper mode).
        beta: strength of the group l_1^(1/2) penalty on the rows of [Q, K, V] (paper mode).
        theta: two heads at most theta apart are similar; 0 finds exact copies only. Of weight
            blocks, the l_inf distance; of circuits and outputs, 1 - similarity.
        eps: a weight below eps in absolute value counts as no connection.
        apply: "penalty" adds the penalty's gradient before the optimizer step (the paper);
            "prox" takes the exact proximal step after it (exact zeros, any optimizer).
        target: what is asked for: a structural sparsity such as 0.8, a target such as
            `Flops(0.25)`, its text ("flops:0.25"), or a pair with `Heads(n)`. None: paper mode.
        connectivity: what makes a unit rich; see `Connectivity`.
        redundancy: how the likeness of heads is measured; None is "weights" in paper mode and no
            merging in target mode.
        dominating: how the heads that stand for others are found.
        begin: share of the training before the first cut (target mode). None: 0.05, and with
            snapshots 0.3, since a model is to be of use at its first.
        end: share of the training after which nothing more is removed (target mode). None: 0.4,
            and with snapshots 0.85.
        teacher: "dense" (the model as it was at `attach`) or a directory or hub name: its logits
            are distilled; in an experiment also "finetuned", its dense run. None: off.
        repair: least-squares repair of the output projections at the last cut.
        snapshots: structural sparsities at which a reloadable model is saved on the way.
        uniform: equal shapes in all layers, rounded to multiples that hardware likes.
        lr_growth: a smaller model takes larger steps: learning rates are multiplied by
            min(sqrt(20), (share of the prunable weights that is left)^-lr_growth) (target mode). 0:
            never.

    Raises:
        ConfigError: a value is negative, NaN or infinite, a choice is unknown, or settings of the
            two modes are mixed.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, section 3.
    """

    alpha: float = 1e-4
    beta: float = 1e-3
    theta: float = 0.15
    eps: float = 1e-4
    apply: Apply | str = Apply.PENALTY
    target: Any = None
    connectivity: Connectivity | str = Connectivity.FISHER
    redundancy: Redundancy | str | None = None
    dominating: Dominating | str = Dominating.PAPER
    begin: float | None = None
    end: float | None = None
    teacher: str | None = None
    repair: bool = False
    snapshots: tuple[float, ...] = ()
    uniform: bool = False
    lr_growth: float = 0.5

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "theta", "eps"):
            check_finite(self, name, 0.0)
        check_finite(self, "lr_growth", 0.0, 1.0)
        object.__setattr__(self, "snapshots", _snapshots(self.snapshots))
        for name, usual in zip(("begin", "end"), self._usual_span, strict=True):
            if getattr(self, name) == usual:
                object.__setattr__(self, name, None)  # one form for what is not chosen
            elif getattr(self, name) is not None:
                check_finite(self, name, 0.0, 1.0)
        check_choice(self, "apply", Apply)
        check_choice(self, "connectivity", Connectivity)
        check_choice(self, "dominating", Dominating)
        if self.redundancy is not None:
            check_choice(self, "redundancy", Redundancy)
        for name in ("repair", "uniform"):
            check_flag(self, name)
        check_teacher(self)
        if self.target is None:
            self._check_paper_mode()
        else:
            object.__setattr__(self, "target", parse_targets(self.target))
            self._check_target_mode()

    def _check_paper_mode(self) -> None:
        changed = self.changed(_TARGET_ONLY)
        if changed:
            raise ConfigError(
                f"only for target mode: NeuroPrune.{', '.join(changed)}. Give target, too, such "
                "as NeuroPrune(target=0.8)."
            )

    def _check_target_mode(self) -> None:
        changed = self.changed((*_PAPER_ONLY, "dominating"))
        if changed:
            raise ConfigError(
                f"only for the paper's mode: NeuroPrune.{', '.join(changed)}; with a target the "
                "pressure is found while training. Give either the one or the other."
            )
        if not isinstance(self.target[0], Weights) and self.changed(("eps",)):
            raise ConfigError(
                "NeuroPrune.eps says which weights count as zero, in the paper's mode and for a "
                "weight sparsity; whole units are removed by their connectivity. Leave it out."
            )
        if self.redundancy is None and self.changed(("theta",)):
            raise ConfigError(
                "NeuroPrune.theta says how alike two heads must be, and with a target nothing is "
                'compared unless redundancy is given: "weights", "circuit" or "output".'
            )
        begin, end = self.span
        if begin >= end:
            usual = " with snapshots" if self.snapshots else ""
            default = "{} and {}".format(*self._usual_span)
            raise ConfigError(
                f"NeuroPrune.begin ({begin}) must be before end ({end}); the defaults{usual} are "
                f"{default}."
            )
        size = self.target[0]
        if self.snapshots and not (
            isinstance(size, Structural) and self.snapshots[-1] <= size.sparsity
        ):
            raise ConfigError(
                f"NeuroPrune.snapshots {list(self.snapshots)} are structural sparsities on the way "
                f"to the target; they need a structural target that is not below them, got {size}."
            )

    @property
    def _usual_span(self) -> tuple[float, float]:
        return SPAN_WITH_SNAPSHOTS if self.snapshots else SPAN

    @property
    def span(self) -> tuple[float, float]:
        """begin and end, also where they were not chosen (target mode)."""
        begin, end = self._usual_span
        return (
            begin if self.begin is None else self.begin,
            end if self.end is None else self.end,
        )

    def changed(self, names: Iterable[str]) -> list[str]:
        """Those of these settings that are not at their default.

        Args:
            names: of fields.
        """
        fields = self.__dataclass_fields__
        return [name for name in names if getattr(self, name) != fields[name].default]

    def to_dict(self) -> dict[str, Any]:
        """JSON- and TOML-ready form; what belongs to the other mode is left out."""
        out = super().to_dict()
        for name in _TARGET_ONLY if self.target is None else _PAPER_ONLY:
            out.pop(name, None)
        if self.dominating is Dominating.PAPER:
            out.pop("dominating")
        if self.target is not None:
            out["target"] = [str(t) for t in self.target]
            out["snapshots"] = list(self.snapshots)
            out["begin"], out["end"] = self.span
        return out


_TARGET_ONLY = tuple(
    f.name
    for f in dataclasses.fields(NeuroPrune)
    if f.name
    not in {"alpha", "beta", "theta", "eps", "apply", "target", "redundancy", "dominating"}
)


def _snapshots(values: Any) -> tuple[float, ...]:
    try:
        if isinstance(values, str):
            raise TypeError
        out = tuple(sorted({Structural(v).sparsity for v in values}))
    except TypeError:
        raise ConfigError(
            "NeuroPrune.snapshots must be structural sparsities such as [0.5, 0.8], got "
            f"{values!r}."
        ) from None
    return out


METHODS: Mapping[str, type[Config]] = {
    "neuroprune": NeuroPrune,
    "l1": L1,
    "magnitude": Magnitude,
    "movement": Movement,
    "proximal-group": ProximalGroup,
    "cofi": CoFi,
    "dsp": DSP,
    "fisher": Fisher,
}


def method_config(name: str, settings: Mapping[str, Any] | None = None) -> Config:
    """The configuration of the method called `name` (a key of `METHODS`).

    Raises:
        ConfigError: no such method, or a setting it does not have.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name].from_dict(settings or {})


def method_name(config: Config) -> str:
    """The key of `METHODS` under which this configuration's type stands.

    Raises:
        ConfigError: it is not the configuration of a method that ships.
    """
    for name, kind in METHODS.items():
        if type(config) is kind:
            return name
    raise ConfigError(
        f"{type(config).__name__} is not the configuration of a method that ships: "
        f"{', '.join(METHODS)}."
    )


__all__ = [
    "DSP",
    "L1",
    "METHODS",
    "Apply",
    "CoFi",
    "Config",
    "ConfigError",
    "Connectivity",
    "Dominating",
    "Fisher",
    "Flops",
    "Granularity",
    "Heads",
    "Latency",
    "Magnitude",
    "Movement",
    "NeuroPrune",
    "Parameters",
    "ProximalGroup",
    "Redundancy",
    "Structural",
    "Structure",
    "Target",
    "Weights",
    "check_choice",
    "check_finite",
    "method_config",
    "method_name",
]
