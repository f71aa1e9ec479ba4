"""What waits for a child's link: the Start comes first, and everything in order, once."""

from __future__ import annotations

from gexec.relay.children import ChildLink
from gexec.wire.frames import Go, Kill, Start, Stdin
from surroundings import Peer

START = Start(1, 0, 1, b"credential", b"blob")


def test_frames_wait_for_the_link() -> None:
    child = ChildLink(START, False)
    child.send(Stdin(0, b"early"), True)
    child.open()  # there is no link yet
    child.link, child.channel = Peer(False), 7
    child.send(Go(), True)
    assert child.link.sent == []
    child.open()
    child.open()
    child.send(Kill(True), False)
    assert [(channel, frame) for channel, frame, _ in child.link.sent] == [
        (7, START),
        (7, Stdin(0, b"early")),
        (7, Go()),
        (7, Kill(True)),
    ]
