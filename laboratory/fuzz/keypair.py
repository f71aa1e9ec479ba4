"""A fixed key pair: the same bytes in every run, so that kept inputs stay what they are."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gexec.security.keys import VerifyKey
from gexec.security.signers import Trust
from gexec.security.signing import SigningKey

_PRIVATE: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_PUBLIC: Final = _PRIVATE.public_key()
PRIVATE_PEM: Final = _PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC_PEM: Final = _PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PUBLIC_DER: Final = _PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
KEY: Final = SigningKey.load(PRIVATE_PEM)
KEYS: Final = Trust.unlimited([VerifyKey.load(PUBLIC_PEM)]).signers
