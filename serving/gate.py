"""What every request passes on its way to a route and back: limits, keys, names of errors, headers, the log.

Knows HTTP and nothing of models. Every error leaves as a problem document (RFC 9457) whose type is one of
PROBLEMS; types are stable, titles and details are for people.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import logging
import math
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message as MimeMessage
from typing import Any

import h11
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from multipart import MultipartSegment, ParserError, ParserLimitReached, PushMultipartParser
from pydantic import ValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from werkzeug.http import parse_options_header

from schemas import EncodedImages, Problem

log = logging.getLogger("mlapi.request")

# --- problems ---------------------------------------------------------------------------------------

PROBLEM_JSON = "application/problem+json"
TYPE_PREFIX = "urn:weapon-detector:problem:"
PROBLEMS: Mapping[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be read"),
    "bad-multipart": (400, "The multipart body cannot be read"),
    "bad-image": (400, "The picture cannot be used"),
    "unauthorized": (401, "A valid API key is needed"),
    "unknown-host": (400, "The service is not to be called by that name"),
    "not-found": (404, "There is nothing at this address"),
    "method-not-allowed": (405, "This address does not take that method"),
    "not-acceptable": (406, "The answer cannot be given in the form asked for"),
    "upload-timeout": (408, "The upload took too long"),
    "body-too-large": (413, "The request body is too large"),
    "image-too-large": (413, "The picture has too many pixels"),
    "not-multipart": (415, "The body is neither multipart/form-data nor JSON"),
    "compressed-body": (415, "The body is compressed"),
    "not-an-image": (415, "The file is not a picture that can be read"),
    "invalid-parameters": (422, "A parameter is not valid"),
    "missing-file": (422, "No file was sent"),
    "too-many-files": (422, "Too many files in one request"),
    "too-many-requests": (429, "Too many requests from one caller"),
    "headers-too-large": (431, "The headers are too large"),
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
MAX_HEAD_BYTES = 16_384  # of a request's first line and headers


def _most_connections() -> int:
    """Return how many connections there is room for beside the backlog and the process's other files."""
    files = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 512
    return min(1000, max(files - BACKLOG - 64, 32)) if files > 0 else 1000


class BoundedConnection(H11Protocol):
    """A connection that must say what it wants in time, and of which there are only so many.

    With one more than the process may open, the server would spin and fill the log. What uvicorn keeps
    private is used here (cycle, conn, send_400_response): the lock says with which version that was tested.
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
        if self.cycle is self._cycle_before and self._nothing_under_way():
            self.transport.abort()
            return
        self._cycle_before = self.cycle
        self._timer = self.loop.call_later(self.head_seconds, self._check_head)

    def _nothing_under_way(self) -> bool:
        """Say whether the last request is over, or the server waits in vain to close the connection.

        Over is also a request that was answered although its announced body never came; and a connection
        being closed stays open for as long as the client does not read what is left for it.
        """
        answered = self.cycle is not None and self.cycle.response_complete
        return self.conn.their_state is h11.IDLE or answered or self.transport.is_closing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP in the form that every refusal has, and close the connection."""
        if self.cycle is not None:  # it was the body: this answers in place of the request's own answer
            if self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True
        request_id = uuid.uuid4().hex
        detail = f"{msg} Send HTTP/1.1 with at most {MAX_HEAD_BYTES:,} bytes of headers."
        document = ApiProblem("bad-request", detail).document(request_id)
        body = document.model_dump_json(exclude_unset=True).encode()
        headers = MutableHeaders({"content-type": PROBLEM_JSON, "connection": "close"})
        headers["content-length"] = str(len(body))
        _add_headers(headers, "", request_id)
        response = h11.Response(status_code=400, headers=headers.raw, reason=b"Bad Request")
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()


# --- around every request ---------------------------------------------------------------------------

NOTE = "mlapi.note"  # where in the ASGI scope a request's log line is gathered
SENT_AT_ONCE = 65_536  # bytes
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"))
OTHER_METHOD = "_OTHER"  # anything else, in metrics: a stranger's words must not become time series
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
        note["client"] = caller_address(scope)
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
            _check_head(scope["headers"])
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
            method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
            self._observe(route, method, status, seconds)
            _log_line(scope, route, status, seconds)


def caller_address(scope: Scope) -> str:
    """Return the address of whoever asks; behind a proxy that is trusted, what the proxy says it is."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _check_head(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse a head that is too large, or that two readers could take for different requests.

    Raises:
        ApiProblem: so it is.
    """
    close = {"Connection": "close"}
    size = sum(len(name) + len(value) for name, value in headers)
    if size > MAX_HEAD_BYTES:
        detail = f"Expected at most {MAX_HEAD_BYTES:,} bytes of headers, got {size:,}."
        raise ApiProblem("headers-too-large", detail, headers=close)
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:  # RFC 9112, 6.1
        detail = "Expected Content-Length or Transfer-Encoding, got both. Send one of them."
        raise ApiProblem("bad-request", detail, headers=close)


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


# --- by which name ----------------------------------------------------------------------------------


