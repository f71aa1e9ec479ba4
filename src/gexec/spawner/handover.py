"""The data that gexecd's start-up passes to the spawner, in a sealed memfd."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from gexec.posix.audit import AuditLog
from gexec.posix.log import Log
from gexec.security.policy import Limit, Policy, Rule, Terms

#: Fields of a policy whose values are in order; other lists are sets.
_IN_ORDER: Final = ("allow_commands", "deny_commands")


@dataclass(slots=True)
class Handover:
    """Everything that a spawner needs; it reads no configuration. Descriptors: -1 = none.

    Attributes:
        names: this node's names and addresses.
        trust: the accepted signers (``security.signers.Trust``).
        policy: who may run what.
        audit: the settings of the audit log, see ``audit_log``; ``failure`` is "continue" or "refuse".
        started_s: UNIX time; credentials that were not issued after it are refused.
        tasks_max: places for processes of all ordinary users together.
        spool: the fields of ``admission.Spool``.
        relay_pid, channel_fd: the relay, and the channel to it.
        relay_ready_fd: the relay writes a byte to this pipe when it is ready.
        ready_fds: descriptors that the spawner then writes a byte to.
        listener_fds, client_fds: the listening sockets, for the next relay if this one dies; nothing is read
            from them here.
        parent_fd: at end of file on this pipe, gexecd ends.
        log_fd: replaces stderr when the relay is ready.
        socket, socket_inode: the socket that gexecd made and removes at its end; "" = none.
        expires_s: until when the certificate is valid, UNIX time.
        renewal, rereading: the argv of the programs that get a certificate, and read keys and policy.
        succession: the beginning of the argv of the program that is a relay's successor; [] = there is none,
            because this gexecd shares its memory with a local cluster.
        relay: what a relay's successor must know, beside trust and the source of its certificate: JSON.
        again: the beginning of the argv with which the spawner executes itself anew.
        version, code: of the code that runs: its version, and a digest of its files.
        argv: gexecd's own arguments.
    """

    realm: str
    names: list[str]
    trust: str
    policy: dict[str, Any]
    started_s: float
    clock_skew_s: float
    credential_ttl_max_s: float
    audit: dict[str, Any]
    drain_s: float
    tasks_max: int
    spool: list[Any]
    relay_pid: int
    channel_fd: int
    relay_ready_fd: int
    ready_fds: list[int]
    listener_fds: list[int]
    client_fds: list[int]
    parent_fd: int
    log_fd: int
    socket: str
    socket_inode: int
    expires_s: float
    renewal: list[str]
    rereading: list[str]
    succession: list[str]
    relay: str
    again: list[str]
    version: str
    code: str
    argv: list[str]

    @property
    def descriptors(self) -> list[int]:
        """All descriptors that the spawner inherits."""
        fds = [self.channel_fd, self.relay_ready_fd, self.parent_fd, self.log_fd, *self.ready_fds]
        return [fd for fd in [*fds, *self.listener_fds, *self.client_fds] if fd >= 0]

    def close_listeners(self) -> None:
        """Close the listening sockets: there will be no other relay."""
        for fd in (*self.listener_fds, *self.client_fds):
            os.close(fd)
        self.listener_fds, self.client_fds = [], []

    def encode(self) -> bytes:
        """Return its bytes."""
        return json.dumps({field.name: getattr(self, field.name) for field in fields(self)}).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Return what ``encode`` wrote."""
        return cls(**json.loads(raw.decode()))


def audit_log(audit: Mapping[str, Any], log: Log) -> AuditLog:
    """Return the audit log with these settings.

    Args:
        audit: ``log`` (destinations), ``max_bytes``, ``keep``, ``common`` (fields of all lines) and
            ``failure``, which is not used here.
        log: gets an error when lines are being lost.
    """
    return AuditLog(
        tuple(audit["log"]), log, common=audit["common"], max_bytes=audit["max_bytes"], keep=audit["keep"]
    )


def policy_fields(policy: Policy) -> dict[str, Any]:
    """Return a policy in types that JSON can represent."""
    told: dict[str, Any] = _plain(asdict(policy))
    return told


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def policy_from(told: dict[str, Any]) -> Policy:
    """Return the policy that ``policy_fields`` wrote.

    Raises:
        TypeError, KeyError: it is something else.
    """
    rules = tuple([Rule(**_typed(rule)) for rule in told["rules"]])
    given = {name: value for name, value in told.items() if name not in ("terms", "rules")}
    return Policy(**_typed(given), terms=Terms(**_typed(told["terms"])), rules=rules)


def _typed(told: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in told.items():
        if name == "limits":
            given[name] = tuple([Limit(*limit) for limit in value])
        elif isinstance(value, list):
            given[name] = tuple(value) if name in _IN_ORDER else frozenset(value)
        else:
            given[name] = value
    return given
