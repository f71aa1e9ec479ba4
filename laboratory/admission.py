"""What a simulated daemon admits: the one job of the simulation, while its credential is valid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gexec.errors import CredentialError
from gexec.security.credential import Credential
from gexec.wire.jobspec import JobSpec
from laboratory.world import Violation

if TYPE_CHECKING:
    from laboratory.daemons import SimDaemon

JOB_ID = b"simulated job id"
UID = 1000
#: The name of the root's host.
HEAD = "head"
CREDENTIAL = b"a credential"


class SimEntry:
    """A gexec.relay.ports.EntryPort: the only credential is valid for the job's own bytes, until it expires.

    As in gexec.relay.admission, what was valid once stays so for this daemon.
    """

    def __init__(self, daemon: SimDaemon) -> None:
        self._daemon = daemon
        self._spec = daemon.cluster.spec
        self._blob = daemon.cluster.blob
        self._known = False
        self._credential = Credential(
            realm="",
            audience="gexec",
            host=HEAD,
            uid=UID,
            gid=UID,
            user="",
            issued_s=0.0,
            ttl_s=0,
            job_id=JOB_ID,
            digest=b"",
            key_id=b"",
        )

    def check(self, raw: bytes, blob: bytes, runs_here: bool = True) -> tuple[Credential, JobSpec]:
        """Return their content."""
        if raw != CREDENTIAL or blob != self._blob:
            raise Violation("a daemon got other bytes than the client's")
        invalid = "" if self._known else self._daemon.credential_fault
        if invalid:
            raise CredentialError("expired", invalid)
        self._known = True
        return self._credential, self._spec

    def shared(self, raw: bytes, blob: bytes) -> bytes:
        """Return the shared copy of the blob."""
        return self._blob

    def known(self, raw: bytes, blob: bytes) -> tuple[Credential, JobSpec]:
        """Return the content of a credential that was accepted before."""
        self._known = True
        return self.check(raw, blob)

    def keep(self, raw: bytes) -> None:
        """Nothing to keep."""

    def release(self, raw: bytes) -> None:
        """Nothing to release."""
