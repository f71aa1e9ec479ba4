"""When two names in certificates are the same, and which identify nobody."""

from __future__ import annotations

import pytest

from gexec.security.names import certified, is_everybodys, normal


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Node004.", "node004"),
        ("2001:DB8:0:0:0:0:0:4", "2001:db8::4"),
        ("fe80::4%eth0", "FE80::4"),
        ("10.0.0.4", "10.0.0.4"),
    ],
)
def test_the_same_name(one: str, other: str) -> None:
    assert normal(one) == normal(other)


def test_an_address_is_never_a_name() -> None:
    assert certified([("DNS", "10.0.0.4"), ("IP Address", "node004"), ("IP Address", "10.0.0.5\n")]) == {
        "10.0.0.4",
        normal("10.0.0.5"),
    }
    assert normal("10.0.0.4") not in certified([("DNS", "10.0.0.4")])
    assert certified([("DNS", "."), ("DNS", ""), ("URI", "node004")]) == frozenset()


@pytest.mark.parametrize(
    "name",
    ["", ".", "localhost", "LOCALHOST.", "localhost.localdomain", "127.0.0.1", "::1", "0:0:0:0:0:0:0:1",
     "localhost4.localdomain4", "localhost6", "ip6-localhost", "ip6-loopback"],
)  # fmt: skip
def test_a_name_that_identifies_nobody(name: str) -> None:
    assert is_everybodys(name)


@pytest.mark.parametrize("name", ["node004", "127.0.1.4", "10.0.0.4", "local", "my.localhost", "fe80::1"])
def test_a_name_that_identifies_a_host(name: str) -> None:
    assert not is_everybodys(name)
