"""What the page's server holds of its visitors: bounded, never on disk, and let go of when they have left."""

from __future__ import annotations

import asyncio
import io
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from conftest import answers, free_port, running, wait_until
from PIL import Image
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFileRec
from websocket import create_connection

from page import memory
from page.corrections import DAY_S, forget_old, keep
from page.memory import BoundedUploads, Visitors, held_bytes, hourly
from page.session import PICTURES, THUMBNAILS, Photo, Pictures, decoded, forget_pictures
from settings import WebSettings
from tests.fake_api import FakeApi

ROOT = Path(__file__).parents[2]
MB = 1_000_000
# The page as it is, but quick to forget.
PROGRAM = """
import sys
from page import memory as page_memory
page_memory.FORGET_AFTER_S, page_memory.LOOK_EVERY_S = 1.0, 0.1
from streamlit.web import cli
cli.main(["run", "web.py", *sys.argv[1:]])
"""


class Server:
    """What page.memory asks of Streamlit's runtime, over its real store of uploads."""

    def __init__(self) -> None:
        self.uploaded_file_mgr = MemoryUploadedFileManager("/_stcore/upload_file")
        self.connected: set[str] = set()
        self.closed: list[str] = []
        self.rerun: list[str] = []

    def is_active_session(self, session_id: str) -> bool:
        return session_id in self.connected

    def close_session(self, session_id: str) -> None:
        self.closed.append(session_id)
        self.uploaded_file_mgr.remove_session_files(session_id)

    def get_app_session(self, session_id: str) -> Session:
        return Session(self, session_id)

    def put(self, session_id: str, size: int) -> None:
        file = UploadedFileRec(file_id=str(size), name="a.jpg", type="image/jpeg", data=bytes(size))
        self.uploaded_file_mgr.add_file(session_id, file)


class Session:
    def __init__(self, server: Server, session_id: str) -> None:
        self.server, self.session_id = server, session_id

    def request_rerun(self, _: None) -> None:
        self.server.rerun.append(self.session_id)


@pytest.fixture
def server() -> Server:
    return Server()


# --- who left, and who is idle ----------------------------------------------------------------------


def test_a_visitor_who_left_is_let_go_of_in_time_and_not_before(server, monkeypatch):
    visitors, now = Visitors(MB), 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    server.connected = {"anna", "boris"}
    visitors.welcome("anna")
    visitors.welcome("boris")
    assert visitors.look_after(server, now) == []
    server.connected = {"boris"}
    assert visitors.look_after(server, now + 10) == []
    assert visitors.look_after(server, now + 10 + memory.FORGET_AFTER_S - 1) == []
    assert visitors.look_after(server, now + 10 + memory.FORGET_AFTER_S) == ["anna"]
    assert server.closed == ["anna"]
    assert visitors.look_after(server, now + 20 + memory.FORGET_AFTER_S) == []


def test_a_visitor_who_comes_back_keeps_everything(server, monkeypatch):
    visitors, now = Visitors(MB), 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    visitors.welcome("anna")
    visitors.look_after(server, now)
    server.connected = {"anna"}
    visitors.look_after(server, now + memory.FORGET_AFTER_S - 1)
    server.connected = set()
    visitors.look_after(server, now + memory.FORGET_AFTER_S)
    visitors.look_after(server, now + 2 * memory.FORGET_AFTER_S - 1)
    assert server.closed == []


def test_streamlit_itself_forgets_later_than_the_page_does():
    """Else there would be nothing left to close, and what expired stays until somebody else leaves."""
    text = (ROOT / ".streamlit" / "config.toml").read_text()
    (seconds,) = re.findall(r"^disconnectedSessionTTL = (\d+)", text, flags=re.M)
    assert int(seconds) > memory.FORGET_AFTER_S + 2 * memory.LOOK_EVERY_S


def test_files_of_an_idle_page_are_let_go_of_and_the_person_is_told(server, monkeypatch):
    visitors, now = Visitors(MB), 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    server.connected = {"anna"}
    visitors.welcome("anna")
    server.put("anna", 500)
    assert visitors.look_after(server, now + memory.IDLE_AFTER_S - 1) == []
    assert held_bytes(server.uploaded_file_mgr) == 500
    assert visitors.look_after(server, now + memory.IDLE_AFTER_S) == ["anna"]
    assert held_bytes(server.uploaded_file_mgr) == 0
    assert server.closed == []
    assert visitors.welcome("anna") == "uploads_forgotten"


# --- corrections, of which nobody may think any more ------------------------------------------------


