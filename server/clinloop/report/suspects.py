"""Suspected shortcuts as a report says them: what a model may have learned instead of the disease, and what that does not establish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from clinloop.scoring.shortcuts import Followed, Shortcuts, Slice
from clinloop.untrusted import clean

MAX_SUSPECTS = 5
ALPHA = 0.05
LEAST_R = 0.1
"""Partial correlation from which a fact counts as followed: with many cases a smaller one is significant and means nothing."""

Kind = Literal["metadata", "size", "probe", "attribute", "slice"]


class Suspect(BaseModel):
    """One suspected shortcut; the strongest comes first in a report."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: str
    """What is suspected, in a few words: `border brightness`, `attribute drain`, `slice 3`."""
    kind: Kind
    """Where it lies: metadata of the file, its size, a measurement of the picture, an attribute, or a group of images that fail together."""
    strength: float
    """0 to 1. Of a slice: its error rate minus that of the rest, on cases that did not choose it. Of anything else: how well it alone tells the
    classes apart (2·AUC - 1), times how closely the model follows it given the class (partial correlation) where it does."""
    is_followed: bool
    """Whether the model was seen to follow it, corrected for everything that was tried; else it was there to be learned, no more."""
    sentence: str
    """The finding in clinical words, with its numbers."""
    caveat: str
    """What this does not establish."""
    auc_alone: float | None = None
    """AUC of this alone for the class, on train and validation, cross-validated by group; None for a slice."""
    partial_r: float | None = None
    """Correlation of the refined model's answer with it, given the class, on validation; None for a slice or where it could not be computed."""
    p: float | None = None
    """p-value, corrected for everything that was tried."""
    n: int = 0
    """Validation cases behind the finding."""
    examples: tuple[str, ...] = ()
    """Ids of validation cases that show it; of a slice those that the model got wrong, the surest first."""


class Available(NamedTuple):
    """A fact that alone tells the classes apart better than chance."""

    kind: Kind
    auc: float
    """Macro AUC, cross-validated by group on train and validation."""


_WORDS = {
    "border brightness": "how bright the outer edge of the picture is",
    "border unevenness": "how uneven the outer edge of the picture is",
    "black border": "how much of the outer edge of the picture is black",
    "dark corners": "how much of the corners is dark, as behind a round aperture,",
    "bright corner marks": "how much of a corner is covered by bright marks, such as letters or stickers,",
    "brightness": "how bright the picture is inside its edge",
    "contrast": "how much contrast the picture has inside its edge",
    "sharpness": "how sharp the picture is inside its edge",
    "red-green cast": "how red rather than green the colours are",
    "yellow-blue cast": "how yellow rather than blue the colours are",
    "shape of the picture": "how wide the picture is for its height",
    "width": "the width of the original picture in pixels",
    "height": "the height of the original picture in pixels",
    "file size": "the size of the original file",
    "image mode": "the colour mode of the original file",
    "file type": "the type of the original file",
    "metadata in the file": "which technical entries the original file carried",
}
_CAVEATS: dict[Kind, str] = {
    "metadata": "The model never gets these data. It could only see something in the picture that goes with them, such as another device, clinic or export; "
    "which, this does not say.",
    "size": "The model gets pictures of one size. It could only see something that goes with the original size, such as another device or another cut; "
    "which, this does not say.",
    "probe": "It may be the disease itself: a dark lesion darkens its picture. Going together among pictures of the same class is no experiment; only pictures "
    "in which nothing else is changed would show that the model uses it.",
    "attribute": "It may be medically related to how severe or how visible the disease is. Going together among cases of the same class is no experiment, and "
    "values that are wrong or missing weaken it.",
    "slice": "The group was formed by an algorithm from the model's own features. What is more frequent in it need not be why the model fails there, and "
    "smaller groups that fail can have been missed.",
}
_NOT_FOLLOWED = " That the model was not seen to follow it on these validation cases does not prove that it ignores it."
_NOTE = (
    "Looked for among {tried}. A list that is short or empty proves nothing: a shortcut that is none of these facts, or is rare on "
    "validation, is not found."
)


