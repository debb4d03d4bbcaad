"""What to prune: one file a method, behind one protocol."""

from __future__ import annotations

from neuroprune.config import Config, ConfigError
from neuroprune.methods.cofi import CoFiMethod
from neuroprune.methods.dead_units import dead_inputs, dead_units
from neuroprune.methods.dsp import DSPMethod
from neuroprune.methods.fisher import FisherMethod
from neuroprune.methods.l1 import L1Method
from neuroprune.methods.magnitude import MagnitudeMethod
from neuroprune.methods.method import Method
from neuroprune.methods.movement import MovementUnits
from neuroprune.methods.neuroprune import NeuroPruneMethod
from neuroprune.methods.proximal_group import ProximalGroupMethod

_METHODS: dict[type[Config], type[Method]] = {
    kind.config_type: kind
    for kind in (
        NeuroPruneMethod,
        L1Method,
        MagnitudeMethod,
        MovementUnits,
        ProximalGroupMethod,
        CoFiMethod,
        DSPMethod,
        FisherMethod,
    )
}


def register_method(kind: type[Method]) -> type[Method]:
    """Make a method known under the type of its configuration. Usable as a decorator.

    Args:
        kind: the method; its `config_type` is the key.

    Returns:
        The method, unchanged.
    """
    _METHODS[kind.config_type] = kind
    return kind


def method_for(config: Config | Method, total_steps: int | None = None) -> Method:
    """The method that a configuration's type selects.

    Args:
        config: a configuration such as `NeuroPrune(...)`, or a method of your own.
        total_steps: optimizer steps of the whole training, where known.

    Raises:
        ConfigError: no method is registered for this type.
    """
    if isinstance(config, Method):
        return config
    if type(config) not in _METHODS:
        known = ", ".join(sorted(k.__name__ for k in _METHODS))
        raise ConfigError(
            f"expected a method configuration ({known}) or a Method, got {config!r}. See "
            "docs/adding_a_method.md."
        )
    return _METHODS[type(config)].variant(config)(config, total_steps)


__all__ = ["Method", "dead_inputs", "dead_units", "method_for", "register_method"]
