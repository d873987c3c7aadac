"""What can be downloaded of an answer: drawn pictures, JSON, CSV and all of it as a ZIP file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PureWindowsPath

from defusedcsv import csv

from client import CSV_COLUMNS, csv_rows
from detection import drawing, imaging
from page.session import Choice, Failure, Page, Photo
from schemas import Detection, ImageResult, PredictResponse


def stem_of(name: str) -> str:
    """Return a file name without its folders, in either system's spelling, and without its ending."""
    return PureWindowsPath(name).stem or "photo"


def drawn_file(page: Page, photo: Photo, shown: Sequence[Detection], image_format: str = "JPEG") -> bytes:
    """Return the photo at its full size with boxes, as a file."""
    drawn = drawing.draw_detections(imaging.decode_image(photo.content), shown, page.language)
    return imaging.encode_image(drawn, image_format)


def chosen(result: ImageResult, choice: Choice) -> ImageResult:
    """Return result with the detections the person sees."""
    return result.model_copy(update={"detections": choice.of(result.detections or ())})


def json_of(page: Page, results: Sequence[ImageResult], choice: Choice) -> bytes:
    """Return results as the API would give them at this threshold and filter."""
    if page.info is None:
        raise ValueError("want a model's answer before its JSON")
    response = PredictResponse(
        model=page.info.model,
        score_threshold=choice.score_threshold,
        results=[chosen(result, choice) for result in results],
    )
    return response.model_dump_json(indent=2, exclude_none=True).encode()


def csv_of(results: Sequence[ImageResult], choice: Choice) -> bytes:
    """Return one row per detection shown; with a byte order mark, without which Excel misreads Cyrillic."""
    stream = io.StringIO()
    table = csv.DictWriter(stream, CSV_COLUMNS)
    table.writeheader()
    for result in results:
        table.writerows(csv_rows(chosen(result, choice)))
    return stream.getvalue().encode("utf-8-sig")


def zip_of(
    page: Page, photos: Sequence[Photo], outcomes: Sequence[ImageResult | Failure], choice: Choice
) -> bytes:
    """Return an archive of every checked photo with its boxes, one JSON and one CSV file for all."""
    stream = io.BytesIO()
    results = [outcome for outcome in outcomes if isinstance(outcome, ImageResult)]
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("detections.json", json_of(page, results, choice))
        archive.writestr("detections.csv", csv_of(results, choice))
        for index, (photo, outcome) in enumerate(zip(photos, outcomes, strict=True), start=1):
            if isinstance(outcome, ImageResult):
                name = f"{index:03d}-{stem_of(photo.name)}.jpg"  # two photos may share a name
                with suppress(imaging.ImageError):  # the API may read formats that this page cannot
                    archive.writestr(name, drawn_file(page, photo, choice.of(outcome.detections or ())))
    return stream.getvalue()
