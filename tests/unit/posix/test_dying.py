"""Which processes were sent SIGKILL and are still there."""

from __future__ import annotations

import os
import signal
import subprocess

from gexec.posix.dying import is_dying


def test_a_living_process_is_not_dying_and_neither_is_none() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=-1) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        process.send_signal(signal.SIGTERM)  # pending while it is stopped, and not SIGKILL
        assert not is_dying(process.pid)
        process.kill()
    assert not is_dying(process.pid)
