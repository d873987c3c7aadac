"""Many photos: one answer for all, counts, a grid to pick from, and each one large with arrow keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

import streamlit as st

from detection import imaging
from page import memory
from page.checks import Outcome, checks
from page.downloads import zip_of
from page.one_photo import Choice, photo_ui
from page.pictures import thumbnail
from page.session import Failure, Page, Photo
from page.texts import markdown_safe
from page.verdict import (
    KINDS,
    Band,
    Kind,
    band_of,
    band_ui,
    kind_of,
    missed_words,
    names_of,
    shown_at_first,
    signs,
)
from schemas import Detection, ImageResult

PER_PAGE = 40
PILLS: tuple[Kind, ...] = ("alarm", "unsure", "none", "failed")
MARKS = ("seen", "false_alarm")
Checked = tuple[Photo, Outcome]


def many_ui(page: Page, photos: Sequence[Photo], outcomes: Sequence[Outcome]) -> None:
    """Draw answer, counts and grid, with what is known by now."""
    counts = Counter(map(kind_of, outcomes))
    band_ui(summary(page, counts))
    with st.container(horizontal=True, vertical_alignment="center", key="many_tools"):
        wanted = st.pills(
            page.text("counts"), PILLS, key="kinds", label_visibility="collapsed", wrap=True,
            format_func=lambda kind: page.text(f"count_{kind}", count=counts[kind]),
        )  # fmt: skip
        progress_ui(page, counts, len(photos))
        if counts["waiting"] == 0 and counts["failed"] < len(photos):
            no_faces = st.toggle(page.text("blur_files"), value=True, key="blur_zip", width="content")

            def shown(result: ImageResult) -> list[Detection]:
                return Choice().of(page, result)

            st.download_button(
                page.text("download_zip"), key="zip", icon=":material/folder_zip:", on_click="ignore",
                data=lambda: zip_of(page, photos, outcomes, shown, no_faces=no_faces),
                file_name="weapon-detector.zip", mime="application/zip",
            )  # fmt: skip
    grid_ui(page, in_order(page, photos, outcomes, wanted))


def in_order(
    page: Page, photos: Sequence[Photo], outcomes: Sequence[Outcome], wanted: Kind | None
) -> list[Checked]:
    """Return the photos of one answer, or of all, as the grid shows them."""
    checked = sorted(zip(photos, outcomes, strict=True), key=lambda pair: rank(page, pair[1]))
    return [pair for pair in checked if wanted in (None, kind_of(pair[1]))]


def rank(page: Page, outcome: Outcome) -> tuple[int, float]:
    """Return a photo's place in the grid: what wants a look comes first, the strongest sign before others."""
    found = outcome.detections or () if isinstance(outcome, ImageResult) else ()
    strength = max((d.score for d in signs(page, found)), default=0.0)
    return KINDS.index(kind_of(outcome)), -strength


def summary(page: Page, counts: Counter[Kind]) -> Band:
    """Return the one answer for all photos."""
    count = sum(counts.values())
    others = [
        page.text(f"many_{kind}", count=counts[kind])
        for kind in ("unsure", "failed", "waiting")
        if counts[kind]
    ]
    if counts["alarm"]:
        more = " ".join([page.text("band_alarm_more"), *others])
        return Band("alarm", page.text("many_alarm", alarms=counts["alarm"], count=count), more)
    if counts["unsure"]:
        return Band(
            "unsure",
            page.text("many_unsure_title", unsure=counts["unsure"], count=count),
            " ".join(others[1:]),
        )
    if counts["waiting"]:
        return Band(
            "waiting",
            page.text("checking_many", done=count - counts["waiting"], count=count),
            " ".join(others[:-1]),
        )
    if counts["failed"]:
        title = page.text("many_failed_title", failed=counts["failed"], count=count)
        return Band("failed", title, page.text("many_none", count=counts["none"]) if counts["none"] else "")
    return Band("none", page.text("many_none_title", count=count), missed_words(page))


def progress_ui(page: Page, counts: Counter[Kind], count: int) -> None:
    """Draw how far the checks are and the button that stops them, or the one that goes on."""
    if counts["waiting"]:
        done = page.text("checking_many", done=count - counts["waiting"], count=count)
        st.html(f"<p class='progress' role='status'>{done}</p>")
        st.button(page.text("stop"), key="stop", icon=":material/stop:", on_click=checks().stop)
    elif checks().stopped:
        st.button(
            page.text("go_on"), key="go_on", icon=":material/play_arrow:", on_click=checks().stopped.clear
        )


# --- the grid ---------------------------------------------------------------------------------------


