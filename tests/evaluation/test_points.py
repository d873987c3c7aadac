"""The two points: bounds worked out, who may choose them, and what the rule says when it cannot be kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.detections import Detections, GroundTruth
from evaluation.alarms import image_alarms
from evaluation.intervals import FalseAlarmBound, bootstrap_intervals
from evaluation.points import choose_operating_point, choose_points

BOX = (10, 10, 60, 50)
PISTOL = 1


def shown(armed):
    return GroundTruth(
        np.array([BOX] * armed, np.float32).reshape(-1, 4), np.array([PISTOL] * armed, np.int64)
    )


def scored(score):
    """One pistol box of that score; nothing for None."""
    if score is None:
        return Detections.empty()
    return Detections(
        np.array([BOX], np.float32), np.array([score], np.float32), np.array([PISTOL], np.int64)
    )


def split(weapon_scores, free_scores):
    truths = [shown(True)] * len(weapon_scores) + [shown(False)] * len(free_scores)
    return truths, [scored(score) for score in (*weapon_scores, *free_scores)]


def bound_at(threshold, truths, found, groups=None):
    return FalseAlarmBound(image_alarms(truths, found), groups).at(threshold)


def test_a_rare_alarm_is_bounded_by_wilson_and_not_by_drawing_again():
    # 1 of 100: Wilson's upper end is (p + z2/2n + z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n), with z2 = 3.8415
    # .0545; drawing 100 of 100 again gives 3 or fewer in 97.5 of 100 draws: .03.
    truths, found = split([], [0.9] + [0.1] * 99)
    assert bound_at(0.5, truths, found) == pytest.approx(54.5, abs=0.1)
    assert bound_at(0.05, truths, found) == 1000


def test_alarms_of_one_recording_are_one_observation_that_can_be_drawn_again():
    # 10 of 200 frames alarm: singly Wilson's .0896; all in one of 20 recordings of 10, which is drawn
    # three times or fewer in 97.5 of 100 draws (Poisson of 1: .981): 3 of 20.
    truths, found = split([], [0.9] * 10 + [0.1] * 190)
    assert bound_at(0.5, truths, found) == pytest.approx(89.6, abs=0.2)
    recordings = [f"video {i // 10}" for i in range(200)]
    assert bound_at(0.5, truths, found, recordings) == pytest.approx(150)


def test_the_bound_is_the_reports_interval_where_recordings_decide():
    truths, found = split([0.9, 0.8], [0.9] * 10 + [0.1] * 190)
    recordings = ["gun 1", "gun 2", *(f"video {i // 10}" for i in range(200))]
    spans = bootstrap_intervals(truths, found, score_threshold=0.5, groups=recordings)
    assert bound_at(0.5, truths, found, recordings) == spans["false_alarms_per_1000"].high


def test_one_recording_bounds_nothing():
    truths, found = split([0.9], [0.1] * 500)
    assert bound_at(0.5, truths, found, ["gun"] + ["street"] * 500) == 1000


# Weapon images: 40 at .9, 40 at .75, 20 at .5. Weapon-free: of 400, 4 at .8, 20 at .6, 56 at .4.
WEAPONS = [0.9] * 40 + [0.75] * 40 + [0.5] * 20
FREE = [0.8] * 4 + [0.6] * 20 + [0.4] * 56 + [None] * 320


def test_points_by_hand():
    # 24 of 400 at .5 or more are 60 in 1,000, so .75 is the alarm: 4 of 400, Wilson's upper end 25.4; .5 for
    # the unsure point: 24 of 400, 87.7.
    alarm, unsure = choose_points(*split(WEAPONS, FREE))
    assert unsure is not None
    assert (alarm.score_threshold, unsure.score_threshold) == (0.75, 0.5)
    assert (alarm.image_recall, unsure.image_recall) == (0.8, 1)
    assert (alarm.false_alarms_per_1000, unsure.false_alarms_per_1000) == (10, 60)
    assert alarm.false_alarms_per_1000_high == pytest.approx(25.4, abs=0.1)
    assert unsure.false_alarms_per_1000_high == pytest.approx(87.7, abs=0.2)
    assert alarm.rule == (
        "highest image-level weapon recall with at most 50 false alarms per 1,000 weapon-free images "
        "at the upper end of the 95 % interval"
    )
    assert "at most 200 false alarms" in unsure.rule


def test_the_measured_number_may_keep_to_a_budget_that_its_bound_does_not():
    # A budget of 60 is kept by 24 of 400 as measured, but surely only by 4 of 400.
    point = choose_operating_point(*split(WEAPONS, FREE), max_false_alarms_per_1000=60)
    assert point.score_threshold == 0.75
    point = choose_operating_point(*split(WEAPONS, FREE), max_false_alarms_per_1000=88)
    assert point.score_threshold == 0.5


def test_too_few_pictures_to_bound_it_is_said():
    recordings = [f"gun {i // 10}" for i in range(100)] + [f"video {i // 4}" for i in range(20)]
    point = choose_operating_point(*split(WEAPONS, [0.4] * 20), groups=recordings)
    assert point.score_threshold == 0.5
    assert point.rule.endswith("images as measured (20 from 5 recordings are too few to bound it)")
    assert point.false_alarms_per_1000_high is not None
    assert point.false_alarms_per_1000_high > 50


def test_no_unsure_point_where_nothing_more_would_be_found():
    alarm, unsure = choose_points(*split([0.75] * 50, [0.1] * 400))
    assert alarm.score_threshold == 0.75
    assert unsure is None


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(20, 300), st.sampled_from([20, 50, 100]))
def test_a_larger_budget_never_finds_fewer_weapons_and_surely_means_surely(seed, images, budget):
    random = np.random.default_rng(seed)
    armed, scores = (random.random(images) < 0.5).tolist(), random.random(images)
    truths, found = [shown(one) for one in armed], [scored(score) for score in scores]
    groups = [f"r{i}" for i in random.integers(0, images // 4, images)]
    alarm, unsure = choose_points(truths, found, groups=groups, max_false_alarms_per_1000=budget)
    if unsure is not None:
        assert unsure.score_threshold < alarm.score_threshold
        assert unsure.image_recall >= alarm.image_recall
    for point, limit in ((alarm, budget), (unsure, 200)):
        if point is not None and "upper end" in point.rule:
            high = bound_at(point.score_threshold, truths, found, groups)
            assert point.false_alarms_per_1000 <= high <= limit
            assert point.false_alarms_per_1000_high == high
