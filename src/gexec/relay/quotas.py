"""What users share in one relay (``security.quota``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gexec import limits
from gexec.relay.turns import Turns
from gexec.security.quota import NOBODY, ROOT, Shares
from gexec.settings.config import GexecdSettings
from gexec.wire import jobspec
from gexec.wire.jobspec import JobSpec

#: So that one user can dial all addresses of a node, however few descriptors there are.
_DIALS_LEAST: Final = 4 * limits.ADDRESSES_MAX
#: So that a job with the usual fan-out runs, and another one after it.
_LINKS_LEAST: Final = 8 * limits.FANOUT_DEFAULT


class Quotas:
    """The shared resources of one relay.

    Args:
        superuser: root, or the user of a daemon that serves only that user.
        descriptors: how many this process may have.

    Attributes:
        ranks: ranks of jobs, without roots, which clients bound.
        clients: connections of clients.
        pipes: descriptors of the pipes of processes.
        submissions: bytes of submissions that are not complete.
        output: bytes of output that this node may have to keep for its ranks.
        dials: addresses that are being dialled, TLS included; the others wait for their turn.
        links: links that were dialled and reached their node, by the user for whom that was.
        accepted: links of other nodes, by the name of the node.
        arriving: bytes of frames that other nodes have begun to send, by the name of the node.
    """

    def __init__(
        self, settings: GexecdSettings, superuser: int = ROOT, descriptors: int = limits.DESCRIPTORS_MAX
    ) -> None:
        # With root's reserve: half of the descriptors for pipes, at most a quarter for dials, a ninth for
        # accepted links and half of that for dialled ones; the rest is for clients. The only user of a daemon
        # is stopped by the kernel.
        ninth = descriptors // 9
        self.pipes = Shares(4 * ninth if superuser == ROOT else descriptors, superuser)
        self.dials = Turns(Shares(max(_DIALS_LEAST, min(limits.DIALS_MAX, 2 * ninth)), superuser))
        dialled = max(_LINKS_LEAST, min(limits.LINKS_DIALLED_MAX, 3 * ninth // 7))
        self.links = Shares(dialled if superuser == ROOT else descriptors, superuser)
        self.accepted = Shares(max(3 * _LINKS_LEAST, min(limits.LINKS_ACCEPTED_MAX, ninth)), NOBODY)
        self.arriving = Shares(limits.ARRIVING_MAX_BYTES, NOBODY)
        self.ranks = Shares(settings.jobs_max, superuser)
        self.clients = Shares(limits.CLIENTS_MAX, superuser)
        self.submissions = Shares(limits.SUBMISSIONS_MAX_BYTES, superuser)
        self.output = Shares(settings.output_max_mib * 1024 * 1024, superuser)
        self._superuser = superuser

    def rank_refusal(self, uid: int, spec: JobSpec) -> str | None:
        """Return why a user gets no more rank of this job here, None if it does."""
        if not self.ranks.left(uid):
            return self.ranks.refusal(uid, "ranks of jobs", "jobs_max in gexecd.toml")
        if self.output.left(uid) < _output_bytes(spec):
            what = "bytes of output that jobs may make it keep"
            return self.output.refusal(uid, what, "output_max_mib in gexecd.toml")
        return None

    def take_rank(self, uid: int, spec: JobSpec) -> None:
        """A rank of this job begins here."""
        self.ranks.charge(uid, 1)
        self.output.charge(uid, _output_bytes(spec))

    def give_rank(self, uid: int, spec: JobSpec) -> None:
        """It has ended, and its job too."""
        self.ranks.give(uid)
        self.output.give(uid, _output_bytes(spec))

    def over_unread(self, unread: Mapping[int, int]) -> list[int]:
        """Return the users whose clients leave more output unread than their share; ``unread``: bytes."""
        shares = Shares(limits.UNREAD_MAX_BYTES, self._superuser)
        return [uid for uid in sorted(unread, key=unread.__getitem__) if not shares.take(uid, unread[uid])]


def _output_bytes(spec: JobSpec) -> int:
    """Return how much output a rank's node may have to keep: a window of stdout and one of stderr."""
    return 0 if spec.flags & jobspec.DETACHED else 2 * spec.window
