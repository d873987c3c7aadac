"""Pictures decoded in processes of their own: the same pixels, and a faulty decoder costs one picture."""

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from fake_detector import FakeDetector, api_settings, live_server, png, wait_until
from picture_files import encode, photo

from detection import decoding, imaging
from detection.decoding import Decoder, DecoderBroken, DecoderMissing, Decoders, DecoderTooSlow
from serving.app import create_app
from serving.queue import InferenceQueue

FAULTY = Path(__file__).parents[1] / "faulty_decoder.py"
ROOT = FAULTY.parents[1]
PHOTO = encode(photo(), "JPEG")


@pytest.fixture(scope="module")
def decoders():
    processes = Decoders(1, imaging.MAX_PIXELS, 120)
    processes.start()
    yield processes
    processes.close()


@pytest.fixture
def faulty():
    decoder = Decoder(1_000_000, 120, FAULTY)
    yield decoder
    decoder.close()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def open_files() -> int:
    gc.collect()
    return psutil.Process().num_fds()


def shared_memory() -> set[Path]:
    memory = Path("/dev/shm")
    return {path for path in memory.iterdir() if "psm" in path.name} if memory.is_dir() else set()


# --- the same pixels --------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", imaging.FORMATS)
@pytest.mark.parametrize("size_wh", [(1, 1), (33, 7), (640, 480)])
def test_the_pixels_are_those_of_decode_image_to_the_last_bit(decoders, image_format, size_wh):
    content = encode(photo().resize(size_wh), image_format)
    image = decoders.decode(content)
    assert image.dtype == np.uint8
    assert np.array_equal(image, imaging.decode_image(content))


def test_a_picture_stays_as_it_is_while_others_are_decoded(decoders):
    images = [decoders.decode(encode(np.full((50, 60, 3), value, np.uint8))) for value in range(20)]
    assert [(int(image.min()), int(image.max())) for image in images] == [
        (value, value) for value in range(20)
    ]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", imaging.NotAnImage, "an empty file"),
        (b"no picture", imaging.NotAnImage, "got something else"),
        (PHOTO[:2000], imaging.NotAnImage, "cut short"),
        (
            encode(np.zeros((9000, 9000), np.uint8)),
            imaging.ImageTooLarge,
            "at most 40,000,000 pixels, got 9000",
        ),
    ],
)
def test_a_refusal_is_that_of_decode_image(decoders, content, kind, message):
    with pytest.raises(kind, match=message):
        decoders.decode(content)


def test_without_files_in_memory_the_pixels_come_through_the_pipe(monkeypatch):
    monkeypatch.setattr(decoding, "PASSES_FILES", False)
    decoder = Decoder(1_000_000, 120)
    try:
        assert np.array_equal(decoder.decode(PHOTO), imaging.decode_image(PHOTO))
        with pytest.raises(imaging.NotAnImage, match="cut short"):
            decoder.decode(PHOTO[:2000])
        assert np.array_equal(decoder.decode(PHOTO), imaging.decode_image(PHOTO))
    finally:
        decoder.close()


# --- what a decoder may do --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "how"),
    [(b"crash", "SIGSEGV"), (b"abort", "SIGABRT"), (b"exit", "exit status 3"), (b"error", "exit status 1")],
)
def test_a_crash_costs_its_picture_and_the_next_one_is_decoded(faulty, fault, how):
    expected = imaging.decode_image(PHOTO)
    assert np.array_equal(faulty.decode(PHOTO), expected)
    with pytest.raises(DecoderBroken, match=f"the picture breaks its decoder \\({how}\\)"):
        faulty.decode(fault)
    assert np.array_equal(faulty.decode(PHOTO), expected)


