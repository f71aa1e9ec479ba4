"""The programs in PATH: ^C before they have read their modules ends them, as it ends any program."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"
#: Stands for the command's own module, in the middle of being read.
_MODULE = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
def main(words):
    return 7
"""


@pytest.mark.parametrize("is_ignored", [False, True])
@pytest.mark.parametrize(
    "name", ["gexec", "enexec", "ensh", "ensync", "gexec-send", "gexec-receive", "gexec-job"]
)
def test_an_interrupt_while_modules_are_read_shows_no_traceback(
    tmp_path: Path, name: str, is_ignored: bool
) -> None:
    folder = tmp_path / "gexec" / "cli"
    folder.mkdir(parents=True)
    for path in (folder.parent / "__init__.py", folder / "__init__.py"):
        path.touch()
    (folder / f"{name.removeprefix('gexec-')}.py").write_text(_MODULE)
    done = subprocess.run(
        [sys.executable, "-X", "utf8", SCRIPTS / name],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if is_ignored else signal.SIG_DFL),
    )
    # What runs on nodes ends at ^C in any case: nobody else asks it to. But gexec-job may have to pass it on.
    ends = name != "gexec-job" and (not is_ignored or "-" in name)
    assert (done.returncode, done.stderr) == (-signal.SIGINT if ends else 7, b"")


def test_attack_107_all_start_python_in_the_same_isolated_way() -> None:
    heads = {script.read_text().partition("import ")[0] for script in SCRIPTS.iterdir()}
    assert len(heads) == 1
    assert 'exec "${file%/*}/python" -I "$file" "$@"' in heads.pop()
    assert all(script.stat().st_mode & 0o111 for script in SCRIPTS.iterdir())
