"""The watcher's log: lines for people, or one JSON object a line, as the API writes them."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import MutableMapping
from typing import Any, Literal

from detection.logs import JSON_LINES

LogFormat = Literal["text", "json"]

log = logging.getLogger("watch")


class CameraLog(logging.LoggerAdapter[logging.Logger]):
    """What is said of one camera: names it in the sentence, and in a field of its own."""

    def __init__(self, camera: str) -> None:
        super().__init__(log)
        self._camera = camera

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Return the sentence and its fields; a camera's name has no % in it."""
        extra = {"camera": self._camera, **(kwargs.get("extra") or {})}
        return f"camera {self._camera}: {msg}", {**kwargs, "extra": extra}


def set_up(log_format: LogFormat) -> None:
    """Write to standard error from now on."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "text": {"format": "%(asctime)s %(levelname)s %(message)s"},
                "json": JSON_LINES,
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": log_format}},
            "root": {"handlers": ["stderr"], "level": "WARNING"},
            "loggers": {
                "watch": {"level": "INFO"},
                "apprise": {"level": "CRITICAL"},  # it is told in our words, without addresses
            },
        }
    )
