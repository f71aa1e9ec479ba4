"""One user against another on a cluster of root: the other's jobs, and root's, go on while it lasts."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gexec
from gexec import limits
from gexec.cluster.processes import is_alive
from gexec.security.quota import Shares
from gexec.wire import frames

from . import rogue
from .conftest import DEADLINE_S, Cluster, wait_until
from .etc import Etc

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(400),
]
User = pwd.struct_passwd
NODES = 2


@pytest.fixture
def ann(etc: Etc) -> User:
    return etc.add_user("ann")


@pytest.fixture
def ben(etc: Etc) -> User:
    return etc.add_user("ben")


@pytest.fixture
def cluster(
    etc: Etc, ann: User, ben: User, cluster_of: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> Cluster:
    """Two nodes with the accounts ann and ben; a daemon may open 1,024 files."""
    cluster = cluster_of(NODES, descriptors=1024, etc=etc)
    cluster.enter(monkeypatch)
    # As root first: it loads all modules, which the other users may not be allowed to read.
    assert gexec.run(["true"], cwd="/").ok
    return cluster


@contextlib.contextmanager
def as_user(user: User, action: Callable[[Callable[[Any], None]], None]) -> Iterator[Callable[[], Any]]:
    """Do something as this user in a process of its own, which ends with the context.

    What ``action`` says with its argument, the yielded function returns, one after another.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.close(reading)
            os.setgroups([])
            os.setresgid(*[user.pw_gid] * 3)
            os.setresuid(*[user.pw_uid] * 3)

            def say(what: Any) -> None:
                os.write(writing, json.dumps(what).encode() + b"\n")

            action(say)
            signal.pause()  # what it holds open, stays open
        finally:
            os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            yield lambda: json.loads(pipe.readline())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def job(argv: list[str], nodes: list[str], **options: Any) -> Callable[[Callable[[Any], None]], None]:
    """Return an action that runs a job and says its outcomes and output."""

    def action(say: Callable[[Any], None]) -> None:
        done = gexec.run(argv, nodes=nodes, cwd="/", **options)
        say([[result.outcome.describe(), result.stdout.decode()] for result in done.results])

    return action


def works(cluster: Cluster, *users: User) -> None:
    """Check that these users' jobs run on all nodes, and root's."""
    for user in users:
        with as_user(user, job(["sh", "-c", "id -un; seq 100"], cluster.names)) as told:
            expected = f"{user.pw_name}\n" + "".join(f"{number}\n" for number in range(1, 101))
            assert told() == [["exited 0", expected]] * NODES
    done = gexec.run(["id", "-un"], nodes=cluster.names, cwd="/")
    assert [result.stdout for result in done.results] == [b"root\n"] * NODES


def relays(cluster: Cluster) -> list[int]:
    return [cluster.daemon(name)[1].pid for name in cluster.names]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


@pytest.fixture
def unharmed(cluster: Cluster, ben: User) -> Iterator[None]:
    """Whatever a test does: a job of ben that was there before goes on, and no daemon ends."""
    everyone = [process for name in cluster.names for process in cluster.daemon(name)]
    beginning = as_user(ben, job(["sh", "-c", "sleep 2; echo done"], cluster.names))
    with beginning as told:
        yield
        assert told() == [["exited 0", "done\n"]] * NODES
    assert all(map(is_alive, everyone))
    works(cluster, ben)


@pytest.mark.usefixtures("unharmed")
def test_attack_93_a_stopped_helper_with_900_ranks_on_each_node(
    cluster: Cluster, ann: User, ben: User
) -> None:
    stops = job(["sh", "-c", "trap '' HUP TERM; while :; do kill -STOP $PPID; done"], cluster.names)
    before = [descriptors(pid) for pid in relays(cluster)]
    with as_user(ann, stops), as_user(ann, job(["sleep", "1000"], cluster.names * 900)):
        wait_until(
            lambda: all(
                descriptors(pid) > few + 20 for pid, few in zip(relays(cluster), before, strict=True)
            ),
            "its ranks do not come",
        )
        works(cluster, ben)
        works(cluster, ben)


@pytest.mark.usefixtures("unharmed")
def test_attack_94_thousands_of_ranks_on_one_node(cluster: Cluster, ann: User, ben: User) -> None:
    """As many run as are in the user's share; each other one says why it does not."""
    with as_user(ann, job(["sleep", "3"], ["node001"] * 4096)) as told:
        works(cluster, ben)
        outcomes = [outcome for outcome, _ in told()]
    refused = {outcome for outcome in outcomes if outcome != "exited 0"}
    assert outcomes.count("exited 0") >= 64
    assert refused
    for outcome in refused:
        assert "out of resources: " in outcome
        assert f"uid {ann.pw_uid} has " in outcome
        assert "descriptors of pipes on this node and gets no more now" in outcome
        assert outcome.endswith("raise LimitNOFILE")
    works(cluster, ann)


