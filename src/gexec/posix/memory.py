"""Memory settings of a daemon (garbage collector, malloc), which runs for a long time, mostly idle.

A daemon wakes up a few times for a job and then sleeps for minutes. On a fully loaded host its memory
is then no longer in the CPU caches, so it should touch little memory.
"""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 2 * 1024 * 1024


def settle() -> None:
    """Call once when a daemon is ready.

    The objects that exist now live as long as the process, so the collector never examines them again.
    malloc keeps up to two megabytes for the next frames and jobs instead of returning them after each one,
    which would cost a page fault for every page at the next one. Both thresholds are set, because malloc
    adjusts neither by itself as soon as one is set.
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

    Freed large blocks leave gaps between small ones in use; malloc does not return these gaps by itself.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        pass  # as above
