"""What a process that gexec started may ask about itself: its rank, how many there are, the job's id."""

from __future__ import annotations

import os

from gexec.errors import UsageError


def my_vnn() -> int:
    """Return this process's rank, 0 to nprocs() - 1. UsageError if gexec did not start it."""
    return _number("GEXEC_MY_VNN")


def nprocs() -> int:
    """Return how many processes the job has. UsageError if gexec did not start this one."""
    return _number("GEXEC_NPROCS")


def gpid() -> str:
    """Return the job's id, equal in all its processes: ``IPv4 in hex:seconds:microseconds``."""
    return _value("GEXEC_GPID")


def _value(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise UsageError(f"{name} is not set: this process was not started by gexec")
    return value


def _number(name: str) -> int:
    value = _value(name)
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise UsageError(f"{name} is {value[:80]!r}: expected a whole number, as gexec sets it")
    return int(value)
