"""The program, on pictures drawn here: what it measures, what it writes, what it says when it cannot."""

from __future__ import annotations

import dataclasses
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_detector import make_card
from mlflow import MlflowClient
from PIL import Image as PillowImage
from PIL import ImageDraw
from pydantic import TypeAdapter

import evaluate
import metrics
from commands import evaluate_config
from detection import architectures, imaging
from detection import detector as detectors
from detection.card import read_card, write_card
from detection.confirmation import Rule
from detection.detections import CLASS_NAMES, Detections
from detection.overlaps import box_iou
from evaluation import calibration, pictures, results, robustness, tables
from evaluation import report as reports
from evaluation.video import Look, Seen, measure_video
from photosets import layout, synthetic
from photosets import samples as photographs
from schemas import ModelCard, OperatingPoint
from training import engine

ROOT = Path(evaluate.__file__).parent
PISTOL, SMARTPHONE = CLASS_NAMES.index("pistol"), CLASS_NAMES.index("smartphone")
COLORS = {"pistol": (230, 40, 40), "smartphone": (40, 40, 230)}
SIZE = (160, 120)


def write_picture(root: Path, stem: str, objects, *, side="test", filename=None):
    """Draw coloured ellipses and write picture and XML as the data set has them."""
    images, annotations = (root / part for part in layout.FOLDERS[side])
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    picture = PillowImage.new("RGB", SIZE, (128, 128, 128))
    xml = ElementTree.Element("annotation")
    ElementTree.SubElement(xml, "filename").text = filename or f"{stem}.png"
    size = ElementTree.SubElement(xml, "size")
    for key, value in (("width", SIZE[0]), ("height", SIZE[1]), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    for name, box in objects:
        ImageDraw.Draw(picture).ellipse(box, fill=COLORS[name])
        element = ElementTree.SubElement(xml, "object")
        ElementTree.SubElement(element, "name").text = name
        bounds = ElementTree.SubElement(element, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            ElementTree.SubElement(bounds, key).text = str(value)
    picture.save(images / f"{stem}.png")
    ElementTree.ElementTree(xml).write(annotations / f"{stem}.xml")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    for i in range(6):
        write_picture(root, f"gun_{i}", [("pistol", (20 + 5 * i, 30, 80 + 5 * i, 70))])
        write_picture(root, f"phone_{i}", [("smartphone", (60, 20 + 3 * i, 100, 90 + 3 * i))])
    write_picture(root, "nothing", [])
    return root


class ColorFinder:
    """Finds what is much redder or much bluer than grey; a real detector of what write_picture draws."""

    def __init__(self, blind_below=0):
        self.blind_below = blind_below  # contrast needed

    def detect(self, image):
        boxes, scores, labels = [], [], []
        for label, strong, weak in ((PISTOL, 0, 2), (SMARTPHONE, 2, 0)):
            contrast = image[..., strong].astype(int) - image[..., weak]
            rows, columns = np.nonzero(contrast > max(10, contrast.max() / 2))
            if len(rows) and contrast.max() > self.blind_below:
                boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
                scores.append(0.9 if label == PISTOL else 0.8)
                labels.append(label)
        return Detections(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(scores, np.float32),
            np.array(labels, np.int64),
        )


def config_for(root, *arguments):
    return evaluate_config(["--data", str(root), *arguments])


def score(config, finder):
    samples = photographs.read_samples(config.data, config.split)
    found = engine.evaluate(finder, samples)
    return evaluate.score(config, finder, samples, found, "a model", make_card(operating_point=None))


def test_score_measures_what_the_finder_finds(root):
    result = score(config_for(root), ColorFinder())
    assert result.title == "local test"
    assert (result.images, result.negatives) == (13, 1)
    assert result.coco["map_50"] == pytest.approx(1)
    assert (result.measured.image_recall, result.measured.false_alarms_per_1000) == (1, 0)
    assert result.latency.images == 13
    assert result.recordings == 3  # gun_0 to 5, phone_0 to 5, nothing
    assert result.data["Fingerprint"] == photographs.fingerprint(photographs.read_samples([root], "test"))


def test_time_is_not_measured_where_other_work_runs(root):
    assert score(config_for(root, "--no-latency"), ColorFinder()).latency is None


def test_robustness_shows_which_change_hurts(root):
    result = score(config_for(root, "--robustness"), ColorFinder(blind_below=120))
    slices = {one.name.split(" ")[0]: one for one in result.robustness}
    assert list(slices) == ["unchanged", "darker", "blurred", "JPEG", "half", "rotated"]
    assert slices["darker"].image_recall == 0  # contrast 190 x .35 is under 120
    for name in ("unchanged", "blurred", "JPEG", "half", "rotated"):
        assert slices[name].image_recall == 1, name
        assert slices[name].map_50 == pytest.approx(1), name


@pytest.mark.parametrize("change", robustness.CHANGES.values(), ids=robustness.CHANGES)
def test_boxes_stay_on_their_objects(change):
    picture = PillowImage.new("RGB", (200, 140), (128, 128, 128))
    ImageDraw.Draw(picture).ellipse((10, 10, 90, 50), fill=COLORS["pistol"])
    image, boxes = change(np.asarray(picture), np.array([(10, 10, 90, 50)], np.float32))
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert box_iou(boxes, ColorFinder().detect(image).boxes)[0, 0] > 0.92


def test_changes_do_what_they_say():
    image = np.full((60, 80, 3), 200, np.uint8)
    no_boxes = np.zeros((0, 4), np.float32)
    assert robustness.darken(image, no_boxes)[0].mean() == pytest.approx(200 * robustness.DARKER, abs=1)
    assert robustness.halve(image, no_boxes)[0].shape == (30, 40, 3)
    turned = robustness.rotate(image, no_boxes)[0]
    assert turned.shape[0] > 60
    assert turned.min() > 190  # the corners have the mean colour
    checks = np.indices((60, 80)).sum(axis=0) % 2 * 255
    fine = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    assert np.ptp(robustness.blur(np.tile(fine, (5, 5, 1)), no_boxes)[0][100:200, 100:200].astype(int)) < 60
    assert (robustness.compress(fine, no_boxes)[0] != fine).any()


def test_local_images_are_never_put_beside_the_published_figures(root):
    result = score(config_for(root, "--compare-to-original"), ColorFinder())
    assert result.published == {}
    assert result.original_subset == {}
    assert any("These are 13 others" in note for note in result.notes)


@pytest.fixture
def official(root, monkeypatch):
    """Make the drawn pictures the official test split: their number, and two of their names."""
    monkeypatch.setattr(metrics, "OFFICIAL_TEST_IMAGES", 13)
    monkeypatch.setattr(metrics, "OFFICIAL_TEST_NAMES", frozenset(("gun_0", "phone_3")))


def test_official_split_stands_beside_them_on_all_and_on_the_originals_images(root, official):
    write_picture(root, "gun_0", [("pistol", (20, 30, 80, 70))], filename="renamed.jpg")
    result = score(config_for(root, "--compare-to-original"), ColorFinder())
    assert result.title == "official test"
    assert result.published["map_50"] == 0.9004
    assert result.original_subset["images"] == 12  # the original's loader drops a picture named otherwise


def test_other_pictures_are_not_the_official_test(root, official):
    samples = photographs.read_samples([root], "test")
    elsewhere = dataclasses.replace(samples[0], root=root / "elsewhere")
    renamed = dataclasses.replace(samples[0], image_path=root / "images_test" / "other.png")
    assert samples[0].name == "gun_0"
    assert evaluate.is_official(samples, "test")
    assert not evaluate.is_official(samples, "val")
    assert not evaluate.is_official(samples[1:], "test")
    assert not evaluate.is_official([elsewhere, *samples[1:]], "test")
    assert not evaluate.is_official([renamed, *samples[1:]], "test")  # as many, of other names


def test_as_many_pictures_of_ones_own_are_not_put_beside_the_published_figures(root, monkeypatch):
    monkeypatch.setattr(metrics, "OFFICIAL_TEST_IMAGES", 13)
    result = score(config_for(root, "--compare-to-original"), ColorFinder())
    assert result.title == "local test"
    assert result.published == {}
    assert any("by number or by name" in note for note in result.notes)


def test_table_shows_two_reports_side_by_side(root):
    good, bad = (score(config_for(root), finder) for finder in (ColorFinder(), ColorFinder(blind_below=255)))
    table = tables.figures_table(good, bad)
    row = list(table.columns[0].cells).index("mAP at IoU 0.50, COCO")
    assert [list(column.cells)[row] for column in table.columns[1:]] == ["1.0000", "0.0000"]


def test_a_picture_that_cannot_be_decoded_is_named(root):
    samples = photographs.read_samples([root], "test")
    samples[3].image_path.write_bytes(b"no picture")
    with pytest.raises(imaging.ImageError, match=samples[3].image_path.name):
        engine.evaluate(ColorFinder(), samples, progress=False)


# --- the whole program, with a real network -----------------------------------------------------------


CHOSEN = OperatingPoint(
    score_threshold=0.3, rule="the most weapons", split="val", precision=0.9, recall=0.8, image_recall=0.85,
    false_alarms_per_1000=40, weapon_images=50, weapon_free_images=25,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder: the light network with random weights, at a size that takes no time."""
    torch.manual_seed(0)
    network = architectures.network_config(
        "fasterrcnn_mobilenet_v2_fpn", min_size=64, max_size=96, fpn_channels=16, box_head_width=16,
        box_detections_per_img=10,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    detectors.Detector(ModelCard(network=network, class_names=CLASS_NAMES)).save_folder(folder)
    return folder


def test_program_writes_the_report_and_says_where(root, model, tmp_path, capsys):
    other = dataclasses.replace(score(config_for(root), ColorFinder()), model="another one")
    (tmp_path / "report.json").write_bytes(TypeAdapter(results.Report).dump_json(other))
    out = tmp_path / "out"
    arguments = ["--data", str(root), "--model", str(model), "--output", str(out), "--limit", "4"]
    code = evaluate.main([*arguments, "--against", str(tmp_path)])
    said = capsys.readouterr().out
    assert code == 0
    assert reports.read_report(out).images == 4
    assert "local test, 4 images" in said
    assert "another" in said
    assert f"report: {out / 'report.html'}" in said
    assert "chosen on these very images" in " ".join(said.split())  # the model has no operating point


def test_tiles_are_looked_at_too_and_the_report_says_so(root, model, tmp_path, monkeypatch):
    seen = []
    detect = detectors.Detector.detect

    def watched(self, image, **options):
        seen.append(image.shape)
        return detect(self, image, **options)

    monkeypatch.setattr(detectors.Detector, "detect", watched)
    arguments = ["--data", str(root), "--model", str(model), "--output", str(tmp_path), "--limit", "1"]
    assert evaluate.main([*arguments, "--tiles", "2x2"]) == 0
    assert seen[1:] == [(120, 160, 3)] + [(67, 89, 3)] * 4  # after the warm-up
    assert reports.read_report(tmp_path).data["Tiles"] == "2x2"


def test_a_models_name_is_said_as_typed(root, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate.console, "width", 200)
    shutil.copytree(model, Path("st[/v2] :knife:"))
    arguments = ["--data", str(root), "--model", "st[/v2] :knife:", "--output", "out[/v2]", "--limit", "4"]
    code = evaluate.main(arguments)
    said = capsys.readouterr().out
    assert code == 0
    assert "st[/v2] :knife:" in said
    assert "report: out[/v2]/report.html" in said


def test_a_report_of_other_images_is_not_taken_for_a_rival(root, model, tmp_path, capsys):
    same = score(config_for(root), ColorFinder())
    others = dataclasses.replace(same, images=99, data={"Fingerprint": "of others"})
    for rival, warned in ((same, False), (others, True)):
        (tmp_path / "report.json").write_bytes(TypeAdapter(results.Report).dump_json(rival))
        arguments = ["--data", str(root), "--model", str(model), "--against", str(tmp_path / "report.json")]
        assert evaluate.main([*arguments, "--output", str(tmp_path / "out")]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert ("is of other images (local test, 99 images)" in said) == warned


def test_the_program_compares_two_models_and_writes_a_data_set_of_fiftyone(root, model, tmp_path, capsys):
    arguments = ["--data", str(root), "--model", str(model), "--limit", "4", "--output"]
    assert evaluate.main([*arguments, str(tmp_path / "first")]) == 0
    assert not (tmp_path / "first" / "compare.html").exists()
    more = [str(tmp_path / "second"), "--against", str(tmp_path / "first"), "--fiftyone"]
    assert evaluate.main([*arguments, *more]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0 on which they differ" in (tmp_path / "second" / "compare.html").read_text()
    assert "fo.Dataset.from_dir(" in said
    samples = json.loads((tmp_path / "second" / "fiftyone" / "samples.json").read_text())["samples"]
    assert len(samples) == 4
    assert all(Path(sample["filepath"]).is_file() for sample in samples)
    assert len(pictures.read_pictures(tmp_path / "second").pictures) == 4


def test_program_logs_to_the_run_that_made_the_model(root, model, tmp_path):
    tracking_uri = f"sqlite:///{tmp_path / 'tracker.db'}"
    client = MlflowClient(tracking_uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    result = score(config_for(root), ColorFinder())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text("the page")
    evaluate.log_report(result, tmp_path / "out", run_id, tracking_uri)
    run = client.get_run(run_id)
    assert run.data.metrics["test/map_50"] == pytest.approx(1)
    assert run.data.metrics["test/alarm/image_recall"] == 1
    data = result.data["Fingerprint"][:8]
    assert run.data.tags["evaluation.test"] == f"local test, 13 images, {data}"
    files = [file.path for file in client.list_artifacts(run_id, "evaluation/test")]
    assert files == ["evaluation/test/report.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "{tmp}/absent", "--model", "{model}"], "there is no folder"),
        (["--data", "{tmp}", "--model", "{model}"], "expected images/"),
        (["--data", "{data}", "--model", "{tmp}"], "expected a model folder with model.json"),
        (["--data", "{data}", "--model", "{model}", "--against", "{tmp}"], "expected a report at"),
        (["--data", "{data}", "--model", "{model}", "--output", "{file}"], "cannot write the report into"),
        (["--data", "{data}", "--model", "{logged}", "--log"], "No MLflow tracker answers at"),
        (["--data", "{data}"], "No MLflow tracker answers at"),
        (["--data", "{data}", "--model", "{model}", "--keep"], "if it has an operating point"),
        (["--data", "{data}", "--model", "{logged}", "--keep", "--split", "train"], "with --split val"),
        (["--data", "{data}", "--model", "{logged}", "--keep", "--limit", "3"], "leave out --limit"),
        (["--data", "{data}", "--model", "{logged}", "--keep", "--tiles", "2x2"], "leave out --tiles 2x2"),
        (["--data", "{data}", "--model", "{logged}", "--log", "--tiles", "auto"], "leave out --tiles auto"),
    ],
)
def test_problems_are_sentences_and_exit_code_1(arguments, message, root, model, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_bytes(b"")
    logged = tmp_path / "logged"
    shutil.copytree(model, logged)
    card = read_card(logged).model_copy(update={"run_id": "a run", "operating_point": CHOSEN})
    write_card(logged, card)
    places = {"tmp": tmp_path, "model": model, "logged": logged, "data": root, "file": file}
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "out")]
    filled = [argument.format(**places) for argument in arguments]
    code = evaluate.main([*filled, *output, "--mlflow-tracking-uri", "http://127.0.0.1:9"])
    said = capsys.readouterr().err
    assert code == 1
    assert said.startswith("error: ")
    assert message in said
    assert "Traceback" not in said


def test_kept_figures_stand_in_the_models_card_beside_what_chose_it(root, model, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    before = read_card(folder).model_copy(update={"operating_point": CHOSEN, "metrics": {"val/map": 0.7}})
    write_card(folder, before)
    arguments = ["--data", str(root), "--model", str(folder), "--output", str(tmp_path / "out"), "--keep"]
    assert evaluate.main(arguments) == 0
    assert f"kept in {folder / 'model.json'}" in capsys.readouterr().out
    after = detectors.load_folder(folder).card
    result = reports.read_report(tmp_path / "out")
    assert after.operating_point == CHOSEN
    assert after.tested_alarm is not None
    assert after.tables is not None
    assert after.alarm == after.tested_alarm
    assert after.tested_alarm.operating_point == result.measured.model_copy(update={"rule": CHOSEN.rule})
    assert after.tested_alarm.operating_point.split == "test"
    assert after.tested_alarm.operating_point.score_threshold == 0.3
    assert after.tested_alarm.curve == result.alarm_curve
    assert after.tables.split == "test"
    assert after.metrics["val/map"] == 0.7
    assert after.metrics["test/map"] == pytest.approx(result.coco["map"])


def test_validation_gives_a_model_folder_its_points_calibration_and_bands(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calibration, "FEWEST_TO_FIT", 3)  # few pictures are drawn
    monkeypatch.setattr(calibration, "FEWEST_IN_BAND", 5)
    data, folder = tmp_path / "data", shutil.copytree(ROOT / "weights" / "starter", tmp_path / "model")
    synthetic.draw_synthetic(data, train=40, test=6, seed=0)
    card = read_card(folder)
    small = card.network.model_copy(update={"min_size": 128, "max_size": 128, "box_score_thresh": 0.001})
    videos = measure_video(
        [Seen("a", "a", 2.0, (), (Look(0, ()),))], Rule(0.6, 0.3), split="test", runtime="torch"
    )
    write_card(folder, card.model_copy(update={"network": small, "video": videos.figures}))
    arguments = ["--data", str(data), "--model", str(folder), "--output", str(tmp_path / "out"), "--keep"]
    choosing = [*arguments, "--split", "val", "--val-fraction", "0.45", "--no-latency"]
    assert evaluate.main(choosing) == 0
    assert "run evaluate.py --keep on the test split again" in capsys.readouterr().out.replace("\n", " ")
    once, result = read_card(folder), reports.read_report(tmp_path / "out")
    assert once.calibration.keys() == set(CLASS_NAMES[1:])
    assert once.operating_point == result.operating_point != card.operating_point
    assert (once.bands, once.unsure_point) == (result.bands, result.unsure_point)
    assert [one.scores for one in result.reliability] == ["raw", "calibrated"]
    assert (once.tested_alarm, once.video) == (None, None)
    assert not [key for key in once.metrics if key.startswith("test/")], "they are of the points before"
    assert once.metrics["val/calibration_error/raw"] == result.reliability[0].error
    assert once.data["points"]["images"] == result.images
    assert (once.weights_sha256, once.data["train"]) == (card.weights_sha256, card.data["train"])
    assert evaluate.main(choosing) == 0
    assert read_card(folder) == once, "it was fitted to scores that were calibrated already"
    assert evaluate.main(arguments) == 0
    tested = read_card(folder)
    assert tested.tested_alarm is not None
    assert tested.tested_alarm.operating_point.score_threshold == once.operating_point.score_threshold
    assert tested.calibration == once.calibration
    assert "test/calibration_error/served" in tested.metrics


def test_a_model_without_a_run_cannot_be_logged(root, model, tmp_path, capsys):
    arguments = ["--data", str(root), "--model", str(model), "--output", str(tmp_path / "out"), "--log"]
    assert evaluate.main(arguments) == 1
    assert "does not say which MLflow run made it: leave out --log" in capsys.readouterr().err


def test_environment_names_the_model_and_the_tracker(monkeypatch):
    monkeypatch.setenv("MODEL_NAME", "other")
    monkeypatch.setenv("MODEL_VERSION", "7")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    config = evaluate_config(["--data", "a", "b", "--model-version", "8"])
    assert (config.model_name, config.model_version, config.mlflow_tracking_uri) == (
        "other", "8", "http://tracker:5000",
    )  # fmt: skip
    assert config.data == [Path("a"), Path("b")]
