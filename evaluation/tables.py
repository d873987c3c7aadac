"""What a terminal shows of a report: its main figures, another report's beside them."""

from __future__ import annotations

from rich.table import Table

from evaluation.plots import figure, title_of
from evaluation.results import Report, flat_metrics
from evaluation.video import VideoResult, table_rows


def figures_table(result: Report, other: Report | None = None) -> Table:
    """Return the main figures as a table, those of another report beside them if given."""
    shown = [result] if other is None else [result, other]
    table = Table(title=f"{result.title}, {result.images} images", title_justify="left")
    table.add_column("")
    for one in shown:
        table.add_column(one.model or one.title, justify="right")
    aps = {f"ap/{name}": f"{title_of(name)} AP" for name in result.weapons}
    figures = [flat(one) for one in shown]
    for key, label in (AVERAGES | aps | FIGURES).items():
        values = [one.get(key) for one in figures]
        if any(value is not None for value in values):
            table.add_row(
                label, *(figure(value, 1 if "1000" in key or "ms" in key else 4) for value in values)
            )
    return table


def video_table(result: VideoResult) -> Table:
    """Return what the cameras' rule made of clips as a table."""
    figures = result.figures
    title = (
        f"{figures.clips} clips of {figures.recordings} recordings, {figures.rate:g} pictures a second, "
        f"{figures.needed} of {figures.window}, {figures.runtime}"
    )
    table = Table("", "", title=title, title_justify="left", show_header=False)
    for row in table_rows(figures):
        table.add_row(*row)
    return table


AVERAGES = {
    "map": "mAP, COCO",
    "map_50": "mAP at IoU 0.50, COCO",
    "map_75": "mAP at IoU 0.75, COCO",
    "original_protocol/map": "mAP, best box per class",
    "original_protocol/map_50": "mAP at IoU 0.50, best box per class",
    "original_subset/map": "the same on the original's images: mAP",
    "original_subset/map_50": "the same on the original's images: mAP at IoU 0.50",
    "published/map": "published by the original: mAP, best box per class",
    "published/map_50": "published by the original: mAP at IoU 0.50",
}
FIGURES = {
    "alarm/score_threshold": "alarm from score",
    "alarm/image_recall": "weapon images that raise an alarm",
    "alarm/false_alarms_per_1000": "false alarms per 1,000 weapon-free images",
    "unsure/score_threshold": "unsure from score",
    "unsure/image_recall": "weapon images at least unsure",
    "unsure/false_alarms_per_1000": "unsure or alarms per 1,000 weapon-free images",
    "calibration_error/raw": "calibration error, the network's scores",
    "calibration_error/calibrated": "calibration error, calibrated on other recordings",
    "calibration_error/served": "calibration error",
    "lookalike_alarm_rate": "look-alikes taken for a weapon",
    "weapon_as_lookalike_rate": "weapons taken for a look-alike",
    "latency/detect_median_ms": "ms per image, median",
}


def flat(result: Report) -> dict[str, float]:
    """Return the figures of a report by the keys of figures_table."""
    measured = {key.partition("/")[2]: value for key, value in flat_metrics(result).items()}
    beside = {"original_subset": result.original_subset, "published": result.published}
    return measured | {f"{name}/{key}": value for name, part in beside.items() for key, value in part.items()}
