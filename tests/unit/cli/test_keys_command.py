"""`gexecctl keys` of hardened mode: from the authority to certificates, signers, revocation and rotation."""

from __future__ import annotations

import datetime
import os
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from gexec.cli import keys as keys_command
from gexec.cli.gexecctl import main
from gexec.cluster.authority import AuthorityDir
from gexec.cluster.inventory import InventoryEntry
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
    nodes = [InventoryEntry("node001", ("10.0.0.1",)), InventoryEntry("node002", ("10.0.0.2",))]
    site.ca.write_inventory([*nodes, InventoryEntry("node003")])
    first = site.request("node001")
    second = site.path / "node002.req"
    second.write_bytes(site.request("two").read_bytes())
    third = site.path / "node003" / "etc" / "gexec" / "node.req"
    third.parent.mkdir(parents=True)
    third.write_bytes(site.request("three").read_bytes())
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
        (["signer", "h", "--public", "PUBLIC", "--host", "h"], 2, "h is no head"),
        (["signer", "h", "--public", "MISSING", "--host", "h"], 1, "keys request --signer"),
        (["issue", "", "REQUEST"], 2, "node: the value is empty"),
        (["issue", "node009", "REQUEST", "--name", ""], 2, "name: the value is empty"),
        (["sign", "--all"], 2, "no node was certified before"),
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
    paths |= {"JUNK": paths["PUBLIC"], "MISSING": site.path / "missing.pem"}
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
    assert site.admin("issue", "head1", site.request("head1"), "--head") == 0
    words = ["--host", "head1", "--uids", "1000-1999", "--group", "users", "--target", "node[1-9]"]
    assert site.admin("signer", "head1", "--public", public, *words, "--expires", "2099-12-31") == 0
    (signer,) = read_trust([], str(site.ca.signers), ("node3",)).signers.values()
    assert (signer.name, set(signer.hosts), signer.uids) == ("head1", {"head1"}, ((1000, 1999),))
    assert (set(signer.groups), signer.root, signer.here) == ({"users"}, False, True)
    assert signer.expires_s == datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC).timestamp()
    assert signer.key.key_id == read_signing_key(str(site.node("head1") / "signer_key.pem")).key_id
    assert site.admin("issue", "node017", site.request("node017")) == 0
    assert site.admin("revoke", "node017") == 0
    assert site.admin("revoke", "node017") == 0
    assert read_trust([], str(site.ca.signers), ()).revoked == {"node017"}
    assert site.admin("revoke", "head1", "--signer") == 0
    assert "head1" not in site.ca.signers.read_text()


