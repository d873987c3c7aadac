"""Watch over the watcher: GET / for people, /status.json, /metrics for Prometheus, /health.

No camera's password is known here: a camera is shown by the address that may be shown. Whoever can reach the
port can read how the cameras do, and do nothing.

StatusError (RuntimeError)  nobody can listen there; str() says why
"""

from __future__ import annotations

import html
import ipaddress
import logging
import socket
import socketserver
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from cameras.config import Camera
from cameras.metrics import metrics
from cameras.watcher import CameraState, Watcher

REFRESH_S = 5
READ_S = 10.0  # a caller that sends nothing for so long is hung up on
MOST_CALLERS = 16
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")

log = logging.getLogger("watch")


class StatusError(RuntimeError):
    """Nobody can listen there."""


# --- what is said -----------------------------------------------------------------------------------


class _Said(BaseModel):
    """What the status page's JSON holds."""

    model_config = ConfigDict(frozen=True)


class CameraStatus(_Said):
    """How one camera does."""

    name: str
    address: str = Field(description="without user, password and query")
    problem: str | None = Field(description="why it gives no pictures, or nobody looks at them")
    lens: str | None = Field(description="black, covered or frozen: it gives pictures and sees nothing")
    frames_per_second: float = Field(description="looked at, over the last ten seconds")
    delay_seconds: float | None = Field(description="from the last picture's coming to the API's answer")
    last_frame_at: str | None = Field(description="ISO 8601, UTC")
    last_frame_age_seconds: float | None
    frames: int = Field(description="that came since the start")
    looks: int = Field(description="frames that the API looked at")
    reconnects: int
    refusals: int = Field(description="frames that the API would not look at: 503 or 429, after retries")
    alarms: int
    suspicions: int
    alarms_last_hour: int
    suspicions_last_hour: int


class WatchStatus(_Said):
    """How a watcher of cameras does: GET /status.json."""

    at: str = Field(description="ISO 8601, UTC")
    cameras: tuple[CameraStatus, ...]
    told: dict[str, str | None] = Field(description="who is told of alarms, and why one cannot be, if so")


def status(watcher: Watcher) -> WatchStatus:
    """Return how a watcher and its cameras do."""
    now, states = datetime.now(UTC), watcher.states()
    return WatchStatus(
        at=now.isoformat(timespec="milliseconds"),
        cameras=tuple(_camera_status(each, states[each.name]) for each in watcher.cameras),
        told=watcher.told(),
    )


def _camera_status(camera: Camera, state: CameraState) -> CameraStatus:
    stream, figures = state.stream, state.figures
    waits = "no picture has come yet" if stream.problem == "" else None
    return CameraStatus(
        name=camera.name,
        address=camera.shown,
        problem=stream.problem or state.problem or waits,
        lens=state.lens,
        frames_per_second=round(figures.looks_per_second, 2),
        delay_seconds=None if figures.delay_s is None else round(figures.delay_s, 3),
        last_frame_at=stream.last_at.isoformat(timespec="milliseconds") if stream.last_at else None,
        last_frame_age_seconds=None if stream.age_s is None else round(stream.age_s, 1),
        frames=stream.pictures,
        looks=figures.looks,
        reconnects=stream.reconnects,
        refusals=sum(figures.refusals.values()),
        alarms=figures.confirmed.get("alarm", 0),
        suspicions=figures.confirmed.get("unsure", 0),
        alarms_last_hour=figures.in_last_hour.get("alarm", 0),
        suspicions_last_hour=figures.in_last_hour.get("unsure", 0),
    )


