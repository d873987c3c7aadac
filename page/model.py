"""The model tab: what is served, what was measured of it, what a threshold catches and costs, its origin."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import streamlit as st

from detection.names import PERCENT, class_name
from page.session import Page
from page.texts import markdown_safe
from schemas import MeasuredTables, ModelCard, ModelInfo

SPLITS = ("test", "val")  # the better evidence first
# metric of the card (after its split) -> text key; fractions, shown in percent
FRACTIONS = {
    "map": "metric_map",
    "map_50": "metric_map_50",
    "map_75": "metric_map_75",
    "mar_100": "metric_mar_100",
}
RATES = {"lookalike_alarm_rate": "metric_lookalikes", "weapon_as_lookalike_rate": "metric_as_lookalikes"}
FALSE_ALARM_RULE = re.compile(
    r"highest image-level weapon recall with at most ([\d.]+) false alarms per 1,000 weapon-free images"
    r"(?:( at the upper end of the 95 % interval)|( as measured \(.*\)))?"
)
# Okabe and Ito's: weapons orange, look-alikes cold; told apart with any colour vision. The rest are for
# models with more classes; after the last, Vega begins with the first again.
CLASS_COLORS = (
    "#d55e00", "#e69f00", "#0072b2", "#56b4e9", "#009e73", "#cc79a7",
    "#7b3294", "#8c510a", "#008080", "#4d4d4d", "#1b7837", "#3f51b5",
)  # fmt: skip
ORANGE, BLUE = "#d55e00", "#0072b2"


def model_ui(page: Page) -> None:
    """Draw the whole tab."""
    if page.info is None:
        st.info(page.text("model_unknown"))
        return
    served_ui(page, page.info)
    card = page.info.card
    operating_point_ui(page, card)
    curve_ui(page, card)
    metrics_ui(page, card)
    classes_ui(page, card)
    if card.tables:
        precision_recall_ui(page, card.tables)
        confusion_ui(page, card, card.tables)
        lookalikes_ui(page, card.tables)
    data_ui(page, card)
    origin_ui(page, page.info)


def served_ui(page: Page, info: ModelInfo) -> None:
    """Say which version is served since when, and link to its run."""
    version = markdown_safe(info.model.version) if info.model.version else page.text("model_no_version")
    version += f" ({markdown_safe(info.model.alias)})" if info.model.alias else ""
    loaded = info.loaded_at.replace("T", " ")[:16] + " UTC"
    st.markdown(
        page.text("model_served", name=markdown_safe(info.model.name), version=version, loaded=loaded)
    )
    if info.watch_error:
        st.warning(page.text("model_watch_error", reason=markdown_safe(info.watch_error)))
    if info.version_url:
        st.link_button(page.text("model_run"), info.version_url, icon=":material/open_in_new:")
        st.caption(page.text("model_report"))


def operating_point_ui(page: Page, card: ModelCard) -> None:
    """Draw the four figures of the operating point."""
    if card.alarm is None or card.operating_point is None:
        st.info(page.text("threshold_unmeasured"))
        return
    point = card.alarm.operating_point
    split = page.text(f"split_{point.split}")
    st.markdown(f"#### {page.text('model_measured', split=split)}")
    figures: dict[str, tuple[str, float, Callable[[float], str]]] = {
        "metric_image_recall": ("alarm/image_recall", point.image_recall, page.percent),
        "metric_false_alarms": ("alarm/false_alarms_per_1000", point.false_alarms_per_1000, per_thousand),
        "metric_recall": ("alarm/recall", point.recall, page.percent),
        "metric_precision": ("alarm/precision", point.precision, page.percent),
    }
    figures_ui([
        (page.text(key), form(value), interval(page, card, f"{point.split}/{metric}", form))
        for key, (metric, value, form) in figures.items()
    ])  # fmt: skip
    rule = {
        "threshold": page.percent(page.default_threshold),
        "rule": rule_words(page, card.operating_point.rule),
    }
    counts = point.model_dump(include={"weapon_images", "weapon_free_images"})
    chosen_on = page.text(f"split_{card.operating_point.split}")
    st.caption(page.text("model_images", split=chosen_on, **rule, **counts))


def rule_words(page: Page, rule: str) -> str:
    """Return the rule by which the threshold was chosen, in this person's language if it is known."""
    known = FALSE_ALARM_RULE.fullmatch(rule)
    if not known:
        return markdown_safe(rule)
    how = "rule_surely" if known[2] else "rule_as_measured" if known[3] else None
    return page.text("rule_false_alarms", limit=known[1]) + (page.text(how) if how else "")