def test_a_signers_key_is_replaced_in_three_steps(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    head = site.node("head1")
    assert site.keys("request", "--signer", "--dir", head) == 0
    old = SigningKey.load((head / "signer_key.pem").read_bytes()).key_id.hex()
    assert site.admin("issue", "head1", site.request("head1"), "--head") == 0
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


def test_what_is_refused_changes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    request = site.request("node001")
    before = site.ca.inventory.read_bytes()
    for words in (
        ["node001", request, "--address", "10.0.0.999"],
        ["node001", request, "--days", "0"],
        ["../node001", request],
        ["node001", site.ca.signers],
    ):
        assert site.keys("issue", "--dir", site.ca.dir, *words) in (1, 2)
    assert site.ca.inventory.read_bytes() == before
    assert list((site.ca.dir / "nodes").iterdir()) == []
    assert site.admin("issue", "node001", request, "--address", "10.0.0.9") == 0


def test_a_key_belongs_to_one_node(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    request = site.request("node001")
    assert site.admin("issue", "node001", request) == 0
    assert site.admin("issue", "node002", request) == 1  # both are copies of one image
    assert "holds the key of node001" in capsys.readouterr().err
    assert not site.ca.certificate("node002").exists()
    assert site.admin("issue", "node002", site.request("node002")) == 0
    (site.path / "node002.req").write_bytes(request.read_bytes())
    assert site.admin("sign", site.path / "node002.req") == 1
    assert site.admin("issue", "node001", site.request("node001", "--force")) == 0


def test_a_name_belongs_to_one_node(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.admin("issue", "node001", site.request("a")) == 0
    for words in (["NODE001", site.request("b")], ["node002", site.request("b"), "--name", "Node001."]):
        assert site.admin("issue", *words) == 2
        assert "name of another node" in capsys.readouterr().err


def test_a_revoked_node_gets_no_certificate(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("node001", "node002"):
        assert site.admin("issue", name, site.request(name)) == 0
    assert site.admin("revoke", "node001") == 0
    revoked, other = site.certificate("node001").der, site.certificate("node002").der
    assert site.admin("issue", "node001", site.request("node001", "--force")) == 2
    assert site.admin("sign", site.request("node001")) == 2
    assert "needs another name" in capsys.readouterr().err
    assert site.admin("sign", "--all") == 0
    assert (site.certificate("node001").der, site.certificate("node002").der != other) == (revoked, True)


def test_nodes_that_were_taken_out_of_the_inventory_are_not_certified_again(site: Site) -> None:
    for name in ("node001", "node002"):
        assert site.admin("issue", name, site.request(name)) == 0
    site.ca.write_inventory([InventoryEntry("node002")])
    other = site.certificate("node002").der
    assert site.admin("sign", "--all") == 0
    assert site.certificate("node002").der != other


def test_limits_are_changed_and_keys_are_kept(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    head = site.node("head1")
    assert site.admin("issue", "head1", site.request("head1"), "--head", "--name", "Login") == 0
    for _ in range(2):
        assert site.keys("request", "--signer", "--dir", head) == 0
    first = ["head1", "--public", head / "signer_pub.pem"]
    assert site.admin("signer", *first, "--host", "head1") == 0
    assert site.admin("rotate", "add", "head1", "--public", head / "signer_new_pub.pem") == 0
    before = site.signer_ids()
    assert len(before) == 2
    assert site.admin("rotate", "add", "head1", "--public", head / "signer_new_pub.pem") == 2
    assert site.admin("signer", *first, "--host", "login", "--uids", "1000-1999") == 0
    assert site.signer_ids() == before
    assert site.admin("signer", *first, "--host", "head1", "--expires", "2001-01-01") == 2
    assert "that day is over" in capsys.readouterr().err
    assert site.keys("request", "--signer", "--dir", site.node("head2")) == 0
    other = site.node("head2") / "signer_pub.pem"
    assert site.admin("signer", "head1", "--public", other, "--host", "head1") == 2
    assert "rotate add head1" in capsys.readouterr().err
    assert site.signer_ids() == before


@pytest.mark.parametrize("realm", ["a b", "r" * 65, "é"])
def test_a_realm_that_daemons_refuse_is_refused(tmp_path: Path, realm: str) -> None:
    assert main(["keys", "init", "--hardened", "--dir", str(tmp_path / "ca"), "--realm", realm]) == 1
    assert not (tmp_path / "ca").exists()
    assert main(["keys", "authority", "--private", str(tmp_path / "x"), "--realm", realm]) == 1


def test_an_unset_variable_is_not_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["keys", "init", "--dir", ""],
        ["keys", "request", "--dir", ""],
        ["cluster", "down", "--dir", ""],
    ):
        assert main(words) == 2
        assert capsys.readouterr().err == "gexecctl: dir: the value is empty; leave it out, or give one\n"


class _KilledError(BaseException):
    """Instead of a kill: nothing after it is done."""


def killed_after(monkeypatch: pytest.MonkeyPatch, steps: int, *words: object) -> None:
    """Run ``gexecctl keys``, and end it after so many replaced files."""
    left = steps

    def replace(source: Path, target: Path, real: Callable[[Path, Path], None] = os.replace) -> None:
        nonlocal left
        if left == 0:
            raise _KilledError
        left -= 1
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        with pytest.raises(_KilledError):
            main(["keys", *map(str, words)])


@pytest.mark.parametrize("steps", range(5))
def test_an_interrupted_init_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    ca = AuthorityDir(tmp_path / "ca")
    killed_after(monkeypatch, steps, "init", "--hardened", "--dir", ca.dir)
    key = ca.key.read_bytes() if steps else b""
    assert main(["keys", "init", "--hardened", "--dir", str(ca.dir)]) == 0
    assert ca.key.read_bytes() == key or not steps
    assert main(["keys", "init", "--hardened", "--dir", str(ca.dir)]) == 1
    assert (ca.nodes(), ca.realm(), len(read_authorities([str(ca.certificates)]))) == ({}, "gexec", 1)


@pytest.mark.parametrize("steps", range(2))
def test_an_interrupted_key_of_a_signer_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    for name in ("signer_key.pem", "signer_new.pem"):
        killed_after(monkeypatch, steps, "request", "--signer", "--dir", tmp_path)
        assert main(["keys", "request", "--signer", "--dir", str(tmp_path)]) == 0
        private = SigningKey.load((tmp_path / name).read_bytes())
        public = tmp_path / f"{name.removesuffix('_key.pem').removesuffix('.pem')}_pub.pem"
        assert public.read_bytes() == private.public.pem
    assert main(["keys", "request", "--signer", "--dir", str(tmp_path)]) == 1


@pytest.mark.parametrize("steps", range(2))
def test_an_interrupted_switch_of_a_signer_is_completed(
    site: Site, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    head = site.node("head1")
    assert site.admin("issue", "head1", site.request("head1"), "--head") == 0
    for _ in range(2):
        assert site.keys("request", "--signer", "--dir", head) == 0
    assert site.admin("signer", "head1", "--public", head / "signer_pub.pem", "--host", "head1") == 0
    assert site.admin("rotate", "add", "head1", "--public", head / "signer_new_pub.pem") == 0
    (head / "signers.toml").write_bytes(site.ca.signers.read_bytes())
    new = SigningKey.load((head / "signer_new.pem").read_bytes())
    killed_after(monkeypatch, steps, "rotate", "switch", "--dir", head)
    assert site.keys("rotate", "switch", "--dir", head) == 0
    assert SigningKey.load((head / "signer_key.pem").read_bytes()).key_id == new.key_id
    assert (head / "signer_pub.pem").read_bytes() == new.public.pem
    assert site.keys("request", "--signer", "--dir", head) == 0  # the next successor


@pytest.mark.parametrize("steps", range(3))
def test_an_interrupted_change_of_the_authoritys_key_is_completed(
    site: Site, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    assert site.admin("issue", "node001", site.request("node001")) == 0
    if steps < 2:
        killed_after(monkeypatch, steps, "rotate", "add", "ca", "--dir", site.ca.dir)
    if steps == 1:  # nodes would not know the new authority
        assert site.admin("rotate", "switch", "ca") == 2
        assert issued_by(site, "node001")
    assert site.admin("rotate", "add", "ca") == 0
    killed_after(monkeypatch, steps, "rotate", "switch", "ca", "--dir", site.ca.dir)
    assert site.admin("rotate", "switch", "ca") == 0
    assert issued_by(site, "node001")
    assert site.admin("rotate", "drop", "ca") == 0
    assert site.admin("rotate", "switch", "ca") == 2


def test_certificates_are_issued_side_by_side(site: Site) -> None:
    names = [f"node{number:03d}" for number in range(8)]
    requests = {name: site.request(name) for name in names}
    script = "import sys; from gexec.cli.gexecctl import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", script, "keys", "issue", "--dir", str(site.ca.dir)]
    with site.ca.locked():  # all of them are ready when the first one begins
        running = [subprocess.Popen([*words, name, str(requests[name])]) for name in names]
    assert [each.wait(60) for each in running] == [0] * len(names)
    assert sorted(site.ca.nodes()) == names


def test_the_authority_of_simple_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(new_key())
    path.chmod(0o600)
    assert main(["keys", "authority", "--private", str(path), "--realm", "blue"]) == 0
    der = ssl.PEM_cert_to_DER_cert(capsys.readouterr().out)
    assert "gexec cluster blue" in x509.load_der_x509_certificate(der).subject.rfc4514_string()
