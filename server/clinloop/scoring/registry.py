"""The metrics: what each is called, means and needs. The numbers are computed elsewhere, and nothing here imports numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from clinloop.scoring.metrics import Scheme

Direction = Literal["higher", "lower"]
TaskType = Literal["classification", "detection", "segmentation"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric, or one family that takes a class, a confounder or a target and is called `<family>_<class>` and so on."""

    name: str
    """As an agent writes it; a family ends in `_<class>`, `_<confounder>` or `_<target>`."""
    title: str
    undefined: str
    """When there is no value: then it is None, never 0."""
    task_type: TaskType = "classification"
    direction: Direction = "higher"
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    needs_operating_point: bool = False

    @property
    def per_class(self) -> bool:
        """Whether the name is completed by a class."""
        return self.name.endswith("_<class>")

    @property
    def per_confounder(self) -> bool:
        """Whether the name is completed by a confounder."""
        return self.name.endswith("_<confounder>")

    @property
    def per_target(self) -> bool:
        """Whether the name is completed by a target."""
        return self.name.endswith("_<target>")

    @property
    def family(self) -> str:
        """The name without what completes it, the underscore included."""
        return self.name.removesuffix("<class>").removesuffix("<confounder>").removesuffix("<target>")

    def of(self, name: str) -> str:
        """Return the full name of a family member."""
        return self.family + name

    def members(self, scheme: Scheme) -> Sequence[str]:
        """Return what may complete the name; nothing for a metric that stands alone."""
        if self.per_confounder:
            return scheme.confounders if len(scheme.classes) == 2 else ()
        if self.per_target:
            return scheme.targets if len(scheme.targets) > 1 else ()
        return scheme.classes if self.per_class else ()


