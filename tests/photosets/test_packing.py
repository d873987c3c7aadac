"""A pack gives the same samples again: names, recordings, splits, labels, and boxes within a pixel."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import other_layouts as others
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from detection.detections import CLASS_NAMES
from photosets import convert, found, layout, packing, voc
from photosets.classes import class_rule
from photosets.report import DatasetReport
from photosets.samples import SPLITS, Sample, UnknownClass, collect_samples, read_samples
from photosets.synthetic import draw_synthetic
from photosets.unpacking import SUMS

ROOT = Path(__file__).parents[2]
LIMITS: dict[str, Any] = {"longer_side": 96, "quality": 70, "part_bytes": 200_000}


def unpack(pack: Path, folder: Path) -> Path:
    for part in pack.glob("data-*.tar.gz"):
        with tarfile.open(part) as archive:
            archive.extractall(folder, filter="data")
    return folder


def add(root: Path, stem: str, side: layout.Side, size_wh, orientation: int, objects) -> None:
    """Add a picture that a camera stored on its side if orientation says so, annotated upright."""
    images, xmls = (root / folder for folder in layout.FOLDERS[side])
    images.mkdir(parents=True, exist_ok=True)
    xmls.mkdir(parents=True, exist_ok=True)
    stored = size_wh[::-1] if orientation >= 5 else size_wh
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    shades = np.add.outer(np.arange(stored[1]), np.arange(stored[0])).astype(np.uint8)
    PillowImage.fromarray(np.stack([shades] * 3, axis=2)).save(images / f"{stem}.jpg", exif=exif)
    names, boxes, difficult = zip(*objects, strict=True) if objects else ((), (), ())
    (xmls / f"{stem}.xml").write_bytes(voc.annotation_xml(f"{stem}.jpg", size_wh, names, boxes, difficult))


def samples_of(root: Path, split) -> tuple[list[Sample], DatasetReport]:
    report = DatasetReport()
    options: dict[str, Any] = {"val_fraction": 0.3, "negative_val_fraction": 0.5, "negatives": False}
    return collect_samples([root], split, class_rule(), report, **options), report


def assert_same(before: Path, after: Path) -> None:
    for split in SPLITS:
        (old, old_report), (new, new_report) = samples_of(before, split), samples_of(after, split)
        described = [
            [(s.name, s.recording, s.labels.tolist(), s.difficult) for s in some] for some in (old, new)
        ]
        assert described[0] == described[1]
        assert [(p.kind, p.path.stem) for p in old_report.errors] == [
            (p.kind, p.path.stem) for p in new_report.errors
        ]
        for was, now in zip(old, new, strict=True):
            assert max(now.size_wh) <= max(was.size_wh)
            scale = [new / old for new, old in zip(now.size_wh, was.size_wh, strict=True)] * 2
            np.testing.assert_allclose(now.boxes, was.boxes * scale, atol=1.0)


@st.composite
def pictures(draw):
    """Size, orientation and objects of one picture, each class once: no two boxes can become one."""
    width, height = draw(st.integers(24, 260)), draw(st.integers(24, 260))
    objects = []
    for name in draw(st.lists(st.sampled_from(CLASS_NAMES[1:]), max_size=3, unique=True)):
        x, y = draw(st.floats(0, width - 3)), draw(st.floats(0, height - 3))
        w, h = draw(st.floats(1.5, width - x)), draw(st.floats(1.5, height - y))
        objects.append((name, (x, y, x + w, y + h), draw(st.booleans())))
    return (width, height), draw(st.sampled_from([1, 3, 6, 8])), objects


@settings(max_examples=25)
@given(st.lists(pictures(), min_size=4, max_size=8))
def test_a_pack_gives_the_same_samples_again(drawn):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "mine")
        for i, picture in enumerate(drawn):
            add(root, f"shop{i // 2}_{50 * i}", "test" if i % 4 == 3 else "train", *picture)
        packing.pack([root], Path(folder, "pack"), **LIMITS)
        unpack(Path(folder, "pack"), Path(folder, "there"))
        assert_same(root, Path(folder, "there", "mine"))


def test_roots_come_back_under_their_names_in_their_layout(tmp_path):
    draw_synthetic(tmp_path / "one", train=12, test=4, seed=0)
    draw_synthetic(tmp_path / "two" / layout.FOLDER_NAME, train=12, test=4, seed=1)
    packed = packing.pack([tmp_path / "one", tmp_path / "two"], tmp_path / "pack", **LIMITS)
    there = unpack(tmp_path / "pack", tmp_path / "there")
    assert packed.pictures == 32
    assert sorted(path.name for path in there.iterdir()) == ["one", "two"]
    assert found.find_root(there / "two").path == there / "two" / layout.FOLDER_NAME
    for name in ("one", "two"):
        assert_same(tmp_path / name, there / name)
    sizes = [max(sample.size_wh) for sample in read_samples([there / "one", there / "two"], "train")]
    assert set(sizes) == {LIMITS["longer_side"]}


def test_what_is_wrong_with_a_file_is_still_wrong(tmp_path):
    root = tmp_path / "mine"
    knife = [("knife", (10, 10, 60, 60), False)]
    for i in range(6):
        add(root, f"shop_{50 * i}", "train", (200, 100), 1, knife)
    images, xmls = (root / folder for folder in layout.FOLDERS["train"])
    (images / "shop_0.jpg").write_bytes(b"no picture")
    whole = (images / "shop_50.jpg").read_bytes()
    (images / "shop_50.jpg").write_bytes(whole[: len(whole) // 2])
    (xmls / "shop_100.xml").write_text("<annotation>")
    (xmls / "shop_150.xml").write_bytes(voc.annotation_xml("x.jpg", (200, 100), ["sword"], [(1, 1, 9, 9)]))
    (xmls / "shop_200.xml").unlink()
    packed = packing.pack([root], tmp_path / "pack", **LIMITS)
    there = unpack(tmp_path / "pack", tmp_path / "there") / "mine"
    assert_same(root, there)
    assert packed.kept == 3
    assert (there / "images" / "shop_50.jpg").read_bytes() == whole[: len(whole) // 2]
    assert sorted(path.name for path in (there / "images").glob("*.webp")) == [
        "shop_150.webp",
        "shop_200.webp",
        "shop_250.webp",
    ]


def lists_of(samples: Sequence[Sample]) -> list[Any]:
    return [(s.name, s.recording, s.labels.tolist(), s.difficult, s.boxes.round(3).tolist()) for s in samples]


@pytest.mark.parametrize(
    "make", [others.coco, others.yolo, others.cvat, others.label_studio, others.voc], ids=lambda f: f.__name__
)
def test_every_layout_comes_back_as_pascal_voc(tmp_path, make):
    make(tmp_path / "mine")
    packed = packing.pack([tmp_path / "mine"], tmp_path / "pack", **{**LIMITS, "longer_side": 100})
    assert (packed.pictures, packed.left_out) == (2, [])
    before = read_samples([tmp_path / "mine"], "train", val_fraction=0)
    after = read_samples([tmp_path / "pack"], "train", val_fraction=0)
    assert [len(sample.labels) for sample in after] == [2, 0]
    assert lists_of(before) == lists_of(after)
    assert {sample.root.name for sample in after} == {"mine"}


def test_names_of_your_own_and_pictures_of_one_name_in_two_folders_are_packed(tmp_path):
    draw_synthetic(tmp_path / "drawn", train=8, test=4, seed=0)
    rule = "rifle=pistol axe=knife phone=smartphone -billete,monedero,tarjeta"
    convert.convert([tmp_path / "drawn"], tmp_path / "mine", "yolo", classes=rule)
    places = [(tmp_path / "mine" / "train" / kind) for kind in ("images", "labels")]
    for place in places:
        (place / "more").mkdir()
        for path in sorted(place.iterdir())[:2]:
            if path.is_file():
                shutil.copy(path, place / "more")
    packing.pack([tmp_path / "mine"], tmp_path / "pack", **{**LIMITS, "longer_side": 640})
    own: dict[str, Any] = {"classes": "rifle axe phone", "dangerous": ["rifle"], "val_fraction": 0}
    for split in ("train", "test"):
        before, after = (read_samples([tmp_path / name], split, **own) for name in ("mine", "pack"))
        described = [
            sorted((s.recording, s.labels.tolist(), s.boxes.round(1).tolist()) for s in some)
            for some in (before, after)
        ]
        assert described[0] == described[1]
        assert len({s.name for s in after}) == len(after)
    with pytest.raises(UnknownClass, match=r"'axe' .* 'phone' .* 'rifle'"):
        read_samples([tmp_path / "pack"], "train")


def test_a_picture_that_another_layout_spoilt_is_left_out_and_told(tmp_path):
    others.yolo(tmp_path / "mine")
    (tmp_path / "mine/train/labels/a.txt").write_text("0 0.5 0.5\n")
    packed = packing.pack([tmp_path / "mine"], tmp_path / "pack", **LIMITS)
    assert packed.pictures == 1
    [sentence] = packed.left_out
    assert sentence.startswith(f"{tmp_path / 'mine/train/images/a.jpg'}: ")


def test_a_thin_box_keeps_a_pixel(tmp_path):
    add(tmp_path / "mine", "a_0", "train", (960, 480), 1, [("knife", (958.0, 100.0, 960.0, 300.0), False)])
    packing.pack([tmp_path / "mine"], tmp_path / "pack", **LIMITS)
    there = unpack(tmp_path / "pack", tmp_path / "there") / "mine"
    (sample,) = read_samples([there], "train", val_fraction=0)
    assert sample.size_wh == (96, 48)
    np.testing.assert_allclose(sample.boxes, [[94.98, 10, 96, 30]], atol=0.011)


def test_a_small_file_of_a_small_picture_stays(tmp_path):
    root = tmp_path / "mine"
    add(root, "a_0", "train", (40, 30), 1, [])
    tiny = root / "images" / "a_0.jpg"
    PillowImage.new("RGB", (40, 30)).save(tmp_path / "grey.webp", quality=1)
    tiny.unlink()
    (root / "images" / "a_0.webp").write_bytes((tmp_path / "grey.webp").read_bytes())
    packed = packing.pack([root], tmp_path / "pack", **LIMITS)
    assert (packed.kept, packed.bytes_before) == (1, packed.bytes_after)


def test_parts_are_bounded_and_the_same_every_time(tmp_path):
    draw_synthetic(tmp_path / "mine", train=30, test=10, seed=0)
    limits = {**LIMITS, "part_bytes": 20_000}
    first = packing.pack([tmp_path / "mine"], tmp_path / "pack", **limits)
    sums = (tmp_path / "pack" / SUMS).read_text()
    assert len(first.parts) > 2
    assert {path: path.stat().st_size for path in first.parts} == first.parts
    assert max(first.parts.values()) <= 20_000
    for line in sums.splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "pack" / name).read_bytes()).hexdigest() == digest
    packing.pack([tmp_path / "mine"], tmp_path / "pack", **limits)
    assert (tmp_path / "pack" / SUMS).read_text() == sums


def test_what_cannot_be_packed_is_said(tmp_path):
    draw_synthetic(tmp_path / "mine", train=2, test=0, seed=0)
    draw_synthetic(tmp_path / "other" / "mine", train=2, test=0, seed=0)
    with pytest.raises(packing.UnusablePack, match="got mine more than once: rename one"):
        packing.pack([tmp_path / "mine", tmp_path / "other" / "mine"], tmp_path / "pack", **LIMITS)
    with pytest.raises(packing.UnusablePack, match="allow larger parts"):
        packing.pack([tmp_path / "mine"], tmp_path / "pack", **{**LIMITS, "part_bytes": 2000})
    with pytest.raises(packing.UnusablePack, match="holds mine, other, pack: choose another"):
        packing.pack([tmp_path / "mine"], tmp_path, **LIMITS)
    (tmp_path / "none" / "images").mkdir(parents=True)
    (tmp_path / "none" / "annotations" / "xmls").mkdir(parents=True)
    with pytest.raises(packing.UnusablePack, match="there is no picture"):
        packing.pack([tmp_path / "none"], tmp_path / "pack", **LIMITS)


def test_the_command_says_what_came_of_it_and_its_line_unpacks(tmp_path):
    draw_synthetic(tmp_path / "mine", train=6, test=2, seed=0)
    pack = tmp_path / "pack"
    done = subprocess.run(
        [sys.executable, "dataset.py", "pack", tmp_path / "mine", "--output", pack, "--longer-side", "96"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.search(
        r"8 pictures, .* MB, now .* MB; 0 of them stayed as they were\. To decode one: ", done.stdout
    )
    line = done.stdout.partition("There, in that folder: ")[2].strip()
    (tmp_path / "there").mkdir()
    subprocess.run(["bash", "-ec", line.replace("FOLDER", "../there")], cwd=pack, check=True)
    assert_same(tmp_path / "mine", tmp_path / "there" / "mine")
