"""A request's body: how much of it is read, and the photographs in it."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message as MimeMessage

from multipart import MultipartSegment, ParserError, ParserLimitReached, PushMultipartParser
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from werkzeug.http import parse_options_header

from schemas import EncodedImages
from serving.gate import MAX_BOUNDARY, MAX_BYTES_BEFORE, MAX_PART_HEADER_BYTES, MAX_PART_HEADERS
from serving.problems import ApiProblem, problem_response

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


MAX_TEXTS, MAX_TEXT_BYTES = 8, 10_000  # parts that are no files; there should be none


async def read_files(request: Request, *, max_files: int) -> list[SentFile]:
    """Read the files of a multipart body, or of a JSON body {"images": [base64, ...]}, into memory.

    Args:
        request: whose body nobody has read.
        max_files: files allowed.

    Raises:
        ApiProblem: the body is neither, is damaged, or holds no such file, too many or anything else.
        ClientDisconnect: the client went away.
    """
    _refuse_compressed(request)
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() == "application/json":
        return _decoded_files(await request.body(), max_files)
    return (await read_form(request, max_files=max_files)).files


@dataclass(frozen=True, slots=True)
class SentForm:
    """What a multipart body held: files, and by name the texts beside them."""

    files: list[SentFile]
    texts: dict[str, str]


async def read_form(
    request: Request, *, max_files: int, part: str = "file", takes_texts: bool = False
) -> SentForm:
    """Read a multipart body into memory.

    Args:
        request: whose body nobody has read.
        max_files: files allowed.
        part: name of the parts that hold files.
        takes_texts: whether texts may come beside them.

    Raises:
        ApiProblem: the body is no form, is damaged, or holds no such file, too many or anything else.
        ClientDisconnect: the client went away.
    """
    _refuse_compressed(request)
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "multipart/form-data":
        got = repr(given[:100]) if given else "no Content-Type"
        either = ", or application/json" if part == "file" else ""
        detail = f"Expected multipart/form-data with a part named {part!r}{either}, got {got}. "
        raise ApiProblem("not-multipart", detail + _example(part))
    try:
        return await _read_form(request, _Form(part, max_files, takes_texts=takes_texts))
    except ParserLimitReached as error:
        detail = (
            f"Expected at most {MAX_PART_HEADERS} headers in each part, of at most {MAX_PART_HEADER_BYTES:,} "
            "bytes each, got more. "
        )
        raise ApiProblem("bad-multipart", detail + _example(part)) from error
    except ParserError as error:
        detail = f"The multipart body cannot be read: {error}. {_example(part)}"
        raise ApiProblem("bad-multipart", detail) from error


def _refuse_compressed(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        detail = f"Expected a body without Content-Encoding, got {encoding[:50]!r}: photos are compressed."
        raise ApiProblem("compressed-body", detail)


class _Form:
    """What has come of a multipart body. All of it is in memory: BodyLimit bounds how much that is.

    Args:
        part: name of the parts that hold files.
        max_files: files allowed.
        takes_texts: whether texts may come beside them.
    """

    def __init__(self, part: str, max_files: int, *, takes_texts: bool) -> None:
        self._part, self._max_files, self._takes_texts = part, max_files, takes_texts
        self._names: list[str] = []
        self._found: list[tuple[str, io.BytesIO]] = []
        self._found_texts: dict[str, io.BytesIO] = {}
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
        elif self._takes_texts and file_name is None:
            self._found_texts[name] = self._content

    def whole(self) -> SentForm:
        """Return what the whole form held.

        Raises:
            ApiProblem: it holds none, or anything else beside them.
        """
        if not self._found:
            raise _missing_file(self._part, self._names)
        _check_parts(self._part, [name for name in self._names if name not in self._found_texts])
        files = [
            SentFile(name or f"{self._part}-{i}", content.getvalue())
            for i, (name, content) in enumerate(self._found)
        ]
        texts = {
            name: content.getvalue().decode(errors="replace") for name, content in self._found_texts.items()
        }
        return SentForm(files, texts)


async def _read_form(request: Request, form: _Form) -> SentForm:
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
    return form.whole()


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
