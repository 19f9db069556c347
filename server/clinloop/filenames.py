"""Names of files that somebody else chose: which are allowed, and how they are shown."""

from __future__ import annotations

import unicodedata

from clinloop.errors import BadInput
from clinloop.untrusted import clean

PATH_BYTES = 1024
COMPONENT_BYTES = 255
DEPTH = 32


def check_path(rel: str) -> str:
    """Return a relative path in its plain form (`./a//b` becomes `a/b`).

    Raises:
        BadInput: empty, absolute, `..`, `~`, backslash, control or invisible characters, too long or too deep.
    """
    shown = shown_name(rel)
    if not rel.strip():
        raise BadInput("The path is empty: give one relative to the folder, such as 'train.py'.")
    if rel.startswith("/"):
        raise BadInput(f"Path {shown!r} is absolute: give one relative to the folder, such as 'train.py'.")
    if rel.startswith("~"):
        raise BadInput(
            f"Path {shown!r} starts with '~', which is not expanded: give one relative to the folder, such as 'train.py'."
        )
    parts = [part for part in rel.split("/") if part not in {"", "."}]
    if not parts:
        raise BadInput(f"Path {shown!r} names the folder itself: name a file in it, such as 'train.py'.")
    for part in parts:
        if problem := name_problem(part):
            raise BadInput(f"Path {shown!r} {problem}: give one relative to the folder, such as 'train.py'.")
    plain = "/".join(parts)
    if len(plain.encode()) > PATH_BYTES or len(parts) > DEPTH:
        raise BadInput(f"Path {shown!r} is too long: at most {PATH_BYTES} bytes and {DEPTH} levels.")
    return plain


def shown_name(name: str) -> str:
    """Return a file name that somebody else chose, fit to be shown: one line, at most 120 characters."""
    printable = name.encode("utf-8", "backslashreplace").decode()
    return clean(printable.replace("\n", "?").replace("\r", "?"), cap=120)


def name_problem(part: str) -> str | None:
    """Say why no file of a workspace or of an /out may have this name, or None."""
    if part == "..":
        return "contains '..'"
    if "\\" in part:
        return "contains a backslash"
    # Cc control, Cf invisible and bidi, Cs bytes that are no UTF-8, Zl and Zp line and paragraph separators.
    if any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for character in part):
        return "contains control or invisible characters"
    if len(part.encode()) > COMPONENT_BYTES:
        return f"has a name of more than {COMPONENT_BYTES} bytes"
    return None
