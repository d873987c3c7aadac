"""A small real HTTP server that answers as mlapi.py does, with the detections a test gives it.

python tests/fake_api.py 8000     # for looking at the page without a model
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
import threading
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from PIL import Image, UnidentifiedImageError

from detection.alarm import alarm_threshold, unsure_threshold
from schemas import (
    AlarmPoint,
    Band,
    Box,
    ClassThreshold,
    CurvePoint,
    Detection,
    ImageResult,
    ImageSize,
    ListedVersion,
    LookalikeCount,
    MeasuredTables,
    ModelCard,
    ModelInfo,
    ModelList,
    ModelName,
    NetworkConfig,
    OperatingPoint,
    PredictResponse,
    Problem,
    TimeMs,
)

WEAPONS = ("pistol", "knife")
CLASS_NAMES = ("__background__", *WEAPONS, "billete", "monedero", "smartphone", "tarjeta")
OPERATING_POINT = OperatingPoint(
    score_threshold=0.6, rule="at most 50 false alarms in 1,000", split="val", precision=0.91, recall=0.84,
    image_recall=0.88, false_alarms_per_1000=48.0, weapon_images=520, weapon_free_images=260,
)  # fmt: skip
UNSURE_POINT = OPERATING_POINT.model_copy(
    update={"score_threshold": 0.4, "image_recall": 0.94, "false_alarms_per_1000": 190.0}
)
BANDS = (
    Band(name="weak", score_from=0.0, boxes=210, right=0.31),
    Band(name="likely", score_from=0.5, boxes=120, right=0.72),
    Band(name="strong", score_from=0.9, boxes=400, right=0.95),
)
CARD = ModelCard(
    network=NetworkConfig(architecture="fasterrcnn_mobilenet_v3_large_fpn", min_size=480, max_size=800),
    class_names=CLASS_NAMES,
    operating_point=OPERATING_POINT,
    unsure_point=UNSURE_POINT,
    bands=BANDS,
    class_thresholds={"pistol": ClassThreshold(score_threshold=0.55, precision=0.9, recall=0.8, f1=0.85)},
    alarm_curve=tuple(
        AlarmPoint(score_threshold=t, image_recall=1 - t**3, false_alarms_per_1000=400 * (1 - t) ** 2)
        for t in (i / 20 for i in range(1, 20))
    ),
    metrics={
        "val/recordings": 140,
        "val/lookalike_alarm_rate": 0.043, "val/weapon_as_lookalike_rate": 0.012,
        "val/map": 0.512,
        "val/map/low": 0.48, "val/map/high": 0.54, "val/map_50": 0.793, "val/ap/pistol": 0.6,
        "val/ap/pistol/low": 0.55, "val/ap/pistol/high": 0.65,
        "val/alarm/image_recall/low": 0.85, "val/alarm/image_recall/high": 0.91,
        "val/alarm/image_recall": 0.88,
    },
    tables=MeasuredTables(
        split="val",
        precision_recall={
            name: tuple(
                CurvePoint(score_threshold=1 - recall, precision=1 - recall**2 / i, recall=recall)
                for recall in (0, 0.2, 0.4, 0.6, 0.8)
            )
            for i, name in enumerate(CLASS_NAMES[1:], start=1)
        },
        confusion=tuple(tuple(90 if i == j > 0 else i + j for j in range(7)) for i in range(7)),
        lookalikes=(
            LookalikeCount(
                weapon="pistol", lookalike="smartphone",
                lookalike_boxes=54, called_weapon=3, weapon_boxes=361, called_lookalike=2,
            ),
        ),
    ),
    data={
        "roots": ["shop"],
        "train": {"images": 4000, "without_objects": 200, "boxes": {"pistol": 1800, "knife": 1500}},
        "val": {"images": 780, "without_objects": 40, "boxes": {"pistol": 300, "knife": 250}},
    },
    library_versions={"torch": "2.14.1"},
    created_at="2026-11-20T10:00:00Z",
)  # fmt: skip

TRACKER = "http://127.0.0.1:5000/#"
VERSIONS = (
    ListedVersion(
        version="8", aliases=["challenger"], served=False, created_at="2026-11-23T09:00:00+00:00",
        version_url=f"{TRACKER}/models/weapon-detector/versions/8", run_url=f"{TRACKER}/runs/8e",
        metrics={
            "val/map": 0.561, "val/map/low": 0.545, "val/map/high": 0.58,
            "val/alarm/image_recall": 0.9, "val/alarm/image_recall/low": 0.87,
            "val/alarm/image_recall/high": 0.92, "val/original_protocol/map": 0.6,
        },
    ),
    ListedVersion(
        version="7", aliases=["champion"], served=True, created_at="2026-11-20T10:00:00+00:00",
        version_url=f"{TRACKER}/models/weapon-detector/versions/7", run_url=f"{TRACKER}/runs/7e",
    ),
    ListedVersion(version="6", served=False, created_at="2026-11-01T10:00:00+00:00"),
)  # fmt: skip


def detection(label: str, score: float, *box: float) -> Detection:
    """One detection; the box in hundredths of the picture's width and height."""
    x1, y1, x2, y2 = box
    return Detection(
        label=label, dangerous=label in WEAPONS, score=score, box=Box(x1=x1, y1=y1, x2=x2, y2=y2)
    )


