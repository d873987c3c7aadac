"""Figures worked out by hand, and equality with pycocotools on crowds of cases."""

from __future__ import annotations

import contextlib
import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import metrics
from detection.detections import CLASS_NAMES, Detections, GroundTruth
from evaluation import intervals, matching, mistakes
from evaluation.alarms import alarm_curve, image_alarms
from evaluation.points import choose_operating_point
from evaluation.results import build_report, card_tables, flat_metrics

PISTOL, KNIFE, BILLETE, MONEDERO, SMARTPHONE, TARJETA = range(1, 7)
A = (0, 0, 100, 100)  # boxes far apart
B = (200, 0, 300, 100)
C = (400, 0, 500, 100)
IN_A = (0, 0, 100, 60)  # IoU 0.6 with A
CORNER_OF_A = (50, 50, 150, 150)  # IoU 2500 / 17500 = 0.143 with A


def truth(*boxes_labels):
    boxes = np.array([box for box, _ in boxes_labels], np.float32).reshape(-1, 4)
    return GroundTruth(boxes, np.array([label for _, label in boxes_labels], np.int64))


def found(*boxes_labels_scores):
    """Detections in the order given, which must be by descending score."""
    boxes = np.array([box for box, _, _ in boxes_labels_scores], np.float32).reshape(-1, 4)
    labels = np.array([label for _, label, _ in boxes_labels_scores], np.int64)
    return Detections(boxes, np.array([score for *_, score in boxes_labels_scores], np.float32), labels)


def random_split(seed, images=60, labels=6, crowd=8):
    """Truths and detections with all that occurs: negatives, duplicates, mix-ups, ties, small boxes."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(images):
        n = int(rng.integers(0, crowd))
        corner = rng.uniform(0, 500, (n, 2))
        boxes = np.hstack(
            [corner, corner + rng.choice([8, 40, 90, 300], (n, 2)) * rng.uniform(0.6, 1.4, (n, 2))]
        )
        classes = rng.integers(1, labels + 1, n)
        truths.append(GroundTruth(boxes.astype(np.float32), classes))
        near = [i for i in range(n) for _ in range(rng.integers(0, 4))]
        size = np.tile(boxes[near, 2:] - boxes[near, :2], 2)
        guesses = boxes[near] + rng.normal(0, 0.08, (len(near), 4)) * size
        noise = rng.uniform(0, 500, (int(rng.integers(0, 5)), 2))
        guesses = np.vstack([guesses, np.hstack([noise, noise + 50])])
        names = np.where(rng.random(len(guesses)) < 0.8, [*classes[near], *[1] * len(noise)], PISTOL)
        scores = np.sort(rng.integers(1, 40, len(guesses)) / 40)[::-1]  # coarse, so that ties occur
        detections.append(
            Detections(guesses.astype(np.float32), scores.astype(np.float32), names.astype(np.int64))
        )
    return truths, detections


# --- COCO -------------------------------------------------------------------------------------------


def by_pycocotools(truths, detections, class_names=CLASS_NAMES):
    """The 12 numbers and each class's AP, AP50, AR as pycocotools computes them; -1 for what has no truth."""
    annotations: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for image, (one, guesses) in enumerate(zip(truths, detections, strict=True)):
        for (x1, y1, x2, y2), label in zip(one.boxes.astype(float), one.labels, strict=True):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(label), "iscrowd": 0,
                     "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            )  # fmt: skip
        for (x1, y1, x2, y2), label, score in zip(
            guesses.boxes.astype(float), guesses.labels, guesses.scores, strict=True
        ):
            results.append(
                {
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(truths))],
            "categories": [{"id": i, "name": name} for i, name in enumerate(class_names) if i],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    keys = (
        "map map_50 map_75 map_small map_medium map_large mar_1 mar_10 mar_100 mar_small mar_medium mar_large"
    )
    expected = dict(zip(keys.split(), evaluation.stats, strict=True))
    precision, recall = evaluation.eval["precision"][:, :, :, 0, 2], evaluation.eval["recall"][:, :, 0, 2]
    for i, name in enumerate(class_names[1:]):
        for key, values in (("ap", precision[:, :, i]), ("ap50", precision[0, :, i]), ("ar", recall[:, i])):
            expected[f"{key}/{name}"] = values[values > -1].mean() if (values > -1).any() else -1
    return {key: value for key, value in expected.items() if value > -1}


