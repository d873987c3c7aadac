"""What the cameras' rule of confirmation makes of labelled clips: missed events, time to alarm, false alarms.

Source:
    Olmos, Tabik, Herrera, "Automatic handgun detection alarm in videos using deep learning", Neurocomputing
    275 (2018), arXiv 1702.05147: "alarm activation time per interval" (AATpI; AApI in the preprint), with an
    alarm after five true positives in a row. Castillo, Tabik, Perez, Olmos, Herrera, "Brightness guided
    preprocessing for automatic cold steel weapon detection in surveillance videos with deep learning" (2019),
    whose code (github.com/alcasla/Automatic-Cold-Steel-Detection-Alarm) calls it the average time from when
    a weapon can be seen to the alarm. So do we; the alarm is that of our rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import NamedTuple, Protocol

from scipy.stats import binomtest, chi2
from tqdm import tqdm

from detection import imaging
from detection.alarm import unsure_threshold
from detection.card import classes_of
from detection.confirmation import RANK, Confirmation, Rule
from detection.detections import Detections
from detection.overlaps import one_name_each
from evaluation.intervals import Interval, ratio_interval
from schemas import Box, Detection, ModelCard, Verdict, VideoFigures

IN_A_ROW = 5  # pictures with a weapon that raise Olmos and others' alarm
HOUR_S = 3600.0
SAME_S = 1e-6  # times that differ by less are the same


class _Frame(Protocol):
    @property
    def time_s(self) -> float:
        """Seconds from the clip's first picture."""

    @property
    def load(self) -> Callable[[], imaging.Image]:
        """Return (H, W, 3) uint8 RGB."""


