"""gmond's XML: what real ones say, and what nobody should."""

from __future__ import annotations

import math

import pytest

from gexec import limits
from gexec.select.ganglia import AnswerError, down, parse, usable

#: As gmond 3.7.2 sends it, shortened.
DTD = b"""<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?>
<!DOCTYPE GANGLIA_XML [
   <!ELEMENT GANGLIA_XML (GRID|CLUSTER|HOST)*>
      <!ATTLIST GANGLIA_XML VERSION CDATA #REQUIRED>
   <!ELEMENT METRIC (EXTRA_DATA*)>
      <!ATTLIST METRIC TYPE (string | int8 | float | timestamp) #REQUIRED>
      <!ATTLIST METRIC SOURCE (gmond) 'gmond'>
]>
"""
NOW_S = 1795442471


def metric(name: str, value: str) -> str:
    return (
        f'<METRIC NAME="{name}" VAL="{value}" TYPE="float" UNITS="" TN="0" TMAX="70" DMAX="0">\n'
        '<EXTRA_DATA>\n<EXTRA_ELEMENT NAME="GROUP" VAL="load"/>\n</EXTRA_DATA>\n</METRIC>\n'
    )


def host(name: str, reported: object = NOW_S, address: str = "10.0.0.1", **metrics: object) -> str:
    inside = "".join(metric(key, str(value)) for key, value in metrics.items())
    return f'<HOST NAME="{name}" IP="{address}" TAGS="" REPORTED="{reported}" TN="0">\n{inside}</HOST>\n'


def document(*hosts: str, local_time: object = NOW_S) -> bytes:
    cluster = f'<CLUSTER NAME="c" LOCALTIME="{local_time}">\n{"".join(hosts)}</CLUSTER>\n'
    return DTD + f'<GANGLIA_XML VERSION="3.7.2" SOURCE="gmond">\n{cluster}</GANGLIA_XML>\n'.encode()


def test_the_least_loaded_first_and_equal_ones_as_they_came() -> None:
    found = parse(
        [
            document(
                host("busy", gexec="ON", load_one="7.50", cpu_num=4),
                host("idle-small", gexec="ON", load_one="0.00"),  # one processor if it does not say
                host("idle-big", gexec="ON", load_one="0.00", cpu_num=64),
                host("even-1", gexec="ON", load_one="3.0", cpu_num=4),
                host("even-2", gexec="ON", cpu_num=8, load_one="7.0"),
                host("unknown-load", gexec="ON", cpu_num=8),
            )
        ]
    )
    names = [chosen.name for chosen in usable(found)]
    assert names == ["idle-big", "idle-small", "even-1", "even-2", "busy", "unknown-load"]
    assert [chosen.load for chosen in usable(found)] == [-64.0, -1.0, -1.0, -1.0, 3.5, math.inf]


def test_one_nodes_nonsense_does_not_hide_the_others() -> None:
    for wrong in ({"load_one": "much"}, {"load_one": "nan"}, {"load_one": "1", "cpu_num": "-inf"}):
        found = parse([document(host("odd", gexec="ON", **wrong), host("busy", gexec="ON", load_one=99))])
        assert [chosen.name for chosen in usable(found)] == ["busy", "odd"]


def test_only_hosts_that_are_up_and_run_gexec() -> None:
    found = parse(
        [
            document(
                host("up-59", NOW_S - 59, gexec="ON"),
                host("down-60", NOW_S - 60, gexec="ON"),
                host("ahead-59", NOW_S + 59, gexec="ON"),
                host("ahead-60", NOW_S + 60, gexec="ON"),
                host("off", gexec="OFF"),
                host("small", gexec="on"),
                host("without"),
            )
        ]
    )
    assert [chosen.name for chosen in usable(found)] == ["up-59", "ahead-59"]
    assert {chosen.name for chosen in found if not chosen.up} == {"down-60", "ahead-60"}


def test_each_cluster_of_a_gmetad_has_its_own_time() -> None:
    first = f'<CLUSTER NAME="a" LOCALTIME="{NOW_S}">{host("a1", gexec="ON")}</CLUSTER>'
    second = f'<CLUSTER NAME="b" LOCALTIME="1000">{host("b1", 990, gexec="ON")}</CLUSTER>'
    text = f'<GANGLIA_XML VERSION="3"><GRID NAME="g">{first}{second}</GRID></GANGLIA_XML>'
    assert [chosen.name for chosen in usable(parse([text.encode()]))] == ["a1", "b1"]


def test_any_cutting_into_pieces_is_the_same() -> None:
    whole = document(host("a", gexec="ON", load_one=1), host("b", gexec="ON", load_one=0))
    pieces = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    assert [chosen.name for chosen in usable(parse(pieces))] == ["b", "a"]


