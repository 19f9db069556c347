"""Edits of one text file and the ways to show them: replace exactly one place, insert lines, number lines, unified diff.

Lines end at "\\n" only, so that their numbers agree with every editor; a "\\r" before it belongs to the line's end and is kept.
"""

from __future__ import annotations

import difflib
import itertools
import re

from clinloop.errors import BadInput

_SHOWN_LINES = 12
_SHOWN_PLACES = 20
_COUNTED_PLACES = 1000
# difflib is quadratic and worse on repetitive text: longer changes are shown as one block, shorter ones are compared line by line.
_DIFF_LINES = 1500
_CONTEXT = 3


def decode(content: bytes) -> str | None:
    """Return the text of a file, None if it is binary."""
    if b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def text_of(path: str, content: bytes) -> str:
    """Return the text of a file; a binary one is refused."""
    text = decode(content)
    if text is None:
        raise BadInput(f"{path} is no UTF-8 text: it can be listed, deleted and restored, but not viewed or edited.")
    return text


def encode(text: str) -> bytes:
    """Return the bytes of a text that an agent sent; NUL and lone surrogates are refused."""
    if "\0" in text:
        raise BadInput("The text holds a NUL character; files of the workspace are UTF-8 text.")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadInput("The text holds half of a surrogate pair; files of the workspace are UTF-8 text.") from None


def split_lines(text: str) -> list[str]:
    """Return the lines with their ends; a text that ends in a newline has no empty last line."""
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def line_end(text: str) -> str:
    """Return the line end that most lines of a text have."""
    n_crlf = text.count("\r\n")
    return "\r\n" if n_crlf * 2 > text.count("\n") else "\n"


def numbered(lines: list[str], first: int, *, width: int) -> str:
    """Return lines with their numbers, the first of which is `first`; longer lines are cut at `width` characters and say so."""
    return "\n".join(f"{number:>5}  {_cut(line, width)}" for number, line in enumerate(lines, start=first))


def replace_text(text: str, old: str, new: str, *, replace_all: bool = False) -> str:
    """Replace the only place (or all places) where `old` stands; "\\n" in the arguments also meets the "\\r\\n" of the text.

    Raises:
        BadInput: empty `old`, nothing to change, no such place (the nearest one is shown), or several (their lines are).
    """
    if not old:
        raise BadInput("`old` is empty: give the text to be replaced, or use operation 'insert'.")
    if old == new:
        raise BadInput("`old` and `new` are the same: nothing would change.")
    is_crlf = line_end(text) == "\r\n"
    if "\r\n" in text and "\r" not in old and "\n" in old and old not in text:
        old = old.replace("\n", "\r\n")
    if is_crlf and "\r" not in new and ("\n" not in old or "\r\n" in old):
        new = new.replace("\n", "\r\n")
    places = _places(text, old)
    if not places:
        raise BadInput(f"`old` does not occur in the file, which must have it exactly once. {_nearest(text, old)}")
    if len(places) > 1 and not replace_all:
        listed = ", ".join(str(text.count("\n", 0, place) + 1) for place in places[:_SHOWN_PLACES])
        many = f"{len(places)}" if len(places) < _COUNTED_PLACES else f"{_COUNTED_PLACES} or more"
        more = ", …" if len(places) > _SHOWN_PLACES else ""
        raise BadInput(
            f"`old` occurs {many} times, at lines {listed}{more}: give more of the lines around the one place, or set replace_all=true."
        )
    return text.replace(old, new)


def insert_lines(text: str, line: int, added: str) -> str:
    """Insert text as whole lines after line number `line` (0 = at the top), with the line ends that the text has.

    Raises:
        BadInput: no such line, or nothing to insert.
    """
    lines, end = split_lines(text), line_end(text)
    if not added:
        raise BadInput("`text` is empty: nothing would change.")
    if not 0 <= line <= len(lines):
        raise BadInput(
            f"There is no line {line}: the file has {len(lines)}; 0 inserts at the top, {len(lines)} at the end."
        )
    block = added.replace("\r\n", "\n").removesuffix("\n").replace("\n", end) + end
    if line and not lines[line - 1].endswith("\n"):
        lines[line - 1] += end
    return "".join([*lines[:line], block, *lines[line:]])


