"""A model of somebody's own classes, from a YOLO export to what is registered, measured and served."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest
import safetensors
from fake_detector import api_settings, live_server
from PIL import Image as PillowImage

import evaluate
import train
from commands import train_config
from detection.card import read_card, write_card
from detection.detections import Classes, Detections, GroundTruth
from detection.imaging import encode_image
from evaluation import report as reports
from evaluation import tables
from evaluation.results import build_report
from photosets import convert, synthetic
from serving.app import create_app
from settings import TorchrunSettings
from tracking.versions import find_version

MINE = Classes(("__background__", "rifle", "axe", "phone"), ("rifle", "axe"))
RULE = "rifle=pistol axe=knife phone=smartphone -billete,monedero,tarjeta"


def truth_of(*labels: int) -> GroundTruth:
    boxes = [[40 * i, 0, 40 * i + 30, 30] for i in range(len(labels))]
    return GroundTruth(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64))


def found_in(truth: GroundTruth, *labels: int) -> Detections:
    scores = np.linspace(0.9, 0.8, len(labels), dtype=np.float32)
    return Detections(truth.boxes[: len(labels)], scores, np.array(labels, np.int64))


def test_a_report_follows_the_classes(tmp_path):
    truths = [truth_of(1), truth_of(2, 3), truth_of(3)]
    detections = [found_in(truths[0], 1), found_in(truths[1], 3, 3), found_in(truths[2], 2)]
    result = build_report(truths, detections, MINE, split="test", draws=10)
    assert {one.name: one.ap is None for one in result.classes} == {
        "rifle": False,
        "axe": False,
        "phone": False,
    }
    assert result.weapons == ("rifle", "axe")
    assert result.coco["ap50/rifle"] == 1.0
    cells = {(cell.weapon, cell.lookalike): cell for cell in result.lookalikes}
    assert cells.keys() == {
        (weapon, other) for weapon in ("rifle", "axe", "any") for other in ("phone", "any")
    }
    assert cells["axe", "phone"].called_weapon == 1  # the phone of the third image
    assert cells["any", "any"].called_lookalike == 1  # the axe of the second
    assert result.measured.weapon_images == 2
    page = reports.write_report(result, tmp_path).read_text()
    assert "when a weapon (rifle, axe) reaches" in page
    assert "pistol" not in page
    assert reports.read_report(tmp_path).weapons == ("rifle", "axe")
    table = tables.figures_table(result)
    assert {"rifle AP", "axe AP"} <= {*table.columns[0].cells}


@pytest.mark.slow
def test_a_yolo_export_of_own_classes_is_trained_registered_served_and_measured(
    tmp_path, tracker_uri, capsys
):
    synthetic.draw_synthetic(tmp_path / "drawn", train=24, test=8, seed=0)
    convert.convert([tmp_path / "drawn"], tmp_path / "mine", "yolo", classes=RULE)
    flags = [
        "--preset", "smoke", "--data", str(tmp_path / "mine"), "--output", str(tmp_path / "run"),
        "--classes", "rifle axe phone", "--dangerous", "rifle", "axe", "--epochs", "1", "--limit", "8",
        "--batch-size", "4", "--min-size", "96", "--max-size", "96", "--fpn-channels", "16",
        "--box-head-width", "16", "--workers", "0", "--experiment", "own", "--model-name", "own",
        "--no-export",
    ]  # fmt: skip
    train.train(train_config(flags), TorchrunSettings())
    folder = tmp_path / "run" / "best"
    card = read_card(folder)
    assert (card.class_names, card.dangerous) == (MINE.names, MINE.dangerous)
    assert card.data["train"]["boxes"].keys() == {"rifle", "axe", "phone"}
    with safetensors.safe_open(folder / "weights.safetensors", "pt") as weights:
        assert weights.get_slice("roi_heads.box_predictor.cls_score.weight").get_shape()[0] == 4
    registered = find_version("own", tracking_uri=tracker_uri)  # the first is champion
    assert registered.classes() == (frozenset({"rifle", "axe", "phone"}), frozenset({"rifle", "axe"}))
    told = ["--data", str(tmp_path / "mine"), "--model", str(folder), "--no-latency"]
    assert evaluate.main([*told, "--output", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [one["name"] for one in report["classes"]] == ["rifle", "axe", "phone"]
    assert report["weapons"] == ["rifle", "axe"]
    # So small a network is sure of nothing: from score 0 on, whatever it takes for a rifle or axe alarms.
    assert card.operating_point is not None
    point = card.operating_point.model_copy(update={"score_threshold": 0.0})
    network = card.network.model_copy(update={"box_score_thresh": 0.0})
    write_card(
        folder, card.model_copy(update={"operating_point": point, "unsure_point": None, "network": network})
    )
    picture = encode_image(np.asarray(PillowImage.linear_gradient("L").convert("RGB")))
    with live_server(create_app(api_settings(model_dir=folder))) as (client, _):
        assert_served(client, picture)


def assert_served(client: httpx.Client, picture: bytes) -> None:
    assert client.get("/model").json()["dangerous"] == ["rifle", "axe"]
    [result] = client.post("/predict", files={"file": picture}).json()["results"]
    assert {one["label"] for one in result["detections"]} <= {"rifle", "axe", "phone"}
    assert {one["label"] for one in result["detections"] if one["dangerous"]} & {"rifle", "axe"}
    assert result["verdict"] == "alarm"
