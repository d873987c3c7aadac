"""What the page's server holds of its visitors: how many bytes at once, and for how long after they left.

Works beside the visitors' runs of the page, in the server's event loop. Streamlit by itself takes any number
of uploads, writes them to disk on their way, and lets go of a visitor who left only when the next one leaves.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from typing import Any, Protocol

from starlette.formparsers import MultiPartParser
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFileManager

FORGET_AFTER_S = 120.0  # a phone that looked away comes back; less than Streamlit's disconnectedSessionTTL
IDLE_AFTER_S = 3600.0  # a page left open is no archive
LOOK_EVERY_S = 5.0
HOUR_S = 3600.0
UPLOAD_S = 600.0  # for one file
UPLOAD_PATH = re.compile(r"/_stcore/upload_file/([^/]+)/[^/]+$")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Server(Protocol):
    """What is needed of Streamlit's runtime; called in the server's event loop only."""

    @property
    def uploaded_file_mgr(self) -> UploadedFileManager:
        """The files that visitors put in."""

    def is_active_session(self, session_id: str) -> bool:
        """Say whether that visitor's browser is connected."""

    def close_session(self, session_id: str) -> None:
        """Let go of all that a visitor has put in, and of the answers to it."""


class Visitors:
    """Who is there, how much they hold, and of whom something was refused or forgotten.

    Attributes:
        limit_bytes: of uploads, held and on their way, of all visitors together.
        coming_bytes: announced by uploads on their way; each is in memory twice while it is put together.
    """

    def __init__(self, limit_bytes: float) -> None:
        self.limit_bytes = limit_bytes
        self.coming_bytes = 0
        self._lock = threading.Lock()  # the visitors' runs are threads
        self._last_run: dict[str, float] = {}
        self._left: dict[str, float] = {}
        self._missing: dict[str, str] = {}

    def welcome(self, session_id: str) -> str | None:
        """Note that a visitor does something; return the text that says which files are missing, if any."""
        with self._lock:
            self._last_run[session_id] = time.monotonic()
            return self._missing.get(session_id)

    def admit(self, session_id: str, size: int, held_bytes: int) -> bool:
        """Say whether an upload may come in, and note it if not."""
        with self._lock:
            self._last_run.setdefault(session_id, time.monotonic())
            fits = held_bytes + 2 * (self.coming_bytes + size) <= self.limit_bytes
            if fits:
                self._missing.pop(session_id, None)
            else:
                self._missing[session_id] = "uploads_refused"
            return fits

    def look_after(self, server: Server, now: float) -> list[str]:
        """Let go of visitors who left long ago and of idle ones' files; return the sessions concerned."""
        with self._lock:
            last_runs = dict(self._last_run)
        gone = []
        for session_id, last_run in last_runs.items():
            if server.is_active_session(session_id):
                self._left.pop(session_id, None)
                if now - last_run >= IDLE_AFTER_S:
                    gone.append(session_id)
                    self._forget_idle(server, session_id, now)
            elif now - self._left.setdefault(session_id, now) >= FORGET_AFTER_S:
                gone.append(session_id)
                server.close_session(session_id)
                self._forget(session_id)
        return gone

    def _forget_idle(self, server: Server, session_id: str, now: float) -> None:
        server.uploaded_file_mgr.remove_session_files(session_id)
        with self._lock:
            self._last_run[session_id] = now
            self._missing[session_id] = "uploads_forgotten"

    def _forget(self, session_id: str) -> None:
        with self._lock:
            for notes in (self._last_run, self._left, self._missing):
                notes.pop(session_id, None)


class BoundedUploads:
    """ASGI middleware that refuses an upload for which there is no room, and keeps nothing of it.

    Args:
        app: Streamlit's.
        visitors: who counts.
        server: returns Streamlit's runtime.
    """

    def __init__(
        self, app: AsgiApp, visitors: Visitors, server: Callable[[], Any] = runtime.get_instance
    ) -> None:
        self.app, self.visitors, self.server = app, visitors, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is no upload, or one that there is room for."""
        upload = UPLOAD_PATH.search(scope["path"]) if scope["type"] == "http" else None
        if upload is None or scope["method"] != "PUT":
            return await self.app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return await _refuse(
                receive, send, 411, "Expected an upload with its size (Content-Length), got none."
            )
        session_id, size, visitors = upload[1], int(length), self.visitors
        server = self.server()
        if not visitors.admit(session_id, size, held_bytes(server.uploaded_file_mgr)):
            if session := server.get_app_session(session_id):
                session.request_rerun(None)  # so that the page says why
            return await _refuse(
                receive, send, 503, "The page holds as many files as it can. Try again in a few minutes."
            )
        visitors.coming_bytes += size
        try:
            async with asyncio.timeout(UPLOAD_S):
                await self.app(scope, receive, send)
        finally:
            visitors.coming_bytes -= size
        return None


async def _refuse(receive: Receive, send: Send, status: int, sentence: str) -> None:
    """Answer once the body has come and gone, piece by piece: before that a browser does not listen."""
    async with asyncio.timeout(UPLOAD_S):
        while (await receive()).get("more_body"):
            pass
    body = sentence.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def held_bytes(files: Any) -> int:
    """Return how many bytes of uploads Streamlit's manager holds."""
    return sum(stat.byte_length for stats in files.get_stats().values() for stat in stats)


@cache
def visitors_of(limit_bytes: float) -> Visitors:
    """Return the visitors of this process's server."""
    return Visitors(limit_bytes)


def session_id() -> str:
    """Return the visitor for whom the page is run in this thread."""
    context = get_script_run_ctx(suppress_warning=True)
    return context.session_id if context else ""


def keep_uploads_in_memory() -> None:
    """Let no upload touch the disk on its way: the room for them is bounded."""
    MultiPartParser.spool_max_size = sys.maxsize


def looking_after(
    visitors: Visitors, forget: Callable[[str], None], every_hour: Callable[[], object] = lambda: None
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Return the lifespan of a server that looks after its visitors as long as it runs.

    Args:
        visitors: of that server.
        forget: called with the session of which something was let go.
        every_hour: called in a thread of its own, at the start and then every hour.
    """

    async def look() -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for session_id in visitors.look_after(runtime.get_instance(), time.monotonic()):
                forget(session_id)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(look()), asyncio.create_task(hourly(every_hour))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    return lifespan


async def hourly(do: Callable[[], object], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Call do at once and then every hour, in a thread of its own, until cancelled.

    Args:
        do: may take long.
        sleep: waits so many seconds.
    """
    while True:
        await asyncio.to_thread(do)
        await sleep(HOUR_S)
