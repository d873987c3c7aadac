"""When frames add up to an alarm: the same object in N of M of them. Cameras ask here; a video can.

A frame is judged by itself in detection/alarm.py; here its weapons are followed from frame to frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from detection.alarm import alarm_threshold, unsure_threshold
from detection.overlaps import areas, box_iou, iou
from schemas import Detection, ModelCard, Verdict

# Frames lie half a second apart, and a weapon that is moved overlaps nothing of where it was: overlap alone
# loses it (bench/follow.py: of knives 13 to 20 pictures apart, an IoU of 0.3 knows 3 % again, this reach
# 86 %). What is near enough, and of about the same size, is the same object.
REACH = 2.0  # of the mean diagonal of two boxes: how far their centres lie apart from frame to frame, at most
FARTHEST = 3.0  # the same after frames without it
LARGEST_RATIO = 6.0  # of the larger box's area to the smaller one's: a knife turns
# A network draws a second box around a hand and its weapon, or calls it pistol and knife at once. Followed
# apart, somebody is told of one weapon twice: bench/README.md has the figures.
SAME_IOU = 0.3  # of two weapons' boxes in one frame, from which they are one object
AT_REST_IOU = 0.5  # of a box with where its object was first seen, from which it has not moved
RANK: dict[Verdict, int] = {"none": 0, "unsure": 1, "alarm": 2}


@dataclass(frozen=True, slots=True)
class Rule:
    """How often the same object must be seen, and how sure it must be.

    Attributes:
        alarm_from: the median score from which the object is a possible weapon.
        unsure_from: the median score from which a person is asked to look closely; what scores less in a
            frame was not seen in it.
        needed: frames that must see it, of the last window frames looked at.
        window: frames that are looked back at.
        memory_s: a frame older than this counts no longer.
        cool_down_s: what was confirmed and comes back within this time is the same object, and no news.
        rest_s: the same for an object that never moved, where it comes back to its very place: a clock on the
            wall that is taken for a knife whenever the sun shines on it.
    """

    alarm_from: float
    unsure_from: float
    needed: int = 3
    window: int = 5
    memory_s: float = 10.0
    cool_down_s: float = 60.0
    rest_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 1 <= self.needed <= self.window:
            raise ValueError(f"expected 1 <= needed <= window, got {self.needed} of {self.window}")
        if not 0 <= self.unsure_from <= self.alarm_from <= 1:
            raise ValueError(
                "expected 0 <= unsure point <= alarm point <= 1, "
                f"got {self.unsure_from} and {self.alarm_from}"
            )

    @classmethod
    def of_card(cls, card: ModelCard, *, needed: int = 3, window: int = 5) -> Self:
        """Return the rule at a model's measured points."""
        return cls(alarm_threshold(card), unsure_threshold(card), needed, window)

    def for_frames(self, count: int) -> Rule:
        """Return the rule for a video that has only count frames, so that a short one can raise an alarm."""
        return replace(self, needed=max(1, min(self.needed, count)))


class Sighting(NamedTuple):
    """One object in one frame: look is the frame's number from 0, time_s on the caller's clock."""

    look: int
    time_s: float
    detection: Detection


@dataclass(eq=False, slots=True)
class Track:
    """One object, followed through frames.

    Attributes:
        number: from 1, another for each object.
        first, last, best: sightings; best has the highest score.
        verdict: the highest that it ever reached.
        score: the padded median when verdict was reached or, if higher, after; in [0, 1].
        seen: how many frames saw it.
        is_at_rest: whether each of them saw it where the first did.
        recent: the sightings that count now, oldest first.
    """

    number: int
    first: Sighting
    last: Sighting
    best: Sighting
    verdict: Verdict = "none"
    score: float = 0.0
    seen: int = 0
    is_at_rest: bool = True
    recent: deque[Sighting] = field(default_factory=deque)

    def add(self, sighting: Sighting) -> None:
        """Note that a frame sees it."""
        self.recent.append(sighting)
        self.last, self.seen = sighting, self.seen + 1
        self.is_at_rest &= _overlap(sighting, self.first) >= AT_REST_IOU
        if sighting.detection.score > self.best.detection.score:
            self.best = sighting

    def forget(self, before_look: int, before_s: float) -> None:
        """Let go of sightings that count no longer."""
        while self.recent and (self.recent[0].look < before_look or self.recent[0].time_s < before_s):
            self.recent.popleft()


def padded_median(scores: Sequence[float], count: int) -> float:
    """Return the median of scores, with zeros for those that are missing to count of them.

    Source:
        Frigate, docs/configuration/object_filters.md: the median of the score history, padded to three.
    """
    return median([*scores, *[0.0] * (count - len(scores))])


