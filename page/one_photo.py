"""One photo's answer: the picture on a dark mat, its objects beside it, files, and sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

import streamlit as st

from detection import imaging
from detection.alarm import alarm_threshold, unsure_threshold
from detection.names import class_name
from page.downloads import csv_of, drawn_file, json_of, stem_of
from page.feedback import feedback_ui
from page.pictures import cutout, marked, scaled, zoom_frame
from page.session import LEAST_SCORE, Page, Photo, hundredths
from page.texts import markdown_safe
from page.verdict import band_of, is_alarm, notice_ui, shown_at_first
from schemas import AlarmFigures, AlarmPoint, Band, Detection, ImageResult, ModelCard, OperatingPoint

STEPS = ("weak", "likely", "strong")
CROP_WIDTH = 96
KEYS = 9  # objects with a key of their own
File = tuple[str, str, str, Callable[[], bytes]]  # text that names it, file name, kind, what makes it


class Choice(NamedTuple):
    """What the person wants to see beside all that the answer rests on."""

    weaker_from: float | None = None  # signs from this score on, dashed
    lookalikes: bool = True

    def of(self, page: Page, result: ImageResult) -> list[Detection]:
        """Return what is shown, weapons first; no choice takes a sign of a weapon away."""
        first = shown_at_first(page, result)
        more = [
            d for d in result.detections or ()
            if self.weaker_from is not None and d.score >= self.weaker_from and d not in first
        ]  # fmt: skip
        return [d for d in (*first, *more) if d.dangerous or self.lookalikes]


def photo_ui(page: Page, photo: Photo, result: ImageResult) -> None:
    """Draw everything below the answer's band."""
    with st.container(key="photo"):
        left, right = st.columns([7, 3], gap="medium")
        wrong = st.container()
        choice = sensitivity_ui(page)
        shown = choice.of(page, result)
        with left, st.container(key="mat"):
            picture_ui(page, photo, result, shown)
        with right:
            objects_ui(page, photo, result, shown)
            with st.container(horizontal=True, key="tools"):
                downloads_ui(page, photo, result, choice)
            details_ui(page, result, shown)
        with wrong:
            feedback_ui(page, photo, result, choice._replace(lookalikes=True).of(page, result))


def picture_ui(page: Page, photo: Photo, result: ImageResult, shown: Sequence[Detection]) -> None:
    """Draw the photo with its boxes, or the part that the person looks at closely."""
    index = st.session_state.get(f"look_{photo.digest}")
    zoom = shown[index] if index is not None and index < len(shown) else None
    try:
        image = imaging.decode_image(photo.content) if zoom else page.shown(photo)
    except imaging.ImageError:
        notice_ui(page.text("error_no_preview"))
        return
    frame = zoom_frame((image.shape[1], image.shape[0]), zoom.box) if zoom else None
    no_faces = bool(st.session_state.get("blur_shown"))
    drawn = imaging.encode_image(marked(page, image, result, shown, frame, mat=True, no_faces=no_faces))
    alt = page.text("alt_photo", file=photo.name, answer=band_of(page, result).title)
    if zoom is not None:
        alt = page.text("alt_zoom", file=photo.name, name=class_name(zoom.label, page.language))
    st.image(drawn, width="stretch", alt=alt)


# --- the objects ------------------------------------------------------------------------------------


def objects_ui(page: Page, photo: Photo, result: ImageResult, shown: Sequence[Detection]) -> None:
    """Draw a row for each object: a cut-out, its name, how sure the model is, and a closer look."""
    try:
        image = page.shown(photo) if shown else None
    except imaging.ImageError:
        image = None
    looked_at = st.session_state.get(f"look_{photo.digest}")
    for index, detection in enumerate(shown):
        name = class_name(detection.label, page.language)
        with st.container(horizontal=True, vertical_alignment="center", key=f"object_{index}", wrap=False):
            if image is not None:
                crop = cutout(image, scaled([detection], result, image)[0])
                alt = page.text("alt_crop", file=photo.name, name=name)
                st.image(imaging.encode_image(crop), width=CROP_WIDTH, alt=alt)
            st.html(object_words(page, index + 1, detection))
            if image is not None:
                closer_ui(page, photo, index, name, is_open=looked_at == index)


