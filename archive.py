"""Look at photos by the thousand or the million where they lie, and say how they differ from validation.

    python archive.py scan /photos s3://bucket/2026 --model weights/starter --output runs/archive
    python archive.py scan ...                    # the same again goes on where the last one stopped
    python archive.py scan --cluster ADDRESS ...  # on every core of a Ray cluster
    python archive.py report runs/archive --data FOLDER --model weights/starter

Wants: python -m pip install -r requirements/cluster.txt
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import pyarrow as pa
from tqdm import tqdm

from archives import drift, scanning
from archives.errors import ArchiveError
from archives.looking import Looker, Wanted
from archives.rows import ROWS, Parts
from archives.sources import one_photo
from commands_data import ArchiveCommand, Looking, ReportCommand, ScanCommand, archive_command
from detection import runtimes
from detection.card import DetectorError, read_card
from photosets.layout import DatasetError
from photosets.samples import read_samples
from schemas import Tiles
from tracking.tracker import RegistryError
from tracking.versions import download_version, find_version


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a person's
    settings, command = archive_command(arguments)
    try:
        if isinstance(command, ScanCommand):
            scan(settings, command)
        elif isinstance(command, ReportCommand):
            report(settings, command)
    except (ArchiveError, DetectorError, DatasetError, RegistryError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        print("\nstopped; the rows so far are kept, and the same command goes on from here")
        raise SystemExit(130) from None


def scan(settings: ArchiveCommand, command: ScanCommand) -> None:
    """Look at every photo that has no row yet, and print what came of it."""
    engine, parts = ray_engine(), Parts(command.output)
    with model_folder(settings, command) as folder:
        card = read_card(folder)
        parts.settle(
            {
                "weights": card.weights_sha256,
                "tiles": command.tiles,
                "score_threshold": command.score_threshold,
            }
        )
        if command.retry_failed:
            say(f"{parts.forget_failures():,} photos that failed are looked at again")
        wanted = Wanted(
            tiles=command.tiles, score_threshold=command.score_threshold, max_pixels=command.max_pixels,
            runtime=command.runtime, device=command.device,
        )  # fmt: skip
        look = partial(engine.look, model=folder, wanted=wanted, actors=command.actors, tell=say)
        engine.connect(command.cluster)
        try:
            progress = scanning.scan(command.sources, parts, look, say)
        finally:
            engine.disconnect()
    say(f"{progress.sentence()}; rows: {command.output}")


def report(settings: ArchiveCommand, command: ReportCommand) -> None:
    """Write the page that compares photos with the validation split, and print its sentences."""
    with model_folder(settings, command) as folder:
        tiles: Tiles = "1x1"
        if is_address_of_api(command.photos):
            photos = drift.of_metrics(command.photos, drift.ask_metrics(command.photos))
        else:
            parts = Parts(command.photos)
            before = parts.settings()
            if before["weights"] != read_card(folder).weights_sha256:
                raise ArchiveError(
                    f"{command.photos} was looked at by another model than this one: name the one that scan "
                    "had, with --model or --model-version"
                )
            tiles = before["tiles"]
            photos = drift.of_rows(command.photos, parts.tables())
        wanted = Wanted(tiles=tiles, runtime=command.runtime, device=command.device)
        validation = drift.of_rows("validation", look_at_validation(folder, command, wanted))
    try:
        command.output.parent.mkdir(parents=True, exist_ok=True)
        command.output.write_text(drift.render(photos, validation), encoding="utf-8")
    except OSError as error:
        raise ArchiveError(f"expected to write a page to --output {command.output}: {error}") from error
    for sentence in drift.all_sentences(photos, validation):
        say(sentence)
    say(f"page: {command.output}")


def is_address_of_api(photos: str) -> bool:
    """Return whether photos names the API's metrics."""
    return photos.startswith(("http://", "https://"))


def look_at_validation(folder: Path, command: ReportCommand, wanted: Wanted) -> Iterator[pa.Table]:
    """Yield the rows of the validation split, looked at in this process as scan looks."""
    samples = read_samples(
        command.data, "val", classes=command.classes, val_fraction=command.val_fraction,
        negative_val_fraction=command.negative_val_fraction, negatives=command.negatives,
    )  # fmt: skip
    looker = Looker(runtimes.load(folder, runtime=wanted.runtime, device=wanted.device), wanted, ahead=1)
    try:
        rows = looker.rows(one_photo(sample.image_path) for sample in samples)
        counted = tqdm(rows, total=len(samples), desc="validation", unit="photo", leave=False, mininterval=2)
        yield pa.Table.from_pylist(list(counted), schema=ROWS)
    finally:
        looker.close()


@contextlib.contextmanager
def model_folder(settings: ArchiveCommand, command: Looking) -> Iterator[Path]:
    """Give the model's folder: the one named, or the registry's version in a temporary one."""
    if command.model is not None:
        yield command.model
        return
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        found = find_version(
            settings.model_name, settings.model_version, settings.model_alias,
            tracking_uri=settings.mlflow_tracking_uri,
        )  # fmt: skip
        yield download_version(found, Path(folder))


def ray_engine() -> ModuleType:
    """Return archives.engine, or say how to install what it needs."""
    try:
        from archives import engine
    except ImportError as error:
        raise ArchiveError(
            f"scan needs Ray, which is not installed here ({error}): python -m pip install -r "
            "requirements/cluster.txt"
        ) from error
    return engine


def say(sentence: str) -> None:
    """Print a sentence at once."""
    print(sentence, flush=True)


if __name__ == "__main__":
    main()
