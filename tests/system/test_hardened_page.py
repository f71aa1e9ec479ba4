"""docs/hardened.md, command by command, on the cluster of docs/bootstrap.md, with jobs all the time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import DEADLINE_S
from .machines import blocks_of, install, needs, run

#: In place of systemd, which is no part of these machines: sends the signals of packaging/systemd, and
#: returns when the daemon has done what they ask for.
SYSTEMCTL = """#!/bin/sh
[ "$1" = --no-block ] && { shift; setsid "$0" "$@" >/dev/null 2>&1 </dev/null & exit 0; }
action=$1; shift; [ "$1" = --now ] && shift
unit=$1; log=/var/log/gexec/$unit.log
name=$unit; [ $unit = gexecd ] && name=gexecd-spawner
pid=
for entry in /proc/[0-9]*; do
    [ "$(cat $entry/comm 2>/dev/null)" = $name ] || continue
    [ "$(readlink $entry/ns/net)" = "$(readlink /proc/self/ns/net)" ] && pid=${entry#/proc/}
done
end() { kill -TERM $pid; while [ -e /proc/$pid ]; do sleep 0.1; done; }
done_so_far() { cat $log | grep -c 'certificate renewed\\|keys again\\|stay in force\\|old keys'; }
case $action in
reload)
    before=$(done_so_far)
    kill -HUP $pid
    while [ "$(done_so_far)" = "$before" ]; do sleep 0.1; done ;;
disable) end ;;
restart) end; /opt/gexec/bin/$unit -d ;;
esac
"""
#: A job on all nodes that lasts until the daemons start again, and short ones all the time.
JOBS = """
mkfifo /run/lasting
gexec -n 0 sh -c 'read line; echo lasting $line' </run/lasting >/run/lasted 2>&1 &
lasting=$!
exec 9>/run/lasting
(while [ ! -e /run/enough ]; do gexec -n 0 true || echo failed; done) >/run/short 2>&1 9>&- &
short=$!
"""
JOBS_END = """
touch /run/enough
wait $short
echo "--- short"
cat /run/short
echo here >&9
exec 9>&-
wait $lasting; echo "status $?" >>/run/lasted
echo "--- lasted"
sort /run/lasted
"""
#: What is in the memory of the daemons of the head and the nodes: all are in this PID namespace.
MEMORY = r"""
import base64, os, re, sys, glob
from cryptography.hazmat.primitives import serialization as s
found = []
secrets = {}
for path in glob.glob("/proc/[0-9]*/root/etc/gexec/**/*_key.pem", recursive=True):
    try:
        pem = open(path, "rb").read()
    except OSError:
        continue
    raw = s.load_pem_private_key(pem, None)
    raw = raw.private_bytes(s.Encoding.Raw, s.PrivateFormat.Raw, s.NoEncryption())
    secrets[raw] = path.rpartition("/")[2]
    secrets[pem.splitlines()[1]] = path.rpartition("/")[2]
looked = 0  # spawner, starter and relay of four machines, and authd of the head
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        name = open(f"/proc/{pid}/comm").read().strip()
        if not name.startswith(("gexecd", "authd")):
            continue
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
            for line in maps:
                low, high, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
                if "r" in rights and "[v" not in line:
                    try:
                        mem.seek(int(low, 16))
                        data = mem.read(int(high, 16) - int(low, 16))
                    except OSError:
                        continue
                    found += [(name, of) for secret, of in secrets.items() if secret in data]
        looked += 1
    except FileNotFoundError:
        continue
print("looked into", looked >= 13, "for", sorted(set(secrets.values())), "found", sorted(set(found)))
"""
CHECKS = """
echo '--- nodes'
until enexec -b 'test ! -e /run/gexec/gexecd.sock' >/dev/null 2>&1; do sleep 0.2; done
enexec -b 'ls /etc/gexec/*.pem /etc/*.pem 2>/dev/null; ls /run/gexec'
ssh node1 '/opt/gexec/bin/gexec -n 1 true' 2>&1 || true
echo '--- memory'
/opt/gexec/bin/python "$PLACE/memory.py"
echo '--- doctors'
ssh node2 '/opt/gexec/bin/gexecctl doctor' 2>&1 | grep -v 'node list'
"""


@pytest.mark.root
@pytest.mark.timeout(600)  # some 60 commands on four machines
def test_attack_118_the_pages_commands_change_a_live_cluster(machines_place: Path) -> None:
    """The relay and the spawner, whose start-up is on the way to the node's key, do not have it in memory."""
    needs()
    install(machines_place)
    (machines_place / "bin" / "systemctl").write_text(SYSTEMCTL)
    (machines_place / "bin" / "systemctl").chmod(0o755)
    (machines_place / "memory.py").write_text(MEMORY)
    *page, restart, doctor = blocks_of("hardened.md")
    script = "".join([*blocks_of("bootstrap.md"), JOBS])
    for number, block in enumerate(page):
        script += f"echo '--- block {number}'\n{block}"
    script += f"{JOBS_END}echo '--- restart'\n{restart}{CHECKS}echo '--- doctor'\n{doctor}echo '--- end'\n"
    status, log = run(machines_place, script, timeout_s=9 * DEADLINE_S)
    assert status == 0, log[-6000:]
    said = dict(
        re.findall(r"^--- (\w+(?: \d+)?)\n(.*?)(?=^--- (?:\w+(?: \d+)?)\n|\Z)", log, re.MULTILINE | re.DOTALL)
    )
    assert said["short"] == "", log
    assert said["lasted"].splitlines() == [f"{rank} lasting here" for rank in range(3)] + ["status 0"], log
    keys = ["ca_key.pem", "node_key.pem", "signer_key.pem"]
    # Of authd it is known that it has a key: so the search finds what is there.
    assert said["memory"] == f"looked into True for {keys} found {[('authd', 'signer_key.pem')]}\n", log
    assert "/etc/auth_priv.pem" not in said["nodes"]
    assert "in hardened mode use a head" in said["nodes"]
    for text in (said["doctor"], said["doctors"]):
        assert "problem" not in text, text
    assert "compute node node2" in said["doctors"]
    assert "head head, 10.87.0.1: valid for 1825 days" in said["doctor"]
