"""How much faster than the plain way the served detector is, step by step, on one photo.

    python bench/serve_speed.py                                   both networks, random weights, drawn photo
    python bench/serve_speed.py --model weights/starter --photo photos/x.jpg
    python bench/serve_speed.py --model weights/starter --data ../shared/data/weapons --images 150
    python bench/serve_speed.py --runtimes                        PyTorch, OpenVINO, ONNX Runtime at one size

The plain way is what a first version does: float32, eager, autograd left on, torchvision's stock settings
(800 pixels, 1,000 proposals). Every step runs in a process of its own, so that its memory is its own; the
steps take turns, so that whatever else the machine does falls on all alike. Time runs from the bytes to
the detections; on a machine with other work, processor time is the fairer measure. With --data, mAP of the
plain way and of the served one on that folder's test split follows.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


# isort: split
import argparse
import io
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

import numpy as np
import psutil
import torch
from PIL import Image as PillowImage
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detection import detector as detectors
from detection import export as exports
from detection import imaging, weights
from detection.architectures import build_network, network_config
from detection.card import read_card, write_card
from detection.detections import CLASS_NAMES, Detections
from detection.devices import has_fast_bf16
from detection.openvino_runtime import CORE
from detection.runtimes import load_export
from metrics import coco_summary
from photosets.samples import read_samples
from schemas import WEIGHTS_FILE, Export, ModelCard, NetworkConfig, Precision
from serving.cores import granted_cores

STOCK = {"min_size": 800, "max_size": 1333, "rpn_post_nms_top_n": 1000, "roi_sampling_ratio": 2}
SERVED = {  # where a network's own defaults are not already these
    "fasterrcnn_resnet50_fpn": {
        "min_size": 480, "max_size": 854, "rpn_post_nms_top_n": 300, "roi_sampling_ratio": 1,
    },
}  # fmt: skip
SIDE = 768  # of the matrices that the floor is measured with
Detect = Callable[[bytes], Detections]


# --- the ways ---------------------------------------------------------------------------------------


def plain(folder: Path, config: NetworkConfig) -> Detect:
    """Return the plain way with this network's weights: torchvision's own transform, no optimisation.

    The detector alone: a second look at its candidates is not part of the plain way.
    """
    card = read_card(folder).model_copy(update={"network": config})
    network = build_network(config, len(card.class_names))
    state = weights.load_state_dict(folder / WEIGHTS_FILE)
    network.load_state_dict(
        {name: value.float() for name, value in state.items() if not name.startswith(detectors.SECOND_LOOK)}
    )
    network.transform = GeneralizedRCNNTransform(
        config.min_size, config.max_size, list(config.image_mean), list(config.image_std)
    )
    network.eval()  # the new transform too: only then does it give boxes in the photo's pixels

    def detect(content: bytes) -> Detections:
        picture = np.asarray(PillowImage.open(io.BytesIO(content)).convert("RGB"))
        found = network([torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255])[0]
        values = (found[key].detach().numpy() for key in ("boxes", "scores", "labels"))
        return Detections(*values)

    return detect


def ours(folder: Path, config: NetworkConfig, *, optimize: bool = True) -> Detect:
    """Return what the API runs, with this configuration."""
    card = read_card(folder).model_copy(update={"network": config})
    with tempfile.TemporaryDirectory() as temporary:
        changed = Path(temporary)
        (changed / WEIGHTS_FILE).symlink_to((folder / WEIGHTS_FILE).resolve())
        write_card(changed, card)
        detector = detectors.load_folder(changed, optimize=optimize)
    return lambda content: detector.detect(imaging.decode_image(content))


def steps(served: NetworkConfig) -> list[tuple[str, Callable[[Path], Detect]]]:
    """Return the ways to compare: a name, and folder -> detect."""
    size = {"min_size": served.min_size, "max_size": served.max_size}
    stock, at_size = served.model_copy(update=STOCK), served.model_copy(update=STOCK | size)
    fewer = at_size.model_copy(update={"rpn_post_nms_top_n": served.rpn_post_nms_top_n})
    bf16 = ", bf16" if has_fast_bf16() else " (no bf16 here)"
    return [
        ("plain: float32, eager, 800 px, 1,000 proposals", lambda folder: plain(folder, stock)),
        (f"plain at {served.min_size} px", lambda folder: plain(folder, at_size)),
        ("+ inference mode, one-pass resize", lambda folder: ours(folder, at_size, optimize=False)),
        (f"+ batch norm folded, channels last{bf16}", lambda folder: ours(folder, at_size)),
        (f"+ {served.rpn_post_nms_top_n} proposals", lambda folder: ours(folder, fewer)),
        ("+ one RoIAlign sample per bin = served", lambda folder: ours(folder, served)),
    ]


# --- the runtimes ---------------------------------------------------------------------------------


def with_exports(folder: Path, destination: Path, content: bytes) -> Path:
    """Return a copy of a model folder that has an export of each kind; those it lacks are only for timing.

    They are scaled by the photo alone and compared with nothing.
    """
    shutil.copytree(folder, destination)
    card = read_card(destination)
    pieces = exports.take_apart(detectors.load_folder(destination, optimize=False))
    models = exports.to_openvino(pieces)

    def described(runtime: Literal["openvino", "onnx"], precision: Precision) -> Export:
        return Export(
            runtime=runtime, precision=precision, files={}, weights_sha256=card.weights_sha256,
            geometry=pieces.geometry,
        )  # fmt: skip

    exact = exports.in_memory(models, card, described("openvino", "int8"))
    kinds: dict[tuple[Literal["openvino", "onnx"], Precision], Callable[[Path], None]] = {
        ("openvino", "int8"): lambda place: exports.write_openvino(
            exports.to_int8(models, exact, [lambda: imaging.decode_image(content)]), place
        ),
        ("openvino", "float"): lambda place: exports.write_openvino(models, place),
        ("onnx", "float"): lambda place: exports.write_onnx(pieces, place),
    }
    found = list(card.exports)
    for (runtime, precision), write in kinds.items():
        if not any((one.runtime, one.precision) == (runtime, precision) for one in found):
            place = destination / f"{runtime}-{precision}"
            place.mkdir()
            write(place)
            files = {f"{place.name}/{file.name}": "" for file in place.iterdir()}
            found.append(described(runtime, precision).model_copy(update={"files": files}))
    write_card(destination, card.model_copy(update={"exports": tuple(found)}))
    return destination


def exported(folder: Path, runtime: str, precision: str) -> Detect:
    """Return what the API runs with one of a folder's exports."""
    card = read_card(folder)
    [export] = [one for one in card.exports if (one.runtime, one.precision) == (runtime, precision)]
    detector = load_export(folder, card, export, threads=granted_cores())
    return lambda content: detector.detect(imaging.decode_image(content))


