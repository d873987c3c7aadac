"""The correction under a photo, where FEEDBACK_DIR is set: what each box really is, what was missed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import streamlit as st

from detection import drawing, imaging
from detection.names import class_name
from page.corrections import Corners, Correction, keep
from page.session import Page, Photo
from page.texts import markdown_safe
from schemas import Detection, ImageResult

NOTHING = ""  # the choice "nothing of these": no class is named so


def feedback_ui(page: Page, photo: Photo, result: ImageResult, found: Sequence[Detection]) -> None:
    """Draw the correction of one photo; keep it only after consent and the press of a button.

    Args:
        page: the page.
        photo: as the person put it in.
        result: what the API said of it.
        found: all that is sure enough, whatever the filter hides: what is kept must be the whole truth.
    """
    folder = page.settings.feedback_dir
    if folder is None or page.info is None or result.image_size is None:
        return
    labels = page.info.card.class_names[1:]
    with st.expander(page.text("feedback"), icon=":material/edit:"):
        st.markdown(page.text("feedback_intro"))
        corrections = boxes_ui(page, photo, found, labels)
        missed = missed_ui(page, photo, result, labels)
        corrections += [missed] if missed else []
        consent = st.checkbox(page.text("feedback_consent"), key=f"consent_{photo.digest}")
        send = st.button(page.text("feedback_send"), key=f"send_{photo.digest}", disabled=not consent)
        if send and consent:
            keep_ui(page, folder, photo, corrections)


def boxes_ui(page: Page, photo: Photo, found: Sequence[Detection], labels: Sequence[str]) -> list[Correction]:
    """Draw one question per box, and return the boxes that hold something."""
    options = [*labels, NOTHING]
    corrections = []
    for index, detection in enumerate(found):
        name, score = page.class_name(detection.label), page.score(detection.score)
        label = st.selectbox(
            page.text("feedback_really", name=name, score=score),
            options,
            options.index(detection.label),
            format_func=lambda label: (
                class_name(label, page.language) if label else page.text("feedback_nothing")
            ),
            key=f"really_{photo.digest}_{index}_{detection.label}_{detection.score}",
        )
        if label:
            box = detection.box
            corrections.append(Correction(label, (box.x1, box.y1, box.x2, box.y2)))
    return corrections


def missed_ui(page: Page, photo: Photo, result: ImageResult, labels: Sequence[str]) -> Correction | None:
    """Draw the way to point at something missed, and return it."""
    if result.image_size is None or not st.toggle(page.text("feedback_missed"), key=f"missed_{photo.digest}"):
        return None
    label = st.selectbox(
        page.text("feedback_missed_what"),
        labels,
        format_func=lambda label: class_name(label, page.language),
        key=f"what_{photo.digest}",
    )
    left, right = st.slider(page.text("feedback_across"), 0, 100, (30, 70), key=f"across_{photo.digest}")
    top, bottom = st.slider(page.text("feedback_down"), 0, 100, (30, 70), key=f"down_{photo.digest}")
    image = page.shown(photo)
    height, width = image.shape[:2]
    box = _of_size((left, top, max(right, left + 1), max(bottom, top + 1)), width, height)
    dangerous = page.info is not None and label in page.info.dangerous
    drawn = drawing.draw_boxes(
        image, np.array([box], np.float32), [class_name(label, page.language)], drawing.styles_of([dangerous])
    )
    st.image(imaging.encode_image(drawn), width=360, alt=page.text("feedback_preview"))
    factor = result.image_size.width / width
    return Correction(label, (box[0] * factor, box[1] * factor, box[2] * factor, box[3] * factor))


def _of_size(percent: tuple[int, int, int, int], width: int, height: int) -> Corners:
    x1, y1, x2, y2 = percent
    return x1 * width / 100, y1 * height / 100, x2 * width / 100, y2 * height / 100


def keep_ui(page: Page, folder: Path, photo: Photo, corrections: Sequence[Correction]) -> None:
    """Keep the corrected photo and say so, or say why not."""
    try:
        faces = keep(folder, imaging.decode_image(photo.content), corrections)
    except OSError as error:
        st.error(page.text("feedback_failed", detail=markdown_safe(error.strerror or str(error))))
    else:
        st.success(page.text("feedback_thanks", faces=faces))
