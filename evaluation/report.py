"""A metrics.Report on disk: report.json, plots as PNG, drawn examples, and one self-contained report.html."""

from __future__ import annotations

import base64
import io
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image as PillowImage
from pydantic import TypeAdapter, ValidationError

import imaging
from detections import BACKGROUND, LOOKALIKES, WEAPONS
from metrics import ImageResult, LookalikeCell, Report

ENGLISH = {"billete": "banknote", "monedero": "wallet", "tarjeta": "bank card", BACKGROUND: "nothing"}
# Okabe and Ito's colours, told apart with any colour vision; weapons solid and warm, look-alikes dashed.
COLORS = {
    "pistol": "#D55E00", "knife": "#CC79A7",
    "billete": "#009E73", "monedero": "#0072B2", "smartphone": "#56B4E9", "tarjeta": "#E69F00",
}  # fmt: skip
GREY = "#5b6470"
EXAMPLE_PX = 480  # longer side of an example picture, before captions are drawn
log = logging.getLogger(__name__)
TEMPLATE = Path(__file__).with_name("report_template.html")
_ADAPTER = TypeAdapter(Report)


class ReportError(ValueError):
    """The report cannot be written or read; the message says why."""


class Picture(Protocol):
    """What an example needs of a dataset.Sample."""

    @property
    def image_path(self) -> Path:
        """The picture's file."""


def write_report(report: Report, folder: Path, samples: Sequence[Picture] = ()) -> Path:
    """Write report.json, plots/*.png, examples/*.jpg and report.html, which holds all of them.

    Args:
        report: of metrics.build_report.
        folder: made if absent; files of an earlier report in it are overwritten.
        samples: the images of the report in its order, for the examples; without them there are none.

    Returns:
        The path of report.html.

    Raises:
        ReportError: the folder cannot be written.
    """
    plots = draw_plots(report)
    examples = draw_examples(report, samples)
    page = render_page(report, plots, examples)
    try:
        for name, content in (plots | examples).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        (folder / "report.json").write_bytes(_ADAPTER.dump_json(report, indent=1))
        (folder / "report.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise ReportError(
            f"cannot write the report into {folder}: {error.strerror}. Choose another folder."
        ) from error
    return folder / "report.html"


def check_writable(folder: Path) -> None:
    """Make sure that a report can be written, before hours of work go into it.

    Raises:
        ReportError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ReportError(
            f"cannot write the report into {folder}: {error.strerror}. Choose another folder."
        ) from error


def read_report(path: Path) -> Report:
    """Read a report.json, or the one in a folder.

    Raises:
        ReportError: there is none, or it is not one of this version.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        return _ADAPTER.validate_json(file.read_bytes())
    except OSError as error:
        raise ReportError(f"expected a report at {file}: {error.strerror}") from error
    except ValidationError as error:
        raise ReportError(
            f"{file} is not a report of this version: {error.error_count()} fields differ"
        ) from error


def title_of(name: str) -> str:
    """Return the English name of a class: banknote for billete."""
    return ENGLISH.get(name, name)


# --- plots ------------------------------------------------------------------------------------------


def draw_plots(report: Report) -> dict[str, bytes]:
    """Return PNG files by name, relative to the report's folder."""
    figures = {
        "alarm": _alarm_figure(report),
        "precision_recall": _curves_figure(report),
        "classes": _classes_figure(report),
        "confusion": _confusion_figure(report),
        "errors": _errors_figure(report),
    }
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
            "color": COLORS.get(result.name, GREY),
            "linestyle": "-" if result.name in WEAPONS else "--",
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
        color = COLORS.get(result.name, GREY)
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


# --- examples ---------------------------------------------------------------------------------------


def draw_examples(report: Report, samples: Sequence[Picture]) -> dict[str, bytes]:
    """Return the worst and best images with detections and missed boxes drawn, JPEG files by name.

    A picture that cannot be read any more is left out: a long run is not lost for it.
    """
    examples = {}
    for group, results in (("worst", report.worst), ("best", report.best)):
        for result in results if samples else ():
            try:
                image = imaging.decode_image(samples[result.index].image_path.read_bytes())
            except (imaging.ImageError, OSError) as error:
                log.warning("no example of %s: %s", result.name, error)
                continue
            examples[example_name(group, result)] = imaging.encode_image(
                draw_example(image, result), quality=82
            )
    return examples