class FakeApi:
    """Answers on a free port of 127.0.0.1 until closed; use as a context manager.

    Attributes:
        found: the detections in every picture, boxes in hundredths of its sides.
        problem: if set, what every request is answered with.
        version: of the model it says it serves.
        versions: that it could serve.
        notes: on every picture.
        let_through: if set, no request to /predict is answered before it is.
        requests: (path, query, file names) of every request to /predict so far.
    """

    def __init__(self, found=(), *, port=0, api_key=None, card=CARD):
        self.found = list(found)
        self.problem: Problem | None = None
        self.fails_at: dict[str, int] = {}  # file name -> status of the problem it is answered with
        self.problems_left = -1  # how often to answer with problem; -1 is always
        self.version = "7"
        self.versions = list(VERSIONS)
        self.notes: list[str] = []
        self.let_through: threading.Event | None = None
        self.card = card
        self.api_key = api_key
        self.requests: list[tuple[str, dict[str, list[str]], list[str]]] = []
        self.port = port
        self.connections: set[socket.socket] = set()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; again on the same port after stop."""
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening and hang up: the next request is refused."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):  # kept alive, they would go on being answered
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> FakeApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fail_with(
        self, name: str, status: int, times: int = -1, detail: str = "In the test's words."
    ) -> None:
        """Answer the next requests to /predict with a problem document; not-ready goes for /model too."""
        self.problem = Problem(
            type=f"https://example.org/problems/{name}", title=name, status=status, detail=detail
        )
        self.problems_left = times

    def info(self) -> ModelInfo:
        name = ModelName(name="weapon-detector", version=self.version, alias="champion")
        return ModelInfo(
            model=name, source="models:/weapon-detector@champion", loaded_at="2026-11-22T20:00:00Z",
            card=self.card, dangerous=list(self.card.dangerous), version_url="http://127.0.0.1:5000/#/models/weapon-detector",
        )  # fmt: skip

    def look(self, name: str, photo: bytes, threshold: float) -> ImageResult:
        try:
            width, height = Image.open(io.BytesIO(photo)).size
        except UnidentifiedImageError:
            problem = Problem(
                type="urn:problem:not-an-image", title="No picture", status=415, detail="No picture."
            )
            return ImageResult(file=name, error=problem)
        found = [d for d in self.found if d.score >= threshold]
        scaled = [
            d.model_copy(update={"box": Box(x1=b.x1 * width / 100, y1=b.y1 * height / 100,
                                            x2=b.x2 * width / 100, y2=b.y2 * height / 100)})
            for d in found for b in [d.box]
        ]  # fmt: skip
        strongest = max((d.score for d in self.found if d.dangerous), default=0.0)
        alarm = strongest >= alarm_threshold(self.card)
        unsure = strongest >= unsure_threshold(self.card) or bool(self.notes)
        return ImageResult(
            file=name,
            image_size=ImageSize(width=width, height=height),
            alarm=alarm,
            verdict="alarm" if alarm else "unsure" if unsure else "none",
            detections=scaled,
            notes=self.notes or None,
            time_ms=TimeMs(decode=3.0, queue=0.1, inference=250.0),
        )


class _Handler(BaseHTTPRequestHandler):
    api: FakeApi
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.api.connections.add(self.connection)

    def finish(self) -> None:
        self.api.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        if self.api.problem and self.api.problem.status == 503 and "ready" in self.api.problem.type:
            self._answer(503, self.api.problem.model_dump_json())
        elif self.path == "/models":
            listed = ModelList(name="weapon-detector", versions=self.api.versions)
            self._answer(200, listed.model_dump_json())
        else:
            self._answer(200, self.api.info().model_dump_json())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        header = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = list(BytesParser(policy=HTTP).parsebytes(header + body).iter_parts())
        if self.api.let_through is not None:
            self.api.let_through.wait()
        split = urlsplit(self.path)
        query = parse_qs(split.query)
        self.api.requests.append((split.path, query, [str(part.get_filename()) for part in parts]))
        if self.api.api_key and self.headers["X-API-Key"] != self.api.api_key:
            problem = Problem(
                type="urn:problem:unauthorized", title="Key", status=401, detail="A key is needed."
            )
            self._answer(401, problem.model_dump_json())
        elif self.api.problem and self.api.problems_left:
            self.api.problems_left -= 1
            self._answer(self.api.problem.status, self.api.problem.model_dump_json())
        elif status := self.api.fails_at.get(self.api.requests[-1][2][0]):
            self._answer(status, Problem(title="Failed", status=status, detail="In vain.").model_dump_json())
        else:
            threshold = float(query.get("score_threshold", [str(OPERATING_POINT.score_threshold)])[0])
            results = [
                self.api.look(str(part.get_filename()), bytes(part.get_payload(decode=True)), threshold)
                for part in parts
            ]
            response = PredictResponse(
                model=self.api.info().model, score_threshold=threshold, results=results
            )
            self._answer(200, response.model_dump_json(exclude_none=True))

    def _answer(self, status: int, body: str) -> None:
        content = body.encode()
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        return


def main() -> None:
    found = [detection("pistol", 0.91, 20, 25, 60, 75), detection("smartphone", 0.72, 55, 10, 92, 60),
             detection("knife", 0.3, 5, 60, 30, 95)]  # fmt: skip
    with FakeApi(found, port=int(sys.argv[1])) as api:
        sys.stdout.write(json.dumps({"url": api.url}) + "\n")
        threading.Event().wait()


if __name__ == "__main__":
    main()
