"""Places on a report's drawn curves that lead to the pictures behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.plots import title_of
from evaluation.results import Report

MOST_ON_A_CURVE = 40
Point = TypeVar("Point")


@dataclass(frozen=True)
class Spot:
    """A place on a plot: percent of its width from the left and of its height from the top."""

    left: float
    top: float
    link: str
    title: str


def look_link(**filters: object) -> str:
    """Return the address, within a report's page, of its pictures under some filters."""
    return f"#look?{urlencode(filters)}"


def curve_spots(report: Report, figures: Mapping[str, Figure]) -> dict[str, list[Spot]]:
    """Return the spots of the plots that hold curves, by the plot's name.

    Args:
        report: what was drawn.
        figures: of draw_figures, after they were drawn: only then it is known where their axes lie.
    """
    return {
        "alarm": list(_alarm_spots(report, figures["alarm"])),
        "precision_recall": list(_class_spots(report, figures["precision_recall"])),
    }


def _alarm_spots(report: Report, figure: Figure) -> Iterator[Spot]:
    left, right = figure.axes
    free = report.measured.weapon_free_images
    for point in _some(report.alarm_curve):
        score, recall = point.score_threshold, point.image_recall
        false = point.false_alarms_per_1000
        said = f"score {score:.2f}: {recall:.1%} of the weapon images raise an alarm"
        said += f", {false:.0f} of 1,000 others" if free else ""
        missed, wrong = (look_link(show=kind, **{"from": score}) for kind in ("silent", "false"))
        yield _spot(left, score, recall, missed, f"{said}; see those that do not")
        if free:
            yield _spot(left, score, false / 1000, wrong, f"{said}; see the false alarms")
            yield _spot(right, false, recall, look_link(show="alarms", **{"from": score}), said)


def _class_spots(report: Report, figure: Figure) -> Iterator[Spot]:
    left, right = figure.axes
    for result in report.classes:
        label = report.class_names.index(result.name)
        for point in _some(result.curve):
            link = look_link(show="mistakes", **{"class": label, "from": point.score_threshold})
            said = (
                f"{title_of(result.name)}, score {point.score_threshold:.2f}: "
                f"precision {point.precision:.1%}, recall {point.recall:.1%}; see the mistakes"
            )
            yield _spot(left, point.recall, point.precision, link, said)
            yield _spot(right, point.score_threshold, point.f1, link, said)


def _some(points: Sequence[Point]) -> Sequence[Point]:
    return points[:: max(1, -(-len(points) // MOST_ON_A_CURVE))]


def _spot(axes: Axes, x: float, y: float, link: str, title: str) -> Spot:
    """Return the place of data coordinates on the figure's picture."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    across, up = figure.transFigure.inverted().transform(axes.transData.transform((x, y)))
    return Spot(round(100 * float(across), 2), round(100 * (1 - float(up)), 2), link, title)
