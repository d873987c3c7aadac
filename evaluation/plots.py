"""A report's figures, drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from detection.detections import BACKGROUND
from detection.names import class_name
from evaluation.results import Report

# Okabe and Ito's colours, told apart with any colour vision; weapons solid and warm, look-alikes dashed.
COLORS = {
    "pistol": "#D55E00", "knife": "#CC79A7",
    "billete": "#009E73", "monedero": "#0072B2", "smartphone": "#56B4E9", "tarjeta": "#E69F00",
}  # fmt: skip
OTHERS = ("#7B3294", "#8C510A", "#008080", "#4D4D4D", "#A6761D", "#1B7837", "#3F51B5", "#C51B7D")
GREY = "#5b6470"


def color_of(name: str, class_names: Sequence[str]) -> str:
    """Return the colour of a class: its own, or for a class of somebody's own the next of OTHERS."""
    if name in COLORS:
        return COLORS[name]
    others = [each for each in class_names[1:] if each not in COLORS]
    return OTHERS[others.index(name) % len(OTHERS)]


def title_of(name: str) -> str:
    """Return the English name of a class: banknote for billete."""
    return "nothing" if name == BACKGROUND else class_name(name, "en")


def draw_figures(report: Report) -> dict[str, Figure]:
    """Return the figures of a report by name."""
    return {
        "alarm": _alarm_figure(report),
        "precision_recall": _curves_figure(report),
        "classes": _classes_figure(report),
        "confusion": _confusion_figure(report),
        "errors": _errors_figure(report),
        "reliability": _reliability_figure(report),
    }


def draw_plots(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Return PNG files by name, relative to the report's folder."""
    return {f"plots/{name}.png": _png(figure) for name, figure in figures.items()}


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _axes(figure: Figure, rows: int, columns: int, at: int, title: str) -> Axes:
    axes = figure.add_subplot(rows, columns, at)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color="#1c2430")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b6bdc7")
    axes.tick_params(colors=GREY, labelsize=9)
    axes.grid(color="#e6e9ee", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _percent(axes: Axes, sides: str = "xy") -> None:
    for side in sides:
        getattr(axes, f"{side}axis").set_major_formatter(PercentFormatter(1, decimals=0))


def _alarm_figure(report: Report) -> Figure:
    figure = Figure(figsize=(10.5, 4), layout="constrained")
    thresholds = [point.score_threshold for point in report.alarm_curve]
    recall = [point.image_recall for point in report.alarm_curve]
    false = [point.false_alarms_per_1000 / 1000 for point in report.alarm_curve]
    point, chosen = report.measured, report.score_threshold
    left = _axes(figure, 1, 2, 1, "What an alarm catches and costs")
    left.plot(thresholds, recall, color=COLORS["pistol"], label="weapon images that raise an alarm")
    if point.weapon_free_images:
        left.plot(thresholds, false, "--", color=COLORS["monedero"], label="weapon-free images that do")
    left.axvline(chosen, color=GREY, linewidth=1)
    left.set(xlabel=f"score threshold (line: {chosen:.3f})", xlim=(0, 1.02), ylim=(-0.02, 1.05))
    left.legend(frameon=False, fontsize=9)
    _percent(left, "y")
    right = _axes(figure, 1, 2, 2, "Recall against false alarms")
    if point.weapon_free_images:
        right.plot([1000 * value for value in false], recall, color=COLORS["pistol"])
        right.plot(point.false_alarms_per_1000, point.image_recall, "o", color="#1c2430")
        right.annotate(
            "  operating point", (point.false_alarms_per_1000, point.image_recall), fontsize=9, va="top"
        )
        unsure = report.unsure_measured
        if unsure:
            at = (unsure.false_alarms_per_1000, unsure.image_recall)
            right.plot(*at, "o", color=GREY, fillstyle="none")
            right.annotate("  unsure point", at, fontsize=9, va="top")
        right.set(xlabel="false alarms per 1,000 weapon-free images", ylabel="weapon images found")
        right.set(ylim=(-0.02, 1.05))
        _percent(right, "y")
    else:
        right.set_axis_off()
        right.text(0.5, 0.5, "no weapon-free image to measure on", ha="center", color=GREY)
    return figure


def _curves_figure(report: Report) -> Figure:
    figure = Figure(figsize=(10.5, 4), layout="constrained")
    left = _axes(figure, 1, 2, 1, "Precision against recall (raw counts, IoU 0.5)")
    right = _axes(figure, 1, 2, 2, "F1 against score threshold")
    for result in report.classes:
        if not result.curve:
            continue
        style: dict[str, Any] = {
            "color": color_of(result.name, report.class_names),
            "linestyle": "-" if result.name in report.weapons else "--",
            "label": title_of(result.name),
        }
        left.plot([p.recall for p in result.curve], [p.precision for p in result.curve], **style)
        right.plot([p.score_threshold for p in result.curve], [p.f1 for p in result.curve], **style)
        if result.best:
            right.plot(result.best.score_threshold, result.best.f1, "o", color=style["color"], markersize=5)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.03))
    right.set(xlabel="score threshold (dot: best F1)", xlim=(0, 1.02), ylim=(0, 1.03))
    right.axvline(report.score_threshold, color=GREY, linewidth=1)
    if right.get_legend_handles_labels()[0]:
        right.legend(frameon=False, fontsize=9, loc="lower left")
    return figure


