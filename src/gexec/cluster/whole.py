"""Writes files as a whole: what was there stays until the new content is on the disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """Replace a file's content in one step, with exactly this mode, or leave the file unchanged."""
    write_all([(path, content, mode)])


def write_all(files: Sequence[tuple[Path, bytes, int]]) -> None:
    """Replace the content of files that belong together, each with its mode.

    All contents are on the disk before the first file is replaced, so that a full disk changes none of them.
    Then they are replaced in this order; only a kill or a crash can leave the first ones new and the others
    old.

    Raises:
        OSError: ``filename`` is the file that cannot be written.
    """
    temporaries: list[Path] = []
    path = None
    try:
        for path, content, mode in files:
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            temporaries.append(temporary)
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
        for (path, _, _), temporary in zip(files, temporaries, strict=True):
            os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
    for directory in {path.parent for path, _, _ in files}:
        _keep(directory)


def _keep(directory: Path) -> None:
    """Let the names of a directory's files outlive a crash."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
