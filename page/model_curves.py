"""Curves of the model tab: what an alarm at each score catches and costs, and each class's precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st

from detection.names import PERCENT, class_name
from page.session import Page
from schemas import AlarmFigures, AlarmPoint, MeasuredTables, ModelCard, OperatingPoint

MOST_FALSE = 1000.0
# Okabe and Ito's, the lighter ones darkened so that a line is seen on white and on dark blue alike.
# After the last, Vega begins with the first again.
CLASS_COLORS = (
    "#d55e00", "#b07a00", "#0072b2", "#3a8fc2", "#008a65", "#b8629a",
    "#7b3294", "#8c510a", "#007a7a", "#4d4d4d", "#1b7837", "#3f51b5",
)  # fmt: skip
LINES = {"test": "#2f86bd", "val": "#8f7a1e"}
POINTS = {"alarm": "point_alarm", "unsure": "point_unsure"}
MARKS = {"alarm": "#c2410c", "unsure": "#b98900"}


def setting_ui(page: Page, card: ModelCard) -> None:
    """Draw what the alarm catches over what it costs, for validation and test, with the model's points."""
    if card.operating_point is None:
        return
    validation = AlarmFigures(
        operating_point=card.operating_point, unsure_point=card.unsure_point, curve=card.alarm_curve
    )
    splits = {
        figures.operating_point.split: figures for figures in (validation, card.tested_alarm) if figures
    }
    curves = [row(page, split, p) for split, figures in splits.items() for p in figures.curve]
    points = [
        {**row(page, split, point), "point": page.text(POINTS[key]), "key": key}
        for split, figures in splits.items()
        for key, point in (("alarm", figures.operating_point), ("unsure", figures.unsure_point))
        if point
    ]
    if curves:
        st.vega_lite_chart(chart(page, curves, points, list(splits)), alt=page.text("model_curve_alt"))
    st.caption(page.text("model_setting_how"))


def row(page: Page, split: str, point: AlarmPoint | OperatingPoint) -> dict[str, Any]:
    """Return a point of the curve; the split in words."""
    return {
        "split": page.text(f"split_{split}"), "false": point.false_alarms_per_1000,
        "caught": point.image_recall, "score": point.score_threshold,
    }  # fmt: skip


def chart(
    page: Page, curves: Sequence[dict[str, Any]], points: Sequence[dict[str, Any]], splits: Sequence[str]
) -> dict[str, Any]:
    """Return the chart: a line for each split, a mark for each of the model's points, with values."""
    tooltip = [
        {"field": "split", "title": page.text("column_photos")},
        {"field": "score", "title": page.text("column_score"), "format": ".2f"},
        {"field": "caught", "title": page.text("curve_recall"), "format": ".0%"},
        {"field": "false", "title": page.text("curve_false_alarms"), "format": ".0f"},
    ]
    names = [page.text(f"split_{split}") for split in splits]
    dashes = {"domain": names, "range": [[1, 0] if split == "test" else [6, 4] for split in splits]}
    most = min(MOST_FALSE, max(row["false"] for row in curves))
    x = {
        "field": "false", "type": "quantitative", "title": page.text("curve_false_alarms"),
        "scale": {"type": "sqrt", "domain": [0, most], "nice": False}, "axis": {"tickCount": 8},
    }  # fmt: skip
    y = {
        "field": "caught", "type": "quantitative", "title": page.text("curve_recall"),
        "scale": {"domain": [lowest(points), 1]}, "axis": {"format": "%"},
    }  # fmt: skip
    lines = {
        "data": {"values": list(curves)},
        "mark": {"type": "line", "clip": True},
        "encoding": {
            "x": x, "y": y, "order": {"field": "score"},
            "color": {"field": "split", "type": "nominal", "title": None,
                      "scale": {"domain": names, "range": [LINES[split] for split in splits]},
                      "legend": {"orient": "bottom", "symbolType": "stroke", "symbolSize": 500,
                                 "symbolStrokeWidth": 2}},
            "strokeDash": {"field": "split", "type": "nominal", "title": None, "scale": dashes},
        },
    }  # fmt: skip
    hovered = {  # points of their own, unseen: the legend's strokes would be as pale as points of the lines
        "data": {"values": list(curves)},
        "mark": {"type": "point", "clip": True, "size": 60, "opacity": 0},
        "encoding": {"x": x, "y": y, "tooltip": tooltip},
    }
    marks = {
        "data": {"values": list(points)},
        "mark": {"type": "point", "filled": True, "size": 130, "opacity": 1},
        "encoding": {
            "x": x, "y": y, "tooltip": [{"field": "point", "title": page.text("curve_point")}, *tooltip],
            "fill": {"field": "point", "type": "nominal", "title": None, "legend": {"orient": "bottom"},
                     "scale": {"domain": [page.text(POINTS[key]) for key in MARKS],
                               "range": list(MARKS.values())}},
        },
    }  # fmt: skip
    below = {
        "bottom": {"direction": "vertical", "anchor": "start"}
    }  # beside each other, a phone cuts one off
    config = {**numbers(page), "legend": {"layout": below}}
    return {"height": 420, "layer": [lines, hovered, marks], "config": config}


