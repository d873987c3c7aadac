"""A decoding process that does what some pictures make a decoder do. Run by the tests in its place."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from detection import decoding, imaging


def hang() -> None:
    while True:
        time.sleep(1)


def fill_memory() -> None:
    """Ask for far more memory than the limit; what is left then is an error that nobody expects here."""
    raise SystemExit(f"got {len(bytearray(20_000_000_000))} bytes")


FAULTS: dict[bytes, Callable[[], object]] = {
    b"crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    b"abort": os.abort,
    b"hang": hang,
    b"exit": lambda: sys.exit(3),
    b"error": lambda: 1 // 0,
    b"memory": fill_memory,
    b"chatter": lambda: os.write(1, b"a library prints something"),
}


def faulty(image_bytes: bytes, **options: int) -> object:
    fault = next((fault for name, fault in FAULTS.items() if image_bytes.startswith(name)), None)
    if fault is not None:
        fault()
        raise imaging.NotAnImage("it went on")
    return decode_picture(image_bytes, **options)


if __name__ == "__main__":
    decode_picture, imaging.decode_picture = imaging.decode_picture, faulty  # type: ignore[assignment]
    decoding.main()
