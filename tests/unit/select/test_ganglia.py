"""gmond's XML: what real ones say, and what nobody should."""

from __future__ import annotations

import math

import pytest

from gexec import limits
from gexec.select.ganglia import AnswerError, down, parse

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


def host(
    name: str, reported: object = NOW_S, address: str = "10.0.0.1", tn: object = 0, **metrics: object
) -> str:
    inside = "".join(metric(key, str(value)) for key, value in metrics.items())
    return f'<HOST NAME="{name}" IP="{address}" TAGS="" REPORTED="{reported}" TN="{tn}">\n{inside}</HOST>\n'


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
    names = [chosen.name for chosen in found.usable()]
    assert names == ["idle-big", "idle-small", "even-1", "even-2", "busy", "unknown-load"]
    assert [chosen.load for chosen in found.usable()] == [-64.0, -1.0, -1.0, -1.0, 3.5, math.inf]


def test_one_nodes_nonsense_does_not_hide_the_others() -> None:
    for wrong in ({"load_one": "much"}, {"load_one": "nan"}, {"load_one": "1", "cpu_num": "-inf"}):
        found = parse([document(host("odd", gexec="ON", **wrong), host("busy", gexec="ON", load_one=99))])
        assert [chosen.name for chosen in found.usable()] == ["busy", "odd"]


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
    assert [chosen.name for chosen in found.usable()] == ["up-59", "ahead-59"]
    assert {chosen.name for chosen in found.hosts if not chosen.up} == {"down-60", "ahead-60"}


def test_each_cluster_of_a_gmetad_has_its_own_time() -> None:
    first = f'<CLUSTER NAME="a" LOCALTIME="{NOW_S}">{host("a1", gexec="ON")}</CLUSTER>'
    second = f'<CLUSTER NAME="b" LOCALTIME="1000">{host("b1", 990, gexec="ON")}</CLUSTER>'
    text = f'<GANGLIA_XML VERSION="3"><GRID NAME="g">{first}{second}</GRID></GANGLIA_XML>'
    assert [chosen.name for chosen in parse([text.encode()]).usable()] == ["a1", "b1"]


def test_any_cutting_into_pieces_is_the_same() -> None:
    whole = document(host("a", gexec="ON", load_one=1), host("b", gexec="ON", load_one=0))
    pieces = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    assert [chosen.name for chosen in parse(pieces).usable()] == ["b", "a"]


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
    assert down(found.hosts) == {"node1.cluster", "node1", "10.0.0.1", "node2.east", "10.0.0.2", "10.0.0.4"}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (host("a b", gexec="ON"), "1 with an invalid name"),
        (host("", gexec="ON"), "1 with an invalid name"),
        (host("n" * 300, gexec="ON"), "1 with an invalid name"),
        (host("-rf", gexec="ON"), "1 with an invalid name"),
        (host("a..b", gexec="ON"), "1 with an invalid name"),
        (host("10.0.0.1:ups", gexec="ON"), "1 with an invalid name"),
        (host("&#155;2J", gexec="ON"), "1 with an invalid name"),
        (host("a", address="", gexec="ON"), "1 with an invalid address, or none"),
        (host("a", address="&#155;2J", gexec="ON"), "1 with an invalid address, or none"),
        (host("a", address="10.0.0.256", gexec="ON"), "1 with an invalid address, or none"),
        ('<HOST GEXEC="ON"/>', "1 with an invalid name"),
        (host("a", "1e9", tn="soon", gexec="ON"), "1 without the time of its last report"),
        (host("a", "9" * 5000, tn="", gexec="ON"), "1 without the time of its last report"),
        (host("a", NOW_S - 60, gexec="ON"), "1 without a report for 60 s"),
        (host("a", "soon", tn=60, gexec="ON"), "1 without a report for 60 s"),
        (host("a", tn=60, gexec="ON"), "1 in a cluster whose source is silent for 60 s"),
        (host("a"), "1 without the metric gexec"),
        (host("a", gexec="OFF"), "1 with gexec = no in its gmond.conf"),
        (host("GOOD.", gexec="ON", tn=5), "1 listed again"),
    ],
)
def test_a_bad_entry_is_left_out_and_counted(bad: str, reason: str) -> None:
    for order in ((bad, host("good", gexec="ON")), (host("good", gexec="ON"), bad)):
        found = parse([document(*order)])
        assert [chosen.name for chosen in found.usable()] == ["good"]
        assert (found.entries, found.reasons()) == (2, reason)


