"""A JSON file that lists many pictures, parsed once in a process while it does not change on the disk."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from photosets.layout import WrongLayout


def load(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        WrongLayout: it cannot be read, or is no JSON.
    """
    try:
        state = path.stat()
        return _load(path, state.st_mtime_ns, state.st_size)
    except (OSError, ValueError, RecursionError) as error:
        raise WrongLayout(f"expected JSON in {path}: {error}") from error


@functools.lru_cache(maxsize=8)
def _load(path: Path, _changed_ns: int, _size: int) -> Any:
    return json.loads(path.read_text(encoding="utf-8-sig"))


def begins_with(path: Path, character: str) -> bool:
    """Say whether a file's first character is that one: { of an object, [ of a list."""
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == character.encode()
