"""Weights into a network: state dicts of ours and detecto's, a backbone's, and torchvision's COCO weights."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision.models.detection import (
    FasterRCNN,
    FasterRCNN_MobileNet_V3_Large_320_FPN_Weights,
    FasterRCNN_MobileNet_V3_Large_FPN_Weights,
    FasterRCNN_ResNet50_FPN_V2_Weights,
    FasterRCNN_ResNet50_FPN_Weights,
)

from detection.architectures import HEAD
from detection.card import DetectorError

COCO_WEIGHTS = {
    "fasterrcnn_resnet50_fpn": FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    "fasterrcnn_resnet50_fpn_v2": FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    "fasterrcnn_mobilenet_v3_large_fpn": FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1,
    "fasterrcnn_mobilenet_v3_large_320_fpn": FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1,
}


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors or a torch file, without running any code from it.

    Raises:
        DetectorError: the file is absent, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise DetectorError(f"expected a weights file at {path}, found none")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise DetectorError(f"{path} is no readable weights file: {error}") from error
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        raise DetectorError(
            f"{path} holds more than tensors, and loading it could run foreign code. "
            "Save a plain state dict (detecto's Model.save does) and pass that."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DetectorError(f"expected a state dict (names to tensors) in {path}, got something else")
    return state


def load_weights(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load state into network; every name and shape must fit.

    Raises:
        DetectorError: a tensor is missing, unknown or of another shape; the message lists them.
    """
    own = network.state_dict()
    state = {name: value for name, value in state.items() if name in own or not is_counter(name)}
    wrong = [f"missing: {name}" for name in own if name not in state and not is_counter(name)]
    wrong += [f"unknown: {name}" for name in state if name not in own]
    wrong += [
        f"shape: {name} is {tuple(value.shape)}, the network has {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    if wrong:
        raise DetectorError(
            f"{source} does not fit this network: {len(wrong)} mismatches, the first being\n  "
            + "\n  ".join(wrong[:12])
        )
    network.load_state_dict(state, strict=False)


def is_counter(name: str) -> bool:
    """Return whether a tensor only counts batches, which no detection depends on."""
    return name.endswith("num_batches_tracked")  # frozen batch norm has none


def load_backbone_weights(network: FasterRCNN, path: Path) -> list[str]:
    """Load a classifier's or detector's backbone into network.backbone.body.

    Args:
        network: any of ARCHITECTURES.
        path: a state dict with torchvision's names: "features.0...", "layer1..." or "backbone.body...".

    Returns:
        The names in the file that have no place here, such as a classifier's last layer.

    Raises:
        DetectorError: a tensor of the backbone is missing in the file or has another shape.
    """
    body = network.backbone.body
    own = body.state_dict()
    state = {
        name.removeprefix("backbone.").removeprefix("body.").removeprefix("features."): value
        for name, value in load_state_dict(path).items()
    }
    left_out = [name for name in state if name not in own and not is_counter(name)]
    load_weights(body, {name: value for name, value in state.items() if name in own}, str(path))
    return left_out


def load_coco_weights(network: FasterRCNN, architecture: str) -> None:
    """Load torchvision's COCO weights, all but the last layer, downloading them once.

    Raises:
        DetectorError: there are none for this architecture, or they cannot be downloaded.
    """
    if architecture not in COCO_WEIGHTS:
        raise DetectorError(
            f"there are no COCO weights for {architecture}; pass --weights none and --backbone-weights FILE"
        )
    try:
        state = COCO_WEIGHTS[architecture].get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise DetectorError(
            f"the COCO weights of {architecture} could not be downloaded ({error}). Put the file "
            f"{Path(COCO_WEIGHTS[architecture].url).name} into {folder}, or pass --weights FILE, or "
            "--weights none to start from nothing."
        ) from error
    state = {name: value for name, value in state.items() if not name.startswith(HEAD)}
    kept = {name: value for name, value in network.state_dict().items() if name.startswith(HEAD)}
    load_weights(network, {**state, **kept}, f"the COCO weights of {architecture}")
