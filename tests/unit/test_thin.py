"""What gexec and enexec load. Every module here is paid for at each start (decision 0003)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from client_peers import DEADLINE_S, daemons, hello_script

#: Of the standard library, beyond what a bare interpreter has. Each costs at most 0.4 ms.
ALLOWED = {"__future__", "_socket", "_struct", "select", "struct"}
#: Modules of gexec that a job needs from start to end.
OWN_MAX = 39
#: What enexec needs beyond gexec.
ENEXECS_OWN = {"gexec.cli.enexec"}
_DUMP = """
import sys
before = set(sys.modules)
main = __import__("gexec.cli." + sys.argv.pop(1), fromlist=["main"]).main
status = main(sys.argv[1:])
sys.stderr.write(" ".join(sorted(set(sys.modules) - before)))
sys.exit(status)
"""


def modules_of(env: Mapping[str, str], *words: str, status: int | None = 0) -> set[str]:
    """Return what a command loads; ``status`` None: whatever it ends with."""
    ended = subprocess.run(
        [sys.executable, "-c", _DUMP, *words], env=env, input=b"", capture_output=True, timeout=DEADLINE_S
    )
    assert status is None or ended.returncode == status, ended.stderr
    return set(ended.stderr.decode().splitlines()[-1].split())


def own(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "gexec"}


def test_the_command_loads_nothing_dear(tmp_path: Path) -> None:
    with daemons(tmp_path, hello_script) as running:
        for words in (["true"], ["-v", "-p", "host", "-n", "2", "true"], ["-h"]):
            loaded = modules_of(running.env, "gexec", *words)
            assert loaded - own(loaded) <= ALLOWED
            assert len(own(loaded)) <= OWN_MAX


def test_enexec_loads_as_little_as_gexec(tmp_path: Path) -> None:
    with daemons(tmp_path, hello_script) as running:
        gexec = modules_of(running.env, "gexec", "-p", "host", "true")
        enexec = modules_of(running.env, "enexec", "-n", running.env["GEXEC_SVRS"], "true")
    assert enexec <= gexec | ENEXECS_OWN
    assert enexec - own(enexec) <= ALLOWED


def test_a_resolver_is_no_reason_to_load_more(tmp_path: Path) -> None:
    names = " ".join(f"no..such-{number}" for number in range(12))
    with daemons(tmp_path, hello_script) as running:
        env = running.env | {"GEXEC_SVRS": f"localhost {names}"}
        loaded = modules_of(env, "gexec", "true", status=None)
    assert loaded - own(loaded) <= ALLOWED
