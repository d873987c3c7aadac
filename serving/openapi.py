"""What the API's document says beyond its types: bodies, examples and problems."""

from __future__ import annotations

from typing import Any

from detection import imaging
from serving.negotiation import JSON, PICTURE_FORMATS
from serving.problems import PROBLEM_JSON, PROBLEMS, TYPE_PREFIX

PICTURE = {"schema": {"type": "string", "format": "binary"}}
PREDICT_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "additionalProperties": False,
                "properties": {
                    "file": {
                        "type": "array",
                        "minItems": 1,
                        "items": PICTURE["schema"],
                        "description": f"Photos to look at: {', '.join(imaging.FORMATS)}.",
                    }
                },
            }
        },
        JSON: {
            "schema": {
                "type": "object",
                "required": ["images"],
                "additionalProperties": False,
                "properties": {
                    "images": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "byte"},
                        "description": "The same photos in base64.",
                    }
                },
            }
        },
    },
}
RECORDER_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "maxProperties": 8,
                "propertyNames": {"pattern": "^[a-z_]{1,40}$"},
                "additionalProperties": {"type": "string"},
                "properties": {
                    "image": PICTURE["schema"] | {"description": "The photo to look at."},
                    "min_confidence": {"type": "number", "minimum": 0, "maximum": 1},
                    "api_key": {"type": "string", "description": "In place of the header X-API-Key."},
                },
            }
        }
    },
}
PREDICT_EXAMPLE = {
    "model": {"name": "weapon-detector", "version": "7", "alias": "champion"},
    "score_threshold": 0.62,
    "results": [
        {
            "file": "street.jpg",
            "image_size": {"width": 1280, "height": 720},
            "alarm": True,
            "verdict": "alarm",
            "detections": [
                {
                    "label": "pistol",
                    "dangerous": True,
                    "score": 0.91,
                    "box": {"x1": 412.5, "y1": 233.0, "x2": 498.1, "y2": 301.7},
                }
            ],
            "time_ms": {"decode": 9.1, "queue": 0.2, "inference": 212.4},
        }
    ],
}
PREDICT_ANSWER: dict[str, Any] = {
    "description": "What was found, one result per file; or, by the Accept header, the annotated picture",
    "content": {JSON: {"example": PREDICT_EXAMPLE}} | dict.fromkeys(PICTURE_FORMATS, PICTURE),
    "headers": {
        "X-Alarm": {"description": "With a picture: what `alarm` says.", "schema": {"type": "boolean"}},
        "X-Verdict": {
            "description": "With a picture: what `verdict` says.",
            "schema": {"type": "string", "enum": ["alarm", "unsure", "none"]},
        },
    },
}
PROBLEM_DETAILS = {  # examples of what a problem says, beside its fixed title
    "bad-multipart": "The multipart body cannot be read: Content-Type names no boundary.",
    "bad-image": "The picture cannot be used.",
    "unauthorized": "Send the key as 'X-API-Key: KEY' or 'Authorization: Bearer KEY'.",
    "not-acceptable": "Expected one file for an answer in image/jpeg, got 2. Ask for application/json.",
    "upload-timeout": "The upload took over 30 s. Send smaller or fewer files.",
    "body-too-large": "Expected a body of at most 20,000,000 bytes, got more. Send fewer or smaller files.",
    "image-too-large": "Expected at most 40,000,000 pixels, got 9000 x 6000.",
    "not-multipart": "Expected multipart/form-data with a part named 'file', or application/json, got "
    "'image/jpeg'.",
    "compressed-body": "Expected a body without Content-Encoding, got 'gzip': photos are compressed.",
    "too-many-requests": "Expected at most 8 requests at once from one caller, got more. Try again in 1 s.",
    "not-an-image": "The picture is damaged or cut short: image file is truncated.",
    "invalid-parameters": "score_threshold: Input should be less than or equal to 1, got '80'.",
    "missing-file": "Expected at least one file in a part named 'file', got 'image'.",
    "too-many-files": "Expected at most 8 files in one request, got more. Send several requests.",
    "internal-error": "It is in the log under request id 1f0c5a7e9b3d4e2f8a6c7d8e9f0a1b2c.",
    "not-ready": "The model is being loaded.",
    "queue-full": "Every place in the queue is taken; try again in 2 s.",
    "deadline-exceeded": "The answer took over 30 s. Try again, or send fewer files.",
}


def problems(*names: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of these problems, by status."""
    responses: dict[int | str, dict[str, Any]] = {}
    for name in names:
        status, title = PROBLEMS[name]
        response = responses.setdefault(status, {"description": "", "content": {PROBLEM_JSON: {}}})
        response["description"] = "; ".join(filter(None, [response["description"], title]))
        content = response["content"][PROBLEM_JSON]
        content["schema"] = {"$ref": "#/components/schemas/Problem"}
        example = {"type": TYPE_PREFIX + name, "title": title, "status": status}
        example["detail"] = PROBLEM_DETAILS[name]
        content.setdefault("examples", {})[name] = {"value": example}
    return responses
