"""How a rank ended: each rank of a job ends in exactly one outcome (docs/protocol.md, Outcomes).

Part of the thin client: imports nothing but limits.
"""

from __future__ import annotations

from gexec.limits import TEXT_MAX_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

EXITED: Final = 0  #: value = exit status 0..255
KILLED: Final = 1  #: value = signal number
NOT_STARTED: Final = 2  #: value = errno or 0; text says why. The command did not run there.
DENIED: Final = 3  #: value = 0; text says why. The node refused the credential or the user.
LOST: Final = 4  #: value = 0; text says why. Whether the command ended there is not known.
TIMED_OUT: Final = 5  #: value = signal that ended it; it ran longer than --timeout.

#: Kinds of a process that ran to its end: only their output can be marked as cut.
ENDS: Final = (EXITED, KILLED, TIMED_OUT)

#: Value of *not started* if no answer came from the node: Linux's EHOSTUNREACH. The node counts as down.
UNREACHABLE: Final = 113
#: The program does not exist (ENOENT), or cannot be run (E2BIG, ENOEXEC, EACCES): 127 and 126, as in a shell.
_NOT_FOUND: Final = 2
_NOT_RUNNABLE: Final = (7, 8, 13)

NAMES: Final = ("exited", "killed", "not started", "denied", "lost", "timed out")
#: Lowest and highest value of each kind. Other values from a peer are refused, so that no forged status can
#: wrap around to the client's exit status 0.
VALUES: Final = ((0, 255), (1, 64), (0, 4095), (0, 0), (0, 0), (0, 255))


def is_known(kind: int, value: int, cut: bool) -> bool:
    """Tell whether an outcome with these values exists: a peer may send any values."""
    if kind >= len(VALUES) or (cut and kind not in ENDS):
        return False
    lowest, highest = VALUES[kind]
    return lowest <= value <= highest


class Outcome:
    """How one rank ended. Equal outcomes of many ranks are reported in one summary line.

    Attributes:
        cut: the process ended (its kind is one of ENDS), but reading its output ended early; the text says
            why.
    """

    __slots__ = ("cut", "kind", "text", "value")

    def __init__(self, kind: int, value: int = 0, text: str = "", cut: bool = False) -> None:
        self.kind = kind
        self.value = value
        self.text = text
        self.cut = cut

    @property
    def ok(self) -> bool:
        """True only for a process that ran and exited 0, and whose output is complete."""
        return self.kind == EXITED and self.value == 0 and not self.cut

    @property
    def exit_status(self) -> int:
        """The rank's contribution to gexec's exit status: 0..255 (docs/protocol.md, Outcomes)."""
        if self.cut:
            return 255
        if self.kind == EXITED:
            return self.value
        if self.kind == KILLED:
            return 128 + self.value
        if self.kind == TIMED_OUT:
            return 124
        if self.kind == NOT_STARTED:
            return 127 if self.value == _NOT_FOUND else 126 if self.value in _NOT_RUNNABLE else 255
        return 255

    def describe(self) -> str:
        """Return the outcome in a few words, e.g. ``exited 7``, ``lost: connection refused``."""
        what = self.summary
        return f"{what}: {self.text}" if self.text else what

    @property
    def summary(self) -> str:
        """The outcome without its reason."""
        what = NAMES[self.kind]
        if self.kind == EXITED:
            what = f"{what} {self.value}"
        elif self.kind == KILLED:
            what = f"{what} by signal {self.value}"
        return f"{what}, output cut" if self.cut else what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcome) and (self.kind, self.value, self.text, self.cut) == (
            other.kind,
            other.value,
            other.text,
            other.cut,
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.value, self.text, self.cut))

    def __repr__(self) -> str:
        return f"Outcome({self.describe()})"


def exited(status: int) -> Outcome:
    """The process exited with this status."""
    return Outcome(EXITED, status)


def killed(signum: int) -> Outcome:
    """The process was ended by this signal."""
    return Outcome(KILLED, signum)


def not_started(text: str, errno: int = 0) -> Outcome:
    """The command did not run on that node."""
    return Outcome(NOT_STARTED, errno, clipped(text))


def unreachable(text: str) -> Outcome:
    """The command did not run on that node, because the node could not be reached."""
    return not_started(text, UNREACHABLE)


def why_unresolved(entry: bytes) -> str:
    """Return why a rank has no address, "" if it has one, from an entry of ``JobSpec.addresses``.

    Empty: the name does not exist. ``?``: no name server answers. ``?N``: no answer within N seconds.
    """
    if not entry:
        return "the name does not resolve"
    if not entry.startswith(b"?"):
        return ""
    within = entry[1:].decode("ascii", "replace")
    if within.isdigit() and len(within) <= 6:
        return f"the name did not resolve within {within} s"
    return "the name does not resolve: its name server does not answer"


def shown_path(path: bytes) -> str:
    """Return a path for the text of an outcome, at most 300 bytes of it."""
    return path[:300].decode("utf-8", "backslashreplace")


def no_room(reason: str) -> Outcome:
    """The node's gexecd has no descriptor, memory or process left for it."""
    return not_started(f"gexecd on this node is out of resources: {reason}")


def unexpected(error: Exception) -> Outcome:
    """The node's gexecd failed on it in a way for which nothing is foreseen."""
    return not_started(f"gexecd on this node failed on this process: {type(error).__name__}: {error}")


def denied(text: str) -> Outcome:
    """The node refused."""
    return Outcome(DENIED, 0, clipped(text))


def lost(text: str) -> Outcome:
    """The node is gone; whether and how its process ended is not known."""
    return Outcome(LOST, 0, clipped(text))


def timed_out(signum: int, text: str = "") -> Outcome:
    """The process ran longer than it was allowed to and was ended."""
    return Outcome(TIMED_OUT, signum, clipped(text))


def output_cut(outcome: Outcome, text: str) -> Outcome:
    """The process ended with ``outcome``, but reading its output ended early; ``text`` says why."""
    reason = f"{outcome.text}; {text}" if outcome.text else text
    return Outcome(outcome.kind, outcome.value, clipped(reason), cut=True)


def held_by(processes: int) -> str:
    """Return the reason for cut output: so many ``processes`` (0: not known) still hold it."""
    if not processes:
        return "another process still holds the output; not waited for"
    holders = "1 process still holds" if processes == 1 else f"{processes} processes still hold"
    return f"{holders} the output; not waited for"


def clipped(text: str) -> str:
    """Return ``text`` on one line within TEXT_MAX_BYTES of UTF-8."""
    line = " ".join(text.split())
    encoded = line.encode("utf-8", "backslashreplace")
    if len(encoded) <= TEXT_MAX_BYTES:
        return encoded.decode("utf-8")
    return encoded[: TEXT_MAX_BYTES - 4].decode("utf-8", "ignore").rstrip() + " ..."
