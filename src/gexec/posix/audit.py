"""The audit log: one JSON line for each issue, accept, deny, exec, exit and kill (attacks 64, 80)."""

from __future__ import annotations

import json
import os
import time
from json.encoder import encode_basestring_ascii
from typing import Final

from gexec.posix import clock
from gexec.posix.log import Log, printable
from gexec.security.throttle import Throttle

_ENCODER: Final = json.JSONEncoder(ensure_ascii=True, default=str, separators=(",", ":"))
#: Maximum length of a text (bytes or characters) and of a list in a line: lines stay below 1 MiB.
FIELD_MAX: Final = 1024
ITEMS_MAX: Final = 33
#: Maximum length of the note that a text was cut.
_MARK_MAX: Final = 40


class AuditLog:
    """Appends JSON lines to a file; an error of the disk raises no exception.

    Args:
        path: the file (created with mode 0600), or None for stderr.
        log: gets one error when lines are being lost.
    """

    def __init__(self, path: str | None, log: Log | None = None) -> None:
        self._path = path
        self._log = log or Log("audit")
        self._fd = -1
        self._complained = False
        self._second, self._seconds = -1, ""
        self._throttles: dict[str, Throttle] = {}
        self.lost = 0
        self.reopen()

    def reopen(self) -> None:
        """Open the file again, after log rotation has renamed it (SIGHUP)."""
        self.close()
        if self._path is None:
            return
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
            self._fd = os.open(self._path, flags | os.O_NONBLOCK, 0o600)
            self._complained = False
        except OSError as error:
            self._complain(error)

    def write(self, event: str, **fields: object) -> None:
        """Append one line: time, event and the fields. bytes are shown as text.

        Control characters are escaped, also those that JSON does not escape (DEL, C1, line
        separators), so that they do not affect a terminal.
        """
        members = "".join([f',"{name}":{_json(value)}' for name, value in fields.items()])
        raw = f'{{"time":"{self._moment()}","event":{_quoted(event)}{members}}}\n'.encode("ascii")
        try:
            written = os.write(2 if self._path is None else self._fd, raw)
            if written < len(raw):
                raise OSError(28, "only a part of a line was written")
        except OSError as error:
            self.lost += 1
            self._complain(error)

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
        return min([each.due_s for each in self._throttles.values() if each.due_s is not None], default=None)

    def tick(self) -> None:
        """Report the refusals that were left out in a period that has ended."""
        now_s = clock.now_s()
        for by, throttle in self._throttles.items():
            if throttle.due_s is not None and throttle.due_s <= now_s:
                for source, codes in throttle.take_left_out().items():
                    count = sum(codes.values())
                    self.write("suppressed", by=by, source=source, count=count, codes=codes)

    def _moment(self) -> str:
        now_s = time.time()
        second = int(now_s)
        if second != self._second:
            self._second, self._seconds = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        milliseconds = str(1000 + int((now_s - second) * 1000))  # compiled, a format ":03d" is slow
        return f"{self._seconds}.{milliseconds[1:]}Z"

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            self._log.error(f"audit log {self._path}: {error.strerror}: lines are being lost")


def _json(value: object) -> str:
    # Called for each field of each line: the json module costs far more.
    if type(value) is int:
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
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
    if len(text) > FIELD_MAX + _MARK_MAX:
        text = f"{text[:FIELD_MAX]}... ({len(text)} characters)"
    return encode_basestring_ascii(printable(text))
