"""Classes of somebody's own: what --classes and --dangerous make of names in the data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import other_layouts as others
import pytest

from detection.detections import CLASS_NAMES, SIX, Classes
from photosets.classes import UnknownName, UnusableRule, class_rule, training_classes
from photosets.samples import UnknownClass, read_samples

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "dangerous", "names", "weapons"),
    [
        ("", [], CLASS_NAMES[1:], ("pistol", "knife")),
        ("pistol=gun knife -other", [], CLASS_NAMES[1:], ("pistol", "knife")),  # of the six alone: all six
        ("", ["knife"], CLASS_NAMES[1:], ("knife",)),
        ("rifle=ak47 axe phone", ["rifle", "axe"], ("rifle", "axe", "phone"), ("rifle", "axe")),
        (
            "rifle pistol=gun wallet",
            ["Rifle", "pistol"],
            ("rifle", "pistol", "monedero"),
            ("rifle", "pistol"),
        ),
        ("axe Axe=hatchet 'war-axe'=x", ["axe"], ("axe", "war-axe"), ("axe",)),
        ("'assault rifle'=ak", ["assault_rifle"], ("assault rifle",), ("assault rifle",)),
        ("топор", ["топор"], ("топор",), ("топор",)),
    ],
)
def test_a_rule_that_names_a_new_class_makes_a_model_of_the_classes_it_names(text, dangerous, names, weapons):
    classes = training_classes(text, dangerous)
    assert classes.names == ("__background__", *names)
    assert classes.dangerous == weapons
    assert [classes.names[label] for label in classes.weapons] == list(weapons)
    assert {classes.names[label] for label in classes.lookalikes} == {*names} - {*weapons}


@pytest.mark.parametrize(
    ("text", "dangerous", "said"),
    [
        (
            "rifle=ak47 axe",
            [],
            "rifle, axe are new classes. Name every dangerous one, as in --dangerous",
        ),
        ("pistl=gun", [], "pistl is a new class.*did you mean pistol by pistl"),
        ("rifle phone", ["axe"], "--dangerous: expected some of rifle, phone, got axe"),
        ("billete=note", ["sword"], "--dangerous: expected some of pistol, knife"),
        ("x/y=z", ["x/y"], "letters, digits"),
    ],
)
def test_what_is_not_said_of_a_new_class_is_asked(text, dangerous, said):
    with pytest.raises(UnusableRule, match=said):
        training_classes(text, dangerous)


def test_names_mean_what_the_rule_says_in_a_model_of_somebodys_own():
    rule = class_rule("rifle=ak47,m16 axe -toy", dangerous=["rifle"])
    given = ["Rifle", "AK-47", "m16", "axe", "toy"]
    assert rule.meanings(given) == ["rifle", "rifle", "rifle", "axe", None]
    with pytest.raises(UnknownName, match="pistol"):  # none of its classes
        rule.meaning("pistol")


def test_a_model_that_is_there_gets_no_new_classes():
    mine = Classes(("__background__", "rifle", "axe"), ("rifle",))
    assert class_rule("rifle=ak47 axe", mine).classes is mine
    with pytest.raises(UnusableRule, match="expected one of rifle, axe before =, got 'sword'"):
        class_rule("sword=katana", mine)


def test_unknown_names_are_told_with_the_flags_that_make_classes_of_them(tmp_path):
    others.yolo(tmp_path, data="train: train/images\nnames: [rifle, axe]\n")
    with pytest.raises(UnknownClass, match="make classes of your own of them: --classes 'axe rifle'"):
        read_samples([tmp_path], "train", val_fraction=0)
    [sample, _] = read_samples([tmp_path], "train", val_fraction=0, classes="rifle axe", dangerous=["axe"])
    assert sample.labels.tolist() == [1, 2]
    with pytest.raises(UnknownClass, match="mean one of rifle, sword") as stop:
        read_samples([tmp_path], "train", val_fraction=0, classes="rifle sword", dangerous=["sword"])
    assert "--classes 'rifle sword axe'" in str(stop.value)
    with pytest.raises(UnknownClass) as stop:
        read_samples([tmp_path], "train", val_fraction=0, known=SIX)
    assert "classes of your own" not in str(stop.value)


def test_check_says_the_flags_and_counts_by_the_new_classes(tmp_path):
    others.yolo(tmp_path, data="train: train/images\nnames: [rifle, axe]\n")
    command = [sys.executable, str(ROOT / "dataset.py"), "check", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "To train on it:" in done.stdout
    assert "--classes 'axe rifle'" in done.stdout
    own = [*command, "--classes", "rifle axe", "--dangerous", "rifle"]
    done = subprocess.run(own, capture_output=True, text=True, check=False)
    assert "unknown class" not in done.stdout
    assert "rifle boxes" in done.stdout
    assert "pistol boxes" not in done.stdout
