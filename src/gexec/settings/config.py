"""The settings of gexecd and authd: TOML files, checked here, as frozen classes.

Precedence (lowest first): the defaults below, the file, the environment, the command line. The
command lines apply theirs with :func:`dataclasses.replace`, which checks the values again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from gexec import limits
from gexec.errors import ConfigError
from gexec.limits import JOBS_PER_UID_MAX
from gexec.posix.trusted import check_written
from gexec.security.policy import Limit
from gexec.settings.terms import RuleSettings, check_terms, limits_of
from gexec.settings.toml import read_toml

GEXECD_CONFIG = "/etc/gexec/gexecd.toml"
AUTHD_CONFIG = "/etc/gexec/authd.toml"
GEXECD_SOCKET = "/run/gexec/gexecd.sock"
AUTHD_SOCKET = "/run/gexec/authd.sock"
PRIVATE_KEY = "/etc/auth_priv.pem"
PUBLIC_KEY = "/etc/auth_pub.pem"
REALM = "gexec"
#: The directory of background jobs; of an ordinary user's gexecd, ``spool`` beside its socket.
SPOOL = "/var/spool/gexec"
#: Values of [policy] leftovers.
LEAVE = "leave"
KILL = "kill"
REALM_MAX_BYTES = 64
#: Values of audit_failure: what happens while the audit log cannot be written.
CONTINUE = "continue"
REFUSE = "refuse"
#: Destinations of the audit log that are not files.
_AUDIT_WORDS = ("journal", "stderr")
_AUDIT_LOGS_MAX = 4

_REALM_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Who may run jobs on this node (table ``[policy]`` of gexecd.toml).

    Empty ``allow_*`` lists mean all users; deny has precedence over allow. Users and groups are names.
    """

    root: bool = True
    uid_min: int = 0  #: lowest uid that may run jobs; root is exempt
    allow_users: tuple[str, ...] = ()
    deny_users: tuple[str, ...] = ()
    allow_groups: tuple[str, ...] = ()
    deny_groups: tuple[str, ...] = ()
    jobs_per_user_max: int = JOBS_PER_UID_MAX
    leftovers: str = LEAVE  #: whether to end the leftovers of a command that ended by itself
    pam: str = ""  #: the PAM service that checks accounts and opens sessions; empty = none
    allow_commands: tuple[str, ...] = ()  #: programs that may be run: paths and patterns; empty = all
    deny_commands: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()  #: limits, nice and umask are not for root, unless a rule names root
    nice: int = 0
    umask: str = "000"  #: octal: bits that are added to the umask of the job
    rule: tuple[RuleSettings, ...] = ()

    def __post_init__(self) -> None:
        _check_types(self)
        _check_between(self, "uid_min", 0, 2**32 - 2)
        check_terms(self)
        if not set(self.pam) <= _REALM_CHARACTERS or self.pam.startswith("."):
            raise ConfigError(f"pam = {self.pam[:80]!r}: expected the name of a file in /etc/pam.d")
        if self.leftovers not in (LEAVE, KILL):
            raise ConfigError(f'leftovers = {self.leftovers[:80]!r}: expected "leave" or "kill"')


