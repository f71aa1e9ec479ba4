"""Memory under its bound: what a node keeps of its process's output stays within the windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gexec import limits
from gexec.core.node import Node
from laboratory.world import Violation

if TYPE_CHECKING:
    from laboratory.daemons import SimDaemon


def at_output(daemon: SimDaemon) -> None:
    """Check a node whose pipes have reported something."""
    for job in daemon.jobs.by_key.values():
        bound = 2 * (job.spec.window + limits.READ_CHUNK_BYTES)
        if isinstance(job.machine, Node) and job.machine.retained_bytes > bound:
            raise Violation(f"{job} keeps {job.machine.retained_bytes} bytes of output, over {bound}")
