"""Getting gexecd's next certificate: a program that the spawner runs when half of its time is over.

The key is made here and goes to the relay in a sealed memfd; the spawner never reads it.
"""

from __future__ import annotations

import os
import sys

from gexec.errors import GexecError
from gexec.gexecd.enrolment import enrol
from gexec.posix import channel
from gexec.posix.log import stderr_log
from gexec.wire.messages import FROM_SPAWNER, Certificates, encode

#: The memfd that the spawner gives.
_MEMFD = 3


def main(argv: list[str]) -> int:
    """Write key and certificate into the memfd at descriptor 3, seal it, print until when it is valid.

    Args:
        argv: authd's socket, then the names that the certificate is for.

    Returns 1, with a line on stderr, if there is no certificate now.
    """
    authd_socket, *names = argv
    try:
        enrolment = enrol(authd_socket, tuple(names), patience_s=1.0)
        payload = encode(Certificates(*enrolment[:3]), FROM_SPAWNER).payload
        with os.fdopen(_MEMFD, "wb", closefd=False) as memfd:
            memfd.write(payload)
        channel.seal(_MEMFD)
    except (GexecError, OSError) as error:
        stderr_log("gexecd").warning(f"certificate not renewed: {error}; trying again")
        return 1
    sys.stdout.write(f"{enrolment.expires_s}")
    return 0
