"""An answer of the API as others write it: rows of a table, COCO's lists, Label Studio's tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from schemas import Detection, ImageResult, ModelCard, ModelInfo

CSV_COLUMNS = (
    "file", "alarm", "label", "dangerous", "score", "x1", "y1", "x2", "y2", "error", "notes", "verdict",
)  # fmt: skip
WEAPON_COLOR, LOOKALIKE_COLOR = "#c2410c", "#0369a1"  # of labels in Label Studio


def csv_rows(result: ImageResult) -> list[dict[str, Any]]:
    """Return one row of CSV_COLUMNS per detection; a photo without any has one row all the same."""
    if result.error:
        return [{"file": result.file, "error": result.error.detail}]
    photo = result.model_dump(include={"file", "alarm", "verdict"}) | {"notes": " ".join(result.notes or ())}
    return [
        {**photo, "label": d.label, "dangerous": d.dangerous, "score": d.score, **d.box.model_dump()}
        for d in result.detections or ()
    ] or [photo]


def coco_document(results: Iterable[ImageResult], info: ModelInfo) -> dict[str, Any]:
    """Return one COCO object: images, categories, and annotations with a score; all results have a size."""
    names = info.card.class_names[1:]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for result in results:
        assert result.image_size is not None, "it did not fail"
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": result.file, **result.image_size.model_dump()})
        for detection in result.detections or ():
            annotation = {"id": len(annotations) + 1, "image_id": image_id, **_coco_box(detection, names)}
            annotations.append(annotation)
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    return {
        "info": info.model.model_dump(), "images": images, "categories": categories,
        "annotations": annotations,
    }  # fmt: skip


def _coco_box(detection: Detection, names: Sequence[str]) -> dict[str, Any]:
    box = detection.box
    width, height = box.x2 - box.x1, box.y2 - box.y1
    return {
        "category_id": names.index(detection.label) + 1,
        "bbox": [box.x1, box.y1, width, height],
        "area": width * height,
        "iscrowd": 0,
        "score": detection.score,
    }


# --- Label Studio -----------------------------------------------------------------------------------


def studio_config(card: ModelCard) -> str:
    """Return the labelling interface for the classes of a model, as Label Studio's settings take it."""
    labels = "".join(
        f"    <Label value={quoteattr(name)} "
        f'background="{WEAPON_COLOR if name in card.dangerous else LOOKALIKE_COLOR}"/>\n'
        for name in card.class_names[1:]
    )
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n</View>\n'
    )


def studio_version(model: str, version: str | None, weights_sha256: str) -> str:
    """Return what predictions of a model are told apart by."""
    return f"{model} {version or weights_sha256[:8]}".strip()


def studio_prediction(
    result: ImageResult, model_version: str, *, from_name: str = "label", to_name: str = "image"
) -> dict[str, Any]:
    """Return what was found in a photo, as a prediction that a person corrects.

    Args:
        result: of a photo that did not fail.
        model_version: of studio_version.
        from_name: of the RectangleLabels in the labelling interface.
        to_name: of the Image there.
    """
    assert result.image_size is not None, "it did not fail"
    width, height = result.image_size.width, result.image_size.height
    regions = [
        {
            "id": f"found{i}", "type": "rectanglelabels", "from_name": from_name, "to_name": to_name,
            "original_width": width, "original_height": height, "image_rotation": 0, "score": found.score,
            "value": {
                "x": 100 * found.box.x1 / width, "y": 100 * found.box.y1 / height,
                "width": 100 * (found.box.x2 - found.box.x1) / width,
                "height": 100 * (found.box.y2 - found.box.y1) / height,
                "rotation": 0, "rectanglelabels": [found.label],
            },
        }
        for i, found in enumerate(result.detections or (), start=1)
    ]  # fmt: skip
    score = max((found.score for found in result.detections or ()), default=0.0)
    return {"model_version": model_version, "score": score, "result": regions}


def studio_tasks(
    results: Iterable[tuple[str, ImageResult]], info: ModelInfo, prefix: str
) -> list[dict[str, Any]]:
    """Return tasks of Label Studio: each a picture, and what the model found in it.

    Args:
        results: path of each photo, and its answer; none that failed.
        info: of the model.
        prefix: what Label Studio puts before a path.
    """
    version = studio_version(info.model.name, info.model.version, info.card.weights_sha256)
    return [
        {
            "data": {"image": prefix + quote(path.lstrip("/"), safe="/")},
            "predictions": [studio_prediction(result, version)],
        }
        for path, result in results
    ]
