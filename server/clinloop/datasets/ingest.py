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
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from clinloop.datasets import acquisition, assemble, storing
from clinloop.datasets.admission import (
    IngestOptions,
    attribute_names,
    check_disk,
    check_options,
    refuse_unusable,
    test_rule,
    useful_cache_px,
)
from clinloop.datasets.audit import Ties, find_leaks, find_ties, make_audit
from clinloop.datasets.case import LayoutResult, TaskType
from clinloop.datasets.dataset import (
    CaseRow,
    Dataset,
    DatasetRecord,
    SplitRule,
    check_name,
    datasets_folder,
    lock_name,
)
from clinloop.datasets.findings import CustodianAudit, LeakFacts, ReasonCount, without_counts
from clinloop.datasets.layouts import choose_layout
from clinloop.datasets.layouts.folder import Folder, listed
from clinloop.datasets.metadata import Entry, acquisition_of
from clinloop.datasets.pixels import RULES, StoreSettings
from clinloop.datasets.sealed import Facts, SealRecord, SealWriter, sample_originals, write_facts
from clinloop.datasets.splits import assign_splits, keep_share, split_digest, split_problems
from clinloop.datasets.storing import Item, Progress, Source
from clinloop.datasets.vault import Secret, commitment, new_salt
from clinloop.errors import BadInput, LeakFound, NotNow


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
        refuse_unusable(result, options)
        if folder.links_out:
            note = f"{folder.links_out} link(s) that lead out of the folder, or to folders, were not followed."
            result = replace(result, notes=[*result.notes, note])
        progress("reading", 1, 1)
        with _building(state, stored) as build:
            source = Source(root, stored, key, chosen.layout.name, chosen.reason, result, test_rule(options, result))
            record = _build(source, build, options, progress)
            os.sync()  # a rename that survives a power cut must not outlive the files it names
            build.rename(datasets_folder(state) / stored)
    return record


@dataclass(frozen=True)
class _Leaks:
    facts: LeakFacts
    dropped: list[int]


