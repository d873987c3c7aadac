"""The video tab: a film goes in, the answer names times to look at, a player with boxes shows them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Any, NamedTuple

import streamlit as st

from detection import imaging
from detection.confirmation import Rule
from detection.names import class_name
from page import memory
from page.checks import Checks
from page.frames import (
    Frame,
    VideoError,
    VideoTooLarge,
    VideoTooLong,
    duration_s,
    read_frames,
    write_clip,
)
from page.gallery import example_clip
from page.moments import Look, Moment, moments_of
from page.pictures import marked
from page.session import PICTURES, Failure, Page, Photo, Recent
from page.texts import markdown_safe
from page.verdict import NOTE_TEXTS, Band, Kind, band_ui, missed_words, notice_ui, shown_at_first, title_ui

VIDEOS_KEPT = 2
SUFFIXES = ("mp4", "m4v", "mov", "3gp", "webm", "mkv", "avi")
NAMED_AT_MOST = 3  # spans in the answer's first line
BUTTONS_AT_MOST = 12  # spans to press
STRIP_HEIGHT, AXIS_HEIGHT = 36, 30  # CSS pixels
LOOK_EVERY_S = 1.0  # whether the player's film is drawn
KIND_TEXTS: dict[Kind, str] = {"alarm": "video_alarm", "unsure": "video_unsure_short", "none": "video_none"}
COLORS: dict[Kind, str] = {"alarm": "#c2410c", "unsure": "#fbbf24", "none": "#44586f"}


class Watched(NamedTuple):
    """What was found in a video, frame by frame; failure says why it is not complete, if so."""

    looks: list[Look]
    failure: Failure | None = None


def video_ui(page: Page, *, is_open: bool) -> None:
    """Draw the whole tab; of one that is not open only what would forget its file."""
    with st.container(key="video_tab"):
        photo = input_ui(page)
        if photo is None or not is_open:
            return
        watched = watch_ui(page, photo)
        if watched.failure and watched.failure.is_busy:
            go_on_later(page)
        if watched.looks:
            result_ui(page, photo, watched)
        elif watched.failure:
            band_ui(Band("failed", page.text("band_failed"), watched.failure.sentence))


def input_ui(page: Page) -> Photo | None:
    """Draw the ways to put a video in, and return it."""
    state, settings = st.session_state, page.settings
    number = state.setdefault("video_round", 0)
    upload_key = f"video_{number}"
    has_some = bool(state.get(upload_key) or state.get("video_example"))
    rate, seconds = settings.video_frames_per_second, settings.video_max_seconds
    with st.container(key="video_drop"), st.container(key=f"video_inputs_{'small' if has_some else 'large'}"):
        upload = st.file_uploader(page.text("video_upload"), key=upload_key, type=list(SUFFIXES))
        if has_some:
            with st.container():
                st.button(
                    page.text("start_over"), key="video_over", icon=":material/restart_alt:",
                    on_click=start_over,
                )  # fmt: skip
    if not has_some:
        st.caption(page.text("video_formats", seconds=f"{seconds:g}", rate=f"{rate:g}"))
        st.button(
            page.text("video_example"), key="video_try", icon=":material/movie:",
            on_click=state.__setitem__, args=("video_example", True),
        )  # fmt: skip
    if upload is not None:
        return Photo(upload.name, upload.getvalue())
    return Photo(page.text("video_example_file"), example_clip()) if state.get("video_example") else None


def start_over() -> None:
    """Take the video away."""
    state = st.session_state
    state["video_round"] = state.get("video_round", 0) + 1
    for key in ("video_example", "video_at"):
        state.pop(key, None)


def watch_ui(page: Page, photo: Photo) -> Watched:
    """Return what is in the video's frames, with a progress bar while the API is asked.

    What was found is kept: after an outage the rest is asked for, not the whole.
    """
    kept: Recent[str, Watched] = st.session_state.setdefault("videos", Recent(VIDEOS_KEPT))
    key = f"{photo.digest} {page.model_key}"
    if key in kept and kept[key].failure is None:
        return kept[key]
    settings, failure = page.settings, None
    looks: list[Look] = []
    progress = st.empty()
    try:
        duration = duration_s(photo.content)
        for time_s, image in read_frames(
            photo.content,
            frames_per_second=settings.video_frames_per_second,
            max_seconds=settings.video_max_seconds,
        ):
            outcome = page.answer(Photo(f"{time_s:.2f} s", imaging.encode_image(image)))
            if isinstance(outcome, Failure):
                failure = outcome
                break
            looks.append(Look(time_s, outcome))
            words = page.text("video_checking", time=clock(time_s), duration=clock(duration))
            progress.progress(min(1.0, time_s / duration) if duration else 0.0, text=words)
    except VideoTooLong:
        failure = Failure(page.text("error_video_too_long", seconds=f"{settings.video_max_seconds:g}"))
    except VideoTooLarge:
        failure = Failure(page.text("error_video_too_large"))
    except VideoError:
        failure = Failure(page.text("error_not_a_video"))
    progress.empty()
    kept[key] = Watched(looks, failure)
    return kept[key]


@st.fragment(run_every=1.0)
def go_on_later(page: Page) -> None:
    """Start the page's run again once a busy API may be asked for the rest of the video."""
    if page.may_ask_again():
        st.rerun()


