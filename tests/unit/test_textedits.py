"""Text edits and patches as functions: exactly one place, strict hunks, line ends kept, every diff can be applied again."""

from __future__ import annotations

import random
import time

import pytest

from clinloop.errors import BadInput
from clinloop.patches import apply_patch, parse_patch
from clinloop.textedits import insert_lines, replace_text, split_lines, unified_diff


def _patched(patch: str, text: str | None) -> str | None:
    (item,) = parse_patch(patch)
    return apply_patch(item, text)[0]


def test_replace_changes_the_only_place() -> None:
    assert replace_text("a\nb\nc\n", "b\n", "x\ny\n") == "a\nx\ny\nc\n"


def test_replace_with_no_match_shows_the_nearest_lines_with_their_numbers() -> None:
    text = "".join(f"value_{number} = {number}\n" for number in range(50)) + "def train(model):\n    return model\n"
    with pytest.raises(BadInput) as refusal:
        replace_text(text, "def train(net):\n    return model\n", "x")
    assert "   51  def train(model):\n   52      return model" in str(refusal.value)


def test_replace_says_when_only_white_space_differs() -> None:
    with pytest.raises(BadInput, match=r"white space only \(lines 2-3\)"):
        replace_text("a\n\tif x:\n\t\treturn\n", "    if x:\n        return\n", "x")


def test_replace_with_nothing_alike_says_so() -> None:
    with pytest.raises(BadInput, match="Nothing in it resembles"):
        replace_text("alpha\nbeta\n", "0123456789", "x")


@pytest.mark.parametrize(("text", "old", "lines"), [("x\na\nx\n", "x", "1, 3"), ("aaa", "aa", "1, 1")])
def test_replace_with_several_matches_names_their_lines(text: str, old: str, lines: str) -> None:
    with pytest.raises(BadInput, match=f"occurs 2 times, at lines {lines}:"):
        replace_text(text, old, "y")


def test_replace_all_changes_every_place() -> None:
    assert replace_text("x\na\nx\n", "x", "$1\\1", replace_all=True) == "$1\\1\na\n$1\\1\n"


@pytest.mark.parametrize(("old", "new"), [("", "x"), ("x", "x")])
def test_replace_of_nothing_is_refused(old: str, new: str) -> None:
    with pytest.raises(BadInput):
        replace_text("x", old, new)


def test_line_ends_of_the_file_are_kept_by_every_edit() -> None:
    text = "a\r\nb\r\nc\r\n"
    assert replace_text(text, "a\nb\n", "x\ny\n") == "x\r\ny\r\nc\r\n"
    assert replace_text(text, "b", "x\ny") == "a\r\nx\r\ny\r\nc\r\n"
    assert insert_lines(text, 1, "x\ny") == "a\r\nx\r\ny\r\nb\r\nc\r\n"
    assert _patched("--- a/f\n+++ b/f\n@@ -2,1 +2,2 @@\n-b\n+x\n+y\n", text) == "a\r\nx\r\ny\r\nc\r\n"


def test_replace_stays_quick_on_hostile_text() -> None:
    begin = time.monotonic()
    for text, old in [
        ("a" * (1 << 20), "a" * 500_000),
        ("ab" * 500_000, "ab" * 1000 + "c"),
        ("a\n" * 500_000, "b\n" * 400_000),
    ]:
        with pytest.raises(BadInput):
            replace_text(text, old, "y")
    unified_diff("f", "ab\nc\n" * 100_000, "c\nab\n" * 100_000)
    assert time.monotonic() - begin < 20


def test_insert_goes_after_the_line_at_the_top_and_at_the_end() -> None:
    assert insert_lines("a\nb", 0, "x") == "x\na\nb"
    assert insert_lines("a\nb", 2, "x\n") == "a\nb\nx\n"
    assert insert_lines("", 0, "x") == "x\n"
    for line in (-1, 3):
        with pytest.raises(BadInput, match="the file has 2"):
            insert_lines("a\nb", line, "x")


def test_lines_end_at_newlines_only() -> None:
    assert split_lines("a\x0cb\u2028c\r\nd") == ["a\x0cb\u2028c\r\n", "d"]
    assert split_lines("") == []


