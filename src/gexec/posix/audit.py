"""The audit log: one JSON line for each event (docs/audit.md; attacks 64, 80, 111 to 114)."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from gexec.core.deadlines import earlier
from gexec.posix import clock
from gexec.posix.log import Log, printable
from gexec.posix.outlets import FileOutlet, Outlet, StderrOutlet
from gexec.security.throttle import Throttle

#: Destinations that are not files.
STDERR: Final = "stderr"
JOURNAL: Final = "journal"
_ENCODER: Final = json.JSONEncoder(ensure_ascii=True, default=str, separators=(",", ":"))
#: Maximum length of a text (bytes or characters) and of a list in a line: lines stay below 1 MiB.
FIELD_MAX: Final = 1024
ITEMS_MAX: Final = 33
#: Maximum length of the note that a text was cut.
_MARK_MAX: Final = 40
#: Time after which a destination that takes nothing is tried again, if there is no line before.
_RETRY_S: Final = 5.0
#: Least time between two entries of the log about one destination.
_TELL_S: Final = 60.0


class AuditLog:
    """Writes JSON lines to one or more destinations; never blocks, and raises no exception.

    A line that a destination does not take is lost there. The log reports this once, and as soon as the
    destination takes lines again, a line *lost* has their number.

    Args:
        destinations: ``stderr``, ``journal`` or paths of files; none = stderr.
        log: gets an error when lines are being lost.
        common: fields that all lines have; ``daemon`` is also the journal's identifier.
        max_bytes, keep: rotation of files, see :class:`gexec.posix.outlets.FileOutlet`.
    """

    def __init__(
        self,
        destinations: tuple[str, ...] = (),
        log: Log | None = None,
        *,
        common: Mapping[str, str] | None = None,
        max_bytes: int = 0,
        keep: int = 1,
    ) -> None:
        self._log = log or Log("audit")
        fields = dict(common or {})
        self._common = "".join([f',"{name}":{_quoted(value)}' for name, value in fields.items()])
        self._seq = 0
        self._second, self._seconds = -1, ""
        self._throttles: dict[str, Throttle] = {}
        self._told_s: dict[str, float] = {}
        self._retry_s: float | None = None
        self._outlets: list[Outlet] = []
        for name in destinations or (STDERR,):
            if name == STDERR:
                self._outlets.append(StderrOutlet())
            elif name == JOURNAL:
                from gexec.posix.journal import JournalOutlet  # who does not use it does not load it

                self._outlets.append(JournalOutlet(fields.get("daemon", "gexec")))
            else:
                self._outlets.append(FileOutlet(name, self._log, max_bytes, keep))
        self.reopen()

    def reopen(self) -> None:
        """Open the files again, after log rotation has renamed them (SIGHUP)."""
        for outlet in self._outlets:
            try:
                outlet.reopen()
            except OSError as error:
                self._complain(outlet, error)
            self._report(outlet)

    def save(self) -> dict[str, Any]:
        """Return, in types that JSON can represent, what the next program needs so that no line is broken."""
        outlets = [(outlet.rest.hex(), outlet.lost, outlet.reason) for outlet in self._outlets]
        return {"seq": self._seq, "outlets": outlets}

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue with what ``save`` of a log with the same destinations returned."""
        self._seq = saved["seq"]
        for outlet, (rest, lost, reason) in zip(self._outlets, saved["outlets"], strict=True):
            outlet.rest, outlet.lost, outlet.reason = bytes.fromhex(rest), lost, reason

    def settle(self) -> None:
        """Report refusals that were left out, because this object will not be used any more."""
        for by, throttle in self._throttles.items():
            self._suppressed(by, throttle)

    def close(self) -> None:
        """Close all destinations."""
        for outlet in self._outlets:
            self._report(outlet)
            outlet.close()

    def write(self, event: str, **fields: object) -> bool:
        """Write one line: time, event, number, common fields and these. bytes are shown as text.

        Control characters are escaped, also those that JSON does not escape (DEL, C1, line
        separators), so that they do not affect a terminal.

        Returns whether all destinations have the line.
        """
        raw = self._line(event, fields)
        self._seq += 1
        job = fields.get("job")
        return self._put_all(raw, event, job if isinstance(job, str) else "", None)

    def is_writable(self) -> bool:
        """Return whether all destinations have all lines that they can still get; try those that had not."""
        for outlet in self._outlets:
            self._report(outlet)
        return sum([outlet.lost for outlet in self._outlets]) == 0

    @property
    def trouble(self) -> str:
        """Why a destination takes no lines, for an error text."""
        return "; ".join([f"{o.name}: {o.reason}" for o in self._outlets if o.lost or o.is_behind])

    def _line(self, event: str, fields: Mapping[str, object]) -> bytes:
        # In place for integers: most fields are.
        members = "".join(
            [
                f',"{name}":{value}' if type(value) is int else f',"{name}":{_json(value)}'
                for name, value in fields.items()
            ]
        )
        start = f'{{"time":"{self._moment()}","event":"{event}","seq":{self._seq + 1}{self._common}'
        return f"{start}{members}}}\n".encode("ascii")

    def _put_all(self, raw: bytes, event: str, job: str, but: Outlet | None) -> bool:
        is_written = True
        for outlet in self._outlets:
            if outlet is not but:
                try:
                    is_written = outlet.put(raw, event, job) and is_written
                except OSError as error:
                    outlet.lost += 1
                    self._complain(outlet, error)
                    is_written = False
                else:
                    if outlet.lost:
                        self._report(outlet)
        return is_written

    def _report(self, outlet: Outlet) -> None:
        """Write a line about the lines that a destination has lost, if it takes one now."""
        if not outlet.lost:
            return
        lines, outlet.lost = outlet.lost, 0
        raw = self._line("lost", {"destination": outlet.name, "lines": lines, "reason": outlet.reason})
        try:
            outlet.put(raw, "lost", "")
        except OSError as error:
            outlet.lost = lines
            self._complain(outlet, error)
            return
        self._seq += 1
        self._log.warning(f"audit log {outlet.name}: takes lines again; {lines} lines were lost")
        self._put_all(raw, "lost", "", outlet)

    def _complain(self, outlet: Outlet, error: OSError) -> None:
        now_s = clock.now_s()
        self._retry_s = now_s + _RETRY_S
        outlet.reason = error.strerror or errno.errorcode.get(error.errno or 0, "unknown error")
        if now_s - self._told_s.get(outlet.name, -_TELL_S) >= _TELL_S:
            self._told_s[outlet.name] = now_s
            self._log.error(f"audit log {outlet.name}: {outlet.reason}: lines are being lost")

    def deny(self, by: str, source: str, code: str, **fields: object) -> None:
        """Append a line about a refusal, unless there were too many recently; those are counted.

        Args:
            by: who refused: ``authd``, ``spawner`` or ``relay``. Each has its own limits, so that what a
                relay reports hides no refusal of the spawner.
            source: who caused it, e.g. ``uid N`` or an address.
            code: the reason as one of a small number of words.
            fields: further fields; ``count`` is the number of refusals.
        """
        throttle = self._throttles.get(by)
        if throttle is None:
            throttle = self._throttles[by] = Throttle()
        count = fields.get("count", 1)
        if throttle.permits(source, code, clock.now_s(), count if isinstance(count, int) else 1):
            self.write("deny", by=by, source=source, code=code, **fields)

    def next_deadline_s(self) -> float | None:
        """Return when ``tick`` is due (``posix.clock``), or None."""
        due_s = self._retry_s
        for throttle in self._throttles.values():
            due_s = earlier(due_s, throttle.due_s)
        return due_s

    def tick(self) -> None:
        """Report refusals that were left out in a period that has ended, and lines that were lost."""
        now_s = clock.now_s()
        for by, throttle in self._throttles.items():
            if throttle.due_s is not None and throttle.due_s <= now_s:
                self._suppressed(by, throttle)
        if self._retry_s is not None and self._retry_s <= now_s:
            self._retry_s = None
            self.is_writable()

    def _suppressed(self, by: str, throttle: Throttle) -> None:
        for source, codes in throttle.take_left_out().items():
            self.write("suppressed", by=by, source=source, count=sum(codes.values()), codes=codes)

    def _moment(self) -> str:
        now_s = time.time()
        second = int(now_s)
        if second != self._second:
            self._second, self._seconds = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        microseconds = str(1_000_000 + int((now_s - second) * 1_000_000))  # compiled, a format is slow
        return f"{self._seconds}.{microseconds[1:]}Z"


def _json(value: object) -> str:
    # Called for each field of each line: the json module costs far more.
    if isinstance(value, str):
        return _quoted(value)
    if type(value) is int:
        return str(value)
    if type(value) is float and -1e300 < value < 1e300:
        return repr(value)
    if isinstance(value, bytes):
        shown = value if len(value) <= FIELD_MAX else value[:FIELD_MAX] + b"... (%d bytes)" % len(value)
        return _quoted(shown.decode("utf-8", "backslashreplace"))
    if isinstance(value, (list, tuple)):
        items = [_json(item) for item in value[:ITEMS_MAX]]
        if len(value) > ITEMS_MAX:
            items.append(f'"... ({len(value)} in all)"')
        return f"[{','.join(items)}]"
    return _ENCODER.encode(value).replace("\x7f", "\\u007f")


def _quoted(text: str) -> str:
    if len(text) <= FIELD_MAX and text.isprintable():
        return encode_basestring_ascii(text)
    if len(text) > FIELD_MAX + _MARK_MAX:
        text = f"{text[:FIELD_MAX]}... ({len(text)} characters)"
    return encode_basestring_ascii(printable(text))