def closer_ui(page: Page, photo: Photo, index: int, name: str, *, is_open: bool) -> None:
    """Draw the button that looks closely at an object, or back at the whole photo."""
    label = page.text("look_whole" if is_open else "look_closer")
    st.button(
        label, key=f"closer_{index}", help=page.text("look_help", name=markdown_safe(name)),
        type="primary" if is_open else "secondary",
        shortcut=str(index + 1) if index < KEYS else None,
        on_click=st.session_state.__setitem__,
        args=(f"look_{photo.digest}", None if is_open else index),
    )  # fmt: skip


def object_words(page: Page, number: int, detection: Detection) -> str:
    """Return an object's name and how sure the model is of it, as HTML."""
    name = f"{number} {class_name(detection.label, page.language)}"
    kind = "weapon" if detection.dangerous else "lookalike"
    color = kind if not detection.dangerous or is_alarm(page, detection) else "unsure"
    lines = [f"<p class='object-name object-{color}'>{escape(name)}</p>"]
    band = sureness(page, detection)
    if band is None:
        lines.append(f"<p>{page.text(f'kind_{kind}')}</p>")
    else:
        word = page.text(f"sure_{band.name}")
        steps = "".join(
            f"<i class='{'on' if step <= STEPS.index(band.name) else ''}'></i>" for step in range(3)
        )
        steps = f"<span class='steps' aria-hidden='true'>{steps}</span>"
        lines.append(f"<p class='object-sure'>{steps} <strong>{word}</strong></p>")
        if band.right is not None and is_of_signs(page, band):
            right = page.text("sure_right", right=in_hundred(band.right))
            lines.append(f"<p class='object-hint'>{right}</p>")
    return "".join(lines)


def is_of_signs(page: Page, band: Band) -> bool:
    """Say whether all that was counted in a band is shown as a sign.

    Of the many boxes below the unsure point hardly any is right: a share that counts them is not that of
    the mark which a person sees, and would talk down an alarm.
    """
    return page.info is not None and band.score_from >= unsure_threshold(page.info.card)


def sureness(page: Page, detection: Detection) -> Band | None:
    """Return the band of a weapon's score; None for look-alikes, of which no bands are measured."""
    if page.info is None or not detection.dangerous:
        return None
    reached = [band for band in page.info.card.bands if detection.score >= band.score_from]
    return reached[-1] if reached else None


def sure_word(page: Page, detection: Detection) -> str:
    """Return how sure the model is in a word; empty where nothing was measured."""
    band = sureness(page, detection)
    return page.text(f"sure_{band.name}") if band else ""


def details_ui(page: Page, result: ImageResult, shown: Sequence[Detection]) -> None:
    """Draw the table of what is shown, with the scores."""
    with st.expander(page.text("details"), key="details"):
        if shown:
            st.table([table_row(page, d) for d in shown], hide_index=True)
        if result.image_size and result.time_ms:
            size = result.image_size.model_dump()
            st.caption(page.text("timing", **size, ms=f"{result.time_ms.inference:.0f}"))


def table_row(page: Page, detection: Detection) -> dict[str, str]:
    """Return a detection as the table shows it."""
    place = ", ".join(f"{value:.0f}" for value in detection.box.model_dump().values())
    return {
        page.text("column_object"): page.class_name(detection.label),
        page.text("column_sure"): sure_word(page, detection),
        page.text("column_score"): page.score(detection.score),
        page.text("column_place"): place,
    }


# --- more sensitivity -------------------------------------------------------------------------------


