"""Groups that the names of files tell: a patient's number, the expression that the custodian gives, the original of exported copies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from clinloop.errors import BadInput

_PERSON = re.compile(r"(?:^|[^a-z])(?:patient|subject|sub|pat|person|study)[-_ ]?(\d+)", re.IGNORECASE)
_EXPORTED = re.compile(r"^(.+?)(?:_(?:jpe?g|png|bmp|tiff?|webp))?\.rf\.[0-9a-zA-Z]{8,}$")
"""Roboflow writes several augmented copies of an image as `<name>_jpg.rf.<hash>.jpg`."""


def by_expression(names: Sequence[str], group_by: str) -> list[str | None]:
    """Return what the one pair of parentheses of a regular expression finds in each file name.

    Raises:
        BadInput: it is not such an expression, or it matches no name.
    """
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise BadInput(
            f"group_by {group_by!r} is not a regular expression ({error}); for example ^([0-9]+)_ groups by a leading number."
        ) from error
    if pattern.groups != 1:
        raise BadInput(
            f"group_by {group_by!r} needs exactly one pair of parentheses around the group, for example ^([0-9]+)_."
        )
    found = [match.group(1) if (match := pattern.search(name)) else None for name in names]
    if not any(found):
        example = f"; it is searched in names such as {names[0]!r}" if names else ""
        raise BadInput(f"group_by {group_by!r} matches no file name{example}.")
    return found


def by_person(names: Sequence[str]) -> list[str | None] | None:
    """Return the patient's number in each name (`patient12_…`, `sub-03_…`), None if most names have none."""
    persons = [match.group(1) if (match := _PERSON.search(name)) else None for name in names]
    return persons if sum(person is not None for person in persons) * 2 > len(persons) else None


def by_path(sources: Sequence[str], group_by: str | None) -> tuple[str, list[str | None]]:
    """Return the kind of group and the raw group of each image, by its name, else by the folders above it.

    `group_by` is a regular expression on the file name, "none", or None for what names usually tell.
    """
    names = [PurePosixPath(source).name for source in sources]
    if group_by == "none":
        return "image", [None] * len(sources)
    if group_by is not None:
        return "group", by_expression(names, group_by)
    if persons := by_person(names) or by_person([PurePosixPath(source).parent.as_posix() for source in sources]):
        return "patient", persons
    originals = [match.group(1) if (match := _EXPORTED.match(PurePosixPath(name).stem)) else None for name in names]
    if sum(original is not None for original in originals) * 2 > len(originals):
        return "original image", originals
    return "image", [None] * len(sources)
