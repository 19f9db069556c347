"""The audit as values: what an agent may read (train and validation only) and what only the custodian reads."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

SUSPICIOUS_AUC = 0.6
"""From here on a fact that says something about the label is worth a warning, if its AUC is not chance."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ReasonCount(_Part):
    """How many files or rows share a reason."""

    reason: str
    count: int


class GroupFacts(_Part):
    """The groups after near-duplicates and siblings were joined to them."""

    kind: str
    n_groups: dict[str, int]
    """Per split."""
    n_with_several: int
    """Groups of more than one case."""
    cases_in_those: int
    largest: int


class ClusterFacts(_Part):
    """Sets of images that belong together."""

    n_clusters: int
    n_cases: int
    largest: int
    n_with_several_labels: int
    """Clusters whose members do not all have the same label."""


class SizeCount(_Part):
    """A source image size and who has it."""

    width: int
    height: int
    count: int
    by_class: dict[str, int]


class ValueCount(_Part):
    """A value of an attribute and who has it."""

    value: str
    count: int
    by_class: dict[str, int]


class Quartiles(_Part):
    """A number over the cases of a class."""

    n: int
    mean: float
    q25: float
    median: float
    q75: float


class TruthFacts(_Part):
    """What was drawn of one target, over train and val."""

    target: str
    n_boxes: int
    n_with_boxes: int
    """Images with at least one of them."""
    most_boxes: int
    """In one image."""
    box_percent: Quartiles | None
    """Area of a box in percent of its image."""
    n_masks: int
    n_empty_masks: int
    mask_percent: Quartiles | None
    """Area of a mask that is not empty, in percent of its image."""


class AttributeFacts(_Part):
    """An attribute against the label."""

    name: str
    is_number: bool
    n_missing: int
    missing_by_class: dict[str, int]
    values: list[ValueCount]
    """Most frequent values, at most 12; empty for numbers that have more."""
    by_class: dict[str, Quartiles]
    """Empty for text."""
    auc_alone: float | None
    """Cross-validated macro AUC of a model that sees nothing else; 0.5 = says nothing about the label."""


class LabelModel(_Part):
    """How well some facts of a case predict its label, without a network."""

    n_cases: int
    n_folds: int
    macro_auc: float
    """Of all facts together, grouped cross-validation on train and val; 0.5 = they say nothing about the label."""
    auc_by_class: dict[str, float]
    auc_alone: dict[str, float]
    """Macro AUC of each fact alone, highest first."""


