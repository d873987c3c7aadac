"""Cameras that play, are killed, stall, refuse, or send what nobody can read: a sentence each, and back."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
import pytest
from camera_parts import RtspServer, camera, rtsp, write_clip, write_video  # noqa: F401 - rtsp is a fixture
from conftest import free_port, wait_until

from cameras import streams
from cameras.streams import Stream, StreamError, at_rate, read
from detection import imaging

PATIENT_S = 60.0  # for a server on a busy machine


@contextlib.contextmanager
def streaming(*args, stall_s: float = PATIENT_S, **fields) -> Iterator[Stream]:
    stream = Stream(camera(*args, **fields), stall_s=stall_s)
    stream.start()
    try:
        yield stream
    finally:
        assert stream.stop()


def shade(shot: streams.Shot | None) -> float | None:
    return None if shot is None else float(shot.decode().mean())


def problem_of(address: object, stall_s: float = PATIENT_S, **fields) -> str:
    with pytest.raises(StreamError) as caught:
        list(read(camera(address, **fields), stall_s=stall_s))
    return str(caught.value)


# --- RTSP --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_an_rtsp_camera_is_seen(rtsp: RtspServer, transport):  # noqa: F811
    with rtsp.up(), streaming(rtsp.url, transport=transport) as stream:
        shot = wait_until(lambda: stream.newest(1))
        assert shot.decode().shape == (120, 160, 3)
        assert stream.state.problem is None


def test_a_camera_that_is_killed_comes_back_by_itself(rtsp: RtspServer, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setattr(streams, "LONGEST_WAIT_S", 1.0)
    with streaming(rtsp.url) as stream:
        with rtsp.up() as process:
            wait_until(lambda: stream.newest(1))
            process.kill()
            wait_until(lambda: stream.state.problem)
        before = stream.state.pictures
        with rtsp.up():
            wait_until(lambda: stream.newest(1) and stream.state.problem is None)
        assert stream.state.pictures > before
        assert stream.state.reconnects >= 1


def test_a_camera_that_freezes_is_noticed_and_seen_again_once_it_thaws(rtsp: RtspServer, monkeypatch):  # noqa: F811
    monkeypatch.setattr(streams, "LONGEST_WAIT_S", 1.0)
    with rtsp.up() as process, streaming(rtsp.url, stall_s=2) as stream:
        wait_until(lambda: stream.newest(1))
        process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: stream.state.problem)
        finally:
            process.send_signal(signal.SIGCONT)
        wait_until(lambda: stream.newest(1) and stream.state.problem is None)


@pytest.mark.parametrize("method", ["basic", "digest"])
def test_the_right_password_opens_and_a_wrong_one_is_said_without_being_shown(
    rtsp: RtspServer,  # noqa: F811
    method,
    caplog,
):
    rtsp.login, rtsp.method = "keeper:right", method
    with rtsp.up():
        with streaming(f"rtsp://keeper:right@{rtsp.place}") as stream:
            wait_until(lambda: stream.newest(1))
        said = problem_of(f"rtsp://keeper:hunter2@{rtsp.place}")
        with streaming(f"rtsp://keeper:hunter2@{rtsp.place}") as stream:
            wait_until(lambda: stream.state.problem)
    assert "refuses the user and password" in said
    assert "hunter2" not in said + str(stream.state) + caplog.text


def test_an_unknown_path_is_said(rtsp: RtspServer):  # noqa: F811
    with rtsp.up():
        assert "no such stream" in problem_of(rtsp.url + "/nowhere")


def test_nobody_at_the_address_is_said():
    assert "nothing listens there" in problem_of(f"rtsp://u:hunter2@127.0.0.1:{free_port()}/x")


def test_not_even_a_traceback_shows_a_password():
    till = camera(f"rtsp://u:hunter2@127.0.0.1:{free_port()}/x")  # not in a line that the traceback shows
    try:
        list(read(till, stall_s=PATIENT_S))
    except StreamError:
        said = traceback.format_exc()
    assert "nothing listens there" in said
    assert "hunter2" not in said


def test_a_server_that_never_answers_ends_in_the_time_allowed_and_stops_when_told():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"rtsp://u:hunter2@127.0.0.1:{silent.getsockname()[1]}/x"
        said = problem_of(address, stall_s=1)
        assert said.startswith("no answer within 1 seconds")
        with streaming(address, stall_s=1) as stream:
            wait_until(lambda: stream.state.problem)


# --- HTTP --------------------------------------------------------------------------------------------


class _Jpegs(BaseHTTPRequestHandler):
    """Sends Motion JPEG, a picture each 50 ms, until told otherwise; 401 without the right password."""

    sending = threading.Event()
    stopping = threading.Event()
    login = place = ""
    body = b""

    def do_GET(self) -> None:
        if self.login and self.headers["Authorization"] != self.login:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.stopping.is_set():
                if self.sending.is_set():
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(self.body)}\r\n\r\n"
                    self.wfile.write(head.encode() + self.body + b"\r\n")
                self.stopping.wait(0.05)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def mjpeg() -> Iterator[type[_Jpegs]]:
    class Handler(_Jpegs):
        sending, stopping = threading.Event(), threading.Event()
        body = imaging.encode_image(np.full((48, 64, 3), 200, np.uint8))

    Handler.sending.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.place = f"127.0.0.1:{server.server_port}/video.mjpg"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Handler
    Handler.stopping.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_motion_jpeg_over_http_is_seen(mjpeg):
    with streaming(f"http://{mjpeg.place}") as stream:
        shot = wait_until(lambda: stream.newest(1))
        assert shot.decode().shape == (48, 64, 3)
        assert shade(shot) == pytest.approx(200, abs=3)


def test_a_stream_that_stalls_is_said_and_goes_on_when_it_does(mjpeg, monkeypatch):
    monkeypatch.setattr(streams, "LONGEST_WAIT_S", 0.1)
    with streaming(f"http://{mjpeg.place}", stall_s=1) as stream:
        wait_until(lambda: stream.newest(1))
        mjpeg.sending.clear()
        said = wait_until(lambda: stream.state.problem)
        assert "no picture for 1 seconds" in said or "no answer" in said
        mjpeg.sending.set()
        wait_until(lambda: stream.newest(1) and stream.state.problem is None)


def test_a_wrong_password_for_http_is_said_without_being_shown(mjpeg):
    mjpeg.login = "Basic of-somebody-else"
    said = problem_of(f"http://keeper:hunter2@{mjpeg.place}")
    assert "refuses the user and password" in said
    assert "hunter2" not in said


# --- files and folders -------------------------------------------------------------------------------


def test_a_clip_plays_over_and_over_at_its_own_pace(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", [40, 80, 120, 160], rate=10)
    began = time.monotonic()
    with streaming(clip) as stream:
        wait_until(lambda: stream.state.pictures >= 12)
    assert time.monotonic() - began >= 0.9  # the twelfth comes 1.1 s after the first


def test_whoever_looks_slowly_sees_the_newest_picture_and_each_at_most_once(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", range(20, 220, 10), rate=10)
    with streaming(clip) as stream:
        wait_until(lambda: stream.state.pictures >= 11)
        seen = stream.state.pictures
        newest = shade(stream.newest(0))
        again = stream.newest(0)
    assert newest is not None
    assert newest >= 20 + 10 * (min(seen, 20) - 1) - 5  # none of the ten before it
    assert again is None or shade(again) != newest


def test_a_folder_of_pictures_is_a_camera(tmp_path):
    for i, level in enumerate((50, 150)):
        picture = imaging.encode_image(np.full((48, 64, 3), level, np.uint8))
        (tmp_path / f"{i}.jpg").write_bytes(picture)
    (tmp_path / "notes.txt").write_text("no picture")
    pictures = list(read(camera(tmp_path, rate=4), stall_s=1))
    assert [picture.time_s for picture in pictures] == [0, 0.25]
    assert [picture.decode().mean() for picture in pictures] == pytest.approx([50, 150], abs=2)


def test_a_broken_picture_in_a_folder_is_said_by_its_name(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8no jpeg")
    (picture,) = read(camera(tmp_path), stall_s=1)
    with pytest.raises(StreamError, match=r"broken\.jpg cannot be read"):
        picture.decode()


def test_frames_are_taken_evenly(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", range(20, 220, 10), rate=10)
    times = [picture.time_s for picture in at_rate(read(camera(clip), stall_s=1), 2)]
    assert times == pytest.approx([0, 0.5, 1, 1.5])


def test_pictures_of_no_size_and_too_large_ones_are_said():
    with pytest.raises(StreamError, match="pictures of 0 x 0 pixels"):
        streams._check_size(0, 0)
    with pytest.raises(StreamError, match="at most 40,000,000 pixels, got 10000 x 4001"):
        streams._check_size(10_000, 4001)


def test_a_codec_that_nobody_here_can_decode_is_said(tmp_path):
    """A Matroska file whose codec is called by a name that no decoder has."""
    clip = write_clip(tmp_path / "clip.mkv", [100] * 5)
    content = clip.read_bytes()
    assert b"V_MPEG4/ISO/AVC" in content
    clip.write_bytes(content.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/AVC"))
    assert "choose H.264 in the camera's settings" in problem_of(clip)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file"),
        (b"", "no video that can be read"),
        (b"plain text", "no video that can be read"),
    ],
)
def test_what_is_no_video_is_said(tmp_path, content, sentence):
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    assert sentence in problem_of(path)


def test_sound_without_pictures_is_said(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    assert problem_of(path) == "it sends no video"


def test_an_empty_folder_is_said(tmp_path):
    assert "expected pictures in the folder" in problem_of(tmp_path)


@pytest.fixture
def devices(tmp_path, monkeypatch):
    """A folder in the place of /dev, with a clip for video0."""
    folder = tmp_path / "dev"
    folder.mkdir()
    write_clip(tmp_path / "video.mp4", range(20, 220, 10)).rename(folder / "video0")
    monkeypatch.setattr(streams, "DEVICES", folder)
    return folder


@pytest.mark.parametrize("address", ["usb:7", "/dev/video7000"])
def test_a_usb_camera_that_is_not_there_is_said_with_those_that_are(address, devices):
    path = devices / "video7" if address == "usb:7" else address
    said = problem_of(address)
    assert said.startswith(f"there is no {path}: plug the camera in")
    assert said.endswith(f"there is {devices / 'video0'}")
    (devices / "video0").unlink()
    assert problem_of(address).endswith("no USB camera is here")


def test_a_usb_camera_says_how_it_can_be_read_where_pyav_reads_none(devices, monkeypatch):
    monkeypatch.setattr(av, "formats_available", {"mp4"})
    command = f"ffmpeg -f v4l2 -i {devices / 'video0'} -c:v mjpeg -f mpjpeg -listen 1"
    assert command in problem_of("usb:0")


def test_a_usb_camera_is_opened_by_its_driver_and_read_as_it_comes(devices, monkeypatch):
    """No driver is at hand: PyAV opens the clip in the device's place as what it is."""
    opened, plain = [], av.open

    def open_device(address, mode, *, format, options, timeout):
        opened.append((address, format))
        return plain(address, mode, timeout=timeout)

    monkeypatch.setattr(av, "formats_available", {"v4l2"})
    monkeypatch.setattr(av, "open", open_device)
    assert camera("usb:0").is_live
    pictures = list(read(camera("usb:0"), stall_s=PATIENT_S))
    assert opened == [(str(devices / "video0"), "v4l2")]
    assert len(pictures) == 20
    assert pictures[3].decode().mean() == pytest.approx(50, abs=3)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs Debian's ffmpeg")
