"""Target mode for weight sparsity: preferential attachment of single weights, with one knob."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import ConfigError, Connectivity, NeuroPrune
from neuroprune.core.connectivity import connectivity
from neuroprune.methods.connectivity import check_seen, horizon_of
from neuroprune.methods.masks import magnitude
from neuroprune.methods.method import StepSizeOf, step_sizes
from neuroprune.methods.ranked_weights import RankedWeights
from neuroprune.methods.weight_connectivity import WeightConnectivity

_NEEDS_UNITS = ("snapshots", "uniform", "repair", "redundancy", "lr_growth")


class ZerosMethod(RankedWeights[NeuroPrune]):
    """Single weights go until a share of the dense weights is zero or removed.

    The paper pushes a weight of an MLP row by lambda / c_i, so that with a common strength the
    weights with |w| * c_i below a level are gone. Here the level is what the schedule needs:

        keep w_ij   where   v_ij * c_i > tau,    tau: so many weights are zero as scheduled

    c_i is the row's connectivity in MLP matrices and 1 in attention. v_ij is |w_ij| in the paper,
    here `connectivity="strength"`; by default it is what the loss says of the weight, |w_ij|
    sqrt(r_i s_j / mean(r)), r and s being running row and column means of the squared gradient.
    Rows that lost weights lose more, and neurons and heads that have lost all are removed
    physically when training ends, which may remove a little more than was asked.

    Args:
        config: with a target of `Weights`.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing, or a setting that is about whole units is given.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, section 3.1; the level instead of a
    strength is that of iterative hard thresholding.
    """

    config_type: ClassVar = NeuroPrune

    def __init__(self, config: NeuroPrune, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        given = config.changed(_NEEDS_UNITS)
        kind = Connectivity(config.connectivity)
        if kind in (Connectivity.ACTIVITY, Connectivity.MIXED):
            given.append(f'connectivity = "{kind}"')
        if given:
            raise ConfigError(
                f"only for whole heads and neurons: NeuroPrune.{', '.join(given)}; a weight "
                "sparsity is about single weights. Use a structural target, such as target=0.8."
            )
        self.by_loss: WeightConnectivity | None = None
        if kind is Connectivity.FISHER:
            self.by_loss = WeightConnectivity(horizon_of(self.ramp.steps))
        self._optimizer: Optimizer | None = None

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Refuse what cannot be reached; what is zero already stays zero."""
        super().setup(anatomy, optimizer)
        self._optimizer = optimizer

    def observe_(self, anatomy: Anatomy) -> None:
        """Follow what the loss says of every weight, until nothing more goes."""
        if self.by_loss is not None and self._optimizer is not None and self.step < self.ramp.last:
            self.by_loss.observe_(anatomy, step_sizes(self._optimizer))

    def mask_(self, anatomy: Anatomy, step_size_of: StepSizeOf, gone: int) -> None:
        """Those of the lowest v * c_i become zero.

        Args:
            anatomy: the model's blocks.
            step_size_of: parameter -> its learning rate, None where it is not trained.
            gone: how many of the dense model's weights are to be zero or removed.

        Raises:
            ConfigError: no step was taken, so that there is nothing to choose by.
        """
        attaching = {w for block in anatomy.mlps for w in block.matrices()}
        value: Callable[[Tensor], Tensor] = magnitude
        if self.by_loss is not None:
            check_seen(self.config.connectivity, self.by_loss.seen)
            value = self.by_loss.scores_of(anatomy)

        def level(weight: Tensor) -> Tensor:
            found = value(weight)
            if weight in attaching:
                found.mul_(connectivity(weight, self.config.eps).unsqueeze(1))
            return found

        self._mask.grow_(anatomy, step_size_of, gone, level)

    def state_dict(self) -> dict[str, Any]:
        """The step count, and what was seen of the gradients; what is zero is in the weights."""
        seen = {} if self.by_loss is None else {"by_loss": self.by_loss.state_dict()}
        return {**super().state_dict(), **seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step.

        Raises:
            ConfigError: weights are still to go, and the state is from before they were chosen by
                what the loss says.
        """
        super().load_state_dict(state)
        if self.by_loss is None:
            return
        if "by_loss" in state:
            self.by_loss.load_state_dict(state["by_loss"])
        elif self.step < self.ramp.last:
            raise ConfigError(
                f"the state is of step {self.step} of a run that chose weights by their size "
                f"alone; until step {self.ramp.last} more are to go by what the loss says of them. "
                "Expected a state with what was seen of the gradients: start the training anew."
            )
