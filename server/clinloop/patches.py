"""Unified diffs as agents write them: parsed and applied strictly, never guessed.

A hunk applies where its old lines stand: at the line its header says, else at the only other place that has them. Line ends of the
file are kept, whatever those of the patch are.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from clinloop.errors import BadInput
from clinloop.filenames import check_path
from clinloop.textedits import line_end, split_lines

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_NO_NEWLINE = "\\ No newline"
_REFUSED = {
    "*** Begin Patch": "is in the apply_patch format",
    "GIT binary patch": "holds a binary file",
    "Binary files ": "holds a binary file",
    "rename from ": "renames a file",
    "copy from ": "copies a file",
}
_FORM = "give a unified diff ('--- a/train.py', '+++ b/train.py', '@@ -1,3 +1,4 @@', then lines with ' ', '-' or '+' in front)"


class Line(NamedTuple):
    """One line of a hunk."""

    tag: str
    """' ' kept, '-' removed, '+' added."""
    text: str
    """Without its line end."""
    has_end: bool
    """False when the file ends here without a newline."""


class Hunk(NamedTuple):
    """One changed place."""

    start: int
    """Line number in the old file; the line before the place if no old line is named."""
    lines: list[Line]
    """Kept, removed and added lines."""


class FilePatch(NamedTuple):
    """The changes of one file."""

    path: str
    """Relative path."""
    is_new: bool
    """The file is created."""
    is_deleted: bool
    """The file is deleted."""
    hunks: list[Hunk]
    """In the order of the file."""


def parse_patch(text: str) -> list[FilePatch]:
    """Parse a unified diff of one or more files.

    Raises:
        BadInput: another format, no file, a path that is not allowed, or a hunk whose counts do not fit its lines.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    patches: list[FilePatch] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        for start, problem in _REFUSED.items():
            if line.startswith(start):
                raise BadInput(
                    f"Line {at + 1} of the patch {problem}: {_FORM}, or use operations 'replace', 'create' and 'delete'."
                )
        if line.startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            patches.append(_parse_header(line[4:], lines[at + 1][4:]))
            at += 2
        elif line.startswith("@@"):
            if not patches:
                raise BadInput(f"Line {at + 1} of the patch begins a hunk before any file: {_FORM}.")
            where = f"hunk {len(patches[-1].hunks) + 1} of {patches[-1].path}"
            hunk, at = _parse_hunk(lines, at, where)
            patches[-1].hunks.append(hunk)
        elif patches and line[:1] in {"+", "-", " "} and line.strip():
            where = f"hunk {len(patches[-1].hunks)} of {patches[-1].path}"
            raise BadInput(
                f"Line {at + 1} of the patch lies beyond the lines that the header of {where} counts: correct its counts."
            )
        else:
            at += 1
    for patch in patches:
        if not patch.hunks and not (patch.is_new or patch.is_deleted):
            raise BadInput(f"The patch of {patch.path} has no hunk: {_FORM}.")
    paths = [patch.path for patch in patches]
    if not paths:
        raise BadInput(f"The patch names no file: {_FORM}.")
    if repeated := {path for path in paths if paths.count(path) > 1}:
        raise BadInput(f"The patch names {sorted(repeated)[0]} twice: put all its hunks under one header.")
    return patches


def apply_patch(patch: FilePatch, text: str | None) -> tuple[str | None, list[str]]:
    """Return the patched text (None = the file is deleted) and a note for each hunk that applied at another line than it said.

    Raises:
        BadInput: the file does not exist, exists although it is created, or a hunk does not apply.
    """
    if patch.is_new and text is not None:
        raise BadInput(
            f"{patch.path} exists, but the patch creates it: name it in '--- a/{patch.path}' instead of '--- /dev/null'."
        )
    if not patch.is_new and text is None:
        raise BadInput(f"{patch.path} does not exist: to create it, begin with '--- /dev/null'.")
    old, end = split_lines(text or ""), line_end(text or "")
    bare = [line.removesuffix("\n").removesuffix("\r") for line in old]
    new, notes, done = list[str](), list[str](), 0
    for number, hunk in enumerate(patch.hunks, start=1):
        wanted = [line.text for line in hunk.lines if line.tag != "+"]
        said = hunk.start - 1 if wanted else hunk.start
        at = _find(bare, wanted, said, done, f"Hunk {number} of {patch.path}")
        if at != said:
            notes.append(f"hunk {number} of {patch.path} applied at line {at + 1}, not {said + 1}")
        new += old[done:at]
        for line in hunk.lines:
            if line.tag == "+":
                new.append(line.text + (end if line.has_end else ""))
                continue
            if line.tag == " ":
                new.append(old[at])
            at += 1
        done = at
    new += old[done:]
    new[:-1] = [line if line.endswith("\n") else line + end for line in new[:-1]]
    if not patch.is_deleted:
        return "".join(new), notes
    if new and patch.hunks:
        raise BadInput(
            f"The patch deletes {patch.path} but leaves {len(new)} of its lines: remove them all, or use operation 'delete'."
        )
    return None, notes


