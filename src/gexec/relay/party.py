"""The peer of one connection, and the jobs of its channels."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from gexec.core import events
from gexec.posix.deadline import Deadline

if TYPE_CHECKING:
    from gexec.relay.job import RelayJob


class Party:
    """The peer of one connection, and the jobs of its channels."""

    __slots__ = ("children", "deadline", "numbers", "parents", "quiet", "silent", "uid")

    def __init__(self, uid: int | None = None) -> None:
        #: The client's uid on a unix socket; None for a daemon.
        self.uid = uid
        #: Channels that the peer opened: (job, the peer's number as a parent).
        self.parents: dict[int, tuple[RelayJob, int]] = {}
        #: Channels that this daemon opened: (job, the child's number).
        self.children: dict[int, tuple[RelayJob, int]] = {}
        self.numbers = count(1)
        #: Of a client: when its job must be here.
        self.deadline: Deadline | None = None
        #: The link is given up because nothing has come on it for too long.
        self.silent = False
        #: Channels of children whose jobs know that the peer does not respond.
        self.quiet: set[int] = set()

    def note_quiet(self, quiet: bool) -> None:
        """Tell the jobs of the channels to it whether it responds, if that has changed for them."""
        if quiet:
            news = [channel for channel in self.children if channel not in self.quiet]
            self.quiet.update(news)
        else:
            news = list(self.quiet)
            self.quiet.clear()
        for channel in news:
            if channel in self.children:
                job, number = self.children[channel]
                job.tell(events.ChildQuiet(number, quiet))
