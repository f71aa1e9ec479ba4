"""Memory settings of a daemon (garbage collector, malloc) for a long, mostly idle life.

A daemon wakes up a few times for a job and then sleeps for minutes. By then its memory
has left the caches of a fully loaded host, so it should touch little.
"""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 2 * 1024 * 1024


def settle() -> None:
    """Call once when a daemon has come up.

    What exists now lives as long as the process, so the collector never looks at it again; and
    malloc keeps up to two megabytes for the next frames and jobs instead of returning them after each
    (which costs a page fault for every page at the next). To set one threshold is to set both: malloc
    then adjusts neither by itself.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    try:
        malloc = ctypes.CDLL(None)
        malloc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        malloc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    except AttributeError:
        pass  # a C library without mallopt (musl) uses its own defaults


def trim() -> None:
    """Return free memory to the kernel. Takes a few milliseconds: call it when idle.

    Large blocks leave gaps between small ones that live, which malloc keeps by itself.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        pass  # as above
