"""A real keeper in a process of its own, with real commands."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gexec.jobs import access, control, spool
from gexec.jobs.access import JobError
from gexec.jobs.beginning import CannotBegin, begin
from gexec.jobs.keeper import KeeperTerms
from gexec.jobs.states import UNKEPT
from gexec.posix import descendants, identity
from gexec.wire.launches import Keeping
from gexec.wire.outcome import EXITED, KILLED, LOST, TIMED_OUT

JOB = "ab" * 16
UID = os.geteuid()
DEADLINE_S = 30.0


class Kept:
    """A command with its keeper; ``status`` of the keeper once it has ended."""

    def __init__(self, directory: Path, script: str, rank: int = 0, **options: Any) -> None:
        self.directory = str(directory)
        self.rank = rank
        told, telling = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._be_keeper(script, options, telling)
        os.close(telling)
        with open(told, "rb") as file:
            self.refused = file.read().decode()
        self.status: int | None = None
        if self.refused:
            self.wait()

    def _be_keeper(self, script: str, options: dict[str, Any], telling: int) -> None:
        status = 70
        try:
            os.setpgid(0, 0)
            identity.become_subreaper()
            null = os.open("/dev/null", os.O_RDONLY)
            keep_bytes = options.pop("keep_bytes", 100_000)
            jobs_max, bytes_max = options.pop("jobs_max", 9), options.pop("bytes_max", 10**9)
            keeping = Keeping(
                spool=self.directory, jobs_max=jobs_max, bytes_max=bytes_max,
                name="x", keep_bytes=keep_bytes, lease_s=60.0, holds=False, timeout_s=0.0, node="node1",
                ranks=5, user="ann",
            )  # fmt: skip

            def start(fds: tuple[int, int, int]) -> int:
                return os.posix_spawn(
                    "/bin/sh",
                    ["sh", "-c", script],
                    dict(os.environ) | {"GEXEC_JOB": JOB, "GEXEC_MY_VNN": str(self.rank)},
                    file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)],
                    setpgroup=0,
                    setsigdef=[signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT],
                )

            keeper = begin(
                keeping, JOB, self.rank, argv=[b"sh"], cwd=b"/", start=start, stdin=null, now_s=time.time(),
                terms=KeeperTerms(keep_bytes, **{"lease_s": 60.0} | options),
            )  # fmt: skip
            os.close(telling)
            status = os.waitstatus_to_exitcode(keeper.run()) & 0xFF
        except CannotBegin as error:
            os.write(telling, str(error).encode())
        finally:
            os._exit(status)

    def wait(self) -> int:
        """Return the keeper's exit status, when it has ended."""
        if self.status is None:
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def state(self) -> Any:
        with access.rank_place(self.directory, UID, JOB, self.rank) as (_, place):
            return access.state_of(place)

    def ask(self, request: str) -> list[str]:
        with self.connect() as sock:
            return control.ask(sock, request, DEADLINE_S)

    def connect(self) -> socket.socket:
        with access.rank_place(self.directory, UID, JOB, self.rank) as (_, place):
            return control.connect(place.fd)

    def files(self, stream: str = "stdout") -> bytes:
        where = Path(self.directory) / str(UID) / f"{JOB}.{self.rank}"
        pieces = sorted(where.glob(f"{stream}.*"), key=lambda path: int(path.suffix[1:]))
        return b"".join([path.read_bytes() for path in pieces])


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Kept]]:
    monkeypatch.chdir("/")  # requests change it
    made: list[Kept] = []

    def make(script: str, **options: Any) -> Kept:
        made.append(Kept(tmp_path, script, rank=len(made), **options))
        return made[-1]

    yield make
    for one in made:
        if one.status is None:
            descendants.kill_tree([one.pid])
            one.wait()


