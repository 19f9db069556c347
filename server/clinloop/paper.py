"""What the paper says: its own numbers for each task, and in what its protocol differs from ours.

Source: arXiv 2604.17110 v1, text and digitised figures; its public prompts name 30 minutes a run where the text says 40.
Intervals are 95 % bootstrap intervals on its test sets.
"""

from __future__ import annotations

from typing import NamedTuple

from clinloop.targets import TaskName

PAPER = "arXiv 2604.17110 v1"


class Quoted(NamedTuple):
    """A value with its interval, as printed; None where the paper gives none."""

    value: float
    low: float | None = None
    high: float | None = None


class PaperMetric(NamedTuple):
    """One metric of the paper before and after."""

    called: str
    """What the paper calls it."""
    initial: Quoted | None
    """None = not in its text."""
    refined: Quoted | None
    p: str = ""
    """As printed; empty where it gives none."""
    note: str = ""
    """What to know when it is compared with ours."""


_P4, _P3 = "< 0.0001", "< 0.001"

NUMBERS: dict[TaskName, dict[str, PaperMetric]] = {
    "isic8": {
        "macro_auc": PaperMetric("AUC", Quoted(0.8786, 0.8682, 0.8888), Quoted(0.9153, 0.9054, 0.9245), _P4),
        "f1": PaperMetric("F1 (overall)", Quoted(0.4675, 0.4509, 0.4837), Quoted(0.6292, 0.6074, 0.6488), _P4),
        "auc_MEL": PaperMetric("melanoma AUC", Quoted(0.8422, 0.8296, 0.8545), Quoted(0.9155, 0.9066, 0.9238), _P4),
        "sensitivity_MEL": PaperMetric(
            "melanoma sensitivity", Quoted(0.6775, 0.6520, 0.7026), Quoted(0.7415, 0.7177, 0.7649), _P4
        ),
        "specificity_MEL": PaperMetric(
            "melanoma specificity", Quoted(0.8133, 0.8022, 0.8243), Quoted(0.9095, 0.9016, 0.9174), _P4
        ),
    },
    "mel-nv": {
        "auc_MEL": PaperMetric("AUC", Quoted(0.7754, 0.7594, 0.7911), Quoted(0.9424, 0.9347, 0.9497), _P4),
        "sens_at_spec80_MEL": PaperMetric(
            "sensitivity at 80 % specificity", Quoted(0.6021, 0.5707, 0.6335), Quoted(0.9089, 0.8903, 0.9254), _P4
        ),
        "sensitivity_MEL": PaperMetric("sensitivity", None, None, _P4, "drawn in its figure 3, not in its text"),
        "specificity_MEL": PaperMetric("specificity", None, None, _P4, "drawn in its figure 3, not in its text"),
    },
    "wrist": {
        "ap50": PaperMetric("mAP50", None, None, "", "a modest gain, without a number"),
        "ap50_95": PaperMetric("mAP50:95", Quoted(0.4705, 0.4620, 0.4822), Quoted(0.5114, 0.5031, 0.5220), _P3),
        "precision": PaperMetric("precision@50", Quoted(0.7739, 0.7607, 0.7868), Quoted(0.8172, 0.8050, 0.8292), _P3),
        "f1": PaperMetric("F1@50", Quoted(0.8438, 0.8342, 0.8531), Quoted(0.8698, 0.8604, 0.8783), _P3),
    },
    "wrist-5pct": {
        "ap50": PaperMetric("mAP50", Quoted(0.7943, 0.7827, 0.8059), Quoted(0.8517, 0.8417, 0.8615)),
        "ap50_95": PaperMetric(
            "mAP50:95",
            Quoted(0.5462, 0.5351, 0.5573),
            Quoted(0.6360, 0.6253, 0.6463),
            note="higher than with all boxes (.511): class set, evaluator or test set must differ between its tasks 3 and 4",
        ),
        "recall": PaperMetric("recall", Quoted(0.5066, 0.4895, 0.5239), Quoted(0.7173, 0.7025, 0.7321)),
        "f1": PaperMetric("F1", Quoted(0.6639, 0.6484, 0.6792), Quoted(0.8133, 0.8022, 0.8244)),
        "precision": PaperMetric("precision", Quoted(0.9627, 0.9537, 0.9713), Quoted(0.9392, 0.9296, 0.9485)),
    },
    "drain": {
        "auc_drain": PaperMetric("AUC", None, Quoted(0.9987), note="one model, not compared with a baseline"),
        "sensitivity_drain": PaperMetric("sensitivity", None, Quoted(1.0)),
        "specificity_drain": PaperMetric("specificity", None, Quoted(0.9521)),
    },
    "pneumothorax": {
        "fp_share_drain": PaperMetric(
            "share of false positives with a drain",
            Quoted(0.60),
            Quoted(0.31),
            note="at the Youden threshold; on which set is not said",
        ),
        "raw_r_drain": PaperMetric("correlation with the drain", Quoted(0.67), Quoted(0.53)),
        "partial_r_drain": PaperMetric(
            "partial correlation with the drain",
            Quoted(0.48),
            Quoted(0.26),
            note="it states -47 %, the rounded values give -46 %",
        ),
        "auc_pneumothorax": PaperMetric("AUC", None, None, note="not reported: the price of debiasing is not known"),
    },
}
"""By the name of our metric."""