@pytest.mark.parametrize(
    "split",
    [
        random_split(0),
        random_split(1, labels=3),  # three classes without a truth box, one of them with detections
        random_split(2, images=3, crowd=2),
        random_split(3, images=12, crowd=60),  # over 100 detections of a class in an image
        ([truth((A, KNIFE))], [found((B, KNIFE, 0.9))]),  # nothing right
        ([truth((A, KNIFE)), truth()], [found((A, KNIFE, 0.2)), found((A, KNIFE, 0.9))]),  # a negative
    ],
)
def test_coco_summary_equals_pycocotools(split):
    truths, detections = split
    expected = by_pycocotools(truths, detections)
    measured = metrics.coco_summary(truths, detections)
    assert measured.keys() == expected.keys()
    assert measured == pytest.approx(expected, abs=1e-6)


def test_original_protocol_equals_pycocotools_on_the_best_box_of_each_class():
    truths, detections = random_split(4)
    expected = by_pycocotools(truths, [one.best_per_class() for one in detections])
    assert metrics.original_protocol(truths, detections) == pytest.approx(expected, abs=1e-6)


def test_original_protocol_never_finds_the_second_object_of_a_class():
    truths, detections = [truth((A, KNIFE), (B, KNIFE))], [found((A, KNIFE, 0.9), (B, KNIFE, 0.8))]
    assert metrics.coco_summary(truths, detections)["mar_100"] == 1
    assert metrics.original_protocol(truths, detections)["mar_100"] == 0.5


def test_ap_of_one_hit_one_false_one_hit_by_hand():
    # Scores .9 right, .8 false, .7 right, two boxes: precision 1 up to recall .5 (51 of the 101 points),
    # then 2/3 (the other 50).
    truths = [truth((A, KNIFE), (B, KNIFE))]
    detections = [found((A, KNIFE, 0.9), (C, KNIFE, 0.8), (B, KNIFE, 0.7))]
    assert metrics.coco_summary(truths, detections)["ap50/knife"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_no_truth_box_gives_no_figure():
    assert metrics.coco_summary([truth()], [found((A, KNIFE, 0.9))]) == {}


@pytest.mark.parametrize(
    ("truths", "detections", "message"),
    [
        ([truth()], [], "1 truths, 0 detections"),
        ([truth((A, 7))], [found()], "want labels 1 to 6, got 7 to 7"),
        ([truth()], [found((A, 0, 0.5))], "want labels 1 to 6, got 0 to 0"),
    ],
)
def test_what_does_not_belong_together_is_refused(truths, detections, message):
    with pytest.raises(ValueError, match=message):
        metrics.coco_summary(truths, detections)


# --- matching ---------------------------------------------------------------------------------------


def test_the_better_score_takes_the_box_it_overlaps_most():
    iou = np.array([[0.6, 0.7], [0.9, 0.8], [0.6, 0.6]])
    assert matching.match_boxes(iou, np.array([0.5, 0.75])).tolist() == [[1, 0, -1], [-1, 0, -1]]


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_with_equal_weights_is_cocos(seed):
    truths, detections = random_split(seed)
    matches = matching.match_class(truths, detections, KNIFE, metrics.COCO_IOUS)
    ap = intervals.average_precision(matches, np.ones((1, len(truths)), np.int64))
    assert ap.mean() == pytest.approx(metrics.coco_summary(truths, detections)["ap/knife"], abs=1e-9)


def test_an_image_drawn_twice_counts_as_two():
    truths, detections = random_split(5, images=20)
    twice = matching.match_class([*truths, truths[3]], [*detections, detections[3]], PISTOL)
    weights = np.ones((2, len(truths)), np.int64)
    weights[1, 3] = 2
    once = matching.match_class(truths, detections, PISTOL)
    expected = intervals.average_precision(twice, np.ones((1, len(truths) + 1), np.int64))
    assert intervals.average_precision(once, weights)[1] == pytest.approx(expected[0], abs=1e-9)


# --- thresholds and alarms --------------------------------------------------------------------------

# Best weapon scores: of five weapon images .9 .8 .6 .3 and none, of four weapon-free ones .7 .5 .1 and none.
ALARM_TRUTHS = [truth((A, PISTOL))] * 5 + [truth((A, SMARTPHONE))] * 3 + [truth()]
ALARM_FOUND = [
    found((A, PISTOL, 0.9)), found((A, KNIFE, 0.8)), found((A, PISTOL, 0.6), (B, PISTOL, 0.2)),
    found((A, PISTOL, 0.3)), found((A, SMARTPHONE, 0.99)),
    found((A, PISTOL, 0.7)), found((A, SMARTPHONE, 0.9), (A, KNIFE, 0.5)), found((A, PISTOL, 0.1)), found(),
]  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "threshold", "recall", "false_alarms"),
    [
        (0, 0.8, 0.4, 0),  # .9 would catch one of five, .8 catches two before the first false alarm at .7
        (249, 0.8, 0.4, 0),  # one of four is 250 in 1,000
        (250, 0.6, 0.6, 250),
        (489, 0.6, 0.6, 250),
        (490, 0.8, 0.4, 0),  # Wilson's bound of 0 of 4 is 1.96^2 / (4 + 1.96^2) = .4899: now one keeps surely
        (1000, 0.3, 0.8, 500),  # nothing is gained below .3: the fifth weapon has no detection
    ],
)
def test_operating_point_by_hand(budget, threshold, recall, false_alarms):
    point = choose_operating_point(ALARM_TRUTHS, ALARM_FOUND, max_false_alarms_per_1000=budget)
    assert point.score_threshold == pytest.approx(threshold, abs=1e-6)
    assert (point.image_recall, point.false_alarms_per_1000) == (recall, false_alarms)
    assert (point.weapon_images, point.weapon_free_images) == (5, 4)
    assert f"at most {budget} false alarms" in point.rule


