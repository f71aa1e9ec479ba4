"""What doctor says about a node in hardened mode."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gexec.cluster import hardened
from gexec.cluster.authority import AuthorityDir
from gexec.cluster.layout import Layout, LocalNode
from gexec.cluster.nodecheck import check_compute_node, check_node
from gexec.cluster.nodekeys import request_certificate
from gexec.errors import KeyFileError
from gexec.settings.config import GexecdSettings

NODES = [LocalNode("node001", "127.0.1.1"), LocalNode("node002", "127.0.1.2")]
DAY_S = 86_400.0


@pytest.fixture
def place(tmp_path: Path) -> Layout:
    place = Layout(tmp_path)
    hardened.prepare(place, NODES, "gexec")
    return place


def settings_of(place: Layout, name: str) -> GexecdSettings:
    return hardened.gexecd_settings(GexecdSettings(), place, name, is_head=name == "node001")


def bad(settings: GexecdSettings, now_s: float | None = None) -> list[str]:
    return [f"{text}: {fix}" for good, text, fix in check_node(settings, now_s) if not good]


def test_all_is_well(place: Layout) -> None:
    for name, role in (("node001", "head"), ("node002", "compute node")):
        found = list(check_node(settings_of(place, name)))
        assert all(good for good, _, _ in found)
        assert f"{role} {name}, 127.0.1.{name[-1]}: valid for 1825 days" in found[0][1]
        assert any("signer node001" in text for _, text, _ in found)
    assert list(check_node(GexecdSettings())) == []


def test_what_expires_is_reported_a_month_before(place: Layout) -> None:
    settings = settings_of(place, "node002")
    (soon,) = bad(settings, time.time() + 1800 * DAY_S)
    assert "valid for 25 days: let the administrator sign it again" in soon
    (over,) = bad(settings, time.time() + 1830 * DAY_S)
    assert "expired 5 days ago" in over


def test_a_certificate_of_another_key_or_authority(place: Layout, tmp_path: Path) -> None:
    settings = settings_of(place, "node002")
    request_certificate(hardened.node_dir(place, "node002"), force=True)
    (other,) = bad(settings)
    assert "is not the key of" in other
    foreign = AuthorityDir(tmp_path / "foreign")
    foreign.init("gexec")
    found = bad(replace(settings_of(place, "node001"), authorities=(str(foreign.certificates),)))
    assert "has signed this node's certificate" in "".join(found)


def test_a_role_that_the_settings_contradict(place: Layout) -> None:
    (told,) = bad(replace(settings_of(place, "node002"), submissions=True))
    assert told == "compute node, but submissions = true: set submissions = false"
    (told,) = bad(replace(settings_of(place, "node001"), submissions=False))
    assert told.startswith("head, but submissions = false")


def test_a_compute_node_has_nothing_of_a_head(place: Layout, tmp_path: Path) -> None:
    settings, sock = settings_of(place, "node002"), str(tmp_path / "authd.sock")
    key, units = tmp_path / "auth_priv.pem", tmp_path / "units"

    def told() -> list[str]:
        return [
            f"{text}: {fix}"
            for good, text, fix in check_compute_node(settings, str(key), sock, [str(units)])
            if not good and "/etc/" not in text  # of the host of this test
        ]

    assert told() == []
    assert "no authd, no key" in list(check_compute_node(settings, str(key), sock, [str(units)]))[-1][1]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sock)
        assert told() == []  # a socket that was left behind
        listener.listen()
        assert told() == [f"compute node, but authd runs at {sock}: run `systemctl disable --now authd`"]
    key.touch()
    signer = hardened.node_dir(place, "node002") / "signer_key.pem"
    signer.touch()
    assert [line.partition(":")[0] for line in told()] == [
        f"compute node, but has the private key {path}" for path in (key, signer)
    ]
    key.unlink()
    signer.unlink()
    (units / "multi-user.target.wants").mkdir(parents=True)
    (units / "multi-user.target.wants" / "authd.service").symlink_to("/nowhere")
    (starts,) = told()
    assert "authd starts with it" in starts
    # Its certificate says what it is, not its settings; a head may have all of it.
    settings = replace(settings, submissions=True)
    assert told() == [starts]
    settings = settings_of(place, "node001")
    assert told() == []
    assert list(check_compute_node(GexecdSettings(), str(key), sock, [str(units)])) == []
    settings = GexecdSettings(submissions=False)
    assert told() == [starts]


def test_files_that_are_missing(place: Layout) -> None:
    settings = settings_of(place, "node002")
    Path(settings.node_key).unlink()
    (told,) = bad(settings)
    assert "node_key.pem: no such file" in told
    Path(settings.node_certificate).unlink()
    with pytest.raises(KeyFileError, match="get it from the administrator"):
        list(check_node(settings))
