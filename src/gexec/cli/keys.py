"""`gexecctl keys`: the key pair of simple mode, and the keys, certificates and signers of hardened mode."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gexec.errors import AuthError, UsageError

if TYPE_CHECKING:
    from gexec.cluster.authority import AuthorityDir
    from gexec.security.keys import VerifyKey

_NODE_DIR = "/etc/gexec"


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add the actions to the parser of `gexecctl keys`."""
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    _add_init(actions.add_parser("init", help="make the key pair, or the authority of hardened mode"))
    authority = actions.add_parser("authority", help="print the authority of a cluster in simple mode")
    authority.add_argument("--private", metavar="FILE", default="/etc/auth_priv.pem", help="its private key")
    authority.add_argument("--realm", metavar="NAME", default="gexec", help="its name (default: gexec)")
    authority.set_defaults(run=_authority)
    _add_on_nodes(actions)
    _add_administration(actions)


def _add_init(init: argparse.ArgumentParser) -> None:
    init.description = (
        "Make the cluster's key pair, with the right modes, to be copied to /etc of every node. "
        "With --hardened: make the authority's directory, on the administrator's host."
    )
    init.add_argument("--dir", metavar="DIR", help="for the files (default: /etc; --hardened: /etc/gexec/ca)")
    init.add_argument("--private", metavar="FILE", help="the private key's file, instead of --dir")
    init.add_argument("--public", metavar="FILE", help="the public key's file, instead of --dir")
    init.add_argument("--type", choices=("rsa", "ed25519"), help="default: rsa")
    init.add_argument("--bits", type=int, metavar="N", help="size of an RSA key (default: 3072)")
    init.add_argument("--force", action="store_true", help="replace files that are there")
    init.add_argument("--hardened", action="store_true", help="for hardened mode")
    init.add_argument("--realm", metavar="NAME", help="with --hardened: the cluster's name (default: gexec)")
    init.set_defaults(run=_init)


