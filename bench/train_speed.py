"""How fast training is, and what bounds it.

    python bench/train_speed.py best --batch-size 2 --steps 3
    python bench/train_speed.py cpu --data ../shared/data/weapons
    python bench/train_speed.py detecto [ARCHITECTURE ...]

With a preset (and any flags of train.py): images per second of the loader alone, of the step alone on one
batch, and of both together, and which of the two bounds; the processor seconds that a picture costs the
loader, which tell the same on a machine with other work; and where the time of a step goes.

With detecto, in one run, for the same images and network with the same weights (of the light network the
starter's: random ones shrink its values until the processor is slow):

    detecto     detecto.core.Model.fit, as its README shows it: images decoded anew, float32, the budgets of
                torchvision
    train.py    our loop with the preset `cpu`: one worker, channels last, smaller budgets, bfloat16 where the
                processor multiplies it

Without --data the images are drawn by the project (synthetic.py), about 320 x 240; beside detecto they are
seen by both at 320 pixels, and those without objects are left out, which detecto cannot hold.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import detecto.core
import detecto.utils
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parents[1]))

import train
from commands import TrainConfig, train_config
from detection.architectures import build_network, freeze_backbone, network_config
from detection.detections import CLASS_NAMES, SIX
from photosets import samples as photographs
from photosets import synthetic
from settings import TorchrunSettings
from tracking import provenance
from training import checkpoints, engine, transforms
from training import loader as loading
from training.start import build_detector, build_training

IMAGES = 32
LIGHT = "fasterrcnn_mobilenet_v2_fpn"
STARTER = Path(__file__).parents[1] / "weights/starter"
PARTS = {  # what a line of the profile starts with -> the part of the step it belongs to
    "aten::convolution_backward": "convolutions, backward",
    "aten::mkldnn_convolution": "convolutions, forward",
    "aten::_slow_conv2d": "convolutions, 1x1",
    "aten::native_batch_norm": "batch norm",
    "torchvision::_roi_align": "RoIAlign",
    "torchvision::roi_align": "RoIAlign",
    "aten::mm": "box head and linear layers",
    "aten::addmm": "box head and linear layers",
    "aten::hardtanh": "activations",
    "aten::copy_": "copies and layout changes",
    "torchvision::nms": "non-maximum suppression",
}


class DetectoImages(Dataset[tuple[torch.Tensor, dict[str, Any]]]):
    """What detecto.core.Dataset gives for samples: that class itself fails with pandas 3."""

    def __init__(self, samples: list[photographs.Sample]) -> None:
        """Keep samples; each is read and decoded anew whenever it is asked for."""
        self.samples, self.transform = samples, detecto.utils.default_transforms()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the normalised image (3, H, W) and its target, labels as words."""
        sample = self.samples[index]
        labels = [CLASS_NAMES[label] for label in sample.labels]
        image = detecto.utils.read_image(str(sample.image_path))
        return self.transform(image), {"boxes": torch.from_numpy(sample.boxes.copy()), "labels": labels}


def detecto_rate(config: TrainConfig, samples: list[photographs.Sample]) -> float:
    """Return images per second of detecto's own fit on the network of config."""
    model = object.__new__(detecto.core.Model)  # its constructor would download a backbone
    # The same input size; proposals and sampling are torchvision's.
    stock = network_config(
        config.architecture, min_size=config.min_size, max_size=config.max_size,
        rpn_post_nms_top_n=1000, roi_sampling_ratio=2,
    )  # fmt: skip
    network = build_network(stock, len(CLASS_NAMES))
    network.load_state_dict(build_detector(config, SIX, torch.device("cpu")).network.state_dict())
    freeze_backbone(network, config.trainable_layers)
    model._device, model._model, model._classes = torch.device("cpu"), network, list(CLASS_NAMES)
    model._int_mapping = {name: label for label, name in enumerate(CLASS_NAMES)}
    first, every = (
        detecto.core.DataLoader(DetectoImages(some), batch_size=config.batch_size)
        for some in (samples[: config.batch_size], samples)
    )
    model.fit(first, epochs=1, verbose=False)  # warm up
    start = time.perf_counter()
    model.fit(every, epochs=1, verbose=False)
    return len(samples) / (time.perf_counter() - start)


