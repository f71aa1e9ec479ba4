"""Who may be a parent: the ancestors by the split and the submitting host, with ranges of the split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec.core import tree
from gexec.relay.parents import not_the_host, refusal
from gexec.security.names import certified, normal
from gexec.wire.frames import Refused, Start
from surroundings import CREDENTIAL, HEAD, Daemon, job


def asked(names: str, low: int, *held: str, high: int | None = None, fanout: int = 2) -> str:
    """Return why a peer whose certificate holds these names may not have this rank; the host is HEAD."""
    words = names.split()
    spec = job(len(words), names=[word.encode() for word in words], fanout=fanout)
    kinds = [("IP Address" if normal(name).startswith(" ") else "DNS", name) for name in held]
    start = Start(2**32 - 1, low, low + 1 if high is None else high, CREDENTIAL, b"", False)
    return refusal(HEAD, spec, start, lambda name: normal(name) in certified(kinds))


#: Fan-out 2: a has [0, 4), e has [4, 7); b and d are a's children, c is b's.
SEVEN = "a b c d e f g"


@pytest.mark.parametrize(
    ("low", "parents"),
    [(0, ""), (1, "a"), (2, "ab"), (3, "a"), (4, ""), (5, "e"), (6, "e")],
)
def test_the_parents_of_a_rank(low: int, parents: str) -> None:
    for name in SEVEN.split():
        assert (asked(SEVEN, low, name) == "") == (name in parents), name
    assert asked(SEVEN, low, HEAD) == ""
    assert asked(SEVEN, low, "HEAD.", "other") == ""
    assert asked(SEVEN, low)
    assert asked(SEVEN, low, "localhost", "127.0.0.1", "::1")


@given(st.integers(1, 400), st.integers(1, 20), st.integers(0, 2**32), st.integers(0, 2**32))
def test_no_rank_that_is_not_above(ranks: int, fanout: int, one: int, other: int) -> None:
    low, rank = one % ranks, other % ranks
    above = {first for first, _ in tree.lineage(ranks, fanout, low)[:-1]}
    names = " ".join(f"n{number}" for number in range(ranks))
    assert (asked(names, low, f"n{rank}", fanout=fanout) == "") == (rank in above)


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("N1.", "n1"),
        ("10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:db8:0::1", "2001:db8::1"),
    ],
)
def test_names_are_compared_as_when_they_are_dialled(name: str, held: str) -> None:
    assert asked(f"{name} b c", 1, held, fanout=1) == ""


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "localhost.localdomain", "ip6-localhost"])
def test_a_rank_with_a_name_that_all_have_is_the_submitting_host(name: str) -> None:
    everybody = ("localhost", "localhost.localdomain", "ip6-localhost", "127.0.0.1", "::1")
    assert asked(f"{name} b c", 1, *everybody, fanout=1)
    assert asked(f"{name} b c", 1, *everybody, HEAD, fanout=1) == ""


def test_a_node_that_is_listed_several_times_is_a_parent_where_it_is_above() -> None:
    # Fan-out 1: a chain.
    assert asked("a b a c", 1, "a", fanout=1) == ""
    assert asked("a b a c", 3, "a", fanout=1) == ""
    assert asked("b a c", 0, "a", fanout=1)
    # b is rank 1, above rank 2, and rank 5, which has nobody below it.
    may = [asked("a b c d e b g", low, "b") == "" for low in range(7)]
    assert may == [False, False, True, False, False, False, False]


@pytest.mark.parametrize(("low", "high"), [(0, 2), (0, 3), (0, 5), (0, 7), (1, 4), (4, 6), (5, 7)])
def test_a_range_is_the_rank_alone_or_its_own_by_the_split(low: int, high: int) -> None:
    text = asked(SEVEN, low, HEAD, high=high)
    assert text.startswith(
        f"ranks [{low}, {high}) are not a part of this job's tree, in which rank {low} has"
    )


def test_the_ranges_of_the_split() -> None:
    for low, high in ((0, 4), (1, 3), (2, 3), (4, 7), (0, 1), (4, 5)):
        assert asked(SEVEN, low, HEAD, high=high) == ""


def test_the_refusal_names_who_may() -> None:
    assert asked(SEVEN, 2, "d").endswith(": head, b, a")
    names = " ".join(f"n{number}" for number in range(20))
    assert asked(names, 9, "x", fanout=1).endswith(": head, n8, n7, n6, 6 more above")
    assert len(asked(f"{'x' * 255} b", 1, "b", fanout=1)) < 400


# -- at the relay -----------------------------------------------------------------------------


def test_attack_86_a_start_of_a_stranger_is_refused_and_recorded() -> None:
    """Every rank has the job's credential: with a higher epoch a leaf took all ranks of its job."""
    daemon = Daemon(job(ranks=7))
    parent = daemon.start(1, 3, name="node0")
    for name in ("node1", "node2", "node3", "node4", "node6", "other", "localhost"):
        thief = daemon.start(1, 2, epoch=2**32 - 1, name=name)
        [refused] = thief.frames
        assert isinstance(refused, Refused)
        assert refused.code == 1
        assert daemon.denials[-1] == ("parent", refused.text)
        # Nothing that follows on this channel reaches the job.
        before = list(daemon.processes.asked)
        daemon.jobs.link_frame(thief, 1, Start(2**32 - 1, 1, 2, CREDENTIAL, daemon.blob, True))
        assert daemon.processes.asked == before
    assert not any(isinstance(frame, Refused) for frame in parent.frames)
    assert len(daemon.denials) == 14
    # Its ancestors may.
    assert not isinstance(daemon.start(1, 2, epoch=5).frames[0], Refused)


def test_attack_86_a_stranger_starts_nothing() -> None:
    daemon = Daemon(job(ranks=7))
    daemon.start(1, 3, name="node4")
    assert not daemon.lives
    assert daemon.processes.asked == []


def test_attack_87_an_ancestor_cannot_widen_a_range() -> None:
    daemon = Daemon(job(ranks=7))
    assert isinstance(daemon.start(1, 4, name="node0").frames[-1], Refused)
    assert not daemon.lives
    assert [kind for kind, _ in daemon.denials] == ["parent"]


def test_attack_74_another_credential_of_the_same_job_id_attaches_nothing() -> None:
    daemon = Daemon(job())
    first = daemon.start()
    daemon.entry.also = b"another good credential of this job id"
    thief = daemon.parent()
    daemon.jobs.link_frame(thief, 1, Start(9, 0, 1, daemon.entry.also, daemon.blob, False))
    [refused] = thief.frames
    assert isinstance(refused, Refused)
    assert refused.text == "rank 0 of this job runs here with another credential"
    assert not any(isinstance(frame, Refused) for frame in first.frames)
    assert daemon.denials == [("parent", refused.text)]


# -- the root ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("localhost", "a name that every host has"),
        ("", "a name that every host has"),
        ("other", "signed on the host other, which is none of the names of this gexecd"),
        ("o\nther\udc80", "signed on the host o?ther?,"),
    ],
)
def test_attack_88_who_is_not_the_submitting_host_is_no_root(host: str, text: str) -> None:
    assert text in not_the_host(host, lambda name: name in (HEAD, "localhost"))
    daemon = Daemon(job())
    daemon.entry.host = host
    client = daemon.submit()
    [refused] = client.frames
    assert isinstance(refused, Refused)
    assert text in refused.text
    assert not daemon.lives


def test_the_submitting_host_is_a_root() -> None:
    assert not_the_host(HEAD, lambda name: name == HEAD) == ""
    daemon = Daemon(job())
    daemon.submit()
    assert len(daemon.jobs.by_key) == 1
