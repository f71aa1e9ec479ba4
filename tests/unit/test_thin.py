"""What the gexec command loads. Every module here is paid for at each start (decision 0003)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from client_peers import DEADLINE_S, daemons, hello_script

#: Of the standard library, beyond what a bare interpreter has. Each costs at most 0.4 ms.
ALLOWED = {"__future__", "_socket", "_struct", "select", "struct"}
#: Modules of gexec that a job needs from start to end.
OWN_MAX = 33
_DUMP = """
import sys
before = set(sys.modules)
from gexec.cli.gexec import main
status = main(sys.argv[1:])
sys.stderr.write(" ".join(sorted(set(sys.modules) - before)))
sys.exit(status)
"""


def test_the_command_loads_nothing_dear(tmp_path: Path) -> None:
    with daemons(tmp_path, hello_script) as running:
        for words in (["true"], ["-v", "-p", "host", "-n", "2", "true"], ["-h"]):
            ended = subprocess.run(
                [sys.executable, "-c", _DUMP, *words],
                env=running.env,
                input=b"",
                capture_output=True,
                timeout=DEADLINE_S,
            )
            assert ended.returncode == 0
            loaded = set(ended.stderr.decode().splitlines()[-1].split())
            own = {name for name in loaded if name.partition(".")[0] == "gexec"}
            assert loaded - own <= ALLOWED
            assert len(own) <= OWN_MAX


def test_a_resolver_is_no_reason_to_load_more(tmp_path: Path) -> None:
    names = " ".join(f"no..such-{number}" for number in range(12))
    with daemons(tmp_path, hello_script) as running:
        ended = subprocess.run(
            [sys.executable, "-c", _DUMP, "true"],
            env=running.env | {"GEXEC_SVRS": f"localhost {names}"},
            input=b"",
            capture_output=True,
            timeout=DEADLINE_S,
        )
    loaded = set(ended.stderr.decode().splitlines()[-1].split())
    assert {name for name in loaded if name.partition(".")[0] != "gexec"} <= ALLOWED