def sensitivity_ui(page: Page) -> Choice:
    """Draw what changes the picture and never the answer, folded away, and return it."""
    with st.expander(page.text("sensitivity"), key="sensitivity"):
        lookalikes = st.toggle(page.text("lookalikes_too"), value=True, key="lookalikes")
        st.toggle(page.text("blur_shown"), key="blur_shown")
        if page.info is None:
            return Choice(lookalikes=lookalikes)
        card = page.info.card
        weaker = most = hundredths(unsure_threshold(card))
        if card.operating_point and most > LEAST_SCORE:
            weaker = st.slider(
                page.text("weaker"), LEAST_SCORE, most, most, 0.01, key=f"weaker_{most:.2f}",
                help=page.text("weaker_help"),
            )  # fmt: skip
        rows = costs(page, card, weaker)
        if rows:
            st.table(rows, hide_index=True)
        st.caption(page.text("weaker_answer" if card.alarm else "threshold_unmeasured"))
    return Choice(weaker if weaker < most else None, lookalikes)


def costs(page: Page, card: ModelCard, setting: float) -> list[dict[str, str]]:
    """Return what an alarm at the setting, and at the model's own point, finds and costs on each split."""
    if card.operating_point is None:
        return []
    validation = AlarmFigures(operating_point=card.operating_point, curve=card.alarm_curve)
    splits = [validation, *([card.tested_alarm] if card.tested_alarm else [])]
    rows = []
    for key, score in (("cost_here", setting), ("cost_alarm", alarm_threshold(card))):
        for figures in splits:
            point: AlarmPoint | OperatingPoint = figures.operating_point
            if key == "cost_here" and figures.curve:
                point = min(figures.curve, key=lambda p: abs(p.score_threshold - setting))
            found, false = in_hundred(point.image_recall), round(point.false_alarms_per_1000)
            row = {
                "cost_setting": page.text(key, score=page.score(score)),
                "cost_split": page.text(f"split_{figures.operating_point.split}"),
                "cost_found": page.text("of_hundred", count=found),
                "cost_false": page.text("of_thousand", count=false),
            }
            rows.append({page.text(name): value for name, value in row.items()})
    return rows


def in_hundred(fraction: float) -> int:
    """Return a fraction as so many of 100; only 1 itself is all of them."""
    return 100 if fraction == 1 else min(99, round(100 * fraction))


# --- files ------------------------------------------------------------------------------------------


def downloads_ui(page: Page, photo: Photo, result: ImageResult, choice: Choice) -> None:
    """Draw the menu of files; each is made when it is asked for, and holds every sign of a weapon.

    Where nothing is marked there is no picture with boxes: it would be the person's own photo.
    """
    stem, shown = stem_of(photo.name), choice.of(page, result)

    def kept(each: ImageResult) -> list[Detection]:
        return choice._replace(lookalikes=True).of(page, each)

    def picture(image_format: str) -> Callable[[], bytes]:
        return lambda: drawn_file(page, photo, result, shown, image_format, no_faces=no_faces)

    with st.popover(page.text("download"), icon=":material/download:"):
        no_faces = bool(shown) and st.toggle(page.text("blur_files"), value=True, key="blur_files")
        pictures: tuple[File, ...] = (
            ("download_jpeg", f"{stem}-boxes.jpg", "image/jpeg", picture("JPEG")),
            ("download_png", f"{stem}-boxes.png", "image/png", picture("PNG")),
        )
        tables: tuple[File, ...] = (
            ("download_json", f"{stem}.json", "application/json", lambda: json_of(page, [result], kept)),
            ("download_csv", f"{stem}.csv", "text/csv", lambda: csv_of(page, [result], kept)),
        )
        for key, file_name, mime, make in (*pictures, *tables) if shown else tables:
            st.download_button(
                page.text(key), data=make, file_name=file_name, mime=mime, key=key, on_click="ignore",
                type="tertiary",
            )  # fmt: skip
