"""The forms of output on real nodes whose output is binary, empty, huge, or ends in failure."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

from .conftest import DEADLINE_S, Cluster

_CLIENT = """
import sys
from gexec.client.console import Console
from gexec.client.interrupts import Interrupts
from gexec.client.job import Request, build, submit
from gexec.client.outdir import OutputDir
from gexec.client.stdio import standard_sinks
from gexec.render.diff import Diff
from gexec.render.gather import Gathered
from gexec.render.jsonl import Jsonl
from gexec.render.summary import exit_status
from gexec.render.tee import Tee

request = Request(["sh", "-c", sys.argv[2]])
request.nodes = sys.argv[3:]
job, _ = build(request)
names, addresses = list(job.names), list(job.addresses)
view = eval(sys.argv[1])
connection = submit(job)
console = Console(connection, view, standard_sinks(), Interrupts())
console.run()
status = console.ending.status
sys.exit(exit_status(connection.session.ended_outcomes()) if status is None else status)
"""
_BYTES = r'printf "\000\001\377"; printf "gr\303\266\303\237e\n\n\r\nno end"'
_LONG = 3_000_000
_MIXED = f"""
case $GEXEC_MY_VNN in
0) {_BYTES};;
1) ;;
2) head -c {_LONG} /dev/zero | tr '\\0' x; echo; echo short;;
3) echo out; echo err >&2; exit 7;;
4) echo last; kill -9 $$;;
esac
"""


def shown(cluster: Cluster, view: str, script: str, *names: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", _CLIENT, view, script, *names],
        env=cluster.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
    )


def test_json_and_files_of_all_kinds_of_nodes_agree(cluster: Cluster, tmp_path: Path) -> None:
    names = [*cluster.names[:5], "no-such-node.invalid"]
    view = f"Tee(Jsonl(names, addresses), OutputDir({str(tmp_path)!r}, names))"
    ended = shown(cluster, view, _MIXED, *names)
    assert (ended.returncode, ended.stderr) == (255, b"")
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    job, *between, end = events
    assert [node["node"] for node in job["nodes"]] == names
    assert job["nodes"][5]["address"] == ""
    assert (end["event"], end["exit_status"], end["succeeded"]) == ("end", 255, 3)
    outcomes = {
        event["node"]: (event["event"], event.get("status", event.get("signal")))
        for event in between
        if event["event"] not in ("started", "stdout", "stderr")
    }
    assert outcomes == dict(
        zip(
            names,
            [
                ("exited", 0), ("exited", 0), ("exited", 0), ("exited", 7), ("killed", 9),
                ("not_started", None),
            ],
            strict=True,
        )
    )  # fmt: skip
    streams: dict[str, bytes] = {f"{name}.out": b"" for name in names[:5]}
    for event in between:
        if event["event"] in ("stdout", "stderr"):
            file = event["node"] + {"stdout": ".out", "stderr": ".err"}[event["event"]]
            whole = streams.setdefault(file, b"")
            assert event["offset"] == len(whole)
            piece = event["text"].encode() if "text" in event else base64.b64decode(event["base64"])
            streams[file] = whole + piece + b"\n" * event["newline"]
    assert streams == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert [streams[f"{name}.out"] for name in names[:5]] == [
        b"\0\1\xff" + "größe\n\n\r\nno end".encode(),
        b"",
        b"x" * _LONG + b"\nshort\n",
        b"out\n",
        b"last\n",
    ]
    assert streams[f"{names[3]}.err"] == b"err\n"


def test_gathered_on_eight_nodes(cluster: Cluster) -> None:
    script = "echo same; [ $GEXEC_MY_VNN != 5 ] || { echo odd; echo err >&2; exit 3; }"
    ended = shown(cluster, "Gathered(names)", script, *cluster.names)
    assert ended.returncode == 3
    assert ended.stdout.decode().splitlines() == [
        "--- node[001-005,007-008] (7)", "same",
        "--- node006 (1) exited 3", "same", "odd",
    ]  # fmt: skip
    assert ended.stderr == b"--- node006 (1) exited 3 stderr\nerr\n"


def test_live_groups_come_before_the_end(cluster: Cluster) -> None:
    script = "if [ $GEXEC_MY_VNN = 1 ]; then sleep 1000; else echo soon; fi"
    client = subprocess.Popen(
        [sys.executable, "-c", _CLIENT, "Gathered(names, live=True)", script, *cluster.names[:2]],
        env=cluster.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"--- [1] node001 (1)\n"
        assert client.stdout.readline() == b"soon\n"
        client.terminate()
        rest, _ = client.communicate(timeout=DEADLINE_S)
    finally:
        client.kill()
        client.wait()
    assert rest == b""


def test_what_differs_from_a_named_node(cluster: Cluster) -> None:
    script = "echo a; echo $((GEXEC_MY_VNN / 7))"
    view = f"Diff(names, {cluster.names[7].encode()!r})"
    ended = shown(cluster, view, script, *cluster.names)
    assert ended.stdout.decode().splitlines() == [
        "--- node008 (1)", "+++ node[001-007] (7)", "@@ -1,2 +1,2 @@", " a", "-1", "+0",
    ]  # fmt: skip


def test_a_file_that_cannot_be_written_ends_the_job_everywhere(cluster: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "out"
    # Whoever takes the directory away, as another program might: new files cannot be made any more.
    script = f"rm -rf {directory}; echo x; sleep 1000"
    (tmp_path).chmod(0o777)
    ended = shown(cluster, f"OutputDir({str(directory)!r}, names)", script, *cluster.names[:3])
    assert ended.returncode == 255
    assert ended.stdout == b""
    said = ended.stderr.decode()
    assert said.startswith(f"gexec: cannot write {directory}/node00")
    assert said.endswith(".out: No such file or directory; the job is ended\n")