def interval(page: Page, card: ModelCard, metric: str, form: Callable[[float], str]) -> str | None:
    """Return a metric's 95 % interval in words, None where the card has none. form writes one value."""
    low, high = card.metrics.get(f"{metric}/low"), card.metrics.get(f"{metric}/high")
    if low is None or high is None:
        return None
    return page.text("model_interval", low=form(low), high=form(high))


def per_thousand(value: float) -> str:
    """Return a count in whole numbers."""
    return f"{value:.0f}"


def curve_ui(page: Page, card: ModelCard) -> None:
    """Draw what an alarm at each threshold would catch and cost."""
    if card.alarm is None or not card.alarm.curve:
        return
    split = page.text(f"split_{card.alarm.operating_point.split}")
    st.markdown(f"#### {page.text('model_curve', split=split)}")
    rows = [
        {"threshold": p.score_threshold, "recall": p.image_recall, "false": p.false_alarms_per_1000}
        for p in card.alarm.curve
    ]
    percent = {"format": "%"}
    caught = {
        "mark": {"type": "line", "color": BLUE},
        "encoding": {
            "y": {
                "field": "recall", "type": "quantitative", "title": page.text("curve_recall"),
                "scale": {"domain": [0, 1]}, "axis": percent,
            }
        },
    }  # fmt: skip
    false_alarms = {
        "mark": {"type": "line", "strokeDash": [6, 4], "color": ORANGE},
        "encoding": {
            "y": {
                "field": "false", "type": "quantitative", "title": page.text("curve_false_alarms"),
            }
        },
    }  # fmt: skip
    x = {"field": "threshold", "type": "quantitative", "title": page.text("curve_threshold"), "axis": percent}
    here = {
        "mark": {"type": "rule", "color": "gray"}, "encoding": {"x": {"datum": page.default_threshold}}
    }  # fmt: skip
    st.vega_lite_chart(
        {
            "data": {"values": rows}, "height": 280, "encoding": {"x": x},
            "layer": [caught, false_alarms, here],
            "resolve": {"scale": {"y": "independent"}},
        },
        alt=page.text("model_curve_alt"),
    )  # fmt: skip
    st.caption(page.text("model_curve_here", threshold=page.percent(page.default_threshold)))


def metrics_ui(page: Page, card: ModelCard) -> None:
    """Draw the card's own metrics, the best split first."""
    for split in SPLITS:
        known = {key: f"{split}/{key}" for key in FRACTIONS if f"{split}/{key}" in card.metrics}
        if not known:
            continue
        st.markdown(f"#### {page.text('model_quality', split=page.text(f'split_{split}'))}")
        figures_ui([
            (page.text(FRACTIONS[key]), page.decimal(card.metrics[metric]),
             interval(page, card, metric, page.decimal))
            for key, metric in known.items()
        ])  # fmt: skip
        if f"{split}/recordings" in card.metrics:
            recordings = per_thousand(card.metrics[f"{split}/recordings"])
            st.caption(page.text("model_intervals", recordings=recordings))
        for rate, key in RATES.items():
            if f"{split}/{rate}" in card.metrics:
                value = page.decimal(100 * card.metrics[f"{split}/{rate}"], 1)
                st.markdown(f"- {page.text(key, rate=PERCENT[page.language].format(value))}")


