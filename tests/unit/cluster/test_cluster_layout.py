"""The parts of a local cluster that need no daemon: names, paths, ports, state, processes, keys."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gexec import limits
from gexec.cluster import control, doctor, keypair, layout, processes
from gexec.cluster.findings import PROBLEM, WARNING
from gexec.cluster.layout import ClusterError, Layout, LocalNode, State
from gexec.cluster.processes import Process
from gexec.errors import KeyFileError, UsageError
from gexec.posix import descendants
from gexec.posix.descendants import children_of
from gexec.settings.keyfiles import read_pair

DEADLINE_S = 30.0


def test_names_have_as_many_digits_as_the_last_one_needs_and_at_least_three() -> None:
    assert layout.node_names(2) == ["node001", "node002"]
    assert layout.node_names(1000)[::999] == ["node0001", "node1000"]


def test_addresses_are_all_different_and_never_end_in_0_or_255() -> None:
    addresses = [layout.node_address(index) for index in range(layout.NODES_MAX)]
    assert len(set(addresses)) == layout.NODES_MAX
    assert addresses[0] == "127.0.1.1"
    assert not any(address.rsplit(".", 1)[1] in ("0", "255") for address in addresses)


def test_layout_takes_the_folder_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEXEC_CLUSTER_DIR", str(tmp_path))
    assert Layout.of(None).dir == tmp_path
    monkeypatch.delenv("GEXEC_CLUSTER_DIR")
    assert Layout.of(None).dir == Path.home() / ".local/state/gexec/cluster"


@pytest.mark.parametrize("count", [0, -1, layout.NODES_MAX + 1])
def test_a_count_out_of_bounds_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(UsageError, match=f"{count} nodes"):
        Layout(tmp_path).check(count)


def test_a_folder_too_long_for_sockets_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="107; choose a shorter directory with --dir"):
        Layout(tmp_path / ("d" * 100)).check(1)


def test_the_longest_path_that_passes_the_check_can_be_bound() -> None:
    # Not in tmp_path, which may itself be near the limit.
    import tempfile

    with tempfile.TemporaryDirectory(prefix="gx", dir="/tmp") as short:
        room = limits.SOCKET_PATH_MAX_BYTES - len(f"{short}//run/node001.sock")
        place = Layout(Path(short) / ("d" * room))
        place.check(1)
        with pytest.raises(UsageError):
            Layout(Path(short) / ("d" * (room + 1))).check(1)
        place.create()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place.socket("node001")))


def test_create_makes_folders_that_others_cannot_write_to(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        place = Layout(tmp_path / "new" / "cluster")
        place.create()
    finally:
        os.umask(umask)
    for path in (place.dir.parent, place.dir, place.dir / "keys", place.dir / "run", place.dir / "logs"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0, path
    assert stat.S_IMODE((place.dir / "keys").stat().st_mode) == 0o700


def test_state_comes_back_as_it_was_written(tmp_path: Path) -> None:
    place = Layout(tmp_path)
    nodes = [LocalNode("node001", "127.0.1.1", Process(10, 11)), LocalNode("node002", "127.0.1.2")]
    state = State(2875, Process(1, 2), Process(3, 4), nodes, Process(5, 6), True, ["/srv/x"])
    assert State.read(place) is None
    state.write(place)
    assert State.read(place) == state
    assert state.node("node002") == nodes[1]
    with pytest.raises(UsageError, match=r"node003: no node .* 2 nodes, node001 to node002"):
        state.node("node003")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', "\0", json.dumps({"format": 1, "port": "x"}), "[" * 100_000]
)
def test_a_state_that_is_none_is_told_and_never_a_traceback(tmp_path: Path, text: str) -> None:
    place = Layout(tmp_path)
    place.state.write_text(text)
    with pytest.raises(ClusterError, match="not the state of a cluster"):
        State.read(place)


def test_export_lines_survive_a_shell() -> None:
    variables = {"GEXEC_SVRS": "node001 node002", "GEXEC_SOCKET": "/a b/'c'/$HOME/`d`\\/é.sock"}
    script = layout.export_lines(variables) + 'printf "%s\\0" "$GEXEC_SVRS" "$GEXEC_SOCKET"'
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0") == [*variables.values(), ""]


def test_hosts_text_is_an_address_and_a_name_a_line() -> None:
    assert layout.hosts_text([LocalNode("n1", "127.0.1.1"), LocalNode("n2", "127.0.1.2")]) == (
        "127.0.1.1 n1\n127.0.1.2 n2\n"
    )


def test_a_reserved_port_is_not_given_twice_and_a_taken_one_is_told() -> None:
    addresses = ["127.0.1.1", "127.0.1.2"]
    first, reservation = layout.reserve_port(addresses, None)
    second, other = layout.reserve_port(addresses, None)
    with reservation, other:
        assert second > first
        with pytest.raises(ClusterError, match=f"port {first} is taken"):
            layout.reserve_port(addresses, first)


def test_a_port_that_somebody_listens_on_is_skipped() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.1.2", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ClusterError, match="taken"):
            layout.reserve_port(["127.0.1.1", "127.0.1.2"], port)
        assert list(doctor.listening(port)) == [("127.0.1.2", os.getuid())]


# -- processes --------------------------------------------------------------------------------


def test_a_process_is_known_by_pid_and_start_time() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    process = processes.seen(child.pid)
    assert process is not None
    assert child.pid in children_of(os.getpid())
    stranger = Process(process.pid, process.start + 1)
    assert not processes.send_signal(stranger, signal.SIGKILL)  # attack 84: the pid is another's now
    assert processes.is_alive(process)
    assert processes.send_signal(process, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_alive(process)  # a zombie
    child.wait()
    assert not processes.send_signal(process, signal.SIGKILL)


_FAMILY = """
import os, subprocess, sys, time
relay = os.fork()
if relay == 0:
    helper = os.fork()
    if helper == 0:
        task = subprocess.Popen(["/bin/sh", "-c", "sleep 1000 & (sleep 1000; true) & wait"])
        print(os.getppid(), os.getpid(), flush=True)
    time.sleep(1000)
