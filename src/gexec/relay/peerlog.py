"""Log lines about peers' failures, one sentence each, with a limit on their rate.

A port scanner, or one broken node that dials again and again, must not fill the disk or hide other lines.
Lines that are left out are counted, and the next line reports their number.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

from gexec.posix.log import Log
from gexec.security.rate import Rate

#: Lines about one source: SOURCE_BURST at once, then one in ten seconds.
SOURCE_BURST = 20
SOURCE_PER_S = 0.1
#: Lines about all sources together, because there may be many (an IPv6 network, a job on dead nodes).
BURST = 200
PER_S = 5.0
_SOURCES_MAX = 4096
_ALL = 0


class PeerErrors:
    """Warnings about peers at a limited rate, for each source and in total."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._of_source = Rate(SOURCE_PER_S, SOURCE_BURST)
        self._in_all = Rate(PER_S, BURST)
        self._untold: Counter[str] = Counter()

    def tell(self, source: str, text: str, now_s: float) -> None:
        """Log a warning, unless there were too many about this source recently.

        Args:
            source: the peer's address, or ``uid N``.
            text: one sentence that names the peer and the cause.
            now_s: from a monotonic clock.
        """
        if not (self._of_source.take(hash(source), now_s) and self._in_all.take(_ALL, now_s)):
            if len(self._untold) >= _SOURCES_MAX:
                self._untold.clear()
            self._untold[source] += 1
            return
        untold = self._untold.pop(source, 0)
        self._log.warning(text + (f" ({untold} more about {source} were not logged)" if untold else ""))


def tell_faults(loop: asyncio.AbstractEventLoop, log: Log) -> None:
    """Log asyncio's own reports in one sentence each, and the traceback only with ``debug``.

    Network failures are not defects and are reported through ``link_closed``; this is the last resort.
    """

    def fault(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        cause = f": {type(error).__name__}: {error}" if error is not None else ""
        label = getattr(context.get("protocol"), "label", "")
        log.error(f"{label}{': ' if label else ''}{context.get('message', 'failed')}{cause}")
        trace = error.__traceback__ if error is not None else None
        while trace is not None:
            code = trace.tb_frame.f_code
            log.debug(f"  {code.co_filename}:{trace.tb_lineno} {code.co_qualname}")
            trace = trace.tb_next

    def reported(record: logging.LogRecord) -> bool:
        log.warning(record.getMessage())
        return False  # no handler is to see it

    loop.set_exception_handler(fault)
    # Not a handler: a compiled class that is derived from logging.Handler crashes when it is freed.
    logging.getLogger("asyncio").filters = [reported]
