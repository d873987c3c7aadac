"""A model folder gets exports that find what PyTorch finds, or a sentence."""

import dataclasses
import shutil

import numpy as np
import pytest
from small_network import small_detector

from detection.architectures import network_config
from detection.card import DetectorError, read_card
from detection.detections import CLASS_NAMES, Detections, GroundTruth
from detection.detector import Detector
from detection.overlaps import box_iou
from detection.runtime import run_by
from detection.runtimes import check_export, load, load_export
from evaluation.export_check import compare, objections, refer
from photosets import synthetic
from photosets.samples import load_image, read_samples
from registry import main as registry
from schemas import ComparedFigure, Export, ModelCard, NetworkGeometry, OperatingPoint, SecondLookConfig
from training import exporting

PISTOL = CLASS_NAMES.index("pistol")
POINT = OperatingPoint(
    score_threshold=0.5, rule="test", split="val", precision=0.9, recall=0.8, image_recall=0.9,
    false_alarms_per_1000=10, weapon_images=100, weapon_free_images=100,
)  # fmt: skip
CARD = ModelCard(
    network=network_config("fasterrcnn_mobilenet_v2_fpn"), class_names=CLASS_NAMES, operating_point=POINT
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "set"
    synthetic.draw_synthetic(root, train=24, test=2, seed=0)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    """A model folder of a network that knows nothing, with an export made from the command line."""
    folder = tmp_path_factory.mktemp("model")
    look = SecondLookConfig(size_px=32, score_from=0.01)
    small = {"rpn_post_nms_top_n": 20, "box_score_thresh": 0.01}
    small_detector(network=small, second_look=look, operating_point=POINT).save_folder(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv", ["registry.py", "export", str(folder), "--format", "openvino", "--data", str(data)]
        )
        registry()
    return folder


def test_an_export_stands_in_the_card_with_its_checksums_and_its_comparison(folder):
    card = read_card(folder)
    (export,) = card.exports
    assert export.weights_sha256 == card.weights_sha256
    assert {file.rpartition("/")[2] for file in export.files} == {
        f"{part}.{ending}" for part in ("look", "head", "second_look") for ending in ("xml", "bin")
    }
    assert export.comparison is not None
    assert export.comparison.torch_ms > 0 < export.comparison.exported_ms
    assert set(export.comparison.figures) >= {"map", "image_recall", "false_alarms_per_1000"}
    assert export.library_versions["openvino"]
    check_export(folder, card, export)


def test_an_export_from_its_files_finds_what_pytorch_finds(folder, data):
    card = read_card(folder)
    exported, pytorch = load_export(folder, card, card.exports[0]), load(folder, runtime="torch")
    image = load_image(read_samples([data], "val")[0])
    mine, theirs = exported.detect(image), pytorch.detect(image)
    assert mine.scores[0] == pytest.approx(theirs.scores[0], abs=0.05)
    assert box_iou(mine.boxes[:2], theirs.boxes).max(axis=1).min() > 0.9


def test_other_weights_leave_the_exports_of_the_old_ones_behind(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    detector = Detector(read_card(folder))
    detector.save_folder(tmp_path / "model")
    assert read_card(tmp_path / "model").exports == ()


def test_a_second_export_of_a_kind_takes_the_place_of_the_first(folder, data, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    train, val = read_samples([data], "train"), read_samples([data], "val")
    for only_float in (True, True):
        exporting.export_model(tmp_path / "model", "openvino", train, val, only_float=only_float)
    card = read_card(tmp_path / "model")
    assert [export.precision for export in card.exports].count("float") == 1
    assert len(card.exports) == 1 + (card.exports[0].precision == "int8")


def test_onnx_runtime_serves_an_export_too(folder, data, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    train, val = read_samples([data], "train"), read_samples([data], "val")
    exporting.export_model(tmp_path / "model", "onnx", train, val)
    detector = load(tmp_path / "model", runtime="onnx")
    info = run_by(detector)
    assert info is not None
    assert info.name == "onnx"
    assert len(detector.detect(load_image(val[0])))


def test_photos_are_asked_for_with_a_format(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["registry.py", "export", "somewhere", "--format", "openvino"])
    with pytest.raises(SystemExit):
        registry()
    assert "--format and --data go together" in capsys.readouterr().err


# --- accepted or refused ----------------------------------------------------------------------------


def image(found_score: float | None, armed: bool) -> tuple[GroundTruth, Detections]:
    box = np.array([[10, 10, 50, 50]], np.float32)
    truth = GroundTruth(box[: int(armed)], np.array([PISTOL][: int(armed)], np.int64))
    if found_score is None:
        return truth, Detections.empty()
    return truth, Detections(box, np.array([found_score], np.float32), np.array([PISTOL], np.int64))


def split(scores_armed, scores_free):
    pairs = [image(score, True) for score in scores_armed] + [image(score, False) for score in scores_free]
    truths, found = zip(*pairs, strict=True)
    return list(truths), list(found), [f"recording {i}" for i in range(len(pairs))]


def test_an_export_that_finds_the_same_is_accepted():
    truths, found, groups = split([0.9] * 8 + [0.2] * 2, [0.1] * 9 + [0.8])
    reference = refer(CARD, truths, groups, found)
    figures = compare(reference, found)
    assert objections(figures) == []
    assert figures["image_recall"].torch == figures["image_recall"].exported == pytest.approx(0.8)
    assert figures["false_alarms_per_1000"].torch == pytest.approx(100)


def test_alarms_outside_pytorchs_interval_are_refused():
    truths, found, groups = split([0.9] * 38 + [0.2] * 2, [0.1] * 40)
    reference = refer(CARD, truths, groups, found)
    _, weaker, _ = split([0.9] * 20 + [0.4] * 20, [0.1] * 40)
    (sentence,) = objections({"image_recall": compare(reference, weaker)["image_recall"]})
    assert sentence.startswith("image_recall is 0.5 beside PyTorch's 0.95: outside its interval")


@pytest.mark.parametrize(
    ("lost", "refused"), [(0.0029, False), (0.003, False), (0.0031, True), (-0.1, False)]
)
def test_three_tenths_of_a_point_of_map_may_go(lost, refused):
    figure = ComparedFigure(torch=0.5, exported=0.5 - lost)
    assert bool(objections({"map": figure})) == refused


@dataclasses.dataclass
class Finds:
    """A detector that finds the same everywhere."""

    found: Detections
    card: ModelCard = CARD

    def detect(self, image, *, nms_iou=None, max_detections=None, probabilities=False) -> Detections:
        return self.found


def candidate(found: Detections, precision="int8", in_float=()) -> exporting.Candidate:
    geometry = NetworkGeometry(cell_anchors=(), pool_strides=(8,))
    export = Export(
        runtime="openvino",
        precision=precision,
        in_float=in_float,
        files={},
        weights_sha256="",
        geometry=geometry,
    )
    return exporting.Candidate(Finds(found), export, lambda _: None)


def test_parts_are_left_in_float_until_an_export_passes(data):
    samples = read_samples([data], "val")
    good = Detections.empty()
    _, bad = image(0.9, False)
    reference = refer(
        CARD,
        [sample.truth for sample in samples],
        [sample.recording for sample in samples],
        [good] * len(samples),
    )
    made, said = list[str](), list[str]()

    def candidates():
        for one in (candidate(bad), candidate(good, in_float=("head",)), candidate(good, "float")):
            made.append(str(one))
            yield one

    chosen, _ = exporting.first_that_passes(reference, candidates(), samples, said.append)
    assert chosen.export.in_float == ("head",)
    assert made == ["OpenVINO in int8", "OpenVINO in int8, head in float"]
    assert said[1].startswith("refused: OpenVINO in int8: false_alarms_per_1000 is 1000 beside PyTorch's 0")


def test_an_export_that_finds_less_is_refused_in_a_sentence(data):
    samples = read_samples([data], "val")
    reference = refer(
        CARD, [sample.truth for sample in samples], [sample.recording for sample in samples],
        [Detections.empty()] * len(samples),
    )  # fmt: skip
    _, bad = image(0.9, False)
    with pytest.raises(DetectorError, match=r"^no export finds what PyTorch finds. OpenVINO in float: f"):
        exporting.first_that_passes(reference, [candidate(bad, "float")], samples, lambda _: None)