def runtimes(served: NetworkConfig) -> list[tuple[str, Callable[[Path], Detect]]]:
    """Return the ways to compare at one input size: a name, and folder -> detect."""
    every = steps(served)
    bf16 = "bf16" if has_fast_bf16() else "float32"
    return [
        every[1],
        (f"ours, PyTorch {bf16}", every[-1][1]),
        ("ONNX Runtime float32", lambda folder: exported(folder, "onnx", "float")),
        (f"OpenVINO {bf16}", lambda folder: exported(folder, "openvino", "float")),
        ("OpenVINO int8", lambda folder: exported(folder, "openvino", "int8")),
    ]


WAYS = {"steps": steps, "runtimes": runtimes}


# --- measuring --------------------------------------------------------------------------------------


def work(
    connection: Connection, ways: str, index: int, folder: Path, served: NetworkConfig, content: bytes
) -> None:
    """Answer "go" with seconds on the clock and of processor, "memory" with megabytes."""
    torch.set_num_threads(granted_cores())
    detect = WAYS[ways](served)[index][1](folder)
    for _ in range(2):
        detect(content)
    connection.send("ready")
    while (asked := connection.recv()) != "end":
        if asked == "memory":
            connection.send(psutil.Process().memory_info().rss / 1e6)
            continue
        began, worked = time.perf_counter(), time.process_time()
        detect(content)
        connection.send((time.perf_counter() - began, time.process_time() - worked))


@dataclass
class Row:
    """One way: seconds of every round on the clock and of processor, and the process's megabytes."""

    name: str
    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    megabytes: float = 0

    @property
    def p50(self) -> float:
        """Median seconds on the clock."""
        return statistics.median(self.clock)

    @property
    def worked(self) -> float:
        """Median seconds of processor, over all threads."""
        return statistics.median(self.processor)


def measure(ways: str, folder: Path, served: NetworkConfig, content: bytes, rounds: int) -> list[Row]:
    """Time every way of WAYS[ways], in turns."""
    context = multiprocessing.get_context("spawn")
    rows, ends, processes = [Row(name) for name, _ in WAYS[ways](served)], [], []
    for index in range(len(rows)):
        end, its_end = context.Pipe()
        process = context.Process(
            target=work, args=(its_end, ways, index, folder, served, content), daemon=True
        )
        process.start()
        its_end.close()  # so that an end of the process is heard here
        try:
            end.recv()
        except EOFError:
            sys.exit(f"{rows[index].name!r} ended before it began to measure: what it said stands above")
        ends.append(end)
        processes.append(process)
    for _ in range(rounds):
        for row, end in zip(rows, ends, strict=True):
            end.send("go")
            clock, processor = end.recv()
            row.clock.append(clock)
            row.processor.append(processor)
    for row, end, process in zip(rows, ends, processes, strict=True):
        end.send("memory")
        row.megabytes = end.recv()
        end.send("end")
        process.join()
    return rows


