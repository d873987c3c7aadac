"""Scores become probabilities: fitted, cross-fitted and measured, with numbers worked out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metrics
from detection.calibration import calibrate
from detection.detections import CLASS_NAMES, Detections, GroundTruth
from evaluation.calibration import (
    choose_bands,
    cross_fitted,
    fit_calibration,
    measure_bands,
    measure_reliability,
)
from evaluation.chosen import choose
from evaluation.results import build_report
from schemas import Band, Calibration

HERE, THERE = (10, 10, 60, 50), (70, 10, 110, 80)
PISTOL, KNIFE, PHONE = (CLASS_NAMES.index(name) for name in ("pistol", "knife", "smartphone"))


def picture(score, right, label=PISTOL):
    """One object, and one box of its class: on it or beside it."""
    box = HERE if right else THERE
    labels = np.array([label], np.int64)
    return (
        GroundTruth(np.array([HERE], np.float32), labels),
        Detections(np.array([box], np.float32), np.array([score], np.float32), labels),
    )


def pictures(*parts):
    """Truths and detections of (score, right, wrong): so many pictures of each."""
    pairs = [picture(score, hit) for score, right, wrong in parts for hit in [True] * right + [False] * wrong]
    truths, found = zip(*pairs, strict=True)
    return list(truths), list(found)


def random_split(seed, images):
    """Pictures in which a score overstates: a box of score s is right with s squared."""
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        score = round(float(random.uniform(0.05, 0.999)), 5)
        label = int(random.choice([PISTOL, KNIFE, PHONE]))
        pairs.append(picture(score, random.random() < score**2, label))
    truths, found = zip(*pairs, strict=True)
    return list(truths), list(found)


def test_two_scores_are_fitted_to_how_often_each_was_right():
    # .9 is right in 150 of 200 boxes, .5 in 50 of 200. By Platt's targets 201/202 and 1/202 those are
    # .7475 and .2525: logits 1.0852 and -1.0852, at logits log 9 = 2.1972 and 0 of the scores.
    fitted = fit_calibration(*pictures((0.9, 150, 50), (0.5, 50, 150)))
    assert fitted["pistol"].offset == pytest.approx(-1.0852, abs=2e-3)
    assert fitted["pistol"].slope == pytest.approx(2 * 1.0852 / math.log(9), abs=2e-3)
    assert fitted.keys() == set(CLASS_NAMES[1:])
    assert fitted["knife"] == fitted["pistol"], "without boxes of its own: the fit of all together"


def test_with_too_few_boxes_scores_stay_as_they_are():
    truths, found = pictures((0.9, 19, 50))
    assert fit_calibration(truths, found) == {}
    assert choose(truths, found, groups=[str(i) for i in range(69)]).detections == found


def test_boxes_that_a_score_divides_cleanly_and_scores_that_mislead_keep_their_order():
    for parts in (((1.0, 30, 0), (0.0, 0, 30)), ((0.9, 20, 80), (0.3, 80, 20))):
        truths, found = pictures(*parts)
        slope = fit_calibration(truths, found)["pistol"].slope
        assert 0 < slope < math.inf


def test_calibrated_scores_by_hand_and_best_first():
    # logit .8 = log 4; twice that is log 16: 16 / 17. logit .5 = 0; plus log 99: .99.
    found = Detections(
        np.array([HERE, THERE], np.float32), np.array([0.8, 0.5], np.float32), np.array([PISTOL, KNIFE]),
        np.eye(2, 7, dtype=np.float32),
    )  # fmt: skip
    given = {
        "pistol": Calibration(slope=2, offset=0),
        "knife": Calibration(slope=1, offset=math.log(99)),
    }
    after = calibrate(found, given, CLASS_NAMES)
    assert after.labels.tolist() == [KNIFE, PISTOL]
    assert after.scores == pytest.approx([0.99, 16 / 17])
    assert after.boxes.tolist() == [list(THERE), list(HERE)]
    assert after.probabilities is not None
    assert after.probabilities.argmax(axis=1).tolist() == [1, 0]
    assert found.scores.tolist() == [np.float32(0.8), 0.5], "what was given is not written to"


def test_without_calibration_detections_are_the_very_same():
    _, (found,) = pictures((0.8, 1, 0))
    assert calibrate(found, {}, CLASS_NAMES) is found


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.floats(0.05, 20), st.floats(-5, 5)), min_size=6, max_size=6),
)
def test_calibration_keeps_the_order_in_a_class_and_so_its_ap(seed, parameters):
    # Scores lie .001 apart and slopes where float32 still tells them apart.
    random = np.random.default_rng(seed)
    scores = np.sort(random.permutation(np.arange(300, 700))[:60] / 1000)[::-1]
    pairs = [picture(score, random.random() < score, int(random.integers(1, 7))) for score in scores]
    truths, found = (list(side) for side in zip(*pairs, strict=True))
    given = {
        name: Calibration(slope=slope, offset=offset)
        for name, (slope, offset) in zip(CLASS_NAMES[1:], parameters, strict=True)
    }
    after = [calibrate(one, given, CLASS_NAMES) for one in found]
    for label in range(1, 7):
        of_class = [after[i].scores[0] for i, one in enumerate(found) if one.labels[0] == label]
        assert of_class == sorted(of_class, reverse=True)
    before, now = metrics.coco_summary(truths, found), metrics.coco_summary(truths, after)
    assert now == pytest.approx(before)


def test_calibration_error_by_hand():
    # 100 boxes of .9, 50 right: .4 off. 100 boxes of .3, 20 right: .1 off. Together .25.
    measured = measure_reliability(*pictures((0.9, 50, 50), (0.3, 20, 80)), scores="raw")
    assert measured is not None
    assert measured.error == pytest.approx(0.25)
    assert [(one.boxes, one.right) for one in measured.bins] == [(100, 0.2), (100, 0.5)]
    assert [one.score for one in measured.bins] == pytest.approx([0.3, 0.9])
    surest = measure_reliability(*pictures((1.0, 3, 1)), scores="raw")
    assert surest is not None
    assert surest.error == pytest.approx(0.25)
    phone_truth, phone = picture(0.9, True, PHONE)
    assert measure_reliability([phone_truth], [phone], scores="raw") is None


def test_calibration_carries_over_to_recordings_that_it_was_not_fitted_to():
    truths, found = random_split(1, 2000)
    recordings = [f"r{i // 10}" for i in range(2000)]
    chosen = choose(truths, found, groups=recordings)
    raw, calibrated = chosen.reliability
    assert (raw.scores, calibrated.scores) == ("raw", "calibrated")
    assert raw.error > 0.13  # the mean of s - s squared is 1/6
    assert calibrated.error < 0.05
    new_truths, new_found = random_split(2, 2000)
    after = [calibrate(one, chosen.calibration, CLASS_NAMES) for one in new_found]
    served = measure_reliability(new_truths, after, scores="served")
    assert served is not None
    assert served.error < 0.05


def test_a_recording_is_never_calibrated_by_itself():
    # Two recordings that contradict each other: each gets what the other one says.
    often, seldom = pictures((0.5, 180, 20)), pictures((0.5, 20, 180))
    truths, found = often[0] + seldom[0], often[1] + seldom[1]
    after = cross_fitted(truths, found, groups=["a"] * 200 + ["b"] * 200)
    assert after is not None
    assert after[0].scores[0] == pytest.approx(0.1, abs=0.01)
    assert after[-1].scores[0] == pytest.approx(0.9, abs=0.01)
    assert cross_fitted(truths, found, groups=["a"] * 400) is None


def test_bands_by_hand():
    truths, found = pictures((0.9, 48, 2), (0.8, 35, 5), (0.6, 25, 15), (0.4, 18, 22), (0.2, 1, 19))
    weak, likely, strong = choose_bands(truths, found)
    # .9 is right in 48 of 50; with .8 it would be 83 of 90, but .8 alone is 35 of 40, under .9.
    assert strong == Band(name="strong", score_from=np.float32(0.9), boxes=50, right=0.96)
    assert likely == Band(name="likely", score_from=np.float32(0.6), boxes=80, right=0.75)
    assert weak == Band(name="weak", score_from=0, boxes=60, right=19 / 60)


def test_a_band_of_few_boxes_is_left_out():
    bands = choose_bands(*pictures((0.9, 29, 0), (0.7, 30, 12), (0.3, 1, 9)))
    assert [(band.name, band.boxes) for band in bands] == [("weak", 10), ("likely", 71)]
    assert choose_bands(*pictures((0.9, 29, 0))) == ()
    assert choose_bands(*pictures((0.9, 40, 0)))[0] == Band(name="weak", score_from=0, boxes=0, right=None)


def test_bands_are_measured_again_on_other_pictures():
    bands = choose_bands(*pictures((0.9, 48, 2), (0.6, 25, 15), (0.2, 1, 19)))
    truths, found = pictures((0.95, 3, 1), (0.1, 1, 1))
    again = measure_bands(bands, truths, found)
    assert [(band.name, band.boxes, band.right) for band in again] == [
        ("weak", 2, 0.5), ("likely", 0, None), ("strong", 4, 0.75),
    ]  # fmt: skip
    assert build_report(truths, found, bands=bands, draws=5).bands == again
