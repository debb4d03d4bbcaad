"""Where a command writes, and how errors become exit codes.

Results go to standard output: a table, or with `--json` one JSON document and nothing else.
Progress and messages go to standard error.

Exit codes: 0 done; 1 the run failed (such as a loss that is no number, or a full disk); 2 wrong
usage or input, with one line that says what to change; 130 interrupted.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec

import typer
import typer.core
from rich.console import Console, RenderableType

P = ParamSpec("P")

FAILED, USAGE, INTERRUPTED = 1, 2, 130
_WIDTH = 160
DEBUG_VARIABLE = "NEUROPRUNE_DEBUG"
_BAD_PATH = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)


class UsageError(ValueError):
    """The command was given something it cannot work with; the message is the remedy."""


def messages() -> Console:
    """The console for progress and messages: standard error."""
    return Console(stderr=True, highlight=False)


@contextmanager
def counted(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, where that is a terminal; moved by what it gives: (done, total).

    Args:
        title: what is counted.
    """
    from rich.progress import Progress

    console = messages()
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def emit(payload: Any, shown: RenderableType, as_json: bool) -> None:
    """Print a command's result.

    Args:
        payload: JSON-ready form.
        shown: the same for people.
        as_json: which of the two.
    """
    if as_json:
        print(json.dumps(payload, indent=2))
        return
    if isinstance(shown, str):
        print(shown)  # as it is: a name may hold brackets, a path may be long
        return
    # A pipe or a file has no width of its own: never fold a table there.
    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH).print(shown)


def quiet_libraries() -> None:
    """Keep other libraries' bars and notices out of the way; warnings stay on standard error."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def exit_code_of(error: BaseException) -> int | None:
    """The exit code of an error that a user can act on, None for a defect of the program."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, _BAD_PATH):
        return USAGE
    if isinstance(error, OSError):  # a system call failed, or a library says what it cannot load
        return FAILED if error.errno else USAGE
    if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
        return FAILED
    ours = type(error).__module__.startswith("neuroprune.")
    if ours:
        return USAGE if isinstance(error, ValueError | ImportError | LookupError) else FAILED
    return None


def _line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted."
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}."
    return " ".join(str(error).split()) or type(error).__name__


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn errors that a user can act on into one line and an exit code.

    With the environment variable `NEUROPRUNE_DEBUG` set, the traceback is shown as well. Errors of
    other kinds are defects and keep their traceback.

    Args:
        command: a command with a keyword argument `json_output`.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            code = exit_code_of(error)
            if code is None:
                raise
            if os.environ.get(DEBUG_VARIABLE):
                messages().print_exception()
            print(f"error: {_line(error)}", file=sys.stderr)
            if kwargs.get("json_output"):
                print(json.dumps({"error": _line(error), "exit_code": code}))
            raise typer.Exit(code) from error

    return run


class JsonGroup(typer.core.TyperGroup):
    """Commands whose usage errors are JSON, too, where --json is among the arguments."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """As typer's; a wrong option or value is also one document on standard output."""
        given = list(sys.argv[1:] if args is None else args)
        if not standalone_mode or "--json" not in given:
            return super().main(
                args, prog_name, complete_var, standalone_mode, windows_expand_args, **extra
            )
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except Exception as error:
            # typer carries a click of its own: its errors are told by what they can do.
            wrong: Any = error
            if not (hasattr(wrong, "format_message") and hasattr(wrong, "exit_code")):
                raise
            wrong.show()
            print(json.dumps({"error": wrong.format_message(), "exit_code": wrong.exit_code}))
            sys.exit(wrong.exit_code)
        sys.exit(code if isinstance(code, int) else 0)


def loader(directory: Path) -> str:
    """Who loads a saved model, for people.

    Args:
        directory: what `save_pretrained` wrote.
    """
    from neuroprune.checkpoint import loads_with

    whose = "transformers'" if loads_with(directory) == "transformers" else "neuroprune's"
    return f"loads with {whose} from_pretrained"
