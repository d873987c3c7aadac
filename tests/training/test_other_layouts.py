"""Training does not mind how its data are laid out."""

from __future__ import annotations

import pytest
import torch

import train
from commands import train_config
from detection import weights
from photosets import convert, synthetic
from settings import TorchrunSettings


@pytest.fixture
def deterministic_mode_ends():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.slow
def test_a_voc_a_coco_and_a_yolo_root_of_the_same_pictures_train_to_the_same_weights(
    tmp_path, tracker_uri, deterministic_mode_ends, capsys
):
    synthetic.draw_synthetic(tmp_path / "voc", train=24, test=4, seed=0)
    states = {}
    for kind in ("voc", "coco", "yolo"):
        root = tmp_path / kind
        if kind != "voc":
            convert.convert([tmp_path / "voc"], root, kind)
        flags = [
            "--preset", "smoke", "--data", str(root), "--output", str(tmp_path / f"run-{kind}"),
            "--deterministic", "--epochs", "1", "--limit", "8", "--batch-size", "4", "--min-size", "96",
            "--max-size", "96", "--fpn-channels", "16", "--box-head-width", "16", "--threads", "1",
            "--workers", "0", "--experiment", "layouts", "--no-register-model",
        ]  # fmt: skip
        train.train(train_config(flags), TorchrunSettings())
        states[kind] = weights.load_state_dict(tmp_path / f"run-{kind}" / "best" / "weights.safetensors")
    said = capsys.readouterr()
    for kind, name in (("voc", "Pascal VOC"), ("coco", "COCO"), ("yolo", "YOLO")):
        assert f"{tmp_path / kind}: {name}, 6 classes, 24 pictures" in said.out + said.err
        assert states[kind].keys() == states["voc"].keys()
        assert all(torch.equal(value, states["voc"][key]) for key, value in states[kind].items())
