"""The model tab: how often it is right, at which setting, what it mixes up, and which model it is."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import streamlit as st
from defusedcsv import csv

from detection.names import PERCENT, class_name
from page.model_curves import class_curves_ui, setting_ui
from page.model_versions import versions_ui
from page.session import Page
from page.tables import Cell, table_ui
from page.texts import markdown_safe
from schemas import MeasuredTables, ModelCard, ModelInfo, OperatingPoint

SPLITS = ("test", "val")  # the better evidence first
RATES = {"lookalike_alarm_rate": "metric_lookalikes", "weapon_as_lookalike_rate": "metric_as_lookalikes"}
FALSE_ALARM_RULE = re.compile(
    r"highest image-level weapon recall with at most ([\d.]+) false alarms per 1,000 weapon-free images"
    r"(?:( at the upper end of the 95 % interval)|( as measured \(.*\)))?"
)
FIGURES = 100  # people of the pictogram


def model_ui(page: Page) -> None:
    """Draw the whole tab."""
    if page.info is None:
        st.info(page.text("model_unknown"))
        return
    card = page.info.card
    served_ui(page, page.info)
    heading(page.text("model_right"))
    right_ui(page, card)
    heading(page.text("model_setting"))
    setting_ui(page, card)
    if card.tables:
        heading(page.text("model_mixups", split=page.text(f"split_{card.tables.split}")))
        mixups_ui(page, card, card.tables)
    classes_ui(page, card)
    heading(page.text("model_which"))
    versions_ui(page, page.info)
    origin_ui(page, page.info)


def heading(words: str) -> None:
    """Draw the heading of a block."""
    st.html(f"<h2 class='block-title'>{words}</h2>")


def served_ui(page: Page, info: ModelInfo) -> None:
    """Say which version is served since when."""
    version = markdown_safe(info.model.version) if info.model.version else page.text("model_no_version")
    version += f" ({markdown_safe(info.model.alias)})" if info.model.alias else ""
    loaded = info.loaded_at.replace("T", " ")[:16] + " UTC"
    st.markdown(
        page.text("model_served", name=markdown_safe(info.model.name), version=version, loaded=loaded)
    )
    if info.watch_error:
        st.warning(page.text("model_watch_error", reason=markdown_safe(info.watch_error)))


# --- how often is it right? -------------------------------------------------------------------------


def right_ui(page: Page, card: ModelCard) -> None:
    """Draw of 100 photos with a weapon how many are caught, and how many false alarms there are."""
    if card.alarm is None or card.operating_point is None:
        st.info(page.text("threshold_unmeasured"))
        return
    point = card.alarm.operating_point
    caught, looked = people(point.image_recall), people((card.alarm.unsure_point or point).image_recall)
    missed = FIGURES - looked
    words = page.text("people", caught=caught, unsure=looked - caught, missed=missed)
    kinds = ["alarm"] * caught + ["unsure"] * (looked - caught) + ["missed"] * missed
    figures = "".join(f"<i class='person person-{kind}'></i>" for kind in kinds)
    left, right = st.columns(2, gap="large")
    with left:
        st.html(f"<div class='people' role='img' aria-label='{words}'>{figures}</div><p>{words}</p>")
        st.caption(interval(page, card, f"{point.split}/alarm/image_recall", page.percent) or "")
    with right:
        false = f"{point.false_alarms_per_1000:.0f}"
        st.html(f"<p class='figure'><strong>{false}</strong> {page.text('false_alarms')}</p>")
        st.caption(interval(page, card, f"{point.split}/alarm/false_alarms_per_1000", per_thousand) or "")
        st.markdown(target_words(page, card, point))
    counts = point.model_dump(include={"weapon_images", "weapon_free_images"})
    st.caption(page.text("model_images", split=page.text(f"split_{point.split}"), **counts))


def people(fraction: float) -> int:
    """Return a share as people of the pictogram; only 1 itself is all of them: what is missed is seen."""
    return FIGURES if fraction == 1 else min(FIGURES - 1, round(FIGURES * fraction))


def target_words(page: Page, card: ModelCard, point: OperatingPoint) -> str:
    """Return by which rule the alarm's score was chosen, and whether it holds on these photos."""
    if card.operating_point is None:
        return ""
    chosen_on = page.text(f"split_{card.operating_point.split}")
    words = page.text(
        "model_rule", score=page.score(card.operating_point.score_threshold), split=chosen_on,
        rule=rule_words(page, card.operating_point.rule),
    )  # fmt: skip
    known = FALSE_ALARM_RULE.fullmatch(card.operating_point.rule)
    if known is None:
        return words
    limit, low = float(known[1]), card.metrics.get(f"{point.split}/alarm/false_alarms_per_1000/low")
    kept = "target_kept"
    if point.false_alarms_per_1000 > limit:
        kept = "target_missed" if low is not None and low > limit else "target_unsure"
    return f"{words} {page.text(kept, limit=f'{limit:g}', split=page.text(f'split_{point.split}'))}"


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


