"""Train one epoch, evaluate, and keep what an interrupted training needs to go on."""

from __future__ import annotations

import copy
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import dataset
import imaging
import processes
import transforms
from dataset import Sample
from detections import Detections
from detector import Detector, whole_file
from metrics import Latency

TOGETHER = 16  # images that a card looks at at once


class NonFiniteLoss(RuntimeError):
    """A loss became nan or infinite; the message names every loss and the images of the batch."""


class WrongCheckpoint(ValueError):
    """A checkpoint does not belong to the run that wants to go on from it."""


@dataclass
class Progress:
    """How far a training has come. Counts from 0.

    Attributes:
        epoch: epochs completed.
        batch: batches completed in the epoch under way.
        step: optimiser updates in all.
        images: images seen in all, by every process.
        seconds: time spent training and evaluating, over all sittings.
        best_map: best validation mAP so far; -1 before the first.
        stale: evaluations since then.
        sums: sum of each loss over the images of the epoch under way.
        run_id: the MLflow run.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    images: int = 0
    epoch_images: int = 0
    seconds: float = 0.0
    best_map: float = -1.0
    best_epoch: int = -1
    stale: int = 0
    run_id: str = ""
    sums: dict[str, float] = field(default_factory=dict)


@dataclass
class Training:
    """The parts of a training under way.

    Attributes:
        detector: what is trained.
        network: its network, or the same wrapped for several processes.
        optimizer: every group carries its own highest rate as "peak_lr".
        schedule: Progress -> factor in (0, 1] on every peak_lr.
        average: exponential moving average of the weights, if wanted.
        clip_norm: largest gradient norm; 0 for none.
        precision: what convolutions and matrix products are computed in.
        scaler: keeps the gradients of float16 from vanishing; does nothing in any other precision.
    """

    detector: Detector
    network: nn.Module
    optimizer: Optimizer
    schedule: Callable[[Progress], float]
    average: MovingAverage | None = None
    clip_norm: float = 0.0
    precision: torch.dtype = torch.float32
    progress: Progress = field(default_factory=Progress)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        """Make the scaler that the precision needs."""
        self.scaler = torch.amp.GradScaler(self.detector.device.type, enabled=self.precision == torch.float16)


# --- the loop ---------------------------------------------------------------------------------------


def train_one_epoch(
    training: Training,
    batches: Iterable[transforms.Batch],
    *,
    names: Sequence[str],
    after_step: Callable[[dict[str, float]], bool],
) -> dict[str, float]:
    """Update the network once per batch and return the mean of each loss over the images seen.

    Args:
        training: its progress is moved on after every step.
        batches: what is left of the epoch.
        names: name of each sample, for messages, by image_id.
        after_step: told the losses of each step; a true answer stops in the middle of the epoch.

    Raises:
        NonFiniteLoss: a loss is nan or infinite, in this process or another: all of them raise it.
    """
    progress, device = training.progress, training.detector.device
    training.network.train()
    stopped = False
    for images, targets in batches:
        losses = _losses(training, images, targets, device)
        means = processes.mean(torch.stack([loss.detach().float() for loss in losses.values()])).tolist()
        values = dict(zip(losses, means, strict=True))
        if not all(math.isfinite(value) for value in means):
            files = processes.gathered(", ".join(names[target["image_id"]] for target in targets))
            raise NonFiniteLoss(
                f"a loss is not finite: {values}. Images of the batch: {', '.join(files)}. "
                "Lower --lr or set --clip-norm; check these images with dataset.py check."
            )
        _update(training, sum(losses.values()))
        progress.batch, progress.step = progress.batch + 1, progress.step + 1
        seen = len(images) * processes.count()  # each process has the same share of a batch
        progress.images += seen
        progress.epoch_images += seen
        for name, value in values.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value * seen
        stopped = after_step(values)
        if stopped:
            break
    epoch_means = {name: total / max(1, progress.epoch_images) for name, total in progress.sums.items()}
    if not stopped:
        progress.epoch, progress.batch, progress.epoch_images, progress.sums = progress.epoch + 1, 0, 0, {}
    return epoch_means


def _losses(
    training: Training, images: list[Tensor], targets: list[transforms.Target], device: torch.device
) -> dict[str, Tensor]:
    images = [
        transforms.develop(image.to(device, non_blocking=True), target["look"])
        for image, target in zip(images, targets, strict=True)
    ]
    on_device = [
        {
            "boxes": it["boxes"].to(device, non_blocking=True),
            "labels": it["labels"].to(device, non_blocking=True),
        }
        for it in targets
    ]
    with torch.autocast(device.type, training.precision, enabled=training.precision != torch.float32):
        losses: dict[str, Tensor] = training.network(images, on_device)
    return losses


def _update(training: Training, loss: Any) -> None:
    factor = training.schedule(training.progress)
    for group in training.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    training.optimizer.zero_grad(set_to_none=True)
    training.scaler.scale(loss).backward()
    if training.clip_norm:
        training.scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.network.parameters(), training.clip_norm)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    if training.average is not None:
        training.average.follow(training.detector.network)


class Finder(Protocol):
    """Whatever finds objects in an image; a Detector does."""

    def detect(self, image: imaging.Image) -> Detections:
        """Return every detection in an upright RGB image."""


def evaluate(
    finder: Finder, samples: Sequence[Sample], *, description: str = "evaluate", progress: bool = True
) -> tuple[list[Detections], Latency]:
    """Run the serving path on every sample, one image at a time, and time it.

    Args:
        finder: its detect() sees each whole upright photograph.
        samples: any split; not none.
        description: what the progress bar says.
        progress: draw one.

    Returns:
        One Detections per sample, in order; and the milliseconds they took.

    Raises:
        ImageError: with the file's name, where a picture cannot be decoded.
    """
    found, decode_ms, detect_ms = [], [], []
    for sample in tqdm(
        samples, desc=description, unit="image", disable=not progress, leave=False, mininterval=1.0
    ):
        start = time.perf_counter()
        image = dataset.load_image(sample)
        decoded = time.perf_counter()
        found.append(finder.detect(image))
        decode_ms.append(1000 * (decoded - start))
        detect_ms.append(1000 * (time.perf_counter() - decoded))
    return found, Latency.of(decode_ms, detect_ms, _machine(finder))


class Photographs(Dataset[Tensor]):
    """Decoded images (3, H, W) uint8 of samples."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        """Keep samples; each is decoded when it is asked for."""
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(dataset.load_image(self.samples[index]).copy()).permute(2, 0, 1)


def detect_all(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    workers: int = 0,
    batch_size: int = 0,
    description: str = "detect",
    progress: bool = True,
) -> list[Detections]:
    """Return what evaluate finds, sooner: others decode, and images of one batched size go in together.

    Args:
        detector: what is looked at with.
        samples: any split.
        workers: processes that decode; 0 for this one.
        batch_size: images at once; 0 for as many as pay: one, and TOGETHER on a card.
        description: what the progress bar says.
        progress: draw one.

    Raises:
        ImageError: with the file's name, where a picture cannot be decoded.
    """
    device = detector.device
    together = batch_size or (TOGETHER if device.type == "cuda" else 1)
    batches = batches_of_one_size(detector, samples, together)
    loader = DataLoader(
        Photographs(samples), sampler=[i for batch in batches for i in batch], batch_size=None,
        num_workers=workers, worker_init_fn=transforms.one_thread, persistent_workers=bool(workers),
        pin_memory=device.type == "cuda", generator=torch.Generator(),  # its own, as in training
    )  # fmt: skip
    found: dict[int, Detections] = {}
    bar = tqdm(
        total=len(samples), desc=description, unit="image", disable=not progress, leave=False, mininterval=1.0
    )
    with bar, _benchmark_off(), transforms.ending_workers(loader):
        photographs = iter(loader)
        for batch in batches:
            images = [next(photographs).to(device, non_blocking=True) for _ in batch]
            every = detector.detect_together([transforms.develop(image, None) for image in images])
            found.update(zip(batch, every, strict=True))
            bar.update(len(batch))
    return [found[i] for i in range(len(samples))]


@contextmanager
def _benchmark_off() -> Iterator[None]:
    """Keep cuDNN from trying out its convolutions: where sizes differ, that takes longer than they do."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def batches_of_one_size(detector: Detector, samples: Sequence[Sample], batch_size: int) -> list[list[int]]:
    """Return the indices of samples in batches of at most batch_size that the network sees at one size."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        sizes.setdefault(detector.batched_size(sample.size_wh[::-1]), []).append(i)
    return [
        alike[start : start + batch_size]
        for _, alike in sorted(sizes.items())
        for start in range(0, len(alike), batch_size)
    ]


def _machine(finder: Finder) -> str:
    """Name what the finder computes on."""
    device = getattr(finder, "device", torch.device("cpu"))
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


# --- optimiser and schedule -------------------------------------------------------------------------


def build_optimizer(
    network: nn.Module,
    name: str,
    *,
    lr: float,
    backbone_lr_factor: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Return SGD or AdamW over the parameters that learn; the backbone's body may learn more slowly."""
    body: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter_name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (body if parameter_name.startswith("backbone.body.") else rest).append(parameter)
    groups = [
        {"params": parameters, "lr": rate, "peak_lr": rate}
        for parameters, rate in ((body, lr * backbone_lr_factor), (rest, lr))
        if parameters
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)