# --- the page ---------------------------------------------------------------------------------------

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{refresh}">
<title>Cameras</title>
<style>
body {{ font: 1rem system-ui, sans-serif; margin: 1.5rem; color-scheme: light dark }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ padding: .4rem .7rem; text-align: left; border-bottom: 1px solid #8886; vertical-align: top }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }}
td.wrong {{ font-weight: bold; border-left: .4rem solid #c33 }}
td.well {{ border-left: .4rem solid #393 }}
small {{ opacity: .75 }}
</style>
</head>
<body>
<h1>Cameras</h1>
<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<p>{told}</p>
<p><small>{at}, every {refresh} seconds anew.
An alarm is a possible weapon that a person must confirm.</small></p>
</body>
</html>
"""
HEADS = (
    "Camera", "How it does", "Frames/s", "Delay, s", "Last frame, s ago", "Lost", "Refused by the API",
    "Alarms (last hour)", "Unsure (last hour)",
)  # fmt: skip


def page(said: WatchStatus) -> str:
    """Return the status as one HTML page: a table, no script, all names and sentences escaped."""
    return PAGE.format(
        refresh=REFRESH_S,
        heads="".join(f'<th scope="col">{head}</th>' for head in HEADS),
        rows="\n".join(_row(camera) for camera in said.cameras),
        told="<br>".join(
            f"Told of alarms: {html.escape(name)}: {html.escape(problem or 'well')}"
            for name, problem in said.told.items()
        ),
        at=html.escape(said.at),
    )


def _row(camera: CameraStatus) -> str:
    lens = f"its lens is {camera.lens}" if camera.lens else None
    wrong = "; ".join(filter(None, (camera.problem, lens)))
    numbers = (
        f"{camera.frames_per_second:.1f}",
        "" if camera.delay_seconds is None else f"{camera.delay_seconds:.2f}",
        "" if camera.last_frame_age_seconds is None else f"{camera.last_frame_age_seconds:.1f}",
        str(camera.reconnects),
        str(camera.refusals),
        f"{camera.alarms} ({camera.alarms_last_hour})",
        f"{camera.suspicions} ({camera.suspicions_last_hour})",
    )
    return (
        f'<tr><th scope="row">{html.escape(camera.name)}<br><small>{html.escape(camera.address)}</small></th>'
        f'<td class="{"wrong" if wrong else "well"}">{html.escape(wrong or "well")}</td>'
        + "".join(f'<td class="number">{number}</td>' for number in numbers)
        + "</tr>"
    )


# --- the server -------------------------------------------------------------------------------------


class StatusServer:
    """Answers on host:port from start to close, in threads of its own.

    Raises:
        StatusError: the port is taken, or this machine has no such address.
    """

    def __init__(self, watcher: Watcher, host: str, port: int) -> None:
        try:
            self._server = _Server(watcher, host, port)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise StatusError(
                f"cannot listen on {host}:{port}: {reason}; set WATCH_PORT to a free port"
            ) from error
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._server.serve_forever, args=(0.2,), name="status", daemon=True).start()

    def close(self) -> None:
        """Stop answering; only after start."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, watcher: Watcher, host: str, port: int) -> None:
        self.watcher, self.registry = watcher, metrics(watcher)
        self.is_local = _is_loopback(host)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._places = threading.BoundedSemaphore(MOST_CALLERS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks the network for this machine's name
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("a caller of the status page was lost", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = READ_S
    server_version, sys_version = "watch", ""

    def do_GET(self) -> None:
        if not self._is_called_by_name():
            self._answer(421, "text/plain", b"This is not the address of this watcher.\n")
            return
        watcher = self.server.watcher
        path = self.path.partition("?")[0]
        if path == "/health":
            is_alive = watcher.is_alive
            text = b'{"status":"ok"}\n' if is_alive else b'{"status":"hangs"}\n'
            self._answer(200 if is_alive else 503, "application/json", text)
        elif path == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.server.registry))
        elif path == "/status.json":
            self._answer(200, "application/json", status(watcher).model_dump_json().encode())
        elif path == "/":
            self._answer(200, "text/html; charset=utf-8", page(status(watcher)).encode())
        else:
            self._answer(404, "text/plain", b"There are /, /status.json, /metrics and /health.\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _is_called_by_name(self) -> bool:
        """Whether the caller means this machine: a strange page's script calls by a name of its own."""
        name = (self.headers.get("Host") or "localhost").lower()
        return not self.server.is_local or name.rpartition(":")[0] in LOCAL_NAMES or name in LOCAL_NAMES

    def _answer(self, code: int, content_type: str, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
        )
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: ARG002
        return


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