# --- what does it mix up? ---------------------------------------------------------------------------


def mixups_ui(page: Page, card: ModelCard, tables: MeasuredTables) -> None:
    """Draw what each object was called: shares of a row, boxes where nothing is first."""
    if tables.confusion:
        names = [class_name(name, page.language) for name in card.class_names[1:]]
        truths = [page.text("confusion_nothing"), *names]
        columns = [page.text("column_truth"), page.text("column_boxes")]
        columns += [page.text("column_called", name=name) for name in names]
        columns.append(page.text("confusion_missed"))
        rows = [
            mixup_row(page, truth, [*counts[1:], counts[0] if index else None])
            for index, (truth, counts) in enumerate(zip(truths, tables.confusion, strict=True))
        ]
        table_ui(page.text("mixups_name"), columns, rows)
        score = page.score(card.operating_point.score_threshold) if card.operating_point else "–"
        st.caption(page.text("mixups_how", score=score))
    for rate, key in RATES.items():
        if f"{tables.split}/{rate}" in card.metrics:
            share = page.decimal(100 * card.metrics[f"{tables.split}/{rate}"], 1)
            st.markdown(f"- {page.text(key, rate=PERCENT[page.language].format(share))}")


def mixup_row(page: Page, truth: str, counts: Sequence[int | None]) -> list[str | Cell]:
    """Return a row: how many boxes, and what share was called what; None where that has no meaning."""
    total = sum(count or 0 for count in counts)
    cells: list[str | Cell] = [truth, str(total)]
    for count in counts:
        if count is None:
            cells.append("–")
        else:
            share = count / total if total else 0.0
            cells.append(Cell(page.percent(share), str(count), heat=share))
    return cells


def classes_ui(page: Page, card: ModelCard) -> None:
    """Draw each class with its figures, each with the photos that it was measured on."""
    with st.expander(page.text("model_classes"), icon=":material/category:", key="classes"):
        tested = next((s for s in SPLITS if any(key.startswith(f"{s}/ap/") for key in card.metrics)), "val")
        splits = {"split": page.text(f"split_{tested}"), "chosen": page.text("split_val")}
        keys = (
            "column_object", "column_kind", "column_ap", "column_ap50", "column_rests_on", "column_threshold",
            "column_precision", "column_recall",
        )  # fmt: skip
        columns = [page.text(key, **splits) for key in keys]
        table_ui(
            page.text("model_classes"), columns,
            [class_row(page, card, name, tested) for name in card.class_names[1:]],
        )  # fmt: skip
        if f"{tested}/recordings" in card.metrics:
            recordings = per_thousand(card.metrics[f"{tested}/recordings"])
            st.caption(page.text("model_intervals", recordings=recordings))
        if card.tables and card.tables.precision_recall:
            class_curves_ui(page, card, card.tables)


