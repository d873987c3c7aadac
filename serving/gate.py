"""What every request passes on its way to a route and back: connections, hosts, keys, shares, log lines."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import h11
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.problems import PROBLEM_JSON, ApiProblem, note_on, problem_response

log = logging.getLogger("mlapi.request")
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


MAX_BOUNDARY = 70  # characters: RFC 2046, 5.1.1
MAX_BYTES_BEFORE = 65_536  # before the first part; RFC 2046 allows something there, and nobody sends it
MAX_PART_HEADERS, MAX_PART_HEADER_BYTES = 8, 4_096


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
