"""ACLs in a stream: numbers and names."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec.files.acls import DamagedAclError, with_names, with_numbers

NONE = 0xFFFFFFFF
BASE = [(1, 6, NONE), (4, 4, NONE), (0x20, 4, NONE)]


def kernels(*lines: tuple[int, int, int]) -> bytes:
    """Return the kernel's form."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *line) for line in lines)


def names(number: int) -> bytes:
    return b"" if number == 99 else b"name%d" % number


def test_an_acl_goes_to_other_numbers_and_is_sorted_there() -> None:
    there = kernels((1, 6, NONE), (2, 6, 1), (2, 4, 2), (4, 4, NONE), (8, 5, 1), (8, 1, 99), *BASE[2:])
    sent = with_names(there, names, names)
    asked: list[tuple[bytes, int]] = []

    def find(name: bytes, number: int) -> int:
        asked.append((name, number))
        return 100 - number

    assert with_numbers(sent, find, find) == kernels(
        (1, 6, NONE), (2, 4, 98), (2, 6, 99), (4, 4, NONE), (8, 1, 1), (8, 5, 99), *BASE[2:]
    )
    assert asked == [(b"name1", 1), (b"name2", 2), (b"name1", 1), (b"", 99)]


def test_the_bytes_of_a_stream() -> None:
    sent = with_names(kernels((2, 6, 7), *BASE), lambda _: b"bob", lambda _: b"")
    assert sent == bytes.fromhex("0004 0200 0600 07000000") + kernels(*BASE)[4:] + b"\3bob"


def test_an_acl_that_is_the_mode_is_none() -> None:
    assert with_names(kernels(*BASE), names, names) == b""


@pytest.mark.parametrize("value", [b"", b"\1\0\0\0", b"\2\0\0\0\1\2"])
def test_what_is_no_acl_is_an_error(value: bytes) -> None:
    with pytest.raises(DamagedAclError):
        with_names(value, names, names)


@given(st.data())
def test_a_damaged_acl_is_an_error(data: st.DataObject) -> None:
    sent = with_names(kernels((2, 6, 7), (8, 5, 8), *BASE), names, names)
    cut = data.draw(st.integers(0, len(sent) - 1))
    with pytest.raises(DamagedAclError):
        with_numbers(sent[:cut], lambda _, number: number, lambda _, number: number)
    with pytest.raises(DamagedAclError):
        with_numbers(sent + b"x", lambda _, number: number, lambda _, number: number)
