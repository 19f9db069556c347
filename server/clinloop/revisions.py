"""Revisions of a workspace: a bare git store of ours that lies outside of it and is written in this process.

No git program runs, so no hook, filter, attribute or configuration of the workspace or of the user is ever read. Revision r7 is the tag
`refs/tags/r7`: a new tag is made by link(2), which fails when it exists, so two writers can never both make the same revision. Objects
and tags are written here and not by dulwich, whose `.lock` files would outlive a killed server; a revision is on the disk before it is told.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from clinloop.errors import NotNow, Unknown, unknown
from clinloop.files import sync_folder, write_all_atomic, write_atomic

if TYPE_CHECKING:
    from dulwich.object_store import DiskObjectStore
    from dulwich.objects import Commit, ObjectID, ShaFile, Tree

LOCK_WAIT_S = 10.0
_AUTHOR = b"clinloop <clinloop@localhost>"
_EXPORT_TIME = 315_532_800
"""Modification time of every exported file: 1980-01-01, the oldest that a zip archive can hold."""
_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"

Kind = Literal["initial", "edit", "restore", "outside"]
"""How a revision came about; "outside" = changed on disk by something else than edit_workspace."""


class Revision(NamedTuple):
    """One recorded state of the workspace."""

    name: str
    """r1, r2, …; r1 is the initial workspace."""
    commit: str
    """Hash of the git commit, 40 hex digits."""
    kind: Kind
    """How it came about."""
    summary: str
    """One line on what changed."""
    created_at: str
    """UTC, ISO-8601."""
    skipped: tuple[str, ...] = ()
    """`name: reason` of what lay in the workspace and is not part of it; only filled by a snapshot."""

    @property
    def number(self) -> int:
        """The running number."""
        return int(self.name[1:])


def tree_sha256(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 over the lines `path NUL sha256(content)`, sorted by path."""
    digest = hashlib.sha256()
    for path, content in sorted(files.items()):
        digest.update(f"{path}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def digest_of(exported: Path) -> str:
    """Return the tree digest of what `export` wrote, from the files as they are now."""
    files = (path for path in exported.rglob("*") if not path.is_dir())
    return tree_sha256({path.relative_to(exported).as_posix(): path.read_bytes() for path in files})


class RevisionStore:
    """The store of one workspace; several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._objects: DiskObjectStore | None = None

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Hold the workspace's lock, making the store if there is none; a killed holder releases it.

        Raises:
            NotNow: another process holds it for more than LOCK_WAIT_S seconds.
        """
        for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
            (self._folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / "workspace.lock").open("w") as lock:
            deadline = time.monotonic() + LOCK_WAIT_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise NotNow(
                            "The workspace is being changed by another process: try again in a few seconds."
                        ) from None
                    time.sleep(0.005)
            if not (self._folder / "HEAD").exists():
                write_atomic(self._folder / "config", _CONFIG)
                write_atomic(self._folder / "HEAD", "ref: refs/heads/main\n")
            yield

    def newest(self) -> Revision | None:
        """Return the newest revision, None before the first."""
        numbers = self._numbers()
        return self.find(f"r{max(numbers)}") if numbers else None

    def find(self, name: str) -> Revision:
        """Return a revision by its name.

        Raises:
            Unknown: there is none of that name.
        """
        commit = self._commit(name)
        summary, _, rest = commit.message.decode().partition("\n\n")
        kind = cast("Kind", rest.removeprefix("Kind: ").strip())
        created_at = datetime.fromtimestamp(commit.commit_time, UTC).isoformat()
        return Revision(name, commit.id.decode(), kind, summary, created_at)

    def log(self, limit: int) -> list[Revision]:
        """Return the newest revisions, newest first."""
        return [self.find(f"r{number}") for number in sorted(self._numbers(), reverse=True)[:limit]]

    def blobs(self, name: str) -> dict[str, str]:
        """Return path -> blob hash of a revision's files, sorted by path."""
        from dulwich.object_store import iter_tree_contents

        store = self._open()
        entries = iter_tree_contents(store, self._commit(name).tree)
        return dict(sorted((entry.path.decode(), entry.sha.decode()) for entry in entries))

    def read(self, blob: str) -> bytes:
        """Return the content of a blob."""
        return self._open()[cast("ObjectID", blob.encode())].as_raw_string()

    def files(self, name: str) -> dict[str, bytes]:
        """Return path -> content of a revision."""
        return {path: self.read(blob) for path, blob in self.blobs(name).items()}

    def export(self, revision: str, target: Path) -> None:
        """Write the files of a revision into a new folder of ours that appears in one step; FileExistsError if it exists."""
        if target.exists():
            raise FileExistsError(target)
        building = target.with_name(f".{target.name}-{secrets.token_hex(6)}")
        building.mkdir(mode=0o755)
        for path, content in self.files(revision).items():
            file = building / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(0o644)
        for item in [building, *building.rglob("*")]:
            if item.is_dir():
                item.chmod(0o755)
            os.utime(item, (_EXPORT_TIME, _EXPORT_TIME))
        building.rename(target)

    def tree_digest(self, revision: str) -> str:
        """Return the SHA-256 over the sorted lines `path NUL sha256(content)` of a revision's files."""
        return tree_sha256(self.files(revision))

    def add(self, files: Mapping[str, bytes], *, parent: Revision | None, kind: Kind, summary: str) -> Revision:
        """Record all files of the workspace as the revision after `parent`; the caller holds the lock.

        Raises:
            NotNow: somebody without the lock made that revision first.
        """
        from dulwich.objects import Blob, Commit

        items: list[ShaFile] = [Blob.from_string(content) for content in files.values()]
        tree = _make_tree({path: item.id for path, item in zip(files, items, strict=True)}, items)
        commit = Commit()
        commit.tree = tree.id
        commit.parents = [cast("ObjectID", parent.commit.encode())] if parent else []
        commit.author = commit.committer = _AUTHOR
        commit.author_time = commit.commit_time = int(time.time())
        commit.author_timezone = commit.commit_timezone = 0
        commit.message = f"{summary}\n\nKind: {kind}\n".encode()
        name = f"r{parent.number + 1 if parent else 1}"
        draft = self._folder / f"tag-{secrets.token_hex(6)}"
        drafts = {draft: commit.id + b"\n"}
        for item in [*items, tree, commit]:
            path = self._folder / "objects" / item.id[:2].decode() / item.id[2:].decode()
            if not path.exists():
                drafts[path] = item.as_legacy_object()
        write_all_atomic(drafts)
        try:
            os.link(draft, self._tag(name))
            sync_folder(self._tag(name).parent)
        except FileExistsError:
            raise NotNow(
                f"Revision {name} was recorded by somebody else meanwhile: look at the workspace and repeat the edit."
            ) from None
        finally:
            draft.unlink()
        return self.find(name)

    def _numbers(self) -> list[int]:
        try:
            names = [path.name for path in (self._folder / "refs" / "tags").iterdir()]
        except FileNotFoundError:
            return []
        return [int(name[1:]) for name in names if re.fullmatch(r"r[1-9][0-9]*", name)]

    def _tag(self, name: str) -> Path:
        return self._folder / "refs" / "tags" / name

    def _commit(self, name: str) -> Commit:
        if not re.fullmatch(r"r[1-9][0-9]{0,8}", name):
            raise Unknown(
                f"Unknown revision {name[:40]!r}: a revision is called r1, r2, …; operation 'log' lists them."
            )
        try:
            commit = self._tag(name).read_bytes().strip()
        except FileNotFoundError:
            known = [f"r{number}" for number in sorted(self._numbers(), reverse=True)]
            raise unknown("revision", name, known) from None
        return cast("Commit", self._open()[cast("ObjectID", commit)])

    def _open(self) -> DiskObjectStore:
        if self._objects is None:
            from dulwich.object_store import DiskObjectStore

            self._objects = DiskObjectStore(self._folder / "objects")
        return self._objects


def _make_tree(blobs: Mapping[str, ObjectID], items: list[ShaFile]) -> Tree:
    """Return the tree of path -> blob, its sub-trees appended to `items`."""
    from dulwich.objects import Tree

    tree, folders = Tree(), dict[str, dict[str, "ObjectID"]]()
    for path, blob in blobs.items():
        first, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(first, {})[rest] = blob
        else:
            tree.add(first.encode(), 0o100644, blob)
    for name, inner in folders.items():
        items.append(_make_tree(inner, items))
        tree.add(name.encode(), 0o040000, items[-1].id)
    return tree


def blob_hash(content: bytes) -> str:
    """Return the hash that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
