"""The vault: where the test cases lie, and the commitment that proves afterwards that nobody moved a case."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from clinloop.datasets.dataset import DatasetRecord
from clinloop.datasets.findings import CustodianAudit
from clinloop.datasets.sealed import Seal, originals, seal_state
from clinloop.datasets.table import CaseRow, read_cases
from clinloop.errors import NotNow

__all__ = [
    "Seal",
    "commitment",
    "custodian_audit",
    "holds",
    "new_salt",
    "open_test",
    "originals",
    "seal_state",
    "verify_commitment",
]


class Secret(BaseModel):
    """vault/secret.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    salt: str
    """Hex, 32 bytes; without it a commitment could be searched for guesses."""
    split_seed: int
    """The seed that was in use."""


def new_salt() -> str:
    """Return a fresh salt."""
    return secrets.token_hex(32)


def open_test(dataset_folder: Path) -> list[CaseRow]:
    """Return the test cases with labels, in the order of their opaque ids. Called by finalize, and to label all images of a dataset; by nobody else.

    Raises:
        NotNow: they are sealed.
    """
    return read_cases(_readable(dataset_folder) / "cases.csv", dataset_folder)


def custodian_audit(dataset_folder: Path) -> CustodianAudit:
    """Return what only the custodian may read.

    Raises:
        NotNow: it is sealed.
    """
    return CustodianAudit.model_validate_json((_readable(dataset_folder) / "audit.json").read_text(encoding="utf-8"))


def _readable(dataset_folder: Path) -> Path:
    if seal_state(dataset_folder).is_sealed:
        raise NotNow(
            f"The test part of {dataset_folder.name} is sealed; it is opened for one task by `clinloop unseal TASK --identity FILE`."
        )
    return dataset_folder / "vault"


def commitment(cases: Iterable[CaseRow], salt: str) -> str:
    """Return the Merkle root over all cases: SHA-256, leaves sorted by case id and salted one by one, an odd node moves up.

    A leaf is H(0x00 ‖ HMAC(salt, case_id) ‖ JSON of [case_id, split, group, label, image_sha256, boxes, mask_sha256]), a node
    H(0x01 ‖ left ‖ right), so a single case can be opened later without opening the others. Boxes are null or a list of [target, x, y,
    width, height] in pixels of the stored image; mask_sha256 is "" without a mask. Source of the prefixes: RFC 6962 §2.1.
    """
    level = [_leaf(case, bytes.fromhex(salt)) for case in sorted(cases, key=lambda case: case.case_id)]
    if not level:
        return hashlib.sha256(b"").hexdigest()
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0].hex()


def verify_commitment(dataset_folder: Path, *, check_images: bool = True) -> bool:
    """Tell whether splits, groups, labels, boxes and (by default) files of images and masks are those that were committed to when the dataset was added.

    Raises:
        NotNow: the test part is sealed; `holds` checks it while it is open.
    """
    test = open_test(dataset_folder)
    secret = Secret.model_validate(json.loads((dataset_folder / "vault" / "secret.json").read_text(encoding="utf-8")))
    if check_images:
        test = [_as_on_disk(case) for case in test]
    return holds(dataset_folder, test, secret.salt, check_images=check_images)


def holds(dataset_folder: Path, test: Iterable[CaseRow], salt: str, *, check_images: bool = True) -> bool:
    """Tell whether these test cases, together with what is stored of train and val, are those that were committed to."""
    record = DatasetRecord.model_validate_json((dataset_folder / "dataset.json").read_text(encoding="utf-8"))
    cases = read_cases(dataset_folder / "cases.csv", dataset_folder)
    if check_images:
        cases = [_as_on_disk(case) for case in cases]
    return hmac.compare_digest(commitment([*cases, *test], salt), record.commitment)


def _leaf(case: CaseRow, salt: bytes) -> bytes:
    own_salt = hmac.digest(salt, case.case_id.encode(), "sha256")
    content = json.dumps(
        [case.case_id, case.split, case.group, case.label, case.image_sha256, case.boxes, case.mask_sha256],
        ensure_ascii=False,
        separators=(",", ":"),
    )
    return hashlib.sha256(b"\x00" + own_salt + content.encode()).digest()


def _as_on_disk(case: CaseRow) -> CaseRow:
    """Return a case with the hashes of the files that lie there now."""
    return case._replace(
        image_sha256=_file_sha256(case.image), mask_sha256=_file_sha256(case.mask) if case.mask else ""
    )


def _file_sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""
