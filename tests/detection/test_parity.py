"""The API, evaluation and Detector.detect say the same of the same file, to the last bit."""

import io

import numpy as np
import pytest
import torch
from conftest import wait_until
from fake_detector import api_settings
from PIL import Image as PillowImage
from starlette.testclient import TestClient

from detection.architectures import network_config
from detection.detections import CLASS_NAMES, Detections
from detection.detector import Detector, load_folder
from photosets.samples import Sample
from schemas import ModelCard
from serving import app
from serving.cores import granted_cores
from training.engine import evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder whose network has something to say."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    config = network_config("fasterrcnn_mobilenet_v2_fpn", min_size=128, max_size=160, box_score_thresh=0.01)
    Detector(ModelCard(network=config, class_names=CLASS_NAMES)).save_folder(path)
    return path


@pytest.fixture(autouse=True)
def as_many_threads_as_the_api():
    """Sums that are split among another number of threads differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(granted_cores())
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def client(folder):
    with TestClient(app.create_app(api_settings(model_dir=folder))) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        yield client


def photo(image_format: str, orientation: int) -> bytes:
    ramp = np.linspace(0, 255, 90 * 160 * 3).reshape(90, 160, 3)
    noise = np.random.default_rng(0).normal(0, 40, ramp.shape)
    picture = PillowImage.fromarray((ramp + noise).clip(0, 255).astype(np.uint8))
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    picture.save(stream, image_format, exif=exif)
    return stream.getvalue()


def answered(client, content: bytes, label: str) -> Detections:
    """Return what the API finds of one class: of several it would give each object one name."""
    query = {"score_threshold": 0, "probabilities": True, "labels": label}
    items = client.post("/predict", files={"file": content}, params=query).json()["results"][0]["detections"]
    return Detections(
        np.array([[item["box"][side] for side in ("x1", "y1", "x2", "y2")] for item in items], np.float32),
        np.array([item["score"] for item in items], np.float32),
        np.array([CLASS_NAMES.index(item["label"]) for item in items], np.int64),
        np.array([list(item["probabilities"].values()) for item in items], np.float32),
    )


@pytest.mark.parametrize(("image_format", "orientation"), [("JPEG", 1), ("JPEG", 6), ("PNG", 1), ("WEBP", 3)])
def test_api_and_evaluation_give_identical_detections(client, folder, tmp_path, image_format, orientation):
    content = photo(image_format, orientation)
    path = tmp_path / f"photo.{image_format.lower()}"
    path.write_bytes(content)
    size_wh = (90, 160) if orientation == 6 else (160, 90)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    sample = Sample(path, size_wh, *nothing, recording="photo", root=tmp_path)
    [expected], _ = evaluate(load_folder(folder), [sample], progress=False)
    label = int(np.bincount(expected.labels).argmax())
    expected = expected.of([label])
    got = answered(client, content, CLASS_NAMES[label]).take(slice(len(expected)))
    assert len(expected) > 10, "a network that says nothing would agree with anything"
    np.testing.assert_array_equal(got.boxes, expected.boxes)
    np.testing.assert_array_equal(got.scores, expected.scores)
    np.testing.assert_array_equal(got.labels, expected.labels)
    assert got.boxes[:, 0::2].max() <= size_wh[0]
    assert got.boxes[:, 1::2].max() <= size_wh[1]
    assert got.probabilities is not None
    np.testing.assert_array_equal(got.probabilities[np.arange(len(got)), got.labels], expected.scores)