def clock(time_s: float) -> str:
    """Return a time as a player shows it: 1:05."""
    return f"{int(time_s) // 60}:{int(time_s) % 60:02d}"


# --- the answer -------------------------------------------------------------------------------------


def result_ui(page: Page, photo: Photo, watched: Watched) -> None:
    """Draw the answer, the player beside the times to look at, and the strip of the whole film."""
    if page.info is None:
        return
    looks, rule = watched.looks, Rule.of_card(page.info.card)
    moments = moments_of(looks, rule)
    answer = video_answer(page, watched, moments)
    band_ui(answer)
    if answer.kind in ("alarm", "unsure"):
        title_ui(page, answer.kind)
    if watched.failure:
        notice_ui(f"{watched.failure.sentence} {page.text('video_partial', time=clock(looks[-1].time_s))}")
    with st.container(key="film"):
        left, right = st.columns([7, 3], gap="medium")
        with right:
            times_ui(page, looks, moments)
        with left:
            strip_ui(page, photo, looks, moments)
            player_ui(page, photo, looks, moments)
    needed, window = rule.for_frames(len(looks)).needed, min(rule.window, len(looks))
    st.caption(page.text("video_rule", needed=needed, window=window))


def video_answer(page: Page, watched: Watched, moments: Sequence[Moment]) -> Band:
    """Return the answer for the whole video: its strongest moments, each with its own time."""
    alarms = [moment for moment in moments if moment.kind == "alarm"]
    unsure = [moment for moment in moments if moment.kind == "unsure"]
    if alarms:
        more = [page.text("band_alarm_more")]
        more += [page.text("video_also_unsure", found=listed(page, unsure))] if unsure else []
        return Band("alarm", page.text("band_alarm", found=listed(page, alarms)), " ".join(more))
    if unsure:
        return Band("unsure", page.text("band_unsure"), page.text("video_unsure", found=listed(page, unsure)))
    checked = page.text("video_partial", time=clock(watched.looks[-1].time_s))
    if watched.failure:
        return Band("failed", page.text("band_failed"), checked)
    words = page.text("video_nothing", count=len(watched.looks))
    return Band("none", page.text("band_none"), f"{words} {missed_words(page)}")


def listed(page: Page, moments: Sequence[Moment]) -> str:
    """Return the first of moments in words."""
    first = ", ".join(f"{name_of(page, moment)} {span(moment)}" for moment in moments[:NAMED_AT_MOST])
    rest = len(moments) - NAMED_AT_MOST
    return f"{first} {page.text('video_more', count=rest)}" if rest > 0 else first


