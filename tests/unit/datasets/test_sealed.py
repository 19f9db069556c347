"""A sealed test part: the same dataset as without a seal, and nothing of the test part readable anywhere, at no moment."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyrage.x25519 import Identity

from clinloop.datasets import layouts, sealed, vault
from clinloop.datasets.dataset import Dataset
from clinloop.datasets.ingest import IngestOptions, ingest
from clinloop.errors import BadInput, NotNow

from . import annotated
from .conftest import KEY, Add, Picture

FOLDERS: dict[str, dict[str, object]] = {
    "official": {"on_leak": "drop"},
    "fraction": {"test": 0.3},
    "masks": {"test": 0.3},
}


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity.generate()


@pytest.fixture(params=FOLDERS)
def folder(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_isic: Callable[..., Path],
    make_class_folders: Callable[..., Path],
    picture: Picture,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Path, dict[str, object]]:
    """A folder with an official test set of JPEGs and a leak, one of PNGs whose test set is drawn, one with masks and boxes; with the options."""
    if request.param == "masks":
        monkeypatch.setattr(layouts, "LAYOUTS", [annotated.Annotated(), *layouts.LAYOUTS])
        return annotated.write_chests(tmp_path / "originals", picture, 24), FOLDERS["masks"]
    make = make_isic if request.param == "official" else make_class_folders
    extra = {"leak": True} if request.param == "official" else {"n": 12}
    return make(tmp_path / "originals", **extra), FOLDERS[request.param]


class Plain:
    """The test part as it lies readable in a dataset of the same name and key: what must be found nowhere else."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.test = vault.open_test(dataset.folder)
        self.images = {case.case_id: case.image.read_bytes() for case in self.test}
        self.masks = {sealed.mask_entry(case.case_id): case.mask.read_bytes() for case in self.test if case.mask}
        with (dataset.vault / "sources.csv").open(encoding="utf-8", newline="") as file:
            sources = {row["case_id"]: row["source"] for row in csv.DictReader(file)}
        self.secrets = {
            **{f"case id {name}": name.encode() for name in self.images},
            **{f"source of {name}": Path(sources[name]).name.encode() for name in self.images},
            **{f"file of {name}": data[-600:-100] for name, data in self.images.items()},
            **{f"pixels of {name}": _pixels(data) for name, data in self.images.items()},
            **{f"cache row of {name}": _pixels(data, 16) for name, data in self.images.items()},
            **{
                f"mask of {case.case_id}": self.masks[sealed.mask_entry(case.case_id)]
                for case in self.test
                if case.mask and case.boxes
            },
            **{f"boxes of {case.case_id}": f",{case.boxes[0].x},".encode() for case in self.test if case.boxes},
        }

    def found_in(self, *folders: Path) -> list[str]:
        """Return what of the test part lies readable in any file."""
        found: list[str] = []
        for folder in folders:
            for file in (path for path in folder.rglob("*") if path.is_file()):
                data = file.read_bytes()
                found += [
                    f"{name} in {file}"
                    for name, secret in self.secrets.items()
                    if secret in data or secret in str(file).encode()
                ]
        return found