def example_name(group: str, result: ImageResult) -> str:
    """Return the file name of an example, relative to the report's folder."""
    return f"examples/{group}_{result.index:05d}.jpg"


def draw_example(image: imaging.Image, result: ImageResult) -> imaging.Image:
    """Draw what was detected, and the truth boxes without a right detection as "truth: NAME".

    Args:
        image: (H, W, 3) uint8 RGB, the image of result; its longer side is cut to EXAMPLE_PX.
        result: its boxes.
    """
    scale = min(1.0, EXAMPLE_PX / max(image.shape[:2]))
    picture = PillowImage.fromarray(image)
    small = np.asarray(picture.resize([max(1, round(side * scale)) for side in picture.size]))
    shown = [*result.found, *(box for box in result.truth if box.kind != "correct")]
    captions = [
        f"truth: {title_of(box.label)}" if box.score is None else f"{title_of(box.label)} {box.score:.2f}"
        for box in shown
    ]
    boxes = np.array([box.box for box in shown], np.float32).reshape(-1, 4) * np.float32(scale)
    return imaging.draw_boxes(small, boxes, captions, [box.label in WEAPONS for box in shown])


# --- the page ---------------------------------------------------------------------------------------

COCO_ROWS = (
    ("map", "mAP, IoU 0.50 to 0.95"),
    ("map_50", "mAP at IoU 0.50"),
    ("map_75", "mAP at IoU 0.75"),
    ("map_small", "mAP, boxes under 32 x 32 px"),
    ("map_medium", "mAP, boxes up to 96 x 96 px"),
    ("map_large", "mAP, larger boxes"),
    ("mar_1", "mean recall, 1 box per class and image"),
    ("mar_10", "mean recall, 10 boxes"),
    ("mar_100", "mean recall, 100 boxes"),
    ("mar_small", "mean recall, boxes under 32 x 32 px"),
    ("mar_medium", "mean recall, boxes up to 96 x 96 px"),
    ("mar_large", "mean recall, larger boxes"),
)


def render_page(report: Report, plots: dict[str, bytes], examples: dict[str, bytes]) -> str:
    """Return report.html: one page that needs no other file and no network.

    Args:
        report: what it shows.
        plots: of draw_plots.
        examples: of draw_examples; empty for none.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": percent,
        "figure": figure,
        "english": title_of,
        "in_english": in_english,
        "drawn": drawn,
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        plots={Path(name).stem: _data_url(content, "png") for name, content in plots.items()},
        worst=_shown("worst", report.worst, examples),
        best=_shown("best", report.best, examples),
        rows=[row for row in COCO_ROWS if row[0] in report.coco],
        lookalikes=lookalike_rows(report.lookalikes),
        weapons=[name for name in WEAPONS if name in report.class_names],
    )


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _shown(
    group: str, results: Sequence[ImageResult], examples: dict[str, bytes]
) -> list[tuple[ImageResult, str]]:
    """Return each example with the address of its picture, empty without one."""
    names = [example_name(group, result) for result in results]
    return [
        (result, _data_url(examples[name], "jpeg") if name in examples else "")
        for result, name in zip(results, names, strict=True)
    ]


def lookalike_rows(cells: Sequence[LookalikeCell]) -> list[tuple[str, list[LookalikeCell]]]:
    """Return the cells by look-alike, "any" last, each row in the order of the weapons."""
    names = [name for name in (*LOOKALIKES, "any") if any(cell.lookalike == name for cell in cells)]
    return [(name, [cell for cell in cells if cell.lookalike == name]) for name in names]


def in_english(sentence: str) -> str:
    """Return a sentence with the English names of the classes in it."""
    return " ".join(title_of(word) for word in sentence.split(" "))


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