def test_operating_point_is_a_stop_of_the_slider_where_the_budget_allows():
    truths = [truth((A, PISTOL)), truth((A, PISTOL)), truth()]
    free = choose_operating_point(
        truths, [found((A, PISTOL, 0.876)), found((A, PISTOL, 0.514)), found((A, PISTOL, 0.4))]
    )
    assert free.score_threshold == 0.51
    tight = choose_operating_point(
        truths, [found((A, PISTOL, 0.876)), found((A, PISTOL, 0.514)), found((A, PISTOL, 0.512))]
    )
    assert tight.score_threshold == np.float32(0.514), "0.51 would let a false alarm in"


def test_operating_point_counts_weapon_boxes_each_against_its_own_class():
    # At .6, of 5 boxes: pistol .9 right, knife .8 on a pistol wrong, pistol .6 right, .7 on a phone wrong.
    point = choose_operating_point(ALARM_TRUTHS, ALARM_FOUND, max_false_alarms_per_1000=250)
    assert (point.precision, point.recall) == (0.5, 0.4)


def test_without_weapon_free_images_the_point_of_best_weapon_f1_is_taken():
    # F1 = 2 hits / (detections + boxes): at .9 2/6, at .8 2/7, at .6 4/8, at .3 6/9, at .2 6/10.
    point = choose_operating_point(ALARM_TRUTHS[:5], ALARM_FOUND[:5])
    assert point.score_threshold == np.float32(0.3)
    assert point.rule == "best F1 over pistol and knife boxes (no weapon-free image in val)"
    assert point.weapon_free_images == 0


def test_a_budget_that_no_threshold_keeps_falls_back_and_says_so():
    truths = [truth((A, PISTOL)), truth()]
    point = choose_operating_point(truths, [found((A, PISTOL, 0.5)), found((A, PISTOL, 0.9))])
    assert point.score_threshold == 0.5
    assert "no threshold keeps to 50 false alarms" in point.rule
    assert point.false_alarms_per_1000 == 1000


def test_without_weapons_the_best_f1_over_all_classes_is_taken():
    point = choose_operating_point([truth((A, BILLETE))], [found((A, BILLETE, 0.75), (B, BILLETE, 0.5))])
    assert point.score_threshold == 0.75
    assert point.rule == "best F1 over all boxes (no weapon image in val)"


