"""What `clinloop reproduce` can play: the tasks of the paper (arXiv 2604.17110), each with its data, request, contract and trajectory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

TaskName = Literal["isic8", "mel-nv", "wrist", "wrist-5pct", "drain", "pneumothorax"]
TASK_NAMES: tuple[TaskName, ...] = get_args(TaskName)


@dataclass(frozen=True)
class Source:
    """A dataset that a task is done on."""

    dataset: str
    """Name that it is added under; tasks that name the same one share it."""
    standin: str
    """Public data set: the layout of real data, and the stand-in that is drawn where none are given."""
    images: int
    """Training images of the stand-in."""
    gpu_px: int = 224
    """Input side of the template on a GPU: that of the decoded cache for longer budgets."""
    ingest: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further arguments of `ingestion.add`."""


@dataclass(frozen=True)
class Drains:
    """An attribute that another task's model predicts."""

    task: TaskName
    """Task whose final model predicts it; it is played first."""
    column: str
    """Name of the attribute."""


@dataclass(frozen=True)
class Target:
    """One task of the paper."""

    title: str
    source: Source
    template: str
    trajectory: str
    request: str
    """The clinician's words."""
    spec: dict[str, Any]
    """What the agent makes of them; the budget comes from the preset."""
    annotation: Drains | None = None
    """What the data must be annotated with before the task starts."""


_ISIC = Source("isic2019", "isic2019", 2000)
_WRIST_REQUEST = (
    "While I read wrist radiographs of children, mark every place where you suspect a fracture. A mark too many is fine, I look again; "
    "a fracture that nobody marks is not."
)
_WRIST_SPEC: dict[str, Any] = {
    "task_type": "detection",
    "objective": "Find fractures on wrist radiographs of children and mark each with a box.",
    "targets": ["fracture"],
    "risk_preference": "sensitivity_first",
    "primary_metric": "ap50",
    "reported_metrics": ["ap50", "ap50_95", "precision", "recall", "f1", "image_auc"],
}

TARGETS: dict[TaskName, Target] = {
    "isic8": Target(
        title="Task 1: eight diagnoses of skin lesions, melanoma first",
        source=_ISIC,
        template="classification",
        trajectory="isic8",
        request="Help me to tell what these skin lesions are. Melanoma comes first: I would rather check a harmless mole than miss a melanoma.",
        spec={
            "objective": "Classify dermoscopic images into the eight diagnoses of ISIC 2019, melanoma first.",
            "emphasised_classes": [{"class_name": "MEL", "why": "a missed melanoma can kill"}],
            "risk_preference": "sensitivity_first",
            "primary_metric": "macro_auc",
            "reported_metrics": [
                "macro_auc",
                "auc_MEL",
                "sens_at_spec80_MEL",
                "sensitivity_MEL",
                "specificity_MEL",
                "f1",
                "balanced_accuracy",
            ],
            "operating_point": "sensitivity>=0.8",
            "guards": [{"metric": "auc_MEL", "margin": 0.02}],
            "assumptions": ["All eight diagnoses matter; images that are none of them are out of scope."],
            "open_questions": [
                "Is a sensitivity of 80 % for melanoma on validation enough, or should the threshold be lower?"
            ],
        },
    ),
    "mel-nv": Target(
        title="Task 2: melanoma or nevus, miss no melanoma",
        source=_ISIC,
        template="classification",
        trajectory="mel-nv",
        request="Tell melanoma from nevus for me, and do not let a melanoma slip through.",
        spec={
            "objective": "Tell melanoma from melanocytic nevus on dermoscopic images without missing a melanoma.",
            "target_classes": ["MEL", "NV"],
            "positive_class": "MEL",
            "emphasised_classes": [{"class_name": "MEL", "why": "a missed melanoma can kill"}],
            "risk_preference": "sensitivity_first",
            "primary_metric": "auc_MEL",
            "reported_metrics": ["auc_MEL", "sens_at_spec80_MEL", "sensitivity_MEL", "specificity_MEL", "f1"],
            "operating_point": "sensitivity>=0.9",
            "guards": [{"metric": "sens_at_spec80_MEL", "margin": 0.05}],
            "assumptions": ["Only lesions that are one or the other are shown to the model."],
            "open_questions": ["How many benign moles may be cut out for one melanoma that is found?"],
        },
    ),
    "wrist": Target(
        title="Task 3: fractures of the wrist, all training images with boxes",
        source=Source("grazpedwri", "grazpedwri", 2000),
        template="detection",
        trajectory="wrist",
        request=_WRIST_REQUEST,
        spec=_WRIST_SPEC,
    ),
    "wrist-5pct": Target(
        title="Task 4: fractures of the wrist, boxes on 5 % of the training images",
        source=Source("grazpedwri-5pct", "grazpedwri", 2000, ingest={"keep_boxes": 0.05}),
        template="mixed_detection",
        trajectory="wrist-5pct",
        request=_WRIST_REQUEST,
        spec=_WRIST_SPEC,
    ),
    "drain": Target(
        title="Helper model for task 5: chest drains",
        source=Source("neatx", "neatx", 1200),
        template="classification",
        trajectory="drain",
        request="Tell me on which of these chest films there is a drain in the chest. I want to use it to check another model.",
        spec={
            "objective": "Tell chest radiographs with a chest drain from those without.",
            "positive_class": "drain",
            "emphasised_classes": [{"class_name": "drain", "why": "the answer is used as an attribute of other films"}],
            "primary_metric": "auc_drain",
            "reported_metrics": ["auc_drain", "sensitivity_drain", "specificity_drain", "f1"],
            "operating_point": "youden",
            "assumptions": ["Any tube that drains the pleural space counts, whatever its side."],
        },
    ),
    "pneumothorax": Target(
        title="Task 5: pneumothorax, with chest drains as a confounder",
        source=Source("siim-acr", "siim_acr", 1600, gpu_px=512),
        template="confounded_classification",
        trajectory="pneumothorax",
        request=(
            "Find the pneumothorax on these chest films. Take drains seriously: a drain shows that somebody has treated a pneumothorax "
            "already, and I need those that nobody has seen yet."
        ),
        spec={
            "objective": "Tell chest radiographs with a pneumothorax from those without, by the lung and not by the drain.",
            "positive_class": "pneumothorax",
            "emphasised_classes": [{"class_name": "pneumothorax", "why": "untreated, it can kill"}],
            "primary_metric": "conflict_auc_drain",
            "reported_metrics": [
                "conflict_auc_drain",
                "auc_pneumothorax",
                "partial_r_drain",
                "raw_r_drain",
                "fp_share_drain",
                "sensitivity_pneumothorax",
                "specificity_pneumothorax",
            ],
            "operating_point": "youden",
            "guards": [
                {"metric": "auc_pneumothorax", "margin": 0.2},
                {"metric": "partial_r_drain", "margin": 0.02},
            ],
            "confounders": [
                {
                    "attribute": "drain",
                    "why": "a drain is the treatment of a pneumothorax, and most films with one show it after treatment",
                }
            ],
            "assumptions": [
                "The films that count are those on which drain and disease disagree, so they decide: a pneumothorax without a drain must rank above "
                "a healthy film with one.",
                "A step may cost up to .2 of the AUC over all films, because the drain alone carries AUC; the report states what was paid.",
            ],
            "open_questions": ["How much AUC over all films may it cost to be right on films without a drain?"],
        },
        annotation=Drains("drain", "drain"),
    ),
}
"""In the order in which `clinloop reproduce all` plays them: a task comes after the one whose model it needs."""
