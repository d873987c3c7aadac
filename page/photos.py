"""The photos tab: putting photos in, the answer in one sentence, the boxes, the downloads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import streamlit as st

from detection import drawing, imaging
from detection.names import class_name
from page.downloads import csv_of, drawn_file, json_of, stem_of, zip_of
from page.feedback import feedback_ui
from page.gallery import gallery_ui
from page.session import Choice, Failure, Page, Photo, strongest, weapons
from page.texts import markdown_safe
from schemas import AlarmPoint, Box, Detection, ImageResult, ModelCard

VIEWS = ("view_boxes", "view_both", "view_original")
CARDS_AT_ONCE = 12
ZOOM_MARGIN = 0.6  # of the box's sides, around it


def photos_ui(page: Page) -> None:
    """Draw the whole tab: photos go in on top, then the answer for all, each photo, what to show beside."""
    photos = input_ui(page)
    if not photos:
        st.caption(page.text("nothing_yet"))
        return
    many = len(photos) > 1
    summary = st.container()
    answers, choices = st.columns([2, 1], gap="medium")
    with choices, st.container(key="sticky_many" if many else "sticky_one"):
        choice = choice_ui(page)
    with summary:
        outcomes = check_ui(page, photos)
        if many:
            summary_ui(page, photos, outcomes, choice)
    checked = list(zip(photos, outcomes, strict=True))
    checked.sort(key=lambda pair: rank(pair[1], choice.score_threshold))
    with answers:
        cards_ui(page, checked, choice)


def cards_ui(page: Page, checked: Sequence[tuple[Photo, ImageResult | Failure]], choice: Choice) -> None:
    """Draw a card for each photo, CARDS_AT_ONCE of them until asked for more: the slider stays quick."""
    count = st.session_state.setdefault("cards", CARDS_AT_ONCE)
    for photo, outcome in checked[:count]:
        with st.container(border=True, key=f"card_{photo.digest[:16]}"):
            card_ui(page, photo, outcome, choice)
    if len(checked) > count:
        st.button(
            page.text("show_more", count=len(checked) - count), key="more", icon=":material/expand_more:",
            on_click=st.session_state.__setitem__, args=("cards", count + CARDS_AT_ONCE),
        )  # fmt: skip


def rank(outcome: ImageResult | Failure, threshold: float) -> int:
    """Return a photo's place among many: weapons first, then what has no answer, then the rest."""
    if isinstance(outcome, Failure):
        return 1
    return 0 if weapons(outcome.detections or (), threshold) else 2


def input_ui(page: Page) -> list[Photo]:
    """Draw the ways to put photos in, and return the photos, each once."""
    uploads = st.file_uploader(
        page.text("upload"), accept_multiple_files=True, key="uploads",
        max_upload_size=max(1, math.ceil(page.settings.api_max_body_mb)),
    )  # fmt: skip
    photos = [Photo(upload.name, upload.getvalue()) for upload in uploads]
    with st.container(horizontal=True, vertical_alignment="center"):
        if not uploads:
            st.caption(page.text("upload_formats", limit=f"{page.settings.api_max_body_mb:g}"))
        camera_on = st.toggle(page.text("camera"), key="camera_on", width="content")
        examples = st.container(width="content")
    if camera_on:
        shot = st.camera_input(page.text("camera_label"), key="camera", width=480)
        photos += [Photo(page.text("camera_file"), shot.getvalue())] if shot else []
    if photos or st.session_state.get("examples"):
        with examples, st.popover(page.text("gallery_more"), icon=":material/collections:"):
            chosen = gallery_ui(page)
    else:
        with st.expander(page.text("gallery"), expanded=True, icon=":material/collections:"):
            chosen = gallery_ui(page)
    photos += [Photo(path.name, path.read_bytes()) for path in chosen]
    return list({photo.digest: photo for photo in photos}.values())


