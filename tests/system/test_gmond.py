"""Ganglia chooses: a real gmond, captured answers, and servers that are dead, slow or lie."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gexec.client.nodes import choose
from gexec.select.sources import Selection

from .conftest import Cluster, wait_until

GMOND = shutil.which("gmond", path="/usr/sbin:/usr/bin:/sbin:/usr/local/sbin") or ""
needs_gmond = pytest.mark.skipif(not GMOND, reason="needs gmond (Debian: ganglia-monitor)")

CONFIG = """\
globals {{
  daemonize = no
  setuid = no
  mute = no
  deaf = {deaf}
  gexec = {gexec}
  host_dmax = 0
  send_metadata_interval = 1
  override_hostname = "{name}"
  override_ip = "{address}"
}}
cluster {{ name = "test" }}
udp_send_channel {{ host = 127.0.0.1 port = {udp} }}
{channels}
modules {{
  module {{ name = "core_metrics" }}
  {modules}
}}
collection_group {{
  collect_once = yes
  time_threshold = 1
  metric {{ name = "heartbeat" }}
  metric {{ name = "gexec" }}
}}
{load}
"""


def free_ports(count: int) -> list[int]:
    """Return ports that are free for TCP and for UDP on 127.0.0.1."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port not in found:
                found.append(port)
    return found


class Gmonds:
    """Real gmonds of one cluster on loopback; the first also listens and answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.udp, self.tcp = free_ports(2)
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, address: str, gexec: str = "yes") -> None:
        listens = not self.running
        load = glob.glob("/usr/lib/*/ganglia/modload.so") + glob.glob("/usr/lib*/ganglia/modload.so")
        channels = (
            f"udp_recv_channel {{ port = {self.udp} bind = 127.0.0.1 }}\n"
            f"tcp_accept_channel {{ port = {self.tcp} bind = 127.0.0.1 }}"
        )
        config = self.folder / f"{name}.conf"
        config.write_text(
            CONFIG.format(
                name=name,
                address=address,
                gexec=gexec,
                udp=self.udp,
                deaf="no" if listens else "yes",
                channels=channels if listens else "",
                modules=f'module {{ name = "load_module" path = "{load[0]}" }}' if load else "",
                load='collection_group { collect_every = 1 time_threshold = 1 metric { name = "load_one" } }'
                if load
                else "",
            )
        )
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running.append(
                subprocess.Popen(
                    [GMOND, "--foreground", "--conf", config],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    user=65534 if os.geteuid() == 0 else None,
                )
            )
        wait_until(lambda: b'NAME="gexec"' in self.said_of(name), f"gmond does not tell of {name}")

    def said_of(self, name: str) -> bytes:
        """Return what the listening gmond says of a host, b"" if nothing yet."""
        try:
            with socket.create_connection(("127.0.0.1", self.tcp), 5) as sock:
                document = b"".join(iter(lambda: sock.recv(65536), b""))
        except OSError:
            return b""
        return document.partition(b'<HOST NAME="%s"' % name.encode())[2].partition(b"</HOST>")[0]

    def stop(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture
def gmonds() -> Iterator[Gmonds]:
    folder = Path(tempfile.mkdtemp(prefix="gm", dir="/tmp"))
    folder.chmod(0o755)
    started = Gmonds(folder)
    yield started
    started.stop()
    shutil.rmtree(folder)


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server on loopback that does this with each connection; gives ``127.0.0.1:port``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                try:
                    serve(sock)
                except OSError:
                    pass  # the client left

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def sends(document: bytes) -> Callable[[socket.socket], None]:
    return lambda sock: sock.sendall(document)


def captured(*hosts: tuple[str, str, int, str, str, int], age_s: int = 0) -> bytes:
    """Return gmond's XML of hosts: name, address, age in seconds, gexec, load_one, cpu_num."""
    now_s = int(time.time()) - age_s
    text = '<GANGLIA_XML VERSION="3.7.2" SOURCE="gmond">\n'
    text += f'<CLUSTER NAME="test" LOCALTIME="{now_s}" OWNER="unspecified">\n'
    for name, address, age, gexec, load, cpus in hosts:
        text += f'<HOST NAME="{name}" IP="{address}" TAGS="" REPORTED="{now_s - age}" TN="{age}">\n'
        for metric, value in (("load_one", load), ("gexec", gexec), ("cpu_num", cpus)):
            text += f'<METRIC NAME="{metric}" VAL="{value}" TYPE="float" SLOPE="both">\n'
            text += '<EXTRA_DATA>\n<EXTRA_ELEMENT NAME="GROUP" VAL="load"/>\n</EXTRA_DATA>\n</METRIC>\n'
        text += "</HOST>\n"
    return (text + "</CLUSTER>\n</GANGLIA_XML>\n").encode()


