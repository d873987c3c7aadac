"""cameras.toml: which cameras there are, and what of their pictures counts.

    [[camera]]
    name = "till"
    address = "rtsp://${TILL_USER}:${TILL_PASSWORD}@192.168.1.20/stream1"
    rate = 2
    zones = [[[0, 0.2], [1, 0.2], [1, 1], [0, 1]]]

What stands in ${...} comes from the environment and is shown nowhere: not in the log, an error or a status.
Places are shares of the picture's width and height, so that they stay where they are at another resolution.

ConfigError (ValueError)    the file cannot be used; the message says what is wrong, line by line
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from detection.names import LANGUAGES
from schemas import Detection, ImageSize, Tiles

Share = Annotated[float, Field(ge=0, le=1)]
Point = tuple[Share, Share]
Polygon = Annotated[tuple[Point, ...], Field(min_length=3)]
SCHEMES = ("rtsp", "rtsps", "http", "https")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
DEVICE = re.compile(r"usb:(\d{1,3})")
SPAN = re.compile(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)")


class ConfigError(ValueError):
    """cameras.toml cannot be used."""


def _span(value: Any) -> Any:
    """Turn "22:00-07:00" into its two times."""
    match = SPAN.fullmatch(value.replace(" ", "")) if isinstance(value, str) else None
    if match is None:
        raise ValueError('expected hours such as "22:00-07:00"')
    numbers = [int(part) for part in match.groups()]
    if max(numbers[0], numbers[2]) > 23 or max(numbers[1], numbers[3]) > 59:
        raise ValueError("expected hours from 00:00 to 23:59")
    return time(numbers[0], numbers[1]), time(numbers[2], numbers[3])


def _language(value: str) -> str:
    if value not in LANGUAGES:
        raise ValueError(f"expected one of {', '.join(LANGUAGES)}")
    return value


Span = Annotated[tuple[time, time], BeforeValidator(_span)]


class Camera(BaseModel):
    """One camera: where it is, how often it is looked at, and what of its picture counts.

    Attributes:
        shown: the address as it may be shown, without what is secret.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=r"^[\w][\w .-]{0,63}$", description="letters, digits, spaces, dots and dashes")
    address: SecretStr = Field(
        description="rtsp://, http:// (MJPEG), usb:0 or /dev/video0, a video file, or a folder of pictures"
    )
    shown: str = ""
    transport: Literal["tcp", "udp"] = Field("tcp", description="how RTSP cameras send: udp may lose parts")
    rate: float = Field(2.0, gt=0, le=10, description="frames looked at per second")
    zones: tuple[Polygon, ...] = Field((), description="only what has its middle in one of them counts")
    masks: tuple[Polygon, ...] = Field((), description="what has its middle in one of them does not count")
    smallest: Share = Field(0.0, description="share of the picture's area that an object has at least")
    largest: Share = Field(1.0, description="share of the picture's area that an object has at most")
    tiles: Tiles = Field("1x1", description="look at so many overlapping tiles too, for far objects")
    quiet: tuple[Span, ...] = Field((), description="hours in which alarms are noted and nobody is told")
    language: Annotated[str, AfterValidator(_language)] = Field("en", description="of its alarms: en or ru")
    needed: int = Field(3, ge=1, le=20, description="frames that must see the same object")
    window: int = Field(5, ge=1, le=20, description="of so many frames looked at")
    cool_down: float = Field(60.0, ge=0, description="seconds in which an object that comes back is no news")
    at_rest: float = Field(3600.0, ge=0, description="the same for one that never moved, at its very place")

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if self.needed > self.window:
            raise ValueError(f"needed ({self.needed}) is more than window ({self.window})")
        if self.smallest >= self.largest:
            raise ValueError("smallest must be less than largest")
        scheme = _scheme(self.address.get_secret_value())
        if scheme and scheme not in SCHEMES:
            raise ValueError(f"address: expected {', '.join(SCHEMES)} or a path, got {scheme}://")
        return self

    @property
    def is_network(self) -> bool:
        """Whether its pictures come over the network."""
        return bool(_scheme(self.address.get_secret_value()))

    @property
    def is_device(self) -> bool:
        """Whether it hangs on this machine's USB."""
        address = self.address.get_secret_value()
        return address.startswith("/dev/") or DEVICE.fullmatch(address) is not None

    @property
    def is_live(self) -> bool:
        """Whether its pictures come at their own pace; a file's come as fast as they are read."""
        return self.is_network or self.is_device

    def counts(self, detection: Detection, size: ImageSize) -> bool:
        """Say whether an object of one frame is where, and as large as, this camera's objects shall be."""
        box = detection.box
        share = (box.x2 - box.x1) * (box.y2 - box.y1) / (size.width * size.height)
        middle = ((box.x1 + box.x2) / 2 / size.width, (box.y1 + box.y2) / 2 / size.height)
        return (
            self.smallest <= share <= self.largest
            and (not self.zones or any(is_inside(middle, zone) for zone in self.zones))
            and not any(is_inside(middle, mask) for mask in self.masks)
        )

    def is_quiet(self, now: time) -> bool:
        """Say whether nobody is to be told of anything at this time of the day."""
        return any(
            start <= now < end if start <= end else now >= start or now < end for start, end in self.quiet
        )


