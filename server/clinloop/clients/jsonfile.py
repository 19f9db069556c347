"""JSON configuration files: read strictly, changed in place, written in the style that they had."""

from __future__ import annotations

import json
import re
from typing import Any

from clinloop.errors import BadInput


def parse(text: str) -> dict[str, Any]:
    """Return the object of a file; an empty one is {}.

    Raises:
        BadInput: it is no JSON object, has comments or a key twice, which writing would lose.
    """
    if not text.strip():
        return {}
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise BadInput(
            f"it is not plain JSON ({error}), and comments or commas of its own would be lost; correct it, or add what --print shows by hand"
        ) from error
    if not isinstance(value, dict):
        raise BadInput("it holds no JSON object; add what --print shows by hand")
    return value


def dump(value: dict[str, Any], like: str) -> str:
    """Return the text of an object with the indentation, line ends and last line of another text."""
    found = re.search(r"\n([ \t]+)\S", like)
    indent: str | int | None = found[1] if found else 2
    if like.strip() and "\n" not in like.strip():
        indent = None
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if not like.strip() or like.endswith("\n"):
        text += "\n"
    return text.replace("\n", "\r\n") if "\r\n" in like else text


def within(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Return an object inside another, made where it is missing.

    Raises:
        BadInput: something else is there.
    """
    for key in keys:
        inner = value.setdefault(key, {})
        if not isinstance(inner, dict):
            raise BadInput(f"its {key!r} is no object; correct it first")
        value = inner
    return value


def include(value: dict[str, Any], key: str, items: list[str]) -> None:
    """Add to a list what is not in it yet.

    Raises:
        BadInput: something else is there.
    """
    present = value.setdefault(key, [])
    if not isinstance(present, list):
        raise BadInput(f"its {key!r} is no list; correct it first")
    present.extend(item for item in items if item not in present)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
