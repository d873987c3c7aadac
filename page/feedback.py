"""The correction under a photo, where FEEDBACK_DIR is set: what each box really is, what was missed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import streamlit as st

from detection import drawing, imaging
from detection.names import class_name
from page import memory
from page.box_drawing import Percent, box_drawing_ui
from page.corrections import Correction, forget_old, keep, prepared
from page.gallery import is_example
from page.session import PICTURES, Page, Photo
from page.verdict import notice_ui
from schemas import Detection, ImageResult

NOTHING = ""  # the choice "nothing of these": no class is named so
WHOLE = (0, 100)  # where a slider stands before anybody moved it
BOX_SIDE = 900  # pixels of the picture on which a box is drawn


def feedback_ui(page: Page, photo: Photo, result: ImageResult, found: Sequence[Detection]) -> None:
    """Draw the correction of one photo; keep it only after consent and the press of a button.

    Args:
        page: the page.
        photo: as the person put it in.
        result: what the API said of it.
        found: all that is sure enough, whatever the filter hides: what is kept must be the whole truth.
    """
    folder = page.settings.feedback_dir
    if folder is None or page.info is None or result.image_size is None or is_example(photo):
        return
    with st.expander(page.text("feedback"), icon=":material/edit:", key="feedback", on_change="rerun") as box:
        if box.open:
            correction_ui(page, folder, photo, result, found)


def correction_ui(
    page: Page, folder: Path, photo: Photo, result: ImageResult, found: Sequence[Detection]
) -> None:
    """Draw the questions, the picture that would be kept, and the button."""
    labels = page.info.card.class_names[1:] if page.info else ()
    st.markdown(page.text("feedback_intro"))
    left, right = st.columns(2, gap="medium")
    try:
        with left:
            corrections = boxes_ui(page, photo, found, labels)
            is_missed, missed = missed_ui(page, photo, result, labels)
            corrections += [missed] if missed else []
        with right:
            faces = preview_ui(page, photo, result, corrections)
    except imaging.ImageError:
        notice_ui(page.text("error_no_preview"))
        return
    with right:
        consent = st.checkbox(page.text("feedback_consent"), key=f"consent_{photo.digest}")
        is_ready = consent and not (is_missed and missed is None)
        is_sent = st.button(page.text("feedback_send"), key=f"send_{photo.digest}", disabled=not is_ready)
        if is_sent and is_ready:
            keep_ui(page, folder, photo, corrections, faces)


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


def missed_ui(
    page: Page, photo: Photo, result: ImageResult, labels: Sequence[str]
) -> tuple[bool, Correction | None]:
    """Draw the way to point at something missed; return whether something was, and it once it has a box."""
    if result.image_size is None or not st.toggle(page.text("feedback_missed"), key=f"missed_{photo.digest}"):
        return False, None
    label = st.selectbox(
        page.text("feedback_missed_what"), labels, key=f"what_{photo.digest}",
        format_func=lambda label: class_name(label, page.language),
    )  # fmt: skip
    across, down = f"across_{photo.digest}", f"down_{photo.digest}"

    def take(box: Percent) -> None:
        st.session_state[across], st.session_state[down] = (box[0], box[2]), (box[1], box[3])

    (left, right), (top, bottom) = (tuple(st.session_state.get(key, WHOLE)) for key in (across, down))
    is_touched = (left, right) != WHOLE or (top, bottom) != WHOLE
    box = (left, top, right, bottom)
    is_box = is_touched and left < right and top < bottom
    st.caption(page.text("feedback_draw"))
    picture = imaging.shrink(page.shown(photo), BOX_SIDE)
    box_drawing_ui(
        picture, box if is_box else None, page.text("feedback_preview"), f"box_{photo.digest}", take
    )
    for key, words in ((across, "feedback_across"), (down, "feedback_down")):  # for the keyboard
        st.session_state.setdefault(key, WHOLE)
        st.slider(page.text(words), 0, 100, key=key)
    if not is_box:
        notice_ui(page.text("feedback_no_box"))
        return True, None
    width, height = result.image_size.width / 100, result.image_size.height / 100
    return True, Correction(label, (left * width, top * height, right * width, bottom * height))


def preview_ui(page: Page, photo: Photo, result: ImageResult, corrections: Sequence[Correction]) -> int:
    """Show what would be kept: faces blurred, boxes drawn. Return how many faces.

    Raises:
        imaging.ImageError: the page's image library cannot read the photo.
    """
    image = page.shown(photo)
    factor = image.shape[1] / result.image_size.width if result.image_size else 1.0
    scaled = [each.times(factor) for each in corrections]
    faces: list[int] = st.session_state.setdefault("feedback_faces", {}).setdefault(photo.digest, [0])

    def make() -> imaging.Image:
        kept, faces[0] = prepared(image, scaled)
        return kept

    kept = PICTURES.get(memory.session_id(), f"kept {photo.digest} {scaled}", make)
    boxes = np.array([each.box for each in scaled], np.float32).reshape(-1, 4)
    dangerous = [page.info is not None and each.label in page.info.dangerous for each in scaled]
    names = [class_name(each.label, page.language) for each in scaled]
    drawn = drawing.draw_boxes(kept, boxes, names, drawing.styles_of(dangerous))
    st.image(imaging.encode_image(drawn), width="stretch", alt=page.text("feedback_kept"))
    st.caption(page.text("feedback_kept_faces", faces=faces[0]))
    return faces[0]


def keep_ui(page: Page, folder: Path, photo: Photo, corrections: Sequence[Correction], faces: int) -> None:
    """Keep the corrected photo and say so, or say why not."""
    try:
        keep(folder, imaging.decode_image(photo.content), corrections)
        forget_old(folder, page.settings.feedback_days)
    except OSError as error:
        notice_ui(page.text("feedback_failed", detail=error.strerror or str(error)), "warning")
    else:
        days = f"{page.settings.feedback_days:g}"
        notice_ui(page.text("feedback_thanks", faces=faces, days=days))
