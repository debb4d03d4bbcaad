"""The packages that the graph measures need and the library does not."""

from __future__ import annotations


class MissingPackageError(ImportError):
    """An optional package is not installed; the message says how to install it."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(f"{what} needs {package}: pip install 'neuroprune[report]'.")
