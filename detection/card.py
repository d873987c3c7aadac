"""A model card, model.json: read and written beside the weights it tells of."""

from __future__ import annotations

from pathlib import Path

import pydantic

from detection.detections import Classes
from detection.files import write_atomically
from schemas import CARD_FILE, ModelCard


class DetectorError(ValueError):
    """A model cannot be built, loaded or saved; the message says why and what to do."""


def classes_of(card: ModelCard) -> Classes:
    """Return what the card's model tells apart, and what of it is dangerous."""
    return Classes(card.class_names, card.dangerous)


def read_card(folder: Path) -> ModelCard:
    """Read folder/model.json.

    Raises:
        DetectorError: it is absent or not a model card.
    """
    path = folder / CARD_FILE
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DetectorError(f"expected a model folder with {CARD_FILE} at {folder}: {error}") from error
    except pydantic.ValidationError as error:
        raise DetectorError(f"{path} is not a model card: {error}") from error


def write_card(folder: Path, card: ModelCard) -> None:
    """Write folder/model.json, whole or not at all.

    Raises:
        DetectorError: it cannot be written.
    """
    try:
        write_atomically(folder / CARD_FILE, card.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise DetectorError(f"the model cannot be written to {folder}: {error}") from error
