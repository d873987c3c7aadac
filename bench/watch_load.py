"""What a watcher of many cameras takes of the processor, apart from the model.

    python bench/watch_load.py --cameras 16 --seconds 30

Plays a drawn clip of 1280 x 720 at 15 pictures a second as so many cameras, each looked at twice a second by
an API of this process's own that finds nothing and needs no time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cameras.config import one_camera
from cameras.looking import Served
from cameras.watcher import CameraWatch
from client import Client
from schemas import (
    ImageResult,
    ImageSize,
    ModelCard,
    ModelInfo,
    ModelName,
    NetworkConfig,
    PredictResponse,
)

NAME = ModelName(name="none")
CARD = ModelCard(
    network=NetworkConfig(architecture="none", box_score_thresh=0.5), class_names=("__background__", "pistol")
)
INFO = ModelInfo(model=NAME, source="", loaded_at="", card=CARD, dangerous=["pistol"])
RESULT = ImageResult(file="x", image_size=ImageSize(width=1280, height=720), verdict="none", detections=[])
ANSWER = PredictResponse(model=NAME, score_threshold=0.5, results=[RESULT])


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(INFO.model_dump_json())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(ANSWER.model_dump_json())

    def _answer(self, body: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        return


def draw_clip(path: Path) -> None:
    """Write four seconds in which a noisy picture moves."""
    coarse = np.random.default_rng(0).integers(0, 255, (45, 80, 3), np.uint8)
    image = coarse.repeat(16, axis=0).repeat(16, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15, options={"g": "30", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for i in range(60):
            frame = av.VideoFrame.from_ndarray(np.roll(image, 4 * i, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = Client(f"http://127.0.0.1:{server.server_port}")
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        draw_clip(clip)
        served = Served(client)
        watches = [
            CameraWatch(one_camera(f"camera {i}", str(clip)), client, served)
            for i in range(arguments.cameras)
        ]
        for watch in watches:
            watch.start()
        time.sleep(5)
        looks, began, used = [watch.state.looks for watch in watches], time.monotonic(), time.process_time()
        time.sleep(arguments.seconds)
        lasted = time.monotonic() - began
        used = (time.process_time() - used) / lasted
        rates = [(watch.state.looks - before) / lasted for watch, before in zip(watches, looks, strict=True)]
        for watch in watches:
            watch.ask_to_stop()
        for watch in watches:
            watch.stop(30)
    print(f"{sum(rates):.1f} looks a second, {min(rates):.2f} at the slowest camera, {used:.2f} cores")


if __name__ == "__main__":
    main()
