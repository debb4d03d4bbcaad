"""Target mode for weight sparsity: preferential attachment of single weights, with one knob."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from neuroprune.anatomy import Anatomy
from neuroprune.config import ConfigError, NeuroPrune
from neuroprune.core.connectivity import connectivity
from neuroprune.methods.masks import magnitude
from neuroprune.methods.method import StepSizeOf
from neuroprune.methods.ranked_weights import RankedWeights

_NEEDS_UNITS = ("snapshots", "uniform", "repair", "redundancy", "connectivity", "lr_growth")


class ZerosMethod(RankedWeights[NeuroPrune]):
    """Single weights go until a share of the dense weights is zero or removed.

    The paper pushes a weight of an MLP row by lambda / c_i, so that with a common strength the
    weights with |w| * c_i below a level are gone. Here the level is what the schedule needs:

        keep w_ij   where   |w_ij| * c_i > tau,    tau: so many weights are zero as scheduled

    c_i is the row's connectivity in MLP matrices and 1 in attention. Rows that lost weights lose
    more, and neurons and heads that have lost all are removed physically when training ends.

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
        if given:
            raise ConfigError(
                f"only for whole heads and neurons: NeuroPrune.{', '.join(given)}; a weight "
                "sparsity is about single weights. Use a structural target, such as target=0.8."
            )

    def mask_(self, anatomy: Anatomy, step_size_of: StepSizeOf, gone: int) -> None:
        """Those of the lowest |w| * c_i become zero.

        Args:
            anatomy: the model's blocks.
            step_size_of: parameter -> its learning rate, None where it is not trained.
            gone: how many of the dense model's weights are to be zero or removed.
        """
        attaching = {w for block in anatomy.mlps for w in block.matrices()}

        def level(weight: Tensor) -> Tensor:
            if weight not in attaching:
                return magnitude(weight)
            c = connectivity(weight, self.config.eps).float()
            return magnitude(weight) * c.unsqueeze(1)

        self._mask.grow_(anatomy, step_size_of, gone, level)
