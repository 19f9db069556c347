"""Adds a dataset: layout, image store, duplicates, split, audit, vault; all of it or nothing.

Import only where a dataset is added: this loads Pillow, imagehash, SciPy and scikit-learn.
"""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Literal

from clinloop.datasets import assemble
from clinloop.datasets.admission import (
    IngestOptions,
    attribute_names,
    check_disk,
    check_options,
    refuse_unusable,
    test_rule,
    useful_cache_px,
)
from clinloop.datasets.audit import Entry, Ties, find_leaks, find_ties, make_audit
from clinloop.datasets.case import Case, LayoutResult, Split
from clinloop.datasets.dataset import (
    CaseRow,
    Dataset,
    DatasetRecord,
    SplitRule,
    check_name,
    datasets_folder,
    lock_name,
)
from clinloop.datasets.findings import CustodianAudit, LeakFacts, ReasonCount
from clinloop.datasets.layouts import choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.datasets.pixels import RULES, ImageFacts, PixelJob, StoreSettings
from clinloop.datasets.splits import assign_splits, split_digest, split_problems
from clinloop.datasets.vault import Secret, commitment, new_salt
from clinloop.datasets.workers import store_all
from clinloop.errors import BadInput, LeakFound, NotNow, Refusal

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total); phases: reading, images, duplicates, audit, writing."""


def ingest(
    root: Path,
    name: str,
    *,
    state: Path,
    key: bytes,
    options: IngestOptions | None = None,
    progress: Progress = lambda phase, done, total: None,
    wait_s: float = 0.0,
) -> DatasetRecord:
    """Add the folder `root` as the dataset `name`.

    Nothing is visible before everything is written; an interrupted call can simply be repeated. If another process is adding the same
    name, wait up to `wait_s` for it and return what it added.

    Raises:
        BadInput: the folder cannot be used; the text lists all reasons. `__notes__` hold what only the custodian may read.
        LeakFound: training cases are tied to the publisher's test set and `on_leak` is "refuse".
        NotNow: another process is adding this name, or the disk is full.
    """
    options = options or IngestOptions()
    check_options(root, options)
    stored = check_name(name)
    known = Dataset.list_names(state)
    if stored in known:
        raise BadInput(
            f"Dataset {stored!r} exists already; choose another name, or remove it first (clinloop data remove {stored})."
        )
    with lock_name(state, stored, wait_s=wait_s):
        if stored in Dataset.list_names(state):
            return Dataset.load(state, stored).record
        progress("reading", 0, 1)
        folder = Folder(root)
        chosen = choose_layout(folder, options.layout, options.columns)
        result = chosen.layout.read(folder, options.columns)
        refuse_unusable(result)
        if folder.links_out:
            note = f"{folder.links_out} link(s) that lead out of the folder, or to folders, were not followed."
            result = replace(result, notes=[*result.notes, note])
        progress("reading", 1, 1)
        with _building(state, stored) as build:
            source = _Source(root, stored, key, chosen.layout.name, chosen.reason, result, test_rule(options, result))
            record = _build(source, build, options, progress)
            os.sync()  # a rename that survives a power cut must not outlive the files it names
            build.rename(datasets_folder(state) / stored)
    return record


@dataclass(frozen=True)
class _Source:
    """A folder whose layout was read."""

    root: Path
    name: str
    key: bytes
    layout: str
    reason: str
    result: LayoutResult
    test: Literal["official"] | float

    def keyed(self, kind: str, identity: str) -> str:
        """Return an opaque id: 12 hex digits that say nothing without the key, and differ between datasets."""
        return hmac.digest(self.key, f"{self.name}\0{kind}\0{identity}".encode(), "sha256").hex()[:12]


@dataclass
class _Item:
    """A case on its way into the dataset."""

    case: Case
    case_id: str
    folder: Path
    """Where its image lies."""
    row: int | None = None
    """Row in the caches while they are filled."""
    facts: ImageFacts | None = None
    unreadable: str = ""
    split: Split | None = None
    """None until split; stays None for a case that is not kept."""


@dataclass(frozen=True)
class _Leaks:
    facts: LeakFacts
    dropped: list[int]


def _build(source: _Source, build: Path, options: IngestOptions, progress: Progress) -> DatasetRecord:
    """Write a whole dataset into the building folder and return its record."""
    result, names = source.result, attribute_names(source.result.attributes)
    items = _identify(source, build, names)
    sources = [item.case.source for item in items]
    cache_px = useful_cache_px(source.root, sources, options.cache_px)
    check_disk(source.root, sources, cache_px, build)
    assemble.make_folders(build)
    _store_images(
        source,
        items,
        build,
        StoreSettings(options.max_px, cache_px, tuple(str(assemble.create_cache(build, px)) for px in cache_px)),
        progress,
    )
    progress("duplicates", 0, 1)
    readable = [item for item in items if item.facts]
    entries = [Entry(item.case, item.facts) for item in readable if item.facts]
    ties = find_ties(entries)
    progress("duplicates", 1, 1)
    leaks = _judge_leaks(entries, ties, options.on_leak)
    seed = _secret_seed(source, options.seed)
    _split(source, items, readable, ties, set(leaks.dropped), options, seed)
    progress("audit", 0, 1)
    audit = make_audit(
        entries,
        ties,
        [item.split for item in readable],
        classes=result.classes,
        group_kind=result.group_kind,
        attributes=list(names.values()),
        excluded=result.excluded,
        unreadable=[item.unreadable for item in items if item.unreadable and item.case.split != "test"],
        notes=result.notes,
    )
    progress("audit", 1, 1)
    progress("writing", 0, 1)
    rows = _place(source, readable, ties, build)
    kept = [item for item in sorted(readable, key=lambda item: item.case_id) if item.split in {"train", "val"}]
    for px in cache_px:
        cached = [item.row for item in kept if item.row is not None]
        assemble.finish_cache(build / "view" / f"cache_{px}.npy", px, cached, [item.case_id for item in kept])
    assemble.write_tables(build, rows, list(names.values()))
    salt = new_salt()
    record = DatasetRecord(
        name=source.name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        task_type=result.task_type,
        classes=result.classes,
        counts=audit.counts,
        group_kind=result.group_kind,
        attributes=list(names.values()),
        layout=source.layout,
        layout_reason=source.reason,
        image_rules=RULES,
        max_px=options.max_px,
        cache_px=list(cache_px),
        split=SplitRule(
            test=source.test,
            val=options.val,
            seed=options.seed,
            digest=split_digest((row.case_id, row.split) for row in rows),
        ),
        commitment=commitment(rows, salt),
    )
    assemble.write_model(build / "vault" / "secret.json", Secret(salt=salt, split_seed=seed))
    assemble.write_model(build / "vault" / "audit.json", _custodian_audit(rows, items, leaks, result))
    assemble.write_sources(build / "vault" / "sources.csv", ((item.case_id, item.case.source) for item in readable))
    assemble.write_model(build / "audit.json", audit)
    assemble.write_model(build / "dataset.json", record)
    assemble.close_view(build)
    progress("writing", 1, 1)
    return record


def _identify(source: _Source, build: Path, names: Mapping[str, str]) -> list[_Item]:
    """Give every case its opaque id, in an order that does not depend on the file system."""
    items: list[_Item] = []
    taken: set[str] = set()
    for case in sorted(source.result.cases, key=lambda case: case.source):
        split = case.split if source.test == "official" else None
        attributes = {new: case.attributes.get(old, "") for old, new in names.items()}
        candidates = (source.keyed("case", f"{case.source}\0{n}") for n in count())
        case_id = next(
            candidate for candidate in candidates if candidate not in taken
        )  # 48 bits do collide, once in 10⁶ datasets
        taken.add(case_id)
        folder = build / ("vault" if split == "test" else "view") / "images"
        items.append(_Item(replace(case, split=split, attributes=attributes), case_id, folder))
    return items


def _store_images(
    source: _Source, items: Sequence[_Item], build: Path, settings: StoreSettings, progress: Progress
) -> None:
    """Decode and store every image once, in the order of the opaque ids, so that nothing on disk tells of the order of the source."""
    ordered = sorted(items, key=lambda item: item.case_id)
    for row, item in enumerate(item for item in ordered if item.case.split != "test"):
        item.row = row
    jobs = [
        PixelJob(str(source.root / item.case.source), str(item.folder / item.case_id), item.row) for item in ordered
    ]
    progress("images", 0, len(jobs))
    for done, (at, outcome) in enumerate(store_all(jobs, settings), start=1):
        if isinstance(outcome, ImageFacts):
            ordered[at].facts = outcome
        else:
            ordered[at].unreadable = outcome.reason
        progress("images", done, len(jobs))
    if not any(item.facts for item in items):
        raise _with_notes(
            BadInput(f"None of the {len(items)} images can be read; the first: {items[0].unreadable}."),
            _unreadable_lines(items),
        )


def _judge_leaks(entries: Sequence[Entry], ties: Ties, on_leak: str) -> _Leaks:
    """Find what ties training cases to the publisher's test set and refuse, drop or accept it."""
    leaks = find_leaks([entry.case for entry in entries], ties)
    kinds = {kind: len(members) for kind, members in leaks.by_kind.items()}
    if leaks.all and on_leak == "refuse":
        refusal = LeakFound(
            f"{len(leaks.all)} training case(s) are tied to the official test set ({', '.join(kinds)}), so a test score would be too good. Nothing was "
            'added. Drop them from training (on_leak="drop"), or keep them and say why (on_leak="<reason>"), or group by something else.'
        )
        raise _with_notes(
            refusal,
            [f"{kind}: {entries[i].case.source}" for kind, members in leaks.by_kind.items() for i in members[:50]],
        )
    dropped = leaks.all if on_leak == "drop" else []
    facts = LeakFacts(
        policy=on_leak,
        train_cases=kinds,
        n_train_cases=len(leaks.all),
        dropped=[entries[i].case.source for i in dropped],
    )
    return _Leaks(facts, dropped)


