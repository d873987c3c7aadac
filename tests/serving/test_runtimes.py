"""Which runtime serves a model folder, what is said where another cannot, and an API without PyTorch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LONGEST_S
from fake_detector import FakeDetector, api_settings, live_server, png
from small_network import small_detector

from detection import export as exports
from detection.card import DetectorError, read_card, write_card
from detection.detector import load_folder
from detection.processor import multiplies_int8, processor_name
from detection.runtime import run_by
from detection.runtimes import load
from schemas import ComparedFigure, Export, ExportComparison, RuntimeInfo
from serving.app import create_app
from tracking.versions import sha256_of

ROOT = Path(__file__).parents[2]


def compared(exported_ms=10.0, torch_ms=40.0) -> ExportComparison:
    figures = {"map": ComparedFigure(torch=0.5, exported=0.5)}
    return ExportComparison(images=9, figures=figures, torch_ms=torch_ms, exported_ms=exported_ms)


def change_exports(folder: Path, **changes) -> None:
    card = read_card(folder)
    changed = tuple(export.model_copy(update=changes) for export in card.exports)
    write_card(folder, card.model_copy(update={"exports": changed}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model folder with exports for OpenVINO (called int8, nothing in it is) and ONNX Runtime."""
    folder = tmp_path_factory.mktemp("model")
    small_detector(network={"rpn_post_nms_top_n": 20, "box_score_thresh": 0.01}).save_folder(folder)
    pieces = exports.take_apart(load_folder(folder, optimize=False))
    kinds = {"openvino": ("int8", 10.0), "onnx": ("float", 20.0)}
    found = []
    for runtime, (precision, milliseconds) in kinds.items():
        place = folder / f"{runtime}-{precision}"
        place.mkdir()
        if runtime == "openvino":
            exports.write_openvino(exports.to_openvino(pieces), place)
        else:
            exports.write_onnx(pieces, place)
        found.append(
            Export(
                runtime=runtime, precision=precision, geometry=pieces.geometry,
                files={f"{place.name}/{file.name}": sha256_of(file) for file in place.iterdir()},
                weights_sha256=read_card(folder).weights_sha256, comparison=compared(milliseconds),
            )
        )  # fmt: skip
    write_card(folder, read_card(folder).model_copy(update={"exports": tuple(found)}))
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "model"))


def photo_of_noise():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


def chosen(folder, **options) -> RuntimeInfo:
    """Return what load chooses, and why nothing else."""
    info = run_by(load(folder, **options))
    assert info is not None
    return info


def test_the_fastest_export_serves(folder):
    found = chosen(folder, has_int8=lambda: True)
    assert (found.name, found.precision, found.notes) == (
        "openvino",
        "int8",
        [],
    )


@pytest.mark.parametrize("runtime", ["torch", "openvino", "onnx"])
def test_what_was_asked_for_serves(folder, runtime):
    assert chosen(folder, runtime=runtime, has_int8=lambda: True).name == runtime


def test_an_export_that_is_slower_than_pytorch_does_not_serve_by_itself(folder):
    change_exports(folder, comparison=compared(41.0, 40.0))
    assert chosen(folder).name == "torch"


def test_a_graphics_card_is_pytorchs(folder, monkeypatch):
    monkeypatch.setattr("detection.detector.load_folder", lambda *_args, device: FakeDetector())
    assert chosen(folder, device="cuda").name == "torch"


def flip_a_byte(folder: Path) -> None:
    path = folder / "openvino-int8/look.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


