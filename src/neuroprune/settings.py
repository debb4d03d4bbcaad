"""The base of all configurations: frozen, typed, and plain dictionaries when written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from neuroprune.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configurations: exact round trip to plain dictionaries."""

    def to_dict(self) -> dict[str, Any]:
        """JSON- and TOML-ready form; None values are left out."""
        items = dataclasses.asdict(self)
        return {
            k: str(v) if isinstance(v, StrEnum) else v for k, v in items.items() if v is not None
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: an unknown key, or a value outside its range.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigError(
                f"{cls.__name__} has no setting {', '.join(unknown)}. Its settings: "
                f"{', '.join(sorted(known))}."
            )
        return cls(**data)