def _split(
    source: _Source,
    items: Sequence[_Item],
    readable: Sequence[_Item],
    ties: Ties,
    dropped: set[int],
    options: IngestOptions,
    seed: int,
) -> None:
    """Assign a split to every case that is kept; refuse if a class cannot be in every part, with all that is wrong with the images."""
    at = [i for i in range(len(readable)) if i not in dropped]
    labels, groups = [readable[i].case.label for i in at], [ties.roots[i] for i in at]
    official = [readable[i].case.split == "test" for i in at]
    fraction = None if source.test == "official" else source.test
    problems = split_problems(labels, groups, official, source.result.classes, parts=2 if fraction is None else 3)
    if problems:
        unreadable = sum(bool(item.unreadable) and item.case.split != "test" for item in items)
        also = [f"{unreadable} image(s) cannot be read."] if unreadable else []
        raise _with_notes(BadInput(" ".join([*problems, *also])), _unreadable_lines(items))
    for i, split in zip(
        at, assign_splits(labels, groups, official, test=fraction, val=options.val, seed=seed), strict=True
    ):
        readable[i].split = split


def _place(source: _Source, readable: Sequence[_Item], ties: Ties, build: Path) -> list[CaseRow]:
    """Move every image where its split belongs, remove those not kept, and return the rows in the order of the opaque ids."""
    rows: list[CaseRow] = []
    for item, root in zip(readable, ties.roots, strict=True):
        assert item.facts
        image = item.folder / (item.case_id + item.facts.suffix)
        if item.split is None:
            image.unlink()
            continue
        image = assemble.place_image(image, build / ("vault" if item.split == "test" else "view") / "images")
        group = source.keyed("group", readable[root].case.source)
        rows.append(
            CaseRow(
                item.case_id, item.split, group, item.case.label, item.case.attributes, image, item.facts.file_sha256
            )
        )
    return sorted(rows, key=lambda row: row.case_id)


