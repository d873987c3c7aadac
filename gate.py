"""What every request passes on its way to a route and back: limits, keys, names of errors, headers, the log.

Knows HTTP and nothing of models. Every error leaves as a problem document (RFC 9457) whose type is one of
PROBLEMS; types are stable, titles and details are for people.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h11
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from schemas import Problem

log = logging.getLogger("mlapi.request")

# --- problems ---------------------------------------------------------------------------------------

PROBLEM_JSON = "application/problem+json"
TYPE_PREFIX = "urn:weapon-detector:problem:"
PROBLEMS: Mapping[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be read"),
    "bad-multipart": (400, "The multipart body cannot be read"),
    "bad-image": (400, "The picture cannot be used"),
    "unauthorized": (401, "A valid API key is needed"),
    "not-found": (404, "There is nothing at this address"),
    "method-not-allowed": (405, "This address does not take that method"),
    "not-acceptable": (406, "The answer cannot be given in the form asked for"),
    "upload-timeout": (408, "The upload took too long"),
    "body-too-large": (413, "The request body is too large"),
    "image-too-large": (413, "The picture has too many pixels"),
    "not-multipart": (415, "The body is not multipart/form-data"),
    "not-an-image": (415, "The file is not a picture that can be read"),
    "invalid-parameters": (422, "A parameter is not valid"),
    "missing-file": (422, "No file was sent"),
    "too-many-files": (422, "Too many files in one request"),
    "internal-error": (500, "Something went wrong here"),
    "not-ready": (503, "The model is not loaded yet"),
    "queue-full": (503, "Too many requests at the moment"),
    "deadline-exceeded": (504, "The answer took too long"),
}


class ApiProblem(Exception):
    """An answer that is an error.

    Attributes:
        name: a key of PROBLEMS.
        detail: what was expected, what came, and what to do.
        headers: to send along.
        errors: what was wrong with each parameter.
    """

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.name, self.detail = name, detail
        self.headers, self.errors = dict(headers or {}), errors

    @property
    def status(self) -> int:
        """The HTTP status."""
        return PROBLEMS[self.name][0]

    def document(self, request_id: str | None) -> Problem:
        """Return the problem document."""
        status, title = PROBLEMS[self.name]
        given: dict[str, Any] = {"type": TYPE_PREFIX + self.name, "title": title, "status": status}
        if self.errors is not None:
            given["errors"] = self.errors
        return Problem(**given, detail=self.detail, request_id=request_id)


def problem_response(problem: ApiProblem, scope: Scope) -> Response:
    """Return the answer that says what went wrong."""
    note_on(scope)["problem"] = problem.name
    return Response(
        problem.document(note_on(scope).get("request_id")).model_dump_json(exclude_unset=True),
        problem.status,
        problem.headers,
        PROBLEM_JSON,
    )


# --- connections ------------------------------------------------------------------------------------


BACKLOG = 128  # connections taken in at once, before any of them is looked at


def _most_connections() -> int:
    """Return how many connections there is room for beside the backlog and the process's other files."""
    files = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 512
    return min(1000, max(files - BACKLOG - 64, 32)) if files > 0 else 1000


