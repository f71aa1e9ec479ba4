"""Computes a rank's outcome from its ssh's output and the signals sent. Pure."""

from __future__ import annotations

from gexec.wire import outcome as outcomes
from gexec.wire.outcome import Outcome

_KILL = 9
#: sh's status is 128 + N for a command that signal N ended (ksh93: 256 + N).
_SIGNALS_FROM, _SIGNALS_TO = 129, 128 + 31
_KSH_SIGNALS_FROM = 257
#: The beginning of the reason when a silent node is given up.
SILENT = "no answer within"
#: Messages about a node, or the last host before it, that does not answer: ours and OpenSSH's.
_DOWN = (
    SILENT, "ssh: connect to host ", "ssh: Could not resolve hostname ", "during banner exchange",
    "open failed: connect failed: ",
)  # fmt: skip


def verdict(
    *,
    went: bool,
    status: int | None,
    explanation: str,
    ssh_status: int,
    ended_for: str,
    out_of_time: str,
    asked_kill: bool,
    forced: bool,
    stalled: str = "",
) -> Outcome:
    """Return the outcome of a rank whose ssh has ended.

    Args:
        went: the node was told to run the command; before that it certainly has not run.
        status: the command's status as reported by the node, or None.
        explanation: ssh's last message before the command began.
        ssh_status: exit status of ssh, or 128 + signal.
        ended_for: why it was given up before the command began, or "".
        out_of_time: the reason if it ran longer than the job may, else "".
        asked_kill: KILL was sent to its node.
        forced: ssh was ended here, because the node did not answer.
        stalled: why it was given up for standing still, or "".
    """
    if status is not None:
        ended = _told(status)
        if out_of_time:
            return outcomes.timed_out(ended.value if ended.kind == outcomes.KILLED else 0, out_of_time)
        return ended
    if not went:
        text = ended_for or explanation or f"ssh ended with status {ssh_status} before the command began"
        if "Permission denied (" in text and not ended_for:
            return outcomes.denied(text)
        # An sshd with too many connections (MaxStartups) closes new ones: that node is not down.
        down = any(words in text for words in _DOWN)
        return outcomes.unreachable(text) if down else outcomes.not_started(text)
    if stalled:
        return outcomes.lost(stalled)
    if forced:
        return outcomes.lost("the node did not confirm the end of the command")
    if asked_kill:
        return outcomes.timed_out(_KILL, out_of_time) if out_of_time else outcomes.killed(_KILL)
    return outcomes.lost("the connection ended before the command did")


def _told(status: int) -> Outcome:
    if _SIGNALS_FROM <= status <= _SIGNALS_TO:
        return outcomes.killed(status - 128)
    if _KSH_SIGNALS_FROM <= status <= 256 + 64:
        return outcomes.killed(status - 256)
    return outcomes.exited(status & 255)
