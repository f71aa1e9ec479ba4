"""Gets gexecd's next certificate. The spawner runs this program when half of the validity is over.

The program makes the key. The relay gets it in a sealed memfd; the spawner never reads it.
"""

from __future__ import annotations

import os
import sys

from gexec.errors import GexecError
from gexec.gexecd.enrolment import CertificateSource, enrol
from gexec.posix import channel
from gexec.posix.log import stderr_log
from gexec.wire.messages import FROM_SPAWNER, Certificates, encode

#: The memfd that the spawner passes to this program.
_MEMFD = 3


def main(argv: list[str]) -> int:
    """Write key and certificate into the memfd at descriptor 3, seal it, and print the certificate's expiry.

    Args:
        argv: one argument, a ``CertificateSource``.

    Returns 1, with a line on stderr, if it gets no certificate now.
    """
    try:
        enrolment = enrol(CertificateSource.from_argument(argv[0]), patience_s=1.0)
        payload = encode(Certificates(*enrolment[:3]), FROM_SPAWNER).payload
        with os.fdopen(_MEMFD, "wb", closefd=False) as memfd:
            memfd.write(payload)
        channel.seal(_MEMFD)
    except (GexecError, OSError) as error:
        stderr_log("gexecd").warning(f"certificate not renewed: {error}; trying again")
        return 1
    sys.stdout.write(f"{enrolment.expires_s}")
    return 0
