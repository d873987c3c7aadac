"""How much of the bare detector's rate an archive's pass keeps, on all cores of this machine.

    python bench/archive_speed.py --model weights/starter --photos FOLDER

Bare: as many processes as cores, each with one detector of one thread, which look again and again at photos
that are decoded and in memory. The pass: archive.py's own, which lists, reads, decodes in processes of their
own, looks and keeps rows. Both take turns on the same photos, so that whatever else the machine does falls on
both alike; the ratio of the medians is what to compare. Starting Ray and loading models are not in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


# isort: split
import argparse
import os

os.environ.setdefault(
    "RAY_worker_niceness", "0"
)  # else whatever else runs goes before the pass, not the bare

# isort: split
import multiprocessing
import statistics
import tempfile
import time

import pyarrow as pa

import serving.cores
from archives import engine
from archives.looking import Wanted
from archives.sources import listed
from detection import imaging, runtimes
from detection.runtime import warm_up
from detection.tiles import detect_in, frames_of


def bare(model: Path, paths: list[Path], start: multiprocessing.synchronize.Barrier) -> None:
    """Look at decoded photos from when all processes are ready."""
    detector = runtimes.load(model, threads=1)
    warm_up(detector)
    images = [imaging.decode_image(path.read_bytes()) for path in paths]
    start.wait()
    for image in images:
        detect_in(detector, image, frames_of(image.shape[:2], "1x1", detector.card.network))
    start.wait()


def bare_rate(model: Path, paths: list[Path], cores: int) -> float:
    """Return photos a second of as many detectors as cores."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(cores + 1)
    shares = [(model, paths[i::cores], start) for i in range(cores)]
    workers = [context.Process(target=bare, args=share) for share in shares]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    start.wait()
    return len(paths) / (time.perf_counter() - began)


def pass_rate(model: Path, photos: pa.Table, cores: int) -> float:
    """Return photos a second of a pass, from its first rows to its last.

    By the first rows every actor is about done with its first piece, so one of each is left out: counting
    them would find a pass faster than it is.
    """
    times, counts = [], []
    for rows in engine.look(photos, model, Wanted(), actors=cores, tell=lambda _: None):
        times.append(time.perf_counter())
        counts.append(len(rows))
    return sum(counts[cores:]) / (times[-1] - times[0])


def main() -> None:
    """Measure and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model folder with its exports")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos")
    parser.add_argument("--rounds", type=int, default=3, help="times that each takes its turn")
    parser.add_argument("--count", type=int, default=600, help="photos in a turn; the folder's, repeated")
    options = parser.parse_args()
    cores = serving.cores.granted_cores()
    found = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in imaging.SUFFIXES)
    paths = (found * (options.count // len(found) + 1))[: options.count]
    with tempfile.TemporaryDirectory() as folder:
        for i, path in enumerate(paths):
            (Path(folder) / f"{i:06}{path.suffix}").symlink_to(path.resolve())
        photos = pa.concat_tables([one for one in listed(folder) if isinstance(one, pa.Table)])
        engine.connect(None)
        rates: dict[str, list[float]] = {"bare": [], "pass": []}
        for turn in range(options.rounds):
            rates["bare"].append(bare_rate(options.model, paths, cores))
            rates["pass"].append(pass_rate(options.model, photos, cores))
            print(
                f"turn {turn}: " + ", ".join(f"{name} {each[-1]:.1f}/s" for name, each in rates.items()),
                flush=True,
            )
        engine.disconnect()
    middle = {name: statistics.median(each) for name, each in rates.items()}
    ratio = statistics.median(b / a for a, b in zip(rates["bare"], rates["pass"], strict=True))
    print(f"bare {middle['bare']:.1f}/s, pass {middle['pass']:.1f}/s, ratio {ratio:.2f} on {cores} cores")


if __name__ == "__main__":
    main()