time.sleep(1000)
"""


def test_forked_family_is_the_daemon_and_never_a_task() -> None:
    main = subprocess.Popen([sys.executable, "-c", _FAMILY], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert main.stdout is not None
        relay, helper = map(int, main.stdout.readline().split())
        first = processes.seen(main.pid)
        assert first is not None
        deadline_s = time.monotonic() + DEADLINE_S
        # The task is a fork for as long as it takes it to call exec.
        while [one.pid for one in processes.forked_family(first)] != [main.pid, relay, helper]:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert len(children_of(helper)) == 1
    finally:
        os.killpg(main.pid, signal.SIGKILL)
        main.communicate()


def test_children_found_by_scan_are_the_same() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    try:
        assert child.pid in descendants._children_by_scan(os.getpid())
    finally:
        child.kill()
        child.wait()


# -- keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "bits"), [("ed25519", None), ("rsa", 2048)])
def test_a_made_key_pair_is_one_that_authd_takes(tmp_path: Path, kind: str, bits: int | None) -> None:
    private, public = tmp_path / "auth_priv.pem", tmp_path / "auth_pub.pem"
    umask = os.umask(0)
    try:
        keypair.create(private, public, kind, bits)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert read_pair(str(private), [str(public)])
    before = private.read_bytes()
    with pytest.raises(KeyFileError, match="already exists; --force"):
        keypair.create(private, public, kind, bits)
    assert private.read_bytes() == before
    keypair.create(private, public, "ed25519", force=True)
    read_pair(str(private), [str(public)])


@pytest.mark.parametrize(
    ("kind", "bits", "said"),
    [
        ("rsa", 512, "512 bits"),
        ("rsa", 1 << 20, "bits: expected"),
        ("ed25519", 2048, "--bits"),
        ("dsa", None, "dsa"),
    ],
)
def test_a_key_that_no_daemon_would_take_is_not_made(
    tmp_path: Path, kind: str, bits: int | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        keypair.create(tmp_path / "a", tmp_path / "b", kind, bits)
    assert os.listdir(tmp_path) == []


# -- doctor without anything ------------------------------------------------------------------


def test_doctor_names_what_is_missing_where_nothing_runs(tmp_path: Path) -> None:
    environ = {
        "GEXEC_CLUSTER_DIR": str(tmp_path),
        "GEXEC_SOCKET": str(tmp_path / "none.sock"),
        "GEXEC_AUTHD_SOCKET": str(tmp_path / "no-authd.sock"),
        "GEXEC_SVRS": "localhost name.invalid",
        "GEXEC_SVR": "misspelt",
    }
    what, findings = doctor.subject(environ=environ)
    findings += doctor.examine(what)
    problems = [finding.text for finding in findings if finding.level == PROBLEM]
    for said in ("auth_pub.pem", "no-authd.sock", "none.sock", "name.invalid"):
        assert any(said in text for text in problems), (said, problems)
    assert any("GEXEC_SVR " in finding.text for finding in findings if finding.level == WARNING)


def test_doctor_knows_every_variable_of_the_manuals() -> None:
    docs = Path(__file__).parents[3] / "docs"
    text = "".join([path.read_text() for path in docs.glob("*.md")])
    named = set(re.findall(r"\bGEXEC_[A-Z_]*[A-Z]\b", text))
    assert named - {"GEXEC_EVENT"} == doctor.KNOWN_VARIABLES  # a field of the journal


def test_doctor_sees_that_two_keys_are_no_pair(tmp_path: Path) -> None:
    keypair.create(tmp_path / "one", tmp_path / "one.pub")
    keypair.create(tmp_path / "two", tmp_path / "two.pub")
    what, _ = doctor.subject(str(tmp_path / "one"), str(tmp_path / "two.pub"), environ={})
    assert any("not a pair" in finding.text for finding in doctor.examine(what))
    (tmp_path / "one").chmod(0o644)
    assert any("chmod 600" in finding.text for finding in doctor.examine(what))


# -- no cluster -------------------------------------------------------------------------------


def test_a_start_that_fails_leaves_no_folder_that_it_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.1.1", 0)) as taken:
        port = taken.getsockname()[1]
        there = tmp_path / "there"
        there.mkdir()
        for folder in (tmp_path / "new", there):
            with pytest.raises(ClusterError, match=str(port)):
                control.up(1, Layout(folder), port=port)
    assert os.listdir(tmp_path) == ["there"]


def test_down_where_nothing_runs_is_no_error(tmp_path: Path) -> None:
    assert control.down(Layout(tmp_path)) is None


def test_a_state_that_a_crash_left_is_no_running_cluster(tmp_path: Path) -> None:
    place = Layout(tmp_path)
    gone = Process(os.getpid(), 1)  # our pid, but started when nobody of this machine was
    State(2875, gone, gone, [LocalNode("node001", "127.0.1.1", gone)], gone, True).write(place)
    with pytest.raises(ClusterError, match="no cluster runs here"):
        control.require(place)
    assert control.down(place) is None
    assert not place.state.exists()