def name_of(page: Page, moment: Moment) -> str:
    """Return what was seen, in words."""
    if moment.label:
        return class_name(moment.label, page.language)
    return page.text(f"short_{NOTE_TEXTS.get(moment.note, 'note_other')}")


def span(moment: Moment) -> str:
    """Return when it was seen: 0:06–0:09, or 0:13 within a second."""
    start, end = clock(moment.start_s), clock(moment.end_s)
    return start if start == end else f"{start}–{end}"


def words_of(page: Page, moment: Moment) -> str:
    """Return a moment as its button says it."""
    words = f"{span(moment)} {name_of(page, moment)}"
    if moment.kind == "alarm":
        return words
    return page.text("video_brief" if moment.is_brief else "video_not_sure", words=words)


# --- going through it -------------------------------------------------------------------------------


def times_ui(page: Page, looks: Sequence[Look], moments: Sequence[Moment]) -> None:
    """Draw a button for each moment; a press shows it."""
    st.html(f"<h2 class='times-title'>{page.text('video_times' if moments else 'video_no_times')}</h2>")
    at = st.session_state.get("video_at")
    for index, moment in enumerate(sorted(moments, key=lambda m: m.kind)[:BUTTONS_AT_MOST]):
        best_s = looks[moment.best].time_s
        with st.container(key=f"moment_{moment.kind}_{index}"):
            st.button(
                markdown_safe(words_of(page, moment)), key=f"at_{index}", width="stretch",
                type="primary" if at is not None and moment.holds(at) else "secondary",
                on_click=st.session_state.__setitem__, args=("video_at", best_s),
            )  # fmt: skip


def kind_at(time_s: float, moments: Sequence[Moment]) -> Kind:
    """Return what a time of the film asks for."""
    kinds = {moment.kind for moment in moments if moment.holds(time_s)}
    return "alarm" if "alarm" in kinds else "unsure" if kinds else "none"


def strip_ui(page: Page, photo: Photo, looks: Sequence[Look], moments: Sequence[Moment]) -> None:
    """Draw the film as a strip, a stripe for each frame that was looked at; a press shows it."""
    key = f"strip_{photo.digest}"

    def chosen() -> None:
        points = st.session_state[key].selection.get("at")
        if points:
            st.session_state["video_at"] = points[0]["time"]

    st.vega_lite_chart(
        strip(page, looks, moments), key=key, on_select=chosen, selection_mode="at", width="stretch",
        alt=page.text("video_strip"),
    )  # fmt: skip


def strip(page: Page, looks: Sequence[Look], moments: Sequence[Moment]) -> dict[str, Any]:
    """Return the chart: one stripe for each look, in the colour of its answer."""
    step = looks[1].time_s - looks[0].time_s if len(looks) > 1 else 1.0
    rows = [
        {
            "time": look.time_s, "end": look.time_s + step, "kind": (kind := kind_at(look.time_s, moments)),
            "clock": clock(look.time_s), "words": page.text(KIND_TEXTS[kind]),
        }
        for look in looks
    ]  # fmt: skip
    tooltip = [
        {"field": "clock", "title": page.text("video_time")},
        {"field": "words", "title": page.text("video_answer")},
    ]
    axis = {"title": None, "grid": False, "tickMinStep": 1, "labelExpr": CLOCK}
    return {
        "data": {"values": rows}, "height": STRIP_HEIGHT + AXIS_HEIGHT,
        "params": [{"name": "at", "select": {"type": "point", "fields": ["time"]}}],
        "mark": {"type": "rect", "cursor": "pointer"},
        "encoding": {
            "x": {"field": "time", "type": "quantitative", "axis": axis,
                  "scale": {"domain": [looks[0].time_s, looks[-1].time_s + step], "nice": False}},
            "x2": {"field": "end"}, "y": {"value": 0}, "y2": {"value": STRIP_HEIGHT},
            "color": {"field": "kind", "type": "nominal", "legend": None,
                      "scale": {"domain": list(COLORS), "range": list(COLORS.values())}},
            "opacity": {"value": 1},
            "tooltip": tooltip,
        },
    }  # fmt: skip


