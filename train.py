"""Fine-tune the weapon detector, log the run to MLflow, register the best model.

    python train.py --preset original --data PATH/TO/Sohas_weapon-Detection
    python train.py --preset cpu --data A B --backbone-weights FILE --minutes 60 --output runs/light
    python train.py ... --resume            # go on after an interruption, with the same flags
    torchrun --nproc-per-node 2 train.py ... # several processes; the batch is shared among them

Every knob: python train.py --help
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import torch
import torch.distributed
from rich.console import Console
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

import dataset
import detector as detectors
import engine
import metrics
import registry
import report
import transforms
from dataset import Sample
from detections import CLASS_NAMES, Detections
from detector import Detector
from engine import Progress, Training
from schemas import ModelCard, NetworkConfig
from settings import TorchrunSettings, TrainConfig, train_config

console = Console(stderr=True, soft_wrap=True)


class Interruption:
    """Ctrl-C and SIGTERM ask for a stop after the step under way; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        """Listen from now on."""
        self.asked = False
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def main() -> None:
    """Train as the command line says."""
    config = train_config()
    process = TorchrunSettings()
    known = (
        dataset.DatasetError, detectors.DetectorError, registry.RegistryError,
        engine.WrongCheckpoint, engine.NonFiniteLoss, UnusableOutput,
    )  # fmt: skip
    try:
        train(config, process)
    except known as error:
        raise SystemExit(f"error: {error}") from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def train(config: TrainConfig, process: TorchrunSettings) -> None:
    """Run the whole training; the last lines printed say what came of it."""
    interruption = Interruption()
    device = set_up_machine(config, process)
    prepare_output(config)
    if process.rank == 0:
        registry.check_tracker(config.mlflow_tracking_uri)  # now, not after the last epoch
    train_samples, val_samples = read_data(config)
    training, order = build_training(config, process, train_samples, device)
    fingerprint = run_fingerprint(config, train_samples, val_samples)
    checkpoint = config.output / "checkpoint.pt"
    if config.resume:
        engine.load_checkpoint(training, checkpoint, fingerprint=fingerprint)
    with registry.training_run(
        config.mlflow_tracking_uri, config.experiment, config.run_name, config.model_dump(mode="json"),
        resume_run_id=training.progress.run_id or None, folder=config.output, active=process.rank == 0,
    ) as run:  # fmt: skip
        training.progress.run_id = run.run_id
        log_data(run, train_samples, val_samples)
        batches = loader(config, train_samples, order)
        done = fit(config, training, order, batches, val_samples, run, interruption, checkpoint, fingerprint)
        if process.rank == 0 and done:
            finish(config, training, train_samples, val_samples, run)
        elif process.rank == 0:
            run.interrupted()
            say(f"stopped after {training.progress.step} steps; go on with the same flags and --resume")


# --- before -----------------------------------------------------------------------------------------


class UnusableOutput(OSError):
    """The output folder cannot be used."""


def prepare_output(config: TrainConfig) -> None:
    """Make the output folder and see that it can be written and holds no other training."""
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        probe = config.output / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UnusableOutput(f"expected a folder to write to at --output {config.output}: {error}") from error
    if (config.output / "checkpoint.pt").exists() and not config.resume:
        raise UnusableOutput(
            f"{config.output} holds an unfinished training. Go on with --resume, choose another "
            "--output, or delete the folder."
        )


def set_up_machine(config: TrainConfig, process: TorchrunSettings) -> torch.device:
    """Seed, set threads, join the other processes and return the device of this one."""
    if config.threads:
        torch.set_num_threads(config.threads)
    kind = config.device
    if kind == "auto":  # never mps: torchvision's RoIAlign fails there
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise detectors.DetectorError("--device cuda, but torch sees no CUDA device; use --device cpu")
    if process.world_size > 1:
        if config.batch_size % process.world_size:
            raise UnusableOutput(
                f"--batch-size {config.batch_size} cannot be shared by {process.world_size} processes"
            )
        torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    torch.manual_seed(config.seed)
    return torch.device(kind, process.local_rank) if kind == "cuda" else torch.device(kind)


