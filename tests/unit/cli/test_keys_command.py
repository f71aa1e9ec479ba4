"""`gexecctl keys` of hardened mode: from the authority to certificates, signers, revocation and rotation."""

from __future__ import annotations

import datetime
import ssl
import stat
import time
from pathlib import Path

import pytest
from cryptography import x509

from gexec.cli import keys as keys_command
from gexec.cli.gexecctl import main
from gexec.cluster.authority import AuthorityDir, InventoryEntry
from gexec.cluster.nodekeys import new_key, request_certificate
from gexec.errors import AuthError
from gexec.security.nodecert import NodeCertificate, parse
from gexec.security.signing import SigningKey
from gexec.settings.keyfiles import read_authorities, read_node_certificate, read_signing_key, read_trust


class Site:
    """The administrator's directory and those of nodes, as /etc/gexec would be there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ca = AuthorityDir(path / "ca")
        assert self.keys("init", "--hardened", "--dir", self.ca.dir) == 0

    def keys(self, *words: object) -> int:
        return main(["keys", *map(str, words)])

    def admin(self, action: str, *words: object) -> int:
        return self.keys(action, "--dir", self.ca.dir, *words)

    def node(self, name: str) -> Path:
        path = self.path / name
        path.mkdir(exist_ok=True)
        return path

    def request(self, name: str, *words: object) -> Path:
        assert self.keys("request", "--dir", self.node(name), *words) == 0
        return self.node(name) / "node.req"

    def certificate(self, name: str) -> NodeCertificate:
        return read_node_certificate(str(self.ca.certificate(name)))

    def signer_ids(self) -> list[str]:
        found = read_trust([], str(self.ca.signers), ()).signers.values()
        return [f"{signer.name}:{signer.key.key_id.hex()}" for signer in found]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def issued_by(site: Site, name: str) -> bool:
    """Tell whether the present authority has signed a node's certificate."""
    above = x509.load_der_x509_certificate(read_authorities([str(site.ca.certificates)])[-1])
    try:
        x509.load_der_x509_certificate(site.certificate(name).der).verify_directly_issued_by(above)
    except Exception:
        return False
    return True


