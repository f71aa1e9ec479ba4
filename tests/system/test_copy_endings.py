"""Copies that a timeout ends: no traceback, no temporary file, and on every node the old or the new one."""

from __future__ import annotations

import os
from pathlib import Path

from .commands import Shell
from .conftest import Cluster, wait_until
from .must_hold import wait_gone


def test_a_timeout_of_many_receivers_leaves_old_files_and_no_traceback(
    cluster: Cluster, place: Path, tmp_path: Path
) -> None:
    shell = Shell(cluster.env, tmp_path)
    new = os.urandom(24 << 20)
    (place / "large").write_bytes(new)
    for name in cluster.names:
        (place / "to" / name).mkdir(parents=True)
        (place / "to" / name / "large").write_bytes(b"old")
    for attempt in range(4):  # the signals come at different moments
        words = ["--timeout=1", f"--bwlimit={4 + attempt}M", "--compress=never", "--via=gexec"]
        done = shell.run("ensync", *words, "--dest", place / "to" / "%h", place / "large")
        assert done.returncode == 124, done.stderr
        assert b"Traceback" not in done.stderr, done.stderr.decode()[-3000:]
        wait_gone(str(place))
        wait_until(lambda: not cluster.tasks(), "receivers are left")
        for name in cluster.names:
            assert (place / "to" / name / "large").read_bytes() in (b"old", new), name
            assert os.listdir(place / "to" / name) == ["large"]
