"""Names of folders, cells and methods as parts of file names, links and identifiers of a page."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ODD = re.compile(r"[^\w.]+")


def slug(text: str) -> str:
    """A name without what a file name, a link or `url(#...)` cannot hold.

    Args:
        text: any name.

    Returns:
        Letters, digits, dots and underscores, joined by single hyphens; "x" where none is left.
    """
    return _ODD.sub("-", text).strip("-.") or "x"


def number(count: int, noun: str) -> str:
    """A count with its noun: "1 run", "2 runs".

    Args:
        count: how many.
        noun: in the singular; the plural takes an s.
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def sentence(text: str) -> str:
    """A text that begins with a capital.

    Args:
        text: at least one character.
    """
    return text[0].upper() + text[1:]


def unique(wanted: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """The same names, those that are taken already with a number: "a", "a-2".

    Names that differ in upper and lower case only are the same to some file systems.

    Args:
        wanted: names, the first ones choose first.
        taken: names that none of them may have.
    """
    used = {name.casefold() for name in taken}
    names = []
    for name in wanted:
        chosen, number = name, 1
        while chosen.casefold() in used:
            number += 1
            chosen = f"{name}-{number}"
        used.add(chosen.casefold())
        names.append(chosen)
    return names