def test_secrets_are_for_their_owner_only(site: Site) -> None:
    assert stat.S_IMODE(site.ca.dir.stat().st_mode) == 0o700
    request = site.request("node001")
    assert site.keys("request", "--signer", "--dir", site.node("node001")) == 0
    for path in (site.ca.key, request.with_name("node_key.pem"), request.with_name("signer_key.pem")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in request.read_bytes()


def test_names_come_from_the_administrator_and_never_from_the_node(site: Site) -> None:
    request = site.request("node001")
    words = ["--name", "node001.site.org", "--address", "10.0.0.1", "--address", "fd00::1"]
    assert site.admin("issue", "node001", request, *words) == 0
    found = site.certificate("node001")
    assert set(found.names) == {"node001", "node001.site.org", "10.0.0.1", "fd00::1"}
    assert (found.name, found.is_head) == ("node001", False)
    assert 1824 * 86_400 < found.expires_s - time.time() < 1826 * 86_400
    assert site.admin("issue", "head1", site.request("head1"), "--head", "--days", "10") == 0
    assert site.certificate("head1").is_head
    assert site.certificate("head1").expires_s < time.time() + 11 * 86_400


def test_a_request_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "large.req"
    path.write_bytes(bytes(65537))
    with pytest.raises(AuthError, match="is this a request"):
        keys_command._bytes(path)


def test_requests_are_signed_by_their_nodes_names(site: Site) -> None:
    site.ca.add(InventoryEntry("node001", ("10.0.0.1",)))
    site.ca.add(InventoryEntry("node002", ("10.0.0.2",)))
    first = site.request("node001")
    second = site.path / "node002.req"
    second.write_bytes(site.request("two").read_bytes())
    third = site.path / "node003" / "etc" / "gexec" / "node.req"
    third.parent.mkdir(parents=True)
    third.write_bytes(site.request("three").read_bytes())
    site.ca.add(InventoryEntry("node003"))
    assert site.admin("sign", first, second, third) == 0
    assert site.certificate("node003").names == ("node003",)
    assert set(site.certificate("node002").names) == {"node002", "10.0.0.2"}
    before = site.certificate("node001").der
    assert site.admin("sign", "--all") == 0
    assert site.certificate("node001").der != before
    assert site.certificate("node001").names == parse(before).names


def test_a_request_again_is_of_the_same_key(site: Site) -> None:
    key = read_signing_key(str(site.request("a").with_name("node_key.pem")))
    assert read_signing_key(str(site.request("a").with_name("node_key.pem"))).key_id == key.key_id
    assert read_signing_key(str(site.request("a", "--force").with_name("node_key.pem"))).key_id != key.key_id
    _, public = request_certificate(site.node("a"))
    assert public.key_id != key.key_id


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["sign", "REQUEST"], 2, "node001 is not in"),
        (["issue", "node009", "JUNK"], 1, "the request of node009 is not a request"),
        (["issue", "a b", "REQUEST"], 1, "name to certify"),
        (["issue", "10.0.0.1", "REQUEST"], 1, "expected a host name"),
        (["issue", "node001", "REQUEST", "--days", "0"], 2, "0 days: expected 1 to"),
        (["sign"], 2, "either requests or --all"),
        (["sign", "--all", "REQUEST"], 2, "either requests or --all"),
        (["revoke", "node001"], 2, "neither a signer nor a node"),
        (["signer", "ca", "--public", "PUBLIC", "--host", "h"], 2, "cannot be named ca"),
        (["signer", "h", "--public", "PUBLIC", "--host", "h", "--uids", "x"], 1, "uids"),
        (["signer", "h", "--public", "PUBLIC", "--host", "h", "--expires", "soon"], 2, "YYYY-MM-DD"),
        (["signer", "h", "--public", "PUBLIC", "--host", "h", "--target", "n["], 1, "expected names such as"),
        (["rotate", "add", "h", "--public", "PUBLIC"], 2, "h: no signer"),
        (["rotate", "drop", "h"], 2, "h: no signer"),
        (["rotate", "drop"], 2, "needs the name of a signer, or ca"),
        (["rotate", "switch", "h"], 2, "runs on its head"),
        (["rotate", "switch", "ca"], 2, "rotate add ca"),
        (["rotate", "add", "ca", "--public", "PUBLIC"], 2, "--public is for"),
    ],
)
def test_what_is_wrong_is_named(
    site: Site, words: list[str], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.keys("request", "--signer", "--dir", site.node("node001")) == 0
    paths = {"REQUEST": site.request("node001"), "PUBLIC": site.node("node001") / "signer_pub.pem"}
    paths["JUNK"] = paths["PUBLIC"]
    assert site.admin(words[0], *[paths.get(word, word) for word in words[1:]]) == status
    (sentence,) = capsys.readouterr().err.splitlines()
    assert text in sentence


def test_a_second_authority_is_not_made_by_mistake(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    before = site.ca.key.read_bytes()
    assert site.keys("init", "--hardened", "--dir", site.ca.dir) == 1
    assert "already exists" in capsys.readouterr().err
    assert site.ca.key.read_bytes() == before


def test_other_names_for_a_known_node_are_a_mistake(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    request = site.request("node001")
    assert site.admin("issue", "node001", request, "--address", "10.0.0.1") == 0
    assert site.admin("issue", "node001", request) == 0
    assert site.admin("issue", "node001", request, "--address", "10.0.0.2") == 2
    assert "edit the file" in capsys.readouterr().err
    assert set(site.certificate("node001").names) == {"node001", "10.0.0.1"}


def test_a_signer_with_its_limits_and_its_end(site: Site) -> None:
    assert site.keys("request", "--signer", "--dir", site.node("head1")) == 0
    public = site.node("head1") / "signer_pub.pem"
    words = ["--host", "head1", "--uids", "1000-1999", "--group", "users", "--target", "node[1-9]"]
    assert site.admin("signer", "head1", "--public", public, *words, "--expires", "2099-12-31") == 0
    (signer,) = read_trust([], str(site.ca.signers), ("node3",)).signers.values()
    assert (signer.name, set(signer.hosts), signer.uids) == ("head1", {"head1"}, ((1000, 1999),))
    assert (set(signer.groups), signer.root, signer.here) == ({"users"}, False, True)
    assert signer.expires_s == datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC).timestamp()
    assert signer.key.key_id == read_signing_key(str(site.node("head1") / "signer_key.pem")).key_id
    site.ca.add(InventoryEntry("node017"))
    assert site.admin("revoke", "node017") == 0
    assert site.admin("revoke", "node017") == 0
    assert read_trust([], str(site.ca.signers), ()).revoked == {"node017"}
    assert site.admin("revoke", "head1") == 0
    assert "head1" not in site.ca.signers.read_text()


def test_a_signers_key_is_replaced_in_three_steps(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    head = site.node("head1")
    assert site.keys("request", "--signer", "--dir", head) == 0
    old = SigningKey.load((head / "signer_key.pem").read_bytes()).key_id.hex()
    assert site.admin("signer", "head1", "--public", head / "signer_pub.pem", "--host", "head1") == 0
    assert site.keys("request", "--signer", "--dir", head) == 0
    new = SigningKey.load((head / "signer_new.pem").read_bytes()).key_id.hex()
    assert site.keys("request", "--signer", "--dir", head) == 1  # not a third one

    (head / "signers.toml").write_bytes(site.ca.signers.read_bytes())
    assert site.keys("rotate", "switch", "--dir", head) == 1
    assert "does not accept it yet" in capsys.readouterr().err
    assert site.admin("rotate", "add", "head1", "--public", head / "signer_new_pub.pem") == 0
    assert site.signer_ids() == [f"head1:{old}", f"head1:{new}"]
    (head / "signers.toml").write_bytes(site.ca.signers.read_bytes())
    assert site.keys("rotate", "switch", "--dir", head) == 0
    assert SigningKey.load((head / "signer_key.pem").read_bytes()).key_id.hex() == new
    assert not (head / "signer_new.pem").exists()
    assert site.admin("rotate", "drop", "head1") == 0
    assert site.signer_ids() == [f"head1:{new}"]


def test_the_authoritys_key_is_replaced_in_three_steps(site: Site) -> None:
    assert site.admin("issue", "node001", site.request("node001"), "--address", "10.0.0.1") == 0
    assert issued_by(site, "node001")
    old = site.ca.key.read_bytes()
    assert site.admin("rotate", "add", "ca") == 0
    assert len(read_authorities([str(site.ca.certificates)])) == 2
    assert site.admin("rotate", "add", "ca") == 2
    assert site.admin("rotate", "drop", "ca") == 2
    assert not issued_by(site, "node001")
    assert site.admin("rotate", "switch", "ca") == 0
    assert site.ca.key.read_bytes() != old
    assert issued_by(site, "node001")
    assert set(site.certificate("node001").names) == {"node001", "10.0.0.1"}
    assert site.admin("rotate", "drop", "ca") == 0
    assert len(read_authorities([str(site.ca.certificates)])) == 1
    assert issued_by(site, "node001")


def test_the_authority_of_simple_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(new_key())
    path.chmod(0o600)
    assert main(["keys", "authority", "--private", str(path), "--realm", "blue"]) == 0
    der = ssl.PEM_cert_to_DER_cert(capsys.readouterr().out)
    assert "gexec cluster blue" in x509.load_der_x509_certificate(der).subject.rfc4514_string()
