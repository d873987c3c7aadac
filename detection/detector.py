"""Runs a network on photographs; a model's folder in and out. The only file that imports detecto.

detecto is what we train with; what it gets wrong is corrected here: it normalises twice, downloads a
backbone even with pretrained=False, keeps no record of architecture and class order, and loads pickles.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import detecto.core
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import boxes as box_ops
from torchvision.ops.misc import FrozenBatchNorm2d

from detection import imaging
from detection.architectures import build_network, detectos_input, input_size, network_config
from detection.calibration import calibrate
from detection.card import DetectorError, classes_of, read_card, write_card
from detection.detections import BACKGROUND, CLASS_NAMES, Detections
from detection.devices import fast_precision
from detection.files import write_atomically
from detection.second_look import CropClassifier, look_twice
from detection.selection import settle
from detection.weights import load_state_dict, load_weights
from schemas import CARD_FILE, WEIGHTS_FILE, ModelCard, RuntimeInfo

SECOND_LOOK = "second_look."  # what the names of its weights begin with in weights.safetensors
ON_A_CARD = 9  # pictures in one pass: all of 3x3 tiles
DETECTO_DEFAULT: str = detecto.core.Model.DEFAULT
DETECTO_NAMES = (DETECTO_DEFAULT, detecto.core.Model.MOBILENET, detecto.core.Model.MOBILENET_320)


def to_unit(pixels: Tensor) -> Tensor:
    """Turn pixels (3, H, W) uint8 into float32 in [0, 1] on their device, as imaging.to_chw does."""
    return pixels.float().div_(imaging.WHITE)


class Detector(detecto.core.Model):  # type: ignore[misc]
    """A network with its model card: detecto's Model, corrected.

    detecto's predict, predict_top, save, load, get_internal_model and visualize functions work on it, except
    visualize.detect_video, which OpenCV 5 refuses on detecto's own models too ("Can't parse 'pt1'"); predict
    takes a picture as it is, or a tensor in [0, 1] that nothing has normalised. For our own use, detect()
    answers one image with every box it finds, scores calibrated as the card says; detecto's functions give
    the network's own scores.

    Attributes:
        card: what model.json holds.
        second_look: what looks at weapon candidates again, if the card says so.
        run_by: what /model says of it, where runtimes.load chose PyTorch.
    """

    run_by: RuntimeInfo | None = None

    def __init__(self, card: ModelCard, *, device: str | torch.device = "cpu") -> None:
        """Build the card's network with random weights. Nothing is downloaded."""
        if not card.class_names or card.class_names[0] != BACKGROUND:
            raise DetectorError(f"want {BACKGROUND!r} as the first class name, got {card.class_names[:1]}")
        # detecto's own constructor would download a backbone, so its fields are set here.
        self.card = card
        self._device = torch.device(device)
        self._model = build_network(card.network, len(card.class_names)).to(self._device)
        self._classes = list(card.class_names)
        self._int_mapping = {label: index for index, label in enumerate(self._classes)}
        self._disable_normalize = True  # the network normalises; detecto would do it once more
        self.second_look: CropClassifier | None = None
        if card.second_look is not None:
            self.second_look = CropClassifier(1 + len(classes_of(card).weapons)).to(self._device).eval()
        self._optimized, self._precision = False, torch.float32
        self._lock = threading.Lock()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by label; index 0 is the background."""
        return self.card.class_names

    @property
    def network(self) -> FasterRCNN:
        """The torchvision network inside."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._device

    def fit(self, *_args: Any, **_kwargs: Any) -> None:
        """Refuse: detecto's fit normalises twice and its losses depend on the batch size."""
        raise DetectorError("use train.py: detecto's own fit would normalise the images twice")

    @classmethod
    def load(
        cls, file: str | Path, classes: Sequence[str] = CLASS_NAMES[1:], model_name: str = DETECTO_DEFAULT
    ) -> Detector:
        """Load what detecto's Model.save wrote; it finds what it finds in detecto.

        Args:
            file: the state dict.
            classes: without the background, in the order in which the model was made.
            model_name: as it was given to detecto's Model.

        Raises:
            DetectorError: there is no such file, or it is of another network or number of classes.
        """
        network = detectos_input(network_config(model_name))
        detector = cls(ModelCard(network=network, class_names=(BACKGROUND, *classes)))
        load_weights(detector.network, load_state_dict(Path(file)), str(file))
        return detector

    def save(self, file: str | Path) -> None:
        """Save the bare state dict for detecto's Model.load; save_folder keeps all that is needed anywhere.

        Raises:
            DetectorError: detecto would build another network around these weights, or feed it other
                numbers, and find other things.
        """
        if self._optimized:
            raise DetectorError("this detector was rearranged for speed; load it with optimize=False to save")
        network = self.card.network
        theirs = detectos_input(network_config(network.architecture))
        differing = [name for name, value in network if value != getattr(theirs, name)]
        if network.architecture not in DETECTO_NAMES or differing:
            what = ", ".join(differing) or f"architecture {network.architecture}"
            raise DetectorError(
                f"detecto would find other things with these weights: it keeps no record of a network and "
                f"builds its own, which differs in {what}. Use save_folder, which keeps all of it; for the "
                "bare weights, torch.save(detector.get_internal_model().state_dict(), FILE)."
            )
        super().save(file)

    def detect(
        self,
        image: imaging.Image,
        *,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        probabilities: bool = False,
    ) -> Detections:
        """Return every detection in image, unfiltered.

        Boxes are in pixels of image as given, whatever size the network works at.

        Args:
            image: (H, W, 3) uint8 RGB, upright.
            nms_iou: overlap above which the lower of two boxes of a class goes; the card's by default.
            max_detections: how many to keep; the card's number by default.
            probabilities: fill in Detections.probabilities.
        """
        [found] = self.detect_many(
            [image], nms_iou=nms_iou, max_detections=max_detections, probabilities=probabilities
        )
        return found

    @property
    def at_once(self) -> int:
        """How many pictures of one size pay in one pass: on a processor they take as long one by one."""
        return 1 if self._device.type == "cpu" else ON_A_CARD

    def detect_many(
        self,
        images: Sequence[imaging.Image],
        *,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        probabilities: bool = False,
    ) -> list[Detections]:
        """Return what detect finds in each image, from one pass of the network; see detect_together."""
        return self.detect_together(
            [self._on_device(image) for image in images],
            nms_iou=nms_iou,
            max_detections=max_detections,
            probabilities=probabilities,
        )

    def _on_device(self, image: imaging.Image) -> Tensor:
        """Return an image as detect_together takes it; to a card go its bytes, a quarter of its floats."""
        if self._device.type == "cpu":
            return torch.from_numpy(imaging.to_chw(image))
        return to_unit(torch.tensor(image).to(self._device).permute(2, 0, 1))

    def _computing_fast(self) -> torch.autocast:
        """Let layers inside the block compute in the type that arrange_for_speed chose."""
        fast = self._precision != torch.float32
        return torch.autocast(self._device.type, self._precision if fast else None, enabled=fast)

    def detect_together(
        self,
        images: Sequence[Tensor],
        *,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        probabilities: bool = False,
    ) -> list[Detections]:
        """Return what detect finds in each image, from one forward pass.

        Images that batched_size says the same of get the very boxes that detect gives them; others are
        padded to the largest, which moves boxes near an edge a little. One forward pass at a time: callers
        in other threads wait.

        Args:
            images: each (3, H, W) float32 in [0, 1] on this detector's device.
            nms_iou: see detect, and so the others.
            max_detections: likewise.
            probabilities: likewise.
        """
        with self._lock, torch.inference_mode():
            self._model.eval()
            every = self._forward(images, nms_iou, max_detections)
        found = ((value.cpu().numpy() for value in one) for one in every)
        as_given = [
            Detections(boxes, scores, labels, softmax if probabilities else None)
            for boxes, scores, labels, softmax in found
        ]
        return [calibrate(one, self.card.calibration, self.class_names) for one in as_given]

    def batched_size(self, size_hw: Sequence[int]) -> tuple[int, ...]:
        """Return height and width of the batch in which the network sees an image of size_hw alone."""
        transform = self._model.transform
        size = input_size(size_hw, transform.min_size[-1], transform.max_size)
        return tuple(-(-side // transform.size_divisible) * transform.size_divisible for side in size)

    def _forward(
        self, pixels: Sequence[Tensor], nms_iou: float | None, max_detections: int | None
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        network, heads = self._model, self._model.roi_heads
        images, _ = network.transform(list(pixels))
        if self._optimized:
            images = ImageList(images.tensors.to(memory_format=torch.channels_last), images.image_sizes)
        with self._computing_fast():
            features = network.backbone(images.tensors)
        features = {name: value.float() for name, value in features.items()}
        proposals, _ = network.rpn(images, features)
        pooled = heads.box_roi_pool(features, proposals, images.image_sizes)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        counts = [len(some) for some in proposals]
        boxes = torch.split(heads.box_coder.decode(deltas, proposals), counts)
        found = []
        for decoded, softmax, size, image in zip(
            boxes, torch.split(F.softmax(logits, -1), counts), images.image_sizes, pixels, strict=True
        ):
            inside = box_ops.clip_boxes_to_image(decoded, size)
            kept, *rest = select_boxes(
                inside, softmax, heads, nms_iou, max_detections, self.card.network.box_voting_iou
            )
            found.append(self._look_twice(image, resize_boxes(kept, size, image.shape[-2:]), *rest))
        return found

    def _look_twice(
        self, image: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, softmax: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return detections with the scores that the second look gives them, best first."""
        if self.second_look is None or self.card.second_look is None:
            return boxes, scores, labels, softmax
        is_weapon = torch.isin(labels, torch.tensor(classes_of(self.card).weapons, device=labels.device))
        with self._computing_fast():
            scores = look_twice(self.second_look, self.card.second_look, image, boxes, scores, is_weapon)
        order = scores.argsort(descending=True, stable=True)
        return boxes[order], scores[order], labels[order], softmax[order]

    def save_folder(self, folder: Path, *, half: bool = False) -> None:
        """Write weights.safetensors and model.json into folder; each file appears whole or not at all.

        Args:
            folder: made if absent.
            half: store float16, for half the size; loading gives float32 again.

        Raises:
            DetectorError: the folder cannot be written, or the detector was loaded with optimize=True.
        """
        if self._optimized:
            raise DetectorError("this detector was rearranged for speed; load it with optimize=False to save")
        whole = self._model.state_dict()
        if self.second_look is not None:
            whole |= {SECOND_LOOK + name: value for name, value in self.second_look.state_dict().items()}
        state = {name: value.detach().cpu().contiguous() for name, value in whole.items()}
        if half:
            state = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
        weights = safetensors.torch.save(state)
        sha256 = hashlib.sha256(weights).hexdigest()
        exports = self.card.exports if sha256 == self.card.weights_sha256 else ()  # made of other weights
        self.card = self.card.model_copy(update={"weights_sha256": sha256, "exports": exports})
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / WEIGHTS_FILE, weights)
        except OSError as error:
            raise DetectorError(f"the model cannot be written to {folder}: {error}") from error
        write_card(folder, self.card)


def select_boxes(
    boxes: Tensor, softmax: Tensor, heads: RoIHeads, nms_iou: float | None, max_detections: int | None,
    voting_iou: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Turn the head's output for one image into detections, best first.

    Source:
        torchvision's RoIHeads.postprocess_detections, which keeps no class probabilities.

    Args:
        boxes: (P, C, 4) xyxy, one box per proposal and class.
        softmax: (P, C).
        heads: where the score threshold and the defaults of the next two come from.
        nms_iou: see Detector.detect.
        max_detections: likewise.
        voting_iou: see selection.settle.

    Returns:
        boxes (N, 4), scores (N,), labels (N,), softmax (N, C).
    """
    proposal, label = torch.where(softmax[:, 1:] > heads.score_thresh)
    label = label + 1
    candidates, scores = boxes[proposal, label], softmax[proposal, label]
    big = box_ops.remove_small_boxes(candidates, min_size=1e-2)
    proposal, label, candidates, scores = proposal[big], label[big], candidates[big], scores[big]
    overlap = heads.nms_thresh if nms_iou is None else nms_iou
    limit = heads.detections_per_img if max_detections is None else max_detections
    keep = box_ops.batched_nms(candidates, scores, label, overlap)[:limit]
    if voting_iou is None:  # nothing has to leave a graphics card
        return candidates[keep], scores[keep], label[keep], softmax[proposal[keep]]
    every = (some.numpy(force=True) for some in (keep, candidates, scores, label))
    stayed = torch.from_numpy(settle(*every, nms_iou=overlap, voting_iou=voting_iou)).to(candidates.device)
    return stayed, scores[keep], label[keep], softmax[proposal[keep]]


def load_folder(
    folder: Path, *, device: str | torch.device = "cpu", optimize: bool = True,
    precision: torch.dtype | None = None,
) -> Detector:  # fmt: skip
    """Load a model folder: build the network from model.json, fill it from weights.safetensors.

    Args:
        folder: what save_folder wrote.
        device: what devices.choose_device returned.
        optimize: rearrange the network for speed; it can then neither be saved nor trained.
        precision: what the rearranged backbone computes in; by default devices.fast_precision.

    Raises:
        DetectorError: a file is absent or damaged, or the two do not belong together.
    """
    card = read_card(folder)
    weights_path = folder / WEIGHTS_FILE
    if not weights_path.is_file():
        raise DetectorError(f"expected {WEIGHTS_FILE} beside {CARD_FILE} in {folder}, found none")
    sha256 = hashlib.sha256(weights_path.read_bytes()).hexdigest()
    if card.weights_sha256 and sha256 != card.weights_sha256:
        raise DetectorError(
            f"{weights_path} is not the file {CARD_FILE} was written for (SHA-256 {sha256[:12]}..., "
            f"expected {card.weights_sha256[:12]}...). Copy the whole folder again."
        )
    detector = Detector(card, device=device)
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in load_state_dict(weights_path).items()
    }
    again = {name: state.pop(name) for name in list(state) if name.startswith(SECOND_LOOK)}
    load_weights(detector.network, state, str(weights_path))
    if detector.second_look is not None:
        own = {name.removeprefix(SECOND_LOOK): value for name, value in again.items()}
        load_weights(detector.second_look, own, str(weights_path))
    detector.network.eval()
    if optimize:
        arrange_for_speed(detector, precision)
    return detector


def arrange_for_speed(detector: Detector, precision: torch.dtype | None = None) -> None:
    """Rearrange the network as it is served; it can then neither be saved nor trained.

    Folds batch norm into the convolutions and lays the weights out for channels-last; see load_folder for
    precision.
    """
    _fold_norms(detector.network)
    detector.network.backbone.to(memory_format=torch.channels_last)
    if detector.second_look is not None:
        _fold_norms(detector.second_look)
        detector.second_look.to(memory_format=torch.channels_last)
    detector._optimized = True
    detector._precision = fast_precision(detector.device) if precision is None else precision


def _fold_norms(module: nn.Module) -> None:
    """Fold every norm that directly follows a convolution among module's children into it."""
    children = list(module.named_children())
    for (_, conv), (norm_name, norm) in itertools.pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            statistics: Any = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
            setattr(module, norm_name, nn.Identity())
    for _, child in module.named_children():
        _fold_norms(child)
