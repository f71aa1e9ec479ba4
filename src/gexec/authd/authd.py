"""authd: the only process that reads the cluster's private key.

Listens on a unix socket, gets the caller's uid from the kernel (SO_PEERCRED), and signs for that user: a
credential bound to the job that it received, or, for gexecd, a short-lived certificate. One request per
connection. Only the chunk of a job that is being hashed is in memory.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from ipaddress import ip_address
from struct import error as StructError

from gexec import limits
from gexec.authd.reader import CHUNK_BYTES, RequestReader, drain
from gexec.errors import AuthError, ConfigError, GexecError, ProtocolError
from gexec.posix import sockets
from gexec.posix.audit import AuditLog
from gexec.posix.deadline import Deadline
from gexec.posix.hostnames import interface_addresses
from gexec.posix.log import Log, stderr_log
from gexec.posix.unix import peer_of
from gexec.security.certificate import authority, leaf, name_is_acceptable
from gexec.security.credential import JOB_ID_BYTES
from gexec.security.names import is_everybodys
from gexec.security.quota import Shares
from gexec.security.rate import Rate
from gexec.security.signing import SigningKey, issue
from gexec.settings.config import REFUSE, AuthdSettings, check_audit_log
from gexec.settings.keyfiles import read_pair
from gexec.wire.frames import (
    HEADER,
    HEADER_BYTES,
    REFUSED_BUSY,
    REFUSED_DENIED,
    TO_AUTHD,
    Certified,
    Certify,
    Frame,
    Refused,
    Sign,
    Signed,
    encode,
)

_AUDIENCE_MAX_BYTES = 64
#: Descriptors left for keys, logs and the event loop.
_DESCRIPTORS_RESERVED = 32
_OVERFLOW_UID_FILE = "/proc/sys/kernel/overflowuid"


def serve(
    settings: AuthdSettings,
    *,
    ready: Callable[[], None] | None = None,
    die_with_parent_fd: int | None = None,
    log: Log | None = None,
) -> int:
    """Run authd until SIGTERM or SIGINT; SIGHUP reads the keys again. Returns 0.

    May be called in a freshly forked child; needs the main thread.

    Args:
        ready: called once, when clients can connect.
        die_with_parent_fd: also end when this descriptor (of a pipe) reaches its end.

    Raises:
        KeyFileError, ConfigError: the keys or the socket cannot be used.
    """
    return Authd(settings, log).run(ready=ready, die_with_parent_fd=die_with_parent_fd)


class Authd:
    """The service. The constructor reads the keys and listens; :meth:`run` serves.

    Args:
        reread: returns the settings as they are now, for SIGHUP; None = they do not change. The paths of the
            sockets and of the audit log are those of the start.
    """

    def __init__(
        self,
        settings: AuthdSettings,
        log: Log | None = None,
        reread: Callable[[], AuthdSettings] | None = None,
    ) -> None:
        self.settings = settings
        self._read_settings = reread
        self._log = log or stderr_log("authd")
        self._key, self._authority = _load(settings)
        check_audit_log(settings)
        self._host = _host_of(settings)
        self._audit = AuditLog(
            settings.audit_log,
            self._log,
            common={"daemon": "authd", "node": self._host, "realm": settings.realm},
            max_bytes=settings.audit_max_bytes,
            keep=settings.audit_keep,
        )
        self._rate = Rate(settings.rate_per_user, settings.rate_per_user * 10)
        self._me = os.geteuid()
        self._overflow_uid = _overflow_uid()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = Shares(limits.AUTHD_CONNECTIONS_MAX, self._me)
        self._tick_due: asyncio.TimerHandle | None = None
        self._listener = sockets.listen(settings.socket, what="authd")

    def run(self, *, ready: Callable[[], None] | None = None, die_with_parent_fd: int | None = None) -> int:
        """Serve until a stop signal; see :func:`serve`."""
        # The key must not get into a core dump. Raise the descriptor limit.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self._connections = Shares(_raise_descriptors(), self._me)
        try:
            asyncio.run(self._run(ready, die_with_parent_fd))
        finally:
            self._listener.close()
            sockets.remove(self.settings.socket, "authd")
            self._audit.close()
        return 0

    async def _run(self, ready: Callable[[], None] | None, die_with_parent_fd: int | None) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if die_with_parent_fd is not None:
            loop.add_reader(die_with_parent_fd, stop.set)
        accepting = asyncio.create_task(self._accept())
        self._log.info(
            f"listens at {self.settings.socket}, signs with key {self._key.key_id.hex()} for the cluster "
            f"{self.settings.realm}"
        )
        if ready is not None:
            ready()
        await stop.wait()
        accepting.cancel()
        if self._tasks:  # answer pending requests; each has its own deadline
            await asyncio.wait(self._tasks, timeout=limits.AUTHD_IO_DEADLINE_S)

    def _reload(self) -> None:
        self._audit.reopen()
        try:
            settings = self.settings
            if self._read_settings is not None:
                new = self._read_settings()
                settings = replace(new, socket=settings.socket, audit_log=settings.audit_log)
            self._key, self._authority = _load(settings)
            self.settings = settings
        except GexecError as error:
            self._log.error(f"keeps its old keys: {error}")
            return
        self._log.info(f"has read its keys again, signs with key {self._key.key_id.hex()}")

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                # No descriptor or memory: requests in progress will free some.
                self._log.warning(f"cannot accept a connection: {error.strerror}")
                await asyncio.sleep(0.1)
                continue
            _, uid = peer_of(connection)
            if not self._connections.take(uid):
                self._refuse_for_load(connection, uid)
                continue
            task = loop.create_task(self._serve(connection, uid))
            self._tasks.add(task)
            task.add_done_callback(partial(self._served, uid))

    def _served(self, uid: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._connections.give(uid)

    def _refuse_for_load(self, connection: socket.socket, uid: int) -> None:
        why = self._connections.refusal(uid, "connections to authd")
        self._deny(uid, "busy", "too many connections")
        with connection, suppress(OSError):
            connection.setblocking(False)
            connection.send(encode(0, Refused(REFUSED_BUSY, f"too many connections: {why}")))

    async def _serve(self, connection: socket.socket, uid: int) -> None:
        loop = asyncio.get_running_loop()
        answer: Frame | None = None
        within = asyncio.timeout(None)
        deadline = Deadline(loop, limits.AUTHD_IO_DEADLINE_S, lambda: within.reschedule(loop.time()))
        try:
            connection.setblocking(False)
            async with within:
                answer = await self._answer(RequestReader(connection), uid)
                await loop.sock_sendall(connection, encode(0, answer))
                if isinstance(answer, Refused):
                    await drain(connection)
        except TimeoutError:
            if answer is None:
                self._deny(uid, "timeout", f"no complete request within {limits.AUTHD_IO_DEADLINE_S:g} s")
        except (OSError, EOFError):
            pass  # the client has disconnected
        finally:
            deadline.cancel()
            connection.close()

    async def _answer(self, reader: RequestReader, uid: int) -> Frame:
        """Read the request of ``uid``, audit it and return the answer."""
        if not self._rate.take(uid, time.monotonic()):
            self._deny(uid, "busy", "too many requests")
            rate = self.settings.rate_per_user
            return Refused(REFUSED_BUSY, f"more than {rate:g} requests per second: try again more slowly")
        try:
            account = self._account(uid)
            length, kind, channel = HEADER.unpack(await reader.exactly(HEADER_BYTES))
            wanted = TO_AUTHD.get(kind)
            if wanted is None or channel != 0:
                raise ProtocolError("this is authd: it accepts only requests to sign and to certify")
            if length > wanted.MAX_BYTES:
                raise ProtocolError(f"{wanted.__name__} of {length} bytes is over {wanted.MAX_BYTES}")
            if wanted is Sign:
                return await self._sign(reader, length, account)
            return self._certify(await reader.exactly(length), uid)
        except GexecError as error:
            self._deny(uid, "request", str(error))
            return Refused(REFUSED_DENIED, str(error))

    def _account(self, uid: int) -> pwd.struct_passwd:
        """Return the account of the peer's uid, if authd signs for it."""
        if self._me != 0 and uid != self._me:
            raise AuthError(
                f"this authd runs as uid {self._me} and signs only for that user, not for uid {uid}"
            )
        if uid == self._overflow_uid and self._me != uid and not self.settings.overflow_uid:
            raise AuthError(
                f"uid {uid} stands for all processes of foreign user namespaces, so it identifies no user: "
                "run gexec outside of the container, or set overflow_uid in authd.toml"
            )
        try:
            return pwd.getpwuid(uid)
        except KeyError:
            raise AuthError(f"uid {uid} has no account on {self._host}") from None

    async def _sign(self, reader: RequestReader, length: int, account: pwd.struct_passwd) -> Frame:
        # Like wire.frames.Sign, but hashed on arrival and not kept, which would take megabytes per
        # connection.
        (audience_length,) = await reader.exactly(1) if length else b"\0"
        blob_length = length - 1 - audience_length
        if not 1 <= audience_length <= _AUDIENCE_MAX_BYTES or blob_length < 1:
            raise ProtocolError("request to sign: the audience is empty or too long, or no job follows it")
        if blob_length > limits.JOB_BLOB_MAX_BYTES:
            raise ProtocolError(f"job of {blob_length} bytes is over {limits.JOB_BLOB_MAX_BYTES}")
        audience = (await reader.exactly(audience_length)).decode("ascii", "replace")
        if not (audience.isascii() and audience.isprintable()):
            raise ProtocolError("request to sign: the audience is not printable ASCII")
        digest = sha256()
        while blob_length:
            chunk = await reader.some(min(blob_length, CHUNK_BYTES))
            digest.update(chunk)
            blob_length -= len(chunk)
        job_id = os.urandom(JOB_ID_BYTES)
        credential = issue(
            self._key,
            realm=self.settings.realm,
            audience=audience,
            host=self._host,
            uid=account.pw_uid,
            gid=account.pw_gid,
            user=account.pw_name,
            now_s=time.time(),
            ttl_s=self.settings.ttl_s,
            job_id=job_id,
            digest=digest.digest(),
        )
        is_written = self._audit.write(
            "issue",
            uid=account.pw_uid,
            gid=account.pw_gid,
            user=account.pw_name,
            audience=audience,
            job=job_id.hex(),
            digest=digest.hexdigest(),
            ttl_s=self.settings.ttl_s,
            key=self._key.key_id.hex(),
        )
        self._tick_later()
        if not is_written and self.settings.audit_failure == REFUSE:
            raise AuthError(
                f"authd's audit log cannot be written ({self._audit.trouble}), and it signs nothing without "
                'a record (audit_failure = "refuse" in authd.toml)'
            )
        return Signed(credential)

    def _certify(self, payload: bytes, uid: int) -> Frame:
        if uid not in (0, self._me):
            raise AuthError(f"uid {uid} may not have a node's certificate: run gexecd as root")
        try:
            request = Certify.unpack(payload)
        except StructError as cause:
            raise ProtocolError(f"request to certify is malformed: {cause}") from cause
        if self.settings.signers:
            raise AuthError(
                "this authd signs no certificates, because its key signs jobs only (hardened mode): set "
                "node_key and node_certificate in gexecd.toml"
            )
        serial = int.from_bytes(os.urandom(16)) | 1
        certificate = leaf(
            self._key,
            issuer=self._authority,
            public_key_der=request.public_key,
            names=request.names,
            now_s=time.time(),
            ttl_s=self.settings.certificate_ttl_s,
            serial=serial,
        )
        self._audit.write("certify", uid=uid, serial=f"{serial:x}", names=list(request.names))
        return Certified(certificate, self._authority)

    def _deny(self, uid: int, code: str, reason: str) -> None:
        self._audit.deny("authd", f"uid {uid}", code, uid=uid, reason=reason)
        self._tick_later()

    def _tick_later(self) -> None:
        if self._tick_due is None and self._audit.next_deadline_s() is not None:
            loop = asyncio.get_running_loop()
            self._tick_due = loop.call_later(limits.AUDIT_PERIOD_S, self._tick)

    def _tick(self) -> None:
        self._tick_due = None
        self._audit.tick()
        self._tick_later()


