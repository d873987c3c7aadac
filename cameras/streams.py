"""Cameras in: RTSP, HTTP (MJPEG), USB, a video file or a folder of pictures -> the newest picture.

A thread per camera reads all that it sends and keeps only the last picture, so that whoever looks slowly
looks at the present, not at what waits. What FFmpeg says of an error may hold the password: people are told
in sentences of our own.

StreamError (ValueError)    the camera gives no pictures; str() says why, and what to do
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import av
import av.error
import numpy as np

from cameras.config import DEVICE, Camera
from cameras.logs import CameraLog
from detection import imaging

DEVICES = Path("/dev")
FILE_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,h264,hevc,mjpeg,flv,asf"
NETWORK_PROTOCOLS = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https"  # never file: a camera must not name one
LOOKED_AT_FIRST_US = "1000000"  # of a stream, to find out what it is; FFmpeg's own 5 s are 5 s without a look
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0  # before a camera is tried again
STEADY_S = 10.0  # a camera that held so long begins again with the first wait
DAMAGED_IN_A_ROW = (
    250  # packets that cannot be decoded; fewer are lost on the way, and the next whole picture comes
)
STOP_S = 5.0  # beyond the longest read
Image = imaging.Image


class StreamError(ValueError):
    """The camera gives no pictures."""


class Picture(NamedTuple):
    """One picture of a stream, time_s seconds from its first; its pixels are made when asked for.

    decode returns (H, W, 3) uint8 RGB, upright, and raises StreamError or imaging.ImageError.
    """

    time_s: float
    decode: Callable[[], Image]


class Shot(NamedTuple):
    """The newest picture: when it came, on the monotonic clock and on the wall's (UTC)."""

    taken_s: float
    taken_at: datetime
    decode: Callable[[], Image]


@dataclass(frozen=True, slots=True)
class StreamState:
    """How a camera does.

    Attributes:
        problem: the sentence that says why there are no pictures; None while there are, "" before the first.
        pictures: how many came.
        reconnects: how often it was lost.
        last_at: when the last picture came.
        last_s: the same on the monotonic clock.
    """

    problem: str | None = ""
    pictures: int = 0
    reconnects: int = 0
    last_at: datetime | None = None
    last_s: float | None = None

    @property
    def age_s(self) -> float | None:
        """Seconds since the last picture came; None before the first."""
        return None if self.last_s is None else time.monotonic() - self.last_s


