"""Whose certificate it is: names as DNS compares them, addresses as addresses, never one for the other."""

from __future__ import annotations

import pytest

from gexec.relay.tls import holds, refusal

NAMES = [
    ("DNS", "node004"), ("DNS", "node004.site.org"), ("DNS", "localhost"), ("IP Address", "127.0.0.1"),
    ("IP Address", "10.0.0.4"), ("IP Address", "2001:DB8:0:0:0:0:0:4"), ("IP Address", "FE80:0:0:0:0:0:0:4"),
]  # fmt: skip


@pytest.mark.parametrize(
    "wanted",
    ["node004", "NODE004", "node004.", "Node004.Site.ORG.", "10.0.0.4", "2001:db8::4", "2001:DB8:0::4",
     "fe80::4%eth0", "localhost"],
)  # fmt: skip
def test_it_is_this_node(wanted: str) -> None:
    assert holds(NAMES, wanted)
    assert refusal(NAMES, wanted, "10.0.0.4:2875") == ""


@pytest.mark.parametrize(
    "wanted",
    ["", ".", "node003", "node", "node004.site", "node004..", "*.site.org", "site.org", "10.0.0.5", "10.4",
     "2001:db8::5", "node004\0", "node004%lo", "10.0.0.4%lo"],
)  # fmt: skip
def test_it_is_another_node(wanted: str) -> None:
    assert not holds(NAMES, wanted)
    assert refusal(NAMES, wanted, "10.0.0.4:2875")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([("DNS", "*.site.org")], "node004.site.org"),  # no certificate of this cluster has wildcards
        ([("DNS", "10.0.0.4")], "10.0.0.4"),
        ([("URI", "node004"), ("email", "node004")], "node004"),
        ([("IP Address", "node004")], "node004"),
        ([("IP Address", "<invalid>")], "<invalid>"),
        ([], "node004"),
    ],
)
def test_no_name_stands_for_another_kind(names: list[tuple[str, str]], wanted: str) -> None:
    assert not holds(names, wanted)


def test_the_sentence_says_whose_certificate_it_was_and_what_to_do() -> None:
    assert refusal(NAMES, "node003", "10.0.0.4:2875") == (
        "its certificate was refused: 10.0.0.4:2875 is node004, node004.site.org, 10.0.0.4 and 2 more, "
        "not node003: correct the address of node003, or start the gexecd there with `--name node003`"
    )
    assert "is localhost, not x:" in refusal([("DNS", "localhost")], "x", "::1")
    assert "is a daemon without a name, not x:" in refusal([], "x", "::1")
    many = [("DNS", "n" * 253)] * 256
    assert len(refusal(many, "w" * 255, "10.0.0.4:2875")) < 700