def _load(settings: AuthdSettings) -> tuple[SigningKey, bytes]:
    key = read_pair(settings.private_key, settings.public_keys, settings.signers)
    return key, authority(key, settings.realm)


def _host_of(settings: AuthdSettings) -> str:
    """Return the name of this host in credentials: its gexecd's certificate must hold it.

    A host that has only names that every host has is called by its first address.

    Raises:
        ConfigError: the configured name identifies no host.
    """
    host = settings.host or os.uname().nodename
    if settings.host and (is_everybodys(host) or not name_is_acceptable(host)):
        raise ConfigError(
            f"host = {host[:80]!r}: expected a name or an address that only this host has, as in the "
            "certificate of its gexecd"
        )
    if not is_everybodys(host):
        return host
    return next((each for each in interface_addresses() if not ip_address(each).is_loopback), "localhost")


def _overflow_uid() -> int:
    try:
        with open(_OVERFLOW_UID_FILE, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65534


def _raise_descriptors() -> int:
    """Raise the soft descriptor limit as needed; return how many connections ordinary users may have."""
    needed = Shares(limits.AUTHD_CONNECTIONS_MAX).total + _DESCRIPTORS_RESERVED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return limits.AUTHD_CONNECTIONS_MAX
    return max(1, (soft - _DESCRIPTORS_RESERVED) * 8 // 9)  # a ninth is root's reserve
