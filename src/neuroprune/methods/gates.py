"""Learnt gates: what trains them, and when they are drawn and fixed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy, Stream
from neuroprune.anatomy.inputs import device_of
from neuroprune.config import DSP, CoFi, ConfigError
from neuroprune.control.schedule import Ramp
from neuroprune.methods.gate_hooks import GateHooks, StreamHooks, fold_
from neuroprune.methods.method import Method, StepSizeOf, schedule_length
from neuroprune.methods.units import Block, plan_of, unit_number
from neuroprune.plan import ShrinkPlan

GatedT = TypeVar("GatedT", bound=CoFi | DSP)
JITTER = 0.01  # spread of the logits at the start, so that there are no ties


class GateOptimizer:
    """Adam for the few numbers that gates are; the user's optimizer knows nothing of them.

    Args:
        learning_rate: of all of them.
        descending: what goes down the gradient.
        ascending: what goes up.
    """

    def __init__(
        self, learning_rate: float, descending: Sequence[Tensor], ascending: Sequence[Tensor] = ()
    ) -> None:
        groups: list[dict[str, Any]] = [{"params": list(descending)}]
        if ascending:
            groups.append({"params": list(ascending), "maximize": True})
        self._adam = torch.optim.Adam(groups, lr=learning_rate)
        self._parameters = [*descending, *ascending]

    def step_(self, gradients: Sequence[Tensor]) -> None:
        """One step.

        Args:
            gradients: of the descending, then of the ascending.
        """
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._adam.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """JSON-ready: values and moments of every parameter."""
        out = []
        for parameter in self._parameters:
            moments = self._adam.state.get(parameter, {})
            saved = {name: value.tolist() for name, value in moments.items()}
            out.append({"value": parameter.tolist(), "moments": saved})
        return out

    @torch.no_grad()
    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Read what `state_dict` wrote.

        Args:
            state: the state.

        Raises:
            ConfigError: it is of a model with other units.
        """
        for parameter, saved in zip(self._parameters, state, strict=True):
            value = torch.tensor(saved["value"], dtype=parameter.dtype)
            if value.shape != parameter.shape:
                raise ConfigError(
                    f"the saved state has {value.numel()} gates and this model {parameter.numel()}."
                    " Load it into the model it was saved with."
                )
            parameter.copy_(value)
            moments = {n: torch.tensor(v, dtype=torch.float32) for n, v in saved["moments"].items()}
            self._adam.state[parameter] = {
                n: v if n == "step" else v.to(parameter.device) for n, v in moments.items()
            }