def _parse_header(old: str, new: str) -> FilePatch:
    old, new = old.partition("\t")[0].strip(), new.partition("\t")[0].strip()
    nothing = "/dev/null"
    if old == new == nothing:
        raise BadInput(f"The patch has '/dev/null' on both sides: {_FORM}.")
    if (old == nothing or old.startswith("a/")) and (new == nothing or new.startswith("b/")):
        old, new = (name if name == nothing else name[2:] for name in (old, new))
    if nothing not in {old, new} and old != new:
        raise BadInput(
            f"The patch renames {old[:80]!r} to {new[:80]!r}, which is not supported: create the new file and delete the old one."
        )
    return FilePatch(check_path(old if new == nothing else new), old == nothing, new == nothing, [])


def _parse_hunk(lines: list[str], at: int, where: str) -> tuple[Hunk, int]:
    """Read the hunk whose header is line `at`; return it and the index of the line after it."""
    header = _HUNK.match(lines[at])
    if header is None:
        raise BadInput(f"The header of {where} is {lines[at][:60]!r}, not of the form '@@ -12,3 +12,4 @@'.")
    start, n_old, _, n_new = (1 if number is None else int(number) for number in header.groups())
    left = {"-": n_old, "+": n_new}
    found: list[Line] = []
    at += 1
    while left["-"] or left["+"]:
        line = lines[at] if at < len(lines) else None
        tag = " " if line == "" else (line or "")[:1]  # editors strip the blank of an empty context line
        if line is not None and line.startswith(_NO_NEWLINE) and found:
            found[-1] = found[-1]._replace(has_end=False)
            at += 1
            continue
        sides = {" ": "-+", "-": "-", "+": "+"}.get(tag, "")
        if not sides or not all(left[side] for side in sides):
            n_found = {side: total - left[side] for side, total in (("-", n_old), ("+", n_new))}
            raise BadInput(
                f"The header of {where} counts {n_old} old and {n_new} new lines, but {n_found['-']} old and {n_found['+']} new follow"
                f" before line {at + 1} of the patch: correct the counts, and put ' ', '-' or '+' in front of every line."
            )
        for side in sides:
            left[side] -= 1
        found.append(Line(tag, (line or "")[1:], True))
        at += 1
    if at < len(lines) and lines[at].startswith(_NO_NEWLINE) and found:
        found[-1] = found[-1]._replace(has_end=False)
        at += 1
    return Hunk(start, found), at


def _find(bare: list[str], wanted: list[str], said: int, done: int, where: str) -> int:
    """Return the index at which all wanted lines stand, not before `done`."""
    if done <= said <= len(bare) and bare[said : said + len(wanted)] == wanted:
        return said
    if not wanted:
        raise BadInput(
            f"{where} inserts at line {said}, but the file has {len(bare)} lines or an earlier hunk ends behind it."
        )
    starts = range(done, len(bare) - len(wanted) + 1)
    places = [at for at in starts if bare[at] == wanted[0] and bare[at : at + len(wanted)] == wanted]
    if len(places) == 1:
        return places[0]
    if places:
        listed = ", ".join(str(place + 1) for place in places[:20])
        raise BadInput(
            f"{where} does not stand at line {said + 1}, but at lines {listed}: correct its line number or give more context."
        )
    for index, line in enumerate(wanted):
        there = bare[said + index] if 0 <= said + index < len(bare) else None
        if there != line:
            found = "the file has ended" if there is None else f"the file has {there[:120]!r}"
            raise BadInput(
                f"{where} does not apply: at line {said + index + 1} it expects {line[:120]!r}, but {found}. Nothing was changed."
            )
    raise BadInput(f"{where} overlaps the hunk before it: join them. Nothing was changed.")