WRONG = {
    "damaged": (flip_a_byte, "look.bin is not the file that model.json was written for: it is damaged"),
    "missing": (
        lambda folder: (folder / "openvino-int8/head.xml").unlink(),
        "should have the file openvino-int8/head.xml",
    ),
    "of other weights": (
        lambda folder: change_exports(folder, weights_sha256="0123456789abcdef" * 4),
        "was made of other weights (SHA-256 0123456789ab...) than this model's",
    ),
    "never compared": (
        lambda folder: change_exports(folder, comparison=None), "was never compared with PyTorch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_pytorch_serves_in_place_of_an_export_that_cannot_and_says_so(folder, what):
    spoil, sentence = WRONG[what]
    spoil(folder)
    found = chosen(folder, runtime="openvino", has_int8=lambda: True)
    assert found.name == "torch"
    (note,) = found.notes
    assert sentence in note


def test_a_processor_without_the_instructions_is_served_otherwise(folder):
    found = chosen(folder, has_int8=lambda: False)
    assert (found.name, found.precision) == ("onnx", "float")
    assert found.notes == [
        "the OpenVINO export (int8) needs a processor that multiplies int8 (VNNI), and this one does not"
    ]


def test_where_nothing_else_serves_int8_is_computed_in_float_and_finds_the_same(folder, monkeypatch):
    card = read_card(folder)
    write_card(folder, card.model_copy(update={"exports": card.exports[:1]}))
    image = photo_of_noise()
    expected = load(folder, has_int8=lambda: True).detect(image)
    monkeypatch.setattr("detection.runtimes.torch_installed", lambda: False)
    detector = load(folder, has_int8=lambda: False)
    found = detector.detect(image)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    assert len(found)
    info = run_by(detector)
    assert info is not None
    assert [note.partition(",")[0] for note in info.notes] == [
        "the OpenVINO export (int8) needs a processor that multiplies int8 (VNNI)",
        "PyTorch is not installed here",
        "the OpenVINO export (int8) is computed in float",
    ]


def test_files_that_a_runtime_cannot_read_are_a_sentence(folder):
    look = folder / "openvino-int8/look.xml"
    look.write_text("<net></net>")
    files = {**read_card(folder).exports[0].files, "openvino-int8/look.xml": sha256_of(look)}
    change_exports(folder, files=files)
    found = chosen(folder, runtime="openvino", has_int8=lambda: True)
    assert "cannot read" in found.notes[0]


@pytest.mark.parametrize("name", ["../weights.safetensors", "/etc/passwd", "openvino-int8/../../x.bin"])
def test_an_export_has_no_files_outside_the_folder(folder, name):
    card = json.loads((folder / "model.json").read_text())
    card["exports"][0]["files"] = {name: "0" * 64}
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(DetectorError, match="not a model card"):
        load(folder)


def test_the_api_says_which_runtime_answers_and_why_no_other(folder):
    flip_a_byte(folder)
    settings = api_settings(model_dir=folder, api_runtime="openvino")
    with live_server(create_app(settings)) as (client, _):
        runtime = client.get("/model").json()["runtime"]
        assert client.post("/predict", files={"file": png()}).status_code == 200
    assert (runtime["name"], runtime["precision"]) == ("torch", "float")
    assert "it is damaged" in runtime["notes"][0]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni", True), ("flags\t\t: fpu avx2 avx_vnni", True),
        ("flags\t\t: fpu avx2 avx512f", False), ("Features\t: fp asimd asimddp", True),
        ("Features\t: fp asimd", False), ("Hardware\t: something", True),
    ],
)  # fmt: skip
def test_the_processor_is_asked_for_its_instructions(tmp_path, line, expected):
    info = tmp_path / "cpuinfo"
    info.write_text(
        f"processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n{line}\n\nprocessor\t: 1\nflags\t: none\n"
    )
    assert multiplies_int8(info) is expected
    assert processor_name(info) == "Some CPU @ 2 GHz"


def test_openvino_reports_nothing_to_its_maker():
    asked = "import sys, detection.openvino_runtime; print(sys.modules['openvino_telemetry'])"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


# --- without PyTorch --------------------------------------------------------------------------------

WITHOUT = """
import sys
for name in ("torch", "torchvision", "detecto", "pandas", "matplotlib", "cv2", "nncf", "scipy"):
    sys.modules[name] = None  # importing it fails from here on
import json, pathlib, time
from starlette.testclient import TestClient
from serving.app import create_app
from settings import ApiSettings

folder, photo = map(pathlib.Path, sys.argv[1:])
settings = ApiSettings(model_dir=folder, api_allowed_hosts=("*",))
with TestClient(create_app(settings)) as client:
    while client.get("/ready").status_code != 200 and "cannot" not in client.get("/ready").text:
        time.sleep(0.1)
    model = client.get("/model").json()
    answer = client.post("/predict?score_threshold=0", files={"file": photo.read_bytes()})
    print(json.dumps({"model": model, "answer": answer.json(), "status": answer.status_code}))
"""


def without_pytorch(folder: Path) -> dict[str, Any]:
    photo = next((ROOT / "photos").glob("*.jpg"))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, folder, photo],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
def test_an_api_without_pytorch_answers_a_photo_by_an_export(folder, runtime):
    card = read_card(folder)
    kept = tuple(export for export in card.exports if export.runtime == runtime)
    float_only = tuple(export.model_copy(update={"precision": "float"}) for export in kept)
    write_card(folder, card.model_copy(update={"exports": float_only}))
    said = without_pytorch(folder)
    assert said["status"] == 200
    assert said["model"]["runtime"]["name"] == runtime
    assert said["answer"]["results"][0]["detections"]


def test_an_api_without_pytorch_says_how_to_make_an_export(folder):
    write_card(folder, read_card(folder).model_copy(update={"exports": ()}))
    said = without_pytorch(folder)
    assert said["status"] == 503
    detail = said["answer"]["detail"]
    assert "PyTorch is not installed here" in detail
    assert f"python registry.py export {folder} --format openvino" in detail