def figures_ui(figures: Sequence[tuple[str, str, str | None]]) -> None:
    """Draw figures side by side: what each is, its value and, if it has one, its interval."""
    for column, (name, value, note) in zip(st.columns(len(figures)), figures, strict=True):
        column.metric(name, value, note, delta_color="off", delta_arrow="off", border=True, height="stretch")


def classes_ui(page: Page, card: ModelCard) -> None:
    """Draw each class with its figures and its recommended threshold."""
    st.markdown(f"#### {page.text('model_classes')}")
    st.table([class_row(page, card, name) for name in card.class_names[1:]], hide_index=True)


def class_row(page: Page, card: ModelCard, name: str) -> dict[str, str]:
    """Return a class as the table shows it; what was not measured is a dash."""
    dangerous = page.info is not None and name in page.info.dangerous
    chosen = card.class_thresholds.get(name)

    def metric(word: str) -> str:
        for key in (f"{split}/{word}/{name}" for split in SPLITS):
            if key in card.metrics:
                ends = [card.metrics.get(f"{key}/{end}") for end in ("low", "high")]
                words = "–".join(page.decimal(end, 2) for end in ends if end is not None)
                return page.decimal(card.metrics[key], 2) + (f" ({words})" if words else "")
        return "–"

    return {
        page.text("column_object"): page.class_name(name),
        page.text("column_kind"): page.text("kind_weapon" if dangerous else "kind_lookalike"),
        page.text("column_class"): markdown_safe(name),
        page.text("column_ap"): metric("ap"),
        page.text("column_ap50"): metric("ap50"),
        page.text("column_threshold"): page.percent(chosen.score_threshold) if chosen else "–",
        page.text("column_precision"): page.percent(chosen.precision) if chosen else "–",
        page.text("column_recall"): page.percent(chosen.recall) if chosen else "–",
    }


def precision_recall_ui(page: Page, tables: MeasuredTables) -> None:
    """Draw each class's precision over its recall: weapons solid, look-alikes dashed."""
    if not tables.precision_recall:
        return
    dangerous = page.info.dangerous if page.info else ()
    names = list(tables.precision_recall)
    rows = [
        {"class": class_name(name, page.language), **point.model_dump()}
        for name in names for point in tables.precision_recall[name]
    ]  # fmt: skip
    shown = [class_name(name, page.language) for name in names]
    dashes = [[1, 0] if name in dangerous else [6, 4] for name in names]

    def axis(field: str) -> dict[str, Any]:
        title = page.text(f"curve_{field}_of_boxes")
        scale = {"domain": [0, 1]}
        return {
            "field": field, "type": "quantitative", "title": title, "scale": scale, "axis": {"format": "%"},
        }  # fmt: skip

    def of_class(values: Sequence[Any]) -> dict[str, Any]:
        look = {"scale": {"domain": shown, "range": values}, "legend": {"orient": "bottom", "columns": 2}}
        return {"field": "class", "type": "nominal", "title": None, **look}

    st.markdown(f"#### {page.text('model_precision_recall', split=page.text(f'split_{tables.split}'))}")
    st.vega_lite_chart(
        {
            "data": {"values": rows}, "height": 400, "mark": {"type": "line"},
            "encoding": {
                "x": axis("recall"), "y": axis("precision"), "order": {"field": "score_threshold"},
                "color": of_class(CLASS_COLORS[: len(names)]), "strokeDash": of_class(dashes),
            },
        },
        alt=page.text("model_precision_recall_alt"),
    )  # fmt: skip