def test_corrections_go_within_the_hour_after_their_time_though_nobody_visits_the_page(tmp_path):
    keep(tmp_path, np.full((20, 30, 3), 90, np.uint8), [])
    (photo,) = (tmp_path / "images").iterdir()
    there = []

    async def sleep(seconds: float) -> None:
        """Let so much time pass at once: the photo is that much older."""
        there.append(photo.exists())
        if not photo.exists():
            raise asyncio.CancelledError
        kept_at = photo.stat().st_mtime - seconds
        os.utime(photo, (kept_at, kept_at))

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(hourly(lambda: forget_old(tmp_path, days=2.5 / 24), sleep))
    assert there == [True, True, True, False]  # as the page starts, after one hour, two and three
    assert not list(tmp_path.rglob("feedback-*"))


# --- the room for uploads ---------------------------------------------------------------------------


def upload(uploads: BoundedUploads, session_id: str, length: bytes | None) -> int:
    """Return the status that an upload of so many bytes is answered with."""
    sent = []

    async def send(message):
        sent.append(message)

    body = iter([{"body": bytes(50), "more_body": True}, {"body": bytes(50), "more_body": False}])

    async def receive():
        return next(body)

    headers = [] if length is None else [(b"content-length", length)]
    path = f"/_stcore/upload_file/{session_id}/file"
    scope = {"type": "http", "method": "PUT", "path": path, "headers": headers}
    asyncio.run(uploads(scope, receive, send))
    return sent[0]["status"]


@pytest.fixture
def streamlit_app(server):
    """Streamlit's end of an upload: files of 100 bytes come in."""

    async def app(scope, receive, send):
        if scope["method"] == "PUT":
            server.put(scope["path"].split("/")[-2], 100)
        await send({"type": "http.response.start", "status": 204, "headers": []})

    return app


def test_uploads_of_all_visitors_share_the_room_and_one_coming_counts_twice(server, streamlit_app):
    visitors = Visitors(299)
    uploads = BoundedUploads(streamlit_app, visitors, lambda: server)
    assert upload(uploads, "anna", b"100") == 204  # 200 while it comes, then 100
    assert upload(uploads, "boris", b"100") == 503  # 100 + 200
    assert server.rerun == ["boris"]
    assert visitors.welcome("anna") is None
    assert visitors.welcome("boris") == "uploads_refused"
    server.uploaded_file_mgr.remove_session_files("anna")
    assert upload(uploads, "boris", b"100") == 204
    assert visitors.welcome("boris") is None
    assert visitors.coming_bytes == 0


def test_uploads_on_their_way_take_room_and_give_it_back_when_they_break_off(server):
    visitors, refusals = Visitors(399), []

    async def breaks_off(scope, receive, send):
        assert visitors.coming_bytes == 100
        refusals.append(await second(scope))
        raise ConnectionError("gone")

    uploads = BoundedUploads(breaks_off, visitors, lambda: server)

    async def second(scope):
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"body": b"", "more_body": False}

        await uploads(scope, receive, send)
        return sent[0]["status"]

    with pytest.raises(ConnectionError):
        upload(uploads, "anna", b"100")
    assert refusals == [503]
    assert visitors.coming_bytes == 0


@pytest.mark.parametrize("length", [None, b"", b"-5", b"many"])
def test_an_upload_without_its_size_is_refused(server, streamlit_app, length):
    assert upload(BoundedUploads(streamlit_app, Visitors(MB), lambda: server), "anna", length) == 411


def test_other_requests_pass(server, streamlit_app):
    uploads, sent = BoundedUploads(streamlit_app, Visitors(0), lambda: server), []

    async def send(message):
        sent.append(message["status"])

    async def receive():
        return {"body": b"", "more_body": False}

    for method, path in (("GET", "/"), ("DELETE", "/_stcore/upload_file/anna/1"), ("GET", "/_stcore/health")):
        scope = {"type": "http", "method": method, "path": path, "headers": []}
        asyncio.run(uploads(scope, receive, send))
    assert sent == [204, 204, 204]


def test_the_largest_video_fits_into_an_empty_page():
    text = (ROOT / ".streamlit" / "config.toml").read_text()
    (megabytes,) = re.findall(r"^maxUploadSize = (\d+)", text, flags=re.M)
    visitors = Visitors(1e6 * WebSettings().web_uploads_mb)
    assert visitors.admit("anna", int(megabytes) * 1024**2 + 1000, held_bytes=0)


# --- decoded pictures -------------------------------------------------------------------------------


def test_pictures_of_all_visitors_together_are_few_and_go_with_their_visitor():
    pictures: Pictures[str] = Pictures(3)
    for session_id in ("anna", "boris"):
        for name in ("first", "second"):
            assert pictures.get(session_id, name, f"{session_id}'s {name}".upper).startswith(
                session_id.upper()
            )
    assert len(pictures) == 3  # anna's first went, longest unused
    assert pictures.get("boris", "first", lambda: "made anew") == "BORIS'S FIRST"
    pictures.forget("boris")
    assert len(pictures) == 1


