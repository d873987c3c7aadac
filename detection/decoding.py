"""Decodes pictures in processes of their own, so that a file can harm none but the one that unpacks it.

A decoder that crashes, hangs or asks for too much memory costs its picture and is replaced; the service
beside it goes on. This file is both ends: imported, it holds the processes; run, it is one of them. Such a
process has imaging.py, numpy and Pillow loaded and nothing else.

DecoderBroken     NotAnImage: the decoder crashed on the picture
DecoderTooSlow    ImageTooLarge: the picture took longer than one may
DecoderMissing    no decoding process can be had; not the picture's fault
"""

from __future__ import annotations

import json
import math
import mmap
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import AvifImagePlugin

from detection import imaging
from detection.imaging import Image, ImageError, ImageTooLarge, NotAnImage

ROOT = Path(__file__).parents[1]  # where the process finds the wings

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

HAS_LIMITS = resource is not None and Path("/proc/self/statm").exists()
# Photos and pixels as files in memory, without a name and never on a disk; elsewhere through a pipe. Named
# shared memory would lie in /dev/shm, which in a container holds 64 MB: half of the largest picture.
PASSES_FILES = hasattr(os, "memfd_create") and hasattr(socket, "send_fds")
START_SECONDS = 60  # for a process to load its libraries; takes 0.2 s where nothing else runs

# What one picture may take beside what the process has at rest. A WebP with alpha, the worst kind, takes 27
# bytes a pixel while it becomes an upright RGB picture, a JPEG 12.
BYTES_PER_PIXEL, SPARE_BYTES = 28, 300_000_000
AVIF_THREADS = 4
# No threads of the matrix library, which decodes nothing. And glibc keeps 16 MB that are free: it would hand
# a photo's memory back after each one, and getting it again takes half as long as a small photo's decoding.
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "16777216",
}
READY = b"ready"
REQUEST, ANSWER = struct.Struct(">Qd"), struct.Struct(">H")
ERRORS = {error.__name__: error for error in (ImageError, NotAnImage, ImageTooLarge)}


class DecoderBroken(NotAnImage):
    """The decoder crashed on the picture."""


class DecoderTooSlow(ImageTooLarge):
    """The picture took longer to unpack than one may."""


class DecoderMissing(RuntimeError):
    """No decoding process can be had."""


# --- the holder's end -------------------------------------------------------------------------------


