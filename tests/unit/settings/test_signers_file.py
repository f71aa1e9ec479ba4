"""signers.toml: what is written is read, what is wrong is named."""

from __future__ import annotations

import datetime
import tomllib
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gexec.errors import ConfigError
from gexec.security.keys import VerifyKey
from gexec.security.signers import Trust
from gexec.settings.keyfiles import read_trust
from gexec.settings.signers import SignerEntry, SignersFile, read_signers, signers_of

KEYS = [
    VerifyKey(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key()) for number in range(3)
]
KEY = b64encode(KEYS[0].der).decode()


def table(text: str = "", key: str = KEY, hosts: str = '["head1"]') -> str:
    return f'[signer.head1]\nkeys = ["{key}"]\nhosts = {hosts}\n{text}\n'


def test_what_is_written_is_read() -> None:
    for expires in (None, datetime.date(2030, 1, 2), datetime.datetime(2030, 1, 2, 3, tzinfo=datetime.UTC)):
        file = SignersFile(
            (
                SignerEntry("head1", (KEYS[0], KEYS[1]), ("head1", "10.0.0.1"), expires=expires),
                SignerEntry(
                    'a "head"\\', (KEYS[2],), ("b",), "1,5-7", ("ü", "staff"), True, ("n[1-3]",), expires
                ),
            ),
            ("node017", "node018.site.org"),
        )
        again = signers_of(tomllib.loads(file.text()))
        assert again.text() == file.text()
        assert again.trust(()).encode() == file.trust(()).encode()


def test_defaults_are_the_narrow_ones() -> None:
    (signer,) = signers_of(tomllib.loads(table())).trust(["node1"]).signers.values()
    assert signer.is_limited
    assert not signer.root
    assert signer.uids == ((1, 2**32 - 2),)
    assert signer.here
    assert signer.expires_s is None
    assert signer.groups == frozenset()


@pytest.mark.parametrize(
    ("names", "here"),
    [
        (("node002",), True),
        (("x", "NODE100."), True),
        (("10.0.0.7",), True),
        (("node101", "node2"), False),
        ((), False),
    ],
)
def test_targets_are_compared_with_a_nodes_own_names(names: tuple[str, ...], here: bool) -> None:
    text = table('targets = ["node[001-100]", "10.0.0.7"]')
    (signer,) = signers_of(tomllib.loads(text)).trust(names).signers.values()
    assert signer.here is here


def test_a_date_lasts_to_its_end_in_utc() -> None:
    (signer,) = signers_of(tomllib.loads(table("expires = 2027-06-30"))).trust(()).signers.values()
    assert signer.expires_s == datetime.datetime(2027, 7, 1, tzinfo=datetime.UTC).timestamp()
    (signer,) = signers_of(tomllib.loads(table("expires = 2027-06-30T12:00:00"))).trust(()).signers.values()
    assert signer.expires_s == datetime.datetime(2027, 6, 30, 12, tzinfo=datetime.UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("key = 1\n", "'key': expected `revoked` and tables"),
        ("signer = 1\n", "expected tables"),
        ("[signer]\nhead1 = 1\n", "signer.head1: expected a table"),
        ("revoked = 'node1'\n", "revoked: expected an array"),
        ("revoked = [1]\n", "revoked: expected an array"),
        ("revoked = ['']\n", "revoked: expected an array"),
        (table("user = 1"), "'user' is none of expires, groups,"),
        (table("root = 'yes'"), "root: expected true or false"),
        (table("root = 1"), "root: expected true or false"),
        (table("uids = '10-5'"), "uids 10-5: expected FIRST-LAST"),
        (table("uids = '1-99999999999'"), "at most 4294967294"),
        (table("uids = 'all'"), 'expected "1000-59999"'),
        (table("uids = ''"), 'expected "1000-59999"'),
        (table("uids = 5"), "uids: expected a text"),
        (table("expires = 5"), "expected a date"),
        (table("targets = ['node[1-']"), "expected names such as"),
        (table("targets = ['node[a]']"), "expected numbers"),
        (table("targets = ['n[1-99999999]']"), "more than fit"),
        (table("targets = 'node1'"), "targets: expected an array"),
        (table(hosts="[]"), "hosts: expected at least one"),
        (table(key="AAAA"), "is not a public key"),
        (table(key="-----END PUBLIC KEY-----"), "is not a public key"),
        ("[signer.a]\nhosts = ['a']\n", "keys: expected at least one"),
        (table() + table().replace("head1", "head2"), "two signers have the same key"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as told:
        signers_of(tomllib.loads(text))
    assert words in str(told.value)
    path = tmp_path / "signers.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"^{path}: ") as told:
        read_signers(str(path))
    assert "\n" not in str(told.value)


def test_attack_31_a_file_that_others_may_write_to(tmp_path: Path) -> None:
    path = tmp_path / "signers.toml"
    path.write_text(table())
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="lets other users write"):
        read_signers(str(path))


def test_trust_is_of_keys_without_limits_and_of_signers_with_theirs(tmp_path: Path) -> None:
    public, signers = tmp_path / "auth_pub.pem", tmp_path / "signers.toml"
    public.write_bytes(KEYS[1].pem)
    signers.write_text('revoked = ["Node7"]\n' + table())
    trust = read_trust([str(public)], str(signers), ("node1",))
    assert {key_id: signer.is_limited for key_id, signer in trust.signers.items()} == {
        KEYS[0].key_id: True,
        KEYS[1].key_id: False,
    }
    assert trust.revoked == {"node7"}
    assert list(read_trust([], str(signers), ()).signers) == [KEYS[0].key_id]
    signers.write_text("")
    assert Trust.decode(read_trust([], str(signers), ()).encode()).signers == {}