class AllowedHosts:
    """Lets only requests in that name the service as it may be called.

    A page elsewhere could make a browser call 127.0.0.1 under a name of its own (DNS rebinding), and read
    what no key protects.

    Args:
        app: what is inside.
        hosts: names without ports, lower case; "*" for all.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self._hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] == "http" and "*" not in self._hosts:
            given = Headers(scope=scope).get("host", "")
            if given and _host_name(given) not in self._hosts:  # a browser always names one
                detail = f"Expected a Host among those of API_ALLOWED_HOSTS, got {given[:100]!r}."
                await problem_response(ApiProblem("unknown-host", detail), scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _host_name(host: str) -> str:
    """Return a Host header without its port: "[::1]:8000" -> "[::1]"."""
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and port.isdecimal() else host.strip().lower()


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


MAX_BOUNDARY = 70  # characters: RFC 2046, 5.1.1
MAX_BYTES_BEFORE = 65_536  # before the first part; RFC 2046 allows something there, and nobody sends it
MAX_PART_HEADERS, MAX_PART_HEADER_BYTES = 8, 4_096
MAX_TEXTS, MAX_TEXT_BYTES = 8, 10_000  # parts that are no files; there should be none


async def read_files(request: Request, *, max_files: int, part: str = "file") -> list[SentFile]:
    """Read the files of a multipart body, or of a JSON body {"images": [base64, ...]}, into memory.

    Args:
        request: whose body nobody has read.
        max_files: files allowed.
        part: name of the parts that hold files.

    Raises:
        ApiProblem: the body is neither, is damaged, or holds no such file, too many or anything else.
        ClientDisconnect: the client went away.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        detail = f"Expected a body without Content-Encoding, got {encoding[:50]!r}: photos are compressed."
        raise ApiProblem("compressed-body", detail)
    given = request.headers.get("content-type", "")
    media_type = given.partition(";")[0].strip().lower()
    if media_type == "application/json":
        return _decoded_files(await request.body(), max_files)
    if media_type != "multipart/form-data":
        got = repr(given[:100]) if given else "no Content-Type"
        detail = (
            f"Expected multipart/form-data with a part named {part!r}, or application/json, got {got}. "
            + _example(part)
        )
        raise ApiProblem("not-multipart", detail)
    try:
        return await _read_form(request, _Form(part, max_files))
    except ParserLimitReached as error:
        detail = (
            f"Expected at most {MAX_PART_HEADERS} headers in each part, of at most {MAX_PART_HEADER_BYTES:,} "
            "bytes each, got more. "
        )
        raise ApiProblem("bad-multipart", detail + _example(part)) from error
    except ParserError as error:
        detail = f"The multipart body cannot be read: {error}. {_example(part)}"
        raise ApiProblem("bad-multipart", detail) from error


class _Form:
    """What has come of a multipart body. All of it is in memory: BodyLimit bounds how much that is.

    Args:
        part: name of the parts that hold files.
        max_files: files allowed.
    """

    def __init__(self, part: str, max_files: int) -> None:
        self._part, self._max_files = part, max_files
        self._names: list[str] = []
        self._found: list[tuple[str, io.BytesIO]] = []
        self._files, self._texts = 0, 0
        self._content, self._in_text = io.BytesIO(), False

    @property
    def begun(self) -> bool:
        """Whether there was a part."""
        return bool(self._names)

    def take(self, event: MultipartSegment | bytes | None) -> None:
        """Take what the parser says next: a part begins, goes on (bytes), or ends (None).

        Raises:
            ApiProblem, ParserError: the form should not have that.
        """
        if isinstance(event, bytes):
            self._content.write(event)
            if self._in_text and self._content.tell() > MAX_TEXT_BYTES:
                detail = f"Expected a part without a file name to have at most {MAX_TEXT_BYTES:,} bytes, got "
                raise ApiProblem("bad-multipart", f"{detail}more. {_example(self._part)}")
        elif event is not None:
            self._begin(event)

    def _begin(self, segment: MultipartSegment) -> None:
        if not segment.name:
            raise ParserError("A part has no name")
        name, file_name = _as_utf8(segment.name), _file_name(segment)
        self._names.append(name)
        self._content, self._in_text = io.BytesIO(), file_name is None
        self._texts += file_name is None
        self._files += file_name is not None
        if self._files > self._max_files:
            raise _too_many(self._max_files)
        if self._texts > MAX_TEXTS:
            raise ParserError(f"Expected at most {MAX_TEXTS} parts that are no files, got more")
        if name == self._part and file_name is not None:
            self._found.append((file_name, self._content))

    def files(self) -> list[SentFile]:
        """Return the files of the whole form.

        Raises:
            ApiProblem: it holds none, or anything else beside them.
        """
        if not self._found:
            raise _missing_file(self._part, self._names)
        _check_parts(self._part, self._names)
        return [
            SentFile(name or f"{self._part}-{i}", content.getvalue())
            for i, (name, content) in enumerate(self._found)
        ]


