"""The same object in N of M frames is an alarm; flickers here and there are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.confirmation import Confirmation, Rule, padded_median
from schemas import Box, Detection

RULE = Rule(alarm_from=0.6, unsure_from=0.3, needed=3, window=5, memory_s=10, cool_down_s=60)


def seen(score: float, x: float, y: float, side: float = 40, label: str = "pistol") -> Detection:
    """A square box with its upper left corner at x, y."""
    dangerous = label in ("pistol", "knife")
    return Detection(
        label=label, dangerous=dangerous, score=score, box=Box(x1=x, y1=y, x2=x + side, y2=y + side)
    )


def verdicts(frames: list[list[Detection]], rule: Rule = RULE, every_s: float = 0.5) -> list[tuple[int, str]]:
    """(frame's number, verdict) each time an object's verdict rises."""
    confirmation = Confirmation(rule)
    return [
        (i, track.verdict)
        for i, found in enumerate(frames)
        for track in confirmation.look(i * every_s, found)
    ]


def test_the_same_object_in_three_frames_is_an_alarm_at_the_third_and_only_then():
    assert verdicts([[seen(0.9, 100, 100)]] * 20) == [(2, "alarm")]


def test_three_flickers_in_three_corners_are_no_alarm():
    assert verdicts([[seen(0.9, 0, 0)], [seen(0.9, 600, 0)], [seen(0.9, 0, 400)], [], []]) == []


def test_a_missed_frame_or_two_of_five_only_put_it_off():
    one = [seen(0.9, 100, 100)]
    assert verdicts([one, [], one, one]) == [(3, "alarm")]
    assert verdicts([one, [], [], one, one]) == [(4, "alarm")]


def test_more_missed_frames_than_the_window_has_are_no_alarm():
    one = [seen(0.9, 100, 100)]
    assert verdicts([one, [], [], [], one, one]) == []


def test_a_weapon_that_is_carried_by_is_the_same_although_its_boxes_do_not_overlap():
    """40 pixels wide: centres may lie 2 x 56.6 apart."""
    assert verdicts([[seen(0.9, 100 + 110 * i, 100)] for i in range(3)]) == [(2, "alarm")]
    assert verdicts([[seen(0.9, 100 + 115 * i, 100)] for i in range(3)]) == []


def test_a_box_of_another_size_on_the_same_place_is_another_object():
    assert verdicts([[seen(0.9, 100, 100, side)] for side in (20, 80, 300)]) == []


def test_two_boxes_on_one_weapon_are_told_once_and_two_weapons_twice():
    """Boxes of 40 pixels a side: 20 apart, their IoU is 1 / 3; 22 apart, 0.29."""
    for apart, expected in ((20, 1), (22, 2)):
        both = [seen(0.7, 100 + apart, 100, label="knife"), seen(0.9, 100, 100)]
        assert len(verdicts([both] * 6)) == expected
    flickering = [[seen(0.9, 100, 100)], [seen(0.9, 100, 100), seen(0.8, 110, 110, 45)]] * 5
    assert verdicts(flickering) == [(2, "alarm")]


def test_two_objects_side_by_side_keep_apart():
    frame = [seen(0.9, 100, 100), seen(0.7, 180, 100)]
    assert verdicts([frame, frame[::-1], frame]) == [(2, "alarm"), (2, "alarm")]


def test_a_name_that_changes_between_the_weapons_is_one_object_and_a_look_alike_is_none():
    frames = [[seen(0.9, 100, 100, label=label)] for label in ("pistol", "knife", "pistol")]
    assert verdicts(frames) == [(2, "alarm")]
    assert verdicts([[seen(0.9, 100, 100, label="smartphone")]] * 5) == []


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.9, 0.9, 0.9), "alarm"),
        ((0.9, 0.4, 0.9), "alarm"),  # the median is 0.9
        ((0.4, 0.9, 0.4), "unsure"),  # the median is 0.4
        ((0.4, 0.4, 0.4), "unsure"),
        ((0.6, 0.6, 0.6), "alarm"),  # the point itself
        ((0.2, 0.9, 0.9), None),  # not seen in the first
    ],
)
def test_the_median_of_its_scores_decides(scores, expected):
    found = verdicts([[seen(score, 100, 100)] for score in scores])
    assert found == ([(2, expected)] if expected else [])


def test_what_was_unsure_may_become_an_alarm_and_is_told_once_more():
    scores = (0.4, 0.4, 0.4, 0.9, 0.9, 0.9)  # medians: .4 after the third, .9 after the sixth
    assert verdicts([[seen(score, 100, 100)] for score in scores]) == [(2, "unsure"), (5, "alarm")]


def test_the_median_is_padded_with_zeros():
    assert padded_median([0.9], 3) == 0
    assert padded_median([0.9, 0.7], 3) == 0.7
    assert padded_median([0.9, 0.7, 0.8, 0.6], 3) == 0.75


def test_an_object_that_comes_back_within_its_cool_down_is_no_news_and_later_it_is():
    one = [seen(0.9, 100, 100)]
    shown = [one] * 3
    rule = Rule(0.6, 0.3, cool_down_s=20, rest_s=0)
    assert verdicts([*shown, *[[]] * 39, *shown], rule) == [(2, "alarm")]  # unseen for 20 s
    assert verdicts([*shown, *[[]] * 40, *shown], rule) == [(2, "alarm"), (45, "alarm")]


def told_of_flickers(every_s: float, hours: float) -> list[float]:
    """When, in seconds, somebody is told of what stands still and is seen for 3 s every so often."""
    confirmation, told = Confirmation(RULE), []
    for start_s in np.arange(0, 3600 * hours, every_s):
        for i in range(8):
            box = [seen(0.9, 100 + i % 3, 100)] if i < 6 else []  # detectors tremble
            told += [start_s + 0.5 * i for _ in confirmation.look(start_s + 0.5 * i, box)]
    return told


def test_what_stands_still_is_told_once_in_a_day_whether_it_is_seen_always_or_now_and_then():
    assert told_of_flickers(every_s=4, hours=1) == [1.0]
    assert told_of_flickers(every_s=600, hours=24) == [1.0]


def test_what_stands_still_is_news_again_after_an_hour_without_it():
    assert told_of_flickers(every_s=2 * 3600, hours=5) == [1.0, 7201.0, 14401.0]


@pytest.mark.parametrize(
    ("x", "side", "is_news"),
    [(100, 40, False), (110, 40, False), (120, 40, True), (190, 40, True), (100, 80, True)],
)
def test_only_at_its_very_place_does_what_stood_still_hide_anything(x, side, is_news):
    """IoU with the box at 100: 0.6 at 110, 0.33 at 120; a box of twice its sides shares a quarter."""
    still, later = [seen(0.9, 100, 100)], [seen(0.9, x, 100, side)]
    confirmation = Confirmation(RULE)
    for i in range(4):
        confirmation.look(0.5 * i, still)
    assert bool([each for i in range(4) for each in confirmation.look(600 + 0.5 * i, later)]) == is_news


def test_what_moved_is_news_after_its_cool_down_even_where_it_was_last():
    confirmation = Confirmation(RULE)
    for i in range(4):
        confirmation.look(0.5 * i, [seen(0.9, 100 + 30 * i, 100)])
    again = [each for i in range(3) for each in confirmation.look(600 + 0.5 * i, [seen(0.9, 190, 100)])]
    assert [track.verdict for track in again] == ["alarm"]


def test_another_object_elsewhere_is_news_while_the_first_cools_down():
    here, there = [seen(0.9, 100, 100)], [seen(0.9, 500, 400)]
    assert verdicts([*[here] * 3, *[there] * 3]) == [(2, "alarm"), (5, "alarm")]


def test_frames_from_before_an_outage_do_not_count():
    one = [seen(0.9, 100, 100)]
    confirmation = Confirmation(RULE)
    assert [confirmation.look(time_s, one) for time_s in (0, 0.5, 60)] == [[], [], []]
    assert [track.verdict for time_s in (60.5, 61) for track in confirmation.look(time_s, one)] == ["alarm"]


def test_a_video_of_two_frames_can_raise_an_alarm():
    one = [seen(0.9, 100, 100)]
    assert verdicts([one, one]) == []
    assert verdicts([one, one], RULE.for_frames(2)) == [(1, "alarm")]
    assert RULE.for_frames(30) == RULE
    assert RULE.for_frames(0).needed == 1


def test_a_track_says_when_it_was_seen_and_which_frame_shows_it_best():
    confirmation = Confirmation(RULE)
    for time_s, score in ((1.0, 0.7), (1.5, 0.95), (2.0, 0.8)):
        confirmation.look(time_s, [seen(score, 100, 100)])
    (track,) = confirmation.tracks
    assert (track.first.time_s, track.best.time_s, track.last.time_s) == (1.0, 1.5, 2.0)
    assert (track.seen, track.score) == (3, 0.8)


@pytest.mark.parametrize("wrong", [{"needed": 6}, {"needed": 0}, {"unsure_from": 0.7}, {"alarm_from": 1.2}])
def test_a_rule_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Rule(**{"alarm_from": 0.6, "unsure_from": 0.3, **wrong})


frame = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 600), st.integers(0, 400)), max_size=3)


@given(st.lists(frame, max_size=12))
def test_no_frame_alone_and_no_two_frames_ever_confirm_anything(frames):
    found = verdicts([[seen(*each) for each in frame] for frame in frames])
    shown = [i for i, each in enumerate(frames) if any(score >= 0.3 for score, _, _ in each)]
    assert all(len([j for j in shown if i - 5 < j <= i]) >= 3 for i, _ in found)