def apart(weapons: Sequence[Detection]) -> list[Detection]:
    """Return the weapons of one frame, best first, of those that overlap by SAME_IOU the best alone."""
    ranked = sorted(weapons, key=lambda weapon: -weapon.score)
    boxes = np.array([_corners(weapon) for weapon in ranked], np.float64).reshape(-1, 4)
    overlaps = box_iou(boxes, boxes)
    kept: list[int] = []
    for i in range(len(ranked)):
        if not any(overlaps[i, j] >= SAME_IOU for j in kept):
            kept.append(i)
    return [ranked[i] for i in kept]


class Confirmation:
    """Follows the weapons of one camera or one video.

    Attributes:
        rule: may be replaced while it runs, by that of another model.
        tracks: the objects that are followed now.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.tracks: list[Track] = []
        self._looks = self._objects = 0

    def look(self, time_s: float, detections: Iterable[Detection]) -> list[Track]:
        """Take in what one frame shows, and return the objects whose verdict rose by it.

        An object is confirmed as an alarm or, below that, as unsure; an unsure one may rise to an alarm. Each
        is returned once for each. Frames that nobody could look at are left out.

        Args:
            time_s: seconds on a clock that never goes back.
            detections: of the frame; look-alikes are passed over.
        """
        rule, look = self.rule, self._looks
        self._looks += 1
        for track in self.tracks:
            track.forget(look - rule.window + 1, time_s - rule.memory_s)
        self.tracks = [
            track
            for track in self.tracks
            if track.recent or self._cools_down(track, time_s) or self._rests(track, time_s)
        ]
        weapons = [d for d in detections if d.dangerous and d.score >= rule.unsure_from]
        seen = [Sighting(look, time_s, detection) for detection in apart(weapons)]
        for sighting, track in self._assign(seen):
            track.add(sighting)
        return [track for track in self.tracks if track.last.look == look and self._rises(track)]

    def _cools_down(self, track: Track, time_s: float) -> bool:
        return track.verdict != "none" and time_s - track.last.time_s <= self.rule.cool_down_s

    def _rests(self, track: Track, time_s: float) -> bool:
        is_known = track.verdict != "none" and track.is_at_rest
        return is_known and time_s - track.last.time_s <= self.rule.rest_s

    def _rises(self, track: Track) -> bool:
        """Judge a track by its recent sightings, and say whether its verdict rose."""
        rule = self.rule
        if len(track.recent) < rule.needed:
            return False
        score = padded_median([sighting.detection.score for sighting in track.recent], rule.needed)
        verdict: Verdict = (
            "alarm" if score >= rule.alarm_from else "unsure" if score >= rule.unsure_from else "none"
        )
        track.score = max(track.score, score)
        rises = RANK[verdict] > RANK[track.verdict]
        if rises:
            track.verdict = verdict
        return rises

    def _assign(self, seen: Sequence[Sighting]) -> list[tuple[Sighting, Track]]:
        """Pair each sighting with the track that it continues, nearest first, or with a new one."""
        pairs = sorted(
            (distance, i, j)
            for i, sighting in enumerate(seen)
            for j, track in enumerate(self.tracks)
            if (distance := self._distance(sighting, track)) is not None
        )
        taken: dict[int, int] = {}
        for _, i, j in pairs:
            if i not in taken and j not in taken.values():
                taken[i] = j
        old = [(seen[i], self.tracks[j]) for i, j in taken.items()]
        new = [(sighting, self._begin(sighting)) for i, sighting in enumerate(seen) if i not in taken]
        return old + new

    def _begin(self, sighting: Sighting) -> Track:
        self._objects += 1
        track = Track(self._objects, sighting, sighting, sighting)
        self.tracks.append(track)
        return track

    def _distance(self, sighting: Sighting, track: Track) -> float | None:
        """Return how far a sighting lies from a track's last one, in diagonals; None: another object."""
        is_away = not track.recent and not self._cools_down(track, sighting.time_s)
        if is_away and _overlap(sighting, track.last) < AT_REST_IOU:
            return None
        reach = min(FARTHEST, REACH * (sighting.look - track.last.look))
        boxes = np.array([_corners(sighting.detection), _corners(track.last.detection)])
        sides = boxes[:, 2:] - boxes[:, :2]
        small, large = sorted(areas(boxes).tolist())
        if large > LARGEST_RATIO * small:
            return None
        centres = (boxes[:, 2:] + boxes[:, :2]) / 2
        apart = float(np.hypot(*(centres[0] - centres[1])))
        diagonals: NDArray[np.float64] = np.hypot(sides[:, 0], sides[:, 1])
        distance = apart / float(diagonals.mean())
        return distance if distance <= reach else None


def _overlap(one: Sighting, other: Sighting) -> float:
    boxes = np.array([_corners(one.detection), _corners(other.detection)])
    return float(iou(boxes[0], boxes[1]))


def _corners(detection: Detection) -> tuple[float, float, float, float]:
    box = detection.box
    return box.x1, box.y1, box.x2, box.y2