def unified_diff(path: str, old: str | None, new: str | None) -> str:
    """Return the unified diff of one file; None = the file does not exist on that side, empty = no difference."""
    if old == new:
        return ""
    before, after = split_lines(old or ""), split_lines(new or "")
    same_head = _count_equal(before, after)
    same_tail = _count_equal(before[same_head:][::-1], after[same_head:][::-1])
    skip = max(0, same_head - _CONTEXT)
    keep = max(0, same_tail - _CONTEXT)
    before, after = before[skip : len(before) - keep], after[skip : len(after) - keep]
    names = ("/dev/null" if old is None else f"a/{path}", "/dev/null" if new is None else f"b/{path}")
    if max(len(before), len(after)) > _DIFF_LINES:
        body = [
            f"@@ -{skip + 1},{len(before)} +{skip + 1},{len(after)} @@\n",
            *("-" + line for line in before),
            *("+" + line for line in after),
        ]
    else:
        body = list(difflib.unified_diff(before, after, n=_CONTEXT))[2:]
        body = [_shift(line, skip) if line.startswith("@@ ") else line for line in body]
    shown = [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in body]
    return f"--- {names[0]}\n+++ {names[1]}\n{''.join(shown)}"


def file_diff(path: str, old: bytes | None, new: bytes | None) -> str:
    """Return the unified diff of one file, or a line of its sizes if it is binary; None = it does not exist on that side."""
    before, after = (None if side is None else decode(side) for side in (old, new))
    if (old is not None and before is None) or (new is not None and after is None):
        sizes = [f"{len(side):,} bytes" if side is not None else "absent" for side in (old, new)]
        return f"--- a/{path}\n+++ b/{path}\n(binary: {sizes[0]} -> {sizes[1]})\n"
    return unified_diff(path, before, after)


def count_changes(path: str, old: bytes | None, new: bytes | None) -> str:
    """Return what changed in one file as `train.py +12 -3`."""
    lines = file_diff(path, old, new).split("\n")[2:]
    return f"{path} +{sum(line.startswith('+') for line in lines)} -{sum(line.startswith('-') for line in lines)}"


def cap_diff(text: str, cap: int) -> str:
    """Cut a diff at a line so that it has about `cap` characters, and say how many lines are not shown."""
    if len(text) <= cap:
        return text
    lines = split_lines(text)
    ends = list(itertools.accumulate(len(line) for line in lines))
    n_kept = sum(end <= cap for end in ends)
    kept = "".join(lines[:n_kept]) or text[:cap] + "\n"
    return f"{kept}… {len(lines) - n_kept:,} more lines of the diff are not shown: use operation 'diff' with one path, or 'view'.\n"


def line_around(line: str, pattern: str, *, width: int) -> str:
    """Return the part of a line, at most about `width` characters, that holds the pattern."""
    line = line.removesuffix("\n").removesuffix("\r")
    at = max(0, line.casefold().find(pattern.casefold()) - width // 2) if len(line) > width else 0
    return ("…" if at else "") + line[at : at + width] + ("…" if at + width < len(line) else "")


def _cut(line: str, width: int) -> str:
    line = line.removesuffix("\n").removesuffix("\r")
    return line if len(line) <= width else f"{line[:width]}… (+{len(line) - width:,} characters)"


def _places(text: str, old: str) -> list[int]:
    """Return where `old` starts, overlapping places included: any of them makes the choice ambiguous."""
    places, start = list[int](), text.find(old)
    while start >= 0 and len(places) < _COUNTED_PLACES:
        places.append(start)
        start = text.find(old, start + 1)
    return places


def _nearest(text: str, old: str) -> str:
    """Describe the lines of a text that resemble `old` most."""
    lines, wanted = split_lines(text), [line.strip() for line in split_lines(old)]
    bare = [line.strip() for line in lines]
    start = _nearest_start(bare, wanted)
    if start is None:
        return "Nothing in it resembles `old`: view the file first."
    window = lines[start : start + len(wanted)]
    is_same = bare[start : start + len(wanted)] == wanted
    hint = "These lines differ from `old` in white space only" if is_same else "The nearest lines are"
    last = start + min(len(window), _SHOWN_LINES)
    return f"{hint} (lines {start + 1}-{start + len(window)}):\n{numbered(lines[start:last], start + 1, width=160)}"


def _nearest_start(bare: list[str], wanted: list[str]) -> int | None:
    """Return the index of the window with the most lines of `wanted`, else of the line closest to the longest wanted one."""
    known = {line for line in wanted if line}
    sums = [0, *itertools.accumulate(line in known for line in bare)]
    size = min(len(wanted), len(bare))
    scores = [sums[start + size] - sums[start] for start in range(len(bare) - size + 1)]
    if scores and max(scores) > 0:
        return scores.index(max(scores))
    longest = max(known, key=len, default="")[:200]
    candidates = [line[:200] for line in bare[:_DIFF_LINES]]
    close = difflib.get_close_matches(longest, candidates, n=1, cutoff=0.5)
    if not close:
        return None
    offset = [line[:200] for line in wanted].index(longest)
    return max(0, candidates.index(close[0]) - offset)


def _count_equal(before: list[str], after: list[str]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))


def _shift(header: str, by: int) -> str:
    return re.sub(r"(?<=[-+])\d+", lambda number: str(int(number[0]) + by), header)
