"""One boundary for text that clinloop did not write: logs, file names, exception texts, agents' sentences."""

from __future__ import annotations

import re

# Escape sequences, each introduced by ESC or by its C1 form: CSI; OSC, DCS, SOS, PM, APC up to their end (bounded, and on one
# line, so that an unterminated one neither stalls nor hides the rest of a log); then what else an ESC begins.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]{0,4096}(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]{0,4}[0-~]?"
)
# C0 (but not tab and newline), DEL, C1; then, by code point, soft hyphen, fillers, zero-width and bidi controls, variation selectors,
# line separators, BOM, annotation and shorthand controls, musical and hieroglyph controls, non-characters, tag characters.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc\ufffe\uffff\U00013430-\U00013455\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str, *, cap: int = 2000) -> str:
    """Return text without control, bidi and invisible characters, at most `cap` characters long; it can always be encoded."""
    is_cut = len(text) > cap * 4
    if text.isascii() and text.isprintable():  # most is, and has nothing to take out
        return text[: cap - 1] + "…" if len(text) > cap else text
    text = _ESCAPES.sub("", text[: cap * 4])
    # A carriage return starts the line over (progress bars); one at the end of a line has nothing after it.
    text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
    text = _SURROGATES.sub("\ufffd", _INVISIBLE.sub("", text))
    return text[: cap - 1] + "…" if is_cut or len(text) > cap else text


def clean_log(data: bytes, *, cap: int, line_cap: int = 400) -> str:
    """Return the end of a log as text, at most `cap` characters, each line at most `line_cap`; invalid UTF-8 becomes U+FFFD."""
    is_cut = len(data) > cap * 4
    text = clean(data[-cap * 4 :].decode("utf-8", errors="replace"), cap=cap * 4)
    if is_cut:
        text = text.lstrip("\ufffd")  # the cut may go through a character
    text = "\n".join(line if len(line) <= line_cap else line[: line_cap - 1] + "…" for line in text.split("\n"))
    return "…" + text[max(0, len(text) - cap + 1) :] if is_cut or len(text) > cap else text
