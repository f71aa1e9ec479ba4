"""Audit lines in the journal: in datagrams that a real journald stores, and never waited for."""

from __future__ import annotations

import array
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gexec.posix.channel import unsealed
from gexec.posix.journal import JournalOutlet

LINE = b'{"event":"exec","reason":"a=b"}\n'
JOURNALD = "/usr/lib/systemd/systemd-journald"


def receiver(path: Path) -> socket.socket:
    """Return a socket in journald's place."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.setblocking(False)
    return sock


def test_a_line_is_a_datagram_of_fields(tmp_path: Path) -> None:
    with receiver(tmp_path / "s") as sock:
        outlet = JournalOutlet("gexecd", str(tmp_path / "s"))
        outlet.put(LINE, "deny", "ab" * 16)
        assert sock.recv(65536).split(b"\n") == [
            b"MESSAGE=" + LINE.rstrip(),
            b"PRIORITY=5",
            b"SYSLOG_IDENTIFIER=gexecd",
            b"GEXEC_EVENT=deny",
            b"GEXEC_JOB=" + b"ab" * 16,
            b"",
        ]
        outlet.close()


def test_a_line_that_is_too_large_for_a_datagram_goes_in_a_sealed_memfd(tmp_path: Path) -> None:
    with receiver(tmp_path / "s") as sock:
        outlet = JournalOutlet("gexecd", str(tmp_path / "s"))
        outlet.put(b"x" * 900_000 + b"\n", "exec", "")
        data, ancillary, _, _ = sock.recvmsg(10, socket.CMSG_SPACE(4))
        fd = array.array("i", ancillary[0][2])[0]
        assert (data, unsealed(fd)[:900_011]) == (b"", b"MESSAGE=" + b"x" * 900_000 + b"\nPR")
        os.close(fd)
        outlet.close()


def fill(outlet: JournalOutlet) -> None:
    """Send lines until the journal's queue is full."""
    while True:
        outlet.put(LINE, "exec", "")


def test_attack_113_a_journal_that_reads_nothing_or_is_not_there_blocks_nobody(tmp_path: Path) -> None:
    outlet = JournalOutlet("gexecd", str(tmp_path / "s"))
    with pytest.raises(FileNotFoundError):
        outlet.put(LINE, "exec", "")
    with receiver(tmp_path / "s"), pytest.raises(BlockingIOError):
        fill(outlet)
    with pytest.raises(ConnectionRefusedError):
        outlet.put(LINE, "exec", "")
    os.unlink(tmp_path / "s")
    with receiver(tmp_path / "s") as sock:  # a new journald
        outlet.put(LINE, "exec", "")
        assert sock.recv(65536).startswith(b"MESSAGE={")
    outlet.close()


@pytest.mark.root
@pytest.mark.skipif(not os.path.exists(JOURNALD), reason="no systemd-journald")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare")
def test_a_real_journald_stores_the_lines(tmp_path: Path) -> None:
    """journald runs in a mount namespace of its own, with an empty /run."""
    script = tmp_path / "write.py"
    script.write_text(
        "import sys, os, time\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from gexec.posix.audit import AuditLog\n"
        "log = AuditLog(('journal',), common={'daemon': 'gexecd-test'})\n"
        "assert log.write('exec', job='ab' * 16, argv=['\\x1b[31m', 'a\\nb'])\n"
        "assert log.write('accept', argv=['x' * 1000] * 33, env=[['y' * 1000] * 33] * 10)\n"
        "assert log.is_writable()\n"
    )
    shell = f"""
        mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal || exit 99
        {JOURNALD} 2>{tmp_path}/journald.err & pid=$!
        for i in $(seq 600); do [ -S /run/systemd/journal/socket ] && break; sleep 0.05; done
        [ -S /run/systemd/journal/socket ] || {{ kill $pid; exit 98; }}
        {sys.executable} {script} || {{ kill $pid; exit 97; }}
        for i in $(seq 600); do
            journalctl -D /run/log/journal -t gexecd-test -o json --all >{tmp_path}/out 2>/dev/null
            [ $(wc -l <{tmp_path}/out) = 2 ] && break; sleep 0.05
        done
        kill $pid; wait $pid
    """
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", shell],
        capture_output=True,
        timeout=100,
    )
    if done.returncode in (98, 99):
        pytest.skip(f"journald does not run here: {(tmp_path / 'journald.err').read_text()[-200:]}")
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    first, second = entries
    assert (first["GEXEC_EVENT"], first["GEXEC_JOB"], first["PRIORITY"]) == ("exec", "ab" * 16, "6")
    assert json.loads(first["MESSAGE"])["argv"] == ["\\x1b[31m", "a\\nb"]
    assert json.loads(second["MESSAGE"])["seq"] == 2
