"""Video in and out, in memory: file bytes -> upright RGB frames, frames -> MP4.

The only file that imports PyAV.

VideoError          the bytes cannot be used as a video
  NotAVideo
  VideoTooLong
  VideoTooLarge
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

from detection import imaging

FRAME_SIDE = 1024  # longer side of the frames handed out and written, pixels
CLIP_FRAMES_PER_SECOND = 12
MAX_FRAME_PIXELS = (
    4096 * 2304
)  # one decoded frame; a decoder keeps several, and small files can hold huge ones
# Files only. FFmpeg guesses the format from the content, and a playlist or an SDP would make it open
# connections and other files of this machine.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"


class VideoError(ValueError):
    """The bytes cannot be used as a video."""


class NotAVideo(VideoError):
    """The bytes are no video of a known format, or are cut short."""


class VideoTooLong(VideoError):
    """The video lasts longer than allowed."""


class VideoTooLarge(VideoError):
    """The video's pictures have more pixels than allowed."""


class Frame(NamedTuple):
    """One picture of a video, at time_s seconds from its first."""

    time_s: float
    image: imaging.Image


def duration_s(video_bytes: bytes) -> float:
    """Return how long a video lasts by its own account, in seconds; 0 where it gives none.

    Raises:
        NotAVideo: the bytes are no video.
        VideoTooLarge: its pictures have more than MAX_FRAME_PIXELS pixels.
    """
    with closing(_open(video_bytes)) as container:
        stream = container.streams.video[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return container.duration / av.time_base if container.duration else 0.0


def read_frames(
    video_bytes: bytes, *, frames_per_second: float, max_seconds: float
) -> Generator[Frame, None, None]:
    """Yield frames of a video, evenly, at most frames_per_second of them for each second.

    Args:
        video_bytes: the file's content, any format FFmpeg reads.
        frames_per_second: how many to look at; above the video's own rate, every frame.
        max_seconds: longest video taken.

    Yields:
        Upright frames, (H, W, 3) uint8 RGB, all of one size, at most FRAME_SIDE pixels long.

    Raises:
        NotAVideo: the bytes are no video, or hold no frame.
        VideoTooLong: the video lasts longer than max_seconds; before any frame where its header says so.
        VideoTooLarge: its pictures have more than MAX_FRAME_PIXELS pixels; before any is decoded.
    """
    if duration_s(video_bytes) > max_seconds:
        raise VideoTooLong(f"expected a video of at most {max_seconds:g} seconds")
    wanted = 0
    for frame, time_s in _decode(video_bytes):
        if time_s > max_seconds:  # a header may lie, or be silent
            raise VideoTooLong(f"expected a video of at most {max_seconds:g} seconds")
        if time_s * frames_per_second + 1e-6 >= wanted:
            wanted = int(time_s * frames_per_second + 1e-6) + 1
            yield Frame(time_s, imaging.shrink(_upright(frame), FRAME_SIDE))
    if wanted == 0:
        raise NotAVideo("the video holds no picture that can be read")


def write_clip(video_bytes: bytes, draw: Callable[[Frame], imaging.Image]) -> bytes:
    """Return the video as a silent MP4 (H.264) in which draw has drawn on every frame.

    Args:
        video_bytes: the file's content.
        draw: takes a frame as read_frames gives it and returns one of the same size each time.

    Raises:
        NotAVideo: the bytes are no video, or hold no frame.
    """
    frames = read_frames(video_bytes, frames_per_second=CLIP_FRAMES_PER_SECOND, max_seconds=float("inf"))
    return encode_frames(Frame(frame.time_s, draw(frame)) for frame in frames)


def encode_frames(frames: Iterable[Frame]) -> bytes:
    """Return frames, all of one size, as a silent MP4 (H.264); an odd last row or column is cut off."""
    output = io.BytesIO()
    with av.open(output, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=CLIP_FRAMES_PER_SECOND, options={"crf": "24"})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame in frames:
            height, width = frame.image.shape[:2]
            even = np.ascontiguousarray(frame.image[: height // 2 * 2, : width // 2 * 2])
            if not stream.codec_context.is_open:
                stream.height, stream.width = even.shape[:2]
            picture = av.VideoFrame.from_ndarray(even, format="rgb24")
            picture.pts, picture.time_base = round(frame.time_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return output.getvalue()


def _open(video_bytes: bytes) -> av.container.InputContainer:
    try:
        container = av.open(io.BytesIO(video_bytes), "r", options={"format_whitelist": FORMATS})
    except (av.FFmpegError, ValueError) as error:
        raise NotAVideo("expected a video file, got something else") from error
    if not container.streams.video:
        container.close()
        raise NotAVideo("expected a video file, got one without pictures")
    codec = container.streams.video[0].codec_context
    if codec.width * codec.height > MAX_FRAME_PIXELS:
        container.close()
        raise VideoTooLarge(
            f"expected pictures of at most {MAX_FRAME_PIXELS:,} pixels, got {codec.width} x {codec.height}"
        )
    codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # a stream may grow after its header
    return container


def _decode(video_bytes: bytes) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yield every frame with its time from the first; what is cut short or grows ends there."""
    with closing(_open(video_bytes)) as container:
        container.streams.video[0].thread_type = "AUTO"
        start = None
        try:
            for frame in container.decode(video=0):
                time_s = frame.time or 0.0
                start = time_s if start is None else start
                yield frame, max(0.0, time_s - start)
        except av.FFmpegError:
            return


def _upright(frame: av.VideoFrame) -> imaging.Image:
    """Return the frame as RGB, turned as the phone that took it says."""
    image: imaging.Image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