@pytest.mark.parametrize(
    ("tn", "reported", "age"), [(7, 3, 7), (3, 7, 7), (-2, 0, 2), ("", 9, 9), (9, "", 9)]
)
def test_the_age_is_the_larger_of_both_that_are_told(tn: object, reported: object, age: int) -> None:
    when = NOW_S - reported if isinstance(reported, int) else reported
    [only] = parse([document(host("a", when, tn=tn))]).hosts
    assert only.age_s == age


@pytest.mark.parametrize("wrong", ["", "soon", "1e9", "9" * 40, "\u0663", "0x10", " 5"])
def test_a_time_that_is_none_leaves_the_others(wrong: str) -> None:
    """Without TN there are LOCALTIME and REPORTED, and without those TN; without any a host is left out."""
    for text in (
        document(host("a", tn=3, gexec="ON"), local_time=wrong),
        document(host("a", wrong, tn=3, gexec="ON")),
        document(host("a", NOW_S - 3, tn=wrong, gexec="ON")),
    ):
        found = parse([text])
        assert [(chosen.name, chosen.age_s) for chosen in found.usable()] == [("a", 3)]
    found = parse([document(host("a", wrong, tn=wrong, gexec="ON"), host("b", gexec="ON"))])
    assert [chosen.name for chosen in found.usable()] == ["b"]


@pytest.mark.parametrize(
    ("reported", "tn", "usable"),
    [(-NOW_S, 0, True), (-NOW_S, 90, False), (NOW_S + 3, -3, True), (0, 0, False)],
)
def test_times_of_clocks_that_were_set_back(reported: int, tn: int, usable: bool) -> None:
    found = parse([document(host("a", reported, tn=tn, gexec="ON"))])
    assert bool(found.usable()) is usable


def test_a_host_outside_of_a_cluster_is_taken_by_its_tn() -> None:
    fresh, old = host("fresh", 5, tn=10, gexec="ON"), host("old", 5, tn=100, gexec="ON")
    cluster = f'<CLUSTER NAME="c" LOCALTIME="{NOW_S}"></CLUSTER>'
    for text in (
        f"<GANGLIA_XML>{fresh}{old}</GANGLIA_XML>",
        f"<GANGLIA_XML>{cluster}{fresh}{old}</GANGLIA_XML>",
        f'<GANGLIA_XML><GRID NAME="g">{fresh}{old}</GRID></GANGLIA_XML>',
        f'<GANGLIA_XML><CLUSTER LOCALTIME="soon">{fresh}{old}</CLUSTER></GANGLIA_XML>',
    ):
        found = parse([text.encode()])
        assert [chosen.name for chosen in found.usable()] == ["fresh"]
        assert found.reasons() == "1 without a report for 60 s"


def test_a_host_in_two_clusters_is_the_one_heard_of_last() -> None:
    dead = f'<CLUSTER NAME="old" LOCALTIME="{NOW_S - 9000}">' + host(
        "NODE1", NOW_S - 9000, "10.0.0.1", tn=9000, gexec="ON"
    )
    live = f'<CLUSTER NAME="new" LOCALTIME="{NOW_S}">' + host("node1.", tn=3, address="10.0.0.2", gexec="ON")
    for order in ((dead, live), (live, dead)):
        text = "<GANGLIA_XML>" + "".join([part + "</CLUSTER>" for part in order]) + "</GANGLIA_XML>"
        found = parse([text.encode()])
        assert [(chosen.name, chosen.address) for chosen in found.usable()] == [("node1", "10.0.0.2")]
        assert down(found.hosts) == set()
        assert found.reasons() == "1 listed again"


def test_if_none_will_do_the_sentence_has_how_many_and_why() -> None:
    silent = [host(f"s{number}", tn=99, gexec="ON") for number in range(3)]
    found = parse([document(*silent, host("off", gexec="OFF"), host("", gexec="ON"))])
    assert found.usable() == []
    assert found.lack() == (
        "lists 5 hosts, but none is up and runs gexec: 3 in a cluster whose source is silent for 60 s, "
        "1 with an invalid name, 1 with gexec = no in its gmond.conf"
    )
    assert parse([document()]).lack().startswith("lists no host")


LAUGHS = (
    b'<!DOCTYPE GANGLIA_XML [<!ENTITY a "ha"><!ENTITY b "'
    + b"&a;" * 9
    + b'">]><GANGLIA_XML>&b;</GANGLIA_XML>'
)
GOOD = document(host("a", gexec="ON"))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "not XML, or is cut off"),
        (b"Welcome to the mail server\r\n", "not XML, or is cut off"),
        (GOOD[: len(GOOD) // 2], "not XML, or is cut off"),
        (GOOD + GOOD, "not XML, or is cut off"),
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
    assert parse([answer]).hosts == []


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
