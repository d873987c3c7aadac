"""Which model: every version with its measures, champion and challenger, and two of them compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import streamlit as st

from client import ServiceError
from page.session import MODEL_REFRESH_S, Page
from page.tables import Cell, table_ui
from schemas import ListedVersion, ModelInfo

SPLITS = ("test", "val")  # the better evidence first
MOST_VERSIONS = 50


class Measure(NamedTuple):
    """A figure of a version; key is the text that names it, more_is_better what is wanted of it."""

    key: str
    metric: str
    more_is_better: bool
    form: Callable[[Page, float], str]


def _percent(page: Page, value: float) -> str:
    return page.percent(value)


def _decimal(page: Page, value: float) -> str:
    return page.decimal(value)


def _whole(page: Page, value: float) -> str:
    return page.decimal(value, 0)


MEASURES = (
    Measure("measure_map", "map", True, _decimal),
    Measure("measure_original", "original_protocol/map", True, _decimal),
    Measure("measure_caught", "alarm/image_recall", True, _percent),
    Measure("measure_false", "alarm/false_alarms_per_1000", False, _whole),
)


def versions_ui(page: Page, info: ModelInfo) -> None:
    """Draw all versions, and how two of them differ."""
    versions = listed(page, info)
    columns = [page.text("column_version"), page.text("column_made"), page.text("column_on")]
    columns += [page.text(measure.key) for measure in MEASURES]
    rows = [version_row(page, version) for version in versions[:MOST_VERSIONS]]
    table_ui(page.text("model_which"), [*columns, page.text("column_run")], rows)
    st.caption(page.text("versions_how"))
    if len(versions) > 1:
        compared_ui(page, versions[:MOST_VERSIONS])


def listed(page: Page, info: ModelInfo) -> list[ListedVersion]:
    """Return every version as last heard, newest first; the served one where no others are to be had."""
    state = st.session_state
    if time.monotonic() - state.get("versions_at", -MODEL_REFRESH_S) >= MODEL_REFRESH_S:
        try:
            state["versions"] = page.client.models().versions
            state["versions_at"] = time.monotonic()
        except ServiceError as error:
            st.caption(page.sentence(error))
    served = ListedVersion(
        version=info.model.version, aliases=[info.model.alias] if info.model.alias else [], served=True,
        created_at=info.card.created_at, metrics=info.card.metrics, version_url=info.version_url,
    )  # fmt: skip
    known: list[ListedVersion] = state.get("versions") or []
    if not any(version.served for version in known):
        known = [served, *known]
    as_loaded = {"metrics": info.card.metrics}
    return [
        version.model_copy(
            update={**as_loaded, "created_at": version.created_at or info.card.created_at}
        )
        if version.served else version
        for version in known
    ]  # fmt: skip


def split_of(version: ListedVersion) -> str:
    """Return the best photos that a version was measured on."""
    return next((split for split in SPLITS if f"{split}/map" in version.metrics), "val")


def name_of(page: Page, version: ListedVersion) -> str:
    """Return a version in words: its number, its aliases and whether it answers now."""
    words = [version.version or page.text("version_folder"), *version.aliases]
    return ", ".join([*words, page.text("version_served")] if version.served else words)


def version_row(page: Page, version: ListedVersion) -> list[str | Cell]:
    """Return a version as the table shows it; what was not measured is a dash."""
    split = split_of(version)
    notes = [*version.aliases, *([page.text("version_served")] if version.served else [])]
    return [
        Cell(version.version or page.text("version_folder"), ", ".join(notes), version.version_url or ""),
        version.created_at[:10] or "–",
        page.text(f"split_{split}") if version.metrics else "–",
        *(measured(page, version, split, measure) for measure in MEASURES),
        Cell(page.text("version_run"), href=version.run_url) if version.run_url else "–",
    ]


def measured(page: Page, version: ListedVersion, split: str, measure: Measure) -> Cell:
    """Return a figure of a version with its interval."""
    key = f"{split}/{measure.metric}"
    if key not in version.metrics:
        return Cell("–")
    ends = [version.metrics.get(f"{key}/{end}") for end in ("low", "high")]
    note = "–".join(measure.form(page, end) for end in ends if end is not None)
    return Cell(measure.form(page, version.metrics[key]), note)


# --- two of them ------------------------------------------------------------------------------------


def compared_ui(page: Page, versions: Sequence[ListedVersion]) -> None:
    """Draw how two versions differ, measured on the same photos: champion and challenger at first."""
    places = range(len(versions))
    left, right = st.columns(2)
    picked = []
    for column, key, place in zip(
        (left, right), ("compare_one", "compare_other"), first_pair(versions), strict=True
    ):
        picked.append(
            column.selectbox(
                page.text(key), places, place, key=key,
                format_func=lambda place: name_of(page, versions[place]),
            )
        )  # fmt: skip
    one, other = (versions[place] for place in picked)
    split = next((s for s in SPLITS if all(f"{s}/map" in v.metrics for v in (one, other))), None)
    if split is None or one is other:
        st.caption(page.text("compare_nothing"))
        return
    columns = [page.text("column_metric"), name_of(page, one), name_of(page, other)]
    rows: list[list[str | Cell]] = [
        [
            page.text(measure.key),
            measured(page, one, split, measure),
            measured(page, other, split, measure),
            difference(page, one, other, f"{split}/{measure.metric}", measure),
        ]
        for measure in MEASURES
    ]
    table_ui(page.text("compare_name"), [*columns, page.text("column_difference")], rows)
    st.caption(page.text("compare_how", split=page.text(f"split_{split}")))


def first_pair(versions: Sequence[ListedVersion]) -> tuple[int, int]:
    """Return the places of the two versions that are compared at first: champion and challenger, if any."""

    def place_of(alias: str, otherwise: int) -> int:
        return next((i for i, version in enumerate(versions) if alias in version.aliases), otherwise)

    served = next((i for i, version in enumerate(versions) if version.served), 0)
    one = place_of("champion", served)
    newest = 0 if one else 1
    return one, place_of("challenger", newest)


def difference(page: Page, one: ListedVersion, other: ListedVersion, key: str, measure: Measure) -> Cell:
    """Return what the other version has more or less, and whether the intervals tell the two apart."""
    values = [version.metrics.get(key) for version in (one, other)]
    if values[0] is None or values[1] is None:
        return Cell("–")
    change = values[1] - values[0]
    words = ("+" if change > 0 else "−" if change < 0 else "±") + measure.form(page, abs(change))
    ends = [(v.metrics.get(f"{key}/low"), v.metrics.get(f"{key}/high")) for v in (one, other)]
    (low, high), (other_low, other_high) = ends
    if low is None or high is None or other_low is None or other_high is None:
        return Cell(words, page.text("difference_unknown"))
    if other_low <= high and low <= other_high:
        return Cell(words, page.text("difference_none"))
    better = (change > 0) is measure.more_is_better
    return Cell(words, page.text("difference_better" if better else "difference_worse"))
