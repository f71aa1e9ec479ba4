"""The standard descriptors of a command that was started without some of them."""

from __future__ import annotations

import os


def open_standard_descriptors() -> None:
    """Fill closed descriptors 0 to 2, or the next file or socket would become one of them.

    Read-only, so that writing to a closed stdout still fails as it should.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDONLY)