def our_rate(config: TrainConfig, samples: list[photographs.Sample]) -> tuple[float, float, profile]:
    """Return images per second of our loop, the share of it spent waiting for data, and a profile."""
    training, order = build_training(config, TorchrunSettings(), samples, SIX, torch.device("cpu"))
    names = [sample.name for sample in samples]
    ends: list[float] = []

    def after_step(_losses: dict[str, float]) -> bool:
        ends.append(time.perf_counter())
        return False

    waited = [0.0]
    loader = loading.loader(config, TorchrunSettings(), training, samples, order)
    with loading.ending_workers(loader) as batches:
        engine.train_one_epoch(training, timed(batches, waited), names=names, after_step=after_step)
        seconds = ends[-1] - ends[0]  # the first step warms up, and the worker starts
        ready = list(batches)[:1]
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        engine.train_one_epoch(training, ready, names=names, after_step=after_step)
    return (len(order) - 1) * config.batch_size / seconds, waited[0] / seconds, recorded


def timed(batches: DataLoader[Any], waited: list[float]) -> Iterator[transforms.Batch]:
    """Pass batches on and add up the time spent waiting for each but the first."""
    iterator, first = iter(batches), True
    while True:
        start = time.perf_counter()
        batch: transforms.Batch | None = next(iterator, None)
        if not first:
            waited[0] += time.perf_counter() - start
        if batch is None:
            return
        first = False
        yield batch


def print_profile(recorded: profile) -> None:
    """Print the share of each part of the step."""
    shares: dict[str, float] = {}
    for event in recorded.key_averages():
        part = next((name for start, name in PARTS.items() if event.key.startswith(start)), "everything else")
        shares[part] = shares.get(part, 0.0) + event.self_cpu_time_total
    total = sum(shares.values())
    for part, spent in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"    {part:<28} {spent / total:5.0%}")


def compare_to_detecto(architectures: list[str]) -> None:
    """Measure our loop beside detecto's own, and print."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "drawn"
        synthetic.draw_synthetic(root, train=3 * IMAGES, test=1, seed=0)
        samples = [s for s in photographs.read_samples([root], "train") if len(s.labels)][:IMAGES]
        for architecture in architectures:
            flags = ["--preset", "cpu", "--data", str(root), "--architecture", architecture]
            flags += ["--min-size", "320", "--max-size", "320", "--rpn-post-nms-top-n", "300"]
            if architecture == LIGHT:
                flags += ["--weights", str(STARTER)]
            config = train_config(
                [*flags, "--roi-sampling-ratio", "1", "--batch-size", "4", "--workers", "1"]
            )
            theirs = detecto_rate(config, samples)
            ours, waiting, recorded = our_rate(config, samples)
            print(
                f"{architecture}: detecto {theirs:.2f} images/s, train.py {ours:.2f} images/s, "
                f"{ours / theirs:.1f}x; waiting for data {waiting:.1%} of the time; "
                f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB"
            )
            print_profile(recorded)


def measure_preset(preset: str, steps: int, flags: list[str]) -> None:
    """Measure loader and step of preset, alone and together, and print."""
    with tempfile.TemporaryDirectory() as folder:
        if "--data" not in flags:
            synthetic.draw_synthetic(Path(folder), train=400, test=1, seed=0)
            flags = [*flags, "--data", folder]
        if "--weights" not in flags:
            flags = [*flags, "--weights", str(STARTER) if preset == "cpu" else "none"]
        config, process = train_config(["--preset", preset, *flags]), TorchrunSettings()
        device = train.set_up_machine(config, process)
        samples = photographs.read_samples(config.data, "train")
        training, order = build_training(config, process, samples, SIX, device)
        with loading.ending_workers(loading.loader(config, process, training, samples, order)) as batches:
            print_rates(config, training, order, batches, steps)


def print_rates(
    config: TrainConfig, training: checkpoints.Training, order: loading.EpochOrder, batches: DataLoader[Any],
    steps: int,
) -> None:  # fmt: skip
    """Print how many images a second loader and step make, alone and together."""
    preset = config.preset or "no preset"
    print(
        f"{preset}, {config.architecture}, {training.detector.card.network.max_size} px, "
        f"batch {config.batch_size}, {batches.num_workers} workers, {device_name(training.detector.device)}"
    )
    cost = processor_seconds(batches.dataset, order)
    print(f"  loader, on one core: {1 / cost:8.2f} images/s, {1000 * cost:.1f} ms of a processor each")
    loader = loader_rate(batches, config.batch_size, steps)
    print(f"  loader alone:        {loader:8.2f} images/s")
    ready = next(iter(batches))
    step, spent = step_rate(training, itertools.repeat(ready), config.batch_size, steps)
    print(f"  step alone:          {step:8.2f} images/s, {1000 * spent:.1f} ms of a processor each")
    both, _ = step_rate(training, batches, config.batch_size, steps)
    print(f"  together:            {both:8.2f} images/s; the {'loader' if loader < step else 'step'} bounds")


def device_name(device: torch.device) -> str:
    """Return what a person calls device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"processor, {torch.get_num_threads()} threads"


