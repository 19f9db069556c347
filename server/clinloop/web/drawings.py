"""Figures of the report in pages: the same drawings, their styles as attributes, because pages forbid styles of their own."""

from __future__ import annotations

import re

from markupsafe import Markup

_STYLE = re.compile(r' style="([^"]*)"')
_KNOWN = frozenset(
    [
        "fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap",
        "stroke-linejoin", "stroke-opacity", "opacity", "font-size", "font-family", "font-weight", "font-style", "text-anchor",
        "clip-path",
    ]
)  # fmt: skip
_FONT = re.compile(r"^(?:(\d+|bold) )?([\d.]+px) (.+)$")


def without_styles(svg: str) -> Markup:
    """Return an <svg> of ours whose style attributes are presentation attributes."""
    return Markup(_STYLE.sub(_attributes, svg))  # noqa: S704 - drawn by us, texts escaped there


def _attributes(found: re.Match[str]) -> str:
    made: dict[str, str] = {}
    for declaration in found.group(1).split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font" and (parts := _FONT.match(value)):
            made |= {"font-size": parts.group(2)} | ({"font-weight": parts.group(1)} if parts.group(1) else {})
        elif name in _KNOWN and value != "inherit":
            made[name] = value
    return "".join(f' {name}="{value}"' for name, value in made.items())
