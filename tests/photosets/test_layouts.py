"""Other people's layouts: found by looking, read to the same samples, what is wrong said in a sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import other_layouts as others
import pytest
from PIL import Image as PillowImage

from detection import imaging
from photosets import layout, packing, synthetic
from photosets.report import DatasetReport
from photosets.samples import SPLITS, Sample, fingerprint, read_samples
from photosets.unpacking import DamagedPack

ROOT = Path(__file__).parents[2]
PLACES = {"path": "images", "bbox": [1, 1, 5, 5]}


def read_all(*roots: Path, split: Any = "train", **options: Any) -> tuple[list[Sample], DatasetReport]:
    report = DatasetReport()
    return read_samples(roots, split, val_fraction=0, report=report, **options), report


def kinds(report: DatasetReport) -> Counter[str]:
    return Counter(problem.kind for problem in report.problems)


def details(report: DatasetReport) -> str:
    return "\n".join(map(str, report.problems))


def coco_of_challenge(root: Path) -> None:
    others.coco(root, "images/train2017")
    (root / "annotations").mkdir()
    (root / "images/train2017/_annotations.coco.json").rename(root / "annotations/instances_train2017.json")


def coco_in_one_file(root: Path) -> None:
    document = others.coco_document()
    for entry in document["images"]:
        entry["file_name"] = f"images/{entry['file_name']}"
    others.coco(root, "images").unlink()
    others.written(root / "result.json", json.dumps(document))


def coco_of_cvat(root: Path) -> None:
    others.coco(root, "images/default")
    (root / "annotations").mkdir()
    (root / "images/default/_annotations.coco.json").rename(root / "annotations/instances_default.json")
    document = others.coco_document()
    for entry in document["images"]:
        entry["file_name"] = f"default/{entry['file_name']}"
    (root / "annotations/instances_default.json").write_text(json.dumps(document))


def yolo_with_classes(root: Path) -> None:
    others.yolo(root, "images", "labels", data="")
    others.written(root / "classes.txt", "pistol\nknife\n")
    others.written(root / "notes.json", '{"categories": []}')


def yolo_beside(root: Path) -> None:
    others.yolo(root, ".", ".", data="")
    others.written(root / "classes.txt", "pistol\nknife\n")


def yolo_of_darknet(root: Path) -> None:
    others.yolo(root, "obj_train_data", "obj_train_data", data="")
    others.written(root / "obj.names", "pistol\nknife\n")
    others.written(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    others.written(root / "train.txt", "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n")


def yolo_of_cvat(root: Path) -> None:
    data = "path: .\ntrain: train.txt\nnames: {0: pistol, 1: knife}"
    others.yolo(root, "images/train", "labels/train", data)
    others.written(root / "train.txt", "data/images/train/a.jpg\ndata/images/train/b.jpg\n")


def voc_of_challenge(root: Path) -> None:
    others.voc(root / "JPEGImages", root / "Annotations")
    others.written(root / "ImageSets/Main/train.txt", "a\nb\n")


LAYOUTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "Roboflow's COCO": ("COCO", others.coco),
    "the challenge's COCO": ("COCO", coco_of_challenge),
    "CVAT's COCO": ("COCO", coco_of_cvat),
    "one file of COCO, as Label Studio's": ("COCO", coco_in_one_file),
    "Roboflow's YOLO": ("YOLO", others.yolo),
    "Ultralytics's YOLO": ("YOLO", lambda root: others.yolo(root, "images/train", "labels/train")),
    "Label Studio's YOLO": ("YOLO", yolo_with_classes),
    "LabelImg's YOLO": ("YOLO", yolo_beside),
    "CVAT's YOLO": ("YOLO", yolo_of_darknet),
    "CVAT's YOLO of Ultralytics": ("YOLO", yolo_of_cvat),
    "Roboflow's VOC": ("Pascal VOC", lambda root: others.voc(root / "train")),
    "LabelImg's VOC": ("Pascal VOC", others.voc),
    "CVAT's VOC": ("Pascal VOC", voc_of_challenge),
    "Label Studio's VOC": ("Pascal VOC", lambda root: others.voc(root / "images", root / "Annotations")),
    "CVAT's own": ("CVAT", others.cvat),
    "Label Studio's own": ("Label Studio", others.label_studio),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_samples_and_says_what_it_is(tmp_path, name):
    kind, make = LAYOUTS[name]
    make(tmp_path / "set")
    [first, second], report = read_all(tmp_path / "set")
    np.testing.assert_array_equal(
        first.boxes, np.array([[10, 20, 30, 40], [50.5, 20, 70.25, 60]], np.float32)
    )
    assert (first.name, first.labels.tolist(), first.size_wh) == ("a", [1, 2], (100, 80))
    assert (second.name, second.boxes.shape, second.root) == ("b", (0, 4), tmp_path / "set")
    assert report.problems == []
    assert [str(found) for found in report.found] == [f"{tmp_path}/set: {kind}, 2 classes, 2 pictures"]


def test_an_archive_unpacked_into_a_folder_of_its_own_is_found(tmp_path):
    others.coco(tmp_path / "download" / "weapons.v1i.coco")
    assert len(read_all(tmp_path / "download")[0]) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda root, side: others.coco(root, side),
        lambda root, side: others.yolo(root, f"{side}/images", f"{side}/labels", data=""),
        lambda root, side: others.voc(root / side),
    ],
    ids=["COCO", "YOLO", "Pascal VOC"],
)
def test_a_root_with_a_validation_split_keeps_it_whole(tmp_path, make):
    for side in ("train", "valid", "test"):
        make(tmp_path, side)
    if (tmp_path / "train/labels").is_dir():
        others.written(
            tmp_path / "data.yaml",
            "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [pistol, knife]\n",
        )
    sides = {split: read_all(tmp_path, split=split) for split in SPLITS}
    for split, (samples, _) in sides.items():
        folder = "valid" if split == "val" else split
        assert {sample.image_path.relative_to(tmp_path).parts[0] for sample in samples} == {folder}
        assert [sample.name for sample in samples] == ["a", "b"]
    [division] = sides["train"][1].divisions
    assert "its own folders say which pictures validate: 2 of 4 pictures (50.0%) to val" in str(division)
    assert division.warnings == []


def test_without_a_validation_split_recordings_divide_the_root_as_ever(tmp_path):
    images = [{"id": n, "file_name": f"frame_{n:04}.jpg", "width": 100, "height": 80} for n in range(60)]
    for entry in images:
        others.picture(tmp_path / "train" / entry["file_name"])
    others.coco(tmp_path, images=images, annotations=[])
    for stem in "ab":
        (tmp_path / "train" / f"{stem}.jpg").unlink()
    report = DatasetReport()
    assert len(read_samples([tmp_path], "val", report=report)) == 7
    assert "cut in time" in str(report.divisions[0])


def test_one_file_of_coco_may_say_the_side_of_each_picture(tmp_path):
    document = others.coco_document()
    document["images"][1]["split"] = "valid"
    others.coco(tmp_path, "images", images=document["images"]).rename(tmp_path / "all.json")
    assert [sample.name for sample in read_all(tmp_path)[0]] == ["a"]
    assert [sample.name for sample in read_all(tmp_path, split="val")[0]] == ["b"]


# --- class names -----------------------------------------------------------------------------------------


def named(root: Path, *names: str) -> None:
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    objects = [
        {"image_id": 7, "category_id": number, "bbox": [10 * number, 1, 9, 9]} for number in range(len(names))
    ]
    others.coco(root, categories=categories, annotations=objects)


def test_names_are_mapped_and_left_out_as_the_rule_says(tmp_path):
    named(tmp_path, "Hand Gun", "gun", "Blade", "other", "KNIFE")
    [sample, _], report = read_all(tmp_path, classes="pistol=handgun,gun knife=blade -other")
    assert sample.labels.tolist() == [1, 1, 2, 2]
    assert kinds(report) == {"names left out": 1}
    assert "a.jpg: 1 objects called other" in details(report)


def test_a_picture_of_which_every_object_is_left_out_shows_none(tmp_path):
    named(tmp_path, "dog", "cat")
    [sample, _], report = read_all(tmp_path, classes="-dog,cat")
    assert (sample.name, len(sample.labels)) == ("a", 0)
    assert report.errors == []


@pytest.mark.parametrize(
    ("name", "label"),
    [("Banknote", 3), ("WALLET", 4), ("Smart Phone", 5), ("bank_card", 6), ("Pistol", 1), ("tarjeta", 6)],
)
def test_case_spaces_and_the_english_names_need_no_rule(tmp_path, name, label):
    named(tmp_path, name)
    assert read_all(tmp_path)[0][0].labels.tolist() == [label]


# --- pictures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("drawn_on", ["stored", "upright"])
def test_coco_boxes_of_photographs_taken_on_their_side_end_on_the_object(tmp_path, orientation, drawn_on):
    """A white patch is found again by its box; the size that COCO states says how the annotator saw it."""
    stored = np.zeros((80, 100, 3), np.uint8)
    stored[16:32, 8:40] = 255
    path = others.picture(tmp_path / "train/a.png", orientation=orientation)
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    PillowImage.fromarray(stored).save(path, exif=exif)
    upright = imaging.decode_image(path.read_bytes())
    rows, columns = np.nonzero(upright[:, :, 0])
    patch = [int(n) for n in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    before = drawn_on == "stored" and orientation >= 5
    x1, y1, x2, y2 = (8, 16, 40, 32) if before else patch
    size = (100, 80) if before else upright.shape[1::-1]
    document = others.coco_document(
        images=[{"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}],
        annotations=[{"image_id": 1, "category_id": 3, "bbox": [x1, y1, x2 - x1, y2 - y1]}],
    )
    others.written(tmp_path / "train/_annotations.coco.json", json.dumps(document))
    [sample], report = read_all(tmp_path)
    np.testing.assert_array_equal(sample.boxes, [patch])
    assert kinds(report) == ({"turned boxes": 1} if before else {})


def test_yolo_boxes_are_of_the_upright_picture(tmp_path):
    others.yolo(tmp_path)
    others.picture(tmp_path / "train/images/a.jpg", orientation=6)
    [sample, _], report = read_all(tmp_path)
    assert sample.size_wh == (80, 100)
    np.testing.assert_allclose(sample.boxes[0], [0.1 * 80, 0.25 * 100, 0.3 * 80, 0.5 * 100], rtol=1e-6)
    assert report.problems == []


def test_coco_of_another_size_is_an_error(tmp_path):
    document = others.coco_document()
    document["images"][0] |= {"width": 640, "height": 480}
    others.coco(tmp_path, images=document["images"])
    samples, report = read_all(tmp_path)
    assert [sample.name for sample in samples] == ["b"]
    assert kinds(report) == {"size differs": 1}
    assert "a.jpg: was written for a picture of 640 x 480, this one is 100 x 80" in details(report)


def test_names_of_files_in_folders_tell_recordings_apart(tmp_path):
    images = [{"id": n, "file_name": f"train/clip_{n}/frame_1.jpg"} for n in (1, 2)]
    for entry in images:
        others.picture(tmp_path / str(entry["file_name"]))
    others.written(tmp_path / "all.json", json.dumps(others.coco_document(images=images, annotations=[])))
    assert [sample.recording for sample in read_all(tmp_path)[0]] == ["clip_1_frame_", "clip_2_frame_"]


# --- what is wrong -----------------------------------------------------------------------------------


def test_two_layouts_in_one_folder_are_refused_by_name(tmp_path):
    others.coco(tmp_path)
    others.yolo(tmp_path)
    with pytest.raises(layout.WrongLayout) as caught:
        read_all(tmp_path)
    for part in ("COCO (train/_annotations.coco.json) and YOLO (data.yaml)", "keep the annotations of one"):
        assert part in str(caught.value)


def test_xml_and_text_labels_beside_the_same_pictures_are_two_layouts(tmp_path):
    others.voc(tmp_path)
    yolo_beside(tmp_path)
    with pytest.raises(layout.WrongLayout, match=r"Pascal VOC \(a.xml\) and YOLO \(classes.txt\)"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"bbox": [30, 40, -20, -20]}, "swapped corners", "put in order"),
        ({"bbox": [30, 40, 0, 20]}, "dropped box", "covers no pixel"),
        ({"bbox": [30, 40, 200, 20]}, "clipped box", "reaches outside"),
        ({"bbox": [30, 40, 20]}, "broken annotation", "not x, y, width, height"),
        ({"bbox": [30, 40, 20, None]}, "broken annotation", "number that is none"),
        ({"bbox": [30, 40, 20, float("nan")]}, "broken annotation", "no finite number"),
        ({"category_id": 5}, "broken annotation", "category 5, which categories does not list (0, 3, 17)"),
        ({"image_id": 8}, "missing image", "1 objects are of image 8, which images does not list"),
        ({"bbox": [], "segmentation": [[10, 20, 30, 20, 30, 40]]}, "outlines", "1 objects have an outline"),
        ({"segmentation": {"counts": "abc"}, "iscrowd": 1}, "masks", "1 objects have a mask"),
        ({"bbox": None, "segmentation": {"counts": [1, 2]}}, "dropped box", "no bbox and a mask"),
        ({"bbox": None, "segmentation": None}, "dropped box", "no bbox and no outline"),
    ],
)  # fmt: skip
def test_coco_objects_that_are_odd_are_repaired_or_named(tmp_path, changed, kind, said):
    document = others.coco_document()
    document["annotations"][0] |= changed
    others.coco(tmp_path, annotations=document["annotations"])
    samples, report = read_all(tmp_path)
    assert kinds(report) == {kind: 1}
    assert said in details(report)
    assert [sample.name for sample in samples] == (["b"] if kind == "broken annotation" else ["a", "b"])
    if kind in ("swapped corners", "outlines", "masks"):
        np.testing.assert_array_equal(samples[0].boxes[0], [10, 20, 30, 40])
    if kind in ("dropped box", "missing image"):
        assert samples[0].labels.tolist() == [2]


def test_a_picture_whose_only_object_is_a_mask_does_not_become_a_negative(tmp_path):
    mask = {"image_id": 7, "category_id": 3, "segmentation": {"counts": [1, 2]}}
    others.coco(tmp_path, annotations=[mask])
    samples, report = read_all(tmp_path)
    assert [sample.name for sample in samples] == ["b"]
    assert kinds(report) == {"dropped box": 1, "no box left": 1}


def test_two_pictures_of_one_id_are_left_out_and_one_picture_listed_twice_is_one(tmp_path):
    document = others.coco_document()
    document["images"][1]["id"] = 7
    others.coco(tmp_path, images=[*document["images"], {"id": 11, "file_name": "c.jpg"}])
    others.picture(tmp_path / "train/c.jpg")
    samples, report = read_all(tmp_path)
    assert [sample.name for sample in samples] == ["c"]
    assert kinds(report) == {"broken annotation": 2}
    assert "a.jpg: 2 pictures have the id 7" in details(report)
    document = others.coco_document()
    twice = [*document["images"], {**document["images"][0], "id": 12}]
    document["annotations"][1]["image_id"] = 12
    others.coco(
        tmp_path, images=[*twice, {"id": 11, "file_name": "c.jpg"}], annotations=document["annotations"]
    )
    samples, report = read_all(tmp_path)
    assert [(sample.name, sample.labels.tolist()) for sample in samples] == [
        ("a", [1, 2]),
        ("b", []),
        ("c", []),
    ]
    assert report.problems == []


@pytest.mark.parametrize("name", ["Roboflow's COCO", "Roboflow's YOLO", "CVAT's own", "Label Studio's own"])
def test_pictures_that_are_gone_and_pictures_nobody_annotated_are_named(tmp_path, name):
    LAYOUTS[name][1](tmp_path)
    [path] = tmp_path.rglob("a.jpg")
    others.picture(path.with_name("c.jpg"))
    path.unlink()
    samples, report = read_all(tmp_path)
    assert [sample.name for sample in samples] == ["b"]
    assert kinds(report) == {"missing image": 1, "image without annotation": 1}
    assert [problem.kind for problem in report.errors] == ["missing image"]
    samples, report = read_all(tmp_path, negatives=True)
    assert [sample.name for sample in samples] == ["b", "c"]
    assert kinds(report) == {"missing image": 1}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"images": 3, "annotations": [], "categories": []}', '{"a": 1}']
)
def test_a_list_that_is_no_coco_is_a_sentence(tmp_path, text):
    others.coco(tmp_path).write_text(text)
    with pytest.raises(layout.WrongLayout, match=r"expected (COCO|JSON) in .*_annotations.coco.json"):
        read_all(tmp_path)


@pytest.mark.parametrize("entry", [{"id": 1}, {"id": 1, "file_name": ""}, "a.jpg"])
def test_a_picture_without_name_is_a_sentence(tmp_path, entry):
    others.coco(tmp_path, images=[entry])
    with pytest.raises(layout.WrongLayout, match="expected a file_name for every entry"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("0 0.5 0.5 0.2", "broken annotation", "line 2 has 4 numbers"),
        ("0 0.5 0.5 0.2 0.2 0.91", "broken annotation", "line 2 has 6 numbers, the last a model's score"),
        ("7 0.5 0.5 0.2 0.2", "broken annotation", "line 2 is of class 7, data.yaml names 2 classes, 0 to 1"),
        ("1.5 0.5 0.5 0.2 0.2", "broken annotation", "line 2 is of class 1.5"),
        ("pistol 0.5 0.5 0.2 0.2", "broken annotation", "line 2 has a number that is none"),
        ("0 50 50 20 20", "broken annotation", "line 2 has 50: expected shares"),
        ("0 0.5 0.5 0 0.2", "dropped box", "covers no pixel"),
        ("0 0.5 0.5 -0.2 0.2", "swapped corners", "put in order"),
        ("0 0.95 0.5 0.2 0.2", "clipped box", "reaches outside"),
        ("0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6", "outlines", "1 objects have an outline"),
    ],
)
def test_yolo_lines_that_are_odd_are_repaired_or_named(tmp_path, line, kind, said):
    others.yolo(tmp_path)
    others.written(tmp_path / "train/labels/a.txt", f"1 0.6 0.5 0.2 0.5\n{line}\n")
    samples, report = read_all(tmp_path)
    assert kinds(report) == {kind: 1}
    assert said in details(report)
    assert [sample.name for sample in samples] == (["b"] if kind == "broken annotation" else ["a", "b"])
    if kind == "outlines":
        np.testing.assert_allclose(samples[0].boxes[1], [10, 16, 30, 48], rtol=1e-6)


def test_an_empty_label_file_is_a_negative_and_an_absent_one_needs_the_flag(tmp_path):
    others.yolo(tmp_path)
    (tmp_path / "train/labels/a.txt").unlink()
    samples, report = read_all(tmp_path)
    assert [sample.name for sample in samples] == ["b"]
    assert kinds(report) == {"image without annotation": 1}
    assert len(read_all(tmp_path, negatives=True)[0]) == 2


@pytest.mark.parametrize(
    "data",
    [
        'train: "C:\\Users\\me\\weapons\\train\\images"\nnames: [pistol, knife]',
        "train: ..\\train\\images\nval: ..\\valid\\images\nnames: ['pistol', 'knife']",
        "path: D:\\data\\weapons\ntrain: train\\images\nval:\nnames:\n  0: pistol\n  1: knife",
        "train: ../train/images\nval: ../train/images\nnc: 2\nnames: {'0': pistol, 1: knife}",
        "train: [train/images]\nnames: [pistol, knife]",
        "train: /content/weapons-1/train/images\nnames: [pistol, knife]",
        "nc: 2\nnames: [pistol, knife]",
    ],
)
def test_data_yaml_of_other_machines_is_understood(tmp_path, data):
    others.yolo(tmp_path, data=data)
    samples, report = read_all(tmp_path)
    assert [(sample.name, sample.labels.tolist()) for sample in samples] == [("a", [1, 2]), ("b", [])]
    assert report.problems == []


def test_a_path_that_is_absolute_and_elsewhere_is_followed(tmp_path):
    others.yolo(tmp_path / "pictures", data="")
    others.written(
        tmp_path / "yaml/data.yaml", f"train: {tmp_path}/pictures/train/images\nnames: [pistol, knife]"
    )
    assert len(read_all(tmp_path / "yaml")[0]) == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("train: train/images", "expected the names of the classes in"),
        ("train: train/images\nnames: 2", "expected the names of the classes in"),
        ("train: photographs\nnames: [pistol]", "says train: photographs, which is not in"),
        ("train: [", "expected YAML in"),
        ("- a", "expected names and folders in"),
    ],
)
def test_a_data_yaml_that_cannot_be_used_is_a_sentence(tmp_path, data, said):
    others.yolo(tmp_path, data=data)
    with pytest.raises(layout.WrongLayout, match=said):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("shape", "box", "kind"),
    [
        ('<box label="pistol" xtl="30" ytl="30" xbr="70" ybr="50" rotation="90"/>', (40, 20, 60, 60),
         "rotated box"),
        ('<polygon label="pistol" points="30,30;70,30;70,50"/>', (30, 30, 70, 50), "outlines"),
        ('<ellipse label="pistol" cx="50" cy="40" rx="20" ry="10"/>', (30, 30, 70, 50), "outlines"),
        ('<mask label="pistol" rle="1, 2" left="30" top="30" width="40" height="20"/>', (30, 30, 70, 50),
         "masks"),
        ('<points label="pistol" points="30,30"/>', None, "dropped box"),
        ('<box label="pistol" xtl="30" ytl="30" xbr="70"/>', None, "broken annotation"),
        ('<tag label="pistol"/>', None, None),
    ],
)  # fmt: skip
def test_cvat_shapes_become_boxes_or_are_named(tmp_path, shape, box, kind):
    others.cvat(tmp_path, f'{shape}<box label="knife" xtl="1" ytl="2" xbr="3" ybr="4"/>')
    samples, report = read_all(tmp_path)
    assert kinds(report) == ({kind: 1} if kind else {})
    if kind == "broken annotation":
        assert [sample.name for sample in samples] == ["b"]
    else:
        np.testing.assert_allclose(samples[0].boxes, [*([box] if box else []), (1, 2, 3, 4)])


def test_cvat_of_a_video_is_a_sentence_and_its_subsets_are_sides(tmp_path):
    others.cvat(tmp_path, extra=' subset="Validation"')
    assert [sample.name for sample in read_all(tmp_path, split="val")[0]] == ["a", "b"]
    others.written(tmp_path / "annotations.xml", "<annotations><track id='0' label='pistol'/></annotations>")
    with pytest.raises(layout.WrongLayout, match="is of a video"):
        read_all(tmp_path)


def test_label_studio_finds_pictures_under_the_names_it_gave_them(tmp_path):
    others.label_studio(tmp_path, image="/data/upload/1/1a2b3c4d-a.jpg")
    assert [sample.name for sample in read_all(tmp_path)[0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("result", "kind", "said"),
    [
        (others.labelled("pistol", 50, 50, 20, 10, rotation=90), "rotated box", "turned by 90 degrees"),
        ({"value": {"points": [[10, 20], [30, 20], [30, 40]], "polygonlabels": ["pistol"]}},
         "outlines", "1 objects have an outline"),
        ({"type": "brushlabels", "value": {"rle": [1, 2], "brushlabels": ["pistol"]}}, "dropped box",
         "an object (pistol) is a brushlabels, which has no box"),
        ({**others.labelled("pistol", 1, 1, 9, 9), "image_rotation": 90}, "broken annotation", "by 90"),
        (others.labelled("pistol", 1, 1, 9, 0), "dropped box", "covers no pixel"),
    ],
)  # fmt: skip
def test_label_studio_shapes_become_boxes_or_are_named(tmp_path, result, kind, said):
    others.label_studio(tmp_path, [*others.STUDIO_A[1:], result])
    samples, report = read_all(tmp_path)
    assert kinds(report) == {kind: 1}
    assert said in details(report)
    if kind == "rotated box":  # 20 x 8 pixels at (50, 40), turned clockwise about that corner
        np.testing.assert_allclose(samples[0].boxes[1], [42, 40, 50, 60], atol=1e-4)


def test_tasks_nobody_finished_are_no_negatives_and_second_opinions_are_told(tmp_path):
    path = others.label_studio(tmp_path)
    tasks = json.loads(path.read_text())
    tasks[0]["annotations"].append({"result": others.STUDIO_A[:1]})
    tasks[1]["annotations"][0]["was_cancelled"] = True
    path.write_text(json.dumps(tasks))
    [sample], report = read_all(tmp_path)
    assert sample.labels.tolist() == [1, 2]
    assert kinds(report) == {"second opinion": 1, "image without annotation": 1}


def test_a_folder_of_nothing_known_is_told_what_is_known(tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(layout.WrongLayout) as caught:
        read_all(tmp_path)
    for part in ("Pascal VOC", "COCO", "YOLO", "CVAT", "Label Studio", "a pack", "found holiday, notes.txt"):
        assert part in str(caught.value)


# --- packs -----------------------------------------------------------------------------------------------


@pytest.fixture
def pack(tmp_path) -> Path:
    synthetic.draw_synthetic(tmp_path / "one", train=12, test=4, seed=0)
    synthetic.draw_synthetic(tmp_path / "two" / layout.FOLDER_NAME, train=8, test=2, seed=1)
    packing.pack(
        [tmp_path / "one", tmp_path / "two"], tmp_path / "luggage" / "pack",
        longer_side=640, quality=70, part_bytes=60_000,
    )  # fmt: skip
    return tmp_path / "luggage" / "pack"


def test_a_pack_is_a_root_unpacked_once_beside_it(pack, tmp_path):
    for split in SPLITS:
        there, _ = read_all(pack, split=split) if split != "val" else ([], None)
        here, _ = read_all(tmp_path / "one", tmp_path / "two", split=split) if split != "val" else ([], None)
        assert [(s.name, s.labels.tolist(), s.recording) for s in there] == [
            (s.name, s.labels.tolist(), s.recording) for s in here
        ]
    [unpacked] = [path for path in pack.parent.iterdir() if path != pack]
    changed = {path: path.stat().st_mtime_ns for path in unpacked.rglob("*")}
    read_all(pack)
    assert {path: path.stat().st_mtime_ns for path in unpacked.rglob("*")} == changed


def test_a_pack_that_lies_where_nothing_can_be_written_goes_to_a_temporary_folder(
    pack, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as root, a read-only folder can be written
    [*samples], _ = read_all(pack)
    assert {sample.root.relative_to(tmp_path).parts[0] for sample in samples} == {"elsewhere"}


def test_a_damaged_pack_is_a_sentence_and_leaves_nothing(pack):
    part = pack / "data-2.tar.gz"
    content = part.read_bytes()
    part.write_bytes(content[:-9])
    with pytest.raises(DamagedPack, match=r"data-2.tar.gz is not what SHA256SUMS says"):
        read_all(pack)
    part.unlink()
    with pytest.raises(DamagedPack, match=r"lacks data-2.tar.gz"):
        read_all(pack)
    part.write_bytes(content)
    (pack / "data-9.tar.gz").write_bytes(content)
    with pytest.raises(DamagedPack, match=r"does not list data-9.tar.gz"):
        read_all(pack)
    assert list(pack.parent.iterdir()) == [pack]


# --- the commands ----------------------------------------------------------------------------------------


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "dataset.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_check_says_layout_classes_and_pictures_and_takes_the_rule(tmp_path):
    others.yolo(tmp_path, data="train: train/images\ntest: test/images\nnames: [gun, axe]\n")
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    for path in (tmp_path / "test/images").iterdir():
        others.picture(path, size=(100, 80))
    done = run("check", tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path}: YOLO, 2 classes, 4 pictures" in done.stdout
    assert "error: unknown class" in done.stdout
    done = run("check", tmp_path, "--classes", "pistol=gun -axe")
    assert "unknown class" not in done.stdout
    assert "warning: names left out: 2" in done.stdout
    alone = run("stats", tmp_path, "--classes", "-gun,axe", "--output", tmp_path / "out")
    assert alone.returncode == 0, alone.stderr


def test_recordings_on_both_sides_of_a_roots_own_split_are_told(tmp_path):
    for side, name in (("train", "cam_frame_1.jpg"), ("valid", "cam_frame_2.jpg")):
        others.picture(tmp_path / side / name)
        document = others.coco_document(images=[{"id": 1, "file_name": name}], annotations=[])
        others.written(tmp_path / side / "_annotations.coco.json", json.dumps(document))
    done = run("check", tmp_path)
    assert "warning: recording in train and val: 1" in done.stdout
    assert "cam_frame_: 1 of its pictures in val" in done.stdout


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("gun,axe", "expected CLASS, CLASS=NAME,NAME or -NAME, got 'gun,axe'"),
        ("=gun", "expected CLASS, CLASS=NAME,NAME or -NAME, got '=gun'"),
        ("any=gun", "to be none of any, background; got 'any'"),
        ("gun/axe", "letters, digits, spaces, dots or hyphens"),
        ("pistol=gun knife=Gun", "one meaning for each name, got 'Gun' with two"),
        ("pistol=", "got '' with none"),
        ("pistol='gun", "No closing quotation"),
    ],
)
def test_a_rule_that_is_none_is_a_sentence(tmp_path, rule, said):
    others.coco(tmp_path)
    done = run("check", tmp_path, "--classes", rule)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_same_pictures_have_one_fingerprint_in_every_layout(tmp_path):
    prints = set()
    for name, (_, make) in LAYOUTS.items():
        make(tmp_path / name)
        prints.add(fingerprint(read_all(tmp_path / name)[0]))
    assert len(prints) == 1