def test_whatever_was_drawn_or_decoded_is_forgotten_with_its_visitor():
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 10, 10)).save(stream, "PNG")
    decoded("carla", Photo("a.png", stream.getvalue()))
    THUMBNAILS.get("carla", "a", lambda: b"small")
    before = len(PICTURES), len(THUMBNAILS)
    forget_pictures("carla")
    assert (len(PICTURES), len(THUMBNAILS)) == (before[0] - 1, before[1] - 1)


# --- the whole page ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[tuple[str, int, Path, Path]]:
    """The page's address and process, the folders of its temporary files and of corrections.

    It has 40 MB of room for uploads, and finds two corrections, of which one is too old.
    """
    port, folder, temporary = free_port(), tmp_path_factory.mktemp("page"), tmp_path_factory.mktemp("tmp")
    log, kept = folder / "log.txt", folder / "kept"
    for shade in (10, 200):
        keep(kept, np.full((20, 30, 3), shade, np.uint8), [])
    old = time.time() - 8 * DAY_S
    os.utime(next((kept / "images").iterdir()), (old, old))
    command = [
        sys.executable, "-c", PROGRAM, "--server.port", str(port), "--server.fileWatcherType", "none",
        "--server.enableXsrfProtection", "false",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with (
        FakeApi() as api,
        running(
            command, log, ready=lambda: answers(f"{url}/_stcore/health"), cwd=ROOT,
            API_URL=api.url, WEB_UPLOADS_MB="40", TMPDIR=str(temporary), FEEDBACK_DIR=str(kept),
            FEEDBACK_DAYS="7",
        ) as process,
    ):  # fmt: skip
        yield url, process.pid, temporary, kept
    assert "Traceback" not in log.read_text()


class Tab:
    """A browser's tab with the page, as far as the server can tell; open while the block lasts."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> Tab:
        address = self.url.replace("http", "ws") + "/_stcore/stream"
        self.socket = create_connection(address, subprotocols=["streamlit"], http_no_proxy=["127.0.0.1"])
        message = BackMsg()
        message.rerun_script.SetInParent()
        self.socket.send_binary(message.SerializeToString())
        self.session_id = self.next("new_session").new_session.initialize.session_id
        self.next("script_finished")
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def next(self, kind: str) -> ForwardMsg:
        while True:
            message = ForwardMsg.FromString(self.socket.recv())
            if message.WhichOneof("type") == kind:
                return message

    def put(self, content: bytes) -> int:
        address = f"{self.url}/_stcore/upload_file/{self.session_id}/{os.urandom(8).hex()}"
        with requests.Session() as session:
            session.trust_env = False
            return session.put(address, files={"a.jpg": ("a.jpg", content, "image/jpeg")}).status_code


def held(url: str) -> int:
    """Return how many bytes of uploads the page says it holds, or held a moment ago: it seldom counts."""
    with requests.Session() as session:
        session.trust_env = False
        metrics = session.get(f"{url}/_stcore/metrics").text
    return sum(int(size) for size in re.findall(r'cache_type="UploadedFileManager".*} (\d+)', metrics))


def written_bytes(pid: int) -> int:
    (count,) = re.findall(r"^wchar: (\d+)", Path(f"/proc/{pid}/io").read_text(), flags=re.M)
    return int(count)


def test_what_a_visitor_put_in_is_gone_from_memory_once_the_last_one_has_left(page):
    url, *_ = page
    with Tab(url) as tab:
        content = np.random.default_rng().bytes(10 * MB)
        assert [tab.put(content), tab.put(content)] == [204, 204]
        wait_until(lambda: held(url) == 20 * MB)
    wait_until(lambda: held(url) == 0)  # though nobody else comes or leaves


def test_a_page_that_is_full_refuses_and_says_so(page):
    url, *_ = page
    with Tab(url) as tab, Tab(url) as other:
        content = bytes(15 * MB)
        assert tab.put(content) == 204
        assert other.put(content) == 503  # 15 + 2 * 15
        said = ""
        while "held as many as it can" not in said:
            said = other.next("delta").delta.new_element.html.body
        wait_until(lambda: held(url) == 15 * MB)
    wait_until(lambda: held(url) == 0)


def test_a_page_that_starts_looks_through_the_corrections(page):
    *_, kept = page
    wait_until(lambda: len(list((kept / "images").iterdir())) == 1)


def test_no_byte_of_an_upload_is_written_to_disk(page):
    url, pid, temporary, _ = page
    with Tab(url) as tab:
        before = written_bytes(pid)
        assert tab.put(bytes(15 * MB)) == 204
        assert written_bytes(pid) - before < MB
        assert list(temporary.iterdir()) == []
        wait_until(lambda: held(url) == 15 * MB)
    wait_until(lambda: held(url) == 0)