def wild() -> bytes:
    """Return a gmetad's XML as sites have it: see issue 9, C. Only node004 and node006 will do."""
    now_s = int(time.time())

    def host(name: str, address: str, reported_s: int, tn_s: int, gexec: str = "ON") -> str:
        metric = f'<METRIC NAME="gexec" VAL="{gexec}" TYPE="string"/>' if gexec else ""
        return f'<HOST NAME="{name}" IP="{address}" REPORTED="{reported_s}" TN="{tn_s}">{metric}</HOST>'

    gone_s = now_s - 500_000
    dead = "".join([host(f"node00{number}", "127.0.0.1", gone_s - 3, 500_003) for number in (1, 2, 4)])
    live = (
        host("NODE004", "127.0.0.1", now_s - 9, 9)
        + host("node004.", "127.0.0.1", now_s - 2, 2)
        + host("rack 7: pdu", "", now_s, 1)
        + host("ups1", "", now_s, 1)
        + host("node005", "127.0.0.1", now_s, 1, "")
    )
    return (
        f'<GANGLIA_XML VERSION="3.7.2" SOURCE="gmetad">{host("node006", "127.0.0.1", 1, 4)}<GRID NAME="g">'
        f'<CLUSTER NAME="old" LOCALTIME="{gone_s}">{dead}</CLUSTER>'
        f'<CLUSTER NAME="new" LOCALTIME="{now_s}">{live}</CLUSTER></GRID></GANGLIA_XML>'
    ).encode()


def environment(cluster: Cluster, servers: str) -> dict[str, str | None]:
    return {"GEXEC_SVRS": None, "GEXEC_GMOND_SVRS": servers, "GEXEC_NODELIST": None}


def node_lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [line.split()[0].decode() for line in done.stdout.splitlines()]


@needs_gmond
def test_a_real_gmond_chooses_the_nodes(cluster: Cluster, gmonds: Gmonds) -> None:
    gmonds.start("node003", "127.0.9.3")
    gmonds.start("node005", "127.0.9.5")
    gmonds.start("node007", "127.0.9.7", gexec="no")
    env = environment(cluster, f"127.0.0.1:{gmonds.tcp}")
    done = cluster.gexec("-v", "-n", "0", "-p", "host", "echo", "here", env=env)
    assert sorted(node_lines(done)) == ["node003", "node005"]
    assert b"2 nodes from gmond at 127.0.0.1:%d, the least loaded first" % gmonds.tcp in done.stderr
    assert b"(left out of 3 hosts: 1 with gexec = no in its gmond.conf)" in done.stderr
    # A spoofed device, as gmetric --spoof makes them: an address, a colon, anything.
    gmetric = shutil.which("gmetric", path="/usr/bin:/usr/local/bin")
    assert gmetric, "gmond without gmetric"
    conf = str(gmonds.folder / "node003.conf")
    spoof = ["--spoof", "127.0.9.9:rack 7: pdu", "-n", "watts", "-v", "5", "-t", "int32"]
    subprocess.run([gmetric, "-c", conf, *spoof], check=True)
    wait_until(lambda: bool(gmonds.said_of("rack 7: pdu")), "gmond does not tell of the device")
    done = cluster.gexec("-v", "-n", "0", "-p", "host", "echo", "here", env=env)
    assert sorted(node_lines(done)) == ["node003", "node005"]
    assert b"left out of 4 hosts: 1 with an invalid name, 1 with gexec = no" in done.stderr
    done = cluster.gexec("-n", "3", "true", env=env)
    assert done.returncode == 2
    assert b"Not enough hosts available: 3 asked, 2 known (from gmond" in done.stderr