class Stream:
    """Keeps the newest picture of one camera at hand; connects again when it is lost.

    Args:
        camera: which.
        stall_s: longest wait for a connection and for the next picture.
    """

    def __init__(self, camera: Camera, *, stall_s: float = 10.0) -> None:
        self.camera, self.stall_s = camera, stall_s
        self.state, self._log = StreamState(), CameraLog(camera.name)
        self._new = threading.Condition()
        self._shot: Shot | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to read, in a thread."""
        self._thread = threading.Thread(target=self._run, name=f"stream {self.camera.name}", daemon=True)
        self._thread.start()

    def keep_alive(self) -> None:
        """Start the thread again if it has died of what nobody foresaw."""
        if self._thread and not self._thread.is_alive() and not self._stop.is_set():
            self._log.error("its reader died and is started again")
            self.start()

    def stop(self) -> bool:
        """Stop reading, wait for that, and say whether it has stopped."""
        self.ask_to_stop()
        if self._thread:
            self._thread.join(self.stall_s + STOP_S)
        return not (self._thread and self._thread.is_alive())

    def ask_to_stop(self) -> None:
        """Stop reading soon; nobody waits."""
        self._stop.set()
        with self._new:
            self._new.notify_all()

    def newest(self, timeout_s: float) -> Shot | None:
        """Return a picture that was not returned before, the newest; None if none comes in time."""
        with self._new:
            self._new.wait_for(lambda: self._shot is not None or self._stop.is_set(), timeout_s)
            shot, self._shot = self._shot, None
            return shot

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._read()
                if self.camera.is_network:
                    self._lost("the camera ended its stream")
                else:
                    continue  # a clip is played over and over
            except StreamError as error:
                self._lost(str(error))
            if time.monotonic() - began > STEADY_S + self.stall_s:
                wait_s = FIRST_WAIT_S
            self._stop.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _read(self) -> None:
        """Take in pictures until there are no more; those of a file at its own pace."""
        began = None
        with closing(read(self.camera, stall_s=self.stall_s)) as pictures:
            for picture in pictures:
                began = time.monotonic() - picture.time_s if began is None else began
                if not self.camera.is_live:
                    self._stop.wait(max(0.0, began + picture.time_s - time.monotonic()))
                if self._stop.is_set():
                    return
                self._take(picture)
        if not self.camera.is_live:
            self._stop.wait(1 / self.camera.rate)  # the last picture, too, is shown for its time

    def _take(self, picture: Picture) -> None:
        now = datetime.now(UTC)
        if self.state.problem is not None:
            self._log.info("pictures come")
        shot = Shot(time.monotonic(), now, picture.decode)
        self.state = replace(
            self.state, problem=None, pictures=self.state.pictures + 1, last_at=now, last_s=shot.taken_s
        )
        with self._new:
            self._shot = shot
            self._new.notify_all()

    def _lost(self, problem: str) -> None:
        if self._stop.is_set():
            return
        if problem != self.state.problem:
            self._log.warning("%s", problem)
        self.state = replace(self.state, problem=problem, reconnects=self.state.reconnects + 1)


# --- reading ----------------------------------------------------------------------------------------


def read(camera: Camera, *, stall_s: float) -> Generator[Picture, None, None]:
    """Yield all pictures of a camera as they come, those of a file or folder as fast as they are taken.

    Args:
        camera: which; a folder's pictures come at its rate.
        stall_s: longest wait for a connection and for the next picture.

    Raises:
        StreamError: there are none, or no more although there should be.
    """
    folder = Path(camera.address.get_secret_value())
    if not camera.is_network and folder.is_dir():
        yield from _read_folder(folder, camera.rate)
    else:
        yield from _read_video(camera, stall_s)


def at_rate(pictures: Iterator[Picture], rate: float) -> Iterator[Picture]:
    """Yield at most rate pictures for each second of their own time, evenly."""
    wanted = 0
    for picture in pictures:
        if picture.time_s * rate + 1e-6 >= wanted:
            wanted = int(picture.time_s * rate + 1e-6) + 1
            yield picture


def _read_folder(folder: Path, rate: float) -> Iterator[Picture]:
    paths = sorted(path for path in folder.iterdir() if path.is_file() and imaging.may_be_photo(path))
    if not paths:
        raise StreamError("expected pictures in the folder, found none")
    for i, path in enumerate(paths):
        yield Picture(i / rate, lambda path=path: _decode_file(path))  # type: ignore[misc]


def _decode_file(path: Path) -> Image:
    try:
        return imaging.decode_image(path.read_bytes())
    except (OSError, imaging.ImageError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StreamError(f"{path.name} cannot be read: {reason}") from error


def _read_video(camera: Camera, stall_s: float) -> Iterator[Picture]:
    start: float | None = None
    damaged = 0
    with closing(_open(camera, stall_s)) as container:
        stream = container.streams.video[0]
        packets = container.demux(stream)
        while True:
            asked = time.monotonic()
            try:
                packet = next(packets)
                frames = packet.decode()
            except (StopIteration, av.error.EOFError):
                break
            except av.error.InvalidDataError:
                damaged += 1
                if damaged >= DAMAGED_IN_A_ROW:
                    raise StreamError("what the camera sends is damaged, or no video") from None
                continue
            except (av.FFmpegError, OSError, ValueError) as error:
                # Not "from error": a traceback would show the address with its password.
                raise StreamError(_why(error, asked, stall_s, has_begun=True)) from None
            for frame in frames:
                damaged = 0
                _check_size(frame.width, frame.height)
                time_s = frame.time or 0.0
                start = time_s if start is None else start
                yield Picture(max(0.0, time_s - start), lambda frame=frame: _to_image(frame))  # type: ignore[misc]
    if start is None:
        raise StreamError("there is no picture in it that can be decoded")


def _open(camera: Camera, stall_s: float) -> av.container.InputContainer:
    address = camera.address.get_secret_value()
    options, form = {"format_whitelist": FILE_FORMATS, "protocol_whitelist": "file"}, None
    if camera.is_network:
        options = {"protocol_whitelist": NETWORK_PROTOCOLS, "analyzeduration": LOOKED_AT_FIRST_US}
        if address.lower().startswith("rtsp"):
            options["rtsp_transport"] = camera.transport
    elif camera.is_device:
        address, options, form = _device(address), {}, "v4l2"
        if form not in av.formats_available:  # PyPI's wheels are built without devices
            raise StreamError(
                "this PyAV reads no USB devices: let ffmpeg pass it on (ffmpeg -f v4l2 -i "
                f"{address} -c:v mjpeg -f mpjpeg -listen 1 http://127.0.0.1:8090/) and give that address, or "
                "install one that does (pip install --no-binary av av, with FFmpeg's development files)"
            )
    asked = time.monotonic()
    try:
        container = av.open(address, "r", format=form, options=options, timeout=(stall_s, stall_s))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise StreamError(_why(error, asked, stall_s, has_begun=False)) from None
    try:
        _check_codec(container)
    except StreamError:
        container.close()
        raise
    return container


def _device(address: str) -> str:
    """Return the path of a USB camera: usb:0 is the first, /dev/video0.

    Raises:
        StreamError: there is no such device.
    """
    numbered = DEVICE.fullmatch(address)
    path = DEVICES / f"video{numbered[1]}" if numbered else Path(address)
    if not path.exists():
        others = ", ".join(sorted(str(other) for other in DEVICES.glob("video*")))
        raise StreamError(
            f"there is no {path}: plug the camera in, and give a container the device (--device {path}); "
            + (f"there is {others}" if others else "no USB camera is here")
        )
    return str(path)


def _check_codec(container: av.container.InputContainer) -> None:
    """Raise StreamError unless the container's first video can be decoded here."""
    if not container.streams.video:
        raise StreamError("it sends no video")
    codec = container.streams.video[0].codec_context
    if codec is None:
        raise StreamError(
            "its video is coded in a way that cannot be decoded here: choose H.264 in the camera's settings"
        )
    codec.options = {"max_pixels": str(imaging.MAX_PIXELS)}


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise StreamError(f"it sends pictures of {width} x {height} pixels")
    if width * height > imaging.MAX_PIXELS:
        raise StreamError(
            f"expected pictures of at most {imaging.MAX_PIXELS:,} pixels, got {width} x {height}"
        )


