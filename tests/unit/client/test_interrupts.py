"""Caught signals reach somebody, whoever catches them just then."""

from __future__ import annotations

import os
import signal

from gexec.client.interrupts import Interrupts


def test_what_the_inner_one_has_not_seen_the_outer_one_hears() -> None:
    outer, inner = Interrupts(), Interrupts()
    outer.catch()
    inner.catch()
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert inner.received() == bytes([signal.SIGUSR1])
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        inner.restore()
    try:
        assert outer.received() == bytes([signal.SIGINT])
    finally:
        outer.restore()
