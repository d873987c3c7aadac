"""When a weapon is seen in a video, by the cameras' rule; worked-out films of a box that stays or moves."""

import pytest

from detection.confirmation import Rule
from page.moments import Look, Moment, moments_of
from schemas import Box, Detection, ImageResult

RULE = Rule(alarm_from=0.6, unsure_from=0.3, needed=3, window=5)


def found(label: str, score: float, left: float = 10.0) -> Detection:
    box = Box(x1=left, y1=10, x2=left + 20, y2=30)
    return Detection(label=label, dangerous=label in ("pistol", "knife"), score=score, box=box)


def film(*frames: list[Detection], notes: dict[int, str] | None = None) -> list[Look]:
    notes = notes or {}
    return [
        Look(i / 2, ImageResult(file="f", detections=each, notes=[notes[i]] if i in notes else None))
        for i, each in enumerate(frames)
    ]


PISTOL, KNIFE = [found("pistol", 0.9)], [found("knife", 0.9, left=500.0)]


def test_each_object_has_its_own_span():
    looks = film([], PISTOL, PISTOL, PISTOL, [], [], [], [], [], KNIFE, [])
    assert moments_of(looks, RULE) == [
        Moment("alarm", 0.5, 1.5, 1, "pistol"),
        Moment("unsure", 4.5, 4.5, 9, "knife", is_brief=True),
    ]


def test_what_is_confirmed_but_weak_is_unsure_and_not_brief():
    weak = [found("pistol", 0.4)]
    assert moments_of(film(weak, weak, weak), RULE) == [Moment("unsure", 0.0, 1.0, 0, "pistol")]


def test_a_film_shorter_than_the_rule_can_raise_the_alarm():
    assert moments_of(film(PISTOL), RULE) == [Moment("alarm", 0.0, 0.0, 0, "pistol")]
    assert moments_of(film(PISTOL, []), RULE) == [Moment("unsure", 0.0, 0.0, 0, "pistol", is_brief=True)]


def test_an_object_that_comes_back_later_has_two_spans():
    away: list[list[Detection]] = [[]] * 6
    spans = [(m.start_s, m.end_s) for m in moments_of(film(*[PISTOL] * 3, *away, *[PISTOL] * 3), RULE)]
    assert spans == [(0.0, 1.0), (4.5, 5.5)]


def test_another_object_in_the_same_place_later_is_judged_by_itself():
    knife = [found("knife", 0.99)]
    assert moments_of(film(*[PISTOL] * 3, *[[]] * 6, knife), RULE) == [
        Moment("alarm", 0.0, 1.0, 0, "pistol"),
        Moment("unsure", 4.5, 4.5, 9, "knife", is_brief=True),
    ]


def test_two_glimpses_near_each_other_are_one_entry():
    here, there = [found("knife", 0.5)], [found("knife", 0.7, left=400.0)]
    assert moments_of(film([], here, [], there, []), RULE) == [
        Moment("unsure", 0.5, 1.5, 1, "knife", is_brief=True)
    ]


@pytest.mark.parametrize("nothing", [[], [found("smartphone", 0.99)], [found("pistol", 0.29)]])
def test_look_alikes_and_weak_signs_are_no_moment(nothing):
    assert moments_of(film(nothing, nothing, nothing), RULE) == []


def test_frames_that_nobody_can_judge_are_unsure():
    looks = film([], [], PISTOL, [], notes={0: "too-dark", 1: "too-dark", 2: "too-dark"})
    assert moments_of(looks, RULE) == [
        Moment("unsure", 0.0, 0.5, 0, note="too-dark"),
        Moment("unsure", 1.0, 1.0, 2, "pistol", is_brief=True),
    ]