class Audit(_Part):
    """audit.json: facts about train and validation; nothing of the test set, no file name, no metadata value."""

    counts: dict[str, dict[str, int]]
    groups: GroupFacts
    supervision: dict[str, dict[str, int]]
    """Per split, cases by the strongest truth that they have: mask, box, image (a label), none."""
    supervision_by_class: dict[str, dict[str, dict[str, int]]] = {}
    """The same by class: split, level, class."""
    truth: list[TruthFacts] = []
    """One for each target."""
    excluded: list[ReasonCount]
    unreadable: list[ReasonCount]
    exact_duplicates: ClusterFacts
    near_duplicates: ClusterFacts
    siblings: ClusterFacts
    unjoined_clusters: list[int]
    """Sizes of sets of look-alikes that are too large to be duplicates; they were not joined."""
    image_sizes: list[SizeCount]
    """Most frequent source sizes, at most 8."""
    modes: dict[str, int]
    handling: dict[str, int]
    """Images to which each rule of the image store applied."""
    metadata_tags: dict[str, int]
    """Names of EXIF, text and profile entries in the source files, with the number of images; the stored images have none."""
    attributes: list[AttributeFacts]
    metadata_model: LabelModel | None
    """Sizes, file types and attributes: nothing of a pixel."""
    probe_model: LabelModel | None = None
    """Border, corners, exposure, blur, colour cast and shape of the picture: nothing of what it shows."""
    notes: list[str]
    warnings: list[str]

    def lines(self) -> list[str]:
        """Return the audit as plain sentences, most important first."""
        lines = [f"Warning: {text}" for text in self.warnings]
        for split, counts in self.counts.items():
            lines.append(
                f"{split}: {sum(counts.values())} cases ("
                + ", ".join(f"{name} {n}" for name, n in counts.items())
                + ")"
            )
        lines += self.truth_lines()
        groups = self.groups
        lines.append(
            f"groups ({groups.kind}): "
            + ", ".join(f"{n} in {split}" for split, n in groups.n_groups.items())
            + f"; {groups.n_with_several} hold several images ({groups.cases_in_those} cases, at most {groups.largest})"
        )
        for title, facts in (
            ("exact duplicates", self.exact_duplicates),
            ("near-duplicates", self.near_duplicates),
            ("siblings by file name", self.siblings),
        ):
            if facts.n_clusters:
                conflict = (
                    f"; {facts.n_with_several_labels} sets have several labels" if facts.n_with_several_labels else ""
                )
                lines.append(
                    f"{title}: {facts.n_cases} cases in {facts.n_clusters} sets{conflict}; each set stays in one split"
                )
            else:
                lines.append(f"{title}: none")
        lines += [f"left out: {item.count} × {item.reason}" for item in self.excluded]
        lines += [f"unreadable: {item.count} image(s), {item.reason}" for item in self.unreadable]
        if (model := self.metadata_model) is not None:
            lines.append(
                f"metadata alone predicts the class with macro AUC {model.macro_auc:.3f} ({model.n_cases} cases, grouped cross-validation)"
            )
            lines.append(
                "macro AUC of each metadata feature alone: "
                + ", ".join(f"{name} {auc:.3f}" for name, auc in model.auc_alone.items())
            )
            lines.append(
                "metadata-only AUC by class: "
                + ", ".join(f"{name} {auc:.3f}" for name, auc in model.auc_by_class.items())
            )
        if (probes := self.probe_model) is not None:
            first = ", ".join(f"{name} {auc:.3f}" for name, auc in list(probes.auc_alone.items())[:5])
            lines.append(
                f"border, corners, exposure, blur, colour cast and shape of the picture alone predict the class with macro AUC {probes.macro_auc:.3f}; "
                f"each alone: {first}"
            )
        for size in self.image_sizes:
            shares = ", ".join(f"{name} {n}" for name, n in size.by_class.items() if n)
            lines.append(f"image size {size.width}×{size.height}: {size.count} ({shares})")
        lines.append("image modes: " + ", ".join(f"{mode} {n}" for mode, n in self.modes.items()))
        lines += [f"image rule {rule}: applied to {n} image(s)" for rule, n in self.handling.items()]
        lines += [f"metadata in source files, removed: {name} ({n})" for name, n in self.metadata_tags.items()]
        return lines + self.notes

    def truth_lines(self) -> list[str]:
        """Return which truth the cases have, and how large the targets are, as plain lines."""
        lines: list[str] = []
        for split, levels in self.supervision_by_class.items() if self.truth else ():
            for level, by_class in levels.items():
                shares = ", ".join(f"{name} {n}" for name, n in by_class.items())
                lines.append(f"{split}: {sum(by_class.values())} cases with supervision {level} ({shares})")
        for item in self.truth:
            if (box := item.box_percent) is not None:
                lines.append(
                    f"boxes of {item.target}: {item.n_boxes} in {item.n_with_boxes} images, at most {item.most_boxes} in one; area in % of the image: "
                    f"median {box.median:.3g} [{box.q25:.3g}, {box.q75:.3g}]"
                )
            if item.n_masks:
                lines.append(f"masks of {item.target}: {item.n_masks}, of which {item.n_empty_masks} are empty")
            if (mask := item.mask_percent) is not None:
                lines.append(
                    f"area of {item.target} in % of the image, where the mask is not empty: median {mask.median:.3g} [{mask.q25:.3g}, {mask.q75:.3g}]"
                )
        return lines

    def attribute_lines(self) -> list[str]:
        """Return each attribute against the label as plain lines, those first that alone predict it best."""
        lines: list[str] = []
        for item in sorted(self.attributes, key=lambda item: -(item.auc_alone or 0.0)):
            alone = (
                f"; alone it predicts the class with macro AUC {item.auc_alone:.3f}"
                if item.auc_alone is not None
                else ""
            )
            missing = ", ".join(f"{name} {n}" for name, n in item.missing_by_class.items() if n)
            lines.append(f"{item.name}: {item.n_missing} missing{f' ({missing})' if missing else ''}{alone}")
            for value in item.values:
                shares = (f"{name} {n} ({100 * n / value.count:.0f} %)" for name, n in value.by_class.items() if n)
                lines.append(f"{item.name} = {value.value}: {value.count} cases: {', '.join(shares)}")
            if len(item.values) in {1, 2, 3}:  # the table says all
                continue
            for name, numbers in item.by_class.items():
                lines.append(
                    f"{item.name} in {name}: median {numbers.median:g} [{numbers.q25:g}, {numbers.q75:g}], mean {numbers.mean:.3g}, n {numbers.n}"
                )
        return lines


def chance_limit(counts: Iterable[int]) -> float:
    """Return the macro AUC from which a fact is suspicious, by the number of cases of each class: 3 standard errors above chance, at least SUSPICIOUS_AUC.

    The error of an AUC of 0.5, a class against the rest, is sqrt((m + n + 1) / 12 m n), as of Mann and Whitney's U.
    """
    sizes = [n for n in counts if n]
    total = sum(sizes)
    errors = [((total + 1) / (12 * n * (total - n))) ** 0.5 for n in sizes if n < total]
    return max(SUSPICIOUS_AUC, 0.5 + 3 * (sum(errors) / len(errors) if errors else 0.5))


class LeakFacts(_Part):
    """Training cases that are tied to the publisher's test set, and what was done about them."""

    policy: str
    """refuse, drop, or the custodian's reason for keeping them."""
    train_cases: dict[str, int]
    """By kind of tie; one case may have several."""
    n_train_cases: int
    dropped: list[str]
    """Sources of the cases that were dropped."""


_COUNTED = "image|film|file|row|mask|box|case|label|annotation|patient|stud|show|have"
_COUNTS = re.compile(rf"(?P<of>\bof (?:the )?)?(?<![\w.])\d[\d,]*(?=\s(?:of\b|(?:{_COUNTED})))")


def without_counts(note: str) -> str:
    """Return a layout's note for agents: what it counts are images of the whole folder, those of a drawn test set among them."""
    return _COUNTS.sub(lambda found: "of the" if found["of"] else "some", note)


class CustodianAudit(_Part):
    """vault/audit.json: what only the custodian may read."""

    notes: list[str] = []
    """What the layout noted, with its counts over all splits."""

    test_counts: dict[str, int]
    test_supervision: dict[str, int] = {}
    test_groups: int
    leaks: LeakFacts
    unreadable: dict[str, str]
    """Source to reason, all splits."""
    excluded: list[ReasonCount]
    """All splits."""
    excluded_examples: dict[str, list[str]]
    test_attributes_missing: dict[str, int]