def test_what_ffmpeg_passes_on_is_seen(tmp_path):
    """The command that a USB camera is answered with, with a test picture in the camera's place."""
    port = free_port()
    source = ["-re", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=10"]
    sink = ["-c:v", "mjpeg", "-f", "mpjpeg", "-listen", "1", f"http://127.0.0.1:{port}/"]
    with (tmp_path / "log.txt").open("wb") as log:
        ffmpeg = subprocess.Popen(["ffmpeg", *source, *sink], stdin=subprocess.DEVNULL, stderr=log)
    try:
        with streaming(f"http://127.0.0.1:{port}/") as stream:
            shot = wait_until(lambda: stream.newest(1), process=ffmpeg)
            assert shot.decode().shape == (48, 64, 3)
    finally:
        ffmpeg.kill()
        ffmpeg.wait()


def test_a_playlist_opens_no_file_of_this_machine(tmp_path):
    """FFmpeg would follow an HLS playlist to any file and address it names."""
    write_clip(tmp_path / "secret.ts", [100] * 10)
    playlist = tmp_path / "clip.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/secret.ts\n")
    assert problem_of(playlist)


def test_damaged_parts_are_passed_over(tmp_path):
    rng = np.random.default_rng(0)
    noise = (rng.integers(0, 255, (120, 160, 3), np.uint8) for _ in range(40))
    clip = write_video(tmp_path / "clip.mp4", noise, rate=10, size_wh=(160, 120))
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = bytes(20_000)
    clip.write_bytes(bytes(content))
    assert 20 < len(list(read(camera(clip), stall_s=1))) <= 40


def test_a_stream_of_damaged_parts_only_is_given_up(mjpeg, monkeypatch):
    monkeypatch.setattr(streams, "DAMAGED_IN_A_ROW", 20)
    mjpeg.body = b"<html>404</html>"
    assert "no video" in problem_of(f"http://{mjpeg.place}")


def test_a_reader_that_dies_is_started_again(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", [100] * 5)
    stream = Stream(camera(clip))

    def lives() -> bool:
        return any(thread.name == "stream till" for thread in threading.enumerate())

    monkeypatch.setattr(Stream, "_run", lambda self: None)
    stream.start()
    wait_until(lambda: not lives())
    monkeypatch.undo()
    stream.keep_alive()
    assert wait_until(lambda: stream.newest(1))
    assert stream.stop()
    stream.keep_alive()
    assert not lives()
