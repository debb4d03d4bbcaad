"""One run, many sizes: a reloadable model at every budget on the way, with its quality."""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.anatomy import anatomy_of
from neuroprune.anatomy.inputs import device_of, evaluating
from neuroprune.checkpoint import save_pretrained
from neuroprune.config import NeuroPrune
from neuroprune.errors import ConfigError
from neuroprune.record import write_text_atomic

Evaluate = Callable[[Any], Mapping[str, float]]


class Average:
    """Weighted mean of a model's parameters over steps, the later ones more.

        m_t = m_(t-1) + 2 / (t + 1) * (w_t - m_(t-1)),  t = 1, 2, ...

    so that w_t counts t times. What a step of a large learning rate overshoots, the next ones take
    back; the mean has settled as if the learning rate had been brought down.

    Reference: Shamir and Zhang (2013), Stochastic gradient descent for non-smooth optimization
    (polynomial-decay averaging); Izmailov et al. (2018), arXiv 1803.05407.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._of: list[nn.Parameter] = []
        self._means: list[Tensor] = []

    def add_(self, model: nn.Module) -> None:
        """Take a step in; where parameters were replaced, the mean begins anew.

        Args:
            model: after the step.
        """
        now = [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]
        if len(now) != len(self._of) or any(a is not b for a, b in zip(now, self._of, strict=True)):
            self.forget()
            self._of, self._means = now, [p.detach().float().clone() for p in now]
        self.steps += 1
        for mean, p in zip(self._means, now, strict=True):
            mean.lerp_(p.detach().float(), 2.0 / (self.steps + 1))

    def forget(self) -> None:
        """Begin anew, and give the memory back."""
        self.steps, self._of, self._means = 0, [], []

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the mean for its parameters, as long as this lasts."""
        own = [p.detach().clone() for p in self._of]
        try:
            with torch.no_grad():
                for p, mean in zip(self._of, self._means, strict=True):
                    p.copy_(mean)
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self._of, own, strict=True):
                    p.copy_(value)


