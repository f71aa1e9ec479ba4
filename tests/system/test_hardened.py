"""Hardened mode: what the user root of a compute node can do elsewhere (nothing), and changes of keys.

The rooted node is node003 of a local cluster whose head is node001. It has its key, its certificate, and
everything else that is on a compute node.
"""

from __future__ import annotations

import datetime
import itertools
import os
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gexec.cluster import hardened
from gexec.cluster.nodekeys import new_key
from gexec.gexecd.enrolment import CertificateSource, enrol
from gexec.limits import PROTOCOL_VERSION
from gexec.security.certificate import dated, key_identifier, leaf, signed, usage
from gexec.security.signing import SigningKey, issue
from gexec.settings.config import GexecdSettings
from gexec.settings.keyfiles import read_node_certificate
from gexec.settings.signers import read_signers
from gexec.wire import frames

from . import conftest, rogue
from .conftest import DEADLINE_S, Cluster, gexecctl, wait_until
from .rogue import Identity

ROOTED = "node003"


@pytest.fixture(scope="module")
def _three() -> Iterator[Cluster]:
    cluster = conftest._start(4, hardened=True)
    yield cluster
    conftest._stop(cluster)


@pytest.fixture
def three(_three: Cluster) -> Iterator[Cluster]:
    """A cluster in hardened mode that no test changes; it works after each test."""
    yield _three
    done = _three.gexec("-n", "0", "true", text=True)
    assert (done.returncode, done.stderr) == (0, "")


def node_key(cluster: Cluster, name: str = ROOTED) -> SigningKey:
    return SigningKey.load((hardened.node_dir(cluster.place, name) / "node_key.pem").read_bytes())


def certificate(cluster: Cluster, name: str = ROOTED) -> bytes:
    return read_node_certificate(str(hardened.authority_of(cluster.place).certificate(name))).der


def authority(cluster: Cluster) -> bytes:
    return hardened.authority_of(cluster.place).certificates.read_bytes()


def own(cluster: Cluster, name: str = ROOTED) -> Identity:
    """Return what the relay of a node has."""
    settings = hardened.gexecd_settings(GexecdSettings(), cluster.place, name, is_head=False)
    return Identity(*enrol(CertificateSource.of(settings, ()), patience_s=0)[:3])


def identity(cluster: Cluster, key: ec.EllipticCurvePrivateKey, *chain: bytes) -> Identity:
    pem = "".join([ssl.DER_cert_to_PEM_cert(der) for der in chain]).encode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(private, pem, authority(cluster))


def refused_at_the_door(cluster: Cluster, name: str, who: Identity) -> None:
    """Connect to a node with this certificate: the node ends the connection before it says Hello."""
    try:
        sock = who.dialling().wrap_socket(rogue.tcp(cluster, name), server_hostname=name)
        with rogue.Wire(sock, frames.FROM_CHILD) as wire:
            wire.send(0, frames.Hello(PROTOCOL_VERSION, "rogue"))
            assert wire.until_end() == []
    except (ssl.SSLError, ConnectionError):
        pass


def refusal(wire: rogue.Wire, start: frames.Start) -> str:
    """Send a Start; return why it was refused."""
    wire.send(1, start)
    refused = wire.expect(frames.Refused)
    assert refused.code == frames.REFUSED_DENIED
    return str(refused.text)


def forged(cluster: Cluster, key: SigningKey, host: str, key_id: bytes | None = None) -> rogue.Job:
    """Return a job of root for node002, with a credential that this key has signed."""
    spec = rogue.spec_of(cluster, ["node002"], "touch /tmp/gexec-was-here")
    blob = spec.encode()
    credential = issue(
        key,
        realm="gexec",
        audience="gexec",
        host=host,
        uid=os.getuid(),
        gid=os.getgid(),
        user="root",
        now_s=time.time(),
        ttl_s=60.0,
        job_id=os.urandom(16),
        digest=sha256(blob).digest(),
    )
    if key_id is not None:
        credential = credential[:4] + key_id + credential[12:]
    return rogue.Job(spec, blob, credential)


# -- a rooted compute node --------------------------------------------------------------------


def test_only_the_head_takes_jobs_of_users(three: Cluster) -> None:
    done = three.gexec("-n", "0", "sh", "-c", "echo $GEXEC_NODE", text=True)
    assert sorted(line.split()[1] for line in done.stdout.splitlines()) == three.names
    for name in three.names:
        assert three.place.socket(name).exists() == (name == "node001")
    done = three.gexec("true", text=True, env={"GEXEC_SOCKET": str(three.place.socket(ROOTED))})
    assert done.returncode == 255
    assert "in hardened mode use a head" in done.stderr


