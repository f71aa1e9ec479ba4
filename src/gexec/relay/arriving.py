"""Bytes of frames that have begun to arrive and are not complete: how many each peer may have of them.

A frame is charged with its whole size when its first byte is here: to the user of a client, or to the node of
a link, together with its other links. Every node may have one ordinary frame uncharged: so nodes that send
what the protocol needs are never refused, and only half-sent jobs and many links of one node use its share.
"""

from __future__ import annotations

from typing import Final

from gexec import limits
from gexec.relay.link import Link
from gexec.security.quota import Shares

#: How the reasons begin for which links of nodes end that have taken too much.
OVER_SHARE: Final = "over its share"


class Arriving:
    """The unfinished frames of all links of one kind.

    Args:
        shares: of bytes; by uid or by the name of a node.
        uncharged_bytes: what each of them may have beside its share.
    """

    def __init__(self, shares: Shares, uncharged_bytes: int = 0) -> None:
        self._shares = shares
        self._uncharged_bytes = uncharged_bytes
        self._of_link: dict[Link, tuple[int | str, int]] = {}
        self._of_peer: dict[int | str, int] = {}

    def changed(self, link: Link, who: int | str, size: int) -> bool:
        """The frame that has begun on a link has ``size`` bytes; 0: none has.

        Return whether it may arrive. If not, nothing of this link is counted any more: end it.
        """
        _, before = self._of_link.get(link, (who, 0))
        if size == before:
            return True
        self.ended(link)
        if not size:
            return True
        have = self._of_peer.get(who, 0)
        if not self._shares.take(who, self._charged(have + size) - self._charged(have)):
            return False
        self._of_peer[who] = have + size
        self._of_link[link] = (who, size)
        return True

    def ended(self, link: Link) -> None:
        """The link has ended, or its frame is complete."""
        who, size = self._of_link.pop(link, ("", 0))
        if size:
            have = self._of_peer.pop(who)
            self._shares.give(who, self._charged(have) - self._charged(have - size))
            if have > size:
                self._of_peer[who] = have - size

    def _charged(self, size: int) -> int:
        return max(0, size - self._uncharged_bytes)


class NodeFrames:
    """The unfinished frames of all links with other nodes, whoever has dialled them (attack 127).

    Args:
        shares: of bytes, by the name of a node.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._arriving = Arriving(shares, limits.FRAME_MAX_BYTES)

    def unfinished(self, link: Link, size: int) -> None:
        """The frame that has begun on a link has ``size`` bytes; 0: none has.

        Above its node's share the link ends.
        """
        who = link.peer.identity
        if not self._arriving.changed(link, who, size):
            link.abort(f"{OVER_SHARE}: {self._shares.refusal(who, 'bytes of frames that are not complete')}")

    def ended(self, link: Link) -> None:
        """The link has ended."""
        self._arriving.ended(link)