def test_a_decoder_that_hangs_is_ended_at_its_time_and_replaced():
    decoder = Decoder(1_000_000, 0.5, FAULTY)
    try:
        hanging = decoder.wait_until_ready().pid
        with pytest.raises(DecoderTooSlow, match=r"over 0\.5 s to unpack"):
            decoder.decode(b"hang")
        assert not psutil.pid_exists(hanging)
        assert decoder.wait_until_ready().pid != hanging
    finally:
        decoder.close()


@pytest.mark.skipif(not decoding.HAS_LIMITS, reason="this system has no limits for a process")
def test_memory_is_bounded(faulty):
    with pytest.raises(DecoderBroken, match="exit status 1"):
        faulty.decode(b"memory")


@pytest.mark.skipif(not decoding.HAS_LIMITS, reason="this system has no limits for a process")
def test_processor_time_is_bounded_for_each_picture_anew():
    """Four threads for three seconds, and one second that the limit itself is exact to."""
    decoder = Decoder(1_000_000, 3)
    try:
        for _ in range(2):
            decoder.decode(PHOTO)
            process = psutil.Process(decoder.pid)
            used, (most, _) = sum(process.cpu_times()[:2]), process.rlimit(psutil.RLIMIT_CPU)
            assert 12 <= most <= used + 12 + 2
    finally:
        decoder.close()


def test_what_a_library_prints_is_no_answer(faulty):
    with pytest.raises(imaging.NotAnImage, match="it went on"):
        faulty.decode(b"chatter")
    assert faulty.decode(PHOTO).ndim == 3


def test_a_decoder_that_died_while_idle_costs_no_picture(faulty):
    process = faulty.wait_until_ready()
    process.kill()
    process.wait()
    assert faulty.decode(PHOTO).ndim == 3


def test_a_signal_meant_for_the_holder_ends_no_decoder(faulty):
    process = faulty.wait_until_ready()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert faulty.decode(PHOTO).ndim == 3
    assert faulty.pid == process.pid


def test_a_process_that_cannot_start_is_said_and_is_no_fault_of_the_picture(tmp_path):
    decoder = Decoder(1_000_000, 120, tmp_path / "absent.py")
    with pytest.raises(DecoderMissing, match="does not start"):
        decoder.decode(PHOTO)
    decoder.close()


