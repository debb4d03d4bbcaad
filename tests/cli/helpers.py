"""How the tests call the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from neuroprune.cli.app import app

RUNNER = CliRunner()


def invoke(*arguments: str | Path, code: int = 0) -> Any:
    """Run the command; its exit code must be `code`."""
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result
