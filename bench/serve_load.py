"""What the API does under load: throughput and latency with 1 to 64 clients, and at ten times its capacity.

    python bench/serve_load.py --model weights/starter --photo photos/x.jpg --seconds 20
    python bench/serve_load.py --model weights/starter --device cuda      on a graphics card

First the bare detector, from bytes to boxes in a process of its own, one photo after the other: the rate that
the web layer is to keep. Then `python mlapi.py` on a free port with its default queue: clients that each send
the next photo when the last is answered, and wait a moment after a 503. Then photos that arrive ten times as
fast as the API was seen to answer, whether it answers or not.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.serve_speed import drawn_photo, random_model
from detection import imaging, runtimes

ROOT = Path(__file__).parents[1]

CLIENTS = (1, 4, 16, 64)
PAUSE_SECONDS = 0.25  # after a 503
WORKERS_ON_A_CARD = 8  # as deploy/gpu.api.compose.yaml has it: as many pictures may go through together


@dataclass
class Tally:
    """What came back: seconds of what was served, and how often each status."""

    served: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def row(self, name: str, seconds: float) -> str:
        """Return a line of the table."""
        p50, p95, p99 = np.percentile(self.served or [np.nan], [50, 95, 99]) * 1000
        refused, total = self.statuses[503], sum(self.statuses.values())
        odd = total - refused - self.statuses[200]
        rate = len(self.served) / seconds
        return f"| {name} | {rate:.1f} | {p50:.0f} | {p95:.0f} | {p99:.0f} | {refused / total:.0%} | {odd} |"


def bare(model: Path, device: str, content: bytes, seconds: float) -> None:
    """Print the row of the detector that the API serves, without the API."""
    detector = runtimes.load(model, device=device)
    for measured in (2.0, seconds):  # the first is for warming up
        tally, began = Tally(), time.perf_counter()
        while (start := time.perf_counter()) - began < measured:
            detector.detect(imaging.decode_image(content))
            tally.served.append(time.perf_counter() - start)
            tally.statuses[200] += 1
    print(tally.row("the bare detector", time.perf_counter() - began), flush=True)


async def send(client: httpx.AsyncClient, content: bytes, tally: Tally) -> int:
    """Send one photo; note what came back."""
    began = time.perf_counter()
    try:
        status = (await client.post("/predict", files={"file": ("photo.jpg", content)})).status_code
    except httpx.TransportError:
        status = 0
    if status == 200:
        tally.served.append(time.perf_counter() - began)
    tally.statuses[status] += 1
    return status


async def in_turn(client: httpx.AsyncClient, content: bytes, clients: int, seconds: float) -> Tally:
    """Let each of some clients send one photo after the other."""
    tally, end = Tally(), time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < end:
            if await send(client, content, tally) != 200:
                await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*[one() for _ in range(clients)])
    return tally


async def at_rate(client: httpx.AsyncClient, content: bytes, rate: float, seconds: float) -> Tally:
    """Let photos arrive at a rate, each second, answered or not."""
    tally, began, tasks = Tally(), time.perf_counter(), []
    for i in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, began + i / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(send(client, content, tally)))
    await asyncio.gather(*tasks)
    return tally


@contextmanager
def api(model: Path, device: str, workers: int | None) -> Iterator[tuple[str, psutil.Process]]:
    """Run the API on a free port until the block ends; its own number of workers where none is given."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"MODEL_DIR": str(model.resolve()), "API_PORT": str(port), "API_LOG_LEVEL": "error"}
    variables["API_CALLER_REQUESTS"] = "1000"  # all the clients have one address
    variables |= {"API_DEVICE": device} | ({"API_WORKERS": str(workers)} if workers else {})
    process = subprocess.Popen([sys.executable, "mlapi.py"], cwd=ROOT, env={**os.environ, **variables})
    try:
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def run(address: str, process: psutil.Process, content: bytes, seconds: float) -> None:
    """Print the table."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
        await wait_until_ready(client, process)
        await in_turn(client, content, 1, 2)
        capacity = 0.0
        for clients in CLIENTS:
            began = time.perf_counter()
            tally = await in_turn(client, content, clients, seconds)
            took = time.perf_counter() - began
            capacity = max(capacity, len(tally.served) / took)
            print(tally.row(str(clients), took), flush=True)
        began = time.perf_counter()
        tally = await at_rate(client, content, 10 * capacity, seconds)
        name = f"{10 * capacity:.0f} photos/s, ten times capacity"
        print(tally.row(name, time.perf_counter() - began))
        print(f"\nThe API's process: {process.memory_info().rss / 1e6:.0f} MB.")


async def wait_until_ready(client: httpx.AsyncClient, process: psutil.Process) -> None:
    """Return once the API says that it is ready."""
    for _ in range(600):
        if process.status() == psutil.STATUS_ZOMBIE:
            raise SystemExit("error: the API has ended; what it said stands above")
        try:
            if (await client.get("/ready")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.2)
    raise SystemExit("error: the API was not ready within two minutes; its log stands above")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, help="model folder; by default the light network, random weights"
    )
    parser.add_argument("--photo", type=Path, help="by default a drawn one of 1280 x 720")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the network runs")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help=f"API_WORKERS; by default the API's, on a card {WORKERS_ON_A_CARD}",
    )
    given = parser.parse_args()
    content = given.photo.read_bytes() if given.photo else drawn_photo()
    with tempfile.TemporaryDirectory() as temporary:
        model = given.model or random_model("fasterrcnn_mobilenet_v2_fpn", Path(temporary))
        print("| Clients | photos/s | p50, ms | p95, ms | p99, ms | 503 | other |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        alone = multiprocessing.get_context("spawn").Process(
            target=bare, args=(model, given.device, content, given.seconds)
        )
        alone.start()
        alone.join()
        workers = given.workers or (WORKERS_ON_A_CARD if given.device == "cuda" else None)
        with api(model, given.device, workers) as (address, process):
            asyncio.run(run(address, process, content, given.seconds))


if __name__ == "__main__":
    main()