def test_any_diff_applied_to_the_old_text_gives_the_new_text() -> None:
    rng = random.Random(7)
    for _ in range(300):
        old = [rng.choice("abcdef") + rng.choice(["\n", "\r\n"]) for _ in range(rng.randrange(30))]
        new = [line for line in old if rng.random() > 0.2]
        for _ in range(rng.randrange(4)):
            new.insert(rng.randrange(len(new) + 1), f"new {rng.random()}\n")
        before, after = "".join(old).replace("\r\n", "\n"), "".join(new).replace("\r\n", "\n")
        before, after = (text.rstrip("\n") if rng.random() < 0.3 else text for text in (before, after))
        if before != after:
            assert _patched(unified_diff("f", before, after), before) == after
    big = "".join(f"{number}\n" for number in range(5000))
    other = "".join(f"{number * 7 % 5003}\n" for number in range(5000))
    assert _patched(unified_diff("f", big, other), big) == other
    assert _patched(unified_diff("f", None, "a\nb"), None) == "a\nb"
    assert _patched(unified_diff("f", "a\nb", None), "a\nb") is None


def test_a_hunk_applies_at_the_only_place_that_has_its_lines_and_says_where() -> None:
    text = "".join(f"{number}\n" for number in range(1, 21))
    (item,) = parse_patch("--- a/f\n+++ b/f\n@@ -3,3 +3,3 @@\n 10\n-11\n+eleven\n 12\n")
    assert apply_patch(item, text) == (text.replace("11\n", "eleven\n"), ["hunk 1 of f applied at line 10, not 3"])


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("", "names no file"),
        ("just words", "names no file"),
        ("*** Begin Patch\n*** Update File: f\n", "apply_patch format"),
        ("@@ -1,1 +1,1 @@\n-a\n+b\n", "before any file"),
        ("--- a/f\n+++ b/f\n", "has no hunk"),
        ("--- a/f\n+++ b/f\n@@ about here @@\n-a\n+b\n", "not of the form"),
        ("--- a/f\n+++ b/f\n@@ -1,2 +1,1 @@\n-a\n+b\n", "counts 2 old and 1 new lines, but 1 old and 1 new"),
        ("--- a/f\n+++ b/f\n@@ -1,1 +1,1 @@\n-a\n+b\n+c\n", "beyond the lines"),
        ("--- a/f\n+++ b/g\n@@ -1,1 +1,1 @@\n-a\n+b\n", "renames"),
        ("--- a/../f\n+++ b/../f\n@@ -1,1 +1,1 @@\n-a\n+b\n", "contains '..'"),
        ("--- /dev/null\n+++ b//etc/passwd\n@@ -0,0 +1,1 @@\n+b\n", "is absolute"),
        ("--- a/f\n+++ b/f\n@@ -1,1 +1,1 @@\n-a\n+b\n--- a/f\n+++ b/f\n@@ -2,1 +2,1 @@\n-b\n+c\n", "twice"),
        ("--- a/f\n+++ b/f\n@@ -2,1 +2,1 @@\n-x\n+y\n", "at line 2 it expects 'x', but the file has 'b'"),
        ("--- a/f\n+++ b/f\n@@ -9,1 +9,1 @@\n-x\n+y\n", "the file has ended"),
        ("--- a/f\n+++ b/f\n@@ -2,1 +2,1 @@\n-a\n+y\n", "but at lines 1, 3"),
        ("--- a/f\n+++ b/f\n@@ -9,0 +9,1 @@\n+y\n", "inserts at line 9"),
        ("--- /dev/null\n+++ b/f\n@@ -0,0 +1,1 @@\n+y\n", "exists, but the patch creates it"),
        ("--- a/f\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-a\n", "leaves 2 of its lines"),
    ],
)
def test_a_wrong_patch_is_refused_with_its_place(patch: str, message: str) -> None:
    with pytest.raises(BadInput) as refusal:
        for item in parse_patch(patch):
            apply_patch(item, "a\nb\na\n")
    assert message in str(refusal.value)


def test_blank_context_lines_that_lost_their_blank_are_understood() -> None:
    assert (
        _patched("diff --git a/f b/f\nindex 1..2\n--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@ def f\n a\n\n-b\n+c\n", "a\n\nb\n")
        == "a\n\nc\n"
    )