def _custodian_audit(
    rows: Sequence[CaseRow], items: Sequence[_Item], leaks: _Leaks, result: LayoutResult
) -> CustodianAudit:
    test = [row for row in rows if row.split == "test"]
    counts = Counter(row.label for row in test)
    return CustodianAudit(
        test_counts={name: counts[name] for name in result.classes},
        test_groups=len({row.group for row in test}),
        leaks=leaks.facts,
        unreadable={item.case.source: item.unreadable for item in items if item.unreadable},
        excluded=[
            ReasonCount(reason=f"{item.split or 'any split'}: {item.reason}", count=item.count)
            for item in result.excluded
        ],
        excluded_examples={
            f"{item.split or 'any split'}: {item.reason}": list(item.examples) for item in result.excluded
        },
        test_attributes_missing={
            name: sum(not row.attributes[name] for row in test) for name in (test[0].attributes if test else ())
        },
    )


def _secret_seed(source: _Source, seed: int) -> int:
    """Return the seed in use: without the key nobody can repeat the split of a public dataset."""
    return int.from_bytes(hmac.digest(source.key, f"{source.name}\0split\0{seed}".encode(), "sha256")[:4], "big")


def _unreadable_lines(items: Sequence[_Item]) -> list[str]:
    return [f"{item.case.source}: {item.unreadable}" for item in items if item.unreadable][:200]


def _with_notes(error: Refusal, lines: Sequence[str]) -> Refusal:
    for line in lines:
        error.add_note(line)
    return error


@contextmanager
def _building(state: Path, name: str) -> Generator[Path]:
    """Provide an empty folder that is gone afterwards unless it was renamed; what a killed ingest left is removed first.

    Raises:
        NotNow: the disk is full.
    """
    home = datasets_folder(state) / f".building-{name}"
    shutil.rmtree(home, ignore_errors=True)
    build = home / secrets.token_hex(
        4
    )  # a fresh name: a worker of a killed ingest that still writes finds its folder gone
    try:
        build.mkdir(parents=True, mode=0o700)
        yield build
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NotNow(
                "The disk of the state folder is full; free some space and add the dataset again. Nothing was added."
            ) from error
        raise
    finally:
        shutil.rmtree(home, ignore_errors=True)