def lowest(points: Sequence[dict[str, Any]]) -> float:
    """Return where the share of caught photos begins: what lies below the model's points is of no use."""
    lowest_caught: float = min(point["caught"] for point in points)
    return min(0.5, math.floor(10 * lowest_caught) / 10)


def numbers(page: Page) -> dict[str, Any]:
    """Return how the person's language writes numbers, for a chart."""
    number = {
        "decimal": page.text("decimal_point"), "thousands": "\N{NO-BREAK SPACE}", "grouping": [3],
        "currency": ["", ""], "percent": PERCENT[page.language].format(""),
    }  # fmt: skip
    return {"locale": {"number": number}}


def class_curves_ui(page: Page, card: ModelCard, tables: MeasuredTables) -> None:
    """Draw each class's precision over its recall, small and square, with the values at its own score."""
    words = page.text("model_precision_recall", split=page.text(f"split_{tables.split}"))
    st.html(f"<h3 class='block-subtitle'>{words}</h3>")
    names = [name for name in card.class_names[1:] if name in tables.precision_recall]
    shown = [class_name(name, page.language) for name in names]
    rows = [
        {"class": words, **point.model_dump()}
        for name, words in zip(names, shown, strict=True)
        for point in tables.precision_recall[name]
    ]

    def axis(field: str) -> dict[str, Any]:
        return {
            "field": field, "type": "quantitative", "title": page.text(f"curve_{field}_of_boxes"),
            "scale": {"domain": [0, 1]}, "axis": {"format": "%", "values": [0, 0.5, 1]},
        }  # fmt: skip

    tooltip = [
        {"field": "class", "title": page.text("column_object")},
        {"field": "score_threshold", "title": page.text("column_score"), "format": ".2f"},
        {"field": "recall", "title": page.text("curve_recall_of_boxes"), "format": ".0%"},
        {"field": "precision", "title": page.text("curve_precision_of_boxes"), "format": ".0%"},
    ]
    st.vega_lite_chart(
        {
            "data": {"values": rows}, "columns": 3, "config": numbers(page),
            "facet": {"field": "class", "type": "nominal", "title": None, "sort": shown},
            "spec": {
                "width": 150, "height": 150,
                "mark": {"type": "line", "point": {"size": 40, "opacity": 0.01}},
                "encoding": {
                    "x": axis("recall"), "y": axis("precision"), "order": {"field": "score_threshold"},
                    "tooltip": tooltip,
                    "color": {"field": "class", "type": "nominal", "legend": None,
                              "scale": {"domain": shown, "range": list(CLASS_COLORS[: len(shown)])}},
                },
            },
        },
        width="content", alt=page.text("model_precision_recall_alt"),
    )  # fmt: skip
