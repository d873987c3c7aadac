"""The photos tab: the answer first, then what it rests on; and the ways to put photos in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from page.checks import Outcome, check, checks
from page.gallery import chosen_examples, gallery_ui
from page.many_photos import dialog_ui, many_ui, outcome_ui
from page.session import Failure, Page, Photo
from page.verdict import KINDS, Band, band_ui, kind_of, title_ui

LOOK_EVERY_S, LOOK_AT_MANY_EVERY_S = 0.5, 1.0  # whether an answer has come; many take longer to draw
FIRST_WAIT_S = 0.4  # most single photos are answered by then: nothing flickers


def photos_ui(page: Page) -> None:
    """Draw the whole tab."""
    with st.container(key="check"):
        inputs, answers = st.container(key="inputs"), st.container(key="answers")
        with inputs:
            photos = input_ui(page)
        with answers:
            if photos:
                answers_ui(page, photos)
            else:
                title_ui(page)


def answers_ui(page: Page, photos: Sequence[Photo]) -> None:
    """Draw the answers; while some are still to come, look for them again and again."""
    outcomes = check(page, photos)
    if None in outcomes:
        checks().wait(FIRST_WAIT_S)
        outcomes = check(page, photos)
    is_waiting = any(map(is_to_come, outcomes))
    every = LOOK_EVERY_S if len(photos) == 1 else LOOK_AT_MANY_EVERY_S
    draw = st.fragment(answers_part, run_every=every if is_waiting else None)
    draw(page, photos, is_waiting=is_waiting)
    if "open" in st.session_state:
        dialog_ui(page, photos, outcomes)


def answers_part(page: Page, photos: Sequence[Photo], *, is_waiting: bool) -> None:
    """Draw what is known by now, and start the page's run again once all is."""
    had_outage = page.outage is not None
    outcomes = check(page, photos)
    if (is_waiting and not any(map(is_to_come, outcomes))) or (page.outage is not None) != had_outage:
        st.rerun()
    title_ui(page, min(map(kind_of, outcomes), key=KINDS.index))
    if len(photos) > 1:
        many_ui(page, photos, outcomes)
    else:
        one_ui(page, photos[0], outcomes[0])


def is_to_come(outcome: Outcome) -> bool:
    """Say whether an answer comes without anybody pressing a button."""
    return outcome is None or (isinstance(outcome, Failure) and outcome.is_busy)


def one_ui(page: Page, photo: Photo, outcome: Outcome) -> None:
    """Draw the answer to the only photo."""
    if outcome is None:
        band_ui(Band("waiting", page.text("checking"), photo.name))
    else:
        outcome_ui(page, photo, outcome)


# --- putting photos in ------------------------------------------------------------------------------


def input_ui(page: Page) -> list[Photo]:
    """Draw the ways to put photos in, and return the photos, each once."""
    state = st.session_state
    number = state.setdefault("round", 0)  # a new one begins with an empty uploader
    has_some = bool(state.get(f"uploads_{number}") or state.get("examples") or state.get(f"camera_{number}"))
    if not has_some:
        st.html(f"<p class='subtitle'>{page.text('subtitle')}</p>")
    with st.container(key="inputs_small" if has_some else "inputs_large"):
        uploads = st.file_uploader(
            page.text("upload"), accept_multiple_files=True, key=f"uploads_{number}",
            max_upload_size=max(1, math.ceil(page.settings.api_max_body_mb)),
        )  # fmt: skip
        if not has_some:
            st.caption(page.text("upload_formats", limit=f"{page.settings.api_max_body_mb:g}"))
        photos = [photo_of(upload) for upload in uploads]
        with st.container(horizontal=True, vertical_alignment="center", key="input_tools"):
            if has_some:
                st.button(
                    page.text("start_over"),
                    key="start_over",
                    icon=":material/restart_alt:",
                    on_click=start_over,
                )
            camera_on = st.toggle(page.text("camera"), key="camera_on", width="content")
        if camera_on:
            shot = st.camera_input(page.text("camera_label"), key=f"camera_{number}", width=480)
            photos += [Photo(page.text("camera_file"), shot.getvalue())] if shot else []
    if not has_some:
        st.html(f"<h2 class='examples-title'>{page.text('gallery')}</h2>")
        gallery_ui(page)
    photos += [Photo(path.name, path.read_bytes()) for path in chosen_examples()]
    once = list({photo.digest: photo for photo in photos}.values())
    if len(once) < len(photos):
        st.caption(page.text("photos_twice", count=len(photos) - len(once)))
    return once


def photo_of(upload: UploadedFile) -> Photo:
    """Return an uploaded file as a photo; what tells it from others is worked out once."""
    digests: dict[str, str] = st.session_state.setdefault("digests", {})
    photo = Photo(upload.name, upload.getvalue(), digests.get(upload.file_id, ""))
    digests[upload.file_id] = photo.digest
    return photo


def start_over() -> None:
    """Take all photos away."""
    state = st.session_state
    state["round"] = state.get("round", 0) + 1
    for key in ("examples", "digests", "marks", "open", "grid_page", "kinds", "camera_on"):
        state.pop(key, None)
