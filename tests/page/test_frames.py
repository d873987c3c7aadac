"""Videos in: what is read, and what a hostile file cannot make the reader do."""

import io
import socket
import time
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest

from page.frames import Frame, NotAVideo, VideoTooLarge, duration_s, read_frames


def encode(size_wh=(160, 120), codec="libx264", container_format="mp4", pix_fmt="yuv420p", frames=4) -> bytes:
    output = io.BytesIO()
    with av.open(output, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=4)
        stream.width, stream.height = size_wh
        stream.pix_fmt = pix_fmt
        image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return output.getvalue()


def frames_of(content: bytes) -> list[Frame]:
    return list(read_frames(content, frames_per_second=4, max_seconds=60))


@pytest.mark.parametrize(
    ("container_format", "codec"),
    [("mp4", "libx264"), ("mov", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx"), ("avi", "mjpeg")],
)
def test_what_phones_and_cameras_write_is_read(container_format, codec):
    content = encode(
        codec=codec, container_format=container_format, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p"
    )
    frames = frames_of(content)
    assert len(frames) == 4
    assert frames[0].image.shape == (120, 160, 3)


def test_pictures_too_large_are_refused_before_any_is_decoded():
    small_file = encode((4096, 2308), frames=1)
    tracemalloc.start()
    with pytest.raises(VideoTooLarge, match="got 4096 x 2308"):
        frames_of(small_file)
    with pytest.raises(VideoTooLarge):
        duration_s(small_file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4096 * 2308


def test_a_stream_that_grows_after_its_header_ends_there():
    """Motion JPEG carries each picture's own size: the second is larger than the header says."""
    small = encode((64, 48), "mjpeg", "mjpeg", "yuvj420p", frames=1)
    large = encode((4096, 2320), "mjpeg", "mjpeg", "yuvj420p", frames=1)
    grown = avi_of([small, large], (64, 48))
    frames = frames_of(grown)
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)]


def avi_of(jpegs: list[bytes], size_wh: tuple[int, int]) -> bytes:
    output = io.BytesIO()
    with av.open(output, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=4)
        stream.width, stream.height = size_wh
        stream.pix_fmt = "yuvj420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 4)
        for i, jpeg in enumerate(jpegs):
            packet = av.Packet(jpeg)
            packet.stream, packet.pts, packet.dts, packet.time_base = (
                stream,
                i,
                i,
                stream.codec_context.time_base,
            )
            container.mux(packet)
    return output.getvalue()


SDP = (
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    b"m=video 27596 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)


def test_a_description_of_a_stream_opens_no_port():
    """FFmpeg would listen there for half a minute: the time is what tells."""
    began = time.monotonic()
    with pytest.raises(NotAVideo):
        frames_of(SDP)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:PORT/a.ts\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile http://127.0.0.1:PORT/a.mp4\n",
    ],
)
def test_a_list_of_other_files_fetches_none(content):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        with pytest.raises(NotAVideo):
            frames_of(content.replace(b"PORT", str(server.getsockname()[1]).encode()))
        with pytest.raises(BlockingIOError):
            server.accept()
