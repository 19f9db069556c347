"""Sealing with age: whoever has the identity (the private key) reads, nobody else; the identity stays with the clinician.

Format: https://age-encryption.org/v1, by the library pyrage, so that any `age` program can open what lies here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clinloop.errors import BadInput

if TYPE_CHECKING:
    from pyrage.x25519 import Identity

IDENTITY_CAP = 64 << 10
"""Bytes of an identity file that are read."""


def check_recipients(recipients: Sequence[str]) -> None:
    """Refuse what is no public key.

    Raises:
        BadInput: one of them is none; the text says which.
    """
    from pyrage import RecipientError
    from pyrage.x25519 import Recipient

    for recipient in recipients:
        try:
            Recipient.from_str(recipient)
        except RecipientError as error:
            hint = " That is a private key: keep it to yourself." if recipient.startswith("AGE-SECRET-KEY-") else ""
            shown = "" if hint else f" {recipient[:80]!r}"
            raise BadInput(
                f"--seal{shown} is no age recipient (age1…, 62 characters).{hint} Make a pair with: clinloop key new FILE."
            ) from error


def seal(data: bytes, recipients: Sequence[str]) -> bytes:
    """Return the ciphertext of some bytes; each recipient can open it alone."""
    import pyrage
    from pyrage.x25519 import Recipient

    return pyrage.encrypt(data, [Recipient.from_str(recipient) for recipient in recipients])


def read_identities(text: str) -> list[Identity]:
    """Return the private keys of an identity file: one a line, `#` begins a comment.

    Raises:
        BadInput: there is none, or a line is none. The text never repeats what was read.
    """
    from pyrage import IdentityError
    from pyrage.x25519 import Identity

    lines = [line.strip() for line in text[:IDENTITY_CAP].splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    try:
        found = [Identity.from_str(key) for key in keys]
    except IdentityError:
        found = []
    if not found:
        raise BadInput(
            "That is no age identity: one line AGE-SECRET-KEY-1… is needed, as `clinloop key new` or `age-keygen` wrote it."
        )
    return found


def unseal(data: bytes, identities: Sequence[Identity]) -> bytes:
    """Return the content of a ciphertext.

    Raises:
        BadInput: none of the identities opens it, or it was damaged.
    """
    import pyrage

    try:
        return pyrage.decrypt(data, identities)
    except pyrage.DecryptError as error:
        raise BadInput(
            "This identity does not open the seal, or what was sealed is damaged; take the one whose recipient `clinloop data show` names."
        ) from error


def new_identity(file: Path) -> str:
    """Write a fresh identity to a new file that only its owner may read, and return its recipient.

    Raises:
        BadInput: there is such a file already.
    """
    from pyrage.x25519 import Identity

    identity = Identity.generate()
    recipient = str(identity.to_public())
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise BadInput(f"{file} exists already; an identity is never overwritten.") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(f"# public key: {recipient}\n{identity}\n")
        out.flush()
        os.fsync(out.fileno())
    return recipient