def _build(source: Source, build: Path, options: IngestOptions, progress: Progress) -> DatasetRecord:
    """Write a whole dataset into the building folder and return its record."""
    result, names = source.result, attribute_names(source.result.attributes)
    items = storing.identify(source, build, names)
    sources = [item.case.source for item in items]
    cache_px = useful_cache_px(source.root, sources, options.cache_px)
    check_disk(source.root, sources, cache_px, build)
    assemble.make_folders(build, has_masks=any(item.case.mask is not None for item in items))
    caches = tuple(str(assemble.create_cache(build, px)) for px in cache_px)
    settings, vault = StoreSettings(options.max_px, cache_px, caches), build / "vault"
    if options.seal:
        storing.measure(source, items, options.max_px, progress)
    else:
        storing.store(source, items, settings, progress)
    readable = [item for item in items if item.facts]
    progress("duplicates", 0, 1)
    ties = find_ties(entries := _entries(readable))
    progress("duplicates", 1, 1)
    leaks = _judge_leaks(entries, ties, options.on_leak)
    seed = _secret_seed(source, options.seed)
    _split(source, items, readable, ties, set(leaks.dropped), options, seed)
    _drop_truth(readable, ties, options.keep_boxes, seed)
    writer = SealWriter(vault, options.seal)
    if options.seal:
        storing.store_measured(source, items, settings, writer, build, progress)
    progress("audit", 0, 1)
    audit = make_audit(
        _entries(readable),
        ties,
        [item.split for item in readable],
        classes=result.classes,
        group_kind=result.group_kind,
        targets=result.targets,
        attributes=list(names.values()),
        excluded=result.excluded,
        unreadable=[item.unreadable for item in items if item.unreadable and item.case.split != "test"],
        notes=[without_counts(note) for note in result.notes],
    )
    progress("audit", 1, 1)
    progress("writing", 0, 1)
    rows = storing.place(source, readable, ties, build, sealed=bool(options.seal))
    kept = [item for item in storing.by_id(readable) if item.split in {"train", "val"}]
    _describe(build, cache_px, kept)
    assemble.write_tables(build, rows, list(names.values()), result.targets, sealed=bool(options.seal))
    salt = new_salt()
    record = DatasetRecord(
        name=source.name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        task_type=result.task_type,
        classes=result.classes,
        targets=result.targets,
        keep_boxes=options.keep_boxes,
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
    custodian = _custodian_audit(rows, items, leaks, result)
    origins = assemble.sources_text((item.case_id, item.case.source) for item in readable)
    if options.seal:
        facts = Facts(
            table=assemble.cases_text([row for row in rows if row.split == "test"], list(names.values())),
            sources=origins,
            audit=custodian,
            salt=salt,
            split_seed=seed,
            stream_sha256=writer.finish(),
            images=writer.places,
        )
        write_facts(vault, facts, options.seal)
    else:
        assemble.write_model(vault / "secret.json", Secret(salt=salt, split_seed=seed))
        assemble.write_model(vault / "audit.json", custodian)
        assemble.write_private(vault / "sources.csv", origins)
    seal = SealRecord(
        source=str(source.root),
        originals=sample_originals([item.case.source for item in kept]),
        recipients=list(options.seal),
        pieces=writer.pieces,
    )
    assemble.write_model(vault / "seal.json", seal)
    assemble.write_model(build / "audit.json", audit)
    assemble.write_model(build / "dataset.json", record)
    assemble.close_view(build)
    progress("writing", 1, 1)
    return record


def _entries(readable: Sequence[Item]) -> list[Entry]:
    return [Entry(item.case, item.facts) for item in readable if item.facts]


def _describe(build: Path, cache_px: Sequence[int], kept: Sequence[Item]) -> None:
    """Finish the caches and write how each picture of train and validation came to be."""
    facts = ((item.case_id, acquisition_of(Entry(item.case, item.facts))) for item in kept if item.facts)
    assemble.write_private(build / acquisition.FILE, acquisition.acquisition_text(facts))
    rows, case_ids = [item.row for item in kept if item.row is not None], [item.case_id for item in kept]
    for px in cache_px:
        assemble.finish_cache(build / "view" / f"cache_{px}.npy", px, rows, case_ids)


def _judge_leaks(entries: Sequence[Entry], ties: Ties, on_leak: str) -> _Leaks:
    """Find what ties training cases to the publisher's test set and refuse, drop or accept it."""
    leaks = find_leaks([entry.case for entry in entries], ties)
    kinds = {kind: len(members) for kind, members in leaks.by_kind.items()}
    if leaks.all and on_leak == "refuse":
        refusal = LeakFound(
            f"{len(leaks.all)} training case(s) are tied to the official test set ({', '.join(kinds)}), so a test score would be too good. Nothing was "
            'added. Drop them from training (on_leak="drop"), or keep them and say why (on_leak="<reason>"), or group by something else.'
        )
        raise storing.with_notes(
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
    source: Source,
    items: Sequence[Item],
    readable: Sequence[Item],
    ties: Ties,
    dropped: set[int],
    options: IngestOptions,
    seed: int,
) -> None:
    """Assign a split to every case that is kept; refuse if a class cannot be in every part, with all that is wrong with the images.

    Where boxes or masks are the truth, groups without any cannot be scored: they all are training.
    """
    at = [i for i in range(len(readable)) if i not in dropped]
    scored = {ties.roots[i] for i in at if _has_truth(readable[i], source.result.task_type)}
    drawn = [i for i in at if ties.roots[i] in scored or readable[i].case.split == "test"]
    labels, groups = [readable[i].case.label for i in drawn], [ties.roots[i] for i in drawn]
    official = [readable[i].case.split == "test" for i in drawn]
    fraction = None if source.test == "official" else source.test
    parts = 2 if fraction is None else 3
    if source.result.task_type == "classification":
        problems = split_problems(labels, groups, official, source.result.classes, parts=parts)
    else:  # images that show nothing may be missing, and so may a rare target in some part
        anything = listed(source.result.targets)
        found = [anything if readable[i].shows_target else "" for i in drawn]
        problems = split_problems(found, groups, official, [anything], parts=parts)
    if problems:
        unreadable = sum(bool(item.unreadable) and item.case.split != "test" for item in items)
        also = [f"{unreadable} image(s) cannot be read."] if unreadable else []
        raise storing.with_notes(BadInput(" ".join([*problems, *also])), storing.unreadable_lines(items))
    for i in at:
        readable[i].split = "train"
    splits = assign_splits(labels, groups, official, test=fraction, val=options.val, seed=seed)
    for i, split in zip(drawn, splits, strict=True):
        readable[i].split = split


def _has_truth(item: Item, task_type: TaskType) -> bool:
    if task_type == "classification":
        return True
    return item.case.mask is not None if task_type == "segmentation" else item.case.boxes is not None


def _drop_truth(readable: Sequence[Item], ties: Ties, share: float, seed: int) -> None:
    """Keep boxes and masks of a share of the training cases that have them; validation and test keep all."""
    if share == 1:
        return
    at = [i for i, item in enumerate(readable) if item.split == "train" and item.case.supervision in {"box", "mask"}]
    kept = keep_share([readable[i].case.label for i in at], [ties.roots[i] for i in at], share, seed)
    for i, keep in zip(at, kept, strict=True):
        if not keep:
            readable[i].drop_truth()


def _custodian_audit(
    rows: Sequence[CaseRow], items: Sequence[Item], leaks: _Leaks, result: LayoutResult
) -> CustodianAudit:
    test = [row for row in rows if row.split == "test"]
    counts = Counter(row.label for row in test)
    return CustodianAudit(
        notes=result.notes,
        test_counts={name: counts[name] for name in result.classes},
        test_supervision=dict(Counter(row.supervision for row in test)),
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


def _secret_seed(source: Source, seed: int) -> int:
    """Return the seed in use: without the key nobody can repeat the split of a public dataset."""
    return int.from_bytes(hmac.digest(source.key, f"{source.name}\0split\0{seed}".encode(), "sha256")[:4], "big")


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