@pytest.mark.parametrize("host", ["node001", ROOTED])
def test_attack_115_a_rooted_node_signs_a_credential(three: Cluster, host: str) -> None:
    head = next(iter(read_signers(str(hardened.authority_of(three.place).signers)).signers)).keys[0]
    with rogue.dial(three, "node002", own(three)) as wire:
        text = refusal(wire, forged(three, node_key(three), host).start())
        assert "which this node does not accept" in text
        text = refusal(wire, forged(three, node_key(three), host, head.key_id).start())
        assert "was altered or forged" in text


def test_attack_115_a_rooted_node_submits_to_another_gexecd(three: Cluster) -> None:
    job = forged(three, node_key(three), "node001")
    with rogue.dial(three, "node002", own(three)) as wire:
        wire.send(1, frames.Submit(job.credential, job.blob))
        assert not [frame for frame in wire.until_end() if not isinstance(frame, frames.Hello)]


def test_attack_116_a_rooted_node_as_head(three: Cluster) -> None:
    """Under the name of the head's certificate, and with that certificate, which is not secret."""
    head = x509.load_der_x509_certificate(certificate(three, "node001"))
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(head.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("node001")]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier(key_identifier(node_key(three)).digest, None, None), critical=False
        )
    )
    made = signed(dated(builder, time.time(), 3600, 5), node_key(three))
    for chain in (
        (certificate(three, "node001"),),
        (certificate(three),),
        (certificate(three, "node001"), certificate(three)),
    ):
        refused_at_the_door(three, "node002", identity(three, key, made, *chain))


