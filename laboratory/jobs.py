"""The jobs of a simulation: what each one is, and what really happened to its processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gexec.security.credential import Credential
from laboratory.processes import ProcessRecord

if TYPE_CHECKING:
    from laboratory.keepers import KeptPlace
    from laboratory.script import Scenario

UID = 1000
#: How long credentials are valid that do not expire during a simulation.
TTL_S = 1e9
#: The name of the root's host.
HEAD = "head"


class SimJob:
    """One job, whose ranks are on the nodes from ``first`` on, in order.

    Args:
        number: which of the world's jobs; it has an id and a credential of its own.
        made: what it is, and what its processes do.

    Attributes:
        issued_s: when its credential is issued, in the world's time.
        ttl_s: for how long that is valid, in wall time.
        places: what the nodes have kept of a background job, by rank.
        betrayed: ranks to which a captured relay may do everything.
    """

    def __init__(self, number: int, made: Scenario) -> None:
        self.spec = made.spec
        self.first = made.first
        self.plans = made.plans
        self.ttl_s = made.ttl_s
        self.issued_s = made.begins_s
        self.blob = self.spec.encode()
        self.raw = b"the credential of job %d" % number
        self.credential = Credential(
            realm="",
            audience="gexec",
            host=HEAD,
            uid=UID,
            gid=UID,
            user="",
            issued_s=self.issued_s,
            ttl_s=0,
            job_id=b"simulated job %02d" % number,
            digest=b"",
            key_id=b"",
        )
        self.records = [ProcessRecord() for _ in self.plans]
        self.places: dict[int, KeptPlace] = {}
        self.betrayed: frozenset[int] = frozenset()

    @property
    def id(self) -> bytes:
        """The 16 bytes that name it."""
        return self.credential.job_id

    @property
    def nodes(self) -> range:
        """The nodes of its ranks."""
        return range(self.first, self.first + self.spec.ranks)
