"""What can be downloaded of an answer: drawn pictures, JSON, CSV and all of it as a ZIP file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import PureWindowsPath
from typing import Any

from defusedcsv import csv

from detection import imaging
from detection.alarm import unsure_threshold
from detection.answers import CSV_COLUMNS, csv_rows
from detection.names import class_name
from page.pictures import marked
from page.session import Failure, Page, Photo
from schemas import Detection, ImageResult, PredictResponse

Shown = Callable[[ImageResult], list[Detection]]  # what a file holds of an answer
COLUMNS = ("file", "verdict", "object", *(name for name in CSV_COLUMNS if name not in ("file", "verdict")))


def stem_of(name: str) -> str:
    """Return a file name without its folders, in either system's spelling, and without its ending."""
    return PureWindowsPath(name).stem or "photo"


def drawn_file(
    page: Page, photo: Photo, result: ImageResult, shown: Sequence[Detection], image_format: str = "JPEG",
    *, no_faces: bool = True,
) -> bytes:  # fmt: skip
    """Return the photo at its full size with boxes, as a file; faces blurred unless they are wanted."""
    drawn = marked(page, imaging.decode_image(photo.content), result, shown, no_faces=no_faces)
    return imaging.encode_image(drawn, image_format)


def json_of(page: Page, results: Sequence[ImageResult], shown: Shown) -> bytes:
    """Return results as the API gives them, each label's name in the person's language beside it."""
    if page.info is None:
        raise ValueError("want a model's answer before its JSON")
    least = unsure_threshold(page.info.card)
    kept = [result.model_copy(update={"detections": shown(result)}) for result in results]
    least = min([least, *(d.score for result in kept for d in result.detections or ())])
    response = PredictResponse(model=page.info.model, score_threshold=least, results=kept)
    content = response.model_dump(exclude_none=True)
    for result in content["results"]:
        result["detections"] = [
            {"object": class_name(d["label"], page.language), **d} for d in result["detections"]
        ]
    return json.dumps(content, indent=2, ensure_ascii=False).encode()


def csv_of(page: Page, results: Sequence[ImageResult], shown: Shown) -> bytes:
    """Return one row per detection, as a spreadsheet in the person's language reads it.

    With a byte order mark, without which Excel misreads Cyrillic; in Russian with semicolons and commas.
    """
    stream = io.StringIO()
    table = csv.DictWriter(stream, COLUMNS, delimiter=page.text("csv_delimiter"))
    table.writeheader()
    for result in results:
        for row in csv_rows(result.model_copy(update={"detections": shown(result)})):
            named = {"object": class_name(row["label"], page.language)} if "label" in row else {}
            table.writerow({key: _cell(page, value) for key, value in {**row, **named}.items()})
    return stream.getvalue().encode("utf-8-sig")


def _cell(page: Page, value: Any) -> Any:
    return str(value).replace(".", page.text("decimal_point")) if isinstance(value, float) else value


def zip_of(
    page: Page, photos: Sequence[Photo], outcomes: Sequence[ImageResult | Failure | None], shown: Shown,
    *, no_faces: bool = True,
) -> bytes:  # fmt: skip
    """Return an archive of every checked photo with its boxes, one JSON and one CSV file for all."""
    stream = io.BytesIO()
    results = [outcome for outcome in outcomes if isinstance(outcome, ImageResult)]
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("detections.json", json_of(page, results, shown))
        archive.writestr("detections.csv", csv_of(page, results, shown))
        for index, (photo, outcome) in enumerate(zip(photos, outcomes, strict=True), start=1):
            if isinstance(outcome, ImageResult):
                name = f"{index:03d}-{stem_of(photo.name)}.jpg"  # two photos may share a name
                with suppress(imaging.ImageError):  # the API may read formats that this page cannot
                    drawn = drawn_file(page, photo, outcome, shown(outcome), no_faces=no_faces)
                    archive.writestr(name, drawn)
    return stream.getvalue()