def test_a_model_that_finds_nothing_gets_threshold_one():
    point = choose_operating_point([truth((A, PISTOL)), truth()], [found(), found()])
    assert (point.score_threshold, point.image_recall) == (1, 0)


def test_operating_point_is_inclusive_and_survives_json():
    point = choose_operating_point(ALARM_TRUTHS, ALARM_FOUND, max_false_alarms_per_1000=0)
    again = type(point).model_validate_json(point.model_dump_json())
    assert len(ALARM_FOUND[1].above(again.score_threshold)) == 1


def test_alarm_curve_by_hand():
    curve = {point.score_threshold: point for point in alarm_curve(ALARM_TRUTHS, ALARM_FOUND)}
    assert len(curve) == 101
    assert [(curve[t].image_recall, curve[t].false_alarms_per_1000) for t in (0, 0.31, 0.55, 0.95)] == [
        (0.8, 750), (0.6, 500), (0.6, 250), (0, 0),
    ]  # fmt: skip


@given(st.integers(0, 1000))
def test_raising_the_threshold_never_adds_an_alarm(seed):
    curve = alarm_curve(*random_split(seed, images=6))
    assert all(a.image_recall >= b.image_recall for a, b in itertools.pairwise(curve))
    assert all(a.false_alarms_per_1000 >= b.false_alarms_per_1000 for a, b in itertools.pairwise(curve))


def test_score_curve_counts_equal_scores_together():
    matches = matching.match_class(
        [truth((A, KNIFE), (B, KNIFE))], [found((A, KNIFE, 0.75), (C, KNIFE, 0.75), (B, KNIFE, 0.5))], KNIFE
    )
    curve = matching.score_curve([matches])
    assert curve.scores.tolist() == [0.75, 0.5]
    assert curve.precision == pytest.approx([1 / 2, 2 / 3])
    assert curve.recall.tolist() == [0.5, 1]
    assert curve.f1 == pytest.approx([0.5, 0.8])


def test_class_thresholds_by_hand():
    # knife: at .75 P 1 R .5 F1 2/3; at .5 P 1 R 1 F1 1; at .25 P 2/3 R 1 F1 .8. pistol is never found.
    truths = [truth((A, KNIFE), (B, KNIFE), (C, PISTOL))]
    detections = [found((A, KNIFE, 0.75), (B, KNIFE, 0.5), (C, KNIFE, 0.25))]
    thresholds = matching.class_thresholds(truths, detections)
    assert thresholds.keys() == {"knife"}
    assert thresholds["knife"].score_threshold == 0.5
    assert (thresholds["knife"].precision, thresholds["knife"].recall, thresholds["knife"].f1) == (1, 1, 1)


# --- what goes wrong --------------------------------------------------------------------------------


def test_diagnosis_by_hand():
    one = mistakes.diagnose(
        truth((A, KNIFE), (B, PISTOL), (C, SMARTPHONE), ((600, 0, 700, 100), KNIFE)),
        found(
            (A, KNIFE, 0.9), (IN_A, KNIFE, 0.8), (B, BILLETE, 0.7), ((450, 50, 550, 150), SMARTPHONE, 0.6),
            ((800, 0, 900, 100), PISTOL, 0.5), (CORNER_OF_A, PISTOL, 0.4),
        ),
    )  # fmt: skip
    assert one.kinds == ("correct", "duplicate", "class", "localisation", "background", "background")
    assert one.iou == pytest.approx([1, 0.6, 1, 1 / 7, 0, 0])
    assert one.truth_of.tolist() == [0, 0, 1, 2, -1, -1]
    assert one.found.tolist() == [True, False, False, False]
    assert one.missed.tolist() == [False, False, False, True]


def test_confusion_matrix_by_hand():
    truths = [truth((A, PISTOL), (B, SMARTPHONE), (C, KNIFE)), truth()]
    detections = [
        found((A, PISTOL, 0.9), (B, KNIFE, 0.8), (B, SMARTPHONE, 0.7)),  # knife takes the phone's box first
        found((A, TARJETA, 0.6)),
    ]
    counts = mistakes.confusion_matrix(truths, detections)
    expected = np.zeros((7, 7), int)
    expected[PISTOL, PISTOL] = expected[SMARTPHONE, KNIFE] = expected[0, SMARTPHONE] = 1
    expected[KNIFE, 0] = expected[0, TARJETA] = 1
    assert np.array_equal(counts, expected)


