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

from archives import scanning
from archives.errors import ArchiveError
from archives.rows import Parts
from commands_data import ArchiveCommand, Looking, ScanCommand, archive_command
from detection.card import DetectorError, read_card
from tracking.tracker import RegistryError
from tracking.versions import download_version, find_version


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a person's
    settings, command = archive_command(arguments)
    try:
        if isinstance(command, ScanCommand):
            scan(settings, command)
    except (ArchiveError, DetectorError, RegistryError) as error:
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
        wanted = engine.Wanted(
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