def learning_rate_factor(
    schedule: str,
    fraction: float,
    *,
    step: int,
    warmup_steps: int = 0,
    epoch: int = 0,
    lr_step_epochs: int = 5,
    lr_gamma: float = 0.1,
) -> float:
    """Return the factor on the highest learning rate.

    Args:
        schedule: "cosine" falls to a hundredth from the end of the warm-up on, "step" by lr_gamma every
            lr_step_epochs, "constant" stays.
        fraction: share of the training that is done, in [0, 1].
        step: optimiser updates done; below warmup_steps the factor rises linearly.
        warmup_steps: length of that rise.
        epoch: epochs done.
        lr_step_epochs: see schedule.
        lr_gamma: see schedule.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "cosine":
        fraction = min(1.0, fraction)
        before = fraction * warmup_steps / max(1, step)  # the share that was done when the warm-up ended
        done = (fraction - before) / (1 - before) if before < 1 else 1.0
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "step":
        return lr_gamma ** (epoch // lr_step_epochs)
    return 1.0


class MovingAverage(nn.Module):
    """An exponential moving average of a network's weights that follows quickly at first.

    torch.optim.swa_utils.AveragedModel copies every buffer by itself at each step, and asks the card for
    its counter; here a step is two operations over all tensors, and the counter is a number of Python's.

    Attributes:
        module: a network of the same form, with the averaged weights.
        updates: how many networks were averaged.

    Source:
        The warm-up of the decay, min(decay, (1 + n) / (10 + n)), is TensorFlow's
        ExponentialMovingAverage with num_updates.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start from a copy of network."""
        super().__init__()
        self.module, self.decay, self.updates = copy.deepcopy(network), decay, 0

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """Move the average towards network; the first time all the way."""
        n = self.updates
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(list(self.module.parameters()), list(network.parameters()), 1 - decay)
        buffers = list(self.module.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(network.buffers()))
        self.updates += 1

    def get_extra_state(self) -> int:
        """Return what state_dict holds beside the tensors."""
        return self.updates

    def set_extra_state(self, state: int) -> None:
        """Take back what get_extra_state returned."""
        self.updates = state


# --- checkpoints ------------------------------------------------------------------------------------


def save_checkpoint(training: Training, path: Path, *, identity: Mapping[str, str]) -> None:
    """Write all that is needed to go on; path holds the old checkpoint or the whole new one.

    Every process must call this at the same step: the first writes, with the random numbers of all.

    Args:
        training: what is under way.
        path: a file; its folder exists.
        identity: everything that must not change between sittings, by name (data and configuration).
    """
    random_states = processes.gathered(_random_state(training.detector.device))
    if processes.rank() > 0:
        return
    state = {
        "identity": dict(identity),
        "progress": asdict(training.progress),
        "network": training.detector.network.state_dict(),
        "average": training.average.state_dict() if training.average is not None else {},
        "optimizer": training.optimizer.state_dict(),
        "scaler": training.scaler.state_dict(),
        "random": random_states,
    }
    with whole_file(path) as file:
        torch.save(state, file)


def load_checkpoint(training: Training, path: Path, *, identity: Mapping[str, str]) -> None:
    """Put training back to where save_checkpoint left it, random numbers included.

    The first process reads; the others, on this machine or another, get everything from it. Where there
    are more processes than before, the new ones draw random numbers of their own.

    Raises:
        WrongCheckpoint: there is none, it is damaged, or it is of other data or another configuration.
        FailedElsewhere: the same, in every process but the first.
    """
    state = processes.from_first(lambda: _read_checkpoint(path, identity))
    training.detector.network.load_state_dict(state["network"])
    if training.average is not None:
        training.average.load_state_dict(state["average"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.scaler.load_state_dict(state["scaler"])
    training.progress.__dict__.update(state["progress"])
    if processes.rank() < len(state["random"]):
        _set_random_state(state["random"][processes.rank()], training.detector.device)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of each generator that training draws from; NumPy's are made anew each epoch."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _read_checkpoint(path: Path, identity: Mapping[str, str]) -> dict[str, Any]:
    if not path.is_file():
        raise WrongCheckpoint(f"expected a checkpoint at {path}, found none; leave --resume out to start")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:
        raise WrongCheckpoint(
            f"{path} is no readable checkpoint ({type(error).__name__}: {error}). Delete it to start anew, "
            "or choose another --output."
        ) from error
    if not isinstance(state, dict) or not {"progress", "identity"} <= state.keys():
        raise WrongCheckpoint(f"{path} is not a checkpoint of this train.py but another torch file")
    kept: dict[str, str] = state["identity"]
    differing = [
        f"{name} was {kept.get(name, 'not set')}, now {identity.get(name, 'not set')}"
        for name in sorted(kept.keys() | identity.keys())
        if kept.get(name) != identity.get(name)
    ]
    if differing:
        raise WrongCheckpoint(
            f"{path} belongs to other data or another configuration: {'; '.join(differing[:5])}. Give the "
            "flags of that run, or leave --resume out and choose another --output."
        )
    return state