def _to_image(frame: av.VideoFrame) -> Image:
    """Return the frame as RGB, turned as the device that took it says."""
    try:
        image: Image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.FFmpegError, ValueError) as error:
        raise StreamError("a picture cannot be turned into colours") from error
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


REASONS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError),
        "it refuses the user and password: check them, in the environment and in the camera",
    ),
    ((av.error.HTTPNotFoundError,), "it has no such stream: check what follows the port in its address"),
    (
        (av.error.DecoderNotFoundError, av.error.PatchWelcomeError),
        "its video is coded in a way that cannot be decoded here: choose H.264 in the camera's settings",
    ),
    ((ConnectionRefusedError,), "nothing listens there: check address and port, and that it is switched on"),
    ((FileNotFoundError,), "there is no such file, folder or device"),
    ((PermissionError,), "this user may not open it (a USB camera: be in the group video)"),
    (
        (av.error.ProtocolNotFoundError, av.error.DemuxerNotFoundError),
        "this kind of address cannot be read here",
    ),
)


def _why(error: Exception, asked: float, stall_s: float, *, has_begun: bool) -> str:
    """Say why a camera cannot be read: never in FFmpeg's words, which hold the address with its password.

    Args:
        error: what came.
        asked: when it was asked for, on the monotonic clock: an interrupted wait ends in any error.
        stall_s: the longest wait.
        has_begun: whether pictures had come.
    """
    for kinds, sentence in REASONS:
        if isinstance(error, kinds):
            return sentence
    has_waited = time.monotonic() - asked >= stall_s
    if has_waited or isinstance(error, TimeoutError | av.error.ExitError):
        if has_begun:
            return f"it has sent no picture for {stall_s:g} seconds"
        return f"no answer within {stall_s:g} seconds: check the address, and that it is switched on"
    if isinstance(error, av.error.InvalidDataError):
        return "what is there is no video that can be read: check the address"
    if has_begun:
        return f"the connection broke ({_number(error)})"
    return f"cannot be reached: check the address ({_number(error)})"


def _number(error: Exception) -> str:
    """Return an error in a word or two, without the address."""
    return getattr(error, "strerror", None) or type(error).__name__
