"""The node's directory of background jobs: made and checked at gexecd's start, before it serves anybody.

The directory belongs to root, and nobody else may create entries in it: each user's helper makes the user's
own directory there while it is still root (``spawner.helper``). A gexecd of an ordinary user serves that user
only, and the directory is the user's.
"""

from __future__ import annotations

import os
import stat

from gexec.errors import ConfigError
from gexec.posix.log import Log
from gexec.posix.trusted import check_directories
from gexec.settings.config import SPOOL, GexecdSettings
from gexec.spawner.admission import Spool


def prepared(settings: GexecdSettings, log: Log) -> Spool:
    """Return the node's spool; one without a directory, with the reason, if it cannot be used."""
    path = spool_path(settings)
    if not path:
        return Spool()
    try:
        _make(path)
    except (OSError, ConfigError) as error:
        why = str(error) if isinstance(error, ConfigError) else f"spool {path}: {error.strerror}"
        log.warning(f"no background jobs are kept here: {why}")
        return Spool(why=why)
    return Spool(path, settings.spool_jobs_max, settings.spool_max_mib * 1024 * 1024, "")


def spool_path(settings: GexecdSettings) -> str:
    """Return the directory's path; "" = no background jobs are kept."""
    if settings.spool == SPOOL and os.geteuid() != 0:
        return os.path.join(os.path.dirname(os.path.abspath(settings.socket)), "spool")
    return os.path.normpath(settings.spool) if settings.spool else ""


def _make(path: str) -> None:
    uid = os.geteuid()
    mode = 0o711 if uid == 0 else 0o700
    umask = os.umask(0o022)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.mkdir(path, mode)
            os.chmod(path, mode)
        except FileExistsError:
            pass
    finally:
        os.umask(umask)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or stat.S_IMODE(status.st_mode) & 0o022:
        owner = "root" if uid == 0 else f"uid {uid}"
        raise ConfigError(f"spool {path}: expected a directory of {owner} in which nobody else may write")
    check_directories(path, "spool", ConfigError)
