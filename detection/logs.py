"""How a program writes its log as JSON objects, one a line: the same for the API and the watcher."""

from __future__ import annotations

from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS

# For logging.config.dictConfig; "time" stands in every line, fields given as `extra` beside the message.
JSON_LINES: dict[str, Any] = {
    "()": "pythonjsonlogger.json.JsonFormatter",
    "format": "{levelname}{name}{message}",
    "style": "{",
    "timestamp": "time",
    "reserved_attrs": [*RESERVED_ATTRS, "color_message"],  # the latter is uvicorn's
    "rename_fields": {"levelname": "level", "name": "logger"},
    "json_ensure_ascii": False,
}