def confusion_ui(page: Page, card: ModelCard, tables: MeasuredTables) -> None:
    """Draw what each object was called."""
    if not tables.confusion:
        return
    names = [page.class_name(name) for name in card.class_names[1:]]
    truths = [page.text("confusion_nothing"), *names]
    rows = [
        {page.text("column_truth"): truth, **dict(zip(names, map(str, counts[1:]), strict=True)),
         page.text("confusion_missed"): str(counts[0]) if index else "–"}
        for index, (truth, counts) in enumerate(zip(truths, tables.confusion, strict=True))
    ]  # fmt: skip
    st.markdown(f"#### {page.text('model_confusion', threshold=page.percent(page.default_threshold))}")
    st.table([*rows[1:], rows[0]], hide_index=True)


def lookalikes_ui(page: Page, tables: MeasuredTables) -> None:
    """Draw how often weapons and look-alikes were mixed up, both ways."""
    cells = [cell for cell in tables.lookalikes if "any" not in (cell.weapon, cell.lookalike)]
    if not cells:
        return
    rows: dict[str, dict[str, str]] = {}
    for cell in cells:
        weapon, lookalike = page.class_name(cell.weapon), page.class_name(cell.lookalike)
        row = rows.setdefault(cell.lookalike, {page.text("kind_lookalike"): lookalike})
        taken = page.text("of_count", count=cell.called_weapon, total=cell.lookalike_boxes)
        row[page.text("column_taken_for", weapon=weapon)] = taken
        taken = page.text("of_count", count=cell.called_lookalike, total=cell.weapon_boxes)
        row[page.text("column_taken_as", weapon=weapon)] = taken
    st.markdown(f"#### {page.text('model_lookalikes')}")
    st.table(list(rows.values()), hide_index=True)


def data_ui(page: Page, card: ModelCard) -> None:
    """Draw how many photos and boxes it learned from and was measured on."""
    parts = [split for split in ("train", "val") if isinstance(card.data.get(split), dict)]
    if parts:
        st.markdown(f"#### {page.text('model_learned')}")
        st.table([data_row(page, card, split) for split in parts], hide_index=True)


def data_row(page: Page, card: ModelCard, split: str) -> dict[str, str]:
    """Return a part of the data as the table shows it."""
    part: dict[str, Any] = card.data[split]
    boxes = part.get("boxes", {})
    counts = [(page.class_name(name), boxes.get(name, "–")) for name in card.class_names[1:]]
    return {
        page.text("column_split"): page.text(f"data_{split}"),
        page.text("column_photos"): markdown_safe(str(part.get("images", "–"))),
        page.text("column_without"): markdown_safe(str(part.get("without_objects", "–"))),
        **{name: markdown_safe(str(count)) for name, count in counts},
    }


def origin_ui(page: Page, info: ModelInfo) -> None:
    """Draw data, network, versions and code the model came from, and every figure kept with it."""
    card = info.card
    with st.expander(page.text("model_data"), icon=":material/database:"):
        network = card.network
        rows = {
            "origin_architecture": network.architecture,
            "origin_input": input_words(network.min_size, network.max_size),
            "origin_created": card.created_at.replace("T", " ")[:16],
            "origin_roots": ", ".join(card.data.get("roots", ())),
            "origin_commit": card.git_commit,
            "origin_fingerprint": card.data_fingerprint,
            "origin_source": info.source,
        }
        table_ui(page, [(page.text(key), value) for key, value in rows.items() if value])
        if card.library_versions:
            table_ui(page, card.library_versions.items())
    if card.metrics:
        with st.expander(page.text("model_all"), icon=":material/table_rows:"):
            table_ui(page, [(name, f"{value:.4f}") for name, value in sorted(card.metrics.items())])


def input_words(shortest: int, longest: int) -> str:
    """Return the size at which the network looks at a photo."""
    return str(shortest) if shortest == longest else f"{shortest} – {longest}"


def table_ui(page: Page, rows: Iterable[tuple[str, str]]) -> None:
    """Draw pairs as a table, as they are."""
    names = page.text("column_metric"), page.text("column_value")
    st.table([dict(zip(names, map(markdown_safe, row), strict=True)) for row in rows], hide_index=True)
