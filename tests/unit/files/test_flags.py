"""Why an entry cannot be changed: the flags of chattr; what root sees of them is in test_deletion."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from descriptors import directory
from gexec.files.directories import reason
from gexec.files.flags import why_unchangeable

DENIED = OSError(errno.EPERM, "Operation not permitted")
FULL = OSError(errno.ENOSPC, "No space left on device")


def test_without_a_flag_the_error_is_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    with directory(tmp_path) as above:
        for name in (b"file", b"link", b"pipe", b"nothing", b"."):
            assert why_unchangeable(above, name, DENIED) == reason(DENIED)
            assert why_unchangeable(above, name, FULL) == reason(FULL)