def rank(available: Mapping[str, Available], found: Shortcuts) -> tuple[Suspect, ...]:
    """Return at most MAX_SUSPECTS suspects: first facts that the model follows, then slices that fail, then facts that were merely there to be learned.

    Of facts that say nearly the same only the strongest is named, with the others in its sentence.
    """
    followed = {item.name: item for item in found.followed}
    facts = [(name, _of_fact(name, known, followed.get(name))) for name, known in available.items()]
    slices = [_of_slice(item) for item in found.slices if item.p is not None and item.p < ALPHA]
    kept: list[Suspect] = []
    hidden: set[str] = set()
    for name, suspect in sorted(facts, key=lambda item: (not item[1].is_followed, -item[1].strength)):
        if name in hidden:
            continue
        alike = [other for other in (followed[name].alike if name in followed else ()) if other in available]
        if alike:
            also = f" Nearly the same on these pictures: {', '.join(alike)}."
            suspect = suspect.model_copy(update={"sentence": suspect.sentence + also})  # noqa: PLW2901
        hidden |= set(alike)
        kept.append(suspect)
    ordered = sorted(
        [*kept, *slices],
        key=lambda suspect: (not suspect.is_followed, suspect.kind == "slice", -suspect.strength),
    )
    return tuple(ordered[:MAX_SUSPECTS])


def note(found: Shortcuts, *, n_facts: int, without: str = "") -> str:
    """Return how suspects were looked for; `without` says what could not be used."""
    parts = [f"{n_facts} facts of files, pictures and attributes"]
    if not (found.slices_note or without):
        parts.append("groups of images that look alike to the model")
    text = _NOTE.format(tried=" and ".join(parts))
    why = without or found.slices_note
    return f"{text} Groups of images that fail together were not looked for: {why.removesuffix('.')}." if why else text


def _of_fact(name: str, known: Available, followed: Followed | None) -> Suspect:
    words = _WORDS.get(name) if known.kind != "attribute" else None
    what = words or f"the attribute {clean(name, cap=80)}"
    alone = f"{what[0].upper()}{what[1:]} alone tells the classes apart with an AUC of {known.auc:.2f} (0.5 is chance)"
    is_followed = (
        followed is not None and followed.p is not None and followed.p < ALPHA and abs(followed.partial_r) >= LEAST_R
    )
    strength = max(0.0, 2 * known.auc - 1)
    if followed is None:
        finding = f"{alone}; whether the model follows it could not be computed."
    else:
        answer = f"its probability of {followed.class_name}" if followed.class_name else "its answer"
        level = clean(followed.level, cap=60)
        value = f" (value {level})" if level else ""
        numbers = f"partial correlation {followed.partial_r:+.2f}, p {_p(followed.p)}, {followed.n} validation cases"
        if is_followed:
            strength *= abs(followed.partial_r)
            way = "higher" if followed.partial_r > 0 else "lower"
            more = f"with {level}" if level else "where it is higher"
            finding = f"{alone}, and the model goes with it: among cases of the same class {answer} is {way} {more} ({numbers})."
        else:
            finding = f"{alone}; among cases of the same class {answer} was not seen to go with it{value} ({numbers})."
    return Suspect(
        name=f"attribute {clean(name, cap=80)}" if known.kind == "attribute" else name,
        kind=known.kind,
        strength=round(strength, 4),
        is_followed=is_followed,
        sentence=finding,
        caveat=_CAVEATS[known.kind] + ("" if is_followed else _NOT_FOLLOWED),
        auc_alone=known.auc,
        partial_r=None if followed is None else followed.partial_r,
        p=None if followed is None else followed.p,
        n=0 if followed is None else followed.n,
    )


def _of_slice(item: Slice) -> Suspect:
    described = (
        f" In it: {clean('; '.join(item.described), cap=400)}."
        if item.described
        else " Nothing that is known of the images sets it apart."
    )
    return Suspect(
        name=f"slice {item.number}",
        kind="slice",
        strength=round(item.error - item.error_elsewhere, 4),
        is_followed=True,
        sentence=(
            f"A group of {item.n} validation images that look alike to the model fails together: {item.error:.0%} of its decisions are wrong, against "
            f"{item.error_elsewhere:.0%} elsewhere (p {_p(item.p)}, on images that did not choose the group).{described}"
        ),
        caveat=_CAVEATS["slice"],
        p=item.p,
        n=item.n,
        examples=item.examples,
    )


def _p(p: float | None) -> str:
    return "not known" if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}"