@given(st.integers(0, 1000))
def test_confusion_matrix_holds_each_box_and_each_detection_once(seed):
    truths, detections = random_split(seed, images=5)
    counts = mistakes.confusion_matrix(truths, detections)
    assert counts[1:].sum() == sum(len(one.labels) for one in truths)
    assert counts[:, 1:].sum() == sum(len(one) for one in detections)


def test_lookalike_table_by_hand():
    truths = [truth((A, SMARTPHONE), (B, SMARTPHONE), (C, PISTOL)), truth((A, KNIFE), (B, TARJETA))]
    detections = [
        found((A, PISTOL, 0.9), (A, KNIFE, 0.8), (C, SMARTPHONE, 0.7)),  # a pistol seen as a phone alone
        found((A, KNIFE, 0.9), (A, SMARTPHONE, 0.8), (CORNER_OF_A, PISTOL, 0.5)),  # a knife also seen as one
    ]
    table = {(cell.weapon, cell.lookalike): cell for cell in mistakes.lookalike_table(truths, detections)}
    assert len(table) == 15
    counts = {
        key: (cell.lookalike_boxes, cell.called_weapon, cell.weapon_boxes, cell.called_lookalike)
        for key, cell in table.items()
    }
    assert counts["pistol", "smartphone"] == (2, 1, 1, 1)
    assert counts["knife", "smartphone"] == (2, 1, 1, 0)
    assert counts["any", "smartphone"] == (2, 1, 2, 1)  # one phone box with two weapons on it counts once
    assert counts["any", "any"] == (3, 1, 2, 1)
    assert counts["pistol", "billete"] == (0, 0, 1, 0)
    assert table["pistol", "billete"].called_weapon_share is None
    assert table["any", "any"].called_weapon_share == pytest.approx(1 / 3)


# --- intervals --------------------------------------------------------------------------------------


def test_intervals_hold_the_estimate_and_narrow_with_more_images():
    truths, detections = random_split(6, images=40)
    few = intervals.bootstrap_intervals(truths, detections, score_threshold=0.5, draws=200)
    many = intervals.bootstrap_intervals(truths * 8, detections * 8, score_threshold=0.5, draws=200)
    figures = metrics.coco_summary(truths, detections)
    alarms = image_alarms(truths, detections)
    figures["image_recall"] = alarms.recall(0.5)
    figures["false_alarms_per_1000"] = alarms.false_alarms_per_1000(0.5)
    assert few.keys() <= figures.keys()
    for key, span in few.items():
        assert span.low <= figures[key] <= span.high, key
        assert many[key].high - many[key].low < 0.7 * (span.high - span.low), key


def test_interval_of_recall_is_the_binomial_one():
    # 100 weapon images of which 80 alarm: standard error .04, so about .72 to .88.
    truths = [truth((A, PISTOL))] * 100
    detections = [found((A, PISTOL, 0.9))] * 80 + [found()] * 20
    span = intervals.bootstrap_intervals(truths, detections, score_threshold=0.5)["image_recall"]
    assert (span.low, span.high) == pytest.approx((0.72, 0.88), abs=0.015)


def test_no_false_alarm_among_few_images_is_no_proof_of_none():
    # Wilson's interval at 0 of 6 and 4 of 4: 1.96^2 / (n + 1.96^2) from the edge.
    truths = [truth()] * 6 + [truth((A, PISTOL))] * 4
    detections = [found()] * 6 + [found((A, PISTOL, 0.9))] * 4
    spans = intervals.bootstrap_intervals(truths, detections, score_threshold=0.5, draws=50)
    alarms, recall = spans["false_alarms_per_1000"], spans["image_recall"]
    assert (alarms.low, alarms.high) == pytest.approx((0, 390.3), abs=0.1)
    assert (recall.low, recall.high) == pytest.approx((0.510, 1), abs=0.001)