def is_inside(point: Point, polygon: Sequence[Point]) -> bool:
    """Say whether a point lies in a polygon, by the crossings of a ray to the right."""
    x, y = point
    inside = False
    for (x1, y1), (x2, y2) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            inside = not inside
    return inside


def load_cameras(path: Path, environment: Mapping[str, str]) -> tuple[Camera, ...]:
    """Read cameras.toml.

    Args:
        path: of the file.
        environment: what ${NAME} in an address may name.

    Raises:
        ConfigError: it cannot be read, or says what cannot be.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); cameras.example.toml shows what it holds"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML: {error}") from error
    tables = content.pop("camera", [])
    if content:
        raise ConfigError(f"{path}: expected [[camera]] only, got {', '.join(sorted(content))}")
    if not (isinstance(tables, list) and tables and all(isinstance(table, dict) for table in tables)):
        raise ConfigError(f"{path}: expected one [[camera]] or more, each with a name and an address")
    problems: list[str] = []
    cameras = [_camera(table, i, environment, problems) for i, table in enumerate(tables, start=1)]
    names = [camera.name for camera in cameras if camera]
    problems += [
        f"two cameras are called {name}" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    return tuple(camera for camera in cameras if camera)


def one_camera(name: str, address: str, **fields: Any) -> Camera:
    """Return a camera that stands in no file, such as a clip to be played."""
    return Camera(name=name, address=SecretStr(address), shown=shown_address(address), **fields)


def camera_at(address: str, environment: Mapping[str, str]) -> Camera:
    """Return the camera of an address that stands in no file; a clip's is called as its file.

    Raises:
        ConfigError: nothing of that kind can be watched.
    """
    name = "camera" if _scheme(address) else re.sub(r"[^\w .-]", "-", Path(address).name)[:64].lstrip(" .-")
    problems: list[str] = []
    found = _camera({"name": name or "camera", "address": address}, 1, environment, problems)
    if found is None:
        raise ConfigError("\n".join(problems))
    return found


def _camera(
    table: Mapping[str, Any], number: int, environment: Mapping[str, str], problems: list[str]
) -> Camera | None:
    """Return one camera, or None and add what is wrong with it to problems."""
    who = f"camera {table.get('name', number)}"
    if "shown" in table:
        problems.append(f"{who}: shown: no such setting")
        return None
    address = table.get("address")
    if isinstance(address, str):
        absent = sorted({name for name in VARIABLE.findall(address) if not environment.get(name)})
        if absent:
            problems.append(f"{who}: address: set {' and '.join(absent)} in the environment")
            return None
        table = {**table, "address": resolve(address, environment), "shown": shown_address(address)}
    try:
        return Camera.model_validate(table)
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_context=False):
            place = ".".join(str(part) for part in problem["loc"])
            problems.append(": ".join(filter(None, (who, place, problem["msg"]))))
        return None


def resolve(address: str, environment: Mapping[str, str]) -> str:
    """Return an address with its variables filled in.

    A user, a password or a part of the query may hold any character: such are escaped as URLs want it.
    """
    login_end, query_start = address.rfind("@"), address.find("?")

    def value(match: re.Match[str]) -> str:
        is_escaped = match.end() <= login_end or 0 <= query_start < match.start()
        return quote(environment[match[1]], safe="") if is_escaped else environment[match[1]]

    return VARIABLE.sub(value, address)


def shown_address(address: str) -> str:
    """Return an address that may be shown: variables by name, no user, password or query."""
    if not _scheme(address):
        return address
    head, _, rest = address.partition("://")
    login, at, place = rest.rpartition("@")  # a password typed with a slash in it would pass for a path
    return f"{head}://{'...@' if login or at else ''}{place.partition('?')[0]}"


def _scheme(address: str) -> str:
    """Return what stands before ://, in lower case; nothing of a path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", address)
    return match[1].lower() if match else ""


def of_shard(cameras: Iterable[Camera], shard: str) -> tuple[Camera, ...]:
    """Return the cameras that one watcher of several looks after, by a hash of their names.

    Args:
        cameras: all of them.
        shard: "1/3" for the first of three watchers; each camera is of exactly one.

    Raises:
        ConfigError: shard is no such pair.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"expected a shard such as 1/3, the first of three watchers, got {shard!r}")
    this, count = int(match[1]) - 1, int(match[2])
    return tuple(camera for camera in cameras if _hash(camera.name) % count == this)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
