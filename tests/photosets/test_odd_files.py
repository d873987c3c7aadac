"""Whatever stands in somebody's file: samples, or a sentence; never a traceback."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import other_layouts as others
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from photosets.layout import DatasetError
from photosets.report import DatasetReport
from photosets.samples import read_samples

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 200), st.floats(), st.text(max_size=4),
        st.sampled_from(["a.jpg", ".", "/", "..\\b.jpg", "C:\\a.jpg", "\0", "train", "0 0.5 0.5 0.2 0.2"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abx"), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def places(document: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document but the whole."""
    inside: Any = ()
    if isinstance(document, dict):
        inside = document.items()
    elif isinstance(document, list):
        inside = enumerate(document)
    return [found for key, value in inside for found in [(*place, key), *places(value, (*place, key))]]


def changed(document: Any, place: tuple[Any, ...], value: Any) -> str:
    document = copy.deepcopy(document)
    inside = document
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return json.dumps(document)


def reads(root: Path) -> None:
    """Read a root; what is wrong must be a sentence, and every picture be accounted for."""
    report = DatasetReport()
    try:
        samples = read_samples([root], "train", val_fraction=0, report=report, classes="-x")
    except DatasetError:
        return
    assert len(samples) == report.images
    assert {sample.name for sample in samples} | {"a", "b"} == {"a", "b"}


@pytest.mark.parametrize("make", [others.coco, others.label_studio], ids=["COCO", "Label Studio"])
def test_json_of_which_any_value_is_another(tmp_path, make):
    path = make(tmp_path)
    document = json.loads(path.read_text())
    if make is others.coco:
        document["annotations"][0]["segmentation"] = [[1, 2, 3, 4, 5, 6]]

    @FEW
    @given(st.sampled_from(places(document)), VALUES)
    def check(place, value):
        path.write_text(changed(document, place, value))
        reads(tmp_path)

    check()


def test_data_yaml_of_which_any_value_is_another(tmp_path):
    others.yolo(tmp_path)
    document = {
        "path": ".",
        "train": "train/images",
        "val": None,
        "names": ["pistol", "knife"],
        "kpt_shape": None,
    }

    @FEW
    @given(st.sampled_from(places(document)), VALUES)
    def check(place, value):
        (tmp_path / "data.yaml").write_text(changed(document, place, value))
        reads(tmp_path)

    check()


def test_label_files_of_any_text(tmp_path):
    others.yolo(tmp_path)

    @FEW
    @given(st.text(alphabet="01 2.-e\nnaif\t,", max_size=40))
    def check(text):
        (tmp_path / "train/labels/a.txt").write_text(text)
        reads(tmp_path)

    check()


def test_cvat_of_which_any_attribute_is_another(tmp_path):
    shapes = others.CVAT_A + '<polygon label="knife" points="1,2;30,2;30,40"/>'
    path = others.cvat(tmp_path, shapes)
    words = path.read_text().split('"')

    @FEW
    @given(st.integers(0, len(words) // 2 - 1), st.text(alphabet="01,;. -ab", max_size=6))
    def check(number, value):
        path.write_text('"'.join([*words[: 2 * number + 1], value, *words[2 * number + 2 :]]))
        reads(tmp_path)

    check()
