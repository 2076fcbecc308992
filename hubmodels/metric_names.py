"""The one table of metric names, and of evaluation protocols. All metrics are fractions in [0, 1]."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How a metric is printed.

    Attributes:
        short: in tables, such as "I-AUROC".
        name: in text and on model cards, such as "image AUROC".
        hub_type: as the Hub calls it.
    """

    short: str
    name: str
    hub_type: str


METRICS = {  # by the key in `metrics.json`
    "image_auroc": Metric("I-AUROC", "image AUROC", "roc_auc"),
    "image_ap": Metric("I-AP", "image AP", "average_precision"),
    "image_f1_max": Metric("I-F1-max", "image F1-max", "f1"),
    "pixel_auroc": Metric("P-AUROC", "pixel AUROC", "roc_auc"),
    "pixel_ap": Metric("P-AP", "pixel AP", "average_precision"),
    "pixel_f1_max": Metric("P-F1-max", "pixel F1-max", "f1"),
    "aupro": Metric("AUPRO@0.3", "AUPRO@0.3", "aupro"),
    "false_alarm_rate": Metric("FAR", "false-alarm rate at the calibrated threshold", "false_alarm_rate"),
    "recall_at_threshold": Metric("recall", "recall at the calibrated threshold", "recall"),
    "outline_iou": Metric("IoU", "IoU of outlined and true defects, mean of the defective pictures", "mean_iou"),
    "cropped_defect_pixels": Metric(
        "cropped", "share of the defect pixels outside the inspected centre crop", "cropped_defect_pixels"
    ),
}
HEADLINE = (  # the columns of result tables
    *("image_auroc", "image_ap", "image_f1_max"),
    *("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"),
)
OVERVIEW = ("image_auroc", "pixel_auroc", "aupro")  # where there is room for three

PROTOCOLS = {  # which checkpoint was evaluated
    "last": "the last checkpoint",
    "best-on-test": "the best checkpoint on the test pictures",
}