def noise(seed: int, index: int) -> torch.Generator:
    """A source of noise that is a function of its two numbers, so that a run can be resumed.

    Args:
        seed: of the run.
        index: 0 for the start, n + 1 for the step after n steps.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)


class GatedMethod(Method[GatedT]):
    """Gates learn between `begin` and `end` of the training; then they are fixed, in one cut.

    Before `begin` no gate acts. From then on gates are drawn anew after every optimizer step. A
    subclass says what gates there are, how they are drawn, and who goes.

    Args:
        config: with begin, end and gate_learning_rate.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.
    """

    removes_dead_units: ClassVar = False

    def __init__(self, config: GatedT, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        why = f"{type(config).__name__} learns its gates in a part of the training and"
        self.ramp: Ramp = Ramp(config.begin, config.end, schedule_length(total_steps, why))
        self.step = 0
        self.done = False
        self.seed = 0
        self.blocks: tuple[Block, ...] = ()
        self.hooks = GateHooks()
        self.stream: StreamHooks | None = None
        self.logits = torch.zeros(0)
        self.optimizer: GateOptimizer | None = None
        self._drawn = torch.zeros(0)  # with the graph back to the logits
        self._gradient: Tensor | None = None

    @abstractmethod
    def prepare_(self, anatomy: Anatomy) -> GateOptimizer:
        """Check the target, make `self.logits`, and what trains them.

        Args:
            anatomy: the model's blocks.
        """

    @abstractmethod
    def gated(self, anatomy: Anatomy) -> tuple[Block, ...]:
        """The blocks whose units have gates.

        Args:
            anatomy: the model's blocks.
        """

    def gated_stream(self, anatomy: Anatomy) -> Stream | None:
        """The residual stream, where its hidden dimensions have gates.

        Args:
            anatomy: the model's blocks.
        """
        return None

    @abstractmethod
    def draw(self, uniform: Tensor) -> Tensor:
        """Gates of the units, then of hidden dimensions, for one step.

        Shape (units,) or (units + d,), differentiable in the logits.

        Args:
            uniform: noise in [0, 1), one for each logit.
        """

    @abstractmethod
    def fixed(self) -> Tensor:
        """Gates of the units, then of hidden dimensions, without noise."""

    @abstractmethod
    def learn_(self, optimizer: GateOptimizer, drawn: Tensor, gradient: Tensor) -> None:
        """One step of the gates.

        Args:
            optimizer: what `prepare_` made.
            drawn: what `draw` returned for this step.
            gradient: of the task loss with respect to it.
        """

    @abstractmethod
    def chosen(self, anatomy: Anatomy) -> dict[str, Tensor]:
        """Masks of the units that go at the cut.

        Args:
            anatomy: the model's blocks.
        """

    def closed_dimensions(self, anatomy: Anatomy) -> tuple[int, ...]:
        """Hidden dimensions that go at the cut.

        Args:
            anatomy: the model's blocks.
        """
        return ()

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Refuse what cannot be reached; no gate acts before `begin`."""
        self.blocks = tuple(b for b in self.gated(anatomy) if unit_number(b))
        stream = self.gated_stream(anatomy)
        self.stream = None if stream is None else StreamHooks(stream)
        self.seed = torch.initial_seed() % 2**31
        self.optimizer = self.prepare_(anatomy)
        self.done = not self.blocks
        self._draw_()

    def initial(self, number: int, mean: float, anatomy: Anatomy) -> Tensor:
        """Logits to begin with, on the model's device.

        Args:
            number: how many.
            mean: their mean.
            anatomy: the model's blocks.
        """
        start = mean + JITTER * torch.randn(number, generator=noise(self.seed, 0))
        return start.to(device_of(anatomy.model)).requires_grad_()

    @property
    def learning(self) -> bool:
        """Whether gates act in the step to come."""
        return not self.done and self.ramp.first <= self.step < self.ramp.last

    @torch.enable_grad()
    def _draw_(self) -> None:
        if self.learning:
            generator = noise(self.seed, self.step + 1)
            uniform = torch.rand(len(self.logits), generator=generator)
            self._drawn = self.draw(uniform.to(self.logits.device))
            with torch.no_grad():
                sampled, fixed = self._split(self._drawn), self._split(self.fixed())
                self.hooks.set_(self.blocks, sampled[0], fixed[0])
                if self.stream is not None:
                    self.stream.set_(sampled[1], fixed[1])

    def _split(self, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Of the units, and of the hidden dimensions."""
        units = sum(unit_number(b) for b in self.blocks)
        return gates[:units], gates[units:]

    def _gradient_of_gates(self) -> Tensor:
        """Of units, then of hidden dimensions."""
        units = self.hooks.gradient()
        return units if self.stream is None else torch.cat([units, self.stream.gradient()])

    def _take_away_(self) -> None:
        self.hooks.detach()
        if self.stream is not None:
            self.stream.detach()

    def add_penalty_grad_(self, anatomy: Anatomy, scale: float) -> None:
        """Take the gradient of the gates; that of the weights is left alone."""
        if self.learning:
            gradient = self._gradient_of_gates() / (scale * self.hooks.carried_scale())
            # A gradient scaler skips steps that overflow; what they left here is dropped.
            self._gradient = gradient if bool(gradient.isfinite().all()) else None

    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Count the step, let the gates learn, and draw the next."""
        if self.learning and self.optimizer is not None and self._gradient is not None:
            with torch.enable_grad():
                self.learn_(self.optimizer, self._drawn, self._gradient)
        self._gradient = None
        self.step += 1
        self._draw_()

    def cut_now(self, anatomy: Anatomy) -> ShrinkPlan:
        """The one cut, at `end`."""
        return self._fix_(anatomy) if self.step == self.ramp.last else ShrinkPlan()

    def last_cut(self, anatomy: Anatomy, just_cut: bool) -> ShrinkPlan:
        """The one cut, where training stops before `end`."""
        return self._fix_(anatomy)

    @torch.no_grad()
    def _fix_(self, anatomy: Anatomy) -> ShrinkPlan:
        """Who goes; from now on the gates are in the weights, and nothing acts in the forward."""
        if self.done:
            return ShrinkPlan()
        plan = plan_of(anatomy, self.chosen(anatomy), self.closed_dimensions(anatomy))
        if self.hooks.attached:
            units, dimensions = self._split(self.fixed())
            fold_(self.blocks, units)
            if self.stream is not None:
                self.stream.fold_(dimensions)
        self._take_away_()
        self.done = True
        return plan

    def is_open(self, block: Block) -> bool:
        """Whether a block has units, and a gate of this step lets one of them through."""
        return super().is_open(block) and not self.hooks.closes(block.name)

    def teardown(self) -> None:
        """Take the gates away."""
        self._take_away_()

    def state_dict(self) -> dict[str, Any]:
        """Step, seed, logits and their moments; after the cut there are no gates to keep."""
        gates = [] if self.optimizer is None or self.done else self.optimizer.state_dict()
        return {"step": self.step, "seed": self.seed, "done": self.done, "gates": gates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step, with the noise the run would have had."""
        self.step, self.seed = int(state["step"]), int(state["seed"])
        self.done = bool(state["done"])
        self._take_away_()
        if self.optimizer is not None and not self.done:
            self.optimizer.load_state_dict(state["gates"])
        self._draw_()