def class_row(page: Page, card: ModelCard, name: str, split: str) -> list[str | Cell]:
    """Return a class as the table shows it; what was not measured is a dash."""
    dangerous = page.info is not None and name in page.info.dangerous
    chosen = card.class_thresholds.get(name)
    boxes = card.data.get("val", {}).get("boxes", {}) if isinstance(card.data.get("val"), dict) else {}

    def metric(word: str) -> Cell:
        key = f"{split}/{word}/{name}"
        if key not in card.metrics:
            return Cell("–")
        ends = [card.metrics.get(f"{key}/{end}") for end in ("low", "high")]
        return Cell(
            page.decimal(card.metrics[key], 2),
            "–".join(page.decimal(end, 2) for end in ends if end is not None),
        )

    return [
        Cell(class_name(name, page.language), name),
        page.text("kind_weapon" if dangerous else "kind_lookalike"),
        metric("ap"),
        metric("ap50"),
        str(boxes.get(name, "–")),
        page.score(chosen.score_threshold) if chosen else "–",
        page.percent(chosen.precision) if chosen else "–",
        page.percent(chosen.recall) if chosen else "–",
    ]


# --- where it comes from ----------------------------------------------------------------------------


def origin_ui(page: Page, info: ModelInfo) -> None:
    """Draw data, network, versions and code the model came from, and every figure kept with it."""
    card = info.card
    with st.expander(page.text("model_data"), icon=":material/database:", key="origin"):
        parts = [split for split in ("train", "val") if isinstance(card.data.get(split), dict)]
        if parts:
            names = [class_name(name, page.language) for name in card.class_names[1:]]
            columns = [page.text(key) for key in ("column_split", "column_photos", "column_without")]
            rows = [data_row(page, card, part) for part in parts]
            table_ui(page.text("model_learned"), [*columns, *names], rows)
        network = card.network
        facts = {
            "origin_architecture": network.architecture,
            "origin_input": input_words(network.min_size, network.max_size),
            "origin_created": card.created_at.replace("T", " ")[:16],
            "origin_roots": ", ".join(card.data.get("roots", ())),
            "origin_commit": card.git_commit,
            "origin_fingerprint": card.data_fingerprint,
            "origin_source": info.source,
        }
        pairs_ui(page, "model_data", [(page.text(key), value) for key, value in facts.items() if value])
        if card.library_versions:
            pairs_ui(page, "origin_libraries", card.library_versions.items())
    if card.metrics:
        with st.expander(page.text("model_all"), icon=":material/table_rows:", key="every_figure"):
            figures_ui(page, card)


def data_row(page: Page, card: ModelCard, split: str) -> list[str]:
    """Return a part of the data as the table shows it."""
    part: dict[str, Any] = card.data[split]
    boxes = part.get("boxes", {})
    numbers = [part.get("images", "–"), part.get("without_objects", "–")]
    return [
        page.text(f"data_{split}"),
        *map(str, [*numbers, *(boxes.get(name, "–") for name in card.class_names[1:])]),
    ]


def input_words(shortest: int, longest: int) -> str:
    """Return the size at which the network looks at a photo."""
    return str(shortest) if shortest == longest else f"{shortest} – {longest}"


def pairs_ui(page: Page, name: str, pairs: Iterable[tuple[str, str]]) -> None:
    """Draw pairs as a table, as they are."""
    table_ui(page.text(name), [page.text("column_metric"), page.text("column_value")], list(pairs))


def figures_ui(page: Page, card: ModelCard) -> None:
    """Draw every figure of the card, those that hold the words looked for, and all of them as a file."""
    wanted = st.text_input(page.text("figures_search"), key="figures_search").lower().split()
    figures = sorted(card.metrics.items())
    found = [(name, f"{value:.4f}") for name, value in figures if all(word in name for word in wanted)]
    st.download_button(
        page.text("figures_csv"), lambda: figures_csv(page, figures), "model-figures.csv", "text/csv",
        key="figures_csv", icon=":material/download:", on_click="ignore",
    )  # fmt: skip
    st.caption(page.text("figures_found", count=len(found), total=len(figures)))
    if found:
        with st.container(height=480, key="figures"):
            pairs_ui(page, "model_all", found)


def figures_csv(page: Page, figures: Sequence[tuple[str, float]]) -> bytes:
    """Return every figure as a spreadsheet in the person's language reads it."""
    stream = io.StringIO()
    table = csv.writer(stream, delimiter=page.text("csv_delimiter"))
    table.writerow([page.text("column_metric"), page.text("column_value")])
    for name, value in figures:
        table.writerow([name, str(value).replace(".", page.text("decimal_point"))])
    return stream.getvalue().encode("utf-8-sig")