DRAIN_SHARE_OF_NEGATIVES = 0.102
"""Share of films without pneumothorax that have a drain (predicted, training set): what figure 5B expects of false positives."""

EVOLUTION: tuple[tuple[int, float | None], ...] = (
    (1, 0.582), (2, 0.690), (3, 0.614), (4, 0.643), (5, None), (6, 0.760), (7, 0.785), (8, 0.840), (9, 0.869), (10, 0.861), (11, 0.832),
    (12, 0.831), (13, 0.826), (14, 0.869), (15, 0.825), (16, 0.845), (17, 0.873),
)  # fmt: skip
"""Figure 4 of the paper: (run, validation mAP50), digitised to about .002; run 5 has no point."""

PROTOCOL: dict[str, str] = {
    "budget": "at most 30 rounds of 40 minutes after the initial model, on two L40S",
    "acceptance": "strictly better on the best validation value inside a run",
    "resample unit": "not stated, nor how many resamples",
    "threshold": "not stated on which set it was chosen",
}
"""What holds for all its tasks."""

TASK_PROTOCOL: dict[TaskName, dict[str, str]] = {
    "isic8": {
        "data": "ISIC 2019",
        "split": "the official test set without UNK (6,191 images, inferred from its intervals); train and validation split not stated",
        "seed network": "not named for the initial model; ConvNeXt-Tiny in its figure texts",
        "primary metric": "not named; AUC by the order of its table",
    },
    "mel-nv": {
        "data": "melanoma and nevus of ISIC 2019",
        "split": "the official test set (3,822 images, inferred); train and validation split not stated",
        "seed network": "not named for the initial model",
        "primary metric": "AUC",
    },
    "wrist": {
        "data": "GRAZPEDWRI-DX",
        "split": "not stated, nor whether by patient; about 4,000 test images by its intervals",
        "seed network": "YOLOv8m",
        "primary metric": "mAP50:95",
        "threshold": "not stated; recall of .93 follows from precision and F1",
    },
    "wrist-5pct": {
        "data": "GRAZPEDWRI-DX, 425 images with boxes and 7,637 with image labels only",
        "split": "not stated, nor whether by patient",
        "seed network": "YOLOv8m",
        "primary metric": "mAP50",
        "threshold": "not stated; precision .96 with recall .51 is not the largest F1",
    },
    "drain": {
        "data": "NEATX on NIH ChestX-ray14",
        "split": "held-out part of NEATX, size not stated",
        "seed network": "not named",
        "primary metric": "not named",
    },
    "pneumothorax": {
        "data": "SIIM-ACR pneumothorax with masks; drains predicted by a model",
        "split": "not stated, nor whether by patient",
        "seed network": "ConvNeXt-Tiny with an auxiliary segmentation head, no debiasing",
        "primary metric": "AUC, which does not see the confounder",
        "threshold": "Youden, not stated on which set",
    },
}
"""What each task adds to it or has otherwise."""