def _add_on_nodes(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    request = actions.add_parser("request", help="on a node: make its key and request its certificate")
    request.add_argument(
        "--dir", metavar="DIR", default=_NODE_DIR, help="for the files (default: /etc/gexec)"
    )
    request.add_argument("--signer", action="store_true", help="on a head: make the key that signs jobs")
    request.add_argument("--force", action="store_true", help="replace the node's key")
    request.set_defaults(run=_request)


def _add_administration(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def action(name: str, run: object, help_: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        directory = "the authority's directory (default: /etc/gexec/ca)"
        added.add_argument("--dir", metavar="DIR", help=directory)
        added.set_defaults(run=run)
        return added

    issue = action("issue", _issue, "add a node to the inventory, and certify its key")
    issue.add_argument("node", metavar="NODE", help="the node's name")
    issue.add_argument("request", metavar="REQUEST", help="its node.req")
    issue.add_argument("--name", metavar="NAME", action="append", default=[], help="another name of it")
    issue.add_argument("--address", metavar="IP", action="append", default=[], help="an address of it")
    issue.add_argument("--head", action="store_true", help="users submit jobs there")
    sign = action("sign", _sign, "certify nodes that are in the inventory")
    sign.add_argument("requests", metavar="REQUEST", nargs="*", help="NODE.req, or NODE/etc/gexec/node.req")
    sign.add_argument("--all", action="store_true", help="all nodes that were certified before, again")
    for each in (issue, sign):
        each.add_argument("--days", type=int, metavar="N", help="validity (default: 1825)")
    signer = action("signer", _signer, "add a head's signer, or change its limits")
    signer.add_argument("signer", metavar="NAME", help="its name")
    signer.add_argument("--public", metavar="FILE", required=True, help="its public key, signer_pub.pem")
    signer.add_argument("--host", metavar="NAME", action="append", required=True, help="the head")
    signer.add_argument("--uids", metavar="RANGES", help="users, e.g. 1000-59999 (default: all but root)")
    signer.add_argument("--group", metavar="NAME", action="append", default=[], help="only its members")
    signer.add_argument("--root", action="store_true", help="root, too")
    signer.add_argument("--target", metavar="NODES", action="append", default=[], help="only on these nodes")
    signer.add_argument("--expires", metavar="DATE", help="the last day, YYYY-MM-DD")
    revoke = action("revoke", _revoke, "revoke a node, and remove the signer with this name")
    revoke.add_argument("name", metavar="NAME", help="a node or a signer")
    revoke.add_argument("--signer", action="store_true", help="remove the signer only")
    rotate = action("rotate", _rotate, "replace a signer's key or the authority's: add, switch, drop")
    rotate.add_argument("step", choices=("add", "switch", "drop"))
    rotate.add_argument("what", metavar="SIGNER|ca", nargs="?", help="on a head, `rotate switch` needs none")
    rotate.add_argument("--public", metavar="FILE", help="with add: the signer's new key, signer_new_pub.pem")


def _init(options: argparse.Namespace) -> int:
    from gexec.cluster import keypair

    if options.hardened:
        if options.private or options.public or options.type or options.bits or options.force:
            raise UsageError("--hardened takes --dir and --realm only")
        from gexec.cluster.authority import AUTHORITY_DIR, AuthorityDir

        place = AuthorityDir(Path(options.dir or AUTHORITY_DIR))
        place.init(options.realm or "gexec")
        print(f"{place.key}\n{place.certificates}\n{place.inventory}\n{place.signers}")
        return 0
    if options.realm:
        raise UsageError("--realm without --hardened: a key pair has no realm")
    if options.dir is not None and (options.private or options.public):
        raise UsageError("give either --dir, or --private and --public")
    if (options.private is None) != (options.public is None):
        raise UsageError("give --private and --public together")
    directory = Path(options.dir or "/etc")
    private = Path(options.private or directory / "auth_priv.pem")
    public = Path(options.public or directory / "auth_pub.pem")
    keypair.create(private, public, options.type or "rsa", options.bits, options.force)
    print(f"{private}\n{public}")
    return 0


def _authority(options: argparse.Namespace) -> int:
    import ssl

    from gexec.security.certificate import authority
    from gexec.settings.config import check_realm
    from gexec.settings.keyfiles import read_signing_key

    key = read_signing_key(options.private)
    check_realm(options.realm)
    print(ssl.DER_cert_to_PEM_cert(authority(key, options.realm)), end="")
    return 0


def _request(options: argparse.Namespace) -> int:
    from gexec.cluster import nodekeys

    directory = Path(options.dir)
    if options.signer:
        path, key = nodekeys.request_signer(directory)
    else:
        path, key = nodekeys.request_certificate(directory, options.force)
    print(f"{path} (key {key.key_id.hex()})")
    return 0


def _issue(options: argparse.Namespace) -> int:
    from gexec.cluster.authority import NODE_DAYS
    from gexec.cluster.inventory import InventoryEntry

    names = (*options.name, *options.address)
    days = NODE_DAYS if options.days is None else options.days
    request = _bytes(options.request)
    with _place(options) as place:
        known = None if names or options.head else place.nodes().get(options.node)
        key = place.issue(known or InventoryEntry(options.node, names, options.head), request, days)
    print(f"{place.certificate(options.node)} (key {key.key_id.hex()})")
    return 0


def _sign(options: argparse.Namespace) -> int:
    from gexec.cluster.authority import NODE_DAYS

    days = NODE_DAYS if options.days is None else options.days
    if options.all == bool(options.requests):
        raise UsageError("give either requests or --all")
    requests = [(path, _bytes(path)) for path in map(Path, options.requests)]
    with _place(options) as place:
        if options.all:
            names = place.sign_again(days)
            if not names:
                raise UsageError("no node was certified before: `gexecctl keys issue` does so")
            for name in names:
                print(place.certificate(name))
        for path, request in requests:
            name = _node_of(path)
            key = place.sign(name, request, days)
            print(f"{place.certificate(name)} (key {key.key_id.hex()})")
    return 0


def _node_of(path: Path) -> str:
    """Return the node whose request this is, by its path, which `gexec --fetch` may have made."""
    if path.name != "node.req":
        return path.name.removesuffix(".req")
    directory = path.absolute().parent
    return directory.parents[1].name if directory.match("etc/gexec") else directory.name


def _signer(options: argparse.Namespace) -> int:
    import datetime

    from gexec.settings.keyfiles import SIGNER_REQUESTED, read_verify_keys
    from gexec.settings.signers import SignerEntry

    try:
        expires = None if options.expires is None else datetime.date.fromisoformat(options.expires)
    except ValueError as error:
        raise UsageError(f"--expires={options.expires}: expected YYYY-MM-DD") from error
    entry = SignerEntry(
        name=options.signer,
        keys=tuple(read_verify_keys([options.public], SIGNER_REQUESTED).values()),
        hosts=tuple(options.host),
        groups=tuple(options.group),
        root=options.root,
        targets=tuple(options.target),
        expires=expires,
        **({} if options.uids is None else {"uids": options.uids}),
    )
    with _place(options) as place:
        place.set_signer(entry)
    print(place.signers)
    return 0


def _revoke(options: argparse.Namespace) -> int:
    with _place(options) as place:
        for told in place.revoke(options.name, options.signer):
            print(told)
    print(f"copy {place.signers} to all nodes and reload gexecd there")
    return 0


def _rotate(options: argparse.Namespace) -> int:
    from gexec.cluster import nodekeys
    from gexec.cluster.authority import CA
    from gexec.settings.keyfiles import SIGNER_REQUESTED, read_verify_keys

    if options.public and (options.step != "add" or options.what == CA):
        raise UsageError("--public is for `rotate add SIGNER` only")
    if options.step == "switch" and options.what != CA:
        if options.what is not None:
            raise UsageError("`rotate switch` of a signer runs on its head, without a name")
        key = nodekeys.switch_signer(Path(options.dir or _NODE_DIR))
        print(f"key {key.key_id.hex()} signs when authd reads its keys again (SIGHUP)")
        return 0
    if options.what is None:
        raise UsageError(f"`rotate {options.step}` needs the name of a signer, or ca")
    keys: Iterable[VerifyKey | None] = [None]
    if options.public:
        keys = read_verify_keys([options.public], SIGNER_REQUESTED).values()
    with _place(options) as place:
        if options.step == "switch":
            for name in place.rotate_switch_ca():
                print(place.certificate(name))
            return 0
        if options.step == "drop":
            place.rotate_drop(options.what)
        else:
            for each in keys:
                place.rotate_add(options.what, each)
    print(place.certificates if options.what == CA else place.signers)
    return 0


@contextlib.contextmanager
def _place(options: argparse.Namespace) -> Iterator[AuthorityDir]:
    """Give the authority's directory, which no other gexecctl changes meanwhile."""
    from gexec.cluster.authority import AUTHORITY_DIR, AuthorityDir

    place = AuthorityDir(Path(options.dir or AUTHORITY_DIR))
    with place.locked():
        yield place


def _bytes(path: str | Path) -> bytes:
    from gexec import limits

    with open(path, "rb") as file:
        content = file.read(limits.KEY_FILE_MAX_BYTES + 1)
    if len(content) > limits.KEY_FILE_MAX_BYTES:
        raise AuthError(f"{path}: larger than {limits.KEY_FILE_MAX_BYTES} bytes: is this a request?")
    return content
