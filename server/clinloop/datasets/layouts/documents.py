"""JSON, YAML and XML files of a dataset, read with one clear refusal for what is not what it should be."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from clinloop.datasets.case import Split
from clinloop.datasets.layouts.folder import SPLIT_NAMES, Folder
from clinloop.errors import BadInput

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAX_JSON = 4 << 30
_MAX_YAML = 1 << 20
_MAX_XML = 16 << 20


def read_json(folder: Folder, name: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        BadInput: it is not JSON.
    """
    try:
        return json.loads(folder.text(name, max_bytes=_MAX_JSON))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name} is not JSON ({_place(error)}); export it again.") from None


def read_yaml(folder: Folder, name: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; an empty one if it holds something else.

    Raises:
        BadInput: it is not YAML.
    """
    import yaml

    try:
        content = yaml.safe_load(folder.text(name, max_bytes=_MAX_YAML))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise BadInput(f"{name} is not YAML{f' (line {mark.line + 1})' if mark else ''}; correct it.") from None
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def read_xml(folder: Folder, name: str) -> Element:
    """Return the root of an XML file.

    Raises:
        BadInput: it is not XML, or it defines entities; the notes name it.
    """
    from xml.etree import ElementTree  # entities, the known danger, are refused before parsing

    text = folder.text(name, max_bytes=_MAX_XML)
    if "<!ENTITY" in text or "<!DOCTYPE" in text:
        error = BadInput("An annotation file defines a document type, which annotations never need; remove it.")
    else:
        try:
            return ElementTree.fromstring(text)  # noqa: S314  # see above
        except (ElementTree.ParseError, ValueError) as broken:
            error = BadInput(f"An annotation file is not XML ({_place(broken)}); export it again.")
    error.add_note(name)
    raise error


def holds_keys(folder: Folder, name: str, keys: Sequence[str]) -> bool:
    """Tell whether a JSON file, of whatever length, names all these keys before a value; nothing is parsed."""
    path = folder.root / name
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return all(re.search(rb'"' + key.encode() + rb'"\s*:', content) is not None for key in keys)


def split_in_name(name: str) -> Split | None:
    """Return the split that a file's own name, else the nearest folder above it, states (`instances_train2017.json`, `test/x.json`)."""
    return _split_in(PurePosixPath(name).stem) or split_in_folders(name)


def split_in_folders(name: str) -> Split | None:
    """Return the split that the nearest folder above a file states."""
    return next((split for part in reversed(PurePosixPath(name).parts[:-1]) if (split := _split_in(part))), None)


def _split_in(part: str) -> Split | None:
    words = re.split(r"[^a-z]+", part.casefold())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def as_text(value: object) -> str:
    """Return a scalar of a document as a table would hold it, "" for anything else."""
    if isinstance(value, bool):
        return str(int(value))
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _place(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}"
    position = getattr(error, "position", None)
    return f"line {position[0]}" if position else type(error).__name__