# "Decided class": the class with the largest probability (the first of equals). Two classes of which one is declared positive are decided
# by the operating point of the positive class instead.
METRICS: tuple[Metric, ...] = (
    Metric(
        name="macro_auc",
        title="Macro AUC (mean of the one-vs-rest ROC AUCs)",
        undefined="classes without a case, or without a case of another class, are left out; None if none remains",
    ),
    Metric(
        name="auc_<class>",
        title="AUC (one-vs-rest, ties by midranks)",
        undefined="no case of the class, or none of another class",
    ),
    Metric(
        name="macro_auprc",
        title="Macro AUPRC (mean of the one-vs-rest average precisions)",
        undefined="classes without a case are left out; None if none remains",
    ),
    Metric(
        name="auprc_<class>",
        title="AUPRC (average precision, one-vs-rest; chance gives the prevalence)",
        undefined="no case of the class",
    ),
    Metric(
        name="f1",
        title="Macro F1 of the decided classes",
        undefined="classes with neither a case nor a decision are left out; None if none remains",
    ),
    Metric(
        name="f1_<class>",
        title="F1 of the decided class",
        undefined="neither a case of the class nor a decision for it",
    ),
    Metric(
        name="mcc",
        title="Matthews correlation of the decided classes with the true ones",
        low=-1.0,
        undefined="all cases are of one class, or all decisions are for one",
    ),
    Metric(
        name="sensitivity_<class>",
        title="Sensitivity at the operating point fixed on validation",
        undefined="no case of the class, or no operating point could be fixed",
        needs_operating_point=True,
    ),
    Metric(
        name="specificity_<class>",
        title="Specificity at the operating point fixed on validation",
        undefined="no case of another class, or no operating point could be fixed",
        needs_operating_point=True,
    ),
    Metric(
        name="ppv_<class>",
        title="Positive predictive value at the operating point fixed on validation",
        undefined="no case at or above the operating point, or none could be fixed",
        needs_operating_point=True,
    ),
    Metric(
        name="npv_<class>",
        title="Negative predictive value at the operating point fixed on validation",
        undefined="no case below the operating point, or none could be fixed",
        needs_operating_point=True,
    ),
    Metric(
        name="mcc_<class>",
        title="Matthews correlation at the operating point fixed on validation",
        low=-1.0,
        undefined="no case on a side of the class or of its operating point, or none could be fixed",
        needs_operating_point=True,
    ),
    Metric(
        name="sens_at_spec80_<class>",
        title="Sensitivity at 80 % specificity (point of the ROC curve, not an operating point)",
        undefined="no case of the class, or none of another class",
    ),
    Metric(
        name="sens_at_spec90_<class>",
        title="Sensitivity at 90 % specificity (point of the ROC curve, not an operating point)",
        undefined="no case of the class, or none of another class",
    ),
    Metric(
        name="spec_at_sens95_<class>",
        title="Specificity at 95 % sensitivity (point of the ROC curve, not an operating point)",
        undefined="no case of the class, or none of another class",
    ),
    Metric(
        name="balanced_accuracy",
        title="Balanced accuracy (mean recall of the decided classes)",
        undefined="classes without a case are left out; None if none remains",
    ),
    Metric(name="accuracy", title="Accuracy of the decided classes", undefined="no case"),
    Metric(
        name="brier",
        title="Brier score (half the squared distance to the truth, mean over cases)",
        direction="lower",
        undefined="no case",
    ),
    Metric(
        name="brier_<class>",
        title="Brier score of the class (squared error of its probability, mean over cases)",
        direction="lower",
        undefined="no case",
    ),
    Metric(
        name="ece",
        title="Expected calibration error (15 equal bins; of more than two classes the confidence in the most probable one)",
        direction="lower",
        undefined="no case",
    ),
    Metric(
        name="ece_<class>",
        title="Expected calibration error of the probability of the class (15 equal bins)",
        direction="lower",
        undefined="no case",
    ),
    Metric(
        name="net_benefit_<class>",
        title="Net benefit of acting from a probability of 10 % on (a hit is worth 9 false alarms; acting on nobody is 0)",
        low=-1 / 9,
        unit="hits per case",
        undefined="no case",
    ),
    # Confounder metrics: two classes; "positive" is the positive class, a case has the confounder where its value is at least 0.5, and
    # cases whose value is missing are left out.
    Metric(
        name="conflict_auc_<confounder>",
        title="AUC of positives without the confounder against negatives with it",
        undefined="no positive case without the confounder, or no negative case with it",
    ),
    Metric(
        name="partial_r_<confounder>",
        title="Absolute correlation of the positive probability with the confounder, given the label",
        direction="lower",
        undefined="within the labels, the probability or the confounder does not vary",
    ),
    Metric(
        name="raw_r_<confounder>",
        title="Absolute correlation of the positive probability with the confounder",
        direction="lower",
        undefined="the probability or the confounder does not vary",
    ),
    Metric(
        name="fp_share_<confounder>",
        title="Share of the false positives at the operating point that have the confounder",
        direction="lower",
        undefined="no false positive, or no operating point could be fixed",
        needs_operating_point=True,
    ),
    # Detection: boxes are matched as COCO does, at most 100 a case; means are over the targets that have a box.
    Metric(
        name="ap50",
        task_type="detection",
        title="Average precision of boxes at IoU 0.5 (COCO, 101 points)",
        undefined="no box in the truth",
    ),
    Metric(
        name="ap75",
        task_type="detection",
        title="Average precision of boxes at IoU 0.75 (COCO, 101 points)",
        undefined="no box in the truth",
    ),
    Metric(
        name="ap50_95",
        task_type="detection",
        title="Average precision of boxes, mean over IoU 0.5 to 0.95 (COCO, 101 points)",
        undefined="no box in the truth",
    ),
    Metric(
        name="ap50_95_small",
        task_type="detection",
        title="Average precision of boxes of at most 32² pixels, mean over IoU 0.5 to 0.95 (COCO, 101 points; pixels of the image file)",
        undefined="no box of that size in the truth",
    ),
    Metric(
        name="ap50_95_medium",
        task_type="detection",
        title="Average precision of boxes of 32² to 96² pixels, mean over IoU 0.5 to 0.95 (COCO, 101 points; pixels of the image file)",
        undefined="no box of that size in the truth",
    ),
    Metric(
        name="ap50_95_large",
        task_type="detection",
        title="Average precision of boxes of at least 96² pixels, mean over IoU 0.5 to 0.95 (COCO, 101 points; pixels of the image file)",
        undefined="no box of that size in the truth",
    ),
    Metric(
        name="ap50_<target>",
        task_type="detection",
        title="Average precision of boxes at IoU 0.5 (COCO, 101 points)",
        undefined="no box of the target in the truth",
    ),
    Metric(
        name="ar100",
        task_type="detection",
        title="Average recall of boxes, mean over IoU 0.5 to 0.95 (COCO, whatever their score, at most 100 an image)",
        undefined="no box in the truth",
    ),
    Metric(
        name="precision",
        task_type="detection",
        title="Precision of boxes (IoU at least 0.5) at the operating point fixed on validation",
        undefined="no predicted box at the operating point, or no operating point could be fixed",
        needs_operating_point=True,
    ),
    Metric(
        name="recall",
        task_type="detection",
        title="Recall of boxes (IoU at least 0.5) at the operating point fixed on validation",
        undefined="no box in the truth, or no operating point could be fixed",
        needs_operating_point=True,
    ),
    Metric(
        name="f1",
        task_type="detection",
        title="F1 of boxes (IoU at least 0.5) at the operating point fixed on validation",
        undefined="neither a box in the truth nor a predicted one, or no operating point could be fixed",
        needs_operating_point=True,
    ),
    Metric(
        name="froc",
        task_type="detection",
        title="FROC score (mean recall of boxes, IoU at least 0.5, at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false boxes per image)",
        undefined="no box in the truth",
    ),
    *(
        Metric(
            name=f"froc_{rate.replace('/', '_')}",
            task_type="detection",
            title=f"Recall of boxes at no more than {rate} false boxes per image (IoU at least 0.5; point of the FROC curve, not an operating point)",
            undefined="no box in the truth",
        )
        for rate in ("1/8", "1/4", "1/2", "1", "2", "4", "8")
    ),
    Metric(
        name="image_auc",
        task_type="detection",
        title="AUC of images with a box against images without, by the best score in the image",
        undefined="no image with a box, or none without",
    ),
    # Segmentation: distances are between outlines, in pixels of the image file. An image without the target counts only where it is said.
    Metric(
        name="dice",
        task_type="segmentation",
        title="Dice coefficient (mean over the images that have the target)",
        undefined="no image has the target",
    ),
    Metric(
        name="dice_all",
        task_type="segmentation",
        title="Dice coefficient of all images (mean; 1 where both masks are empty, 0 where one is)",
        undefined="no image",
    ),
    Metric(
        name="iou",
        task_type="segmentation",
        title="Intersection over union (mean over the images that have the target)",
        undefined="no image has the target",
    ),
    Metric(
        name="hd95",
        task_type="segmentation",
        title="Hausdorff distance of outlines in pixels, 95th percentile (mean over the images that have the target; an empty prediction counts as the image's diagonal)",
        direction="lower",
        high=float("inf"),
        unit="px",
        undefined="no image has the target",
    ),
    Metric(
        name="nsd",
        task_type="segmentation",
        title="Normalised surface distance at 2 pixels (share of both outlines that is no farther from the other, mean over the images that have the target; 0 where the prediction is empty)",
        undefined="no image has the target",
    ),
    Metric(
        name="image_sensitivity",
        task_type="segmentation",
        title="Share of the images with the target in which a pixel is predicted",
        undefined="no image has the target",
    ),
    Metric(
        name="image_specificity",
        task_type="segmentation",
        title="Share of the images without the target in which no pixel is predicted",
        undefined="every image has the target",
    ),
)