def test_the_least_loaded_come_first_and_the_dead_not_at_all(cluster: Cluster) -> None:
    document = captured(
        ("node001", "127.0.0.1", 3, "ON", "4.00", 2),
        ("node002", "127.0.0.1", 90, "ON", "0.00", 64),
        ("node003", "127.0.0.1", 0, "ON", "1.00", 8),
        ("node004", "127.0.0.1", 0, "OFF", "0.00", 64),
        ("node005", "127.0.0.1", 20, "ON", "0.50", 2),
    )
    with server(sends(document)) as address:
        done = cluster.gexec("sh", "-c", "echo $GEXEC_NODE", env=environment(cluster, address))
    assert sorted(done.stdout.splitlines()) == [b"0 node003", b"1 node005", b"2 node001"]


def test_an_address_that_gmond_tells_serves_a_name_that_does_not_resolve(cluster: Cluster) -> None:
    hosts = Path(cluster.env["GEXEC_HOSTS"]).read_text()
    address = next(line.split()[0] for line in hosts.splitlines() if "node006" in line.split())
    other = next(line.split()[0] for line in hosts.splitlines() if "node002" in line.split())
    document = captured(("node006", address, 0, "ON", "0", 1), ("node004", other, 0, "ON", "1", 1))
    with server(sends(document)) as gmond:
        env = environment(cluster, gmond) | {"GEXEC_HOSTS": "/dev/null"}
        done = cluster.gexec("-p", "host", "echo", "here", env=env)
    # Who answers at the told address must be who was named: node002 is not node004.
    assert done.stdout == b"node006 here\n"
    assert done.returncode == 255
    assert b"node004" in done.stderr


def hang(sock: socket.socket) -> None:
    sock.recv(1)  # until the client leaves


def drip(sock: socket.socket) -> None:
    sock.settimeout(0.05)
    sock.sendall(b"<GANGLIA_XML>")
    while True:
        sock.sendall(b" ")
        try:
            if not sock.recv(1):
                return
        except TimeoutError:
            pass


def test_servers_are_asked_in_order_until_one_knows_nodes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gexec.limits.GMOND_ANSWER_S", 0.5)
    nobody = captured(("node001", "127.0.0.1", 600, "ON", "0", 1))
    laughs = b'<!DOCTYPE x [<!ENTITY a "ha">]><GANGLIA_XML>&a;</GANGLIA_XML>'
    [closed] = free_ports(1)
    with (
        server(sends(b"")) as empty,
        server(sends(b"HTTP/1.0 400 Bad Request\r\n\r\n")) as web,
        server(sends(laughs)) as hostile,
        server(sends(nobody)) as dead,
        server(hang) as silent,
        server(drip) as slow,
        server(sends(captured(("node004", "127.0.0.1", 0, "ON", "0", 1)))) as good,
        server(sends(captured(("node005", "127.0.0.1", 0, "ON", "0", 1)))) as later,
    ):
        bad = f"127.0.0.1:{closed} no..such:8649 {empty} {web} {hostile} {dead} {silent} {slow}"
        choice = choose(Selection(), {"GEXEC_GMOND_SVRS": f"{bad} {good} {later}"})
    assert choice.nodes == [("node004", 0)]
    assert choice.source.startswith(f"gmond at {good}, the least loaded first (gmond at 127.0.0.1:{closed} ")
    for reason in (
        "Connection refused",
        "gmond at no..such:8649 does not answer: its name does not resolve",
        f"gmond at {empty}: its answer is not XML",
        f"gmond at {web}: its answer is not XML",
        f"gmond at {hostile}: its XML declares entities",
        f"gmond at {dead} lists 1 host, but none is up and runs gexec: 1 without a report for 60 s",
        f"gmond at {silent}: its answer takes longer than 0.5 s",
        f"gmond at {slow}: its answer takes longer than 0.5 s",
    ):
        assert reason in choice.source


