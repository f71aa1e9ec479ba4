"""Output: what arrived is a prefix of what was written; all of it, if the rank is not lost.

If relays of its node have died, parts may be missing, at most one for each, and its end is never undamaged.
"""

from __future__ import annotations

from gexec.wire import jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import Outcome
from laboratory.evidence import Evidence
from laboratory.world import Violation


def at_end(evidence: Evidence, rank: int, outcome: Outcome) -> None:
    """Check the output of one rank."""
    record = evidence.job.records[rank]
    received = [evidence.client.received.get((rank, stream), bytearray()) for stream in (STDOUT, STDERR)]
    written = [record.written[stream] for stream in (STDOUT, STDERR)]
    for got, had in zip(received, written, strict=True):
        if not is_of(bytes(got), bytes(had), record.life):
            raise Violation(f"rank {rank}: the received output is not a prefix of the written output")
    detached = record.starts and evidence.made.spec.flags & jobspec.DETACHED
    if outcome.kind in (outcomes.NOT_STARTED, outcomes.DENIED, outcomes.LOST) or detached:
        return
    if record.life:
        if not outcome.cut:
            raise Violation(f"rank {rank} is {outcome.describe()}, but a relay died under it")
        return
    lengths, own = [len(got) for got in received], record.own
    if outcome.cut and not evidence.made.plans[rank].leaves_s:
        raise Violation(f"rank {rank} is {outcome.describe()}, but no process held its output")
    if not outcome.cut and received != written:
        whole = [len(had) for had in written]
        raise Violation(f"rank {rank} ended, but its output is incomplete: {lengths} of {whole}")
    if any(got < least for got, least in zip(lengths, own, strict=True)):
        raise Violation(f"rank {rank}: only {lengths} bytes arrived of its own output {own}")


def is_of(got: bytes, had: bytes, holes: int) -> bool:
    """Tell whether ``got`` begins as ``had`` does, and is the rest of it but for so many parts."""
    if had.startswith(got):
        return True
    if not holes:
        return False
    same = next(
        at for at, (one, other) in enumerate(zip(got, had + b"\0" * len(got), strict=False)) if one != other
    )
    # By chance, the first bytes after a hole may be those that are missing.
    for at in range(same, max(-1, same - 16), -1):
        rest, begin = got[at:], had.find(got[at : at + 16], at)
        while begin >= 0:
            if is_of(rest, had[begin:], holes - 1):
                return True
            begin = had.find(got[at : at + 16], begin + 1)
    return False
