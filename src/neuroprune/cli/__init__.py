"""The command `neuroprune`. Nothing heavy is imported before a command runs."""

from __future__ import annotations


def main() -> None:
    """Entry point of the command line."""
    from neuroprune.cli.app import app

    app()
