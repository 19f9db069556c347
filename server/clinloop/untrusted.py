"""One boundary for text that clinloop did not write: logs, file names, exception texts, agents' sentences."""

from __future__ import annotations

import re

# Escape sequences: CSI, then OSC/DCS/SOS/PM/APC up to their end (bounded, so that an unterminated one cannot stall), then the rest.
_ESCAPES = re.compile(r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]|\x1b[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?|\x1b[ -/]{0,4}[0-~]?")
# C0 (but not tab and newline), DEL, C1, soft hyphen, zero-width and bidi controls, line separators, BOM, variation selectors, tag characters.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def clean(text: str, *, cap: int = 2000) -> str:
    """Return text without control, bidi and invisible characters, at most `cap` characters long."""
    text = _ESCAPES.sub("", text[: cap * 4])
    text = "\n".join(line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n"))
    text = _INVISIBLE.sub("", text)
    return text if len(text) <= cap else text[: cap - 1] + "…"


def clean_log(data: bytes, *, cap: int, line_cap: int = 400) -> str:
    """Return the end of a log as text, at most `cap` characters, each line at most `line_cap`; invalid UTF-8 is replaced."""
    lines = clean(data[-cap * 4 :].decode("utf-8", errors="replace"), cap=cap * 8).split("\n")
    text = "\n".join(line if len(line) <= line_cap else line[:line_cap] + "…" for line in lines)
    return text if len(text) <= cap else "…" + text[-(cap - 1) :]