def read_data(config: TrainConfig) -> tuple[list[Sample], list[Sample]]:
    """Return the training and validation samples, and say what was left out."""
    splits = []
    splits_wanted: tuple[dataset.Split, ...] = ("train", "val")
    for split in splits_wanted:
        found = dataset.DatasetReport()
        splits.append(
            dataset.read_samples(
                config.data, split, val_fraction=config.val_fraction, negatives=config.negatives, report=found
            )
        )
        say(f"{split}: {found.summary()}")
        for problem in found.errors:
            say(f"  {problem}")
    train_samples, val_samples = splits
    if config.limit:
        train_samples = train_samples[:: max(1, len(train_samples) // config.limit)][: config.limit]
    return train_samples, val_samples


def build_training(
    config: TrainConfig, process: TorchrunSettings, samples: Sequence[Sample], device: torch.device
) -> tuple[Training, transforms.EpochOrder]:
    """Build the detector, its optimiser and the order of the epochs."""
    detector = build_detector(config, device)
    network = detector.network
    detectors.freeze_backbone(network, config.trainable_layers)
    set_training_budgets(network, config)
    if config.channels_last:
        network.backbone.to(memory_format=torch.channels_last)
    order = transforms.EpochOrder(
        transforms.repeat_factors(samples, config.repeat_threshold), config.batch_size,
        seed=config.seed, rank=process.rank, world_size=process.world_size,
    )  # fmt: skip
    steps = config.epochs * len(order)

    def schedule(progress: Progress) -> float:
        spent = progress.seconds / (60 * config.minutes) if config.minutes else 0.0
        return engine.learning_rate_factor(
            config.schedule, max(progress.step / steps, spent), step=progress.step, epoch=progress.epoch,
            warmup_steps=config.warmup_steps, lr_step_epochs=config.lr_step_epochs, lr_gamma=config.lr_gamma,
        )  # fmt: skip

    training = Training(
        detector, network,
        engine.build_optimizer(
            network, config.optimizer, lr=config.lr, backbone_lr_factor=config.backbone_lr_factor,
            momentum=config.momentum, weight_decay=config.weight_decay,
        ),
        schedule,
        average=engine.moving_average(network, config.ema_decay) if config.ema_decay else None,
        clip_norm=config.clip_norm,
        bf16=config.bf16 == "on" or (config.bf16 == "auto" and bf16_pays(device)),
    )  # fmt: skip
    if process.world_size > 1:
        torch.manual_seed(config.seed + 1000 * (process.rank + 1))  # each process samples other proposals
        training.network = DistributedDataParallel(network)
    return training, order


def bf16_pays(device: torch.device) -> bool:
    """Return whether device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and detectors.has_fast_bf16()


def build_detector(config: TrainConfig, device: torch.device) -> Detector:
    """Build the network that config asks for and load the weights it starts from."""
    folder = Path(config.weights)
    if (folder / detectors.CARD_FILE).is_file():
        start = detectors.load_folder(folder, device=device.type, optimize=False)
        network = NetworkConfig.model_validate(
            {**start.card.network.model_dump(), **network_overrides(config)}
        )
        detector = Detector(ModelCard(network=network, class_names=CLASS_NAMES), device=device)
        detectors.load_weights(detector.network, start.network.state_dict(), str(folder))
        return detector
    network = detectors.network_config(config.architecture, **network_overrides(config))
    detector = Detector(ModelCard(network=network, class_names=CLASS_NAMES), device=device)
    if config.weights == "coco":
        detectors.load_coco_weights(detector.network, config.architecture)
    elif config.weights != "none":
        detectors.load_weights(detector.network, detectors.load_state_dict(folder), config.weights)
    if config.backbone_weights:
        left_out = detectors.load_backbone_weights(detector.network, config.backbone_weights)
        if left_out:
            say(f"{config.backbone_weights}: not used: {', '.join(left_out)}")
    return detector


def network_overrides(config: TrainConfig) -> dict[str, object]:
    """Return the fields of NetworkConfig that config sets."""
    given = {
        name: getattr(config, name, None) for name in NetworkConfig.model_fields if name != "architecture"
    }
    if config.double_normalise:
        # ((x - m) / s - m) / s == (x - (m + s m)) / s^2: the original's double normalisation, written once.
        base = detectors.network_config(config.architecture)
        pairs = list(zip(base.image_mean, base.image_std, strict=True))
        given["image_mean"] = tuple(m + s * m for m, s in pairs)
        given["image_std"] = tuple(s * s for _, s in pairs)
    return {name: value for name, value in given.items() if value is not None}


def set_training_budgets(network: torch.nn.Module, config: TrainConfig) -> None:
    """Set how many anchors and proposals the losses look at; detection has budgets of its own."""
    network.rpn.fg_bg_sampler.batch_size_per_image = config.rpn_batch
    network.rpn._pre_nms_top_n["training"] = config.train_proposals
    network.rpn._post_nms_top_n["training"] = config.train_proposals
    network.roi_heads.fg_bg_sampler.batch_size_per_image = config.roi_batch


def loader(config: TrainConfig, samples: Sequence[Sample], order: transforms.EpochOrder) -> DataLoader:
    """Return the batches of the training split, read and augmented by config.workers processes."""
    cache: list[transforms.imaging.Image] = []
    if config.cache_size:
        bar = tqdm(samples, desc="read images", unit="image", mininterval=2.0)
        cache = [transforms.load_image(sample, config.cache_size) for sample in bar]
    size = config.max_size or detectors.network_config(config.architecture).max_size
    augment = transforms.augmentation(
        config.augmentation, size=size, jitter_low=config.jitter_low, jitter_high=config.jitter_high
    )
    images = transforms.TrainingImages(samples, augment, seed=config.seed, cache=cache)
    return DataLoader(
        images, batch_sampler=order, num_workers=config.workers, collate_fn=transforms.collate,
        worker_init_fn=one_thread, prefetch_factor=4 if config.workers else None,
    )  # fmt: skip


def one_thread(_worker: int) -> None:
    """Keep a worker from taking the cores the network computes on; Ctrl-C is the main process's business."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_fingerprint(config: TrainConfig, *splits: Sequence[Sample]) -> str:
    """Return a hash of all that must stay the same between the sittings of one training."""
    free = {"resume", "threads", "workers", "checkpoint_minutes", "mlflow_tracking_uri", "cache_size"}
    parts = [json.dumps(config.model_dump(mode="json", exclude=free), sort_keys=True)]
    parts += [dataset.fingerprint(samples) for samples in splits]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def log_data(
    run: registry.TrainingRun, train_samples: Sequence[Sample], val_samples: Sequence[Sample]
) -> None:
    """Log which images were trained and validated on, and how many boxes of what."""
    for split, samples in (("train", train_samples), ("val", val_samples)):
        run.log_dataset(split, dataset.fingerprint(samples), split_summary(samples))
        run.log_text("\n".join(sample.name for sample in samples), f"splits/{split}.txt")


def split_summary(samples: Sequence[Sample]) -> dict[str, object]:
    """Return counts of images, images without objects, and boxes per class."""
    labels = [int(label) for sample in samples for label in sample.labels]
    boxes = {name: labels.count(index) for index, name in enumerate(CLASS_NAMES) if index}
    return {
        "images": len(samples),
        "without_objects": sum(not len(s.labels) for s in samples),
        "boxes": boxes,
    }


# --- the loop ---------------------------------------------------------------------------------------


def fit(
    config: TrainConfig, training: Training, order: transforms.EpochOrder, batches: DataLoader,
    val_samples: Sequence[Sample], run: registry.TrainingRun, interruption: Interruption,
    checkpoint: Path, fingerprint: str,
) -> bool:  # fmt: skip
    """Train to the end; return False if somebody asked for a stop before it."""
    progress, names = training.progress, [sample.name for sample in batches.dataset.samples]
    keep = Keeper(config, training, run, checkpoint, fingerprint, len(order))
    while not over(config, progress):
        order.epoch, order.first_batch = progress.epoch, progress.batch
        with keep.bar() as bar:
            means = engine.train_one_epoch(
                training, batches, names=names,
                after_step=lambda losses, bar=bar: keep.after_step(losses, bar) or interruption.asked,
            )  # fmt: skip
        if interruption.asked:
            keep.save()
            return False
        run.log_metrics({f"train/epoch_{name}": value for name, value in means.items()}, progress.step)
        last = over(config, progress)
        if progress.epoch % config.eval_epochs == 0 or last:
            validate(config, training, val_samples, run)
            keep.restart_clock()
        keep.save()
        if last:
            break
    return True


def over(config: TrainConfig, progress: Progress) -> bool:
    """Return whether the epochs, the minutes or the patience are used up."""
    late = config.minutes is not None and progress.seconds >= 60 * config.minutes
    tired = bool(config.patience) and progress.stale >= config.patience
    return late or tired or progress.epoch >= config.epochs


class Keeper:
    """What happens after every step: the clock, the bar, the live curves and the checkpoint."""

    def __init__(
        self, config: TrainConfig, training: Training, run: registry.TrainingRun, checkpoint: Path,
        fingerprint: str, steps_per_epoch: int,
    ) -> None:  # fmt: skip
        """Start the clock."""
        self.config, self.training, self.run = config, training, run
        self.checkpoint, self.fingerprint, self.steps = checkpoint, fingerprint, steps_per_epoch
        self.rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self.now = self.saved = time.monotonic()

    def bar(self) -> tqdm:
        """Return a progress bar over the epoch under way."""
        progress = self.training.progress
        return tqdm(
            total=self.steps, initial=progress.batch, unit="step", disable=self.rank > 0, mininterval=2.0,
            desc=f"epoch {progress.epoch + 1}/{self.config.epochs}",
        )  # fmt: skip

    def after_step(self, losses: dict[str, float], bar: tqdm) -> bool:
        """Move clock and bar on, log now and then; return whether the time budget is used up."""
        progress, config = self.training.progress, self.config
        now = time.monotonic()
        step_seconds, self.now = now - self.now, now
        progress.seconds += step_seconds
        total, rate = sum(losses.values()), config.batch_size / step_seconds
        lr = self.training.optimizer.param_groups[-1]["lr"]
        bar.set_postfix(loss=f"{total:.3f}", lr=f"{lr:.1e}", images_s=f"{rate:.1f}", refresh=False)
        bar.update()
        if progress.step % 20 == 0:
            live = {f"train/{name}": value for name, value in losses.items()}
            self.run.log_metrics(
                {**live, "train/loss": total, "train/lr": lr, "train/images_per_s": rate}, progress.step
            )
        if now - self.saved > 60 * config.checkpoint_minutes:
            self.save()
        return config.minutes is not None and progress.seconds >= 60 * config.minutes

    def restart_clock(self) -> None:
        """Count the time since the last step as spent (an evaluation)."""
        now = time.monotonic()
        self.training.progress.seconds += now - self.now
        self.now = now

    def save(self) -> None:
        """Write the checkpoint, from one process."""
        if self.rank == 0:
            engine.save_checkpoint(self.training, self.checkpoint, fingerprint=self.fingerprint)
        self.saved = time.monotonic()


def validate(
    config: TrainConfig, training: Training, samples: Sequence[Sample], run: registry.TrainingRun
) -> None:
    """Score the averaged weights on the validation split and keep them if they are the best so far."""
    progress = training.progress
    if run.active:
        candidate = Detector(training.detector.card, device=training.detector.device)
        averaged = training.average.module if training.average is not None else training.detector.network
        candidate.network.load_state_dict(averaged.state_dict())
        found = engine.evaluate(candidate, samples, description="validate")
        scores = metrics.coco_summary([s.truth for s in samples], found, CLASS_NAMES)
        run.log_metrics({f"val/{name}": value for name, value in scores.items()}, progress.step)
        say(f"epoch {progress.epoch}: val map {scores['map']:.4f} map_50 {scores['map_50']:.4f}")
        if scores["map"] > progress.best_map:
            progress.best_map, progress.best_epoch, progress.stale = scores["map"], progress.epoch, 0
            candidate.save_folder(config.output / "best", half=config.half)
        else:
            progress.stale += 1
    if torch.distributed.is_initialized():  # every process must stop at the same epoch
        shared = [progress.stale]
        torch.distributed.broadcast_object_list(shared)
        progress.stale = shared[0]


# --- after ------------------------------------------------------------------------------------------


def finish(
    config: TrainConfig, training: Training, train_samples: Sequence[Sample], val_samples: Sequence[Sample],
    run: registry.TrainingRun,
) -> None:  # fmt: skip
    """Choose the operating point on the validation split, write report and model, register it."""
    best = detectors.load_folder(config.output / "best", device=training.detector.device.type, optimize=False)
    found = engine.evaluate(best, val_samples, description="choose the operating point")
    card = describe(config, best.card, found, train_samples, val_samples, run.run_id)
    best.card = card
    best.save_folder(config.output / "best", half=config.half)
    results = metrics.build_report(
        [sample.truth for sample in val_samples], found, CLASS_NAMES,
        names=[sample.name for sample in val_samples], operating_point=card.operating_point, split="val",
    )  # fmt: skip
    report.write_report(results, config.output / "report", samples=val_samples)
    run.log_artifacts(config.output / "report", "report")
    version = None
    if config.register_model:
        version = registry.log_and_register(
            config.output / "best",
            name=config.model_name,
            tracking_uri=config.mlflow_tracking_uri,
            run_id=run.run_id,
        )
    (config.output / "checkpoint.pt").unlink(missing_ok=True)
    where = f"version {version.version} of {version.name}" if version else str(config.output / "best")
    point = card.operating_point
    print(
        f"{where}: val map {card.metrics['val/map']:.4f}, map_50 {card.metrics['val/map_50']:.4f}; at score "
        f"{point.score_threshold:.2f} weapon recall {point.image_recall:.3f} with "
        f"{point.false_alarms_per_1000:.0f} false alarms per 1,000 weapon-free images (validation split)"
    )


def describe(
    config: TrainConfig, card: ModelCard, found: Sequence[Detections], train_samples: Sequence[Sample],
    val_samples: Sequence[Sample], run_id: str,
) -> ModelCard:  # fmt: skip
    """Return card with what was measured on the validation split and where the model comes from."""
    truths = [sample.truth for sample in val_samples]
    scores = metrics.coco_summary(truths, found, CLASS_NAMES)
    point = metrics.choose_operating_point(
        truths, found, CLASS_NAMES, split="val", max_false_alarms_per_1000=config.max_false_alarms
    )
    original = metrics.original_protocol(truths, found, CLASS_NAMES)
    return card.model_copy(
        update={
            "operating_point": point,
            "class_thresholds": metrics.class_thresholds(truths, found, CLASS_NAMES),
            "alarm_curve": metrics.alarm_curve(truths, found, CLASS_NAMES),
            "metrics": {
                **{f"val/{name}": value for name, value in scores.items()},
                **{f"val/original_protocol/{name}": original[name] for name in ("map", "map_50")},
            },
            "data_fingerprint": dataset.fingerprint([*train_samples, *val_samples]),
            "data": {
                "roots": [str(root) for root in config.data],
                "train": split_summary(train_samples),
                "val": split_summary(val_samples),
            },
            "library_versions": registry.library_versions(),
            "git_commit": registry.git_commit(),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "run_id": run_id,
        }
    )


def say(sentence: str) -> None:
    """Tell the person at the terminal something, beside the progress bar."""
    console.print(sentence, highlight=False, markup=False)


if __name__ == "__main__":
    main()
