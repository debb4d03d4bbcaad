"""What a run tells about itself while it goes on. The silent form; the CLI has one with bars."""

from __future__ import annotations


class Progress:
    """Receives what a run does. This one says nothing."""

    def stage(self, title: str) -> None:
        """A new stage begins, and the one before it is over."""

    def step(self, done: int, total: int, loss: float) -> None:
        """`done` of `total` training steps are taken; `loss` is the last one's."""

    def note(self, text: str) -> None:
        """Something worth a line."""