@pytest.mark.parametrize("name", ["node001", "node002", "node004", "x.node003", "localhost"])
def test_attack_117_a_rooted_node_as_another_node(three: Cluster, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    made = leaf(
        node_key(three),
        issuer=certificate(three),
        public_key_der=public,
        names=[ROOTED, name],
        now_s=time.time(),
        ttl_s=3600,
        serial=5,
    )
    refused_at_the_door(three, "node002", identity(three, key, made, certificate(three)))


def test_attack_119_a_rooted_node_takes_over_ranks(three: Cluster) -> None:
    """It has the job's credential and blob, because it runs one of the ranks."""
    job = rogue.job(three, ["node002", ROOTED, "node004"], "cat", fanout=2)
    with rogue.client(three) as owner:
        owner.send(1, frames.Submit(job.credential, job.blob))
        started = 0
        while started < 3:
            started += sum(high - low for low, high in owner.expect(frames.RanksStarted).ranks)
        for rank, name in ((0, "node002"), (2, "node004")):
            with rogue.dial(three, name, own(three)) as wire:
                text = refusal(wire, job.start(rank, epoch=2**32 - 1))
                assert text.startswith(f"no parent of rank {rank}: ")
        owner.send(1, frames.Stdin(0, b"mine\n", True))
        output = b""
        while output != b"mine\n" * 3:
            frame = owner.expect(frames.Output)
            output += frame.data * sum(high - low for low, high in frame.ranks)


def test_attack_122_a_rooted_node_replays_a_job(three: Cluster, place: Path) -> None:
    """It is the parent of node002 in this job, so node002 takes it as such; what ran does not run again."""
    witness = place / "to" / "witness"
    job = rogue.job(three, [ROOTED, "node002"], f"echo $GEXEC_NODE >>{witness}", fanout=1)
    with rogue.client(three) as owner:
        owner.send(1, frames.Submit(job.credential, job.blob))
        owner.expect(frames.Done)
    for epoch in (7, 8):
        with rogue.dial(three, "node002", own(three)) as wire:
            wire.send(1, job.start(1, 2, epoch=epoch))
            wire.expect(frames.Ended)  # what the first run gave, or that it was already accepted
    assert sorted(rogue.lines_of(witness)) == ["node002", ROOTED]


# -- changes -----------------------------------------------------------------------------------


def count(path: Path, text: str) -> int:
    return path.read_text(errors="replace").count(text)


def reload(cluster: Cluster, *names: str) -> None:
    """Have nodes read their files again; return when they have, with new certificates."""
    before = {name: count(cluster.place.log(name), "certificate renewed") for name in names or cluster.names}
    for name in before:
        os.kill(cluster.daemon(name)[0].pid, signal.SIGHUP)
    for name, known in before.items():
        wait_until(partial(_more, cluster.place.log(name), known), f"{name} renewed nothing")


def _more(log: Path, known: int) -> bool:
    return count(log, "certificate renewed") > known


def reload_authd(cluster: Cluster) -> None:
    assert cluster.state.authd is not None
    before = count(cluster.place.log("authd"), "has read its keys again")
    os.kill(cluster.state.authd.pid, signal.SIGHUP)
    wait_until(
        lambda: count(cluster.place.log("authd"), "has read its keys again") > before, "authd kept its keys"
    )


@contextmanager
def limited(cluster: Cluster, limits: dict[str, Any]) -> Iterator[None]:
    """Let signers.toml have other limits of the head's signer meanwhile, as by an administrator's editor."""
    authority = hardened.authority_of(cluster.place)
    entry = read_signers(str(authority.signers)).entry("node001")
    assert entry is not None
    authority.put_signer(replace(entry, **limits))
    yield
    authority.put_signer(entry)


def keys(cluster: Cluster, action: str, *words: object) -> None:
    done = gexecctl("keys", action, *words, "--dir", hardened.authority_of(cluster.place).dir)
    assert done.returncode == 0, done.stderr


def test_attack_121_a_revoked_node(cluster_of: Callable[..., Cluster]) -> None:
    cluster = cluster_of(3, hardened=True)
    with rogue.dial(cluster, "node002", own(cluster)) as wire:
        keys(cluster, "revoke", ROOTED)
        reload(cluster, "node001", "node002")
        assert wire.until_end() == []
    refused_at_the_door(cluster, "node002", own(cluster))
    done = cluster.gexec("-n", "0", "true", text=True)
    assert done.returncode == 255
    assert f"{ROOTED}: not started: its certificate was refused: the node {ROOTED} is revoked" in done.stderr
    assert cluster.gexec("-n", "2", "true").returncode == 0


@pytest.mark.timeout(300)
def test_attack_120_what_a_signer_may_not_sign(cluster_of: Callable[..., Cluster]) -> None:
    """By real daemons: its targets, its users, its expiry."""
    cluster = cluster_of(3, hardened=True)
    public = hardened.node_dir(cluster.place, "node001") / "signer_pub.pem"
    words = ["node001", "--public", public, "--host", "node001", "--root"]
    keys(cluster, "signer", *words, "--target", "node[001-002]")
    reload(cluster)
    done = cluster.gexec("-n", "0", "sh", "-c", "echo $GEXEC_NODE", text=True)
    assert sorted(line.split()[1] for line in done.stdout.splitlines()) == ["node001", "node002"]
    assert "node003: denied: this node is none of the targets of the signer node001" in done.stderr
    keys(cluster, "signer", *words)
    limits: dict[str, Any]
    for limits, text in (
        ({"expires": datetime.date(2001, 1, 1)}, "the signer node001 expired"),
        ({"hosts": ("node001", "other")}, ""),
        ({"uids": "4000000000-4000000001"}, "" if os.getuid() == 0 else "outside of its uids"),
        ({"groups": ("no-such-group",)}, "" if os.getuid() == 0 else "none of the groups of the signer"),
    ):
        with limited(cluster, limits):
            reload(cluster)
        done = cluster.gexec("-n", "1", "true", text=True)
        assert text in done.stderr
        assert (done.returncode == 255) == bool(text)
    with limited(cluster, {"hosts": ("elsewhere",)}):
        reload(cluster)
    done = cluster.gexec("-n", "1", "true", text=True)
    assert "may sign for elsewhere, but not on the host node001" in done.stderr


def test_attack_124_the_last_signer_is_withdrawn(cluster_of: Callable[..., Cluster]) -> None:
    """A node without a signer accepts nobody; it does not keep the old one."""
    cluster = cluster_of(2, hardened=True)
    assert cluster.gexec("-n", "0", "true").returncode == 0
    keys(cluster, "revoke", "node001", "--signer")
    reload(cluster)
    done = cluster.gexec("-n", "1", "true", text=True)
    assert done.returncode == 255
    assert "(accepted: none)" in done.stderr
    assert "there is no signer any more" in cluster.place.log("node002").read_text(errors="replace")


@pytest.mark.root
def test_attack_120_root_needs_a_signer_for_root(cluster_of: Callable[..., Cluster]) -> None:
    cluster = cluster_of(1, hardened=True)
    public = hardened.node_dir(cluster.place, "node001") / "signer_pub.pem"
    keys(cluster, "signer", "node001", "--public", public, "--host", "node001")
    reload(cluster)
    done = cluster.gexec("-n", "1", "true", text=True)
    assert "the signer node001 may not sign for root" in done.stderr


def test_attack_119_a_compute_node_that_a_signer_names_as_its_host(
    cluster_of: Callable[..., Cluster],
) -> None:
    """Even then the node is no head: its certificate says so."""
    cluster = cluster_of(3, hardened=True)
    directory = hardened.node_dir(cluster.place, "node001")
    with limited(cluster, {"hosts": ("node001", ROOTED)}):
        reload(cluster)
    signer = SigningKey.load((directory / "signer_key.pem").read_bytes())
    with rogue.dial(cluster, "node002", own(cluster)) as wire:
        text = refusal(wire, forged(cluster, signer, ROOTED).start())
        assert f"{ROOTED} is no head" in text


def test_attack_123_a_key_is_withdrawn_while_its_job_runs(cluster_of: Callable[..., Cluster]) -> None:
    cluster = cluster_of(3, hardened=True)
    late = rogue.job(cluster, ["node002"], "true")  # signed, and not submitted yet
    running = cluster.popen("-n", "0", "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        running.stdin.write("begun\n")
        running.stdin.flush()
        for _ in range(3):
            assert running.stdout.readline().endswith(" begun\n")
        keys(cluster, "revoke", "node001", "--signer")
        reload(cluster)
        directory = hardened.node_dir(cluster.place, "node001")
        done = gexecctl("keys", "request", "--signer", "--dir", directory)
        assert done.returncode == 0, done.stderr
        words = ["--public", directory / "signer_new_pub.pem", "--host", "node001", "--root"]
        keys(cluster, "signer", "node001", *words)
        reload(cluster)
        with rogue.dial(cluster, "node002", own(cluster, "node001")) as wire:
            assert "which this node does not accept" in refusal(wire, late.start())
        done = cluster.gexec("-n", "1", "true", text=True)
        assert "which this node does not accept" in done.stderr
        output, _ = running.communicate("the end\n", timeout=DEADLINE_S)
        assert output.count("the end\n") == 3
        assert running.returncode == 0
    finally:
        running.kill()
        running.communicate()


class Jobs:
    """Runs jobs on all nodes all the time, and one that lasts; none of them may notice anything."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._failed: list[str] = []
        self.done = 0
        self._lasting = cluster.popen(
            "-n", "0", "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for number in itertools.count():
            if self._stop.is_set():
                return
            done = self._cluster.gexec("-n", "0", "echo", str(number), text=True)
            if done.returncode or len(done.stdout.splitlines()) != len(self._cluster.names):
                self._failed.append(f"{done.returncode} {done.stdout}{done.stderr}")
            self.done += 1

    def go_on(self) -> None:
        """Wait until a job that began from now on has ended."""
        wanted = self.done + 2
        wait_until(lambda: self.done >= wanted, "no more jobs")
        assert self._failed == []

    def end(self) -> None:
        """Check that all have run, and the lasting one, too."""
        self._stop.set()
        self._thread.join()
        output, errors = self._lasting.communicate("here\n", timeout=DEADLINE_S)
        assert self._failed == []
        assert (self._lasting.returncode, errors) == (0, "")
        assert output.count("here\n") == len(self._cluster.names)


@pytest.mark.timeout(300)
def test_no_job_is_lost_while_all_keys_are_replaced(cluster_of: Callable[..., Cluster]) -> None:
    cluster = cluster_of(3, hardened=True)
    head = hardened.node_dir(cluster.place, "node001")
    signers = hardened.authority_of(cluster.place).signers
    jobs = Jobs(cluster)
    try:
        assert gexecctl("keys", "request", "--signer", "--dir", head).returncode == 0
        keys(cluster, "rotate", "add", "node001", "--public", head / "signer_new_pub.pem")
        reload(cluster)
        jobs.go_on()
        (head / "signers.toml").write_bytes(signers.read_bytes())
        assert gexecctl("keys", "rotate", "switch", "--dir", head).returncode == 0
        reload_authd(cluster)
        jobs.go_on()
        keys(cluster, "rotate", "drop", "node001")
        reload(cluster)
        jobs.go_on()
        for step in ("add", "switch", "drop"):
            keys(cluster, "rotate", step, "ca")
            for name in cluster.names:  # one after the other: old and new ones work together
                reload(cluster, name)
                jobs.go_on()
    finally:
        jobs.end()


@pytest.mark.timeout(300)
def test_no_job_is_lost_while_the_key_of_simple_mode_is_replaced(
    cluster_of: Callable[..., Cluster], place: Path
) -> None:
    """As docs/security.md says, without a restart of any daemon."""
    new, extra = place / "new.pem", place / "authorities.pem"
    new.write_bytes(new_key())
    new.chmod(0o600)
    added = gexecctl("keys", "authority", "--private", new).stdout
    extra.write_text(added)
    cluster = cluster_of(3, authorities=[str(extra)])
    private, public = cluster.place.private_key, cluster.place.public_key
    old = gexecctl("keys", "authority", "--private", private).stdout
    both = public.read_bytes() + SigningKey.load(new.read_bytes()).public.pem
    jobs = Jobs(cluster)
    try:
        public.write_bytes(both)
        extra.write_text(added + old)
        reload(cluster)
        jobs.go_on()
        private.write_bytes(new.read_bytes())
        reload_authd(cluster)
        jobs.go_on()
        for name in cluster.names:
            reload(cluster, name)
            jobs.go_on()
        public.write_bytes(SigningKey.load(new.read_bytes()).public.pem)
        extra.write_text(added)
        for name in cluster.names:
            reload(cluster, name)
            jobs.go_on()
    finally:
        jobs.end()
