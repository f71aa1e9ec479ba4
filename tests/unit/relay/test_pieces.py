"""What a transport gets: small parts together, large ones uncopied, none larger than a piece."""

from __future__ import annotations

import asyncio

from gexec.relay.pieces import PIECE_BYTES, cut, write


class Transport(asyncio.Transport):
    """Notes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def writelines(self, list_of_data: object) -> None:
        assert isinstance(list_of_data, list)
        self.written += list_of_data


def test_a_large_part_is_cut() -> None:
    part = bytes(2 * PIECE_BYTES + 1)
    assert [len(piece) for piece in cut(part)] == [PIECE_BYTES, PIECE_BYTES, 1]
    assert b"".join(cut(part)) == part


def test_small_parts_are_joined_and_large_ones_stay_what_they_are() -> None:
    transport = Transport()
    write(transport, [b"a", b"b"], 2)
    assert transport.written == [b"ab"]
    large = bytes(100_000)
    transport = Transport()
    write(transport, [b"a", b"b", large, b"c"], 100_003)
    assert transport.written == [b"ab", large, b"c"]
    assert transport.written[1] is large