class Snapshots:
    """Saves the model at each budget, and keeps a list of what was saved.

    `directory/structural-0.5/` and so on are reloadable models; `directory/snapshots.json` lists
    them: structural sparsity asked for and reached, step, folder, and metrics where `evaluate` is
    given. On the way a budget is met from below, by less than the cheapest unit where the pruner
    could choose among all; the last one, the target, is met when training ends. On the way the
    learning rate is still high: what is saved there is the mean over the steps since the last cut
    (see `Average`, which is a copy of the trained parameters in float32 meanwhile), while the
    training goes on with its own weights. A run that is resumed between that cut and its snapshot
    takes the mean from there on, and says so; the list tells how many steps each is the mean of.

    Args:
        directory: where they go; made if need be.
        target: structural sparsity when training ends.
        evaluate: measures a model; called in eval mode without gradients, with random numbers of
            its own, so that the training goes on as it would without.

    Raises:
        ConfigError: the directory cannot be made.
    """

    def __init__(
        self, directory: Path | str, target: float, evaluate: Evaluate | None = None
    ) -> None:
        self.directory = Path(directory)
        self.target = target
        self.evaluate = evaluate
        self.taken: list[dict[str, Any]] = []
        self.average = Average()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"expected a directory for snapshots that can be written, got {directory}: {error}."
                " Give another as snapshot_dir."
            ) from error

    def follow(self, model: nn.Module, step: int, held: bool, due: float | None) -> None:
        """See the model after a step, and save it where a budget is due.

        Args:
            model: the model.
            step: optimizer steps so far.
            held: whether nothing is cut until the next snapshot.
            due: structural sparsity at which it is to be saved now, if any.

        Raises:
            CheckpointError: it cannot be saved.
        """
        if held:
            self.average.add_(model)
        if due is not None:
            self._take(model, due, step)

    def resume(self, taken: Iterable[Mapping[str, Any]], held: bool) -> None:
        """Go on with the list of a run that was stopped.

        Args:
            taken: what it had saved.
            held: whether it was stopped between a cut and a snapshot.
        """
        self.taken = [dict(entry) for entry in taken]
        if held:
            warnings.warn(
                "the run was stopped on the way to a snapshot, which is the mean of the weights "
                "over the steps before it. The weights of the steps so far are not in the "
                "checkpoint: this snapshot will be the mean from here on.",
                stacklevel=3,
            )

    def last(self, model: nn.Module, step: int) -> None:
        """Save the model as it is when training has ended.

        Args:
            model: the model.
            step: optimizer steps so far.

        Raises:
            CheckpointError: it cannot be saved.
        """
        self.average.forget()
        self._take(model, self.target, step)

    def _take(self, model: nn.Module, budget: float, step: int) -> None:
        """Save the mean over the steps since the last cut, or the model where there is none."""
        name = folder_name(budget)
        averaged = self.average.steps
        with self.average.in_place():
            save_pretrained(model, self.directory / name)
            metrics = self._metrics(model)
        self.average.forget()
        entry = {
            "asked": budget,
            "structural_sparsity": anatomy_of(model).structural_sparsity,
            "step": step,
            "steps_averaged": averaged,
            "path": name,
            "metrics": metrics,
        }
        self.taken = [e for e in self.taken if e["asked"] != budget] + [entry]
        write_text_atomic(
            self.directory / "snapshots.json", json.dumps(self.taken, indent=2) + "\n"
        )

    def _metrics(self, model: nn.Module) -> dict[str, float | None]:
        """What `evaluate` says; None, which JSON has, for what is no number."""
        if self.evaluate is None:
            return {}
        device = device_of(model)
        devices = [device] if device.type == "cuda" else []
        with evaluating(model), torch.random.fork_rng(devices=devices), _other_random_numbers():
            given = self.evaluate(model)
            if not isinstance(given, Mapping):
                raise ConfigError(
                    'expected evaluate(model) to return names and numbers, such as {"accuracy": '
                    f"0.9}}, got {given!r}."
                )
            found = {name: float(value) for name, value in given.items()}
        return {name: value if math.isfinite(value) else None for name, value in found.items()}


@contextmanager
def _other_random_numbers() -> Iterator[None]:
    """Python's and numpy's generators go on afterwards as if nothing had drawn from them."""
    shared = np.random.get_state()  # noqa: NPY002  (the generator that everybody shares)
    ours = random.getstate()
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(shared)  # noqa: NPY002


def wants_snapshots(config: Any) -> bool:
    """Whether a method's configuration asks for snapshots.

    Args:
        config: of any method.
    """
    return isinstance(config, NeuroPrune) and bool(config.snapshots)


def snapshots_for(
    config: Any, directory: Path | str | None, evaluate: Evaluate | None
) -> Snapshots | None:
    """Who saves the snapshots that a configuration asks for; None where it asks for none.

    Args:
        config: of any method.
        directory: where they go.
        evaluate: measures each.

    Raises:
        ConfigError: snapshots without a directory, or a directory or `evaluate` without snapshots.
    """
    if wants_snapshots(config):
        if directory is None:
            raise ConfigError(
                f"snapshots at {list(config.snapshots)} need a place: attach(..., "
                "snapshot_dir=PATH), or NeuroPruneCallback(..., snapshot_dir=PATH)."
            )
        return Snapshots(directory, config.target[0].sparsity, evaluate)
    idle = [
        name
        for name, value in (("snapshot_dir", directory), ("evaluate", evaluate))
        if value is not None
    ]
    if idle:
        raise ConfigError(
            f"{' and '.join(idle)} would do nothing without snapshots. Leave out, or ask for "
            "snapshots, such as NeuroPrune(target=0.8, snapshots=[0.5])."
        )
    return None


def folder_name(budget: float) -> str:
    """ "structural-0.5" for 0.5: as many places as tell budgets apart.

    Args:
        budget: a structural sparsity.
    """
    return f"structural-{budget:.9g}"