class Decoder:
    """One decoding process. Starts it when needed, and again after it has ended. Not for two threads.

    Args:
        max_pixels: width x height of one picture at most.
        seconds: time for one picture.
        program: Python file to run, for tests; without one, this module.
    """

    def __init__(self, max_pixels: int, seconds: float, program: Path | None = None) -> None:
        self._max_pixels, self._seconds, self._program = max_pixels, seconds, program
        self._process: subprocess.Popen[bytes] | None = None
        self._files: socket.socket | None = None  # what files with the photo and its pixels pass through
        self._ready = self._closed = False

    @property
    def pid(self) -> int | None:
        """The process's number; None while none runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process unless it runs. Does not wait for it."""
        if self._closed or self.pid is not None:
            return
        self._end()
        what = [str(self._program)] if self._program else ["-m", __name__]
        command = [sys.executable, *what, str(self._max_pixels)]
        environment = {**os.environ, **ENVIRONMENT}  # noqa: TID251 - handed on, not read
        pipes: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "env": environment,
            "cwd": ROOT,
        }
        if not PASSES_FILES:
            self._process = subprocess.Popen(command, **pipes)
            return
        self._files, theirs = socket.socketpair()
        with theirs:
            command.append(str(theirs.fileno()))
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], **pipes)

    def wait_until_ready(self) -> subprocess.Popen[bytes]:
        """Return the process once it has loaded its libraries; start it if none runs.

        Raises:
            DecoderMissing: it did not come up.
        """
        self.start()
        process = self._process
        if process is None or process.stdout is None:
            raise DecoderMissing("the decoding process has been ended")
        if not self._ready:
            with _time_limit(process, START_SECONDS):
                self._ready = process.stdout.read(len(READY)) == READY
        if not self._ready:
            self._end()
            raise DecoderMissing("the decoding process does not start; what it wrote stands in the log")
        return process

    def decode(self, image_bytes: bytes) -> Image:
        """Return imaging.decode_image's answer, from the process.

        Raises:
            DecoderTooSlow: it took too long; the process is killed and another one started.
            DecoderBroken: the process ended; another one is started.
            DecoderMissing: there is no process, and none can be started.
            ImageError: what decode_image raises.
        """
        process = self.wait_until_ready()
        image, refused, broken = None, None, None
        with _time_limit(process, self._seconds) as late:
            try:
                image = self._ask(process, image_bytes)
            except ImageError as error:
                refused = error
            except (OSError, EOFError, ValueError, LookupError) as error:  # it has ended, or talks nonsense
                with suppress(subprocess.TimeoutExpired):  # its pipe may close before it has ended
                    process.wait(1)
                process.kill()
                broken = error
        if broken is not None or late.is_set():
            how = _how(process.wait())
            self._end()
            with suppress(OSError):  # no process to be had now: the next picture tries again
                self.start()
            if late.is_set():
                raise DecoderTooSlow(f"the picture takes over {self._seconds:g} s to unpack") from broken
            raise DecoderBroken(f"the picture breaks its decoder ({how})") from broken
        if image is None:
            raise refused or DecoderBroken("the picture was not unpacked")
        return image

    def _ask(self, process: subprocess.Popen[bytes], image_bytes: bytes) -> Image:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(REQUEST.pack(len(image_bytes), self._seconds))
        if self._files is None:
            stdin.write(image_bytes)
        else:
            with _memory_file() as memory:
                memory.write(image_bytes)
                socket.send_fds(self._files, [b"."], [memory.fileno()])
        stdin.flush()
        answer = json.loads(_read(stdout, ANSWER.unpack(_read(stdout, ANSWER.size))[0]))
        if "error" in answer:
            raise ERRORS[answer["error"]](answer["message"])
        shape = (answer["height"], answer["width"], 3)
        if self._files is None:
            return np.frombuffer(_read(stdout, shape[0] * shape[1] * 3), np.uint8).reshape(shape)
        return self._map(self._files, shape)

    @staticmethod
    def _map(files: socket.socket, shape: tuple[int, int, int]) -> Image:
        """Return the image at the end of the file passed. It is gone with the array: it has no name."""
        with _received(files) as file:
            size = os.fstat(file.fileno()).st_size
            offset = size - shape[0] * shape[1] * shape[2]
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            memory = mmap.mmap(file.fileno(), size, flags=flags, prot=mmap.PROT_READ)
        return np.frombuffer(memory, np.uint8, offset=offset).reshape(shape)

    def close(self) -> None:
        """End the process for good: a decode that still runs raises DecoderBroken."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        """End the process, whatever it does, and close what led to it."""
        process, files, self._process, self._files = self._process, self._files, None, None
        self._ready = False
        if files is not None:
            files.close()
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what could not be written any more
                if pipe is not None:
                    pipe.close()


@contextmanager
def _time_limit(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill a process that is still at it after that time, and set the event."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    watch = threading.Timer(seconds, kill)
    watch.daemon = True
    watch.start()
    try:
        yield late
    finally:
        watch.cancel()
        watch.join()


def _received(files: socket.socket) -> IO[bytes]:
    """Return the next file that was passed."""
    _, descriptors, _, _ = socket.recv_fds(files, 1, 1)
    if not descriptors:
        raise EOFError("expected a file, got none")
    return os.fdopen(descriptors[0], "rb", buffering=0)


def _read(stream: IO[bytes], count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise EOFError(f"expected {count} bytes, got {len(content)}")
    return content


def _how(ended: int) -> str:
    """Return in words how a process ended."""
    if ended >= 0:
        return f"exit status {ended}"
    try:
        return signal.Signals(-ended).name
    except ValueError:
        return f"signal {-ended}"


class Decoders:
    """As many decoding processes as threads that decode; a further thread waits for its turn.

    Args:
        count: processes.
        max_pixels: width x height of one picture at most.
        seconds: time for one picture.
        program: as Decoder's.
    """

    def __init__(self, count: int, max_pixels: int, seconds: float, program: Path | None = None) -> None:
        self.all = tuple(Decoder(max_pixels, seconds, program) for _ in range(count))
        self.ready = False
        self._idle: queue.LifoQueue[Decoder] = queue.LifoQueue()
        for decoder in self.all:
            self._idle.put(decoder)

    def start(self) -> None:
        """Start all processes and wait until they are ready; pictures that come meanwhile wait too.

        Raises:
            DecoderMissing: one did not come up.
        """
        waiting = [self._idle.get() for _ in self.all]
        try:
            for decoder in waiting:
                decoder.start()
            for decoder in waiting:
                decoder.wait_until_ready()
            self.ready = True
        finally:
            for decoder in waiting:
                self._idle.put(decoder)

    def decode(self, image_bytes: bytes) -> Image:
        """Return imaging.decode_image's answer. From any thread; raises what Decoder.decode raises."""
        decoder = self._idle.get()
        try:
            return decoder.decode(image_bytes)
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """End all processes for good."""
        for decoder in self.all:
            decoder.close()