CLOCK = "floor(datum.value / 60) + ':' + format(floor(datum.value % 60), '02')"


def player_ui(page: Page, photo: Photo, looks: Sequence[Look], moments: Sequence[Moment]) -> None:
    """Draw the film with its boxes from the chosen time on; a picture of that time until it is drawn."""
    clips: Recent[str, bytes] = st.session_state.setdefault("clips", Recent(1))
    film = st.container()
    no_faces = st.toggle(page.text("blur_film"), value=True, key="blur_film")
    key = f"{photo.digest} {page.model_key} {page.language} {len(looks)} {no_faces}"
    maker: Checks[bytes] = st.session_state.setdefault("clip_maker", Checks())

    def part() -> None:
        if key not in clips and (made := maker.take(key)) is not None:
            clips[key] = made
            st.rerun()
        at = st.session_state.get("video_at", first_time(looks, moments))
        with st.container(key="mat_film"):
            if clips.get(key):
                st.video(clips[key], start_time=int(at), alt=page.text("video_clip_alt"))
            else:
                still_ui(page, photo, looks, at, no_faces=no_faces)
        if clips.get(key):
            st.download_button(
                page.text("video_clip_download"), clips[key], f"{PurePath(photo.name).stem}-boxes.mp4",
                "video/mp4", key="clip_file", icon=":material/download:", on_click="ignore",
            )  # fmt: skip
        elif key not in clips:
            maker.keep_only({key})
            maker.start(key, lambda: make_clip(page, photo, looks, no_faces=no_faces))
            st.html(f"<p class='progress' role='status'>{page.text('video_clip_making')}</p>")

    with film:
        st.fragment(part, run_every=None if key in clips else LOOK_EVERY_S)()


def first_time(looks: Sequence[Look], moments: Sequence[Moment]) -> float:
    """Return what is shown at first: the strongest moment's best frame."""
    best = min(moments, key=lambda moment: (moment.kind, moment.is_brief), default=None)
    return looks[best.best if best else 0].time_s


def still_ui(page: Page, photo: Photo, looks: Sequence[Look], at_s: float, *, no_faces: bool) -> None:
    """Draw the frame of a time with its boxes."""
    look = looks[max(0, bisect_right([look.time_s for look in looks], at_s + 1e-3) - 1)]

    def make() -> imaging.Image:
        frames = read_frames(
            photo.content,
            frames_per_second=page.settings.video_frames_per_second,
            max_seconds=page.settings.video_max_seconds,
        )
        image = next(frame.image for frame in frames if frame.time_s >= look.time_s)
        frames.close()
        return image

    image = PICTURES.get(memory.session_id(), f"{photo.digest} {look.time_s}", make)
    shown = shown_at_first(page, look.result)
    names = ", ".join(dict.fromkeys(class_name(d.label, page.language) for d in shown))
    alt = page.text("video_alt", time=clock(look.time_s), answer=names or page.text("confusion_nothing"))
    drawn = marked(page, image, look.result, shown, no_faces=no_faces)
    st.image(imaging.encode_image(drawn), width="stretch", alt=alt)


def make_clip(page: Page, photo: Photo, looks: Sequence[Look], *, no_faces: bool) -> bytes:
    """Return the video with boxes on every frame, b"" where that fails."""
    times = [look.time_s for look in looks]

    def draw(frame: Frame) -> imaging.Image:
        look = looks[max(0, bisect_right(times, frame.time_s + 1e-3) - 1)]
        shown = shown_at_first(page, look.result)
        return marked(page, frame.image, look.result, shown, no_faces=no_faces)

    with suppress(VideoError):
        return write_clip(photo.content, draw)
    return b""