def test_decoders_end_with_their_holder():
    """However it ends: their pipe is closed then."""
    code = (
        "import os; from detection import decoding; d = decoding.Decoders(2, 1000, 9); d.start();"
        "print(*(each.pid for each in d.all), flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_nothing_is_left_after_many_crashes(faulty):
    faulty.decode(PHOTO)
    before, files = len(children()), open_files()
    for fault in (b"crash", b"exit", b"no picture") * 4:
        with pytest.raises(imaging.ImageError):
            faulty.decode(fault)
        faulty.decode(PHOTO)
    assert (len(children()), open_files()) == (before, files)
    faulty.close()
    assert len(children()) == before - 1


# --- in the service ---------------------------------------------------------------------------------


def send(client, content: bytes):
    return client.post("/predict", files={"file": ("a.jpg", content)}, timeout=120)


def serve_faulty(monkeypatch, **changes):
    """Return the application with faulty decoders, and its fake detector."""
    detector = FakeDetector()
    monkeypatch.setattr("serving.service.Decoders", partial(Decoders, program=FAULTY))
    return create_app(api_settings(**changes), load_detector=lambda _: detector), detector


def test_a_faulty_picture_is_refused_and_the_next_one_served(monkeypatch):
    app, _ = serve_faulty(monkeypatch, api_decode_seconds=3)
    with live_server(app) as (client, _):
        for fault, status, detail in (
            (b"crash", 415, "The picture breaks its decoder (SIGSEGV)."),
            (b"hang", 413, "The picture takes over 3 s to unpack."),
            (b"error", 415, "The picture breaks its decoder (exit status 1)."),
        ):
            answer = send(client, fault)
            assert (answer.status_code, answer.json()["detail"]) == (status, detail)
            assert send(client, PHOTO).status_code == 200


def test_several_workers_decode_side_by_side(monkeypatch):
    app, detector = serve_faulty(monkeypatch, api_workers=3, api_decode_seconds=20, api_deadline_seconds=120)
    with live_server(app) as (client, _), ThreadPoolExecutor(3) as threads:
        assert len({decoder.pid for decoder in app.state.service.decoders.all}) == 3
        hanging = [threads.submit(send, client, b"hang") for _ in range(2)]
        wait_until(lambda: len(app.state.service.queue._begun) == 2)
        assert send(client, PHOTO).status_code == 200, "the third is free"
        assert not any(future.done() for future in hanging)
        assert [future.result().status_code for future in hanging] == [413, 413]
    assert detector.seen


def test_ready_says_when_a_worker_is_stuck():
    detector = FakeDetector()
    app = create_app(api_settings(api_deadline_seconds=0.5), load_detector=lambda _: detector)
    with live_server(app) as (client, _):
        detector.gate.clear()
        assert send(client, png()).status_code == 504
        wait_until(lambda: client.get("/ready").status_code == 503)
        assert "A worker has been stuck with one picture for" in client.get("/ready").json()["detail"]
        assert client.get("/health").status_code == 200
        detector.gate.set()
        wait_until(lambda: client.get("/ready").status_code == 200)


def test_the_queue_closes_though_a_worker_is_stuck():
    async def run() -> tuple[bool, float]:
        gate = threading.Event()
        queue = InferenceQueue(2, 0)
        queue.submit(gate.wait)
        began = time.monotonic()
        ended = queue.close(0.2), time.monotonic() - began
        gate.set()
        return ended

    finished, seconds = asyncio.run(run())
    assert not finished
    assert seconds < 10


def test_a_stuck_worker_keeps_no_process_from_ending():
    code = (
        "import asyncio, threading\nfrom serving.queue import InferenceQueue\n"
        "async def run():\n"
        "    queue = InferenceQueue(1, 0)\n"
        "    queue.submit(threading.Event().wait)\n"
        "    print(queue.close(0.1))\n"
        "asyncio.run(run())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=120, check=True
    )
    assert done.stdout.strip() == b"False"


@pytest.mark.parametrize(
    ("content", "notes"),
    [(PHOTO, None), (encode(photo().point(lambda value: value // 16)), ["too-dark"])],
    ids=["photo", "dark"],
)
def test_the_answer_says_where_nothing_could_be_seen(content, notes):
    detector = FakeDetector()
    with live_server(create_app(api_settings(), load_detector=lambda _: detector)) as (client, _):
        assert send(client, content).json()["results"][0].get("notes") == notes


@pytest.mark.slow
def test_three_hundred_requests_with_faults_among_them_leave_nothing(monkeypatch):
    app, _ = serve_faulty(monkeypatch, api_workers=2, api_decode_seconds=8, api_deadline_seconds=120)
    contents = [
        PHOTO,
        b"crash",
        png(),
        b"no picture",
        encode(photo(640), "WEBP"),
        b"exit",
        PHOTO[:3000],
        PHOTO,
    ]
    with live_server(app) as (client, _):
        [send(client, content) for content in contents]
        send(client, b"hang")
        before = len(children()), open_files(), shared_memory()
        with ThreadPoolExecutor(4) as threads:
            asked = [b"hang" if i % 60 == 59 else contents[i % len(contents)] for i in range(300)]
            answers = list(threads.map(lambda content: send(client, content).status_code, asked))
        expected = {b"crash": 415, b"exit": 415, b"no picture": 415, PHOTO[:3000]: 415, b"hang": 413}
        assert answers == [expected.get(content, 200) for content in asked]
        assert client.get("/ready").status_code == 200
        wait_until(lambda: len(children()) == before[0])
        assert shared_memory() <= before[2]
        wait_until(lambda: open_files() <= before[1] + 6)  # the four clients' connections among them
    assert not any(decoder.pid for decoder in app.state.service.decoders.all)