def shot(hit, i):
    """A picture with one pistol that is found or taken for something elsewhere, at a score of its own."""
    return truth((A, PISTOL)), found((A if hit else B, PISTOL, 0.9 - 0.01 * i))


def test_frames_that_look_alike_count_as_one():
    # 20 recordings, 14 of them found: as one picture each, or as five equal frames each.
    single = [shot(i % 10 < 7, i) for i in range(20)] + [
        (truth(), found((A, KNIFE, 0.8))),
        (truth(), found()),
    ]
    frames = [pair for pair in single for _ in range(5)]
    names = [f"video {i}" for i in range(22) for _ in range(5)]
    truths, detections = zip(*single, strict=True)
    singly = intervals.bootstrap_intervals(truths, detections, score_threshold=0.5, draws=300)
    truths, detections = zip(*frames, strict=True)
    whole = intervals.bootstrap_intervals(truths, detections, score_threshold=0.5, draws=300, groups=names)
    assert whole.keys() == singly.keys() == {
        "map", "map_50", "ap/pistol", "ap50/pistol", "image_recall", "false_alarms_per_1000",
    }  # fmt: skip
    for key, span in whole.items():
        assert (span.low, span.high) == pytest.approx((singly[key].low, singly[key].high)), key
    as_pictures = intervals.bootstrap_intervals(truths, detections, score_threshold=0.5, draws=300)
    assert as_pictures["ap50/pistol"].high - as_pictures["ap50/pistol"].low < 0.6 * (
        whole["ap50/pistol"].high - whole["ap50/pistol"].low
    )  # the square root of 5, about


def test_interval_of_recordings_worked_out():
    # Two recordings of which one alarms throughout: drawing two of two gives 0, 1/2 or 1, each end 1/4.
    truths = [truth((A, PISTOL))] * 7
    detections = [found((A, PISTOL, 0.9))] * 4 + [found()] * 3
    groups = ["a"] * 4 + ["b"] * 3
    span = intervals.bootstrap_intervals(truths, detections, score_threshold=0.5, groups=groups)[
        "image_recall"
    ]
    assert (span.low, span.high) == (0, 1)


def test_recordings_of_one_picture_are_pictures():
    truths, detections = random_split(8, images=30)
    names = [f"z{30 - i}" for i in range(30)]
    by_name = intervals.bootstrap_intervals(truths, detections, score_threshold=0.5, draws=50, groups=names)
    assert by_name == intervals.bootstrap_intervals(truths, detections, score_threshold=0.5, draws=50)


def test_one_recording_says_nothing_of_others():
    truths, detections = random_split(9, images=30)
    one = ["a"] * 30
    assert intervals.bootstrap_intervals(truths, detections, score_threshold=0.5, draws=20, groups=one) == {}
    report = build_report(truths, detections, groups=one, draws=20)
    assert report.recordings == 1
    assert any("one recording (a)" in note for note in report.notes)


def test_all_alike_in_two_recordings_is_wilsons_interval_of_two():
    # 1.96^2 / (2 + 1.96^2) from the edge, however many frames.
    truths, detections = [truth()] * 100, [found()] * 100
    groups = ["a"] * 60 + ["b"] * 40
    spans = intervals.bootstrap_intervals(truths, detections, score_threshold=0.5, draws=20, groups=groups)
    assert spans["false_alarms_per_1000"].high == pytest.approx(657.6, abs=0.1)


def test_a_recording_for_every_image_or_a_sentence():
    with pytest.raises(ValueError, match="one group per image: 2 images, 1 groups"):
        intervals.bootstrap_intervals([truth()] * 2, [found()] * 2, score_threshold=0.5, groups=["a"])


def test_intervals_are_the_same_again_and_leave_out_what_has_no_truth():
    truths, detections = [truth((A, PISTOL)), truth((B, PISTOL))], [found((A, PISTOL, 0.9)), found()]
    first = intervals.bootstrap_intervals(truths, detections, score_threshold=0.5, draws=50)
    assert first == intervals.bootstrap_intervals(truths, detections, score_threshold=0.5, draws=50)
    assert first.keys() == {"map", "map_50", "ap/pistol", "ap50/pistol", "image_recall"}


# --- the report -------------------------------------------------------------------------------------