async def _read_form(request: Request, form: _Form) -> list[SentFile]:
    parser = PushMultipartParser(
        _boundary(request.headers["content-type"]),
        max_header_count=MAX_PART_HEADERS,
        max_header_size=MAX_PART_HEADER_BYTES,
        header_charset="latin-1",  # takes every byte, so that no file name's alphabet is a reason to refuse
    )
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        for event in parser.parse(chunk) if chunk else ():  # to the parser, no bytes are the end
            form.take(event)
        if seen > MAX_BYTES_BEFORE and not form.begun:
            raise ParserError(f"Expected the boundary in the first {MAX_BYTES_BEFORE:,} bytes")
    if seen:
        parser.close()  # raises if the end has not come
    return form.files()


def _boundary(content_type: str) -> str:
    header = MimeMessage()  # which minds no missing quotes: boundary===a/b
    header["Content-Type"] = content_type
    boundary = header.get_boundary("")
    if not boundary:
        raise ParserError("Content-Type names no boundary")
    if len(boundary) > MAX_BOUNDARY:
        raise ParserError(f"Expected a boundary of at most {MAX_BOUNDARY} characters, got {len(boundary)}")
    return boundary


def _file_name(segment: MultipartSegment) -> str | None:
    """Return a part's file name, None if it has none and so is no file."""
    disposition = segment["Content-Disposition"]
    if "filename*" in disposition.lower():  # RFC 5987: filename*=UTF-8''%D1%84.jpg
        return parse_options_header(disposition)[1].get("filename", "")
    return None if segment.filename is None else _as_utf8(segment.filename)


def _as_utf8(text: str) -> str:
    """Return what a header read as Latin-1 says in UTF-8; as it is where that is not UTF-8."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeDecodeError:
        return text


def _decoded_files(body: bytes, max_files: int) -> list[SentFile]:
    try:
        images = EncodedImages.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        detail = f'Expected {{"images": ["BASE64", ...]}}; {where}: {first["msg"]}.'
        errors = [{"parameter": where, "message": first["msg"]}]
        raise ApiProblem("invalid-parameters", detail, errors=errors) from error
    if not images:
        raise ApiProblem("missing-file", 'Expected at least one picture in "images", got none.')
    if len(images) > max_files:
        raise _too_many(max_files)
    return [SentFile(f"image-{i}", _from_base64(text, i)) for i, text in enumerate(images)]


def _from_base64(text: str, index: int) -> bytes:
    """Decode one picture; a data URL's beginning (data:image/jpeg;base64,) may stand before it."""
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError as error:
        detail = f"images.{index}: expected base64 of a picture file, got something else ({error})."
        errors = [{"parameter": f"images.{index}", "message": "no base64"}]
        raise ApiProblem("invalid-parameters", detail, errors=errors) from error


def _too_many(max_files: int) -> ApiProblem:
    detail = f"Expected at most {max_files} files in one request, got more. Send several requests."
    return ApiProblem("too-many-files", detail)


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


# --- who asks ---------------------------------------------------------------------------------------


class KeyRing:
    """The API keys that open the door, each with its holder's name. An empty ring leaves it open.

    Args:
        keys: secret by name.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._digests = {name: _digest(key) for name, key in keys.items()}

    def holder(self, given: str | None) -> str | None:
        """Return the name of the key's holder, None where no key is wanted.

        A near miss takes as long as a far one.

        Raises:
            ApiProblem: given is none of the keys.
        """
        if not self._digests:
            return None
        digest = _digest(given or "")
        names = [name for name, known in self._digests.items() if hmac.compare_digest(digest, known)]
        if given is None or not names:
            detail = "Send the key as 'X-API-Key: KEY' or 'Authorization: Bearer KEY'."
            raise ApiProblem("unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
        return names[0]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class FairShare:
    """Keeps one caller from taking every place: so many requests at once, and so many a minute.

    Args:
        at_once: requests of one caller under way at the same time.
        per_minute: requests of one caller in any minute; 0 for no limit.
    """

    def __init__(self, at_once: int, per_minute: int) -> None:
        self._at_once, self._per_minute = at_once, per_minute
        self._under_way: Counter[str] = Counter()
        self._rate = RateLimitItemPerMinute(max(1, per_minute))
        self._window = MovingWindowRateLimiter(MemoryStorage())

    @contextmanager
    def request_of(self, caller: str) -> Iterator[None]:
        """Count a request of caller while the block runs.

        Raises:
            ApiProblem: it would be one too many.
        """
        if self._under_way[caller] >= self._at_once:
            raise self._refusal(f"{self._at_once} requests at once", 1)
        if self._per_minute and not self._window.hit(self._rate, caller):
            seconds = self._window.get_window_stats(self._rate, caller).reset_time - time.time()
            raise self._refusal(f"{self._per_minute} requests a minute", max(1, math.ceil(seconds)))
        self._under_way[caller] += 1
        try:
            yield
        finally:
            self._under_way[caller] -= 1
            self._under_way += Counter()  # forgets whoever has none left

    def _refusal(self, limit: str, seconds: int) -> ApiProblem:
        detail = f"Expected at most {limit} from one caller, got more. Try again in {seconds} s."
        return ApiProblem("too-many-requests", detail, headers={"Retry-After": str(seconds)})
