"""The arguments of every ssh of a job. Pure."""

from __future__ import annotations

import math
import os

from gexec import limits
from gexec.ssh import destination, script, settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.wire.jobspec import JobSpec

#: ssh's keepalives: a node that is silent for LOST_AFTER_S is lost.
_ALIVE_COUNT = 3


class Commands:
    """The argv of each rank's ssh.

    Args:
        job: from gexec.ssh.job.prepare.
        ssh: absolute path and the user's options.
        mark: of the job (gexec.ssh.script).
        chdir: working directory on the nodes, b"" = home.
        ask: ssh may ask on the terminal.
    """

    def __init__(self, job: JobSpec, ssh: Sequence[bytes], mark: bytes, chdir: bytes, ask: bool) -> None:
        # The user's options come first: if an option is given twice, ssh uses the first.
        self._ssh = [*ssh, *_options(job, ask)]
        self._names = list(job.names)
        self._addresses = list(job.addresses)
        self._lines = script.JobLines(job, mark, chdir)

    def of(self, rank: int) -> list[bytes]:
        """Return the argv that runs the rank's command. UsageError: the command is too long."""
        return self._to(rank, self._lines.of(rank))

    def signal(self, rank: int, pid: int, names: Sequence[str]) -> list[bytes]:
        """Return the argv that sends signals to the process group ``pid`` on the rank's node."""
        return self._to(rank, script.signal_line(pid, names))

    def _to(self, rank: int, line: bytes) -> list[bytes]:
        port = int(self._addresses[rank].rpartition(b":")[2] or 0)
        place = destination.words(os.fsdecode(self._names[rank]), port)
        return [*self._ssh, *map(os.fsencode, place), line]


def _options(job: JobSpec, ask: bool) -> list[bytes]:
    words = settings.words(
        connect_timeout_s=max(1, math.ceil(job.connect_timeout_s)),
        alive_interval_s=round(limits.LOST_AFTER_S / _ALIVE_COUNT),
        alive_count=_ALIVE_COUNT,
        ask=ask,
    )
    return [word.encode() for word in words]
