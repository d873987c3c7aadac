"""The report on disk: all of it there, readable again, self-contained, and nothing in it runs."""

from __future__ import annotations

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as PillowImage

import metrics
from detection import detections
from detection.detections import WEAPONS, Detections, GroundTruth
from evaluation import report as reports
from evaluation import results

A, B = (10, 10, 60, 50), (70, 10, 110, 80)
PISTOL, SMARTPHONE = 1, 5
PICTURE = np.full((90, 120, 3), 128, np.uint8)


def one_image(box, label, score=None):
    boxes, labels = np.array([box], np.float32), np.array([label], np.int64)
    return (
        GroundTruth(boxes, labels)
        if score is None
        else Detections(boxes, np.array([score], np.float32), labels)
    )


NOTHING = GroundTruth(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
TRUTHS = [one_image(A, PISTOL), one_image(A, SMARTPHONE), NOTHING]
FOUND = [one_image(A, PISTOL, 0.9), one_image(A, PISTOL, 0.95), Detections.empty()]


@pytest.fixture(scope="module")
def result():
    names = ["gun", "phone <script>alert(1)</script>", "empty"]
    return results.build_report(TRUTHS, FOUND, names=names, split="test", model="folder & co", draws=20)


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    """A report with pictures, written once: drawing plots takes a second."""
    root = tmp_path_factory.mktemp("report")
    PillowImage.fromarray(PICTURE).save(root / "picture.png")
    samples = [SimpleNamespace(image_path=root / "picture.png")] * len(TRUTHS)
    return reports.write_report(result, root / "new" / "folder", samples).parent


def page_of(some_report):
    """The page without plots."""
    plots = ("alarm", "precision_recall", "classes", "reliability")
    return reports.render_page(some_report, {f"plots/{name}.png": b"" for name in plots}, {})


def test_report_is_json_plots_examples_and_one_page(result, folder):
    assert {path.name for path in folder.iterdir()} == {
        "report.html", "report.json", "plots", "examples", "suspected_labels.csv",
    }  # fmt: skip
    assert {path.stem for path in (folder / "plots").iterdir()} == {
        "alarm", "precision_recall", "classes", "confusion", "errors", "reliability",
    }  # fmt: skip
    for path in (*(folder / "plots").iterdir(), *(folder / "examples").iterdir()):
        assert min(PillowImage.open(path).size) > 200
    assert len(list((folder / "examples").iterdir())) == len(result.worst) + len(result.best)


def test_json_is_strict_and_reads_back_as_the_same_report(result, folder):
    json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity
    assert reports.read_report(folder) == result
    assert reports.read_report(folder / "report.json") == result


def test_page_needs_no_other_file_and_runs_nothing(result, folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert len(sources) == 4 + len(result.worst) + len(result.best)
    assert all(source.startswith("data:image/") for source in sources)
    assert "<script" not in page
    assert "phone &lt;script&gt;" in page


def test_page_names_split_model_and_classes_for_people(result):
    page = page_of(result)
    assert "Weapon detector, local test" in page
    assert "folder &amp; co" in page
    assert "banknote" in page
    assert "pistol 0.95 is a smartphone" in page
    assert "1 of 1" in page  # the one smartphone is taken for a pistol
    assert "published" not in page.split("<body>")[1]


def test_page_says_what_the_intervals_drew():
    drew = {}
    for groups in (None, ["street", "kitchen", "kitchen"]):
        page = page_of(results.build_report(TRUTHS, FOUND, groups=groups, draws=5))
        drew[bool(groups)] = "the true intervals are wider" in page, "drawing 2 recordings" in page
    assert drew == {False: (True, False), True: (False, True)}


def test_page_of_a_model_that_finds_nothing_on_images_without_objects(tmp_path):
    nothing = results.build_report([NOTHING], [Detections.empty()], draws=5)
    page = reports.write_report(nothing, tmp_path).read_text(encoding="utf-8")  # its plots are empty too
    assert "There is no truth box in these images" in page
    assert "No image here shows a weapon" in page
    assert "nan" not in re.sub(r"data:image/[^\"]*", "", page).lower().replace("panoptic", "")


def test_page_shows_changed_images_latency_and_the_originals_figures(result):
    full = dataclasses.replace(
        result,
        published=metrics.ORIGINAL_PUBLISHED,
        original_subset={"images": 830.0, "map": 0.5},
        latency=detections.Latency(3, 4.0, 123.4, 150.0, "a machine"),
        robustness=(results.SliceResult("half size", 0.25, 0.5, 0.75, 10.0),),
    )
    page = page_of(full)
    for text in ("0.6765", "the 830 images", "123 ms", "a machine", "half size", "0.250"):
        assert text in page, text


def test_example_marks_what_was_not_found(result):
    missed = dataclasses.replace(result.best[0], found=(), truth=(results.ExampleBox("pistol", B),))
    drawn, untouched = (
        reports.draw_example(PICTURE, one, WEAPONS)
        for one in (
            missed,
            dataclasses.replace(missed, truth=(results.ExampleBox("pistol", B, kind="correct"),)),
        )
    )
    assert (drawn != untouched).any()
    assert (untouched == 128).all()


def test_example_of_a_large_picture_keeps_boxes_on_their_objects(result):
    image = np.zeros((1500, 2000, 3), np.uint8)
    one = dataclasses.replace(
        result.best[0],
        truth=(),
        found=(results.ExampleBox("knife", (1000, 750, 1900, 1400), 0.9, "correct"),),
    )
    drawn = reports.draw_example(image, one, WEAPONS)
    assert drawn.shape == (360, 480, 3)
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert columns.max() == pytest.approx(1900 * 0.24, abs=5)
    assert rows.max() == pytest.approx(1400 * 0.24, abs=5)


def test_a_picture_that_is_gone_costs_its_example_only(result, tmp_path):
    gone = [SimpleNamespace(image_path=tmp_path / "gone.jpg")] * len(TRUTHS)
    assert reports.draw_examples(result, gone) == {}
    assert "phone &lt;script&gt;" in page_of(result)


def test_unwritable_folder_is_a_sentence(result, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    for attempt in (
        lambda: reports.check_writable(blocked),
        lambda: reports.write_report(result, blocked / "x"),
    ):
        with pytest.raises(
            reports.ReportError, match=r"cannot write the report into .*Choose another folder"
        ):
            attempt()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "expected a report at"), ("{}", "not a report of this version")]
)
def test_what_is_no_report_is_named(content, message, tmp_path):
    if content:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(reports.ReportError, match=message):
        reports.read_report(tmp_path)
