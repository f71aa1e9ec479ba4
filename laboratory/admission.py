"""What a simulated daemon admits: the jobs of the simulation, while their credentials are valid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gexec.errors import CredentialError
from gexec.security.credential import Credential
from gexec.wire.jobspec import JobSpec
from laboratory.jobs import SimJob
from laboratory.world import Violation

if TYPE_CHECKING:
    from laboratory.daemons import SimDaemon


class SimEntry:
    """A gexec.relay.ports.EntryPort: a job's credential is valid for its own bytes, until it expires.

    As in gexec.relay.admission, what was valid once stays so for this daemon.
    """

    __slots__ = ("_daemon", "_known")

    def __init__(self, daemon: SimDaemon) -> None:
        self._daemon = daemon
        self._known: tuple[SimJob, ...] = ()

    def check(self, raw: bytes, blob: bytes, runs_here: bool = True) -> tuple[Credential, JobSpec]:
        """Return their content."""
        job = self._job(raw)
        if blob != job.blob:
            raise Violation("a daemon got other bytes than the client's")
        if job not in self._known:
            invalid = self._daemon.credential_fault(job)
            if invalid:
                raise CredentialError("expired", invalid)
            self._known += (job,)
        return job.credential, job.spec

    def _job(self, raw: bytes) -> SimJob:
        try:
            return self._daemon.cluster.jobs[raw]
        except KeyError:
            raise Violation("a daemon got another credential than the clients'") from None

    def shared(self, raw: bytes, blob: bytes) -> bytes:
        """Return the shared copy of the blob."""
        return self._job(raw).blob

    def known(self, raw: bytes, blob: bytes) -> tuple[Credential, JobSpec]:
        """Return the content of a credential that was accepted before."""
        self._known += (self._job(raw),)
        return self.check(raw, blob)

    def expect(self, job: SimJob) -> None:
        """Accept a job's credential, which the spawner has accepted."""
        self._known += (job,)

    def keep(self, raw: bytes) -> None:
        """Nothing to keep."""

    def release(self, raw: bytes) -> None:
        """Nothing to release."""