def choice_ui(page: Page) -> Choice:
    """Draw slider and filter, and return what the person wants to see."""
    labels = page.info.card.class_names[1:] if page.info else ()
    dangerous = frozenset(page.info.dangerous if page.info else ())
    with st.container(border=True, key="choice"):
        threshold = threshold_ui(page, "photos")
        only_weapons = st.toggle(page.text("only_weapons"), key="only_weapons")
        wanted = st.pills(
            page.text("filter"),
            labels,
            selection_mode="multi",
            default=labels,
            format_func=page.class_name,
            key="labels",
            disabled=only_weapons,
            wrap=True,
        )
    return Choice(threshold, dangerous if only_weapons else frozenset(wanted))


def threshold_ui(page: Page, place: str) -> float:
    """Draw the slider, starting at the operating point, and say what its position means."""
    lowest = round(page.lowest_threshold, 2)
    key = f"threshold_{place}_{page.default_threshold:.2f}"  # another model's operating point starts afresh
    threshold = st.slider(
        page.text("threshold"), lowest, 0.99, max(lowest, page.default_threshold), 0.01,
        format="percent", key=key, help=page.text("threshold_help"),
    )  # fmt: skip
    if page.info:
        st.caption(meaning(page, page.info.card, threshold))
    if threshold != page.default_threshold:
        st.button(
            page.text("threshold_reset"), key=f"threshold_reset_{place}", type="tertiary",
            icon=":material/undo:", on_click=st.session_state.__setitem__, args=(key, page.default_threshold),
        )  # fmt: skip
    return threshold


def meaning(page: Page, card: ModelCard, threshold: float) -> str:
    """Return in words what an alarm at threshold catches and costs, as measured."""
    alarm = card.alarm
    if alarm is None:
        return page.text("threshold_unmeasured")
    operating_point = alarm.operating_point
    at_default = threshold == page.default_threshold
    point: AlarmPoint | None = None
    if not at_default and alarm.curve:
        point = min(alarm.curve, key=lambda p: abs(p.score_threshold - threshold))
    recall = point.image_recall if point else operating_point.image_recall
    false_alarms = point.false_alarms_per_1000 if point else operating_point.false_alarms_per_1000
    note = page.text("threshold_default") if at_default else ""
    if not at_default:
        note = page.text("threshold_changed", threshold=page.percent(page.default_threshold))
    if not at_default and point is None:
        return note
    split = page.text(f"split_{operating_point.split}")
    return " ".join((
        page.text(
            "threshold_meaning", threshold=page.percent(threshold), recall=page.percent(recall),
            false_alarms=f"{false_alarms:.0f}", split=split,
        ),
        note,
    ))  # fmt: skip


def check_ui(page: Page, photos: Sequence[Photo]) -> list[ImageResult | Failure]:
    """Return each photo's answer, with a progress bar while the API is asked."""
    outcomes: list[ImageResult | Failure] = []
    progress = st.empty()
    for index, photo in enumerate(photos, start=1):
        words = page.text("checking", file=markdown_safe(photo.name), index=index, count=len(photos))
        if not page.knows(photo):
            progress.progress((index - 1) / len(photos), text=words)
        outcomes.append(page.answer(photo))
    progress.empty()
    return outcomes


def answer(page: Page, detections: Sequence[Detection], threshold: float) -> tuple[str, str]:
    """Return the answer as its kind ("weapon", "lookalike", "nothing") and its sentence."""
    found = weapons(detections, threshold)
    if found:
        names = ", ".join(page.named(d) for d in strongest(found))
        return "weapon", page.text("answer_weapon", found=names)
    others = strongest([d for d in detections if d.score >= threshold])
    if others:
        return "lookalike", page.text("answer_lookalike", found=", ".join(page.named(d) for d in others))
    return "nothing", page.text("answer_nothing")


def answer_ui(kind: str, sentence: str) -> None:
    """Draw the answer in its one colour."""
    if kind == "weapon":
        st.error(f"**{sentence}**", icon=":material/warning:")
    elif kind == "unsure":
        st.warning(f"**{sentence}**", icon=":material/help:")
    else:
        st.success(f"**{sentence}**", icon=":material/check_circle:")


