"""Data written in another layout is read back to the same samples, on the same sides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import other_layouts as others
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from detection import imaging
from detection.detections import CLASS_NAMES
from photosets import convert, synthetic
from photosets.annotations import annotate
from photosets.classes import class_rule
from photosets.coco import CocoPicture
from photosets.samples import SPLITS, EmptySplit, UnknownClass, fingerprint, read_samples
from photosets.voc import annotation_xml
from photosets.yolo import YoloFile

ROOT = Path(__file__).parents[2]
FORMATS = ("voc", "coco", "yolo")


def described(root: Path, **options: Any) -> dict[str, list[tuple[Any, ...]]]:
    """All that training sees of the three splits, and their fingerprints."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for split in SPLITS:
        samples = read_samples([root], split, **options)
        found[split] = [
            (s.image_path.name, s.size_wh, s.recording, s.difficult, s.labels.tolist(), s.boxes.tolist())
            for s in samples
        ]
        found[f"{split} fingerprint"] = [(fingerprint(samples),)]
    return found


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "set"
    synthetic.draw_synthetic(root, train=60, test=8, seed=0)
    odd = [("pistol", (0.1, 0.7, 33.333332, 59.99999)), ("knife", (1 / 3, 10, 100, 80))]
    names, boxes = zip(*odd, strict=True)
    others.picture(root / "images/clip_frame_1.jpg")
    synthetic.write_voc(root / "annotations/xmls/clip_frame_1.xml", "", (100, 80), names, boxes)
    others.picture(root / "images/on side.jpg", orientation=6)  # annotated before it was turned
    synthetic.write_voc(root / "annotations/xmls/on side.xml", "", (100, 80), names, boxes)
    return root


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_two_conversions_give_the_same_samples_and_fingerprints(drawn, tmp_path, first, second):
    convert.convert([drawn], tmp_path / "one", first)
    convert.convert([tmp_path / "one"], tmp_path / "two", second)
    assert described(tmp_path / "one") == described(drawn)
    assert described(tmp_path / "two") == described(drawn)


@pytest.mark.parametrize("to", FORMATS)
def test_a_validation_split_of_its_own_stays_one(tmp_path, to):
    for side in ("train", "valid", "test"):
        others.coco(tmp_path / "set", side)
    done = convert.convert([tmp_path / "set"], tmp_path / "new", to)
    assert done.pictures == {"train": 2, "val": 2, "test": 2}
    assert [str(found) for found in done.report.found] == [f"{tmp_path}/set: COCO, 2 classes, 6 pictures"]
    assert described(tmp_path / "new") == described(tmp_path / "set")


def test_difficult_objects_stay_so_but_for_yolo(tmp_path):
    others.picture(tmp_path / "set/images/a.jpg")
    xml = annotation_xml("a.jpg", others.SIZE_WH, ["pistol"], [(1, 2, 30, 40)], [True])
    others.written(tmp_path / "set/annotations/xmls/a.xml", xml)
    for to, difficult in (("voc", 1), ("coco", 1), ("yolo", 0)):
        convert.convert([tmp_path / "set"], tmp_path / to, to)  # type: ignore[arg-type]
        [sample] = read_samples([tmp_path / to], "train", val_fraction=0)
        assert sample.difficult == difficult


def test_pictures_are_the_same_files_or_copies_of_them(drawn, tmp_path, monkeypatch):
    convert.convert([drawn], tmp_path / "linked", "coco")
    name = "clip_frame_1.jpg"
    assert (tmp_path / "linked/train" / name).samefile(drawn / "images" / name)

    def other_disk(*paths: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    convert.convert([drawn], tmp_path / "copied", "coco")
    copy = tmp_path / "copied/train" / name
    assert not copy.samefile(drawn / "images" / name)
    assert copy.read_bytes() == (drawn / "images" / name).read_bytes()


def test_what_is_written_is_what_others_read(drawn, tmp_path):
    """COCO by pycocotools, YOLO's list as its trainers want it."""
    from pycocotools.coco import COCO

    convert.convert([drawn], tmp_path / "coco", "coco")
    convert.convert([drawn], tmp_path / "yolo", "yolo")
    truth = COCO(str(tmp_path / "coco/train/_annotations.coco.json"))
    [image] = [image for image in truth.dataset["images"] if image["file_name"] == "on side.jpg"]
    assert (image["width"], image["height"]) == (80, 100)  # upright
    objects = truth.loadAnns(truth.getAnnIds(imgIds=[image["id"]]))
    assert [truth.cats[entry["category_id"]]["name"] for entry in objects] == ["pistol", "knife"]
    document = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())
    assert document["names"] == dict(enumerate(CLASS_NAMES[1:]))
    assert document["val"] == document["train"] == "train/images"
    assert len(list((tmp_path / "yolo" / document["test"]).iterdir())) == 8


