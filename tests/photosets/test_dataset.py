"""Reading the original's layout: what goes together, is repaired, is refused, and which split it is in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from detection import detections, imaging
from detection.detections import Classes
from detection.names import printable
from photosets import annotations as reading
from photosets import layout, synthetic
from photosets import samples as photographs
from photosets.report import DatasetReport
from photosets.samples import read_samples

ROOT = Path(__file__).parents[2]
SHARED = [ROOT.parent / "shared" / "data" / name for name in ("weapons", "lookalikes")]


def add(
    root: Path, name: str, *objects: tuple[str, object],
    size=(100, 80), side="train", filename=None, mode="RGB", annotated=True,
):  # fmt: skip
    """Add a grey picture of that file name and its annotation; return both paths."""
    images, xmls = (root / folder for folder in layout.FOLDERS[side])
    images.mkdir(parents=True, exist_ok=True)
    xmls.mkdir(parents=True, exist_ok=True)
    image_path, xml_path = images / name, xmls / f"{Path(name).stem}.xml"
    PillowImage.new(mode, size).save(image_path)
    if annotated:
        names, boxes = zip(*objects, strict=True) if objects else ((), ())
        synthetic.write_voc(xml_path, filename or printable(name), size, names, boxes)
    return image_path, xml_path


def read_all(*roots: Path, **options) -> tuple[list[photographs.Sample], DatasetReport]:
    report = DatasetReport()
    return read_samples(roots, "train", val_fraction=0, report=report, **options), report


def kinds(report: DatasetReport) -> Counter[str]:
    return Counter(problem.kind for problem in report.problems)


# --- what goes together -----------------------------------------------------------------------------


def test_a_sample_has_its_pictures_size_boxes_and_labels(tmp_path):
    image_path, _ = add(tmp_path, "a.jpg", ("knife", (10, 20, 30, 40)), ("tarjeta", (1, 2, 50, 60)))
    [sample], report = read_all(tmp_path)
    assert (sample.image_path, sample.size_wh, sample.name, sample.root) == (
        image_path,
        (100, 80),
        "a",
        tmp_path,
    )
    np.testing.assert_array_equal(sample.boxes, [[10, 20, 30, 40], [1, 2, 50, 60]])
    assert sample.boxes.dtype == np.float32
    assert sample.labels.tolist() == [2, 6]
    assert sample.labels.dtype == np.int64
    assert (report.images, report.negatives, report.boxes) == (1, 0, {"knife": 1, "tarjeta": 1})
    assert report.problems == []


def test_pictures_and_annotations_go_together_by_stem_whatever_filename_says(tmp_path):
    add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)), filename="b.jpg")
    add(tmp_path, "b.jpg", ("knife", (2, 2, 8, 8)), filename="gone.png")
    samples, report = read_all(tmp_path)
    assert [(sample.name, sample.labels.tolist()) for sample in samples] == [("a", [1]), ("b", [2])]
    assert report.problems == []


@pytest.mark.parametrize(
    "name", ["armas (12).jpg", "a.b.c.PNG", "нож 1.jpeg", "cafe\u0301.webp", "#1 %20.bmp"]
)
def test_names_with_spaces_parentheses_dots_and_letters_of_any_script(tmp_path, name):
    add(tmp_path, name, ("pistol", (1, 1, 9, 9)))
    assert [sample.image_path.name for sample in read_all(tmp_path)[0]] == [name]


def test_an_accent_written_the_other_way_is_the_same_stem(tmp_path):
    _, xml_path = add(tmp_path, "cafe\u0301.jpg", ("knife", (1, 1, 9, 9)))
    xml_path.rename(xml_path.with_name("caf\u00e9.xml"))
    assert len(read_all(tmp_path)[0]) == 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_grey_and_transparent_pictures_are_fine(tmp_path, mode):
    add(tmp_path, "a.png", ("knife", (1, 1, 9, 9)), mode=mode)
    [sample], report = read_all(tmp_path)
    assert sample.size_wh == (100, 80)
    assert report.problems == []


def test_roots_are_merged_and_may_share_stems(tmp_path):
    for folder, name in (("one", "pistol"), ("two", "knife")):
        add(tmp_path / folder, "a.jpg", (name, (1, 1, 9, 9)))
    samples, _ = read_all(
        tmp_path / "one", tmp_path / "two", tmp_path / "one"
    )  # a root named twice counts once
    assert [(sample.root.name, sample.labels.tolist()) for sample in samples] == [("one", [1]), ("two", [2])]


@pytest.mark.parametrize("inside", [".", layout.FOLDER_NAME, f"{layout.DOWNLOADED_IN}/{layout.FOLDER_NAME}"])
def test_the_folder_above_and_a_download_count_as_the_root(tmp_path, inside):
    add(tmp_path / inside, "a.jpg", ("pistol", (1, 1, 9, 9)))
    assert read_all(tmp_path)[0][0].root == tmp_path / inside


def test_test_split_is_its_own_folders(tmp_path):
    add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    add(tmp_path, "t.jpg", ("knife", (1, 1, 9, 9)), side="test")
    assert [sample.name for sample in read_samples([tmp_path], "test")] == ["t"]
    assert [sample.name for sample in read_all(tmp_path)[0]] == ["a"]


def test_files_that_are_no_pictures_are_passed_over(tmp_path):
    image_path, _ = add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    for name in ("._a.jpg", "Thumbs.db", "classes.txt"):
        (image_path.parent / name).write_bytes(b"?")
    samples, report = read_all(tmp_path)
    assert len(samples) == 1
    assert report.problems == []


# --- negatives --------------------------------------------------------------------------------------


def test_an_annotation_without_objects_is_a_negative(tmp_path):
    add(tmp_path, "a.jpg")
    [sample], report = read_all(tmp_path)
    assert sample.boxes.shape == (0, 4)
    assert sample.labels.shape == (0,)
    assert sample.truth.labels.shape == (0,)
    assert report.negatives == 1


def test_a_picture_without_annotation_is_a_negative_only_when_asked(tmp_path):
    add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    add(tmp_path, "b.jpg", annotated=False)
    samples, report = read_all(tmp_path)
    assert [sample.name for sample in samples] == ["a"]
    assert kinds(report) == {"image without annotation": 1}
    assert report.errors == []
    samples, report = read_all(tmp_path, negatives=True)
    assert [(sample.name, len(sample.boxes)) for sample in samples] == [("a", 1), ("b", 0)]
    assert report.problems == []


def test_a_folder_of_pictures_alone_holds_negatives_when_asked(tmp_path):
    add(tmp_path, "a.jpg", annotated=False)
    shutil.rmtree(tmp_path / "annotations")
    with pytest.raises(layout.WrongLayout, match="annotations"):
        read_all(tmp_path)
    assert len(read_all(tmp_path, negatives=True)[0]) == 1


# --- boxes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "repaired", "kind"),
    [
        ((-5, 10, 30, 40), (0, 10, 30, 40), "clipped box"),
        ((10, 10, 130, 95), (10, 10, 100, 80), "clipped box"),
        ((30, 40, 10, 20), (10, 20, 30, 40), "swapped corners"),
        ((10, 10, 10, 40), None, "dropped box"),  # no width
        ((10, 10, 10.5, 40), None, "dropped box"),  # thinner than a pixel
        ((120, 10, 150, 40), None, "dropped box"),  # wholly outside
        ((0, 0, 100, 80), (0, 0, 100, 80), None),  # all of the picture
    ],
)
def test_boxes_are_repaired_or_dropped_and_counted(tmp_path, box, repaired, kind):
    add(tmp_path, "a.jpg", ("pistol", box), ("knife", (1, 2, 3, 4)))
    [sample], report = read_all(tmp_path)
    wanted = [(repaired, 1)] if repaired else []
    wanted.append(((1, 2, 3, 4), 2))
    assert [tuple(row) for row in sample.boxes.tolist()] == [box for box, _ in wanted]
    assert sample.labels.tolist() == [label for _, label in wanted]
    assert kinds(report) == ({kind: 1} if kind else {})
    assert report.errors == []


def test_a_picture_whose_only_box_is_unusable_does_not_become_a_negative(tmp_path):
    add(tmp_path, "a.jpg", ("pistol", (10, 10, 10, 40)))
    add(tmp_path, "b.jpg", ("knife", (1, 2, 3, 4)))
    [sample], report = read_all(tmp_path)
    assert sample.name == "b"
    assert report.negatives == 0
    assert kinds(report) == {"dropped box": 1, "no box left": 1}
    assert len(report.errors) == 1


@given(st.tuples(*[st.floats(-300, 300)] * 4))
def test_repaired_boxes_lie_inside_and_cover_a_pixel(box):
    repairs: list[tuple[reading.RepairKind, str]] = []
    boxes, kept = reading._repair(np.array([box]), (100, 80), repairs)
    boxes = boxes[kept]
    assert (boxes >= 0).all()
    assert (boxes <= [100, 80, 100, 80]).all()
    least = reading.MIN_BOX_SIDE - reading.ROUNDING
    assert (boxes[:, 2:] - boxes[:, :2] >= least).all()
    x1, y1, x2, y2 = box
    untouched = min(x1, y1) >= 0 and x2 <= 100 and y2 <= 80 and min(x2 - x1, y2 - y1) >= least
    assert untouched == (repairs == [])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("drawn_on", ["stored", "upright"])
def test_boxes_of_photographs_taken_on_their_side_end_on_the_object(tmp_path, orientation, drawn_on):
    """A white patch is found again by its box, whichever way the annotator saw the photograph."""
    stored = np.zeros((80, 100, 3), np.uint8)
    stored[16:32, 8:40] = 255
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    image_path, xml_path = add(tmp_path, "a.png", ("pistol", (0, 0, 9, 9)))
    PillowImage.fromarray(stored).save(image_path, exif=exif)
    upright = imaging.decode_image(image_path.read_bytes())
    rows, columns = np.nonzero(upright[:, :, 0])
    patch = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    on_side = orientation >= 5
    if drawn_on == "stored" and on_side:
        synthetic.write_voc(xml_path, "a.png", (100, 80), ["pistol"], [(8, 16, 40, 32)])
    else:
        synthetic.write_voc(xml_path, "a.png", upright.shape[1::-1], ["pistol"], [patch])
    [sample], report = read_all(tmp_path)
    assert sample.size_wh == ((80, 100) if on_side else (100, 80))
    np.testing.assert_array_equal(sample.boxes, [patch])
    assert kinds(report) == ({"turned boxes": 1} if drawn_on == "stored" and on_side else {})


@pytest.mark.parametrize(
    ("stated", "box"),
    [
        ((50, 40), (5, 10, 15, 20)),  # half the size
        ((200, 160), (20, 40, 60, 80)),
        ((33, 27), (3.3, 6.75, 9.9, 13.5)),  # a third, rounded to pixels
    ],
)
def test_boxes_drawn_on_a_smaller_or_larger_copy_are_scaled_and_noted(tmp_path, stated, box):
    _, xml_path = add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    synthetic.write_voc(xml_path, "a.jpg", stated, ["pistol"], [box])
    [sample], report = read_all(tmp_path)
    np.testing.assert_allclose(sample.boxes, [[10, 20, 30, 40]], atol=1e-4)
    assert kinds(report) == {"scaled boxes": 1}
    assert report.errors == []


def test_boxes_drawn_on_a_smaller_copy_of_the_stored_picture_are_scaled_and_turned(tmp_path):
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # stored on its side, 100 x 80: upright it is 80 x 100
    image_path, xml_path = add(tmp_path, "a.png", ("pistol", (0, 0, 9, 9)))
    PillowImage.new("RGB", (100, 80)).save(image_path, exif=exif)
    synthetic.write_voc(xml_path, "a.png", (50, 40), ["pistol"], [(5, 10, 15, 20)])
    [sample], report = read_all(tmp_path)
    np.testing.assert_array_equal(sample.boxes, [[80 - 40, 10, 80 - 20, 30]])
    assert kinds(report) == {"scaled boxes": 1, "turned boxes": 1}


@pytest.mark.parametrize("stated", [(640, 480), (80, 100), (100, 100)])
def test_boxes_drawn_on_a_picture_of_another_shape_are_an_error(tmp_path, stated):
    add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    _, xml_path = add(tmp_path, "b.jpg", ("pistol", (1, 1, 9, 9)))
    synthetic.write_voc(xml_path, "b.jpg", stated, ["pistol"], [(1, 1, 9, 9)])
    samples, report = read_all(tmp_path)
    assert [sample.name for sample in samples] == ["a"]
    assert [(problem.kind, problem.path) for problem in report.errors] == [("size differs", xml_path)]


def test_an_object_that_is_there_twice_counts_once_and_is_noted(tmp_path):
    twice = [("pistol", (10, 20, 30, 40)), ("pistol", (10, 20, 31, 40))]
    add(tmp_path, "a.jpg", *twice, ("knife", (10, 20, 30, 40)), ("pistol", (12, 20, 30, 40)))
    [sample], report = read_all(tmp_path)
    assert sample.labels.tolist() == [1, 2, 1]  # another class, and another place, are other objects
    np.testing.assert_array_equal(sample.boxes, [[10, 20, 30, 40], [10, 20, 30, 40], [12, 20, 30, 40]])
    assert kinds(report) == {"repeated box": 1}
    assert report.boxes == {"pistol": 2, "knife": 1}


def voc_file(objects: str, *, size="<size><width>100</width><height>80</height></size>") -> str:
    return f"<annotation>{size}{objects}</annotation>"


def voc_object(extra="", *, name="pistol", tag="object") -> str:
    corners = "<xmin>30</xmin><ymin>30</ymin><xmax>70</xmax><ymax>50</ymax>"
    return f"<{tag}><name>{name}</name>{extra}<bndbox>{corners}</bndbox></{tag}>"


def add_xml(root: Path, name: str, content: str | bytes) -> Path:
    """Add a picture of 100 x 80 pixels and an annotation of that content; return the annotation."""
    _, xml_path = add(root, name, ("pistol", (1, 1, 9, 9)))
    xml_path.write_bytes(content.encode() if isinstance(content, str) else content)
    return xml_path


@pytest.mark.parametrize(
    ("angle", "box"),
    [
        ("90.0", (40, 20, 60, 60)),
        ("-90", (40, 20, 60, 60)),
        ("45", (50 - 15 * 2**0.5, 40 - 15 * 2**0.5, 50 + 15 * 2**0.5, 40 + 15 * 2**0.5)),
        ("0.0", (30, 30, 70, 50)),
        ("180", (30, 30, 70, 50)),
    ],
)
def test_a_rotated_box_becomes_the_upright_box_around_it(tmp_path, angle, box):
    """As CVAT writes it: the box before it was turned about its middle, and the angle beside it."""
    rotation = f"<attributes><attribute><name>rotation</name><value>{angle}</value></attribute></attributes>"
    add_xml(tmp_path, "a.jpg", voc_file(voc_object(rotation)))
    [sample], report = read_all(tmp_path)
    np.testing.assert_allclose(sample.boxes, [box], rtol=1e-5)
    assert kinds(report) == ({} if box == (30, 30, 70, 50) else {"rotated box": 1})


def test_objects_marked_difficult_count_like_the_others_and_are_said(tmp_path):
    objects = [voc_object("<difficult>1</difficult>"), voc_object("<difficult>0</difficult>", name="knife")]
    add_xml(tmp_path, "a.jpg", voc_file("".join(objects)))
    [sample], report = read_all(tmp_path)
    assert sample.labels.tolist() == [1, 2]
    assert (sample.difficult, report.difficult) == (1, 1)
    assert "marked difficult, counted like the others: 1" in report.summary()
    assert "note: boxes marked difficult, which count like the others: 1" in run("check", tmp_path).stdout


# --- what is wrong ----------------------------------------------------------------------------------


def test_an_annotation_without_picture_is_named(tmp_path):
    add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    image_path, xml_path = add(tmp_path, "b.jpg", ("pistol", (1, 1, 9, 9)))
    image_path.unlink()
    samples, report = read_all(tmp_path)
    assert [sample.name for sample in samples] == ["a"]
    assert [(problem.kind, problem.path) for problem in report.errors] == [("missing image", xml_path)]


def test_each_problem_is_told_in_one_split_only(tmp_path):
    for number in range(40):
        image_path, _ = add(tmp_path, f"drawn ({number * 50}).jpg", ("pistol", (1, 1, 9, 9)))
        if number % 2:
            image_path.unlink()
    reports = {}
    for split in ("train", "val"):
        reports[split] = DatasetReport()
        read_samples([tmp_path], split, report=reports[split])
    assert min(report.count("missing image") for report in reports.values()) > 0
    assert sum(report.count("missing image") for report in reports.values()) == 20


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"not a picture"])
def test_an_unreadable_picture_is_named(tmp_path, content):
    add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    image_path, _ = add(tmp_path, "b.jpg", ("pistol", (1, 1, 9, 9)))
    image_path.write_bytes(content)
    samples, report = read_all(tmp_path)
    assert [sample.name for sample in samples] == ["a"]
    assert [(problem.kind, problem.path) for problem in report.errors] == [("unreadable image", image_path)]


def test_a_picture_too_large_to_train_on_is_named(tmp_path, monkeypatch):
    add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    add(tmp_path, "b.jpg", ("pistol", (1, 1, 9, 9)), size=(200, 80))
    monkeypatch.setattr(imaging, "MAX_PIXELS", 8000)
    assert kinds(read_all(tmp_path)[1]) == {"unreadable image": 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<annotation>",
        "<annotation><object><name>pistol</name></object></annotation>",
        "<annotation><object><name>pistol</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax></bndbox>"
        "</object></annotation>",
        "<annotation><object><name>pistol</name><bndbox><xmin>x</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
        "</bndbox></object></annotation>",
        "<annotation><object><name>pistol</name><attributes><attribute><name>rotation</name><value>x</value>"
        "</attribute></attributes><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        "</object></annotation>",
        "<annotations><image><box label='pistol'/></image></annotations>",  # CVAT's own
        "<dataset><images><image file='a.jpg'><box top='1'/></image></images></dataset>",  # dlib's
        "<html xmlns='http://www.w3.org/1999/xhtml'><body><p>404 Not Found</p></body></html>",
        "<annotation><item><name>pistol</name><bndbox><xmin>1</xmin></bndbox></item></annotation>",
        "<?xml version='1.0' encoding='unicode'?><annotation></annotation>",
        "<?xml version='1.0' encoding='ANSI'?><annotation></annotation>",
        "<?xml version='1.0' encoding='base64'?><annotation></annotation>",
        "<annotation><object><name>pistol</name><bndbox><xmin>nan</xmin><ymin>1</ymin><xmax>9</xmax>"
        "<ymax>9</ymax></bndbox></object></annotation>",
    ],
)
def test_a_broken_annotation_is_named_and_costs_its_picture_alone(tmp_path, text):
    add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    _, xml_path = add(tmp_path, "b.jpg", ("pistol", (1, 1, 9, 9)))
    xml_path.write_text(text)
    samples, report = read_all(tmp_path)
    assert [sample.name for sample in samples] == ["a"]
    assert [(problem.kind, problem.path) for problem in report.errors] == [("broken annotation", xml_path)]


@pytest.mark.parametrize(
    "text",
    [
        f'<annotation xmlns="http://example.org/voc">{voc_object()}</annotation>',
        f"<annotation>{voc_object(tag='Object')}</annotation>",
        f"<Annotation><objects>{voc_object()}</objects></Annotation>",
    ],
)
def test_a_namespace_and_capital_letters_hide_no_object(tmp_path, text):
    add_xml(tmp_path, "a.jpg", text)
    [sample], report = read_all(tmp_path)
    np.testing.assert_array_equal(sample.boxes, [[30, 30, 70, 50]])
    assert report.problems == []


@pytest.mark.parametrize(
    ("declared", "codec", "path"),
    [
        ("gb2312", "gb2312", "\u67aa"),
        ("gbk", "gbk", "\u69cd"),
        ("Shift_JIS", "shift_jis", "\u9283"),
        ("Big5", "big5", "\u69cd"),
        ("utf-16", "utf-8", "pistola"),  # as .NET declares what it then writes otherwise
        (None, "cp1252", "mu\u00f1eca \u2013 1"),
        ("utf-8", "cp1252", "mu\u00f1eca"),
    ],
)
def test_annotations_in_other_encodings_are_read(tmp_path, declared, codec, path):
    declaration = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    text = f"{declaration}<annotation><path>C:\\{path}\\a.jpg</path>{voc_object()}</annotation>"
    add_xml(tmp_path, "a.jpg", text.encode(codec))
    [sample], report = read_all(tmp_path)
    np.testing.assert_array_equal(sample.boxes, [[30, 30, 70, 50]])
    assert report.problems == []


@pytest.mark.parametrize("codec", ["utf-8", "gbk"])
def test_no_encoding_opens_files_or_grows_without_end(tmp_path, codec):
    add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    secret = tmp_path / "secret.txt"
    secret.write_text("pistol")
    head = f'<?xml version="1.0" encoding="{codec}"?>'
    outside = f'<!DOCTYPE annotation [<!ENTITY name SYSTEM "{secret.as_uri()}">]>'
    add_xml(tmp_path, "outside.jpg", f"{head}{outside}{voc_file(voc_object(name='&name;'))}")
    laughs = "".join(f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' for level in range(1, 10))
    bomb = f'<!DOCTYPE annotation [<!ENTITY l0 "lol">{laughs}]>'
    add_xml(tmp_path, "bomb.jpg", f"{head}{bomb}{voc_file(voc_object(name='&l9;'))}")
    samples, report = read_all(tmp_path)
    assert [sample.name for sample in samples] == ["a"]
    assert kinds(report) == {"broken annotation": 2}


NOT_UTF8 = os.fsdecode(b"mu\xa4eca.jpg")  # what unzip makes of an old Windows archive


@pytest.fixture
def oddly_named(tmp_path) -> Path:
    try:
        for number, name in enumerate((NOT_UTF8, "a.jpg", "b.jpg", "c.jpg")):
            put(tmp_path, name, pattern(number))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    return tmp_path


def test_a_file_name_that_is_not_utf8_is_used_and_has_a_name_that_can_be_written(oddly_named):
    samples, report = read_all(oddly_named)
    assert report.problems == []
    assert [sample.name for sample in samples] == ["a", "b", "c", "mu\\udca4eca"]
    assert len(photographs.fingerprint(samples)) == 64
    assert json.dumps([sample.name for sample in samples], ensure_ascii=False).encode()


@pytest.mark.parametrize("command", [["check"], ["check", "--show", "0"], ["stats", "--output", "out"]])
def test_no_command_ends_at_a_file_name_that_is_not_utf8(oddly_named, command):
    xml = oddly_named / "annotations" / "xmls" / Path(NOT_UTF8).with_suffix(".xml")
    xml.write_text(voc_file(voc_object("<difficult>1</difficult>") * 2, size=""))
    (oddly_named / "images" / os.fsdecode(b"lonely\xa4.jpg")).write_bytes(b"")
    done = run(command[0], oddly_named, *command[1:], cwd=oddly_named)
    assert done.returncode == 0, done.stderr
    if command[0] == "check":
        assert "repeated box: 1" in done.stdout
        assert "mu\\udca4eca.xml" in done.stdout
        assert "lonely\\udca4.jpg" in done.stdout


def test_unknown_classes_are_refused_all_at_once(tmp_path):
    _, first = add(tmp_path, "a.jpg", ("gun", (1, 1, 9, 9)))
    add(tmp_path, "b.jpg", ("rifle", (1, 1, 9, 9)), ("rifle", (20, 20, 30, 30)), ("gun", (1, 1, 9, 9)))
    add(tmp_path, "c.jpg", ("Pistol", (1, 1, 9, 9)))
    add(tmp_path, "t.jpg", ("axe", (1, 1, 9, 9)), side="test")
    with pytest.raises(photographs.UnknownClass) as caught:
        read_all(tmp_path)
    for part in (
        "'axe' (1), 'gun' (2), 'rifle' (1)", str(first), "pistol, knife, billete",
        "--classes 'pistol=axe,gun,rifle'", "--classes '-axe -gun -rifle'",
    ):  # fmt: skip
        assert part in str(caught.value)


def test_other_class_names_can_be_asked_for(tmp_path):
    add(tmp_path, "a.jpg", ("gun", (1, 1, 9, 9)))
    [sample], _ = read_all(tmp_path, known=Classes(("__background__", "gun"), ("gun",)))
    assert sample.labels.tolist() == [1]


def test_two_pictures_of_one_stem_are_refused(tmp_path):
    add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    add(tmp_path, "a.png", ("pistol", (1, 1, 9, 9)))
    with pytest.raises(layout.DuplicateStem, match=r"a\.jpg and a\.png"):
        read_all(tmp_path)


def test_a_wrong_folder_is_refused_with_what_it_holds(tmp_path):
    with pytest.raises(layout.WrongLayout, match="no folder"):
        read_all(tmp_path / "absent")
    (tmp_path / "holiday").mkdir()
    with pytest.raises(layout.WrongLayout, match=r"expected images/.*found holiday"):
        read_all(tmp_path)


def test_an_empty_split_is_refused_and_says_why(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations" / "xmls").mkdir(parents=True)
    with pytest.raises(photographs.EmptySplit, match=r"train split.*found none"):
        read_all(tmp_path)
    image_path, _ = add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    image_path.write_bytes(b"?")
    with pytest.raises(photographs.EmptySplit, match="unreadable image"):
        read_all(tmp_path)
    with pytest.raises(photographs.EmptySplit, match="images_test"):
        read_samples([tmp_path], "test")


@pytest.mark.parametrize("val_fraction", [-0.1, 1, float("nan")])
def test_an_impossible_share_is_refused(tmp_path, val_fraction):
    with pytest.raises(ValueError, match="val_fraction"):
        read_samples([tmp_path], "train", val_fraction=val_fraction)
    with pytest.raises(ValueError, match="val_fraction"):
        read_samples([tmp_path], "train", negative_val_fraction=val_fraction)


# --- splits ------------------------------------------------------------------------------------------


def test_splits_share_no_recording_and_miss_no_picture(tmp_path):
    for number in range(0, 3000, 10):
        add(tmp_path, f"armas ({number}).png", ("pistol", (1, 1, 9, 9)), size=(10, 10))
    train, val = (read_samples([tmp_path], split) for split in ("train", "val"))
    assert not {sample.recording for sample in train} & {sample.recording for sample in val}
    assert len(train) + len(val) == 300
    assert 0.1 <= len(val) / 300 <= 0.14
    names = [sample.name for sample in train]
    assert names == sorted(names)


def test_adding_pictures_moves_none(tmp_path):
    for number in range(0, 500, 25):
        add(tmp_path, f"knife_{number}.png", ("knife", (1, 1, 9, 9)), size=(10, 10))
    before = {sample.name for sample in read_samples([tmp_path], "train")}
    for number in range(7, 500, 50):
        add(tmp_path, f"knife_{number}.png", ("knife", (1, 1, 9, 9)), size=(10, 10))
    assert before <= {sample.name for sample in read_samples([tmp_path], "train")}


def test_frames_of_one_video_are_read_into_both_splits_and_the_report_says_how(tmp_path):
    for number in range(60):
        add(tmp_path, f"frame_{number:04}.png", ("pistol", (1, 1, 9, 9)), size=(10, 10))
    report = DatasetReport()
    train = read_samples([tmp_path], "train", report=report)
    val = read_samples([tmp_path], "val")
    assert [sample.name for sample in val] == [f"frame_{number:04}" for number in range(53, 60)]
    assert [sample.name for sample in train] == [f"frame_{number:04}" for number in range(50)]
    assert not {sample.recording for sample in train} & {sample.recording for sample in val}
    said = str(report.divisions[0])
    for part in (str(tmp_path), "cut in time", "7 of 60 pictures (11.7%) to val", "3 between the sides"):
        assert part in said
    assert len(read_samples([tmp_path], "val", val_fraction=0.3)) == 18


def test_a_folder_is_divided_whatever_else_is_trained_on(tmp_path):
    for number in range(60):
        add(tmp_path / "own", f"frame_{number}.png", ("pistol", (1, 1, 9, 9)), size=(10, 10))
        add(tmp_path / "known", f"armas ({number * 50}).png", ("knife", (1, 1, 9, 9)), size=(10, 10))
    both = read_samples([tmp_path / "known", tmp_path / "own"], "val")
    each = [sample for folder in ("known", "own") for sample in read_samples([tmp_path / folder], "val")]
    assert [sample.name for sample in both] == sorted(sample.name for sample in each)


def test_more_recordings_without_a_weapon_can_go_to_val(tmp_path):
    for number in range(100):
        add(tmp_path, f"armas ({number * 50}).png", ("pistol", (1, 1, 9, 9)), size=(10, 10))
        add(tmp_path, f"bolso ({number * 50}).png", ("monedero", (1, 1, 9, 9)), size=(10, 10))
        add(tmp_path, f"nada ({number * 50}).png", size=(10, 10))
        add(tmp_path, f"mixto ({number * 50}).png", ("monedero", (1, 1, 9, 9)), size=(10, 10))
        add(tmp_path, f"mixto ({number * 50 + 1}).png", ("knife", (1, 1, 9, 9)), size=(10, 10))

    def val(negative_val_fraction: float | None) -> Counter[str]:
        samples = read_samples([tmp_path], "val", negative_val_fraction=negative_val_fraction)
        return Counter(sample.name.split(" ")[0] for sample in samples)

    few, many = val(None), val(0.4)
    assert few == val(0.12)
    assert (many["armas"], many["mixto"]) == (few["armas"], few["mixto"])
    assert 10 <= few["bolso"] <= 14
    assert 38 <= many["bolso"] <= 42
    assert 38 <= many["nada"] <= 42


# --- fingerprint ------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_contents_not_of_places(tmp_path):
    for folder in ("one", "two"):
        add(tmp_path / folder, "a.jpg", ("pistol", (1, 1, 9, 9)))
        add(tmp_path / folder, "b.jpg", ("knife", (1, 1, 9, 9)))
    one, two = (read_all(tmp_path / folder)[0] for folder in ("one", "two"))
    assert photographs.fingerprint(one) == photographs.fingerprint(two[::-1])
    assert len(photographs.fingerprint(one)) == 64


@pytest.mark.parametrize("change", ["box", "label", "bytes", "name", "fewer"])
def test_the_fingerprint_changes_with_anything_that_training_sees(tmp_path, change):
    add(tmp_path, "a.jpg", ("pistol", (1, 1, 9, 9)))
    add(tmp_path, "b.jpg", ("pistol", (1, 1, 9, 9)))
    before = photographs.fingerprint(read_all(tmp_path)[0])
    image_path, xml_path = (tmp_path / "images" / "b.jpg", tmp_path / "annotations" / "xmls" / "b.xml")
    if change == "box":
        add(tmp_path, "b.jpg", ("pistol", (1, 1, 9, 10)))
    elif change == "label":
        add(tmp_path, "b.jpg", ("knife", (1, 1, 9, 9)))
    elif change == "bytes":
        image_path.write_bytes(image_path.read_bytes() + b" ")
    elif change == "name":
        image_path.rename(image_path.with_stem("c"))
        xml_path.rename(xml_path.with_stem("c"))
    else:
        image_path.unlink()
    assert photographs.fingerprint(read_all(tmp_path)[0]) != before


# --- the command ------------------------------------------------------------------------------------


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "dataset.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def pattern(seed: int, size=(120, 90)) -> PillowImage.Image:
    """A coarse random picture: different seeds look nothing alike."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return PillowImage.fromarray(coarse).resize(size, PillowImage.Resampling.BICUBIC)


