"""Parses the output of one ssh: ssh's messages, the command's bytes, and the command's end. Pure.

The script on the node (gexec.ssh.script) marks where on each stream the command's bytes begin and end. The
mark contains a random word of this job, so nothing else on a stream can be mistaken for it, and it is removed
wherever it is: the rest is the command's output, byte for byte.
"""

from __future__ import annotations

from gexec.wire.frames import STDERR, STDOUT

#: Bytes kept of the text before the first mark: its end gives the reason if there is no mark.
PREAMBLE_MAX_BYTES = 8 * 1024
#: Characters of it in one sentence, because a node may send anything.
_TOLD_MAX = 500
_NUMBER_MAX = 10
#: ssh's messages when the connection through another ssh or a proxy has ended.
_CONSEQUENCES = (
    "kex_exchange_identification: ", "ssh_exchange_identification: ", "banner exchange: ",
    "stdio forwarding failed", "Connection closed by UNKNOWN port ",
)  # fmt: skip


class Marked:
    """Removes the marks from one stream, however it is split into reads."""

    __slots__ = ("_held", "_mark")

    def __init__(self, mark: bytes) -> None:
        self._mark = b"\1" + mark + b" "
        self._held = b""

    def feed(self, data: bytes) -> list[bytes | int]:
        """Return the pieces of the stream in order: bytes, and the number of each mark."""
        pieces: list[bytes | int] = []
        rest = self._held + data if self._held else data
        self._held = b""
        while (at := rest.find(self._mark)) >= 0:
            begin = at + len(self._mark)
            end = rest.find(b"\n", begin, begin + _NUMBER_MAX + 1)
            number = rest[begin : begin + _NUMBER_MAX if end < 0 else end]
            if end < 0 and begin + len(number) == len(rest) and len(number) < _NUMBER_MAX:
                pieces.append(rest[:at])  # the mark is incomplete
                self._held = rest[at:]
                return pieces
            if end < 0 or not number.isdigit():
                pieces.append(rest[: at + 1])  # not our mark
                rest = rest[at + 1 :]
                continue
            pieces += (rest[:at], int(number))
            rest = rest[end + 1 :]
        # A possible beginning of a mark waits for the next read.
        at = rest.rfind(b"\1", max(0, len(rest) - len(self._mark) + 1))
        if at >= 0 and self._mark.startswith(rest[at:]):
            rest, self._held = rest[:at], rest[at:]
        pieces.append(rest)
        return pieces

    def close(self) -> bytes:
        """Return the bytes held back: the stream has ended."""
        held, self._held = self._held, b""
        return held


class Transcript:
    """Both streams of one ssh.

    Attributes:
        pid: of the script on the node, which is also its process group; None before its mark.
        status: of the command as the script's sh reports it; None while it is not known.
        complete: everything that the command itself wrote has arrived.
    """

    __slots__ = ("_marks_seen", "_preamble", "_streams", "pid", "status")

    def __init__(self, mark: bytes) -> None:
        self._streams = {STDOUT: Marked(mark), STDERR: Marked(mark)}
        self._marks_seen = {STDOUT: 0, STDERR: 0}
        self._preamble = {STDOUT: b"", STDERR: b""}
        self.pid: int | None = None
        self.status: int | None = None

    @property
    def complete(self) -> bool:
        return min(self._marks_seen.values()) >= 2

    def feed(self, stream: int, data: bytes) -> bytes:
        """Take what ssh wrote to a stream; return the command's bytes in it."""
        return self._sort(stream, self._streams[stream].feed(data))

    def close(self, stream: int) -> bytes:
        """A stream has ended: return the command's bytes that were held back."""
        return self._sort(stream, [self._streams[stream].close()])

    def _sort(self, stream: int, pieces: list[bytes | int]) -> bytes:
        output = []
        for piece in pieces:
            if isinstance(piece, int):
                self._marks_seen[stream] += 1
                if self._marks_seen[stream] == 1 and stream == STDOUT:
                    self.pid = piece
                elif self._marks_seen[stream] == 2:
                    self.status = piece
            elif self._marks_seen[stream]:
                output.append(piece)
            else:
                self._preamble[stream] = (self._preamble[stream] + piece)[-PREAMBLE_MAX_BYTES:]
        return b"".join(output)

    def explanation(self) -> str:
        """Return the last message before the first mark, as one line: why there was no mark, or ""."""
        for stream in (STDERR, STDOUT):
            lines = [line.strip() for line in self._preamble[stream].decode("utf-8", "replace").splitlines()]
            lines = [line for line in lines if line]
            if lines:
                # Messages about the end of a jump host's ssh come after that ssh's own message.
                while len(lines) > 1 and lines[-1].startswith(_CONSEQUENCES):
                    lines.pop()
                # "Host key verification failed." is the consequence; the line before it is the reason.
                last = lines[-1]
                reason = lines[-2] if last.startswith("Host key") and len(lines) > 1 else ""
                told = f"{reason} {last}" if reason and "@@" not in reason else last
                return told if len(told) <= _TOLD_MAX else f"{told[:_TOLD_MAX]}..."
        return ""
