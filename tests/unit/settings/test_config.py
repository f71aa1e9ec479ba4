"""Settings: everything that is not understood is refused with the file and the key."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from gexec import limits
from gexec.errors import ConfigError
from gexec.posix.hostnames import interface_addresses, node_names
from gexec.settings.config import (
    AuthdSettings,
    GexecdSettings,
    PolicySettings,
    _check_types,
    read_authd,
    read_gexecd,
)


def written(directory: Path, text: str | bytes) -> str:
    path = directory / "settings.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o644)
    return str(path)


def refused(path: str, *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_gexecd(path, {})
    sentence = str(caught.value)
    assert path in sentence
    for word in words:
        assert word in sentence


def test_defaults_are_the_documented_paths() -> None:
    gexecd, authd = GexecdSettings(), AuthdSettings()
    assert (gexecd.port, gexecd.socket) == (2875, "/run/gexec/gexecd.sock")
    assert gexecd.authd_socket == authd.socket == "/run/gexec/authd.sock"
    assert gexecd.public_keys == authd.public_keys == ("/etc/auth_pub.pem",)
    assert authd.private_key == "/etc/auth_priv.pem"
    assert gexecd.realm == authd.realm == "gexec"
    assert gexecd.policy.root


def test_every_setting_can_be_in_the_file(tmp_path: Path) -> None:
    text = """
        port = 4000
        bind = ["127.0.0.1", "::1"]
        socket = "/run/a.sock"
        authd_socket = "/run/b.sock"
        public_keys = ["/etc/a.pem", "/etc/b.pem"]
        signers = "/etc/gexec/signers.toml"
        authorities = ["/etc/gexec/ca.pem"]
        node_key = "/etc/gexec/node_key.pem"
        node_certificate = "/etc/gexec/node_cert.pem"
        submissions = false
        realm = "blue-1"
        names = ["node001"]
        find_names = false
        hosts = "/etc/gexec/hosts"
        relay_user = "daemon"
        audit_log = ["journal", "/var/log/gexec.log"]
        audit_failure = "refuse"
        audit_max_bytes = 100_000_000
        audit_keep = 5
        orphan_grace_s = 5
        drain_s = 0
        link_idle_s = 10.5
        heartbeat_s = 1
        lost_after_s = 3
        clock_skew_s = 10
        unauthenticated_max_s = 5
        credential_ttl_max_s = 60
        jobs_max = 10
        output_max_mib = 100
        spool = "/srv/spool"
        spool_jobs_max = 7
        spool_max_mib = 8
        control_group = "none"
        [policy]
        root = false
        uid_min = 1000
        allow_users = ["alice"]
        deny_users = ["mallory"]
        allow_groups = ["users"]
        deny_groups = ["guests"]
        jobs_per_user_max = 3
        leftovers = "kill"
    """
    settings = read_gexecd(written(tmp_path, text), {})
    assert settings.bind == ("127.0.0.1", "::1")
    assert settings.orphan_grace_s == 5
    assert settings.policy == PolicySettings(
        root=False, uid_min=1000, allow_users=("alice",), deny_users=("mallory",),
        allow_groups=("users",), deny_groups=("guests",), jobs_per_user_max=3, leftovers="kill",
    )  # fmt: skip
    default = GexecdSettings()
    for each in fields(GexecdSettings):
        assert getattr(settings, each.name) != getattr(default, each.name), each.name


def test_one_destination_of_the_audit_log_may_be_a_text(tmp_path: Path) -> None:
    assert read_gexecd(written(tmp_path, 'audit_log = "/a"'), {}).audit_log == ("/a",)
    assert read_gexecd(written(tmp_path, 'audit_log = "journal"'), {}).audit_log == ("journal",)
    assert read_authd(written(tmp_path, 'audit_log = ""'), {}).audit_log == ()


def test_authd(tmp_path: Path) -> None:
    text = 'private_key = "/etc/x.pem"\nttl_s = 30\nrate_per_user = 5\noverflow_uid = true\n'
    settings = read_authd(written(tmp_path, text), {"GEXEC_AUTHD_SOCKET": "/run/x.sock"})
    assert (settings.private_key, settings.ttl_s, settings.socket) == ("/etc/x.pem", 30, "/run/x.sock")
    with pytest.raises(ConfigError, match="ttl_s = 301: expected 1 to 300"):
        read_authd(written(tmp_path, "ttl_s = 301"), {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", ["'prot' is not a setting", "port"]),
        ("[policy]\nrot = true", ["policy: 'rot'"]),
        ("[policy]\nleftovers = 'spare'", ["leftovers = 'spare'", '"leave" or "kill"']),
        ("policy = 3", ["policy: expected a table"]),
        ("port = '2875'", ["port = '2875'", "whole number"]),
        ("port = true", ["port = true", "whole number"]),
        ("port = 65536", ["port = 65536", "0 to 65535"]),
        ("bind = '::1'", ["bind", "array of texts"]),
        ("bind = [1]", ["bind = [1]", "array of texts"]),
        ("bind = ['']", ["bind", "array of texts"]),
        ("socket = 'run/x'", ["socket", "absolute path"]),
        ("socket = ''", ["socket", "absolute path"]),
        ("socket = '/" + "x" * 107 + "'", ["socket", "107", "shorter directory"]),
        ("audit_log = 'log'", ["audit_log: 'log'", "absolute path", "journal"]),
        ("audit_log = ['/a', '/a']", ["audit_log", "each once"]),
        ("audit_log = 3", ["audit_log = 3: ", "array of texts"]),
        ("audit_failure = 'stop'", ["audit_failure = 'stop'", '"continue" or "refuse"']),
        ("audit_max_bytes = 1000", ["audit_max_bytes = 1000", "1048576 to 1099511627776"]),
        ("audit_keep = 0", ["audit_keep = 0", "1 to 1000"]),
        ("public_keys = []", ["public_keys", "at least one"]),
        ("realm = 'a b'", ["realm", "cluster name"]),
        ("realm = ''", ["realm", "cluster name"]),
        ("drain_s = -1", ["drain_s", "0 to"]),
        ("drain_s = nan", ["drain_s", "0 to"]),
        ("heartbeat_s = 20", ["heartbeat_s < lost_after_s"]),
        ("find_names = false", ["find_names", "names"]),
        ("hosts = \"a\\u0000b\"", ["hosts", "text in quotes"]),
        ("port = x\n", ["not a TOML file", "line 1"]),
        (b"realm = '\xff'", ["UTF-8"]),
        (b"x = " + b"[" * 100_000, ["settings.toml"]),
        (b"#" * (limits.CONFIG_MAX_BYTES + 1), ["larger than"]),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    refused(written(tmp_path, text), *words)


def test_file_that_others_may_write_to(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    os.chmod(path, 0o666)
    refused(path, "chmod 644")


def test_named_file_must_exist(tmp_path: Path) -> None:
    refused(str(tmp_path / "no.toml"), "no such file")


def test_environment_overrules_the_file(tmp_path: Path) -> None:
    environ = {
        "GEXEC_SOCKET": "/run/1", "GEXEC_AUTHD_SOCKET": "/run/2", "GEXEC_PORT": "99", "GEXEC_HOSTS": "/h",
    }  # fmt: skip
    settings = read_gexecd(written(tmp_path, "port = 1\nsocket = '/run/x'"), environ)
    assert (settings.socket, settings.authd_socket, settings.port, settings.hosts) == (
        "/run/1", "/run/2", 99, "/h",
    )  # fmt: skip
    for wrong in ("", "x", "65536", "-1", "٣"):
        if wrong:
            with pytest.raises(ConfigError, match="GEXEC_PORT"):
                read_gexecd(written(tmp_path, ""), {"GEXEC_PORT": wrong})
    with pytest.raises(ConfigError, match="environment variable: socket"):
        read_gexecd(written(tmp_path, ""), {"GEXEC_SOCKET": "relative"})


@pytest.mark.parametrize("change", [{"port": -1}, {"realm": "/"}, {"names": ["list"]}, {"socket": "x"}])
def test_command_line_values_are_checked_as_well(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(GexecdSettings(), **change)


# -- who this machine is ------------------------------------------------------------------------


def test_interface_addresses_know_the_loopback() -> None:
    addresses = interface_addresses()
    if not addresses:
        pytest.skip("the kernel gives no addresses by netlink here")
    assert "127.0.0.1" in addresses
    assert not any(address.startswith("fe80") for address in addresses)


def test_configured_names_come_first_and_alone_if_told() -> None:
    assert node_names(["node001", "127.0.0.7", "node001"], find=False) == ("node001", "127.0.0.7")
    found = node_names(["node001"])
    assert found[0] == "node001"
    assert {"localhost", "127.0.0.1", "::1", os.uname().nodename} <= set(found)
    assert len(found) == len(set(found))


def test_names_of_the_hosts_file_count_for_own_addresses_only(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# nodes\n127.0.0.1 thisnode thisnode.example # me\n192.0.2.77 other\njunk line\n\n")
    found = node_names(hosts_path=str(hosts))
    if interface_addresses():
        assert {"thisnode", "thisnode.example"} <= set(found)
    assert "other" not in found


def test_attack_108_hosts_file_that_another_user_writes_gives_no_names(tmp_path: Path) -> None:
    """Its lines become names in this node's certificate, with which it is taken for another node."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 another\n")
    hosts.chmod(0o666)
    with pytest.raises(ConfigError, match=f"hosts file {hosts}: mode 0666 lets other users write to it"):
        node_names(hosts_path=str(hosts))
    hosts.chmod(0o644)
    (tmp_path / "link").symlink_to(hosts)
    with pytest.raises(ConfigError, match="is a symbolic link: name the file itself"):
        node_names(hosts_path=str(tmp_path / "link"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="is not a regular file"):
        node_names(hosts_path=str(tmp_path / "fifo"))
    with pytest.raises(ConfigError, match="no such file: make it, or leave GEXEC_HOSTS"):
        node_names(hosts_path=str(tmp_path / "missing"))


def test_names_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="node name"):
        node_names(["a b"])
    with pytest.raises(ConfigError, match="at most 256"):
        node_names([f"n{number}" for number in range(257)])
    with pytest.raises(ConfigError, match="no name"):
        node_names([], find=False)


@dataclass
class Unchecked:
    """Settings with a type that config.py has no check for."""

    ratio: complex = 1j


def test_a_setting_of_a_type_without_a_check_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Unchecked\.ratio: no check for values of type complex"):
        _check_types(Unchecked())


def test_a_policy_that_is_no_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a table"):
        replace(GexecdSettings(), policy="all")  # type: ignore[arg-type]