def test_what_is_down_by_full_and_short_name_and_by_address() -> None:
    found = parse(
        [
            document(
                host("Node1.cluster", NOW_S - 900, address="10.0.0.1"),
                host("node2.east", NOW_S - 900, address="10.0.0.2"),
                host("node2.west", address="10.0.0.3"),
                host("10.0.0.4", NOW_S - 900, address="10.0.0.4"),
            )
        ]
    )
    assert down(found) == {"node1.cluster", "node1", "10.0.0.1", "node2.east", "10.0.0.2", "10.0.0.4"}


LAUGHS = (
    b'<!DOCTYPE GANGLIA_XML [<!ENTITY a "ha"><!ENTITY b "'
    + b"&a;" * 9
    + b'">]><GANGLIA_XML>&b;</GANGLIA_XML>'
)
GOOD = document(host("a", gexec="ON"))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "no XML, or is cut off"),
        (b"Welcome to the mail server\r\n", "no XML, or is cut off"),
        (GOOD[: len(GOOD) // 2], "no XML, or is cut off"),
        (GOOD + GOOD, "no XML, or is cut off"),
        (b"\x1f\x8b\x08" + bytes(20), "gzip_output"),
        (b"<html></html>", "'html', not GANGLIA_XML"),
        (LAUGHS, "declares entities"),
        (b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><GANGLIA_XML>&e;</GANGLIA_XML>', "entities"),
        (b'<!DOCTYPE x [<!ENTITY % p SYSTEM "http://127.0.0.1/"> %p;]><GANGLIA_XML/>', "declares entities"),
        (b"<GANGLIA_XML>" + b"<GRID>" * 5000, "nested more than"),
        (b'<?xml version="1.0" encoding="utf-99"?><GANGLIA_XML/>', "cannot be read"),
    ],
)
def test_answers_that_nobody_should_give(answer: bytes, sentence: str) -> None:
    with pytest.raises(AnswerError) as caught:
        parse([answer])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_external_dtd_is_not_fetched() -> None:
    answer = b'<!DOCTYPE GANGLIA_XML SYSTEM "file:///dev/zero"><GANGLIA_XML></GANGLIA_XML>'
    assert parse([answer]) == []


def test_an_endless_answer_is_given_up() -> None:
    def endless() -> object:
        yield b"<GANGLIA_XML>"
        while True:
            yield b"<!-- " + b"x" * 1024 * 1024 + b" --><GRID/>"

    with pytest.raises(AnswerError, match=f"over {limits.GMOND_XML_MAX_BYTES} bytes"):
        parse(endless())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "piece"), [(b"<HOST ", b'a%d="" '), (b"<!-- ", b"%d "), (b"<HOST>", b"&#65;%d"), (b"", b" %d")]
)
def test_a_tag_without_end_is_given_up_early(start: bytes, piece: bytes) -> None:
    given = 0

    def pieces() -> object:
        nonlocal given
        yield b'<GANGLIA_XML><CLUSTER LOCALTIME="1">' + start
        for number in range(100):
            chunk = b"".join([piece % (number * 10_000 + at) for at in range(10_000)])
            given += len(chunk)
            yield chunk

    with pytest.raises(AnswerError, match=f"is over {limits.GMOND_TAG_MAX_BYTES} bytes long"):
        parse(pieces())  # type: ignore[arg-type]
    assert given < 2 * limits.GMOND_TAG_MAX_BYTES


def test_more_hosts_than_a_job_can_have_are_given_up() -> None:
    text = b'<HOST NAME="a" IP="1.1.1.1" REPORTED="1"/>' * 1000

    def hosts() -> object:
        yield b'<GANGLIA_XML><CLUSTER LOCALTIME="1">'
        for _ in range(limits.RANKS_MAX // 1000 + 1):
            yield text

    with pytest.raises(AnswerError, match="more than 65536 hosts"):
        parse(hosts())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad", [host("a b"), host(""), host("n" * 300), host("a", address=""), host("a", address="&#155;2J")]
)
def test_a_malformed_host_is_counted_and_hides_no_other(bad: str) -> None:
    found = parse([document(bad, host("good", gexec="ON"))])
    assert ([chosen.name for chosen in found], found.malformed) == (["good"], 1)


def test_a_source_that_died_long_ago_has_no_host_that_is_up() -> None:
    stale = host("stale", gexec="ON").replace('TN="0"', 'TN="90000"', 1)
    assert usable(parse([document(stale)])) == []


def test_a_host_outside_a_cluster_is_taken_by_its_tn() -> None:
    old = host("old", gexec="ON").replace('TN="0"', 'TN="60"', 1)
    text = f"<GANGLIA_XML>{host('new', gexec='ON')}{old}</GANGLIA_XML>"
    assert [chosen.name for chosen in usable(parse([text.encode()]))] == ["new"]


def test_a_host_named_twice_is_one_host_by_its_freshest_entry() -> None:
    older, newer = host("Node1.", NOW_S - 30, gexec="ON"), host("node1", NOW_S - 5, "10.0.0.2", gexec="ON")
    for both in ((older, newer), (newer, older)):
        assert [chosen.address for chosen in usable(parse([document(*both)]))] == ["10.0.0.2"]
