"""A promotion while photos come in without a pause: a real tracker, a real API, sixteen clients."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LONGEST_S, answers, free_port, running, wait_until
from picture_files import encode, photo
from small_network import small_detector

from schemas import OperatingPoint
from tracking import champion, logged_model

ROOT = Path(__file__).parents[2]
NAME, CLIENTS = "promoted-under-load", 16
SWAP_SECONDS = 60  # is what is tested: a look every second, a download, a load, and a busy machine


def register(folder: Path, uri: str, *, seed: int, score_threshold: float) -> None:
    """Register a small untrained network of its own weights, and say what it was measured to do."""
    point = OperatingPoint(
        score_threshold=score_threshold, rule="test", split="val", precision=0.8, recall=0.7,
        image_recall=0.9, false_alarms_per_1000=40.0, weapon_images=100, weapon_free_images=100,
    )  # fmt: skip
    small_detector(seed=seed, operating_point=point, metrics={"val/map": 0.5 + seed / 100}).save_folder(
        folder
    )
    logged_model.import_folder(folder, name=NAME, experiment="promotion", tracking_uri=uri)


@pytest.fixture
def api(tracker_uri, tmp_path) -> Iterator[httpx.Client]:
    """An API that follows the champion, version 1 of two."""
    register(tmp_path / "one", tracker_uri, seed=1, score_threshold=0.25)
    register(tmp_path / "two", tracker_uri, seed=2, score_threshold=0.75)
    url = f"http://127.0.0.1:{free_port()}"
    variables = {
        "MODEL_NAME": NAME,
        "API_PORT": url.rpartition(":")[2],
        "API_WATCH_SECONDS": "1",
        "API_QUEUE_SIZE": "8",  # so that sixteen are too many, and some are sent away
        "API_CALLER_REQUESTS": str(CLIENTS),
        "API_DEADLINE_SECONDS": str(LONGEST_S),
    }
    command, log = [sys.executable, "mlapi.py"], tmp_path / "log"
    server = running(command, log, ready=lambda: answers(f"{url}/ready"), cwd=ROOT, **variables)
    with server, httpx.Client(base_url=url, timeout=LONGEST_S) as client:
        yield client


@dataclass(frozen=True)
class Answer:
    """What a client got, and when it had asked and had it."""

    asked: float
    had: float
    response: httpx.Response

    @property
    def version(self) -> str:
        return str(self.response.json()["model"]["version"])


PHOTO = encode(photo(96), "JPEG")
EVERYTHING = {"score_threshold": 0, "max_detections": 3}


def seen(response: httpx.Response) -> list[Any]:
    """Return what an answer says was found: another network finds something else."""
    return [result["detections"] for result in response.json()["results"]]


def ask(client: httpx.Client, **query: float) -> httpx.Response:
    return client.post("/predict", files={"file": ("a.jpg", PHOTO)}, params=query)


def test_a_promotion_under_full_load_costs_no_request_and_each_answer_names_its_version(api, tracker_uri):
    first = ask(api, **EVERYTHING)
    answered: list[Answer] = []
    enough = threading.Event()

    def keep_asking() -> None:
        with httpx.Client(base_url=api.base_url, timeout=LONGEST_S) as client:
            while not enough.is_set():
                asked = time.monotonic()
                response = ask(client, **EVERYTHING)
                answered.append(Answer(asked, time.monotonic(), response))
                if response.status_code == 503:
                    enough.wait(0.05)

    def versions() -> Counter[str]:
        return Counter(each.version for each in list(answered) if each.response.status_code == 200)

    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(keep_asking) for _ in range(CLIENTS)]
        try:
            wait_until(lambda: versions()["1"] >= 50)
            champion.promote(NAME, "2", tracking_uri=tracker_uri)
            promoted = time.monotonic()
            wait_until(lambda: versions()["2"] >= 50)
        finally:
            enough.set()
        for client in clients:
            client.result()

    second = ask(api, **EVERYTHING)
    assert seen(first) != seen(second), "else nobody could tell which of the two answered"
    expected = {"1": seen(first), "2": seen(second)}
    statuses = Counter(each.response.status_code for each in answered)
    assert set(statuses) == {200, 503}, statuses
    for each in answered:
        if each.response.status_code == 503:
            assert each.response.json()["type"].endswith("queue-full")
            assert int(each.response.headers["retry-after"]) >= 1
        else:
            assert seen(each.response) == expected[each.version]
    begun_by_two = min(
        each.had for each in answered if each.response.status_code == 200 and each.version == "2"
    )
    assert begun_by_two - promoted < SWAP_SECONDS
    later = [each for each in answered if each.asked > begun_by_two and each.response.status_code == 200]
    assert {each.version for each in later} == {"2"}
    assert ask(api).json()["score_threshold"] == 0.75
