"""Change configuration files so that it can be undone: read, compare, write whole, remember what was there before."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from clinloop.clients import jsonfile
from clinloop.clients.wanted import NAME, Edit
from clinloop.errors import BadInput, NotNow
from clinloop.files import write_atomic


class Change(NamedTuple):
    """A file before and after; None = there is none."""

    path: Path
    before: str | None
    after: str | None
    mode: int

    @property
    def is_needed(self) -> bool:
        """Whether anything differs."""
        return self.before != self.after


class Record(NamedTuple):
    """What was done to a file, kept until it is undone."""

    path: str
    before: str | None
    after: str
    made: list[str]
    """Folders that were made for it, innermost first."""


def prepare(edit: Edit) -> Change:
    """Return the change that an edit makes to its file.

    Raises:
        BadInput: the file, or its folder, is a link, or what it holds cannot be changed without a loss.
    """
    before, mode = _read(edit.path)
    if before is None:
        mode = 0o600 if edit.is_private else 0o644
    return Change(edit.path, before, _told(edit.path, edit.add, before or ""), mode)


def apply(change: Change, records: Path) -> None:
    """Write a change and remember what was there before it.

    Raises:
        NotNow: the file was changed by somebody else since it was read.
    """
    assert change.after is not None
    _check_unchanged(change)
    made = _missing_folders(change.path.parent)
    before = change.before
    if (old := recorded(change.path, records)) is not None:
        made = [*made, *(name for name in old.made if name not in made)]
        before = old.before if change.before == old.after else _subtracted(change.path, old, change.before)
    for folder in reversed(made):
        Path(folder).mkdir(mode=0o700 if change.mode == 0o600 else 0o755, exist_ok=True)
    record = Record(str(change.path), before, change.after, made)
    write_atomic(_record_file(change.path, records), json.dumps(record._asdict()))
    write_atomic(change.path, change.after, mode=change.mode)


def prepare_undo(path: Path, records: Path) -> Change | None:
    """Return the change that undoes what was recorded of a file; None when nothing was, or the file is gone.

    A file that nobody has changed since gets back what it held; from any other, only what clinloop added is removed.

    Raises:
        BadInput: it is a link, or cannot be read.
    """
    old = recorded(path, records)
    if old is None:
        return None
    current, mode = _read(path)
    if current is None:
        forget(path, records)
        return None
    return Change(path, current, old.before if current == old.after else _subtracted(path, old, current), mode)


def undo(change: Change, records: Path) -> None:
    """Write what undoes a change, remove the folders that were made for it where they are empty, and forget it.

    Raises:
        NotNow: the file was changed by somebody else since it was read.
    """
    _check_unchanged(change)
    old = recorded(change.path, records)
    if change.after is None:
        change.path.unlink()
    else:
        write_atomic(change.path, change.after, mode=change.mode)
    for folder in old.made if old else []:
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    forget(change.path, records)


def forget(path: Path, records: Path) -> None:
    """Drop what was recorded of a file."""
    _record_file(path, records).unlink(missing_ok=True)


def recorded(path: Path, records: Path) -> Record | None:
    """Return what was recorded of a file."""
    try:
        return Record(**json.loads(_record_file(path, records).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def diff(change: Change, secret: str = "") -> str:
    """Return the change as a unified diff, without the secret."""
    lines = difflib.unified_diff(
        (change.before or "").splitlines(),
        (change.after or "").splitlines(),
        str(change.path) if change.before is not None else "/dev/null",
        str(change.path) if change.after is not None else "/dev/null",
        lineterm="",
    )
    text = "\n".join(lines)
    return text.replace(secret, "…") if secret else text


def _read(path: Path) -> tuple[str | None, int]:
    for part in (path, path.parent):
        if part.is_symlink():
            raise BadInput(
                f"{part} is a link to {part.readlink()}; add what --print shows there by hand. Nothing was changed."
            )
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise BadInput(f"{path} is no file. Nothing was changed.")
        return path.read_bytes().decode("utf-8"), stat.S_IMODE(mode)
    except FileNotFoundError:
        return None, 0
    except NotADirectoryError as error:
        raise BadInput(f"{path.parent} is no folder. Nothing was changed.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8. Nothing was changed.") from error


def _told(path: Path, make: Callable[[str], str], text: str) -> str:
    try:
        return make(text)
    except BadInput as refusal:
        raise BadInput(f"{path} was left as it is: {refusal}.") from refusal


def _check_unchanged(change: Change) -> None:
    if _read(change.path)[0] != change.before:
        raise NotNow(f"{change.path} was changed by another program just now; run the command again.")


def _missing_folders(folder: Path) -> list[str]:
    found: list[str] = []
    while not folder.exists():
        found.append(str(folder))
        folder = folder.parent
    return found


def _record_file(path: Path, records: Path) -> Path:
    return records / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.json"


def _subtracted(path: Path, old: Record, current: str | None) -> str | None:
    """Return a text without what clinloop had added to it; None when nothing but that was in it."""
    if current is None:
        return None

    def make(text: str) -> str:
        if path.suffix != ".toml":
            value = jsonfile.parse(text)
            _subtract(value, jsonfile.parse(old.before or ""), jsonfile.parse(old.after))
            return jsonfile.dump(value, text) if value or old.before is not None else ""
        import tomlkit

        document = tomlkit.parse(text)
        _subtract(document, tomlkit.parse(old.before or "").unwrap(), tomlkit.parse(old.after).unwrap())
        return tomlkit.dumps(document)

    text = _told(path, make, current)
    return text if text.strip() or old.before is not None else None


def _subtract(current: Any, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Remove in place what `after` has and `before` has not; the server's own entry goes whole, also if it was changed since."""
    for key, added in after.items():
        if key not in current:
            continue
        if key == NAME:
            if NAME in before:
                current[key] = before[key]
            else:
                del current[key]
        elif isinstance(added, dict) and isinstance(current[key], dict):
            _subtract(current[key], before.get(key, {}), added)
            if key not in before and not current[key]:
                del current[key]
        elif isinstance(added, list) and isinstance(current[key], list):
            ours = [item for item in added if item not in before.get(key, [])]
            for item in ours:
                if item in current[key]:
                    current[key].remove(item)
            if key not in before and not current[key]:
                del current[key]
        elif key not in before and current[key] == added:
            del current[key]