class LabelledClip(Protocol):
    """What is needed of a photosets.clips.Clip."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def recording(self) -> str:
        """What it comes from."""

    @property
    def rate(self) -> float:
        """Pictures per second."""

    @property
    def spans(self) -> Sequence[tuple[float, float]]:
        """When a weapon is to be seen: first and last second, in order."""

    @property
    def frames(self) -> Callable[[], Iterator[_Frame]]:
        """Read the pictures, in order."""

    @property
    def count(self) -> int | None:
        """How many pictures there are, if that is known."""


class Finder(Protocol):
    """Whatever finds objects in an image."""

    def detect(self, image: imaging.Image) -> Detections:
        """Return every detection in an upright RGB image."""


class Look(NamedTuple):
    """What was found in one picture, time_s seconds into the clip: its weapons."""

    time_s: float
    weapons: tuple[Detection, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """A clip, and what a detector finds in each of its pictures.

    Attributes:
        name, recording, rate: of the clip.
        spans: its events, first and last second of each.
        looks: at its pictures, in order, at least one.
    """

    name: str
    recording: str
    rate: float
    spans: tuple[tuple[float, float], ...]
    looks: tuple[Look, ...]

    @property
    def weapon_free_s(self) -> float:
        """For how long no weapon is to be seen; each picture stands for the time until the next."""
        one = 1 / self.rate
        lasts = self.looks[-1].time_s - self.looks[0].time_s + one
        return max(0.0, lasts - sum(end - start + one for start, end in self.spans))


class Raised(NamedTuple):
    """An object was confirmed, time_s seconds into the clip."""

    time_s: float
    verdict: Verdict


@dataclass(frozen=True)
class ClipResult:
    """What was raised in one clip.

    Attributes:
        name: of the clip.
        events: first and last second of each span with a weapon.
        missed: those of them without an alarm.
        alarms: seconds at which one was raised.
        false_alarms: those of them outside of every event.
    """

    name: str
    events: tuple[tuple[float, float], ...]
    missed: tuple[tuple[float, float], ...]
    alarms: tuple[float, ...]
    false_alarms: tuple[float, ...]


@dataclass(frozen=True)
class VideoResult:
    """The figures of all clips, and each clip's own.

    Attributes:
        figures: what the model card keeps.
        clips: those in which something went wrong, in order.
        notes: sentences on what these figures cannot tell.
    """

    figures: VideoFigures
    clips: tuple[ClipResult, ...] = ()
    notes: tuple[str, ...] = field(default=())


def look_at(clips: Sequence[LabelledClip], finder: Finder, card: ModelCard) -> list[Seen]:
    """Return what a detector finds in each picture of each clip, with a progress bar.

    Args:
        clips: what to look at.
        finder: sees each picture whole.
        card: of its model.
    """
    counts = [clip.count for clip in clips]
    total = None if None in counts else sum(count or 0 for count in counts)
    seen = []
    with tqdm(total=total, desc="clips", unit="picture", leave=False, mininterval=1.0) as bar:
        for clip in clips:
            looks = []
            for frame in clip.frames():
                looks.append(Look(frame.time_s, weapons_in(finder.detect(frame.load()), card)))
                bar.update()
            seen.append(Seen(clip.name, clip.recording, clip.rate, tuple(clip.spans), tuple(looks)))
    return seen


def weapons_in(found: Detections, card: ModelCard) -> tuple[Detection, ...]:
    """Return the weapons among detections that the API answers a camera with: one for each object."""
    named, classes = one_name_each(found.above(unsure_threshold(card)), card), classes_of(card)
    return tuple(
        Detection(
            label=card.class_names[label], dangerous=True, score=float(score),
            box=Box(x1=float(box[0]), y1=float(box[1]), x2=float(box[2]), y2=float(box[3])),
        )
        for box, score, label in zip(named.boxes, named.scores, named.labels, strict=True)
        if label in classes.weapons
    )  # fmt: skip


def raised_in(clip: Seen, rule: Rule) -> list[Raised]:
    """Return what the rule confirms in a clip, in order; what is unsure first may rise to an alarm."""
    confirmation = Confirmation(rule)
    return [
        Raised(look.time_s, track.verdict)
        for look in clip.looks
        for track in confirmation.look(look.time_s, look.weapons)
    ]


def measure_video(
    clips: Sequence[Seen], rule: Rule, *, split: str | None, runtime: str, panned: int = 0
) -> VideoResult:
    """Return the figures of a rule on labelled clips.

    Args:
        clips: at least one, all looked at as often per second.
        rule: the cameras', at the model's points.
        split: of the series; None for videos alone.
        runtime: what ran the network.
        panned: how many of them are photographs over which the view moves.

    Raises:
        ValueError: there is no clip.
    """
    if not clips:
        raise ValueError("expected at least one clip, got none")
    raised = [raised_in(clip, rule) for clip in clips]
    results = [_clip_result(clip, of_clip) for clip, of_clip in zip(clips, raised, strict=True)]
    figures = VideoFigures.model_validate(
        {
            "split": split, "runtime": runtime, "clips": len(clips),
            "panned": panned, "recordings": len({clip.recording for clip in clips}),
            "pictures": sum(len(clip.looks) for clip in clips), "rate": clips[0].rate,
            "needed": rule.needed, "window": rule.window, "cool_down_s": rule.cool_down_s,
            "alarm_from": rule.alarm_from, "unsure_from": rule.unsure_from,
            **_event_figures(clips, raised, results, rule), **_false_figures(clips, raised, results),
        }
    )  # fmt: skip
    wrong = tuple(one for one in results if one.missed or one.false_alarms)
    return VideoResult(figures, wrong, tuple(_notes(figures)))


def _clip_result(clip: Seen, raised: Sequence[Raised]) -> ClipResult:
    alarms = [one.time_s for one in raised if one.verdict == "alarm"]
    return ClipResult(
        clip.name, clip.spans,
        missed=tuple(span for span in clip.spans if not any(_within(time_s, span) for time_s in alarms)),
        alarms=tuple(alarms),
        false_alarms=tuple(t for t in alarms if not any(_within(t, span) for span in clip.spans)),
    )  # fmt: skip


def _within(time_s: float, span: tuple[float, float]) -> bool:
    return span[0] - SAME_S <= time_s <= span[1] + SAME_S


def _event_figures(
    clips: Sequence[Seen], raised: Sequence[Sequence[Raised]], results: Sequence[ClipResult], rule: Rule
) -> dict[str, float | None]:
    """Return what became of the events."""
    first_alarms: list[float] = []
    noticed, told, rows = 0, 0, list[float]()
    for clip, of_clip in zip(clips, raised, strict=True):
        for span in clip.spans:
            within = [one for one in of_clip if _within(one.time_s, span)]
            alarms = [one.time_s for one in within if one.verdict == "alarm"]
            noticed += bool(within)
            told += len(alarms)
            first_alarms += [alarms[0] - span[0]] if alarms else []
            rows += _in_a_row(clip, span, rule.alarm_from)
    events = sum(len(clip.spans) for clip in clips)
    share = len(first_alarms) / events if events else None
    interval = share_interval(clips, results) if events else None
    return {
        "events": events, "alarmed": len(first_alarms), "alarmed_share": share,
        "alarmed_share_low": interval.low if interval else None,
        "alarmed_share_high": interval.high if interval else None,
        "noticed": noticed,
        "time_to_alarm_s": fmean(first_alarms) if first_alarms else None,
        "time_to_alarm_median_s": median(first_alarms) if first_alarms else None,
        "alarms_per_event": told / len(first_alarms) if first_alarms else None,
        "five_in_a_row": len(rows), "five_in_a_row_s": fmean(rows) if rows else None,
    }  # fmt: skip


def _in_a_row(clip: Seen, span: tuple[float, float], alarm_from: float) -> list[float]:
    """Return the seconds from an event's first picture to the fifth in a row with a weapon; [] without."""
    row = 0
    for look in clip.looks:
        sees = any(one.score >= alarm_from for one in look.weapons)
        row = row + 1 if sees and _within(look.time_s, span) else 0
        if row == IN_A_ROW:
            return [look.time_s - span[0]]
    return []