class BoundedConnection(H11Protocol):
    """A connection that must say what it wants in time, and of which there are only so many.

    With one more than the process may open, the server would spin and fill the log.
    """

    most = _most_connections()
    head_seconds = 10.0  # for a request's first line and headers; the request itself has its deadline

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection in, or close it at once if there are too many."""
        super().connection_made(transport)
        self._cycle_before = self.cycle
        self._timer = self.loop.call_later(self.head_seconds, self._check_head)
        if len(self.connections) > self.most:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _check_head(self) -> None:
        if self.conn.their_state is h11.IDLE and self.cycle is self._cycle_before:
            self.transport.abort()  # no request since the last time
            return
        self._cycle_before = self.cycle
        self._timer = self.loop.call_later(self.head_seconds, self._check_head)


# --- around every request ---------------------------------------------------------------------------

NOTE = "mlapi.note"  # where in the ASGI scope a request's log line is gathered
SENT_AT_ONCE = 65_536  # bytes
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STRICT_POLICY = "default-src 'none'; frame-ancestors 'none'"
DOCS_POLICY = (  # the interactive documentation brings its own scripts, from this server only
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'"
)
DOCS_PATHS = ("/docs", "/redoc", "/static-offline-docs")


def note_on(scope: Scope) -> dict[str, Any]:
    """Return the log line of this request, to add to. No file names, no contents, no pixels."""
    note: dict[str, Any] = scope.setdefault(NOTE, {})
    return note


class RequestFrame:
    """Outermost: gives every request an id, headers and one log line, and catches what nobody else did.

    Args:
        app: what is inside.
        observe: called with route, method, status and seconds of every answer.
        send_seconds: how long a client may take to read what it is sent.
    """

    def __init__(
        self, app: ASGIApp, observe: Callable[[str, str, int, float], None], send_seconds: float
    ) -> None:
        self.app, self._observe, self._send_seconds = app, observe, send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        note = note_on(scope)
        note["request_id"] = request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        status = 0

        async def send_framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), scope["path"], request_id)
            try:
                async with asyncio.timeout(self._send_seconds):
                    for part in _in_parts(message):
                        await send(part)
            except TimeoutError as error:
                raise ClientDisconnect from error  # it never reads: nobody is there

        try:
            await self.app(scope, receive, send_framed)
        except ClientDisconnect:
            status = 499  # nobody is there to be answered; nginx's number for the log
        except ApiProblem as problem:
            await problem_response(problem, scope)(scope, receive, send_framed)
        except Exception:
            log.exception("unexpected error", extra={"request_id": request_id})
            if status:
                raise  # too late for another answer: the server closes the connection
            detail = f"It is in the log under request id {request_id}."
            await problem_response(ApiProblem("internal-error", detail), scope)(scope, receive, send_framed)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "other")
            self._observe(route, scope["method"], status, seconds)
            _log_line(scope, route, status, seconds)


def _in_parts(message: Message) -> Iterator[Message]:
    """Cut a large body up: the server waits for a slow client between two messages, not within one."""
    body = memoryview(message.get("body", b""))
    starts = range(0, len(body), SENT_AT_ONCE)
    for start in starts[:-1]:
        yield {**message, "body": bytes(body[start : start + SENT_AT_ONCE]), "more_body": True}
    yield {**message, "body": bytes(body[starts[-1] :])} if len(starts) > 1 else message


def _request_id(given: str | None) -> str:
    return given if given and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _add_headers(headers: MutableHeaders, path: str, request_id: str) -> None:
    headers["X-Request-ID"] = request_id
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    headers["Content-Security-Policy"] = DOCS_POLICY if path.startswith(DOCS_PATHS) else STRICT_POLICY


def _log_line(scope: Scope, route: str, status: int, seconds: float) -> None:
    quiet = route in ("/health", "/ready", "/metrics") and status < 500
    level = logging.DEBUG if quiet else logging.INFO
    fields = {"method": scope["method"], "route": route, "status": status, "ms": round(seconds * 1000, 1)}
    log.log(level, "request", extra=fields | note_on(scope))


# --- the body ---------------------------------------------------------------------------------------

DRAIN_SECONDS = 2.0


class BodyLimit:
    """Refuses a body over the limit, by its Content-Length or, when it comes in chunks, as it grows.

    Before an early refusal is sent, what the client is still sending is read and thrown away, within
    limits: closed at once, the connection would break under the client and the refusal get lost.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, self._max_bytes, Headers(scope=scope))

        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start" and 400 <= message["status"] != 408:
                await body.drain()
            await send(message)

        try:
            body.check_announced()
            await self.app(scope, body.receive, send_after_body)
        except ApiProblem as problem:
            await problem_response(problem, scope)(scope, receive, send_after_body)


class _Body:
    def __init__(self, receive: Receive, max_bytes: int, headers: Headers) -> None:
        self._receive, self._max_bytes = receive, max_bytes
        self._seen = 0
        self._announced = headers.get("content-length", "")
        chunked = "chunked" in headers.get("transfer-encoding", "")
        self._more = chunked or (self._announced.isdecimal() and int(self._announced) > 0)
        self._waits_for_leave = headers.get("expect", "").lower() == "100-continue"

    def check_announced(self) -> None:
        if self._announced.isdecimal() and int(self._announced) > self._max_bytes:
            raise self._too_large(f"{int(self._announced):,} bytes")

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._waits_for_leave = False
            self._more = message.get("more_body", False)
            self._seen += len(message.get("body", b""))
            if self._seen > self._max_bytes:
                raise self._too_large("more")
        return message

    async def drain(self) -> None:
        if self._waits_for_leave:
            return
        drained = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._more and drained <= self._max_bytes:
                    message = await self._receive()
                    drained += len(message.get("body", b""))
                    self._more = message["type"] == "http.request" and message.get("more_body", False)

    def _too_large(self, got: str) -> ApiProblem:
        detail = (
            f"Expected a body of at most {self._max_bytes:,} bytes, got {got}. Send fewer or smaller files."
        )
        return ApiProblem("body-too-large", detail)


