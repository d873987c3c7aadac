"""How fast a training step is, beside detecto's own: `python bench/train_speed.py [ARCHITECTURE ...]`.

In one run, for the same images and network with the same weights (of the light network the starter's:
random ones shrink its values until the processor is slow):

    detecto     detecto.core.Model.fit, as its README shows it: images decoded anew, float32, the budgets of
                torchvision
    train.py    our loop with the preset `cpu`: images in memory, one worker, channels last, smaller budgets,
                bfloat16 where the processor multiplies it

and then where the time of our step goes. The images are drawn by the project (synthetic.py), about 320 x 240,
and seen by both at 320 pixels; those without objects are left out, which detecto cannot hold.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import detecto.core
import detecto.utils
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parents[1]))

import dataset
import detector as detectors
import engine
import synthetic
import train
import transforms
from detections import CLASS_NAMES
from settings import TorchrunSettings, TrainConfig, train_config

IMAGES = 32
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

    def __init__(self, samples: list[dataset.Sample]) -> None:
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


def detecto_rate(config: TrainConfig, samples: list[dataset.Sample]) -> float:
    """Return images per second of detecto's own fit on the network of config."""
    model = object.__new__(detecto.core.Model)  # its constructor would download a backbone
    # The same input size; proposals and sampling are torchvision's.
    stock = detectors.network_config(
        config.architecture, min_size=config.min_size, max_size=config.max_size,
        rpn_post_nms_top_n=1000, roi_sampling_ratio=2,
    )  # fmt: skip
    network = detectors.build_network(stock, len(CLASS_NAMES))
    network.load_state_dict(train.build_detector(config, torch.device("cpu")).network.state_dict())
    detectors.freeze_backbone(network, config.trainable_layers)
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


def our_rate(config: TrainConfig, samples: list[dataset.Sample]) -> tuple[float, float, profile]:
    """Return images per second of our loop, the share of it spent waiting for data, and a profile."""
    training, order = train.build_training(config, TorchrunSettings(), samples, torch.device("cpu"))
    batches = train.loader(config, samples, order)
    names = [sample.name for sample in samples]
    ends: list[float] = []

    def after_step(_losses: dict[str, float]) -> bool:
        ends.append(time.perf_counter())
        return False

    waited = [0.0]
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


def main() -> None:
    """Measure and print."""
    architectures = sys.argv[1:] or ["fasterrcnn_mobilenet_v2_fpn"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "drawn"
        synthetic.draw_synthetic(root, train=3 * IMAGES, test=1, seed=0)
        samples = [s for s in dataset.read_samples([root], "train") if len(s.labels)][:IMAGES]
        for architecture in architectures:
            flags = ["--preset", "cpu", "--data", str(root), "--architecture", architecture]
            flags += ["--min-size", "320", "--max-size", "320", "--rpn-post-nms-top-n", "300"]
            if architecture == "fasterrcnn_mobilenet_v2_fpn":
                flags += ["--weights", str(Path(__file__).parents[1] / "weights/starter")]
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


if __name__ == "__main__":
    main()