@pytest.mark.usefixtures("unharmed")
def test_attack_95_thousands_of_addresses_that_do_not_answer(cluster: Cluster, ann: User, ben: User) -> None:
    """They are dialled some at a time, each for its whole time; another user's dials do not wait."""
    with contextlib.ExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        hole.bind(("", 0))
        hole.listen(0)
        port = hole.getsockname()[1]
        for _ in range(4):  # now the queue is full, and the kernel lets further packets fall
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        holes = [f"127.9.{number // 250}.{1 + number % 250}:{port}" for number in range(1500)]
        root = relays(cluster)[0]
        before = descriptors(root)
        patient = stack.enter_context(as_user(ann, job(["true"], holes, connect_timeout_s=1.0, fanout=1024)))
        wait_until(lambda: descriptors(root) > before + 60, "it does not dial")
        most = 0
        for _ in range(3):
            most = max(most, descriptors(root))
            one = job(["true"], [f"127.10.0.1:{port}"], connect_timeout_s=0.5)
            with as_user(ben, one) as told:
                assert "no answer within 0.5 s" in told()[0][0]
            works(cluster, ben)
        assert most < before + 250  # of 1,024
        assert all("no answer within 1 s" in outcome for outcome, _ in patient())
    wait_until(lambda: descriptors(root) < before + 20, "descriptors are left open")


@pytest.mark.usefixtures("unharmed")
def test_attack_96_half_sent_submissions(cluster: Cluster, ann: User, ben: User) -> None:
    """384 of them, of 5 MiB, were 1.9 GiB in the relay."""
    path = str(cluster.place.socket("node001"))

    def send(say: Callable[[Any], None]) -> None:
        size = limits.JOB_FRAME_MAX_BYTES
        begun = frames.encode(0, frames.Hello(1, "test")) + struct.pack("!IBI", size, 16, 1)
        held, refused = [], 0
        for _ in range(384):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(DEADLINE_S)
            sock.connect(path)
            held.append(sock)
            try:
                sock.sendall(begun + bytes(size - 1000))
            except OSError:
                refused += b"bytes of submissions that are not complete" in sock.recv(4096)
        say(refused)

    root = relays(cluster)[0]
    before = rss_mib(root)
    with as_user(ann, send) as told:
        assert 300 <= told() < 384
        works(cluster, ben)
        assert rss_mib(root) - before < 200  # 64 are held; what was refused came in pieces, too
    works(cluster, ann)


@pytest.mark.usefixtures("unharmed")
def test_attack_126_links_to_one_node_under_many_address_lists(
    cluster: Cluster, ann: User, ben: User
) -> None:
    """Each list is a link of its own; as many as are in the user's share, and the next job gets places."""
    path = str(cluster.place.socket("node001"))
    true = cluster.state.node("node002").address
    most = Shares(8 * limits.FANOUT_DEFAULT).left(ann.pw_uid)

    def lists(first: int, script: str) -> bytes:
        port = cluster.state.port
        addresses = [f"{true}:{port},127.11.0.1:{first + number}".encode() for number in range(most + 40)]
        names = ["node002"] * len(addresses)
        return rogue.spec_of(cluster, names, script, addresses=addresses, fanout=1024).encode()

    def submit(blob: bytes) -> Callable[[Callable[[Any], None]], None]:
        def action(say: Callable[[Any], None]) -> None:
            credential = rogue.signed(cluster, blob)
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            with rogue.Wire(sock, frames.FROM_ROOT).greet() as wire:
                wire.send(1, frames.Submit(credential, blob))
                texts: dict[str, int] = {}
                while not isinstance(frame := wire.expect(frames.Ended, frames.Done), frames.Done):
                    ranks = sum(high - low for low, high in frame.ranks)
                    texts[frame.outcome.text] = texts.get(frame.outcome.text, 0) + ranks
                say(texts)

        return action

    root = relays(cluster)[0]
    before = descriptors(root)
    with as_user(ann, submit(lists(1, "sleep 3"))) as told:
        wait_until(lambda: descriptors(root) >= before + most, "it does not dial")
        works(cluster, ben)
        assert descriptors(root) < before + most + 40
        texts = told()
    [why] = [text for text in texts if "links to other nodes" in text]
    assert f"uid {ann.pw_uid} has {most} links to other nodes on this node and gets no more now" in why
    assert texts.pop(why) == 40
    assert texts == {"": most}
    with as_user(ann, submit(lists(1000, "true"))) as told:  # the first ones are idle now
        assert told()[""] >= most
    assert descriptors(root) < before + most + 40