# --- the process's end ------------------------------------------------------------------------------


def serve(max_pixels: int, requests: IO[bytes], answers: IO[bytes], files: socket.socket | None) -> None:
    """Decode what comes until nothing comes any more, as when the holder has ended."""
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        length, seconds = REQUEST.unpack(head)
        if files is None:
            image_bytes = _read(requests, length)
        else:
            with _received(files) as file:
                file.seek(0)
                image_bytes = file.read()
        _limit_time(seconds)
        _answer(image_bytes, max_pixels, answers, files)


def _answer(image_bytes: bytes, max_pixels: int, answers: IO[bytes], files: socket.socket | None) -> None:
    try:
        picture = imaging.decode_picture(image_bytes, max_pixels=max_pixels)
    except ImageError as error:
        _say(answers, {"error": type(error).__name__, "message": str(error)[:1000]})
        return
    _say(answers, {"width": picture.width, "height": picture.height})
    if files is None:
        answers.write(picture.tobytes())
        answers.flush()
        return
    with _memory_file() as memory:
        picture.save(memory, "PPM")  # a line and the pixels as they are; written without a copy in between
        socket.send_fds(files, [b"."], [memory.fileno()])


def _memory_file() -> IO[bytes]:
    return os.fdopen(os.memfd_create("picture"), "w+b", buffering=0)


def _say(answers: IO[bytes], answer: dict[str, Any]) -> None:
    content = json.dumps(answer).encode()
    answers.write(ANSWER.pack(len(content)) + content)
    answers.flush()


def _limit_memory(max_pixels: int) -> None:
    """Bound this process's memory for good, and be the first one that the system ends when short of it."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = AVIF_THREADS  # each takes room; by default as many as cores
    if not HAS_LIMITS:
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + SPARE_BYTES + BYTES_PER_PIXEL * max_pixels
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _limit_time(seconds: float) -> None:
    """Bound the processor time for one picture, for the case that the holder is gone and kills nobody."""
    if HAS_LIMITS:
        most = math.ceil(time.process_time() + AVIF_THREADS * seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


def main() -> None:
    """Be a decoding process: max_pixels and the number of the socket for files come as arguments."""
    for name in ("SIGINT", "SIGTERM"):  # meant for the holder, which closes the pipe when it ends
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    max_pixels, *numbers = (int(argument) for argument in sys.argv[1:])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    _limit_memory(max_pixels)
    answers.write(READY)
    answers.flush()
    serve(max_pixels, sys.stdin.buffer, answers, socket.socket(fileno=numbers[0]) if numbers else None)


if __name__ == "__main__":
    main()
