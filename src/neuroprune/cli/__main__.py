"""`python -m neuroprune.cli` is the command `neuroprune`."""

from neuroprune.cli import main

main()
