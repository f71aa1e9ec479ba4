"""Settings of what jobs may run and with what: commands, limits, nice, umask (table ``[policy]``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gexec import limits
from gexec.errors import ConfigError
from gexec.security.policy import Limit

#: Suffixes of limits in bytes.
_BYTES = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
#: Limits by name: whether they are in bytes, and the lowest value. A process that starts the user's tasks has
#: the limits, too, and needs as much.
_LIMITS = {
    "as": (True, 256 * 1024**2),
    "core": (True, 0),
    "cpu": (False, 60),
    "data": (True, 256 * 1024**2),
    "fsize": (True, 0),
    "memlock": (True, 0),
    "msgqueue": (True, 0),
    "nofile": (False, 64),
    "nproc": (False, 2),
    "rtprio": (False, 0),
    "rttime": (False, 0),
    "sigpending": (False, 0),
    "stack": (True, 256 * 1024),
}
_UNLIMITED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSettings:
    """A rule of some users and groups (table ``[[policy.rule]]``): the first that names a user applies.

    None = as in ``[policy]``.
    """

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    allow_commands: tuple[str, ...] | None = None
    deny_commands: tuple[str, ...] | None = None
    limits: tuple[Limit, ...] = ()
    nice: int | None = None
    umask: str | None = None
    jobs_per_user_max: int | None = None

    def __post_init__(self) -> None:
        if not (self.users or self.groups):
            raise ConfigError("a rule needs users or groups")


def check_terms(settings: Any) -> None:
    """Check the values that ``[policy]`` and its rules have in common, if they are set.

    Raises:
        ConfigError: names the key and the expected value.
    """
    for name in ("allow_commands", "deny_commands"):
        for path in getattr(settings, name) or ():
            if not path.startswith("/") or path.endswith("/") or {"", ".", ".."} & set(path[1:].split("/")):
                raise ConfigError(
                    f"{name}: {path[:200]!r}: expected an absolute path without . and .., or a pattern of one"
                )
            _check_pattern(name, path)
    if settings.nice is not None and not -20 <= settings.nice <= 39:
        raise ConfigError(f"nice = {settings.nice}: expected -20 to 39")
    if settings.umask is not None:
        umask_of(settings.umask)
    most = settings.jobs_per_user_max
    if most is not None and not 1 <= most <= limits.JOBS_MAX:
        raise ConfigError(f"jobs_per_user_max = {most}: expected 1 to {limits.JOBS_MAX}")


def _check_pattern(name: str, path: str) -> None:
    """Refuse what would silently match nothing, or less than is meant."""
    for part in path[1:].split("/"):
        if "**" in part:
            raise ConfigError(f"{name}: {path[:200]!r}: ** is no pattern: * stands for a part of one name")
        # [ alone is a program.
        if part != "[" and not _closed(part):
            raise ConfigError(f"{name}: {path[:200]!r}: the bracket is not closed: write [[] for [")


def _closed(part: str) -> bool:
    """Tell whether all brackets of a pattern are closed; a ] that comes first is one of the characters."""
    start = part.find("[")
    while start >= 0:
        end = part.find("]", start + (3 if part.startswith("!", start + 1) else 2))
        if end < 0:
            return False
        start = part.find("[", end)
    return True


def umask_of(text: str) -> int:
    """Return a umask, which is written in octal.

    Raises:
        ConfigError: it is none.
    """
    if not (1 <= len(text) <= 4 and set(text) <= set("01234567") and int(text, 8) <= 0o777):
        raise ConfigError(f'umask = {text[:80]!r}: expected octal digits, such as "027"')
    return int(text, 8)


def limits_of(table: Any) -> tuple[Limit, ...]:
    """Return the limits of a table: ``name = N``, ``"4G"``, ``"SOFT:HARD"`` or ``"unlimited"``.

    Raises:
        ConfigError: names the limit and the expected value.
    """
    if not isinstance(table, dict):
        raise ConfigError("limits: expected a table, [policy.limits]")
    return tuple([_limit(name, value) for name, value in table.items()])


def _limit(name: str, value: Any) -> Limit:
    if name not in _LIMITS:
        raise ConfigError(f"limits: {name[:80]!r} is not a limit; known here: {', '.join(sorted(_LIMITS))}")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ConfigError(f"limits: {name} = {str(value)[:80]!r}: expected a number, or a text in quotes")
    soft, colon, hard = str(value).partition(":")
    limit = Limit(name, _amount(name, soft), _amount(name, hard if colon else soft))
    if limit.hard != _UNLIMITED and not 0 <= limit.soft <= limit.hard:
        raise ConfigError(f"limits: {name} = {value!r}: the soft limit is above the hard limit")
    return limit


def _amount(name: str, text: str) -> int:
    if text == "unlimited":
        return _UNLIMITED
    in_bytes, least = _LIMITS[name]
    factor = _BYTES.get(text[-1:], 0) if in_bytes else 0
    digits = text[:-1] if factor else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        units = " (K, M, G and T are permitted)" if in_bytes else ""
        raise ConfigError(
            f'limits: {name} = {text[:80]!r}: expected a number{units}, "SOFT:HARD" or "unlimited"'
        )
    amount = int(digits) * (factor or 1)
    if not least <= amount < 2**63:
        raise ConfigError(
            f"limits: {name} = {text}: expected at least {least}, which gexecd itself needs to start tasks"
            if amount < least
            else f"limits: {name} = {text}: too large"
        )
    return amount