def test_without_any_gmond_the_error_says_what_was_asked(cluster: Cluster) -> None:
    [closed] = free_ports(1)
    done = cluster.gexec("true", env=environment(cluster, f"127.0.0.1:{closed}"))
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == [
        "gexec: no nodes: GEXEC_GMOND_SVRS names none: check the servers, or unset it",
        f"  gmond at 127.0.0.1:{closed} does not answer: Connection refused",
    ]


def test_malformed_or_too_many_servers_are_named(cluster: Cluster) -> None:
    done = cluster.gexec("true", env=environment(cluster, "grid:none"))
    assert (done.returncode, b"GEXEC_GMOND_SVRS: 'grid:none': expected a port" in done.stderr) == (2, True)
    done = cluster.gexec("true", env=environment(cluster, "grid " * 17))
    assert (done.returncode, b"GEXEC_GMOND_SVRS: 17 servers" in done.stderr) == (2, True)


def test_skip_down_leaves_out_what_gmond_or_the_last_job_found_dead(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gexec.client.down import remember

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remember(["node002"], [])
    selection = Selection()
    selection.nodes = ["node[001-004]"]
    selection.skip_down = True
    document = captured(
        ("node001", "127.0.0.1", 0, "OFF", "0", 1), ("node003.cluster", "127.0.0.1", 999, "ON", "0", 1)
    )
    with server(sends(document)) as gmond:
        environ = {"GEXEC_GMOND_SVRS": gmond}
        choice = choose(selection, environ)
        assert [name for name, _ in choice.nodes] == ["node001", "node004"]
        assert choice.source == "-w without 2 that are down"
    choice = choose(selection, environ)  # no gmond any more
    assert [name for name, _ in choice.nodes] == ["node001", "node003", "node004"]
    assert (
        choice.source == f"-w (gmond at {gmond} does not answer: Connection refused) without 1 that is down"
    )
    selection.nodes = ["node002"]
    with pytest.raises(Exception, match="no node is left: --skip-down leaves out all 1"):
        choose(selection, environ)


def test_ganglia_in_the_wild_runs_one_process_on_each_good_host(cluster: Cluster) -> None:
    with server(sends(wild())) as address:
        env = environment(cluster, address)
        done = cluster.gexec("-v", "-n", "0", "sh", "-c", "echo $GEXEC_NODE", env=env)
    assert sorted(line.split()[1] for line in done.stdout.splitlines()) == [b"node004", b"node006"], done
    assert (
        b"(left out of 9 hosts: 2 in a cluster whose source is silent for 60 s, 2 listed again, "
        b"1 with an invalid address, or none, 1 with an invalid name, 1 without the metric gexec)"
    ) in done.stderr


def test_if_no_host_is_left_each_server_says_how_many_and_why(cluster: Cluster) -> None:
    off = captured(("node001", "127.0.0.1", 0, "OFF", "0", 1), ("node002", "127.0.0.1", 99, "ON", "0", 1))
    with server(sends(off)) as first, server(sends(captured(("", "", 0, "ON", "0", 1)))) as second:
        done = cluster.gexec("true", env=environment(cluster, f"{first} {second}"))
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[1:] == [
        f"  gmond at {first} lists 2 hosts, but none is up and runs gexec: "
        "1 with gexec = no in its gmond.conf, 1 without a report for 60 s",
        f"  gmond at {second} lists 1 host, but none is up and runs gexec: 1 with an invalid name",
    ]
