"""The sealed vault: the test part as age ciphertext that only the clinician's identity opens, and what can be known without it.

vault/seal.json     who can open it, where the originals lay, how many pieces there are
vault/facts.age     test cases with labels, the custodian's audit, the source files, the salt of the commitment
vault/images/N.age  all test images and masks in one stream, cut into pieces of equal size: no size tells of one image
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict

from clinloop.datasets.findings import CustodianAudit
from clinloop.errors import BadInput, NotNow
from clinloop.memory import swap_areas
from clinloop.sealing import seal, unseal

if TYPE_CHECKING:
    from pyrage.x25519 import Identity

PIECE_BYTES: Final = 4 << 20
"""Bytes of one piece before it is sealed; the last is filled up with zeros."""
FACTS_STEP: Final = 1 << 20
"""The facts are filled up to a multiple of this, so that their size says little of how many cases there are."""
_ORIGINALS_LOOKED_AT = 20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SealRecord(_Part):
    """vault/seal.json; nothing in it is a secret of the test part but the source folder, which is for the custodian."""

    source: str
    """Folder from which the dataset was added."""
    originals: list[str]
    """A few of the training and validation files there, to see whether they can still be read."""
    recipients: list[str] = []
    """Who can open the seal; empty = the test part is not sealed."""
    pieces: int = 0
    """Pieces of the image stream."""


class Place(_Part):
    """Where an image lies in the stream."""

    name: str
    offset: int
    size: int


class Facts(_Part):
    """What facts.age holds."""

    table: str
    """cases.csv of the test part."""
    sources: str
    """sources.csv of all parts."""
    audit: CustodianAudit
    salt: str
    split_seed: int
    images: list[Place]
    stream_sha256: str
    """Of the whole stream, its filling included."""


@dataclass(frozen=True)
class Seal:
    """What can be known of a dataset's test part without opening it."""

    is_sealed: bool
    recipients: tuple[str, ...]
    originals_readable: bool
    """The folder that it was added from still holds its files, and this process may read them."""
    source: str
    """That folder; for the custodian only."""


class SealWriter:
    """Seals test images as they come: from memory into ciphertext, with nothing in between."""

    def __init__(self, vault: Path, recipients: Sequence[str]) -> None:
        self._images, self._recipients = vault / "images", recipients
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._length, self.pieces = 0, 0
        self.places: list[Place] = []

    def add(self, name: str, image: bytes) -> None:
        """Append one encoded image or mask."""
        self.places.append(Place(name=name, offset=self._length, size=len(image)))
        self._length += len(image)
        self._buffer += image
        while len(self._buffer) >= PIECE_BYTES:
            self._write()

    def finish(self) -> str:
        """Fill up and write the last piece; return the SHA-256 of the stream."""
        if self._buffer or not self.pieces:
            self._buffer += bytes(PIECE_BYTES - len(self._buffer))
            self._write()
        return self._digest.hexdigest()

    def _write(self) -> None:
        piece = bytes(self._buffer[:PIECE_BYTES])
        del self._buffer[:PIECE_BYTES]
        self._digest.update(piece)
        write_new(self._images / f"{self.pieces:06d}.age", seal(piece, self._recipients))
        self.pieces += 1


def mask_entry(case_id: str) -> str:
    """Return the name of a case's mask in the sealed stream."""
    return f"{case_id}.mask"


def write_facts(vault: Path, facts: Facts, recipients: Sequence[str]) -> None:
    """Write facts.age."""
    data = facts.model_dump_json().encode()
    write_new(vault / "facts.age", seal(data + b" " * (-len(data) % FACTS_STEP), recipients))


def read_seal(vault: Path) -> SealRecord:
    """Return vault/seal.json."""
    return SealRecord.model_validate_json((vault / "seal.json").read_text(encoding="utf-8"))


def seal_state(dataset_folder: Path) -> Seal:
    """Return what can be known of the test part without opening it."""
    record = read_seal(dataset_folder / "vault")
    readable = any(os.access(Path(record.source) / name, os.R_OK) for name in record.originals)
    return Seal(bool(record.recipients), tuple(record.recipients), readable, record.source)


def seal_warnings(dataset_folder: Path) -> list[str]:
    """Return what the custodian must still do about a sealed dataset; nothing for one that is not sealed."""
    seal = seal_state(dataset_folder)
    if not seal.is_sealed:
        return []
    found: list[str] = []
    if seal.originals_readable:
        found.append(
            f"The originals at {seal.source} are still readable here: take them off this machine, or the seal hides nothing."
        )
    if areas := swap_areas():
        found.append(
            f"Swap is on ({', '.join(areas)}): pixels may have been written there; turn it off (swapoff -a) or encrypt it."
        )
    return found


def originals(dataset_folder: Path) -> list[Path]:
    """Return some of the files that a dataset was made of, as far as they are still there or hidden from this process."""
    try:
        record = read_seal(dataset_folder / "vault")
    except (OSError, ValueError):
        return []
    return [path for name in record.originals if not _is_gone(path := Path(record.source) / name)]


def _is_gone(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def sample_originals(sources: Sequence[str]) -> list[str]:
    """Return some of the training and validation files: those by which is told later whether the originals are still there."""
    return list(sources[:: max(1, len(sources) // _ORIGINALS_LOOKED_AT)])[:_ORIGINALS_LOOKED_AT]


def open_facts(dataset_folder: Path, identities: Sequence[Identity]) -> Facts:
    """Return the facts of the test part.

    Raises:
        BadInput: no identity opens the seal, or it is damaged.
        NotNow: there is no seal.
    """
    file = dataset_folder / "vault" / "facts.age"
    try:
        return Facts.model_validate_json(unseal(file.read_bytes(), identities))
    except FileNotFoundError as error:
        raise NotNow(f"The test part of {dataset_folder.name} is not sealed.") from error


def open_images(dataset_folder: Path, facts: Facts, identities: Sequence[Identity]) -> Generator[tuple[str, bytes]]:
    """Yield (name, image) in the order of the stream, at most two pieces in memory.

    Raises:
        BadInput: a piece is missing or damaged.
    """
    pieces = read_seal(dataset_folder / "vault").pieces
    places, digest = iter(sorted(facts.images, key=lambda place: place.offset)), hashlib.sha256()
    place, buffer, start = next(places, None), bytearray(), 0
    for number in range(pieces):
        piece = _piece(dataset_folder / "vault" / "images" / f"{number:06d}.age", identities)
        digest.update(piece)
        buffer += piece
        while place is not None and place.offset + place.size <= start + len(buffer):
            begin = place.offset - start
            yield place.name, bytes(buffer[begin : begin + place.size])
            del buffer[: begin + place.size]
            start, place = place.offset + place.size, next(places, None)
    if place is not None or digest.hexdigest() != facts.stream_sha256:
        raise BadInput("The sealed images are not those that were sealed; restore the vault from a copy.")


def _piece(file: Path, identities: Sequence[Identity]) -> bytes:
    try:
        return unseal(file.read_bytes(), identities)
    except OSError as error:
        raise BadInput(
            f"A piece of the sealed images cannot be read ({error.strerror}); restore the vault from a copy."
        ) from error


def write_new(path: Path, data: bytes) -> None:
    """Write a file that only the server's user reads."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
