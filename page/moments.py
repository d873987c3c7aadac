"""When a weapon is seen in a video: the cameras' rule of confirmation, applied to a film's frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from detection.confirmation import Confirmation, Rule, Sighting, Track
from schemas import Detection, ImageResult

Seen = Literal["alarm", "unsure"]


class Look(NamedTuple):
    """What was found in one frame, time_s seconds into the video; boxes are in its pixels."""

    time_s: float
    result: ImageResult

    @property
    def detections(self) -> list[Detection]:
        """Return all that was found in the frame."""
        return self.result.detections or []


class Moment(NamedTuple):
    """A span of a video for which a person should look.

    Attributes:
        kind: what it asks for.
        start_s, end_s: its first and last frame that shows it, seconds.
        best: number of the frame that shows it best, from 0.
        label: what was seen; "" where only a note says that the pictures cannot be judged.
        note: the API's, with no label.
        is_brief: seen in too few frames to be confirmed.
    """

    kind: Seen
    start_s: float
    end_s: float
    best: int
    label: str = ""
    note: str = ""
    is_brief: bool = False

    def holds(self, time_s: float) -> bool:
        """Say whether a time lies in the span."""
        return self.start_s <= time_s <= self.end_s


def moments_of(looks: Sequence[Look], rule: Rule) -> list[Moment]:
    """Return the spans in which something was seen, in the order of their beginning.

    What was seen for too few frames is there too, as unsure: no sign of a weapon goes unsaid.
    """
    # What comes back is judged anew.
    rule = replace(rule.for_frames(len(looks)), cool_down_s=0.0, rest_s=0.0)
    found = [_moment(track, seen) for track, seen in _sightings(looks, rule).items()]
    return sorted(
        [*_joined(found, looks, rule.window), *_joined(_notes(looks, rule), looks, 1)],
        key=lambda moment: (moment.start_s, moment.kind),
    )


def _sightings(looks: Sequence[Look], rule: Rule) -> dict[Track, list[Sighting]]:
    """Return each object with all that was seen of it."""
    confirmation, seen = Confirmation(rule), dict[Track, list[Sighting]]()
    for number, look in enumerate(looks):
        confirmation.look(look.time_s, look.detections)
        for track in confirmation.tracks:
            if track.last.look == number:
                seen.setdefault(track, []).append(track.last)
    return seen


def _moment(track: Track, seen: Sequence[Sighting]) -> Moment:
    best = max(seen, key=lambda sighting: sighting.detection.score)
    return Moment(
        "alarm" if track.verdict == "alarm" else "unsure", seen[0].time_s, seen[-1].time_s, best.look,
        best.detection.label, is_brief=track.verdict == "none",
    )  # fmt: skip


def _notes(looks: Sequence[Look], rule: Rule) -> list[Moment]:
    """Return the frames that the API cannot judge and in which nothing else was seen."""
    return [
        Moment("unsure", look.time_s, look.time_s, number, note=look.result.notes[0])
        for number, look in enumerate(looks)
        if look.result.notes and not any(d.dangerous and d.score >= rule.unsure_from for d in look.detections)
    ]


def _joined(moments: Sequence[Moment], looks: Sequence[Look], window: int) -> list[Moment]:
    """Join what says the same, overlaps or lies at most window frames apart."""
    times = [look.time_s for look in looks]
    joined: dict[tuple[str, str, str, bool], list[Moment]] = {}
    for moment in sorted(moments, key=lambda moment: moment.start_s):
        same = joined.setdefault((moment.kind, moment.label, moment.note, moment.is_brief), [])
        if same and times.index(moment.start_s) - times.index(same[-1].end_s) <= window:
            same[-1] = same[-1]._replace(end_s=max(same[-1].end_s, moment.end_s))
        else:
            same.append(moment)
    return [moment for same in joined.values() for moment in same]
