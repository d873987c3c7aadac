"""The video tab: frames of a short video, a timeline, an alarm once N of M frames agree, a clip to keep."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import streamlit as st

from detection import drawing, imaging
from page.frames import (
    Frame,
    VideoError,
    VideoTooLarge,
    VideoTooLong,
    confirm,
    duration_s,
    read_frames,
    write_clip,
)
from page.session import Failure, Page, Photo, Recent
from page.verdict import Band, band_ui, missed_words, names_of, notice_ui
from schemas import AlarmPoint, Detection, ModelCard

VIDEOS_KEPT = 2
ORANGE, BLUE = "#d55e00", "#0072b2"


class Look(NamedTuple):
    """What was found in one frame, time_s seconds into the video; boxes are in its pixels."""

    time_s: float
    detections: list[Detection]


class Watched(NamedTuple):
    """What was found in a video, frame by frame; failure says why it is not complete, if so."""

    looks: list[Look]
    failure: Failure | None = None


def video_ui(page: Page) -> None:
    """Draw the whole tab: a video goes in on top, the answer on the left, when to raise it on the right."""
    settings = page.settings
    with st.container(key="video_drop"):
        upload = st.file_uploader(page.text("video_upload"), key="video")
    rate, seconds = settings.video_frames_per_second, settings.video_max_seconds
    st.caption(page.text("video_formats", seconds=f"{seconds:g}", rate=f"{rate:g}"))
    if upload is None:
        return
    answers, choices = st.columns([2, 1], gap="medium")
    with choices, st.container(border=True):
        threshold = threshold_ui(page)
        needed, window = rule_ui(page)
    photo = Photo(upload.name, upload.getvalue())
    with answers:
        watched = watch_ui(page, photo)
        if watched.failure:
            notice_ui(watched.failure.sentence)
        if watched.looks:
            result_ui(page, photo, watched, threshold, needed, window)


def rule_ui(page: Page) -> tuple[int, int]:
    """Draw the N-of-M rule and return it as (needed, window)."""
    st.caption(page.text("video_rule"))
    place = st.container()
    window = st.number_input(page.text("video_window"), 1, 20, 5, key="video_window")
    needed = place.number_input(
        page.text("video_needed"), 1, window, min(3, window), key=f"video_needed_{window}"
    )
    return needed, window


def threshold_ui(page: Page) -> float:
    """Draw the slider, starting at the operating point, and say what its position means."""
    lowest = round(page.lowest_threshold, 2)
    key = f"threshold_video_{page.default_threshold:.2f}"  # another model's operating point starts afresh
    threshold = st.slider(
        page.text("threshold"), lowest, 0.99, max(lowest, page.default_threshold), 0.01,
        format="percent", key=key, help=page.text("threshold_help"),
    )  # fmt: skip
    if page.info:
        st.caption(meaning(page, page.info.card, threshold))
    if threshold != page.default_threshold:
        st.button(
            page.text("threshold_reset"), key="threshold_reset_video", type="tertiary",
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


def weapons(detections: Sequence[Detection], score_threshold: float) -> list[Detection]:
    """Return the dangerous ones at or above the threshold."""
    return [d for d in detections if d.dangerous and d.score >= score_threshold]


def watch_ui(page: Page, photo: Photo) -> Watched:
    """Return what is in the video's frames, with a progress bar while the API is asked.

    What was found is kept: after an outage the rest is asked for, not the whole.
    """
    kept: Recent[str, Watched] = st.session_state.setdefault("videos", Recent(VIDEOS_KEPT))
    key = f"{photo.digest} {page.model_key}"
    if key in kept and kept[key].failure is None:
        return kept[key]
    settings, looks, failure = page.settings, [], None
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
            looks.append(Look(time_s, outcome.detections or []))
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


def clock(time_s: float) -> str:
    """Return a time as a player shows it: 1:05."""
    return f"{int(time_s) // 60}:{int(time_s) % 60:02d}"


# --- the answer -------------------------------------------------------------------------------------


def result_ui(page: Page, photo: Photo, watched: Watched, threshold: float, needed: int, window: int) -> None:
    """Draw answer, timeline, one frame and the clip."""
    looks = watched.looks
    seen = [bool(weapons(look.detections, threshold)) for look in looks]
    alarms = confirm(seen, needed=needed, window=window)
    agreed = spans([look.time_s for look in looks], seen, alarms, window)
    band_ui(video_answer(page, looks, seen, agreed, threshold, needed, window))
    if watched.failure:
        st.caption(page.text("video_partial", time=clock(looks[-1].time_s)))
    frame_ui(page, photo, looks, threshold)
    st.vega_lite_chart(timeline(page, looks, agreed, threshold), alt=page.text("video_timeline"))
    st.caption(page.text("video_timeline"))
    clip_ui(page, photo, looks, threshold)


def video_answer(
    page: Page, looks: Sequence[Look], seen: Sequence[bool], agreed: Sequence[tuple[float, float]],
    threshold: float, needed: int, window: int,
) -> Band:  # fmt: skip
    """Return the answer for the whole video."""
    if agreed:
        found = [d for look in looks for d in weapons(look.detections, threshold)]
        names = names_of(page, found)
        times = ", ".join(
            clock(start) if clock(start) == clock(end) else f"{clock(start)}–{clock(end)}"
            for start, end in agreed
        )
        return Band("alarm", page.text("video_alarm", times=times, found=names), page.text("band_alarm_more"))
    if any(seen):
        numbers = {"seen": sum(seen), "count": len(looks), "needed": needed, "window": window}
        return Band("unsure", page.text("band_unsure"), page.text("video_unconfirmed", **numbers))
    words = page.text("video_nothing", count=len(looks))
    return Band("none", page.text("band_none"), f"{words} {missed_words(page)}")


def spans(
    times_s: Sequence[float], seen: Sequence[bool], alarms: Sequence[bool], window: int
) -> list[tuple[float, float]]:
    """Return when the frames that agreed saw a weapon: first and last time of each run of them.

    The alarm itself comes later than its first frame and outlasts its last one: it waits for agreement.
    """
    found: list[tuple[float, float]] = []
    for i in (i for i, alarm in enumerate(alarms) if alarm):
        agreeing = [times_s[j] for j in range(max(0, i + 1 - window), i + 1) if seen[j]]
        if found and agreeing[0] <= found[-1][1]:
            found[-1] = (found[-1][0], agreeing[-1])
        else:
            found.append((agreeing[0], agreeing[-1]))
    return found


def timeline(
    page: Page, looks: Sequence[Look], agreed: Sequence[tuple[float, float]], threshold: float
) -> dict[str, Any]:
    """Return the chart of the strongest weapon score over time, agreed spans shaded, threshold dashed."""
    half = (looks[1].time_s - looks[0].time_s if len(looks) > 1 else 1.0) / 2  # a frame stands for its time
    rows = [{"time": look.time_s, "score": strength(look)} for look in looks]
    shaded = [{"time": max(0.0, start - half), "end": end + half} for start, end in agreed]
    x = {"field": "time", "type": "quantitative", "title": page.text("video_time")}
    y = {
        "field": "score", "type": "quantitative", "title": page.text("video_score"),
        "scale": {"domain": [0, 1]}, "axis": {"format": "%"},
    }  # fmt: skip
    shade = {
        "data": {"values": shaded},
        "mark": {"type": "rect", "color": ORANGE, "opacity": 0.25},
        "encoding": {"x": x, "x2": {"field": "end"}},
    }
    line = {"mark": {"type": "line", "point": True, "color": BLUE}, "encoding": {"x": x, "y": y}}
    limit = {
        "mark": {"type": "rule", "strokeDash": [6, 4], "color": "gray"},
        "encoding": {"y": {"datum": threshold}},
    }
    return {"data": {"values": rows}, "height": 220, "layer": [shade, line, limit]}


def strength(look: Look) -> float:
    """Return the score of the likeliest weapon in a frame, 0 without one."""
    return max((d.score for d in look.detections if d.dangerous), default=0.0)


def seconds(page: Page, time_s: float) -> str:
    """Return a time in tenths of a second, in this person's language."""
    return page.text("seconds", time=page.decimal(time_s, 1))