def _pixels(data: bytes, px: int | None = None) -> bytes:
    """Three rows in the middle of an image."""
    with Image.open(io.BytesIO(data)) as image:
        from clinloop.datasets.pixels import centre_square

        array = np.asarray(image if px is None else centre_square(image, px))
    return array[len(array) // 2 : len(array) // 2 + 3].tobytes()


def seal_it(root: Path, state: Path, identity: Identity, progress: Callable[..., None], **options: object) -> Dataset:
    given = {"cache_px": (16,), "seal": (str(identity.to_public()),), **options}
    ingest(root, "data", state=state, key=KEY, options=IngestOptions(**given), progress=progress)  # type: ignore[arg-type]
    return Dataset.load(state, "data")


def test_nothing_of_a_sealed_test_part_is_readable_on_the_disk_at_any_moment(
    add: Add,
    folder: tuple[Path, dict[str, object]],
    identity: Identity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, options = folder
    plain = Plain(add(root, state=tmp_path / "plain", **options))
    found = plain.found_in(plain.dataset.folder)
    assert len(found) >= 4 * len(plain.images)  # the search does find what is there
    assert ({"mask", "boxes"} <= {name.split()[0] for name in found}) == bool(plain.masks)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    phases: set[str] = set()

    def look(phase: str, done: int, total: int) -> None:
        if done in (0, 1, total // 2, total):
            phases.add(phase)
            assert plain.found_in(tmp_path / "state", temporary) == []

    dataset = seal_it(root, tmp_path / "state", identity, look, **options)

    assert phases >= {"images", "storing", "writing"}
    assert plain.found_in(tmp_path / "state", temporary) == []
    with pytest.raises(NotNow, match="sealed"):
        vault.open_test(dataset.folder)
    with pytest.raises(NotNow, match="sealed"):
        vault.custodian_audit(dataset.folder)


def test_a_sealed_dataset_is_the_same_dataset_and_its_commitment_holds_when_it_is_opened(
    add: Add, folder: tuple[Path, dict[str, object]], identity: Identity, tmp_path: Path
) -> None:
    root, options = folder
    plain = Plain(add(root, state=tmp_path / "plain", **options))
    dataset = seal_it(root, tmp_path / "state", identity, lambda *_: None, **options)

    visible = {path.relative_to(dataset.view): path.read_bytes() for path in dataset.view.rglob("*") if path.is_file()}
    own = plain.dataset.view
    assert visible == {path.relative_to(own): path.read_bytes() for path in own.rglob("*") if path.is_file()}
    facts = sealed.open_facts(dataset.folder, [identity])
    assert dict(sealed.open_images(dataset.folder, facts, [identity])) == plain.images | plain.masks
    assert facts.table == (plain.dataset.vault / "cases.csv").read_text(encoding="utf-8")
    assert facts.sources == (plain.dataset.vault / "sources.csv").read_text(encoding="utf-8")
    assert facts.audit == vault.custodian_audit(plain.dataset.folder)
    assert vault.holds(dataset.folder, plain.test, facts.salt)
    assert not vault.holds(dataset.folder, plain.test[1:], facts.salt)


def test_no_size_in_a_sealed_vault_tells_of_an_image(
    add: Add,
    identity: Identity,
    tmp_path: Path,
    make_class_folders: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sealed, "PIECE_BYTES", 10_000)
    root = make_class_folders(tmp_path / "originals", n=30)
    plain = Plain(add(root, state=tmp_path / "plain", test=0.3))
    dataset = seal_it(root, tmp_path / "state", identity, lambda *_: None, test=0.3)

    pieces = sorted((dataset.vault / "images").iterdir())
    assert len(pieces) > 5 and len(pieces) != len(plain.images)
    content = [len(path.read_bytes()) for path in pieces]
    assert max(content) - min(content) < 400  # age puts a random stanza into each header
    facts = sealed.open_facts(dataset.folder, [identity])
    assert dict(sealed.open_images(dataset.folder, facts, [identity])) == plain.images  # also across pieces


def test_only_a_recipient_opens_a_seal_and_each_of_several_does(
    identity: Identity, tmp_path: Path, make_class_folders: Callable[..., Path]
) -> None:
    second, stranger = Identity.generate(), Identity.generate()
    recipients = tuple(str(one.to_public()) for one in (identity, second))
    dataset = seal_it(
        make_class_folders(tmp_path / "originals"), tmp_path / "state", identity, lambda *_: None, seal=recipients
    )

    first, other = (sealed.open_facts(dataset.folder, [one]) for one in (identity, second))
    assert first == other
    with pytest.raises(BadInput, match="does not open"):
        sealed.open_facts(dataset.folder, [stranger])
    assert vault.seal_state(dataset.folder).recipients == recipients


@pytest.mark.parametrize("damage", ["gone", "cut", "turned", "exchanged"])
def test_damaged_ciphertext_is_noticed(
    damage: str,
    identity: Identity,
    tmp_path: Path,
    make_class_folders: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sealed, "PIECE_BYTES", 10_000)
    dataset = seal_it(make_class_folders(tmp_path / "originals", n=30), tmp_path / "state", identity, lambda *_: None)
    first, second = dataset.vault / "images" / "000000.age", dataset.vault / "images" / "000001.age"
    data = first.read_bytes()
    match damage:
        case "gone":
            first.unlink()
        case "cut":
            first.write_bytes(data[:-100])
        case "turned":
            first.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
        case _:
            first.write_bytes(second.read_bytes())
            second.write_bytes(data)
    facts = sealed.open_facts(dataset.folder, [identity])
    with pytest.raises(BadInput):
        list(sealed.open_images(dataset.folder, facts, [identity]))


def test_originals_that_can_still_be_read_are_noticed_until_they_are_gone(
    identity: Identity, tmp_path: Path, make_class_folders: Callable[..., Path]
) -> None:
    root = make_class_folders(tmp_path / "originals")
    dataset = seal_it(root, tmp_path / "state", identity, lambda *_: None)
    state = vault.seal_state(dataset.folder)
    assert state.is_sealed and state.originals_readable and state.source == str(root)

    root.rename(tmp_path / "stick")

    assert not vault.seal_state(dataset.folder).originals_readable


@pytest.mark.parametrize("recipient", ["", "age1short", "me@example.org", "identity"])
def test_what_is_no_recipient_is_refused_before_anything_is_read(
    recipient: str, identity: Identity, tmp_path: Path, make_class_folders: Callable[..., Path]
) -> None:
    given = str(identity) if recipient == "identity" else recipient
    with pytest.raises(BadInput, match="age recipient") as refusal:
        seal_it(
            make_class_folders(tmp_path / "originals"), tmp_path / "state", identity, lambda *_: None, seal=(given,)
        )
    assert str(identity)[:30] not in str(refusal.value)
    assert not (tmp_path / "state").exists()