def put(root: Path, name: str, picture: PillowImage.Image, side="train", **options) -> Path:
    image_path, _ = add(root, name, ("pistol", (1, 1, 9, 9)), size=picture.size, side=side)
    picture.save(image_path, **options)
    return image_path


def test_check_counts_and_passes_sound_data(tmp_path):
    for number in range(8):
        put(tmp_path, f"{number}.jpg", pattern(number))
    put(tmp_path, "b.jpg", pattern(9), side="test")
    done = run("check", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cut in time" in done.stdout
    assert "1 of 8 pictures (12.5%) to val" in done.stdout
    assert "0 errors, 0 warnings" in done.stdout
    assert "pistol boxes" in done.stdout


def test_check_tells_every_error_and_fails(tmp_path):
    put(tmp_path, "good.jpg", pattern(1))
    cut = put(tmp_path, "cut.jpg", pattern(2))
    cut.write_bytes(cut.read_bytes()[:-600])  # the header is sound, the pixels are not
    put(tmp_path, "lonely.jpg", pattern(3)).unlink()
    add(tmp_path, "odd.jpg", ("gun", (1, 1, 9, 9)))
    put(tmp_path, "same1.jpg", pattern(4))
    put(tmp_path, "same2.jpg", pattern(4), side="test")
    add(tmp_path, "out.jpg", ("pistol", (-4, 1, 9, 9)))
    done = run("check", tmp_path)
    assert done.returncode == 1
    for text in (
        "error: missing image: 1", "lonely.xml", "error: unknown class: 1", "'gun'",
        "error: unreadable image: 1", "cut.jpg", "error: same picture in train and test: 1",
        "same2.jpg", "warning: clipped box: 1",
        "4 errors, 1 warnings",
    ):  # fmt: skip
        assert text in done.stdout, text
    assert "Traceback" not in done.stderr


def test_folders_are_said_as_typed(tmp_path):
    root = tmp_path / "shots [" / "v2] :knife:"
    put(root, "[bold]lonely.jpg", pattern(1)).unlink()
    put(root, "a.jpg", pattern(2))
    done = run("check", root)
    assert "Traceback" not in done.stderr
    assert "error: missing image: 1" in done.stdout
    assert f"{root}/annotations/xmls/[bold]lonely.xml: " in done.stdout
    output = tmp_path / "numbers [" / "v2] :knife:"
    done = run("stats", root, "--output", output)
    assert f"Wrote {output}/stats.png and {output}/stats.json" in done.stdout


def test_check_finds_near_duplicates_across_splits_and_within(tmp_path):
    original = pattern(1, (240, 180))
    put(tmp_path, "clip_frame_1.jpg", original)
    put(tmp_path, "clip_frame_2.jpg", original.resize((120, 90)), quality=40)
    put(tmp_path, "clip_frame_3.jpg", pattern(3))  # the end of the clip goes to val
    put(tmp_path, "mirrored.jpg", original.transpose(PillowImage.Transpose.FLIP_LEFT_RIGHT), side="test")
    put(tmp_path, "other.jpg", pattern(2), side="test")
    done = run("check", tmp_path, "--show", 0)
    assert done.returncode == 0, done.stderr
    assert "note: pairs of nearly the same picture in train: 1" in done.stdout
    assert "warning: nearly the same picture in train and test: 2" in done.stdout
    assert done.stdout.count("mirrored\n") == 2
    assert "other.jpg" not in done.stdout


def test_check_tells_recordings_on_both_sides(tmp_path):
    put(tmp_path, "KravMagaTraining1.jpg", pattern(1))
    put(tmp_path, "KravMagaTraining2.jpg", pattern(2), side="test")
    put(tmp_path, "armas (1).jpg", pattern(3))
    put(tmp_path, "armas (2).jpg", pattern(4), side="test")
    done = run("check", tmp_path)
    assert "KravMagaTraining: 1 pictures in train, 1 in test" in done.stdout
    assert "0 errors, 1 warnings" in done.stdout  # a block of numbered stills is no evidence of a recording


def test_check_warns_of_a_share_that_no_rule_reaches(tmp_path):
    put(tmp_path, "only.jpg", pattern(1))
    assert "train or val has no picture" in run("check", tmp_path).stdout
    root = tmp_path / "few"
    for number in range(12):
        image_path, _ = add(root, f"bolso_frame_{number}.jpg", ("monedero", (1, 1, 9, 9)), size=(120, 90))
        pattern(number).save(image_path)
    for number in range(40):
        put(root, f"armas ({50 * number}).jpg", pattern(100 + number))
    done = run("check", root, "--negative-val-fraction", 0.4)
    assert "warning: validation share: 1" in done.stdout
    assert (
        "val has 0 of the 12 pictures of recordings without a weapon (0.0%), far from the 40.0%"
        in done.stdout
    )
    assert "0 errors, 1 warnings" in done.stdout


@pytest.mark.parametrize("show", [2, 0])
def test_check_lists_as_many_findings_as_asked(tmp_path, show):
    for number in range(5):
        put(tmp_path, f"lonely{number}.jpg", pattern(number)).unlink()
    put(tmp_path, "good.jpg", pattern(9))
    lines = run("check", tmp_path, "--show", show).stdout.splitlines()
    assert sum("lonely" in line for line in lines) == (show or 5)
    assert any("and 3 more" in line for line in lines) == (show == 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected a command"),
        (["check", "absent"], "no folder absent"),
        (["stats", "absent"], "no folder absent"),
        (["check"], "DATA"),
        (["check", "x", "--near", "99"], "less than or equal to 64"),
        (["invent"], "unknown command invent"),
    ],
)
def test_a_wrong_command_line_is_answered_in_a_sentence(arguments, said):
    done = run(*arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_stats_writes_a_plot_and_the_numbers(tmp_path):
    synthetic.draw_synthetic(tmp_path / "data", train=30, test=6, seed=0)
    done = run("stats", tmp_path / "data", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    picture = imaging.decode_image((tmp_path / "out" / "stats.png").read_bytes())
    assert picture.shape[1] > 1000
    summary = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert summary["images"]["train"] + summary["images"]["val"] == 30
    total = sum(sum(boxes.values()) for boxes in summary["boxes"].values())
    assert total == sum(
        len(sample.labels)
        for split in ("train", "val", "test")
        for sample in read_samples([tmp_path / "data"], split)
    )


def test_stats_of_pictures_without_objects_are_drawn_too(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        add(tmp_path / "annotated", name)
        add(tmp_path / "bare", name, annotated=False)
    for arguments in (["annotated"], ["bare", "--negatives"]):
        done = run("stats", tmp_path / arguments[0], *arguments[1:], "--output", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        summary = json.loads((tmp_path / "out" / "stats.json").read_text())
        assert summary["images"] == {"train": 1, "val": 1}
        assert imaging.decode_image((tmp_path / "out" / "stats.png").read_bytes()).shape[1] > 1000


def test_stats_into_a_place_that_cannot_be_written_is_a_sentence(tmp_path):
    add(tmp_path / "data", "a.jpg", ("pistol", (1, 1, 9, 9)))
    (tmp_path / "out").write_text("a file is in the way")
    done = run("stats", tmp_path / "data", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_synth_draws_data_that_check_finds_sound(tmp_path):
    assert run("synth", tmp_path / "drawn", "--train", 12, "--test", 3).returncode == 0
    assert run("check", tmp_path / "drawn").returncode == 0
    (tmp_path / "drawn" / "images" / "mine.jpg").write_bytes(b"")
    again = run("synth", tmp_path / "drawn", "--train", 12, "--test", 3)
    assert again.returncode == 1
    assert "mine.jpg" in again.stderr


# --- the drawn data set -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    synthetic.draw_synthetic(root, train=60, test=12, seed=1)
    return root


def test_drawn_data_has_every_class_empty_pictures_and_pairs(drawn):
    samples = [sample for split in ("train", "val", "test") for sample in read_samples([drawn], split)]
    assert len(samples) == 72
    labels = Counter(int(label) for sample in samples for label in sample.labels)
    assert set(labels) == {1, 2, 3, 4, 5, 6}
    assert max(labels.values()) - min(labels.values()) <= 3
    assert {len(sample.labels) for sample in samples} == {0, 1, 2}
    assert len(read_samples([drawn], "val")) >= 5


def test_drawn_boxes_hold_the_object(drawn):
    """A smartphone's black edge touches all four sides of its box."""
    for sample in read_samples([drawn], "train"):
        image = imaging.decode_image(sample.image_path.read_bytes()).astype(int)
        for box, label in zip(sample.boxes.astype(int), sample.labels, strict=True):
            inside = image[box[1] : box[3], box[0] : box[2]]
            if detections.CLASS_NAMES[label] == "smartphone":
                dark = inside.max(axis=2) < 70
                assert all(side.any() for side in (dark[:4], dark[-4:], dark[:, :4], dark[:, -4:])), (
                    sample.name
                )


def test_the_same_seed_draws_the_same_files_and_another_does_not(tmp_path):
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        synthetic.draw_synthetic(tmp_path / folder, train=4, test=1, seed=seed)
    a, b, c = (
        {
            path.relative_to(tmp_path / folder): path.read_bytes()
            for path in sorted((tmp_path / folder).rglob("*.*"))
        }
        for folder in "abc"
    )
    assert a == b
    assert a != c


# --- the photographs --------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.skipif(not all(path.is_dir() for path in SHARED), reason="the photographs are not here")
def test_the_photographs_are_all_read_and_every_class_is_in_every_split():
    samples = {}
    for split in ("train", "val", "test"):
        report = DatasetReport()
        samples[split] = read_samples(SHARED, split, report=report)
        assert report.problems == []
        assert set(report.boxes) == set(detections.CLASS_NAMES[1:])
        assert report.negatives > 0
    assert len(samples["train"]) + len(samples["val"]) == 4349 + 1299
    assert len(samples["test"]) == 740 + 243
    train, val = (
        Counter(int(label) for s in samples[split] for label in s.labels) for split in ("train", "val")
    )
    for label in val:
        assert 0.09 <= val[label] / (val[label] + train[label]) <= 0.16
    recordings = Counter(sample.recording for sample in samples["val"])
    assert recordings.most_common(1)[0][1] < 0.3 * len(samples["val"])  # no recording swallows the split
