"""Whether a process that was sent SIGKILL is still there: in uninterruptible sleep it may stay for days."""

from __future__ import annotations

import signal
from typing import Final

_KILL: Final = 1 << (signal.SIGKILL - 1)


def is_dying(pid: int) -> bool:
    """Tell whether a process has SIGKILL pending; False if it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb", 0) as file:
            lines = file.read(8192).splitlines()
    except OSError:
        return False
    pending = [int(line.split()[1], 16) for line in lines if line.startswith((b"SigPnd:", b"ShdPnd:"))]
    return any(signals & _KILL for signals in pending)