def summary_ui(
    page: Page, photos: Sequence[Photo], outcomes: Sequence[ImageResult | Failure], choice: Choice
) -> None:
    """Draw one answer for many photos, and the download of them all."""
    answered = [o for o in outcomes if isinstance(o, ImageResult)]
    alarms = [o for o in answered if weapons(o.detections or (), choice.score_threshold)]
    failed = len(photos) - len(answered)
    key = "answer_many" if alarms else "answer_many_none"
    sentence = page.text(key, alarms=len(alarms), count=len(answered))
    sentence += page.text("answer_many_failed", failed=failed) if failed else ""
    if answered:
        answer_ui("weapon" if alarms else "unsure" if failed else "nothing", sentence)
        st.download_button(
            page.text("download_zip"),
            data=lambda: zip_of(page, photos, outcomes, choice),
            file_name="weapon-detector.zip",
            mime="application/zip",
            icon=":material/folder_zip:",
            on_click="ignore",
        )


def card_ui(page: Page, photo: Photo, outcome: ImageResult | Failure, choice: Choice) -> None:
    """Draw one photo's answer, picture, table and downloads, or why there is none."""
    st.markdown(f"##### {markdown_safe(photo.name)}")
    if isinstance(outcome, Failure):
        st.warning(outcome.sentence, icon=":material/hourglass:" if outcome.waiting else ":material/error:")
        if not (outcome.waiting or outcome.hopeless):
            st.button(page.text("retry"), key=f"retry_{photo.digest}", icon=":material/refresh:")
        return
    detections = outcome.detections or []
    kind, sentence = answer(page, detections, choice.score_threshold)
    answer_ui(kind, sentence)
    near = [d for d in detections if d.dangerous]
    if kind != "weapon" and near:
        st.caption(page.text("answer_near", found=page.named(near[0])))
    shown = choice.of(detections)
    if hidden := choice.hides(detections):
        st.caption(page.text("hidden", hidden=hidden))
    try:
        picture_ui(page, photo, outcome, shown, sentence)
    except imaging.ImageError:
        st.info(page.text("error_no_preview"))
    else:
        objects_ui(page, photo, outcome, shown)
    downloads_ui(page, photo, outcome, choice)
    feedback_ui(page, photo, outcome, [d for d in detections if d.score >= choice.score_threshold])


def picture_ui(
    page: Page, photo: Photo, result: ImageResult, shown: Sequence[Detection], sentence: str
) -> None:
    """Draw the photo with its boxes, as the person wants to see it: the ways to look are below it."""
    place = st.container()
    with st.container(horizontal=True, vertical_alignment="center"):
        view = st.segmented_control(
            page.text("view"), VIEWS, format_func=page.text, default=VIEWS[0], required=True,
            key=f"view_{photo.digest}", label_visibility="collapsed",
        )  # fmt: skip
        zoom = zoom_ui(page, photo, shown)
    original = page.shown(photo)
    drawn = drawing.draw_detections(original, scaled(shown, result, original), page.language)
    if zoom is not None:
        original, inside = zoomed(imaging.decode_image(photo.content), shown, zoom)
        drawn = drawing.draw_detections(original, inside, page.language)
    alt = page.text("alt_photo", file=photo.name, answer=sentence)
    alt_original = page.text("alt_original", file=photo.name)
    if view == "view_both":
        left, right = place.columns(2)
        left.image(
            imaging.encode_image(original),
            caption=page.text("caption_original"),
            width="stretch",
            alt=alt_original,
        )
        right.image(imaging.encode_image(drawn), caption=legend(page, shown), width="stretch", alt=alt)
    elif view == "view_original":
        place.image(imaging.encode_image(original), width="stretch", alt=alt_original)
    else:
        place.image(imaging.encode_image(drawn), width="stretch", alt=alt, caption=legend(page, shown))


def zoom_ui(page: Page, photo: Photo, shown: Sequence[Detection]) -> Detection | None:
    """Draw the choice of what to look at closely, and return it; None is the whole photo."""
    if not shown:
        return None
    names = [page.text("zoom_whole")]
    names += [
        page.text("zoom_to", name=class_name(d.label, page.language), score=page.percent(d.score))
        for d in shown
    ]
    index = st.selectbox(
        page.text("zoom"), range(len(names)), format_func=names.__getitem__, width=260,
        key=f"zoom_{photo.digest}_{len(shown)}", label_visibility="collapsed",
    )  # fmt: skip
    return shown[index - 1] if index else None


