"""The channel of one child of a job, and what waits for its link."""

from __future__ import annotations

from gexec.posix.deadline import Deadline
from gexec.relay.ports import LinkPort
from gexec.wire.frames import Frame, Start


class ChildLink:
    """A child's channel, and what waits for its link to be requested and to open."""

    __slots__ = ("answer_by", "channel", "heard_s", "link", "sent", "silent", "start", "waiting", "within_s")

    def __init__(self, start: Start, silent: bool) -> None:
        self.link: LinkPort | None = None
        self.channel = 0
        self.start: Start = start
        self.silent = silent
        self.waiting: list[Frame] = []
        self.sent = False
        #: When it is given up if its link is not open by then, or nothing has come on it since ``heard_s``.
        self.answer_by: Deadline | None = None
        #: The time for that from its dial on; None = none.
        self.within_s: float | None = None
        self.heard_s = 0.0

    def close(self) -> None:
        """Cancel the timer: it is no longer a child."""
        if self.answer_by is not None:
            self.answer_by.cancel()

    def send(self, frame: Frame, hurry: bool) -> None:
        """Send, or keep until the link is open."""
        if self.link is not None and self.sent:
            self.link.send(self.channel, frame, hurry)
        else:
            self.waiting.append(frame)

    def open(self) -> None:
        """The link is open: send the Start and the frames after it."""
        if self.sent or self.link is None:
            return
        self.sent = True
        self.link.send(self.channel, self.start)
        for frame in self.waiting:
            self.link.send(self.channel, frame)
        self.waiting.clear()