def until(what: Callable[[], object]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < end_s, what
        time.sleep(0.01)


def test_output_and_exit_status_are_kept(kept: Callable[..., Kept]) -> None:
    one = kept("echo out; echo err >&2; exit 3")
    assert one.wait() == 3
    state = one.state()
    assert (state.outcome.kind, state.outcome.value, state.lengths) == (EXITED, 3, (4, 4))
    assert (one.files(), one.files("stderr")) == (b"out\n", b"err\n")
    assert not state.held


def test_news_come_when_there_are_some_and_at_the_end(kept: Callable[..., Kept], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    one = kept(f"echo one; read x <{tmp_path}/go; echo two")
    assert one.ask("news 0 0") == ["more", "4", "0"]
    sock = one.connect()
    sock.send(b"news 4 0")
    (tmp_path / "go").write_text("\n")
    assert sock.recv(99) in (b"more 8 0", b"ended 8 0")
    sock.close()
    one.wait()
    assert one.state().lengths == (8, 0)


def test_a_signal_goes_to_the_command_and_its_leftovers_end_with_it(kept: Callable[..., Kept]) -> None:
    one = kept("setsid sleep 1000 & echo on; sleep 1000")
    assert one.ask("news 0 0")[0] == "more"
    assert one.ask("signal 15") == ["ok"]
    one.wait()
    assert (one.state().outcome.kind, one.state().outcome.value) == (KILLED, 15)


def test_kill_ends_what_ignores_signals_and_has_left_its_session(kept: Callable[..., Kept]) -> None:
    one = kept("trap '' TERM HUP; setsid sh -c 'trap \"\" TERM HUP; echo on; sleep 1000; sleep 1000' & "
               "sleep 1000; sleep 1000", kill_grace_s=0.2)  # fmt: skip
    assert one.ask("news 0 0")[0] == "more"
    with access.rank_place(one.directory, UID, JOB, one.rank) as (_, place):
        assert access.kill(place, False) == ""
    one.wait()
    assert (one.state().outcome.kind, one.state().outcome.value) == (KILLED, 9)
    with access.rank_place(one.directory, UID, JOB, one.rank) as (_, place):
        assert "does not run: killed by signal 9" in access.kill(place, False)
        with pytest.raises(JobError, match="does not run"):
            access.send_signal(place, 15)


def test_others_that_hold_the_output_may_write_more(kept: Callable[..., Kept], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    one = kept(f"(read x <{tmp_path}/go; echo late) & echo early")
    until(lambda: one.state().outcome is not None)
    assert one.state().held
    with access.rank_place(one.directory, UID, JOB, one.rank) as (user_fd, place), pytest.raises(JobError):
        access.forget(user_fd, place)
    (tmp_path / "go").write_text("\n")
    assert one.wait() == 0
    assert one.files() == b"early\nlate\n"
    assert (one.state().held, one.state().lengths) == (False, (11, 0))


def test_leftovers_are_left_alone_unless_the_policy_ends_them(kept: Callable[..., Kept]) -> None:
    free, bound = [
        kept("sleep 1000 >/dev/null 2>&1 & echo $!", leaves=leaves) for leaves in (True, False)
    ]  # fmt: skip
    assert free.wait() == 0
    left = int(free.files())
    assert descendants.stat_of(left) is not None
    os.kill(left, signal.SIGKILL)
    assert bound.wait() == 0
    assert descendants.stat_of(int(bound.files())) is None


def test_a_command_is_ended_after_its_timeout(kept: Callable[..., Kept]) -> None:
    one = kept("sleep 1000", timeout_s=0.2)
    one.wait()
    outcome = one.state().outcome
    assert (outcome.kind, outcome.text) == (TIMED_OUT, "ran longer than 0.2 s")


def test_a_keeper_that_is_killed_leaves_a_lost_rank_that_can_be_ended(kept: Callable[..., Kept]) -> None:
    one = kept("echo $$; exec sleep 1000")
    assert one.ask("news 0 0")[0] == "more"
    os.kill(one.pid, signal.SIGKILL)
    one.wait()
    outcome = one.state().outcome
    assert (outcome.kind, outcome.text) == (LOST, UNKEPT)
    with access.rank_place(one.directory, UID, JOB, one.rank) as (user_fd, place):
        assert access.kill(place, False).endswith("killed: 1")
        access.forget(user_fd, place)
    with pytest.raises(JobError, match="not kept here"):
        one.state()


def test_a_signal_to_the_keeper_ends_the_command(kept: Callable[..., Kept]) -> None:
    one = kept("echo on; sleep 1000")
    assert one.ask("news 0 0")[0] == "more"
    os.kill(one.pid, signal.SIGTERM)
    one.wait()
    assert one.state().outcome.kind == KILLED


def test_a_reader_that_holds_loses_no_byte(kept: Callable[..., Kept]) -> None:
    one = kept("seq 1 20000", holds=True, keep_bytes=10_000)
    sock, read = one.connect(), b""
    with access.rank_place(one.directory, UID, JOB, one.rank) as (_, place):
        from gexec.jobs.reading import StreamReader

        reader = StreamReader(place, 0)
        while True:
            while (piece := reader.next()) is not None:
                assert isinstance(piece, bytes)
                read += piece
            if control.ask(sock, f"news {len(read)} 0 hold", DEADLINE_S)[:1] != ["more"]:
                break
        while (piece := reader.next()) is not None:
            assert isinstance(piece, bytes)
            read += piece
    assert read == b"".join([b"%d\n" % number for number in range(1, 20001)])
    sock.close()
    assert one.wait() == 0


def test_when_the_reader_has_gone_output_is_discarded(kept: Callable[..., Kept]) -> None:
    one = kept("seq 1 20000", holds=True, keep_bytes=10_000)
    sock = one.connect()
    assert control.ask(sock, "news 0 0 hold", DEADLINE_S)[0] == "more"
    sock.close()
    assert one.wait() == 0
    assert len(one.files()) <= 10_000


def test_limits_of_a_user_are_kept(kept: Callable[..., Kept]) -> None:
    kept("exit 0").wait()
    assert kept("exit 0", jobs_max=1).refused.startswith(
        "this node keeps 1 processes of background jobs of ann: "
    )
    assert "MiB" in kept("exit 0", bytes_max=10).refused
    assert kept("exit 0").wait() == 0


def test_nonsense_is_answered_and_many_connections_are_refused(kept: Callable[..., Kept]) -> None:
    one = kept("sleep 1000")
    assert one.ask("hello") == ["no", "such", "request"]
    socks = [one.connect() for _ in range(70)]
    for sock in socks[:64]:
        sock.send(b"news 0 0")
    assert socks[-1].recv(9) == b""
    for sock in socks:
        sock.close()
    until(lambda: one.ask("signal 0") == ["no", "such", "request"])


def test_attach_ends_as_the_command(
    kept: Callable[..., Kept], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    one = kept("echo one; echo two >&2; sleep 0.2; echo three; exit 4")
    with access.rank_place(one.directory, UID, JOB, one.rank) as (_, place):
        assert access.attach(place, None, False) == 4
        assert access.await_end(place) == 4
        access.show(place, 6)
    out, err = capfdbinary.readouterr()
    assert out == b"one\nthree\nthree\n"
    assert err == b"two\ntwo\n"


def test_a_process_ends_by_the_signal_that_ended_the_command(kept: Callable[..., Kept]) -> None:
    one = kept("kill -TERM $$")
    one.wait()
    pid = os.fork()
    if pid == 0:
        try:
            with access.rank_place(one.directory, UID, JOB, one.rank) as (_, place):
                access.await_end(place)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


def test_all_states_of_a_user(kept: Callable[..., Kept], tmp_path: Path) -> None:
    first, second = kept("exit 0"), kept("sleep 1000")
    first.wait()
    found = {state.rank: state.runs for state in access.states(str(tmp_path), [UID, 99999], time.time())}
    assert found == {first.rank: False, second.rank: True}
    found = {state.rank: state.runs for state in access.states(str(tmp_path), [UID], time.time() + 100)}
    assert found == {second.rank: True}
    assert spool.users(str(tmp_path)) == [UID]