def test_report_counts_at_the_models_operating_point():
    point = choose_operating_point(ALARM_TRUTHS, ALARM_FOUND, max_false_alarms_per_1000=250)
    result = build_report(
        ALARM_TRUTHS, ALARM_FOUND, names=list("abcdefghi"), operating_point=point, split="test", draws=20
    )
    assert (result.title, result.images, result.negatives) == ("local test", 9, 1)
    assert result.measured.split == "test"
    assert result.measured.false_alarms_per_1000 == 250
    pistol = result.classes[0]
    assert (pistol.boxes, pistol.images, pistol.right, pistol.detections) == (5, 5, 2, 3)
    assert pistol.precision == pytest.approx(2 / 3)
    assert pistol.recall == 0.4
    assert (result.classes[3].ap, result.classes[3].recall, result.classes[3].precision) == (None, None, None)
    assert [
        (cell.called_weapon, cell.called_lookalike) for cell in result.lookalikes if cell.weapon == "any"
    ][-1] == (1, 1)
    assert result.published == {}


def test_worst_images_come_first_and_say_what_is_wrong():
    point = choose_operating_point(ALARM_TRUTHS, ALARM_FOUND, max_false_alarms_per_1000=250)
    result = build_report(ALARM_TRUTHS, ALARM_FOUND, names=list("abcdefghi"), operating_point=point, draws=20)
    assert [one.name for one in result.worst] == ["b", "d", "e", "f", "h"]
    assert [one.problems for one in result.worst] == [
        ("knife 0.80 is a pistol",),
        ("pistol missed",),
        ("smartphone 0.99 is a pistol",),
        ("pistol 0.70 is a smartphone",),
        ("smartphone missed",),
    ]
    assert result.best[0].quality == 1
    assert all(not one.problems for one in result.best[:3])
    assert result.worst[2].found[0].label == "smartphone"


@pytest.mark.parametrize(
    ("truths", "detections", "note"),
    [
        ([truth((A, PISTOL))], [found((A, PISTOL, 0.9))], "free of weapons, so false alarms could not be"),
        ([truth((A, BILLETE))], [found((A, BILLETE, 0.9))], "No image here shows a weapon"),
        (ALARM_TRUTHS, ALARM_FOUND, "Only 4 images are free of weapons: one false alarm more or less"),
        (ALARM_TRUTHS, ALARM_FOUND, "smaller than 32 x 32 pixels"),
        (ALARM_TRUTHS, ALARM_FOUND, "chosen on these very images"),
        ([truth((A, PISTOL))], [found()], "found nothing right at any score"),
    ],
)
def test_report_says_what_its_figures_cannot_tell(truths, detections, note):
    assert any(note in said for said in build_report(truths, detections, draws=5).notes)


def test_only_official_images_stand_beside_the_published_figures():
    result = build_report(ALARM_TRUTHS, ALARM_FOUND, split="test", official=True, draws=5)
    assert result.title == "official test"
    assert result.published["map"] == 0.6765


def test_the_card_keeps_the_curves_and_tables_of_a_report():
    report = build_report(ALARM_TRUTHS, ALARM_FOUND, split="test", draws=5)
    tables = card_tables(report)
    assert tables is not None
    assert tables.confusion == report.confusion
    assert len(tables.lookalikes) == len(report.lookalikes) == 15
    for result in report.classes:
        kept = [(point.recall, point.precision) for point in tables.precision_recall.get(result.name, ())]
        assert set(kept) <= {(point.recall, point.precision) for point in result.curve}
        assert bool(kept) == bool(result.curve)


def test_flat_metrics_are_finite_and_named_by_split():
    flat = flat_metrics(build_report([truth((A, PISTOL))], [found()], split="test", draws=5))
    assert flat["test/map"] == 0
    assert flat["test/alarm/image_recall"] == 0
    assert "test/alarm/false_alarms_per_1000" not in flat  # there is no weapon-free image
    assert "test/lookalike_alarm_rate" not in flat  # nor a look-alike
    assert all(np.isfinite(value) for value in flat.values())
    assert {key.split("/")[0] for key in flat} == {"test"}


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="at least one image in the val split, got none"):
        build_report([], [])
