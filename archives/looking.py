"""From a listed photo to its row: read, decoded, looked at as the API looks."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import serving.cores  # noqa: F401 - before torch
from archives.rows import failed
from archives.sources import Unreadable, read_photo
from detection import runtimes
from detection.alarm import weapon_score
from detection.decoding import Decoders
from detection.imaging import Image
from detection.runtime import AnyDetector, run_by, warm_up
from schemas import ImageResult, ModelCard, Tiles
from serving.bodies import SentFile
from serving.negotiation import JSON
from serving.predict import Look, PredictQuery, look_at, to_result
from serving.queue import Ran

DECODE_SECONDS = 10.0  # the API's own limit by default


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to look at the photos of an archive.

    Attributes:
        tiles: as the API's parameter.
        score_threshold: lowest score kept; None: the model's operating point.
        max_pixels: width x height of one picture at most.
        runtime: what runs the network.
        device: where it runs.
    """

    tiles: Tiles = "1x1"
    score_threshold: float | None = None
    max_pixels: int = 40_000_000
    runtime: runtimes.Wanted = "auto"
    device: str = "cpu"

    @property
    def query(self) -> PredictQuery:
        """The same as a question to the API."""
        return PredictQuery(tiles=self.tiles, score_threshold=self.score_threshold)


class Looker:
    """One detector with its decoding processes; reads and decodes the next photos while it looks at one.

    Args:
        detector: loaded.
        wanted: how to look.
        ahead: photos that are read and decoded at once; as many decoding processes.
    """

    def __init__(self, detector: AnyDetector, wanted: Wanted, *, ahead: int) -> None:
        self._detector, self._wanted, self._ahead = detector, wanted, ahead
        self._decoders = Decoders(ahead, wanted.max_pixels, DECODE_SECONDS)
        self._readers = ThreadPoolExecutor(ahead, thread_name_prefix="reader")
        info = run_by(detector)
        self._runtime = f"{info.name} {info.precision}" if info else ""
        warm_up(detector)

    def rows(self, photos: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the row of each listed photo, in their order."""
        waiting = iter(photos)
        under_way: deque[tuple[str, Future[Image]]] = deque()
        for photo in itertools.chain(waiting, [None] * self._ahead):
            if photo is not None:
                under_way.append((photo["photo"], self._readers.submit(self._read, photo)))
            if under_way and (photo is None or len(under_way) > self._ahead):
                yield self._row(*under_way.popleft())

    def _read(self, photo: Mapping[str, Any]) -> Image:
        content = read_photo(photo["address"], photo["path"], photo["offset"], photo["size"])
        return self._decoders.decode(content)

    def _row(self, name: str, reading: Future[Image]) -> dict[str, Any]:
        file, card = SentFile(name, b""), self._detector.card
        try:
            look = look_at(self._detector, file, self._wanted.query, JSON, lambda _: reading.result())
        except Unreadable as error:
            return failed(name, "unreadable", f"{error}.")
        result = to_result(file, Ran(look, 0.0, 0.0), card, "")
        if result.error is not None:
            return failed(name, result.error.type.rpartition(":")[2], result.error.detail)
        return {**answer_row(result), **_more(look, card), "runtime": self._runtime}

    def close(self) -> None:
        """End the decoding processes."""
        self._readers.shutdown(cancel_futures=True)
        self._decoders.close()


def answer_row(result: ImageResult) -> dict[str, Any]:
    """Return the columns that hold what the API answers for a photo."""
    found, size = result.detections or [], result.image_size
    return {
        "photo": result.file,
        "width": size.width if size else None,
        "height": size.height if size else None,
        "verdict": result.verdict,
        "alarm": result.alarm,
        "labels": [one.label for one in found],
        "dangerous": [one.dangerous for one in found],
        "scores": [one.score for one in found],
        "boxes": [[one.box.x1, one.box.y1, one.box.x2, one.box.y2] for one in found],
        "notes": result.notes or [],
    }


def _more(look: Look, card: ModelCard) -> dict[str, Any]:
    """Return the columns that the API does not answer."""
    how = {"brightness": look.appearance.brightness, "sharpness": look.appearance.sharpness}
    return {"weapon_score": weapon_score(look.detections, card), **how}
