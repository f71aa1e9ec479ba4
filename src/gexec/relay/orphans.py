"""The processes of a relay that died, in the relay that replaces it, until somebody asks for their jobs.

The spawner has kept their output, and announces them. The job of each comes again with the Start of a parent
that has lost its link to the dead relay; whoever has no parent within the orphan grace is ended.
Source: docs/decisions/0032-killed-relays.md.
"""

from __future__ import annotations

import hashlib
import os
import stat
from functools import partial

from gexec.posix.deadline import Deadline, Timers
from gexec.relay.admission import CredentialVerifier
from gexec.relay.ports import OrphanTask
from gexec.relay.spawning import Spawning
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.upgrades import GoOn, Survivor


class Orphans:
    """The orphans of one node.

    Args:
        processes: the spawner.
        entry: accepts the credentials with which they were started, even if these have expired.
        grace_s: how long they wait for a parent.
    """

    def __init__(
        self, processes: Spawning, entry: CredentialVerifier, timers: Timers, grace_s: float
    ) -> None:
        self._processes = processes
        self._entry = entry
        self._timers = timers
        self._grace_s = grace_s
        self._by_key: dict[tuple[bytes, int], tuple[bytes, OrphanTask]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def receive(self) -> None:
        """Take all that the spawner announces. Blocks; nothing else is served yet.

        Raises:
            ConnectionError, ProtocolError: the spawner is gone, or has sent another message.
        """
        while isinstance(said := self._processes.await_upgrade(), Survivor):
            self._add(said)
        if not isinstance(said, GoOn):
            raise SystemExit(1)
        if self._by_key:
            Deadline(self._timers, self._grace_s, self._end_rest)

    def _add(self, said: Survivor) -> None:
        outputs = {}
        for stream, fd in zip((STDOUT, STDERR), said.fds, strict=True):
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                outputs[stream] = fd
            else:
                os.close(fd)  # the process had closed it
        orphan = OrphanTask(said.task, said.life, said.age_s, outputs)
        self._by_key[said.job_id, said.rank] = said.digest, orphan
        self._entry.expect(said.digest)
        self._processes.hear_task(said.task, orphan.events.append)

    def find(self, key: tuple[bytes, int], credential: bytes) -> OrphanTask | None:
        """Return the orphan of a job and rank that was started with this credential, if nobody has it yet."""
        digest, orphan = self._by_key.get(key, (b"", None))
        if orphan is None or hashlib.sha256(credential).digest() != digest:
            return None
        orphan.adopted = partial(self._by_key.pop, key, None)
        return orphan

    def _end_rest(self) -> None:
        self._entry.expect(None)
        for _, orphan in self._by_key.values():
            self._processes.close_task(orphan.task)
            self._processes.release(orphan.task)
            self._processes.kill(orphan.task, False)
            for fd in orphan.outputs.values():
                os.close(fd)
        self._by_key.clear()