def processor_seconds(images: Dataset[Any], order: loading.EpochOrder, count: int = 100) -> float:
    """Return the processor seconds that reading and moving about one picture takes, in one thread."""
    keys = list(itertools.islice(itertools.chain.from_iterable(order), count + 10))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    for key in keys[:10]:
        images[key]
    start = time.process_time()
    for key in keys[10:]:
        images[key]
    seconds = time.process_time() - start
    torch.set_num_threads(threads)
    return seconds / len(keys[10:])


def loader_rate(batches: DataLoader[Any], batch_size: int, steps: int) -> float:
    """Return images per second of the loader with nobody else at work, once it has started."""
    iterator = iter(batches)
    ahead = 1 + batches.num_workers * (batches.prefetch_factor or 0)  # what is made before the clock starts
    for _ in range(ahead):
        next(iterator)
    start, count = time.perf_counter(), 0
    for _ in itertools.islice(iterator, max(steps, 2 * ahead)):
        count += 1
    return count * batch_size / (time.perf_counter() - start)


def step_rate(
    training: checkpoints.Training, batches: Iterable[transforms.Batch], batch_size: int, steps: int
) -> tuple[float, float]:
    """Return images per second of the loop after two steps that warm up, and this process's seconds each."""
    ends: list[tuple[float, float]] = []

    def after_step(_losses: dict[str, float]) -> bool:
        if training.detector.device.type == "cuda":
            torch.cuda.synchronize()
        ends.append((time.perf_counter(), time.process_time()))
        return len(ends) == steps + 2

    names = [str(i) for i in range(100_000)]
    engine.train_one_epoch(training, batches, names=names, after_step=after_step)
    images = batch_size * (len(ends) - 2)  # fewer than asked for where the epoch is shorter
    wall, spent = (last - first for first, last in zip(ends[1], ends[-1], strict=True))
    return images / wall, spent / images


def main() -> None:
    """Measure and print, with the commit that was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", help="a preset of train.py, or detecto")
    parser.add_argument("--steps", type=int, default=8, help="training steps to measure")
    arguments, rest = parser.parse_known_args()
    print(f"commit {provenance.git_commit() or 'unknown'}")
    if arguments.what == "detecto":
        compare_to_detecto(rest or [LIGHT])
    else:
        measure_preset(arguments.what, arguments.steps, rest)


if __name__ == "__main__":
    main()
