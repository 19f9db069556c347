"""The folder of a workspace as it is on disk now: read as a whole, written file by file, within its limits."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from clinloop.beneath import Beneath
from clinloop.errors import BadInput, unknown
from clinloop.filenames import check_path, shown_name

FILE_CAP = 1 << 20
TOTAL_CAP = 20 << 20
MAX_FILES = 200
_MAX_ENTRIES = 5_000
_IGNORED = frozenset(
    {".git", ".hg", ".svn", "__pycache__", ".venv", "venv", "node_modules", ".ipynb_checkpoints", ".DS_Store"}
    | {".pytest_cache", ".ruff_cache", ".mypy_cache"}
)
"""Names that tools leave in a folder; never part of a revision."""

Changes = Mapping[str, bytes | None]
"""Path -> new content; None deletes the file."""


class FolderState(NamedTuple):
    """What a folder holds at one moment."""

    files: dict[str, bytes]
    """Path -> content of everything that a revision may hold, sorted by path."""
    skipped: list[str]
    """`name: reason` of everything else."""
    overflow: str
    """Why the workspace is too large to be recorded, or empty."""


class WorkFolder:
    """One workspace folder; it is only reached through `Beneath`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def scan(self) -> FolderState:
        """Read the whole workspace as it is now; a folder that was removed counts as empty."""
        with self._open() as root:
            listing = root.entries(max_entries=_MAX_ENTRIES, ignore=_IGNORED)
            files, skipped, total, overflow = dict[str, bytes](), list(listing.skipped), 0, ""
            if not listing.is_complete:
                overflow = f"The workspace holds more than {_MAX_ENTRIES:,} names: remove all but {MAX_FILES} files with your own tools."
            for path, size in listing.files:
                if size > FILE_CAP:
                    skipped.append(f"{shown_name(path)}: larger than {FILE_CAP:,} bytes")
                elif path.rpartition("/")[2].startswith(".clinloop-"):
                    skipped.append(f"{shown_name(path)}: left by an interrupted write")
                elif len(files) >= MAX_FILES or total + size > TOTAL_CAP:
                    overflow = overflow or _too_large(len(listing.files), sum(entry.size for entry in listing.files))
                else:
                    try:
                        files[path] = root.read(path, cap=FILE_CAP)
                    except BadInput as refusal:  # changed or removed meanwhile, or not readable
                        skipped.append(f"{shown_name(path)}: {refusal}")
                    total += size
        return FolderState(files, skipped, overflow)

    def write(self, changes: Changes) -> None:
        """Delete files, then write files, each in one step; raises at the first that cannot be."""
        with self._open() as root:
            for path, content in sorted(changes.items(), key=lambda item: item[1] is not None):
                if content is not None:
                    root.write(path, content)
                elif root.exists(path):
                    root.delete(path)

    def check_absent(self, changes: Changes, files: Mapping[str, bytes]) -> None:
        """Refuse to change a path at which something lies that is not among the files: it could not be brought back."""
        folders = {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}
        with self._open() as root:
            for path in changes.keys() - files.keys() - folders:
                if root.exists(path):
                    raise BadInput(
                        f"{path} exists, but is no part of the revisions (operation 'list' says why): choose another path,"
                        " or remove it with your own tools."
                    )

    def read(self, path: str) -> bytes:
        """Return the content of one file.

        Raises:
            Unknown: nothing has this name.
            BadInput: it is no regular file, or larger than FILE_CAP.
        """
        with self._open() as root:
            if not root.exists(path):
                known = root.entries(max_entries=_MAX_ENTRIES, ignore=_IGNORED).files
                raise unknown("file", path, [entry.path for entry in known])
            return root.read(path, cap=FILE_CAP)

    def _open(self) -> Beneath:
        with contextlib.suppress(FileExistsError):  # a link in its place is refused by Beneath
            self._folder.mkdir(exist_ok=True, mode=0o700)
        return Beneath(self._folder)


def check_file_path(path: str) -> str:
    """Return the plain form of a path that a revision may hold."""
    path = check_path(path)
    for part in path.split("/"):
        if part in _IGNORED or part.lower() == ".git" or part.startswith(".clinloop-"):
            raise BadInput(
                f"Path {shown_name(path)!r} is never part of a revision because of {part[:40]!r}: choose another name."
            )
    return path


def check_limits(files: Mapping[str, bytes]) -> None:
    """Refuse a workspace that would be over its limits."""
    for path, content in files.items():
        if len(content) > FILE_CAP:
            raise BadInput(
                f"{path} would have {len(content):,} bytes; a file of the workspace has at most {FILE_CAP:,}."
            )
    total = sum(len(content) for content in files.values())
    if len(files) > MAX_FILES or total > TOTAL_CAP:
        raise BadInput(_too_large(len(files), total))


def _too_large(n_files: int, n_bytes: int) -> str:
    return f"The workspace would hold {n_files:,} files of {n_bytes:,} bytes; it holds at most {MAX_FILES} of {TOTAL_CAP:,}: remove some."