def grid_ui(page: Page, checked: Sequence[Checked]) -> None:
    """Draw thumbnails, PER_PAGE at once; a press on one opens it."""
    pages = max(1, -(-len(checked) // PER_PAGE))
    number = min(st.session_state.get("grid_page", 0), pages - 1)
    with st.container(key="grid"):
        for photo, outcome in checked[number * PER_PAGE : (number + 1) * PER_PAGE]:
            with st.container(key=f"thumb_{kind_of(outcome)}_{photo.digest[:16]}", gap=None):
                thumbnail_ui(page, photo, outcome)
    if pages > 1:
        pager_ui(page, number, pages)


def thumbnail_ui(page: Page, photo: Photo, outcome: Outcome) -> None:
    """Draw a photo small, with its answer in words; the button lies over the picture."""
    words = short_words(page, outcome)
    try:
        if not isinstance(outcome, ImageResult):
            raise imaging.ImageError
        st.image(thumbnail(page, photo, outcome, memory.session_id()), width="stretch", alt="")
    except imaging.ImageError:
        st.html("<div class='thumb-blank'></div>")
    mark = st.session_state.setdefault("marks", {}).get(photo.digest)
    marked = f" · {page.text(f'mark_{mark}')}" if mark else ""
    label = f"**{markdown_safe(words)}{marked}** {markdown_safe(photo.name)}"
    if st.button(label, key=f"open_{photo.digest}", disabled=outcome is None, width="stretch"):
        st.session_state["open"] = photo.digest
        st.rerun()


def short_words(page: Page, outcome: Outcome) -> str:
    """Return a photo's answer in a word or two."""
    kind = kind_of(outcome)
    if kind == "alarm" and isinstance(outcome, ImageResult):
        found = [d for d in shown_at_first(page, outcome) if d.dangerous]
        return names_of(page, found[:1]) or page.text("short_alarm")
    return page.text(f"short_{kind}")


def pager_ui(page: Page, number: int, pages: int) -> None:
    """Draw the way to the grid's other pages."""
    with st.container(
        horizontal=True, horizontal_alignment="center", vertical_alignment="center", key="pager"
    ):
        for key, step in (("earlier", -1), ("later", 1)):
            st.button(
                page.text(key), key=key, disabled=not 0 <= number + step < pages,
                on_click=st.session_state.__setitem__, args=("grid_page", number + step),
            )  # fmt: skip
            if step < 0:
                st.html(f"<p class='progress'>{page.text('grid_page', number=number + 1, pages=pages)}</p>")


# --- one of many ------------------------------------------------------------------------------------


def dialog_ui(page: Page, photos: Sequence[Photo], outcomes: Sequence[Outcome]) -> None:
    """Draw the photo that was picked, large, over the page."""
    wanted = st.session_state.get("kinds")
    checked = [pair for pair in in_order(page, photos, outcomes, wanted) if pair[1] is not None]
    if st.session_state.get("open") not in [photo.digest for photo, _ in checked]:
        return
    draw = st.dialog(page.text("dialog"), width="large", on_dismiss=close)(one_of_many_ui)
    draw(page, checked)


def close() -> None:
    """Note that no photo is open."""
    st.session_state.pop("open", None)


def one_of_many_ui(page: Page, checked: Sequence[Checked]) -> None:
    """Draw one photo with the ways to the next, to the one before, and to put it aside."""
    digests = [photo.digest for photo, _ in checked]
    index = digests.index(st.session_state["open"])
    photo, outcome = checked[index]
    with st.container(horizontal=True, vertical_alignment="center", key="dialog_tools"):
        for key, step, shortcut in (("previous", -1, "Left"), ("next", 1, "Right")):
            st.button(
                page.text(key), key=key, shortcut=shortcut, disabled=not 0 <= index + step < len(checked),
                on_click=go, args=(digests, index + step),
            )  # fmt: skip
        mark = st.session_state.setdefault("marks", {}).get(photo.digest)
        for key in MARKS if isinstance(outcome, ImageResult) else ():
            st.button(
                page.text(f"mark_{key}"), key=f"mark_{key}", type="primary" if mark == key else "secondary",
                on_click=put_mark, args=(photo.digest, key),
            )  # fmt: skip
    place = page.text("dialog_place", number=index + 1, count=len(checked))
    st.html(f"<p class='progress'><strong>{escape(photo.name)}</strong> · {place}</p>")
    if outcome is None:
        return
    outcome_ui(page, photo, outcome)


def outcome_ui(page: Page, photo: Photo, outcome: ImageResult | Failure) -> None:
    """Draw the answer to one photo, whether it is the only one or one of many."""
    band_ui(band_of(page, outcome))
    if isinstance(outcome, Failure):
        retry_ui(page, photo, outcome)
    else:
        photo_ui(page, photo, outcome)


def go(digests: Sequence[str], index: int) -> None:
    """Open another photo."""
    if 0 <= index < len(digests):
        st.session_state["open"] = digests[index]


def put_mark(digest: str, mark: str) -> None:
    """Mark a photo for oneself, or take the mark away; the answer stays what it is."""
    marks = st.session_state.setdefault("marks", {})
    if marks.get(digest) == mark:
        del marks[digest]
    else:
        marks[digest] = mark


def retry_ui(page: Page, photo: Photo, failure: Failure) -> None:
    """Draw the button that asks again, where that can help."""
    if failure.waiting or failure.hopeless:
        return
    if st.button(page.text("retry"), key=f"retry_{photo.digest}", icon=":material/refresh:"):
        page.ask_again(photo)
        checks().stopped.discard(page.key_of(photo))
        st.rerun()
