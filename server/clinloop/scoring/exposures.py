"""Attributes of the truth as something that a case has or has not: what the confound audit looks at.

Yes/no and numbers from 0 to 1 count as they are, present from 0.5 on. Other numbers are present above their median; correlations use the
number itself. Words become one exposure per level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clinloop.errors import BadInput
from clinloop.scoring.analysis import MIN_CELL
from clinloop.scoring.confounders import PRESENT, Bools
from clinloop.scoring.truth import TruthCase, confounder_value
from clinloop.scoring.weighted import Floats

MAX_LEVELS = 8
"""Different words of an attribute up to which each gets an audit of its own."""


_LONGEST = 60
"""Characters of a word; longer ones are free text."""


class Exposure(NamedTuple):
    """One attribute of N cases, or one level of it."""

    attribute: str
    level: str
    """"" for yes/no and probabilities; "above MEDIAN" for numbers; for words the one that counts as present."""
    is_declared: bool
    is_predicted: bool
    """Whether values are probabilities: from 0 to 1, not all 0 or 1."""
    is_yes_no: bool
    """Whether the value takes two values only."""
    value: Floats
    """(N,) NaN where missing; numbers that are no probabilities are standardised, which changes no correlation."""
    present: Bools
    """(N,) False where missing."""

    @property
    def known(self) -> Bools:
        """(N,) whether the value is known."""
        return ~np.isnan(self.value)

    @property
    def is_word(self) -> bool:
        """Whether it is one of several words."""
        return bool(self.level) and not self.level.startswith(("above ", "at least "))

    @property
    def name(self) -> str:
        """What a sentence calls it: "drain", "age above 60", "site = chest"."""
        return f"{self.attribute} {'= ' if self.is_word else ''}{self.level}".strip()


class Exposures(NamedTuple):
    """What the attributes of the truth become."""

    found: list[Exposure]
    notes: list[str]
    """Which attributes get no audit, and why."""


def exposures(truth: Sequence[TruthCase], declared: Sequence[str]) -> Exposures:
    """Return the exposures of all attributes, declared ones first; an undeclared one that too few cases have or lack is only noted."""
    others = dict.fromkeys(name for case in truth for name in case.attributes if name not in declared)
    found: list[Exposure] = []
    notes: list[str] = []
    for name in (*dict.fromkeys(declared), *others):
        texts = [case.attributes.get(name, "").strip() for case in truth]
        made = _exposures_of(name, texts, is_declared=name in declared)
        if isinstance(made, str):
            notes.append(f"Attribute {name} is not audited: {made}.")
            continue
        enough = [item for item in made if item.is_declared or _smaller_side(item) >= MIN_CELL]
        if not enough:
            notes.append(f"Attribute {name} is not audited: fewer than {MIN_CELL} cases have it, or lack it.")
        found += enough
    return Exposures(found, notes)


def _exposures_of(name: str, texts: Sequence[str], *, is_declared: bool) -> list[Exposure] | str:
    """Return the exposures of one attribute, or why there are none."""
    if not any(texts):
        return "no case says it"
    if (shares := _shares(name, texts)) is not None:
        known = shares[~np.isnan(shares)]
        is_yes_no = len(np.unique(known)) <= 2
        is_predicted = bool(((known > 0) & (known < 1)).any())
        return [Exposure(name, "", is_declared, is_predicted, is_yes_no, shares, shares >= PRESENT)]
    if (numbers := _numbers(texts)) is not None:
        return _of_numbers(name, numbers, is_declared)
    levels = sorted({text for text in texts if text})
    if len(levels) == 1:
        return "all cases say the same"
    if len(levels) > MAX_LEVELS:
        return f"it has {len(levels)} different words, more than {MAX_LEVELS}"
    if any(len(level) > _LONGEST for level in levels):
        return "it is free text"
    words = np.array(texts)
    if len(levels) == 2:  # the other one is its mirror image
        levels = [min(levels, key=lambda level: (int((words == level).sum()), level))]
    made: list[Exposure] = []
    for level in levels:
        value = np.where(words == "", np.nan, (words == level).astype(np.float64))
        made.append(Exposure(name, level, is_declared, False, True, value, words == level))
    return made


def _of_numbers(name: str, numbers: Floats, is_declared: bool) -> list[Exposure] | str:
    known = numbers[~np.isnan(numbers)]
    spread = float(known.std())
    if not spread > 1e-12 * max(1.0, float(np.abs(known).max())):
        return "all cases say the same"
    median = float(np.median(known))
    with np.errstate(invalid="ignore"):
        present, level = numbers > median, f"above {median:g}"
        if not present.any():  # more than half of the cases have the largest value
            present, level = numbers >= median, f"at least {median:g}"
    value = (numbers - float(known.mean())) / spread
    return [Exposure(name, level, is_declared, False, len(np.unique(known)) <= 2, value, present)]


def _shares(name: str, texts: Sequence[str]) -> Floats | None:
    """Return the values of yes/no and of numbers from 0 to 1, NaN where missing; None when a value is something else."""
    try:
        values = [confounder_value(name, text) for text in texts]
    except BadInput:
        return None
    return np.array([np.nan if value is None else value for value in values])


def _numbers(texts: Sequence[str]) -> Floats | None:
    """Return finite numbers, NaN where missing; None when a value is something else."""
    try:
        numbers = np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return None
    given = np.array([bool(text) for text in texts])
    return numbers if np.isfinite(numbers[given]).all() else None


def _smaller_side(item: Exposure) -> int:
    return int(min(item.present.sum(), (item.known & ~item.present).sum()))