def zoomed(
    image: imaging.Image, detections: Sequence[Detection], zoom: Detection
) -> tuple[imaging.Image, list[Detection]]:
    """Return the part of image around zoom, and the detections in it with their boxes in its pixels.

    Drawn after cutting, lines and captions have the size that suits the part, and none is cut off.
    """
    frame = drawing.crop_frames(image.shape[:2], drawing.boxes_of([zoom]), margin=ZOOM_MARGIN)[0]
    left, top, right, bottom = frame
    inside = [
        d.model_copy(
            update={"box": Box(x1=d.box.x1 - left, y1=d.box.y1 - top, x2=d.box.x2 - left, y2=d.box.y2 - top)}
        )
        for d in detections
        if d.box.x1 < right and d.box.x2 > left and d.box.y1 < bottom and d.box.y2 > top
    ]
    return image[top:bottom, left:right], inside


def legend(page: Page, shown: Sequence[Detection]) -> str | None:
    """Return what the kinds of box mean that are drawn, None where there is none."""
    kinds = {True: page.text("legend_weapon"), False: page.text("legend_lookalike")}
    return (
        " · ".join(words for kind, words in kinds.items() if any(d.dangerous is kind for d in shown)) or None
    )


def scaled(detections: Sequence[Detection], result: ImageResult, image: imaging.Image) -> list[Detection]:
    """Return detections with their boxes in pixels of image, the photo at another size."""
    factor = image.shape[1] / result.image_size.width if result.image_size else 1.0
    return [
        d.model_copy(
            update={"box": d.box.model_copy(update={k: v * factor for k, v in d.box.model_dump().items()})}
        )
        for d in detections
    ]


def objects_ui(page: Page, photo: Photo, result: ImageResult, shown: Sequence[Detection]) -> None:
    """Draw the table of detections and a cut-out of each."""
    if not shown:
        return
    with st.expander(page.text("details", count=len(shown)), icon=":material/list:"):
        st.table([table_row(page, d) for d in shown], hide_index=True)
        crops = drawing.crop_boxes(
            page.shown(photo), drawing.boxes_of(scaled(shown, result, page.shown(photo)))
        )
        with st.container(horizontal=True):
            for detection, crop in zip(shown, crops, strict=True):
                name, score = class_name(detection.label, page.language), page.percent(detection.score)
                alt = page.text("alt_crop", file=photo.name, name=name, score=score)
                caption = f"{markdown_safe(name)} {score}"
                st.image(imaging.encode_image(crop), width=140, caption=caption, alt=alt)
        if result.image_size and result.time_ms:
            size = result.image_size.model_dump()
            st.caption(page.text("timing", **size, ms=f"{result.time_ms.inference:.0f}"))


def table_row(page: Page, detection: Detection) -> dict[str, str]:
    """Return a detection as the table shows it."""
    place = ", ".join(f"{value:.0f}" for value in detection.box.model_dump().values())
    return {
        page.text("column_object"): page.class_name(detection.label),
        page.text("column_kind"): page.text("kind_weapon" if detection.dangerous else "kind_lookalike"),
        page.text("column_score"): page.percent(detection.score),
        page.text("column_place"): place,
    }


def downloads_ui(page: Page, photo: Photo, result: ImageResult, choice: Choice) -> None:
    """Draw the downloads of one photo; each file is made when its button is pressed."""
    stem = stem_of(photo.name)
    shown = choice.of(result.detections or ())

    files = (
        ("download_jpeg", f"{stem}-boxes.jpg", "image/jpeg", lambda: drawn_file(page, photo, shown)),
        ("download_png", f"{stem}-boxes.png", "image/png", lambda: drawn_file(page, photo, shown, "PNG")),
        ("download_json", f"{stem}.json", "application/json", lambda: json_of(page, [result], choice)),
        ("download_csv", f"{stem}.csv", "text/csv", lambda: csv_of([result], choice)),
    )
    with st.container(horizontal=True, key=f"downloads_{photo.digest[:16]}"):
        for key, file_name, mime, make in files:
            st.download_button(
                page.text(key), data=make, file_name=file_name, mime=mime, icon=":material/download:",
                key=f"{key}_{photo.digest}", on_click="ignore",
            )  # fmt: skip