def floor_seconds(folder: Path, served: NetworkConfig, content: bytes) -> dict[str, float]:
    """Return how much processor the served network's multiplications alone take at the measured best.

    By type: bf16, or float32 where the processor does not multiply it, and int8.
    """
    torch.set_num_threads(1)
    detect = ours(folder, served)
    with FlopCounterMode(display=False) as counter:
        detect(content)
    dtype = torch.bfloat16 if has_fast_bf16() else torch.float32
    a, b = torch.rand(SIDE, SIDE).to(dtype), torch.rand(SIDE, SIDE).to(dtype)
    in_int8 = int8_product()
    best = {
        "bf16" if dtype == torch.bfloat16 else "float32": min(_seconds(lambda: a @ b) for _ in range(200)),
        "int8": min(_seconds(in_int8) for _ in range(200)),
    }
    return {name: float(counter.get_total_flops()) / (2 * SIDE**3 / took) for name, took in best.items()}


def int8_product() -> Callable[[], Any]:
    """Return a product of two int8 matrices on one thread, as OpenVINO computes it."""
    import nncf
    import openvino as ov
    from openvino import opset15 as ops

    rng = np.random.default_rng(0)
    values = rng.random((SIDE, SIDE), np.float32)
    given = ops.parameter([SIDE, SIDE], np.float32)
    model = ov.Model([ops.matmul(given, ops.constant(values), False, True)], [given])
    with exports.quiet():
        quantised = nncf.quantize(model, nncf.Dataset([values]), subset_size=1)
    request = CORE.compile_model(quantised, "CPU", {"INFERENCE_NUM_THREADS": 1}).create_infer_request()
    return lambda: request.infer([values], share_inputs=True, share_outputs=True)


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def show(rows: Sequence[Row], floors: Mapping[str, float]) -> None:
    """Print a Markdown table."""
    print("| Way | p50, ms | times faster | processor, ms | times less | memory, MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    first, last = rows[0], rows[-1]
    for row in rows:
        print(
            f"| {row.name} | {row.p50 * 1000:.0f} | {first.p50 / row.p50:.1f} | {row.worked * 1000:.0f} "
            f"| {first.worked / row.worked:.1f} | {row.megabytes:.0f} |"
        )
    print("\nMatrix products alone at the measured peak, and as a share of the last way's processor time:")
    print(
        ", ".join(
            f"{name} {floor * 1000:.0f} ms, {floor / last.worked:.0%}" for name, floor in floors.items()
        )
    )
    print(flush=True)


def compare_accuracy(folder: Path, served: NetworkConfig, data: Path, images: int) -> None:
    """Print mAP of the plain way and of the served one on images of data's test split."""
    samples = read_samples([data], "test")
    samples = samples[:: max(1, len(samples) // images)][:images]
    truths = [sample.truth for sample in samples]
    print(f"| Way | mAP | mAP50 | on {len(samples)} local test images |\n| --- | ---: | ---: | --- |")
    for name, make in (steps(served)[1], steps(served)[-1]):
        detect = make(folder)
        found = [detect(sample.image_path.read_bytes()) for sample in samples]
        summary = coco_summary(truths, found)
        print(f"| {name} | {summary['map']:.4f} | {summary['map_50']:.4f} | |")


# --- the program ------------------------------------------------------------------------------------


def random_model(architecture: str, folder: Path) -> Path:
    """Write a model folder of random weights: time does not depend on what a network knows."""
    torch.manual_seed(0)
    config = network_config(architecture, **SERVED.get(architecture, {}))
    detectors.Detector(ModelCard(network=config, class_names=CLASS_NAMES)).save_folder(folder / architecture)
    return folder / architecture


def drawn_photo() -> bytes:
    """Return a 1280 x 720 JPEG with something in it."""
    y, x = np.mgrid[0:720, 0:1280]
    waves = 128 + 90 * np.sin(x / 37) * np.cos(y / 23)
    noise = np.random.default_rng(0).normal(0, 12, (720, 1280, 3))
    return imaging.encode_image((waves[..., None] + noise).clip(0, 255).astype(np.uint8), "JPEG")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, nargs="*", help="model folders; by default both networks")
    parser.add_argument("--photo", type=Path, help="by default a drawn one of 1280 x 720")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--data", type=Path, help="also compare mAP on this data set's test split")
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--runtimes", action="store_true", help="compare runtimes at one input size")
    given = parser.parse_args()
    ways = "runtimes" if given.runtimes else "steps"
    content = given.photo.read_bytes() if given.photo else drawn_photo()
    with tempfile.TemporaryDirectory() as temporary:
        architectures = ("fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v2_fpn")
        made = [] if given.model else [random_model(name, Path(temporary)) for name in architectures]
        for folder in given.model or made:
            served = read_card(folder).network
            print(f"### {served.architecture}, {granted_cores()} cores, {given.rounds} rounds\n", flush=True)
            if given.runtimes:
                folder = with_exports(folder, Path(temporary) / f"exported-{served.architecture}", content)
            rows = measure(ways, folder, served, content, given.rounds)
            show(rows, floor_seconds(folder, served, content))
            if given.data:
                compare_accuracy(folder, served, given.data, given.images)


if __name__ == "__main__":
    main()
