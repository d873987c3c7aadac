"""The model API: photos in, weapons and look-alikes out.

Run it with the registry's champion:      python mlapi.py
or with a model folder and no tracker:    MODEL_DIR=weights/starter python mlapi.py
All settings:                             python mlapi.py --help
"""

from __future__ import annotations

import logging
import socket
from typing import Any

import uvicorn

import serving.cores  # noqa: F401 - before torch
from detection.devices import NoSuchDevice
from detection.logs import JSON_LINES
from serving.app import create_app
from serving.gate import BACKLOG, BoundedConnection
from settings import api_settings

log = logging.getLogger("mlapi")


def logging_config(level: str) -> dict[str, Any]:
    """Return the logging set-up: one JSON object a line, for ours and uvicorn's loggers alike."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": JSON_LINES},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "filters": {"told_by_us": {"()": lambda: _is_not_told_by_us}},
        "loggers": {
            "uvicorn.error": {"filters": ["told_by_us"]},
            "mlapi": {"level": level.upper()},
            "py.warnings": {"level": "ERROR"},
            "uvicorn": {"level": "INFO"},
        },
    }


def _is_not_told_by_us(record: logging.LogRecord) -> bool:
    """Leave out uvicorn's error for a client that never reads: the request's own line says 499."""
    return "returned without completing response" not in record.getMessage()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there, or say why none can and exit."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        where = f"{host}:{port}"
        raise SystemExit(f"error: cannot listen on {where}: {error}. Set API_PORT to a free port.") from error
    # asyncio turns Nagle's algorithm off on sockets of its own making only; with it, each answer waits 40 ms
    # for the client's delayed acknowledgement. Accepted connections inherit the option.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def main() -> None:
    """Serve until told to stop."""
    settings = api_settings()
    logging.captureWarnings(True)
    try:
        app = create_app(settings)
    except NoSuchDevice as error:
        raise SystemExit(f"error: API_DEVICE={settings.api_device}: {error}") from error
    config = uvicorn.Config(
        app,
        log_config=logging_config(settings.api_log_level),
        access_log=False,
        server_header=False,
        http=BoundedConnection,
        backlog=BACKLOG,
        ws="none",
        timeout_graceful_shutdown=int(settings.api_deadline_seconds) + 5,
    )
    listening = listen(settings.api_host, settings.api_port)
    host, port = listening.getsockname()[:2]
    log.info("listening", extra={"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"})
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