def share_interval(clips: Sequence[Seen], results: Sequence[ClipResult]) -> Interval:
    """Return the interval of the share of alarmed events, the wider of two.

    One draws recordings again; the other is Wilson's, each event counting once: drawing again makes too
    little of few recordings, Wilson too much of events that resemble each other.
    """
    events = [len(one.events) for one in results]
    alarmed = [len(one.events) - len(one.missed) for one in results]
    wilson = binomtest(sum(alarmed), sum(events)).proportion_ci(method="wilson")
    drawn = ratio_interval(*_by_recording(clips, alarmed, events))
    return _wider(Interval(float(wilson.low), float(wilson.high)), drawn)


def _false_figures(
    clips: Sequence[Seen], raised: Sequence[Sequence[Raised]], results: Sequence[ClipResult]
) -> dict[str, float | None]:
    """Return what was raised while no weapon was to be seen."""
    hours = [clip.weapon_free_s / HOUR_S for clip in clips]
    alarms = [len(one.false_alarms) for one in results]
    total, count = sum(hours), sum(alarms)
    suspicions = sum(
        RANK[one.verdict] < RANK["alarm"] and not any(_within(one.time_s, span) for span in clip.spans)
        for clip, of_clip in zip(clips, raised, strict=True)
        for one in of_clip
    )
    if not total:
        return {"weapon_free_hours": 0.0, "false_alarms": count}
    span = _wider(poisson_interval(count, total), ratio_interval(*_by_recording(clips, alarms, hours)))
    return {
        "weapon_free_hours": total, "false_alarms": count, "false_alarms_per_hour": count / total,
        "false_alarms_per_hour_low": span.low, "false_alarms_per_hour_high": span.high,
        "false_suspicions_per_hour": suspicions / total,
    }  # fmt: skip


def poisson_interval(count: int, hours: float) -> Interval:
    """Return the exact 95 % interval of a rate per hour, each alarm counting once.

    Source:
        Garwood, "Fiducial limits for the Poisson distribution", Biometrika 28 (1936).
    """
    low = float(chi2.ppf(0.025, 2 * count)) / 2 if count else 0.0
    return Interval(low / hours, float(chi2.ppf(0.975, 2 * count + 2)) / 2 / hours)


def _by_recording(
    clips: Sequence[Seen], counts: Sequence[float], amounts: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return the sums over the clips of each recording."""
    sums: dict[str, list[float]] = {}
    for clip, count, amount in zip(clips, counts, amounts, strict=True):
        of_recording = sums.setdefault(clip.recording, [0.0, 0.0])
        of_recording[0] += count
        of_recording[1] += amount
    return [one[0] for one in sums.values()], [one[1] for one in sums.values()]


def _wider(one: Interval, other: Interval | None) -> Interval:
    return one if other is None else Interval(min(one.low, other.low), max(one.high, other.high))


def _notes(figures: VideoFigures) -> Iterator[str]:
    if not figures.events:
        yield "No clip shows a weapon, so missed events and the time to an alarm could not be measured."
    minutes = 60 * figures.weapon_free_hours
    if not minutes:
        yield "A weapon is in every picture of every clip, so false alarms could not be measured."
    elif minutes < 60:
        yield (
            f"Only {minutes:.1f} minutes of the clips are without a weapon: one false alarm more or less "
            f"moves the rate by {60 / minutes:.0f} per hour."
        )
    if figures.panned:
        yield (
            f"{figures.panned} clips are single photographs over which the view moves: they compare rules, "
            "and say little of a camera's hours."
        )


ROWS = (
    ("events", "events, spans with a weapon"),
    ("alarmed", "of them with an alarm"),
    ("alarmed_share", "share with an alarm"),
    ("noticed", "at least unsure"),
    ("time_to_alarm_s", "seconds to the alarm, mean (AATpI)"),
    ("time_to_alarm_median_s", "seconds to the alarm, median"),
    ("alarms_per_event", "alarms per alarmed event"),
    ("five_in_a_row", "events with five pictures in a row"),
    ("five_in_a_row_s", "seconds to the fifth, mean"),
    ("weapon_free_hours", "hours without a weapon"),
    ("false_alarms", "false alarms"),
    ("false_alarms_per_hour", "false alarms per hour"),
    ("false_suspicions_per_hour", "false suspicions per hour"),
)


def table_rows(figures: VideoFigures) -> list[tuple[str, str]]:
    """Return the figures as (words, value) for a table; with intervals, a dash for what is not known."""
    values = figures.model_dump()
    return [(label, _shown(values, key)) for key, label in ROWS]


def _shown(values: dict[str, float | int | None], key: str) -> str:
    value = values[key]
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
    digits = 3 if key in ("alarmed_share", "weapon_free_hours") else 2
    span = "" if low is None or high is None else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{span}"
