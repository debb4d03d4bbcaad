"""Closed-loop pressure: how hard to push, from how far the measured sparsity is behind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PressureController:
    """Proportional-integral control of a pressure around a feed-forward value.

        e_t = wanted_t - measured_t,   I_t = clip(I_{t-1} + e_t / step, -limit, limit)
        pressure_t = max(0, base * (1 + k_p * e_t / step + k_i * I_t))

    `step` is how much the schedule moves in one optimizer step, which makes the gains free of the
    length of the training, of the model and of the optimizer. The integral is clipped, so that a
    plant that cannot follow for a while does not wind it up.

    Args:
        base: pressure that would do on its own if nothing pushed back.
        k_p: gain on the error.
        k_i: gain on its sum.
        limit: bound of the integral, in schedule steps.
        integral: its value; what a checkpoint has to keep.

    Reference: Astrom and Murray (2008), Feedback Systems, chapter 10 (PI control, anti-windup).
    """

    base: float
    k_p: float = 0.3
    k_i: float = 0.05
    limit: float = 20.0
    integral: float = 0.0

    def update(self, wanted: float, measured: float, step: float) -> float:
        """The pressure for the next step.

        Args:
            wanted: what the schedule asks for now.
            measured: what is the case.
            step: change of the schedule in one optimizer step, > 0.

        Returns:
            Pressure, >= 0.
        """
        error = (wanted - measured) / step
        self.integral = min(max(self.integral + error, -self.limit), self.limit)
        return max(0.0, self.base * (1.0 + self.k_p * error + self.k_i * self.integral))