@dataclass(frozen=True, slots=True)
class SentFile:
    """One file of a request, in memory."""

    name: str
    content: bytes


MAX_TEXT_BYTES = 10_000  # of a part that is no file; there should be none


class _InMemoryParser(MultiPartParser):
    spool_max_size = 0  # 0: never on disk, whatever the size; BodyLimit bounds the memory


async def read_files(request: Request, *, max_files: int, part: str = "file") -> list[SentFile]:
    """Read the files of a multipart body into memory.

    Args:
        request: whose body nobody has read.
        max_files: files allowed.
        part: name of the parts that hold files.

    Raises:
        ApiProblem: the body is no multipart, is damaged, or holds no such file, too many or anything else.
        ClientDisconnect: the client went away.
    """
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "multipart/form-data":
        got = repr(given[:100]) if given else "no Content-Type"
        detail = f"Expected multipart/form-data with a part named {part!r}, got {got}. {_example(part)}"
        raise ApiProblem("not-multipart", detail)
    parser = _InMemoryParser(
        request.headers, _stream(request), max_files=max_files, max_fields=8, max_part_size=MAX_TEXT_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if parser._current_files > max_files:
            detail = f"Expected at most {max_files} files in one request, got more. Send several requests."
            raise ApiProblem("too-many-files", detail) from error
        if "maximum size" in error.message:
            detail = (
                f"Expected a part without a file name to have at most {MAX_TEXT_BYTES:,} bytes, got more. "
            )
            raise ApiProblem("bad-multipart", detail + _example(part)) from error
        detail = f"The multipart body cannot be read: {error.message.rstrip('.')}. {_example(part)}"
        raise ApiProblem("bad-multipart", detail) from error
    try:
        found = [value for value in form.getlist(part) if isinstance(value, UploadFile)]
        if not found:
            raise _missing_file(part, list(form.keys()))
        _check_parts(part, list(form.keys()))
        return [
            SentFile(value.filename or f"{part}-{i}", await value.read()) for i, value in enumerate(found)
        ]
    finally:
        await form.close()


async def _stream(request: Request) -> AsyncGenerator[bytes, None]:
    async for chunk in request.stream():
        yield chunk


def _missing_file(part: str, names: Sequence[str]) -> ApiProblem:
    if part in names:
        detail = f"Expected the part {part!r} to be a file with a file name, got text."
    else:
        got = ", ".join(repr(name[:50]) for name in names[:5]) or "no part at all"
        detail = f"Expected at least one file in a part named {part!r}, got {got}."
    return ApiProblem("missing-file", f"{detail} {_example(part)}")


def _example(part: str) -> str:
    return f"Send a photo as this does: curl -F {part}=@photo.jpg"


def _check_parts(part: str, names: Sequence[str]) -> None:
    others = sorted({name[:50] for name in names if name != part})[:5]
    if others:
        detail = (
            f"Expected only parts named {part!r}, got also {', '.join(map(repr, others))}. "
            "Parameters belong in the address: /predict?score_threshold=0.5"
        )
        errors = [{"parameter": name, "message": "There is no such part"} for name in others]
        raise ApiProblem("invalid-parameters", detail, errors=errors)


# --- keys -------------------------------------------------------------------------------------------


class KeyRing:
    """The API keys that open the door. An empty ring leaves it open."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def check(self, given: str | None) -> None:
        """Raise ApiProblem unless given is one of the keys; a near miss takes as long as a far one."""
        if not self._digests:
            return
        digest = _digest(given or "")
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if given is None or not any(matches):
            detail = "Send the key as 'X-API-Key: KEY' or 'Authorization: Bearer KEY'."
            raise ApiProblem("unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