def _classes_figure(report: Report) -> Figure:
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    axes = _axes(
        figure,
        1,
        1,
        1,
        f"AP by class, 95 % intervals from drawing {drawn(report)} (filled: IoU 0.5:0.95; light: IoU 0.5)",
    )
    measured = [result for result in report.classes if result.ap is not None]
    for i, result in enumerate(measured):
        color = color_of(result.name, report.class_names)
        for offset, key, value, alpha in ((-0.2, "ap", result.ap, 1.0), (0.2, "ap50", result.ap50, 0.45)):
            axes.bar(i + offset, value or 0.0, 0.36, color=color, alpha=alpha)
            span = report.intervals.get(f"{key}/{result.name}")
            if span:
                axes.vlines(i + offset, span.low, span.high, color="#1c2430", linewidth=1.4)
    axes.set_xticks(range(len(measured)), [f"{title_of(r.name)}\n{r.boxes} boxes" for r in measured])
    axes.set_ylim(0, 1.03)
    axes.grid(visible=False, axis="x")
    return figure


def _confusion_figure(report: Report) -> Figure:
    counts = np.array(report.confusion, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [title_of(name) for name in report.class_names]
    figure = Figure(figsize=(8.2, 6.2), layout="constrained")
    axes = _axes(figure, 1, 1, 1, f"Counts at score {report.score_threshold:.2f}, shade: share of the row")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if row or column:
            shade = "white" if shares[row, column] > 0.55 else "#1c2430" if count else "#b6bdc7"
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=shade, fontsize=10)
    axes.set_xticks(range(len(names)), ["not found", *names[1:]], rotation=30, ha="right")
    axes.set_yticks(range(len(names)), ["nothing there", *names[1:]])
    axes.set(xlabel="detected as", ylabel="truth")
    axes.grid(visible=False)
    return figure


ERROR_COLORS = {
    "localisation": "#56B4E9", "wrong class": "#D55E00", "duplicate": "#E69F00",
    "background": "#8a93a0", "missed": "#1c2430",
}  # fmt: skip


def _errors_figure(report: Report) -> Figure:
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    axes = _axes(figure, 1, 1, 1, f"Errors at score {report.score_threshold:.2f}")
    names = [title_of(errors.label) for errors in report.errors]
    start = np.zeros(len(names))
    for kind, color in ERROR_COLORS.items():
        counts = np.array([getattr(errors, kind.replace(" ", "_")) for errors in report.errors], float)
        axes.barh(names, counts, left=start, color=color, label=kind, height=0.62)
        start += counts
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.legend(frameon=False, fontsize=9)
    return figure


RELIABILITY_LABELS = {
    "raw": "the network's scores", "calibrated": "calibrated on other recordings", "served": "as served",
}  # fmt: skip


def _reliability_figure(report: Report) -> Figure:
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axes = _axes(figure, 1, 1, 1, "Boxes of weapons: score against share right")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    styles = (("-", COLORS["pistol"]), ("--", COLORS["monedero"]))
    for one, (style, color) in zip(reversed(report.reliability), styles, strict=False):
        label = f"{RELIABILITY_LABELS[one.scores]}, error {one.error:.3f}"
        scores, right = [each.score for each in one.bins], [each.right for each in one.bins]
        axes.plot(scores, right, style, marker="o", markersize=4, color=color, label=label)
    axes.set(
        xlabel="mean score of a span", ylabel="boxes that were right", xlim=(0, 1.02), ylim=(-0.02, 1.05)
    )
    if report.reliability:
        axes.legend(frameon=False, fontsize=9, loc="upper left")
    _percent(axes, "y")
    return figure


def drawn(report: Report) -> str:
    """Return what the intervals drew again: "212 recordings", or images where recordings are unknown."""
    if report.recordings is None:
        return f"{report.images} images"
    return f"{report.recordings} recording{'s' * (report.recordings != 1)}"


def percent(value: float | None, digits: int = 1) -> str:
    """Return "91.2 %", or a dash for None."""
    return "\N{EN DASH}" if value is None else f"{100 * value:.{digits}f} %"


def figure(value: float | None, digits: int = 3) -> str:
    """Return "0.912", or a dash for None."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}"
