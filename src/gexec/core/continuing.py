"""Making a job's machine again from its saved state (core/saving.py)."""

from __future__ import annotations

from gexec import limits
from gexec.core.node import Node
from gexec.core.root import Root
from gexec.core.saving import Saved
from gexec.wire.frames import Start
from gexec.wire.jobspec import JobSpec


def continued(
    saved: Saved,
    *,
    job_id: bytes,
    low: int,
    spec: JobSpec,
    credential: bytes,
    blob: bytes,
    orphan_grace_s: float = limits.ORPHAN_GRACE_S,
) -> Node | Root:
    """Return the machine that was saved: that of a node, or with a negative ``low`` that of a root.

    Raises:
        KeyError, TypeError, ValueError: the state is not one of this version.
    """
    machine: Node | Root
    if low < 0:
        machine = Root(job_id=job_id, spec=spec, credential=credential, blob=blob, client=0)
    else:
        start = Start(saved["epoch"], low, saved["high"], credential, blob)
        machine = Node(job_id=job_id, spec=spec, start=start, parent=0, orphan_grace_s=orphan_grace_s)
    machine.restore(saved)
    return machine
