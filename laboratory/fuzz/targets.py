"""What is fuzzed: for each parser a function of bytes, which raises for every behaviour that is a defect.

A parser may refuse bytes only with the errors that its callers handle. What it accepts must be encoded to
bytes that it reads as the same again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from laboratory.fuzz import archives, formats, sockets

#: Longer inputs only repeat what shorter ones do.
INPUT_MAX_BYTES: Final = 8 * 1024


class Target(NamedTuple):
    """One parser: what is done with bytes, and inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


#: All targets by name.
TARGETS: Final[dict[str, Target]] = {
    "frames": Target(formats.fuzz_frames, formats.frame_seeds),
    "jobspec": Target(formats.fuzz_jobspec, formats.job_seeds),
    "credential": Target(formats.fuzz_credential, formats.credential_seeds),
    "gmond": Target(formats.fuzz_gmond, formats.gmond_seeds),
    "authd": Target(sockets.fuzz_authd, sockets.authd_seeds),
    "channel": Target(sockets.fuzz_channel, sockets.channel_seeds),
    "archive": Target(archives.fuzz_archive, archives.archive_seeds),
}