def test_names_are_those_of_the_classes_and_pictures_in_folders_get_the_folders_name(tmp_path):
    images = [{"id": n, "file_name": f"clip_{n}/frame_1.jpg"} for n in (1, 2)]
    for entry in images:
        others.picture(tmp_path / "set" / str(entry["file_name"]))
    entries = [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 40]}]
    document = others.coco_document(
        images=images, annotations=entries, categories=[{"id": 3, "name": "Hand Gun"}]
    )
    others.written(tmp_path / "set/all.json", json.dumps(document))
    convert.convert([tmp_path / "set"], tmp_path / "new", "voc", classes="pistol=handgun")
    [first, second] = read_samples([tmp_path / "new"], "train", val_fraction=0)
    assert (first.name, first.recording, first.labels.tolist()) == ("clip_1_frame_1", "clip_1_frame_", [1])
    assert (second.name, second.labels.tolist()) == ("clip_2_frame_1", [])


def test_what_cannot_be_used_is_counted_and_nothing_is_half_written(tmp_path):
    others.coco(tmp_path / "set")
    others.picture(tmp_path / "set/train/c.jpg")
    (tmp_path / "set/train/a.jpg").write_bytes(b"?")
    done = convert.convert([tmp_path / "set"], tmp_path / "new", "yolo")
    assert [problem.kind for problem in done.report.problems] == [
        "unreadable image",
        "image without annotation",
    ]
    assert done.pictures.total() == 1
    assert convert.convert([tmp_path / "set"], tmp_path / "all", "yolo", negatives=True).pictures.total() == 2
    with pytest.raises(convert.UnusableOutput, match="expected a new or empty folder"):
        convert.convert([tmp_path / "set"], tmp_path / "new", "coco")
    others.coco(tmp_path / "odd", categories=[{"id": 3, "name": "gun"}, {"id": 17, "name": "axe"}])
    with pytest.raises(UnknownClass, match="--classes 'pistol=axe,gun'"):
        convert.convert([tmp_path / "odd"], tmp_path / "never", "voc")
    assert not (tmp_path / "never").exists()
    others.coco(tmp_path / "more")
    with pytest.raises(convert.UnusableOutput, match="would get one name"):
        convert.convert([tmp_path / "set", tmp_path / "more"], tmp_path / "never", "voc")
    (tmp_path / "bare/images").mkdir(parents=True)
    with pytest.raises(EmptySplit, match="no usable picture"):
        convert.convert([tmp_path / "bare"], tmp_path / "never", "voc", negatives=True)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "dataset.py"), "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_says_what_was_found_and_written_wherever_its_flags_stand(tmp_path):
    others.coco(tmp_path / "set", categories=[{"id": 3, "name": "gun"}, {"id": 17, "name": "dog"}])
    done = run(tmp_path / "set", "--to", "yolo", tmp_path / "new", "--classes", "-dog pistol=gun")
    assert done.returncode == 0, done.stderr
    for said in ("COCO, 2 classes, 2 pictures", "names left out: 1", "Wrote 2 pictures to", "train 2"):
        assert said in done.stdout
    done = run("--to=yolo", "--classes", "-dog", tmp_path / "set", tmp_path / "other")
    assert done.returncode == 1
    assert "error: expected names of objects that mean one of" in done.stderr
    done = run(tmp_path / "set", "--to", "voc")
    assert done.returncode == 2
    assert "at least 2 items" in done.stderr


# --- numbers ---------------------------------------------------------------------------------------------


@st.composite
def sizes_and_boxes(draw):
    """A picture's size and a box of a pixel or more in it, with any digits."""
    width, height = draw(st.integers(2, 12_000)), draw(st.integers(2, 12_000))
    x1, y1 = draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))
    return (width, height), [x1, y1, draw(st.floats(x1 + 1, width)), draw(st.floats(y1 + 1, height))]


@settings(max_examples=300, deadline=None)
@given(sizes_and_boxes())
def test_a_box_returns_from_coco_to_the_last_digit_training_sees(drawn_box):
    size_wh, (x1, y1, x2, y2) = drawn_box
    entry = json.loads(json.dumps({"category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}))
    source = CocoPicture(Path("a.json"), "a.jpg", size_wh, {"1": "pistol"}, [entry])
    [box] = annotate(source, class_rule(), imaging.ImageHeader(size_wh, 1)).boxes
    np.testing.assert_allclose(box, [x1, y1, x2, y2], rtol=0, atol=1e-9)


@settings(max_examples=300, deadline=None)
@given(sizes_and_boxes(), st.sampled_from([17, 6]))
def test_a_box_returns_from_yolo_within_a_thousandth_of_a_pixel(tmp_path_factory, drawn_box, digits):
    """With the digits written here; with the six that most tools write, within rounding and inside."""
    size_wh, (x1, y1, x2, y2) = drawn_box
    width, height = size_wh
    shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    path = tmp_path_factory.getbasetemp() / "box.txt"
    form = ".17g" if digits == 17 else ".6f"
    path.write_text(" ".join(["0", *(format(share, form) for share in shares)]))
    written = YoloFile(path, {0: "pistol"}, "data.yaml").read(imaging.ImageHeader(size_wh, 1))
    tolerance = 1e-9 if digits == 17 else 1e-6 * max(size_wh)
    np.testing.assert_allclose(written.boxes[0], [x1, y1, x2, y2], rtol=0, atol=tolerance)
    np.testing.assert_array_equal(written.boxes[0], np.clip(written.boxes[0], 0, [*size_wh, *size_wh]))
