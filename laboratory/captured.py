"""A captured relay: its daemon goes on as usual, and it also sends whatever it likes to whom it can reach.

It has the job's credential and blob, as every daemon of the job has, and its own certificate. What it may do
is checked by ``laboratory.simulator``: nothing to ranks that are not below it.
"""

from __future__ import annotations

from gexec.core import tree
from gexec.wire import frames
from gexec.wire import outcome as outcomes
from gexec.wire import ranks as ranksets
from gexec.wire.frames import Ended, Frame, Output, Refused, Start
from laboratory.daemons import SimDaemon
from laboratory.links import SimEnd

EVIL = b"bytes that no client has sent"
_EPOCHS = (2**32 - 1, 2**32 - 1, 2**31, 2)
_VICTIMS_MAX = 6
_FIRST_CHANNEL = 2**31


class CapturedRelay:
    """What one captured relay sends."""

    def __init__(self, daemon: SimDaemon) -> None:
        daemon.captured = True
        self._daemon = daemon
        self._world = daemon.world
        self._rng = daemon.world.rng
        self._job = daemon.cluster.job
        self._spec = self._job.spec
        self._channels = _FIRST_CHANNEL

    def act(self, kind: str) -> None:
        """Take ranks as a parent (*seize*), refuse its own parents (*refuse*), or report about any ranks."""
        if kind == "seize":
            ranks = [rank for rank in range(self._spec.ranks) if rank != self._daemon.index]
            for rank in self._rng.sample(ranks, min(len(ranks), _VICTIMS_MAX)):
                self._dial(rank)
            return
        for job in self._daemon.jobs.by_key.values():
            for link, channel in list(job.parents.values()):
                for frame in self._refusals() if kind == "refuse" else self._reports():
                    link.send(channel, frame)

    # -- as a parent ----------------------------------------------------------------------

    def _dial(self, rank: int) -> None:
        link = self._daemon.new_link(self._daemon.cluster.nodes[rank])
        self._daemon.jobs.link_accepted(link.dialler, None)
        link.dial(1.0)
        self._world.after(self._rng.uniform(0.01, 0.5), self._daemon, self._seize, link.dialler, rank)

    def _seize(self, end: SimEnd, rank: int) -> None:
        if not (end.here and end.opened):
            return
        self._channels += 1
        high = tree.lineage(self._spec.ranks, self._spec.fanout, rank)[-1][1]
        high = self._rng.choice((high, high, rank + 1, self._spec.ranks))
        attach_only = self._rng.random() < 0.5
        epoch = self._rng.choice(_EPOCHS)
        end.send(self._channels, Start(epoch, rank, high, self._job.raw, self._job.blob, attach_only))
        orders: list[Frame] = [
            frames.Stdin(0, EVIL, True),
            frames.Signal(self._rng.choice((2, 9, 15))),
            frames.Kill(True),
            frames.Go(),
            frames.Resync(2**32 - 1),
            frames.Ack(((rank, 1, 2**40),)),
            frames.Release(),
            frames.Close(),
        ]
        for order in self._rng.sample(orders, self._rng.randrange(len(orders))):
            end.send(self._channels, order)

    # -- as a child -----------------------------------------------------------------------

    def _refusals(self) -> list[Frame]:
        code = self._rng.choice((frames.REFUSED_STALE, frames.REFUSED_STALE, 1, 3, 4))
        return [Refused(code, "a lie", self._rng.choice(_EPOCHS))]

    def _reports(self) -> list[Frame]:
        ranges = ranksets.of(
            self._rng.sample(range(self._spec.ranks), self._rng.randint(1, self._spec.ranks))
        )
        if self._rng.random() < 0.3:
            ranges = ((0, 65536),)
        reports: list[Frame] = [
            Output(ranges, self._rng.choice((1, 2)), self._rng.choice((0, 0, 100)), EVIL),
            Ended(ranges, outcomes.exited(0), self._rng.choice((0, len(EVIL))), 0),
            Ended(ranges, outcomes.lost("forged"), 7, frames.LENGTH_UNKNOWN),
            frames.RanksStarted(ranges),
            frames.Ready(ranges),
            frames.StdinTaken(self._rng.choice((1, 2**63, frames.OFFSET_ALL))),
            frames.Accepted(bytes(16)),
        ]
        return self._rng.sample(reports, self._rng.randint(1, len(reports)))
