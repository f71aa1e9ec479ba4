"""Reads a TOML file that no other user can have written."""

from __future__ import annotations

import tomllib
from typing import Any

from gexec import limits
from gexec.errors import ConfigError
from gexec.posix.trusted import read_trusted


def read_toml(path: str, *, what: str, missing: str) -> dict[str, Any]:
    """Return the document of a file of at most CONFIG_MAX_BYTES.

    Args:
        what: what the file is, for errors.
        missing: what to do if it does not exist.

    Raises:
        ConfigError: it cannot be read, another user could have written it, or it is not TOML in UTF-8.
    """
    content = read_trusted(
        path,
        what=what,
        max_bytes=limits.CONFIG_MAX_BYTES,
        private=False,
        error=ConfigError,
        missing=missing,
    )
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as cause:
        raise ConfigError(f"{path}: byte {cause.start} is not UTF-8, which TOML files must be") from cause
    except tomllib.TOMLDecodeError as cause:
        raise ConfigError(f"{path}: not a TOML file: {cause}") from cause
    except RecursionError as cause:
        raise ConfigError(f"{path}: nested too deeply") from cause
