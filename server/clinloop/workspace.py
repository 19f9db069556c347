"""The workspace of a task: a real folder that the agent edits, every change of which is a revision.

The folder may also be changed by the client's own tools: each operation first records what it finds changed there. A file is written
before its revision is recorded, so a process killed in between loses nothing: the next operation records the rest as an outside change.
Symbolic links, hard links, pipes and devices are named, never followed and never part of a revision.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from clinloop.errors import BadInput, NotNow, unknown
from clinloop.patches import apply_patch, parse_patch
from clinloop.revisions import Kind, Revision, RevisionStore, blob_hash
from clinloop.textedits import (
    cap_diff,
    count_changes,
    decode,
    encode,
    file_diff,
    insert_lines,
    line_around,
    numbered,
    replace_text,
    split_lines,
    text_of,
)
from clinloop.workfolder import Changes, FolderState, WorkFolder, check_file_path, check_limits

__all__ = ["Diff", "EditResult", "FileFacts", "Listing", "Match", "Revision", "Search", "View", "Workspace"]

DIFF_CAP = 6_000
VIEW_CAP = 7_000
MAX_MATCHES = 50
_LINE_WIDTH = 400
_MATCH_WIDTH = 160


class FileFacts(NamedTuple):
    """One file of the workspace."""

    path: str
    """Relative path."""
    size: int
    """Bytes."""
    n_lines: int | None
    """Lines of a text, None for a binary file."""
    is_changed: bool
    """It differs from the newest revision: something else than edit_workspace changed it."""


class Listing(NamedTuple):
    """What lies in the workspace."""

    revision: str
    """The newest revision."""
    files: list[FileFacts]
    """Sorted by path."""
    skipped: list[str]
    """`name: reason` of what is no part of any revision."""


class View(NamedTuple):
    """A part of a text file."""

    path: str
    """Relative path."""
    first_line: int
    """Number of the first line shown."""
    last_line: int
    """Number of the last line shown; 0 for an empty file."""
    n_lines: int
    """Lines of the file."""
    text: str
    """The lines with their numbers in front, two blanks between."""
    note: str
    """How to see more; empty when all that was asked for is shown."""


class Match(NamedTuple):
    """One line that holds the pattern."""

    path: str
    """Relative path."""
    line: int
    """Line number."""
    text: str
    """The line, cut to 160 characters."""


class Search(NamedTuple):
    """Where a text occurs."""

    matches: list[Match]
    """At most 50."""
    n_matches: int
    """Matching lines in all."""
    note: str
    """What was searched, and what to do when nothing or too much was found."""


class EditResult(NamedTuple):
    """What an edit did."""

    revision: str
    """The revision that it made."""
    summary: str
    """One line."""
    diff: str
    """Unified diff, cut at about 6,000 characters."""
    files_changed: list[str]
    """Paths."""
    outside_revision: str
    """The revision that recorded a change made outside just before, or empty."""


class Diff(NamedTuple):
    """The difference between two revisions."""

    since: str
    """The older side."""
    until: str
    """The newer side."""
    text: str
    """Unified diff, cut at about 6,000 characters; empty = no difference."""
    files_changed: list[str]
    """Paths."""


class Workspace:
    """The workspace in `folder` with its revisions in `store`, a folder outside of it; several processes may use it at once.

    Every method raises BadInput for a path that is not allowed or is no regular file, Unknown for a file or revision that does not
    exist, and NotNow when the workspace is locked for long, over its limits, or the disk is full.
    """

    def __init__(self, folder: Path, store: Path) -> None:
        self._work = WorkFolder(folder)
        self._store = RevisionStore(store)

    def create_from(self, template: str, sources: Mapping[str, Path]) -> Revision:
        """Fill the workspace with copies of files, by their path in it, as revision r1; it may be repeated, also after a crash half-way."""
        with self._store.lock():
            if self._store.newest() is not None:
                return self._store.find("r1")
            files = {name: source.read_bytes() for name, source in sources.items()}
            self._work.write(files)
            return self._store.add(
                files, parent=None, kind="initial", summary=f"initial workspace from template {template}"
            )

    # Looking

    def listing(self) -> Listing:
        """Return the files, and what is skipped."""
        state, newest = self._work.scan(), self._store.newest()
        blobs = self._store.blobs(newest.name) if newest else {}
        files: list[FileFacts] = []
        for path, content in state.files.items():
            text = decode(content)
            n_lines = None if text is None else len(split_lines(text))
            files.append(FileFacts(path, len(content), n_lines, blobs.get(path) != blob_hash(content)))
        skipped = [*state.skipped, state.overflow] if state.overflow else state.skipped
        return Listing(newest.name if newest else "", files, skipped)

    def view(self, path: str, *, first_line: int = 1, last_line: int | None = None) -> View:
        """Return lines of a text file with their numbers, as many as fit."""
        path = check_file_path(path)
        lines = split_lines(text_of(path, self._work.read(path)))
        if not 1 <= first_line <= max(1, len(lines)):
            raise BadInput(f"first_line is {first_line}, but {path} has lines 1 to {len(lines)}.")
        if last_line is not None and last_line < first_line:
            raise BadInput(f"last_line {last_line} lies before first_line {first_line}.")
        asked = lines[first_line - 1 : last_line]
        shown, used = list[str](), 0
        for number, line in enumerate(asked, start=first_line):
            shown.append(numbered([line], number, width=_LINE_WIDTH))
            used += len(shown[-1]) + 1
            if used > VIEW_CAP and len(shown) > 1:
                shown.pop()
                break
        last = first_line + len(shown) - 1
        end = len(lines) if last_line is None else min(last_line, len(lines))
        note = f"Lines {last + 1} to {end} are not shown: view with first_line={last + 1}." if last < end else ""
        return View(path, first_line, last, len(lines), "\n".join(shown), note)

    def search(self, pattern: str, *, glob: str = "*", ignore_case: bool = False) -> Search:
        """Return the lines that hold `pattern`, a plain text within one line (no regular expression), in files whose path fits `glob`."""
        if not pattern or "\n" in pattern or len(pattern) > 500 or len(glob) > 200:
            raise BadInput(
                "The pattern is a plain text of 1 to 500 characters within one line, the glob has at most 200 characters."
            )
        wanted = pattern.casefold() if ignore_case else pattern
        matches, n_files = list[Match](), 0
        for path, content in self._work.scan().files.items():
            text = decode(content)
            if text is None or not (
                fnmatch.fnmatchcase(path, glob) or fnmatch.fnmatchcase(path.rpartition("/")[2], glob)
            ):
                continue
            n_files += 1
            for number, line in enumerate(split_lines(text), start=1):
                if wanted in (line.casefold() if ignore_case else line):
                    matches.append(Match(path, number, line_around(line, pattern, width=_MATCH_WIDTH)))
        note = f"Plain text searched in {n_files} text files that fit {glob[:80]!r}."
        if len(matches) > MAX_MATCHES:
            note += f" {len(matches) - MAX_MATCHES:,} more lines match: give a longer pattern or a narrower glob."
        elif not matches:
            note += " Nothing found: patterns are no regular expressions, and case counts unless ignore_case=true."
        return Search(matches[:MAX_MATCHES], len(matches), note)

    def diff(self, *, since: str = "r1", until: str = "", path: str = "") -> Diff:
        """Return what changed between two revisions (default: from the initial to the present state), for one file or for all."""
        old = self._store.find(since)
        new = self._store.find(until) if until else self.snapshot()
        sides = self._sides(old.name, new.name)
        if path:
            path = check_file_path(path)
            if path not in sides and not any(path in self._store.blobs(side.name) for side in (old, new)):
                raise unknown("file", path, self._store.blobs(new.name))
            sides = {path: sides[path]} if path in sides else {}
        text = "".join(file_diff(name, *pair) for name, pair in sides.items())
        return Diff(old.name, new.name, cap_diff(text, DIFF_CAP), list(sides))

    def diff_summary(self, since: str, until: str) -> str:
        """Return what changed between two revisions as `train.py +12 -3; …`, at most 200 characters."""
        return "; ".join(count_changes(name, *pair) for name, pair in self._sides(since, until).items())[:200]

    def log(self, *, limit: int = 20) -> list[Revision]:
        """Return the newest revisions, newest first."""
        return self._store.log(limit)

    def revision(self, name: str) -> Revision:
        """Return a revision by its name."""
        return self._store.find(name)

    # Editing

    def create(self, path: str, text: str, *, overwrite: bool = False) -> EditResult:
        """Create a text file; an existing one is only replaced with `overwrite`."""
        path, content = check_file_path(path), encode(text)

        def change(files: Mapping[str, bytes]) -> Changes:
            if path in files and not overwrite:
                raise BadInput(
                    f"{path} exists: use operation 'replace' to change it, or set overwrite=true to write it anew."
                )
            return {path: content}

        return self._edit(f"create {path}", change)

    def replace(self, path: str, old: str, new: str, *, replace_all: bool = False) -> EditResult:
        """Replace the only place (or all places) where `old` stands; line ends are kept."""
        path, _ = check_file_path(path), encode(new)

        def change(files: Mapping[str, bytes]) -> Changes:
            text = text_of(path, self._content(files, path))
            return {path: replace_text(text, old, new, replace_all=replace_all).encode()}

        return self._edit(f"replace in {path}", change)

    def insert(self, path: str, line: int, text: str) -> EditResult:
        """Insert text as whole lines after line number `line`; 0 inserts at the top."""
        path, _ = check_file_path(path), encode(text)

        def change(files: Mapping[str, bytes]) -> Changes:
            return {path: insert_lines(text_of(path, self._content(files, path)), line, text).encode()}

        return self._edit(f"insert in {path} after line {line}", change)

    def patch(self, text: str) -> EditResult:
        """Apply a unified diff of one or more files, all of it or nothing."""
        encode(text)
        patches = parse_patch(text)
        notes: list[str] = []

        def change(files: Mapping[str, bytes]) -> Changes:
            changes: dict[str, bytes | None] = {}
            for item in patches:
                path = check_file_path(item.path)
                old = text_of(path, files[path]) if path in files else None
                new, moved = apply_patch(item, old)
                changes[path] = None if new is None else new.encode()
                notes.extend(moved)
            return changes

        paths = [item.path for item in patches]
        result = self._edit(f"patch {', '.join(paths[:5])}{', …' if len(paths) > 5 else ''}", change)
        return result._replace(summary="; ".join([result.summary, *notes[:5]])) if notes else result

    def delete(self, path: str) -> EditResult:
        """Delete a file."""
        path = check_file_path(path)

        def change(files: Mapping[str, bytes]) -> Changes:
            if path not in files:
                self._work.read(path)  # says why it is not among the files
            return {path: None}

        return self._edit(f"delete {path}", change)

    def restore(self, revision: str, *, path: str = "") -> EditResult:
        """Make a new revision with the content of an old one, for one file or for the whole workspace."""
        old = self._store.files(self._store.find(revision).name)
        path = check_file_path(path) if path else ""
        if path and path not in old:
            raise unknown(f"file in revision {revision}", path, old)

        def change(files: Mapping[str, bytes]) -> Changes:
            return {path: old[path]} if path else {name: old.get(name) for name in files.keys() | old.keys()}

        return self._edit(f"restore {path or 'all files'} from {revision}", change, kind="restore")

    # Revisions for runs

    def snapshot(self) -> Revision:
        """Return the revision of the present state, recorded now if something outside changed it; `skipped` says what it lacks."""
        with self._store.lock():
            state = self._work.scan()
            newest, _ = self._record_outside(state)
        return newest._replace(skipped=tuple(state.skipped))

    def export(self, revision: str, target: Path) -> None:
        """Write the files of a revision into a new folder of ours (0644, folders 0755, constant times) that appears in one step.

        Raises:
            FileExistsError: the target exists.
        """
        self._store.export(revision, target)

    def tree_digest(self, revision: str) -> str:
        """Return the SHA-256 over the sorted lines `path NUL sha256(content)` of a revision's files."""
        return self._store.tree_digest(revision)

    # Below the surface

    def _edit(
        self, summary: str, change: Callable[[Mapping[str, bytes]], Changes], *, kind: Kind = "edit"
    ) -> EditResult:
        """Record outside changes, work out the edit, write its files, record it; files go back if one cannot be written."""
        with self._store.lock():
            state = self._work.scan()
            newest, is_outside = self._record_outside(state)
            changes = {
                path: content for path, content in change(state.files).items() if content != state.files.get(path)
            }
            if not changes:
                raise BadInput("The edit changes nothing: the workspace is already so.")
            after = {path: content for path, content in (state.files | changes).items() if content is not None}
            check_limits(after)
            self._work.check_absent(changes, state.files)
            try:
                self._work.write(changes)
                made = self._store.add(after, parent=newest, kind=kind, summary=summary)
            except BaseException as error:
                for path in sorted(changes, key=lambda name: name in state.files):  # new files make room first
                    with contextlib.suppress(OSError, BadInput):
                        self._work.write({path: state.files.get(path)})
                if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                    raise NotNow(
                        "The server's disk is full: nothing was changed. Tell the custodian, then repeat the edit."
                    ) from error
                raise
        diff = "".join(file_diff(path, state.files.get(path), changes[path]) for path in sorted(changes))
        return EditResult(
            made.name, summary, cap_diff(diff, DIFF_CAP), sorted(changes), newest.name if is_outside else ""
        )

    def _record_outside(self, state: FolderState) -> tuple[Revision, bool]:
        """Return the revision of the state, and whether it had to be made; the caller holds the lock."""
        if state.overflow:
            raise NotNow(state.overflow)
        newest = self._store.newest()
        blobs = self._store.blobs(newest.name) if newest else {}
        present = {path: blob_hash(content) for path, content in state.files.items()}
        if newest is not None and blobs == present:
            return newest, False
        changed = sorted(path for path in blobs.keys() | present.keys() if blobs.get(path) != present.get(path))
        listed = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        summary = f"changed outside edit_workspace: {listed}"
        return self._store.add(state.files, parent=newest, kind="outside", summary=summary), True

    def _sides(self, since: str, until: str) -> dict[str, tuple[bytes | None, bytes | None]]:
        """Return path -> (old, new) content of the files that differ between two revisions, sorted by path."""
        before, after = self._store.blobs(since), self._store.blobs(until)
        changed = [path for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path)]
        read = self._store.read
        return {
            path: (read(before[path]) if path in before else None, read(after[path]) if path in after else None)
            for path in changed
        }

    def _content(self, files: Mapping[str, bytes], path: str) -> bytes:
        return files[path] if path in files else self._work.read(path)
