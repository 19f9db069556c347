"""Signatures of ledger entries: the Ed25519 key of a state folder, what it signs, and the check that needs the public key only."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from clinloop.files import secret_file

if TYPE_CHECKING:  # loading it takes 35 ms, which a server that only answers questions never spends
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_FILE = "ledger_key"
_PURPOSE = b"clinloop ledger entry\0"


class Signer:
    """The signing key of a state folder: STATE/ledger_key, 32 bytes for the server's user alone, made at first use."""

    def __init__(self, state: Path) -> None:
        """Nothing is read or made before the key is needed."""
        self._file = state / KEY_FILE

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        def make() -> bytes:
            return Ed25519PrivateKey.generate().private_bytes_raw()

        return Ed25519PrivateKey.from_private_bytes(secret_file(self._file, make))

    @cached_property
    def public_key(self) -> str:
        """Public key: 64 hexadecimal digits."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, digest: str) -> str:
        """Return the signature of an entry's hash: 128 hexadecimal digits."""
        return self._key.sign(_PURPOSE + digest.encode()).hex()


def fingerprint(public_key: str) -> str:
    """Return the short form of a public key that a person notes: `ed25519:` and 32 digits of its SHA-256."""
    return f"ed25519:{hashlib.sha256(bytes.fromhex(public_key)).hexdigest()[:32]}"


def is_signed(public_key: str, digest: str, signature: str) -> bool:
    """Tell whether a signature of a hash is by this key; False also for what is no key or no signature."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), _PURPOSE + digest.encode())
    except (InvalidSignature, ValueError):
        return False
    return True