def frame_ui(page: Page, photo: Photo, looks: Sequence[Look], threshold: float) -> None:
    """Draw one frame with its boxes: at first the one that looks most like a weapon."""
    index = looks.index(max(looks, key=strength))
    if len(looks) > 1:
        index = st.select_slider(
            page.text("video_frame"), range(len(looks)), index, key=f"video_frame_{photo.digest}",
            format_func=lambda i: seconds(page, looks[i].time_s),
        )  # fmt: skip
    look = looks[index]
    frames = read_frames(
        photo.content,
        frames_per_second=page.settings.video_frames_per_second,
        max_seconds=page.settings.video_max_seconds,
    )
    image = next(frame.image for frame in frames if frame.time_s >= look.time_s)
    frames.close()
    shown = [d for d in look.detections if d.score >= threshold]
    seen = names_of(page, shown) or page.text("confusion_nothing")
    alt = page.text("video_alt", time=seconds(page, look.time_s), answer=seen)
    drawn = drawing.draw_detections(image, shown, page.language)
    st.image(imaging.encode_image(drawn), width="content", alt=alt)


def clip_ui(page: Page, photo: Photo, looks: Sequence[Look], threshold: float) -> None:
    """Draw the button that makes the clip, then the clip and its download."""
    clips: Recent[str, bytes] = st.session_state.setdefault("clips", Recent(1))
    key = f"{photo.digest} {page.model_key} {threshold} {page.language} {len(looks)}"
    if st.button(page.text("video_clip"), key="video_clip", icon=":material/movie:"):
        clips[key] = make_clip(page, photo, looks, threshold)
    if key in clips:
        st.video(clips[key], alt=page.text("video_clip_alt"))
        st.download_button(
            page.text("video_clip_download"), clips[key], f"{PurePath(photo.name).stem}-boxes.mp4",
            "video/mp4", icon=":material/download:", on_click="ignore",
        )  # fmt: skip


def make_clip(page: Page, photo: Photo, looks: Sequence[Look], threshold: float) -> bytes:
    """Return the video with the boxes of the last checked frame on every frame."""
    times = [look.time_s for look in looks]
    duration = looks[-1].time_s or 1.0
    progress = st.progress(0.0)

    def draw(frame: Frame) -> imaging.Image:
        look = looks[max(0, bisect_right(times, frame.time_s + 1e-3) - 1)]
        shown = [d for d in look.detections if d.score >= threshold]
        return drawing.draw_detections(frame.image, shown, page.language)

    def on_time(time_s: float) -> None:
        words = page.text("video_clip_making", time=clock(time_s), duration=clock(duration))
        progress.progress(min(1.0, time_s / duration), text=words)

    clip = write_clip(photo.content, draw, on_time)
    progress.empty()
    return clip
