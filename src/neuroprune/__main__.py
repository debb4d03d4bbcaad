"""`python -m neuroprune` is the command `neuroprune`."""

from __future__ import annotations

from neuroprune.cli import main

main()