@dataclass(frozen=True, slots=True, kw_only=True)
class GexecdSettings:
    """Settings of gexecd. Paths are absolute; an empty path means none; times in seconds."""

    port: int = limits.DEFAULT_PORT  #: 0 = any free one
    bind: tuple[str, ...] = ()  #: addresses to listen on; empty = all, IPv4 and IPv6
    socket: str = GEXECD_SOCKET
    authd_socket: str = AUTHD_SOCKET
    public_keys: tuple[str, ...] = (PUBLIC_KEY,)  #: of signers without limits
    signers: str = ""  #: signers.toml; empty = only ``public_keys``
    #: files of authorities whose certificates are accepted beside those of the authority that authd has
    authorities: tuple[str, ...] = ()
    node_key: str = ""  #: signs the relay's certificates; empty = authd signs them
    node_certificate: str = ""  #: of ``node_key``
    submissions: bool = True  #: users may submit jobs on this node
    realm: str = REALM  #: the cluster's name, the same on all nodes
    names: tuple[str, ...] = ()  #: names and addresses of this node to add to those found
    find_names: bool = True  #: False: this node has only ``names``
    hosts: str = ""  #: a file in the format of /etc/hosts, looked up before /etc/hosts
    relay_user: str = ""  #: for the relay when started as root; empty = gexec
    audit_log: tuple[str, ...] = ()  #: files, "journal", "stderr"; empty = stderr
    audit_failure: str = CONTINUE  #: while it cannot be written: "continue", or "refuse" new jobs
    audit_max_bytes: int = 0  #: size at which a file is renamed; 0 = never
    audit_keep: int = 10  #: renamed files that are kept
    orphan_grace_s: float = limits.ORPHAN_GRACE_S
    drain_s: float = 60.0  #: how long SIGTERM waits for running jobs
    link_idle_s: float = limits.LINK_IDLE_S
    heartbeat_s: float = limits.HEARTBEAT_S
    lost_after_s: float = limits.LOST_AFTER_S
    clock_skew_s: float = limits.CLOCK_SKEW_S
    credential_ttl_max_s: float = limits.CREDENTIAL_TTL_MAX_S
    unauthenticated_max_s: float = limits.UNAUTHENTICATED_MAX_S  #: until a peer is authenticated
    jobs_max: int = limits.JOBS_MAX
    output_max_mib: int = limits.OUTPUT_MAX_BYTES // 1024 // 1024  #: that jobs may make this node keep
    spool: str = SPOOL  #: the directory of background jobs; empty = none are kept here
    spool_jobs_max: int = limits.KEPT_JOBS_MAX  #: kept ranks of one user
    spool_max_mib: int = limits.KEPT_MAX_MIB  #: output of them
    #: of cgroup v2, for the commands: "auto" = systemd's, if it has delegated one; "none"; or its directory
    control_group: str = "auto"
    policy: PolicySettings = field(default_factory=PolicySettings)

    def __post_init__(self) -> None:
        _take_audit_log(self)
        _check_types(self)
        _check_between(self, "port", 0, 65535)
        for name in ("socket", "authd_socket"):
            _check_path(self, name, socket=True)
        for name in ("hosts", "signers", "node_key", "node_certificate", "spool"):
            if getattr(self, name):
                _check_path(self, name)
        _check_audit(self)
        _check_keys(self.public_keys, self.signers)
        if self.control_group not in ("auto", "none"):
            _check_absolute("control_group", self.control_group)
        for path in self.authorities:
            _check_absolute("authorities", path)
        check_realm(self.realm)
        if bool(self.node_key) != bool(self.node_certificate):
            raise ConfigError("node_key and node_certificate: expected both or neither")
        if self.node_key and not self.authorities:
            raise ConfigError("node_key is set, so authorities must hold at least one file")
        if not self.find_names and not self.names:
            raise ConfigError("find_names is false, so names must hold at least one name")
        for name in ("orphan_grace_s", "link_idle_s", "heartbeat_s", "lost_after_s"):
            _check_between(self, name, 0.05, 86_400)
        _check_between(self, "unauthenticated_max_s", 0.5, 600)
        _check_between(self, "drain_s", 0, 86_400 * 7)
        _check_between(self, "clock_skew_s", 0, 3600)
        _check_between(self, "credential_ttl_max_s", 1, 3600)
        _check_between(self, "jobs_max", 1, limits.RANKS_MAX)
        _check_between(self, "output_max_mib", 4, 1024 * 1024)
        _check_between(self, "spool_jobs_max", 1, 1_000_000)
        _check_between(self, "spool_max_mib", 1, 1024 * 1024)
        if not self.heartbeat_s < self.lost_after_s:
            raise ConfigError("expected heartbeat_s < lost_after_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthdSettings:
    """Settings of authd. Paths are absolute; times in seconds."""

    socket: str = AUTHD_SOCKET
    private_key: str = PRIVATE_KEY
    public_keys: tuple[str, ...] = (PUBLIC_KEY,)
    signers: str = ""  #: signers.toml, in which the key must be; authd then signs no certificates
    realm: str = REALM
    host: str = ""  #: this host's name in credentials; empty = its host name
    ttl_s: float = limits.CREDENTIAL_TTL_S
    certificate_ttl_s: float = limits.CERTIFICATE_TTL_S
    rate_per_user: float = limits.AUTHD_RATE_PER_UID  #: credentials per second; burst 10 times that
    overflow_uid: bool = False  #: sign for the uid under which processes of foreign user namespaces appear
    audit_log: tuple[str, ...] = ()  #: as for gexecd, and the following three
    audit_failure: str = CONTINUE
    audit_max_bytes: int = 0
    audit_keep: int = 10

    def __post_init__(self) -> None:
        _take_audit_log(self)
        _check_types(self)
        _check_path(self, "socket", socket=True)
        _check_path(self, "private_key")
        if self.signers:
            _check_path(self, "signers")
        _check_audit(self)
        _check_keys(self.public_keys, self.signers)
        check_realm(self.realm)
        _check_between(self, "ttl_s", 1, limits.CREDENTIAL_TTL_MAX_S)
        _check_between(self, "certificate_ttl_s", 2, 366 * 86_400)
        _check_between(self, "rate_per_user", 0.1, 1_000_000)


_Settings = TypeVar("_Settings", GexecdSettings, AuthdSettings)
#: Types of settings that are tables within ``[policy]``.
_TABLES: dict[str, type] = {"tuple[Limit, ...]": Limit, "tuple[RuleSettings, ...]": RuleSettings}


def check_audit_log(settings: GexecdSettings | AuthdSettings) -> None:
    """Refuse audit logs in directories where another user could exchange them.

    Raises:
        ConfigError: names the file and the directory.
    """
    for name in settings.audit_log:
        if name.startswith("/"):
            check_written(name, "audit log", ConfigError)


def read_gexecd(path: str | None = None, environ: Mapping[str, str] = os.environ) -> GexecdSettings:
    """Return gexecd's settings.

    Args:
        path: the file; None = /etc/gexec/gexecd.toml if it exists. A named file must exist.
        environ: GEXEC_SOCKET, GEXEC_AUTHD_SOCKET, GEXEC_PORT and GEXEC_HOSTS override the file.

    Raises:
        ConfigError: names the file, the key, and the expected value.
    """
    values = _from_environment(
        environ, {"GEXEC_SOCKET": "socket", "GEXEC_AUTHD_SOCKET": "authd_socket", "GEXEC_HOSTS": "hosts"}
    )
    if port := environ.get("GEXEC_PORT"):
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise ConfigError(f"GEXEC_PORT={port[:40]}: expected a port from 0 to 65535")
        values["port"] = int(port)
    return _settings(GexecdSettings, path, GEXECD_CONFIG, values)


def read_authd(path: str | None = None, environ: Mapping[str, str] = os.environ) -> AuthdSettings:
    """Return authd's settings, as :func:`read_gexecd` does; GEXEC_AUTHD_SOCKET overrides the file."""
    values = _from_environment(environ, {"GEXEC_AUTHD_SOCKET": "socket"})
    return _settings(AuthdSettings, path, AUTHD_CONFIG, values)


def _from_environment(environ: Mapping[str, str], names: dict[str, str]) -> dict[str, Any]:
    return {key: environ[name] for name, key in names.items() if environ.get(name)}


def _settings(
    kind: type[_Settings], path: str | None, default: str, environment: dict[str, Any]
) -> _Settings:
    if path is None and not os.path.lexists(default):
        values: dict[str, Any] = {}
    else:
        values = read_toml(
            path or default, what="configuration", missing="leave --config out to run with the defaults"
        )
    shown = path or default
    try:
        settings = kind(**_known(kind, values, ""))
    except ConfigError as cause:
        raise ConfigError(f"{shown}: {cause}") from cause
    if not environment:
        return settings
    try:
        return kind(**{each.name: getattr(settings, each.name) for each in fields(kind)} | environment)
    except ConfigError as cause:
        raise ConfigError(f"environment variable: {cause}") from cause


def _known(kind: type, values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the file's values in the form that the class needs: arrays as tuples, tables as classes."""
    known = {each.name: each for each in fields(kind)}
    taken: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            expected = ", ".join(sorted(known))
            raise ConfigError(f"{prefix}{key[:80]!r} is not a setting; known here: {expected}")
        if key == "policy":
            if not isinstance(value, dict):
                raise ConfigError("policy: expected a table, [policy]")
            taken[key] = PolicySettings(**_known(PolicySettings, value, "policy: "))
        elif key == "limits":
            taken[key] = limits_of(value)
        elif key == "rule":
            taken[key] = _rules(value)
        else:
            taken[key] = tuple(value) if isinstance(value, list) else value
    return taken


def _rules(value: Any) -> tuple[RuleSettings, ...]:
    if not (isinstance(value, list) and all(isinstance(rule, dict) for rule in value)):
        raise ConfigError("policy: rule: expected tables, [[policy.rule]]")
    rules = [RuleSettings(**_known(RuleSettings, rule, "policy.rule: ")) for rule in value]
    for rule in rules:
        _check_types(rule)
        check_terms(rule)
    return tuple(rules)


_EXPECTED = {
    "int": "a whole number",
    "float": "a number of seconds or per second",
    "bool": "true or false",
    "str": "a text in quotes",
    "tuple[str, ...]": "an array of texts",
    "PolicySettings": "a table, [policy]",
    "tuple[Limit, ...]": "a table, [policy.limits]",
    "tuple[RuleSettings, ...]": "tables, [[policy.rule]]",
}


def _check_types(settings: Any) -> None:
    for each in fields(settings):
        value = getattr(settings, each.name)
        kind = str(each.type)
        if value is None and kind.endswith(" | None"):
            continue
        kind = kind.removesuffix(" | None")
        if kind == "PolicySettings":  # a separate table, which checks itself
            right = isinstance(value, PolicySettings)
        elif kind in _TABLES:
            right = isinstance(value, tuple) and all(isinstance(item, _TABLES[kind]) for item in value)
        elif kind == "int":
            right = isinstance(value, int) and not isinstance(value, bool)
        elif kind == "float":
            right = isinstance(value, int | float) and not isinstance(value, bool)
        elif kind == "bool":
            right = isinstance(value, bool)
        elif kind == "str":
            right = isinstance(value, str) and "\0" not in value
        elif kind != "tuple[str, ...]":  # every setting must be validated
            raise TypeError(f"{type(settings).__name__}.{each.name}: no check for values of type {kind}")
        else:
            right = isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)
        if not right:
            raise ConfigError(f"{each.name} = {_shown(value)}: expected {_EXPECTED[kind]}")


def _shown(value: Any) -> str:
    """Return a value about as the file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(list(value) if isinstance(value, tuple) else value)[:80]


def _check_between(settings: object, name: str, low: float, high: float) -> None:
    value = getattr(settings, name)
    if not low <= value <= high:
        raise ConfigError(f"{name} = {value}: expected {_plain(low)} to {_plain(high)}")


def _plain(number: float) -> str:
    return str(int(number) if number == int(number) else number)


def _check_path(settings: object, name: str, socket: bool = False) -> None:
    path = getattr(settings, name)
    _check_absolute(name, path)
    length = len(os.fsencode(path))
    if socket and length > limits.SOCKET_PATH_MAX_BYTES:
        raise ConfigError(
            f"{name} = {path!r}: {length} bytes, but the kernel takes at most "
            f"{limits.SOCKET_PATH_MAX_BYTES} for the path of a socket: choose a shorter directory"
        )


def _take_audit_log(settings: Any) -> None:
    """Accept one destination as a text; an empty one is stderr."""
    if isinstance(settings.audit_log, str):
        object.__setattr__(settings, "audit_log", (settings.audit_log,) if settings.audit_log else ())


def _check_audit(settings: GexecdSettings | AuthdSettings) -> None:
    names = settings.audit_log
    if len(set(names)) < len(names) or len(names) > _AUDIT_LOGS_MAX:
        raise ConfigError(f"audit_log: expected at most {_AUDIT_LOGS_MAX} destinations, each once")
    for name in names:
        if name not in _AUDIT_WORDS and not name.startswith("/"):
            raise ConfigError(f'audit_log: {name[:200]!r}: expected an absolute path, "journal" or "stderr"')
    if settings.audit_failure not in (CONTINUE, REFUSE):
        raise ConfigError(f'audit_failure = {settings.audit_failure[:80]!r}: expected "continue" or "refuse"')
    if settings.audit_max_bytes:
        _check_between(settings, "audit_max_bytes", limits.AUDIT_FILE_MIN_BYTES, 2**40)
    _check_between(settings, "audit_keep", 1, 1000)


def _check_keys(public_keys: tuple[str, ...], signers: str) -> None:
    if not public_keys and not signers:
        raise ConfigError("public_keys: expected at least one file, or signers")
    for path in public_keys:
        _check_absolute("public_keys", path)


def _check_absolute(name: str, path: str) -> None:
    if not path.startswith("/"):
        raise ConfigError(f"{name} = {path[:200]!r}: expected an absolute path")


def check_realm(realm: str) -> None:
    """Raise ConfigError if this is no name for a cluster."""
    if not (1 <= len(realm) <= REALM_MAX_BYTES and set(realm) <= _REALM_CHARACTERS):
        raise ConfigError(
            f"realm = {realm[:80]!r}: expected a cluster name of 1 to {REALM_MAX_BYTES} letters, digits, "
            "dots, hyphens and underscores"
        )
