"""Files and requests made to do harm: a refusal or an answer, never a 500 or a crash, nothing left behind."""

import base64
import os
import random
import signal
import socket
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil
import pytest
from conftest import LONGEST_S, answers, free_port, running, wait_until
from picture_files import (
    PROPHOTO,
    announce,
    chunk,
    encode,
    icc_profile,
    photo,
    png,
    say_size,
    striped_tiff,
    tiff,
    tiff_of,
    tiled_tiff,
)
from PIL import Image as PillowImage
from PIL import PngImagePlugin
from small_network import small_detector

from detection import imaging
from schemas import Problem
from serving.problems import PROBLEMS, TYPE_PREFIX

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000
MAX_PIXELS = 4_000_000  # of the server below: small, so that pictures at the limit are quick


# --- a corpus ---------------------------------------------------------------------------------------


def _larger_canvas(webp: bytes) -> bytes:
    at = webp.index(b"VP8X") + 12
    return webp[:at] + (1_999).to_bytes(3, "little") * 2 + webp[at + 6 :]


def _scans(progressive: bytes) -> bytes:
    """Repeat a JPEG's last scan until it has as many as are allowed."""
    last, count = progressive.rindex(b"\xff\xda"), progressive.count(b"\xff\xda")
    return progressive[:-2] + progressive[last:-2] * (100 - count) + progressive[-2:]


def _inner_jpeg(tiff_of_jpeg: bytes) -> bytes:
    at = tiff_of_jpeg.index(b"\xff\xc0") + 5
    return tiff_of_jpeg[:at] + b"\xff\xff\xff\xff" + tiff_of_jpeg[at + 4 :]


def _packed_bmp(width: int, height: int, data: bytes) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + head + bytes(1024) + data


RAMP = np.arange(60 * 80 * 3, dtype=np.uint32).reshape(60, 80, 3).astype(np.uint8)
GOOD = {name: encode(RAMP, name) for name in imaging.FORMATS} | {
    "MPO": encode(RAMP, "MPO", save_all=True, append_images=[PillowImage.fromarray(RAMP)]),
    "lossless WEBP": encode(RAMP, "WEBP", lossless=True),
    "packed TIFF": encode(RAMP, "TIFF", compression="tiff_deflate"),
    "progressive JPEG": encode(RAMP, "JPEG", progressive=True),
}


def motion_photo() -> bytes:
    """Return a photo as phones write it: a short film in MP4's boxes behind the whole JPEG."""
    film = np.random.default_rng(0).bytes(300_000) + b"\xff\xda\0\x08" * 200
    boxes = struct.pack(">I", 24) + b"ftypmp42\0\0\0\0isommp42" + struct.pack(">I", 8 + len(film)) + b"mdat"
    return encode(photo(), "JPEG") + boxes + film


def corpus() -> dict[str, bytes]:
    ramp, good = RAMP, GOOD
    progressive = good["progressive JPEG"]
    scan = progressive.index(b"\xff\xda")
    jpeg = good["JPEG"]
    frame = jpeg.index(b"\xff\xc0")
    exif_cycle = b"Exif\0\0" + tiff((0x8769, 4, 1, 8), (0x0112, 3, 1, 6), next_ifd=8)
    bomb = zlib.compress(bytes(100 * MEGABYTE), 9)
    bmp = good["BMP"]
    text = PngImagePlugin.PngInfo()
    text.add_text("x", "A" * 500_000, zip=True)
    files = {
        "empty": b"",
        "one byte": b"\xff",
        "zeros": bytes(5000),
        "random": np.random.default_rng(0).bytes(50_000),
        "a PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj",
        "a PostScript that would start Ghostscript": b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) (w) file",
        "an SVG with an entity bomb": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aa">]><svg>&a;</svg>',
        "an HTML page": b"<!doctype html><script>alert(1)</script>",
        "a ZIP": b"PK\3\4" + bytes(100),
        "a fake HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500),
        "a fake AVIF": b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(500),
        "PNG of 4 gigapixels": png(65_535, 65_535),
        "PNG of 2^62 pixels": png(2**31 - 1, 2**31 - 1),
        "PNG of no pixels": png(0, 0),
        "PNG just over the limit": png(2001, 2000),
        "PNG bomb at the limit": png(2000, 2000, data=bytes(2000 * 6001)),
        "PNG with far more data than pixels": png(10, 10, data=bytes(50 * MEGABYTE)),
        "PNG with far less data than pixels": png(1500, 1500, data=bytes(10)),
        "PNG with a text bomb": png(10, 10, chunk(b"zTXt", b"k\0\0" + bomb)),
        "PNG with a long text": encode(ramp, "PNG", pnginfo=text),
        "PNG with a profile bomb": png(10, 10, chunk(b"iCCP", b"k\0\0" + bomb)),
        "PNG chunk longer than the file": png(10, 10)[:33] + b"\x7f\xff\xff\xffIDAT" + bytes(50),
        "PNG with 20,000 empty chunks": png(10, 10, *[chunk(b"tEXt", b"a\0b")] * 20_000, data=bytes(400)),
        "PNG palette without a palette": png(10, 10, data=bytes(200), colour=3),
        "PNG and HTML at once": png(10, 10, chunk(b"tEXt", b"a\0<script>alert(1)</script>"), data=bytes(310)),
        "JPEG of 4 gigapixels": jpeg[: frame + 5] + b"\xff\xff\xff\xff" + jpeg[frame + 9 :],
        "JPEG of no height": jpeg[: frame + 5] + b"\0\0\0\x50" + jpeg[frame + 9 :],
        "JPEG of 3,000 scans": progressive[:scan] + progressive[scan:-2] * 3000 + progressive[-2:],
        "JPEG with an EXIF that points at itself": encode(ramp, "JPEG", exif=exif_cycle),
        "JPEG with 64 kB of broken EXIF": encode(ramp, "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 60_000),
        "JPEG and PDF at once": jpeg + b"%PDF-1.7",
        "JPEG and ZIP at once": jpeg + b"PK\3\4" + bytes(1000),
        "JPEG with nothing but markers": b"\xff\xd8" + b"\xff\xe0\0\x02" * 10_000 + b"\xff\xd9",
        "GIF and script at once": b"GIF89a/*" + good["GIF"][8:] + b"*/=1;alert(1)",
        "GIF of 4 gigapixels": b"GIF89a\xff\xff\xff\xff\x00\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\1\0;",
        "GIF frame outside its canvas": good["GIF"][:6] + b"\x05\0\x05\0" + good["GIF"][10:],
        "GIF of 500 frames": encode(
            PillowImage.new("P", (20, 20)), "GIF", save_all=True,
            append_images=[PillowImage.new("P", (20, 20), i % 250) for i in range(500)],
        ),
        "BMP of a huge height": bmp[:22] + struct.pack("<i", 2**31 - 1) + bmp[26:],
        "BMP of a negative width": bmp[:18] + struct.pack("<i", -80) + bmp[22:],
        "BMP whose pixels lie beyond the file": bmp[:10] + struct.pack("<I", 2**31) + bmp[14:],
        "TIFF that points at itself": tiff((256, 4, 1, 9), (257, 4, 1, 9), next_ifd=8),
        "TIFF with a billion strips": tiff(
            (256, 4, 1, 9), (257, 4, 1, 9), (273, 4, 10**9, 8), (279, 4, 10**9, 8)
        ),
        "TIFF of 2^64 pixels": tiff((256, 4, 1, 2**32 - 1), (257, 4, 1, 2**32 - 1), (262, 3, 1, 1)),
        "TIFF of no width": tiff((256, 4, 1, 0), (257, 4, 1, 9), (262, 3, 1, 1)),
        "TIFF of not-a-number": encode(np.full((9, 9), np.nan, np.float32), "TIFF"),
        "TIFF of infinity": encode(np.full((9, 9), np.inf, np.float32), "TIFF"),
        "TIFF of 16 x 16 pixels in a tile of 700 million": tiled_tiff((16, 16), (26_752, 26_736)),
        "TIFF of 3 megapixels in 8 tiles of 700 million": tiled_tiff((214_016, 16), (26_752, 26_736)),
        "TIFF of many tiles that are 1,000 times the picture": tiled_tiff((64_000, 16), (64, 16_000)),
        "TIFF of a tile without height": tiled_tiff((16, 16), (16, 16)).replace(
            struct.pack("<HHII", 323, 4, 1, 16), struct.pack("<HHII", 323, 4, 1, 0)
        ),
        "TIFF that says two tile sizes": tiled_tiff(
            (16, 16), (9_000, 9_000), (322, 4, 1, 16), (323, 4, 1, 16)
        ),
        "TIFF of one strip longer than the picture": encode(ramp, "TIFF", compression="tiff_deflate").replace(
            struct.pack("<HHI", 278, 4, 1), struct.pack("<HHI", 278, 4, 1)[:-1] + b"\x7f"
        ),
        "TIFF of 16 x 16 pixels in a strip of 100 million": striped_tiff((16, 16), 16, bomb),
        "TIFF of 1,000 strips of 100 million": striped_tiff((4_000, 1_000), 1, bomb),
        "TIFF of 9 megapixels in one strip": striped_tiff((3_000, 3_000), 3_000, bomb),
        "TIFF of a strip of 4 billion rows": striped_tiff((16, 16), 2**32 - 1, bomb),
        "TIFF whose JPEG says 4 gigapixels": _inner_jpeg(encode(ramp, "TIFF", compression="jpeg")),
        "TIFF whose thumbnail leads to nothing": encode(ramp, "TIFF", tiffinfo={254: 1, 330: (1, 2, 3)}),
        "AVIF of 16 megapixels that says 64 x 64": announce(
            encode(PillowImage.new("RGB", (5_000, 4_000)), "AVIF", speed=10), 64, 64
        ),
        "AVIF of 64 x 64 that says 4 gigapixels": announce(good["AVIF"], 65_535, 65_535),
        "WebP canvas larger than its picture": _larger_canvas(encode(ramp, "WEBP", icc_profile=bytes(200))),
        "JPEG that says more lines than it has": jpeg[: frame + 5] + b"\x04\x00\x04\x00" + jpeg[frame + 9 :],
        "JPEG of 100 scans at the limit": _scans(
            encode(PillowImage.new("L", (2_000, 2_000)), "JPEG", progressive=True)
        ),
        "JPEG with 15 MB of film behind it": jpeg + np.random.default_rng(0).bytes(15 * MEGABYTE),
        "motion photo": motion_photo(),
        "MPO of 4 billion pictures": good["MPO"].replace(
            struct.pack("<HHII", 0xB001, 4, 1, 2), struct.pack("<HHII", 0xB001, 4, 1, 2**32 - 1)
        ),
        "MPO without its second picture": good["MPO"][: good["MPO"].rindex(b"\xff\xd8\xff")],
        "JPEG with 3,000 scans behind its end": jpeg + progressive[scan:-2] * 3000,
        "JPEG without its end marker": jpeg[:-2],
        "JPEG of a quarter, with an end marker": jpeg[: len(jpeg) // 2] + b"\xff\xd9",
        "progressive JPEG in part, with an end marker": progressive[: len(progressive) * 3 // 4] + jpeg[-2:],
        "PNG of a quarter of its rows": png(60, 60, data=(b"\0" + bytes([9]) * 180) * 15),
        "BMP of packed jumps": _packed_bmp(60_000, 60, b"\0\2\xff\xff" * 5_000),
        "photo with a damaged profile": encode(
            ramp, "JPEG", icc_profile=icc_profile(((0, 0, 0),) * 3, 2.2)[:200] + bytes(range(256)) * 200
        ),
        "photo in ProPhoto": encode(photo(), "JPEG", icc_profile=icc_profile(PROPHOTO, 1.8)),
        "picture whose alpha is zero throughout": encode(
            np.dstack([ramp, np.zeros(ramp.shape[:2], np.uint8)]), "PNG"
        ),
        "12 bits in a grey PNG of 16": encode(np.asarray(photo().convert("L")).astype(np.uint16) * 16),
        "TIFF of 16 bits in planes": tiff_of(
            ramp.transpose(2, 0, 1) * np.uint16(257), photometric=2, planar=2
        ),
        "TIFF of 64-bit floats": tiff_of(ramp[..., 0] / 255, photometric=1),
        "JPEG XL": b"\xff\x0a" + bytes(range(200)),
        "DNG": encode(photo(60), "TIFF", tiffinfo={254: 1, 50706: (1, 4, 0, 0)}),
        "one pixel": png(1, 1, data=bytes(4)),
        "one very long line": encode(np.zeros((1, 65_000, 3), np.uint8), "JPEG"),
        "one very tall line": encode(np.zeros((65_000, 1, 3), np.uint8), "JPEG"),
        "a line at the pixel limit": png(1, 4_000_000, data=bytes(16_000_000)),
    }  # fmt: skip
    for name, content in good.items():
        for part in (0.02, 0.3, 0.5, 0.6, 0.95):
            files[f"{name} cut at {part:.0%}"] = content[: int(len(content) * part)]
        middle = len(content) // 2
        files[f"{name} with a hole"] = content[:middle] + bytes(200) + content[middle + 200 :]
        files[f"{name} that says 200 megapixels"] = say_size(content, 16_000, 12_500)
        files[f"{name} that says 800 x 600"] = say_size(content, 800, 600)
    return files


CORPUS = corpus()


# --- a server of its own ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`python mlapi.py` with a real small network."""
    folder = tmp_path_factory.mktemp("model")
    small_detector(network={"rpn_post_nms_top_n": 20}).save_folder(folder)
    log, url = folder / "log", f"http://127.0.0.1:{free_port()}"
    variables = {
        "MODEL_DIR": str(folder),
        "API_PORT": url.rpartition(":")[2],
        "API_MAX_PIXELS": str(MAX_PIXELS),
        "API_DEADLINE_SECONDS": str(LONGEST_S),  # a busy machine refuses nothing
        "API_CALLER_REQUESTS": "64",  # nor does it count who has hung up, and is not missed yet
        "API_QUEUE_SIZE": "64",
    }
    server = running(
        [sys.executable, "mlapi.py"], log, ready=lambda: answers(f"{url}/ready"), cwd=ROOT, **variables
    )
    with server as process, httpx.Client(base_url=url, timeout=LONGEST_S) as client:
        yield client, process, log
    assert process.returncode in (0, -signal.SIGTERM), "it stops as asked"


def send(client: httpx.Client, content: bytes, name: str = "a.jpg", **options) -> httpx.Response:
    return client.post("/predict", files={"file": (name, content)}, **options)


# --- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_file_is_answered_or_refused(server, name):
    client, process, _ = server
    response = send(client, CORPUS[name])
    assert response.status_code in (200, 400, 413, 415), response.text
    assert client.get("/health").status_code == 200
    assert process.poll() is None


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("empty", 415),
        ("a PostScript that would start Ghostscript", 415),
        ("PNG of 4 gigapixels", 413),
        ("JPEG of 4 gigapixels", 413),
        ("PNG just over the limit", 413),
        ("PNG bomb at the limit", 200),
        ("JPEG of 3,000 scans", 415),
        ("JPEG with an EXIF that points at itself", 200),
        ("JPEG with 64 kB of broken EXIF", 200),
        ("JPEG and PDF at once", 200),
        ("one pixel", 200),
        ("one very long line", 200),
        ("TIFF of 16 x 16 pixels in a strip of 100 million", 200),
        ("TIFF of 1,000 strips of 100 million", 200),
        ("TIFF of 9 megapixels in one strip", 413),
        ("TIFF of a strip of 4 billion rows", 200),
        ("TIFF of 16 x 16 pixels in a tile of 700 million", 413),
        ("TIFF of 3 megapixels in 8 tiles of 700 million", 413),
        ("TIFF of many tiles that are 1,000 times the picture", 413),
        ("TIFF that says two tile sizes", 415),
        ("AVIF of 16 megapixels that says 64 x 64", 413),
        ("JPEG with 15 MB of film behind it", 200),
        ("JPEG with 3,000 scans behind its end", 200),
        ("JPEG without its end marker", 200),
        ("JPEG of a quarter, with an end marker", 415),
        ("progressive JPEG in part, with an end marker", 415),
        ("PNG of a quarter of its rows", 415),
        ("photo with a damaged profile", 200),
        ("DNG", 415),
        ("motion photo", 200),
        ("MPO of 4 billion pictures", 200),
        ("MPO without its second picture", 200),
        ("photo in ProPhoto", 200),
        ("picture whose alpha is zero throughout", 200),
        ("12 bits in a grey PNG of 16", 200),
        ("TIFF of 16 bits in planes", 415),
        ("TIFF of 64-bit floats", 415),
        ("JPEG XL", 415),
        *((f"{name} cut at 50%", 415) for name in GOOD),
        *((f"{name} cut at 60%", 415) for name in GOOD if name != "MPO"),  # whose first picture is whole
    ],
)
def test_where_the_answer_is_certain_it_is_that(server, name, status):
    assert send(server[0], CORPUS[name]).status_code == status


@pytest.mark.parametrize(
    "name", ["one pixel", "one very long line", "PNG bomb at the limit", "PNG of 4 gigapixels"]
)
def test_tiles_make_no_picture_more_dangerous(server, name):
    tiled = send(server[0], CORPUS[name], params={"tiles": "3x3", "nms_iou": 1, "score_threshold": 0})
    assert tiled.status_code == send(server[0], CORPUS[name]).status_code


@pytest.mark.parametrize("name", GOOD)
def test_a_header_that_says_more_than_the_file_holds_is_refused(server, name):
    """But for an AVIF of another size than its data have: that is enlarged, as every reader of AVIF does."""
    client, _, _ = server
    assert send(client, CORPUS[f"{name} that says 200 megapixels"]).status_code in (413, 415)
    answer = send(client, CORPUS[f"{name} that says 800 x 600"])
    assert answer.status_code == (200 if name == "AVIF" else 415), answer.text
    assert send(client, GOOD[name]).json()["results"][0]["image_size"] == {"width": 80, "height": 60}


def test_an_extension_and_a_content_type_are_not_believed(server):
    client, _, _ = server
    content = encode(np.zeros((9, 9, 3), np.uint8), "PNG")
    for name, kind in (("a.jpg", "image/jpeg"), ("a.exe", "application/x-msdownload"), ("a", "")):
        assert client.post("/predict", files={"file": (name, content, kind)}).status_code == 200


def test_an_error_does_not_repeat_the_file(server):
    secret = b"BEGIN PRIVATE KEY 12345"
    response = send(server[0], secret * 20)
    assert response.status_code == 415
    assert b"12345" not in response.content


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd",
        "a\r\nX-Evil: 1.jpg",
        'a".jpg',
        "фото нож.jpg",
        "x" * 3000,
        "a\0b.jpg",
        "%00",
        "",
        "\U0001f52b.png",
    ],
)
def test_a_hostile_file_name_comes_back_as_data_only(server, name):
    client, _, log = server
    response = send(client, encode(np.zeros((9, 9, 3), np.uint8), "PNG"), name)
    assert response.status_code in (200, 400, 422)
    assert "x-evil" not in response.headers
    assert response.json()
    if len(name) > 4:
        assert name.encode() not in log.read_bytes()


# --- requests ---------------------------------------------------------------------------------------

HEAD = "POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
PART = b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n\r\nx'


@pytest.mark.parametrize(
    "body",
    [
        b"--x\r\n" + b"A" * 100_000 + b": b\r\n\r\nx\r\n--x--\r\n",
        b"--x\r\n" + b"A: b\r\n" * 50_000 + b"\r\nx\r\n--x--\r\n",
        b"preamble " * 100_000 + b"\r\n--x\r\n" + PART + b"\r\n--x--\r\n",
        (b"--x\r\n" + PART + b"\r\n") * 5000 + b"--x--\r\n",
        b"--x\r\n\r\nno disposition\r\n--x--\r\n",
        b"--x\r\n" + PART.replace(b'filename="a.png"', b"filename*=utf-8''%ff%fe") + b"\r\n--x--\r\n",
        b"--x\r\n" + PART + b"\r\n--x",
        b"--x--\r\n" + b"epilogue" * 10_000,
        b"\r\n" * 50_000,
        b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n" + PART + b"\r\n--y--\r\n--x--\r\n",
    ],
    ids=[
        "long header",
        "many headers",
        "preamble",
        "many files",
        "no disposition",
        "bad name",
        "no end",
        "epilogue",
        "newlines",
        "nested",
    ],
)
def test_a_hostile_multipart_is_refused_as_a_problem(server, body):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = server[0].post("/predict", content=body, headers=headers)
    assert response.status_code in (400, 415, 422), response.text
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data; boundary=" + "x" * 5000,
        "multipart/form-data; boundary=",
        "multipart/form-data; charset=nonsense; boundary=x",
        "multipart/form-data; boundary=\xff",
    ],
)
def test_a_hostile_content_type_is_refused_as_a_problem(server, kind):
    response = server[0].post("/predict", content=b"--x", headers={"content-type": kind.encode("latin-1")})
    assert response.status_code in (400, 415, 422), response.text


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD.encode() + b"Content-Length: -1\r\n\r\n",
        HEAD.encode() + b"Content-Length: 99999999999999999999\r\n\r\n",
        HEAD.encode() + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        HEAD.encode() + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        HEAD.encode() + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /predict?" + b"labels=pistol&" * 3000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /static-offline-docs/..%2f..%2fmlapi.py HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)  # fmt: skip
def test_a_hostile_request_is_refused_and_the_next_one_served(server, request_bytes):
    client, process, _ = server
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, timeout=LONGEST_S) as connection:
        try:
            connection.sendall(request_bytes)
            with suppress(OSError):  # ENOTCONN, no ConnectionError, where the server has reset it already
                connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65_536)
        except ConnectionError:
            answer = b""  # cut off: a refusal too
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert client.get("/health").status_code == 200
    assert process.poll() is None


# --- after it all -----------------------------------------------------------------------------------


def test_memory_is_back_and_no_error_was_logged(server):
    client, process, log = server
    sizes = []
    for _ in range(4):
        for content in CORPUS.values():
            send(client, content)
        sizes.append(psutil.Process(process.pid).memory_info().rss / MEGABYTE)
    assert sizes[-1] - sizes[0] < 60, f"megabytes after each round: {sizes}"
    assert b"Traceback" not in log.read_bytes()
    assert b"internal-error" not in log.read_bytes()


# --- two thousand requests, eight at a time -----------------------------------------------------------

REQUESTS, WARM_UP, CLIENTS, ROUNDS = 1_000, 400, 8, 4
LEFT_BEHIND_MB = 6  # at most: 6 kB a request, less than the pixels of any of its photos
POOL = 4 + (os.cpu_count() or 1)  # threads that the event loop keeps for side work, begun as needed
SOAKED = [  # all but what takes a second each: those are looked at above
    name for name, content in CORPUS.items() if len(content) < MEGABYTE and "limit" not in name
]
HOSTS = ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "-", "a" * 300, "[::2]:80", "x:99999")
REFUSED_MEDIA = ("text/plain", "image/jpeg", "application/x-www-form-urlencoded", "multipart/mixed", "")


class Stranger:
    """One of the clients: whatever it asks for, it knows what may come back.

    Args:
        client: of its own.
        chance: what decides everything.
    """

    def __init__(self, client: httpx.Client, chance: random.Random) -> None:
        self.client, self.chance = client, chance
        self.kinds: list[Callable[[], None]] = [
            *[self.photo] * 6, *[self.photo_as_json] * 3, *[self.hostile_file] * 5,
            self.good_and_bad_together, self.wrong_media_type, self.odd_method, self.odd_host, self.hang_up,
            self.look_around,
        ]  # fmt: skip

    def ask(self) -> str:
        """Send one request, check what came back, and return what kind it was."""
        kind = self.chance.choice(self.kinds)
        kind()
        return kind.__name__

    def photo(self) -> None:
        found = self._right(send(self.client, GOOD[self.chance.choice(list(GOOD))]))
        assert found["results"][0]["image_size"] == {"width": 80, "height": 60}

    def photo_as_json(self) -> None:
        encoded = base64.b64encode(GOOD[self.chance.choice(list(GOOD))]).decode()
        found = self._right(self.client.post("/predict", json={"images": [encoded]}))
        assert found["results"][0]["image_size"] == {"width": 80, "height": 60}

    def good_and_bad_together(self) -> None:
        files = [("file", ("a", GOOD["PNG"])), ("file", ("b", b"no picture"))]
        good, bad = self._right(self.client.post("/predict", files=files))["results"]
        assert good["image_size"]["width"] == 80
        assert bad["error"]["status"] == 415

    def hostile_file(self) -> None:
        content = CORPUS[self.chance.choice(SOAKED)]
        if self.chance.random() < 0.3:
            answer = self.client.post("/predict", json={"images": [base64.b64encode(content).decode()]})
        else:
            answer = send(self.client, content)
        if answer.status_code == 200:
            assert self._right(answer)["results"][0]["image_size"]["width"] > 0
        else:
            self._refused(answer, 400, 413, 415)

    def wrong_media_type(self) -> None:
        kind = self.chance.choice(REFUSED_MEDIA)
        headers = {"Content-Type": kind} if kind else {}
        self._refused(self.client.post("/predict", content=GOOD["JPEG"], headers=headers), 415)

    def odd_method(self) -> None:
        method = "".join(self.chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ-!", k=self.chance.randint(1, 12)))
        path = self.chance.choice(("/predict", "/model", "/health", "/nowhere"))
        answer = self.client.request(f"X{method}", path)
        self._refused(answer, 404 if path == "/nowhere" else 405)

    def odd_host(self) -> None:
        path = self.chance.choice(("/health", "/model", "/predict"))
        self._refused(self.client.get(path, headers={"Host": self.chance.choice(HOSTS)}), 400)

    def look_around(self) -> None:
        path = self.chance.choice(("/metrics", "/model", "/models", "/health", "/ready", "/openapi.json"))
        assert self.client.get(path).status_code == 200

    def hang_up(self) -> None:
        """Send a part of a photo, or all of it, and go: politely, or as a phone in a tunnel does."""
        host, port = self.client.base_url.host, self.client.base_url.port
        body = b"--x\r\n" + PART[:-1] + GOOD["PNG"] + b"\r\n--x--\r\n"
        head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        with socket.create_connection((host, port), timeout=LONGEST_S) as connection:
            connection.sendall(whole[: self.chance.randint(1, len(whole))])
            if self.chance.random() < 0.5:  # its last word is RST, not FIN
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    @staticmethod
    def _right(answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    @staticmethod
    def _refused(answer: httpx.Response, *statuses: int) -> None:
        assert answer.status_code in statuses, (answer.request.method, answer.request.url, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        problem = Problem.model_validate_json(answer.text)
        assert (problem.status, problem.request_id) == (answer.status_code, answer.headers["x-request-id"])
        assert problem.type.removeprefix(TYPE_PREFIX) in PROBLEMS


def soak(url: httpx.URL, requests: int, seed: int) -> Counter[str]:
    """Let the clients send so many requests between them; return how many of each kind."""

    def one(number: int) -> list[str]:
        with httpx.Client(base_url=url, timeout=LONGEST_S) as client:
            stranger = Stranger(client, random.Random(seed + number))
            return [stranger.ask() for _ in range(requests // CLIENTS)]

    with ThreadPoolExecutor(CLIENTS) as threads:
        return Counter(kind for kinds in threads.map(one, range(CLIENTS)) for kind in kinds)


class Holdings(NamedTuple):
    """What a server holds while nobody asks for anything."""

    megabytes: float
    threads: int
    files: int
    decoders: int


def holdings(process: psutil.Process) -> Holdings:
    return Holdings(
        process.memory_full_info().uss / MEGABYTE,
        process.num_threads(),
        process.num_fds(),
        len(process.children(recursive=True)),
    )


@pytest.mark.slow
def test_a_thousand_mixed_requests_leave_the_server_as_it_was(server):
    """What leaks does so in every round; room for the most that ever came at once is taken in one of them."""
    client, running_server, log = server
    process, log_before = psutil.Process(running_server.pid), log.stat().st_size
    for name in SOAKED:  # a decoder, too, grows with the largest picture it has seen
        send(client, CORPUS[name])
    soak(client.base_url, WARM_UP, 1_000)
    holds = [wait_until_idle(client, process)]
    for seed in range(ROUNDS):
        asked = soak(client.base_url, REQUESTS, seed)
        assert sum(asked.values()) == REQUESTS
        assert min(asked.values()) > REQUESTS // 50, "every kind came often enough to show"
        holds.append(wait_until_idle(client, process))
        if holds[-1].megabytes - holds[-2].megabytes < LEFT_BEHIND_MB:
            break
    assert holds[-1].megabytes - holds[-2].megabytes < LEFT_BEHIND_MB, holds
    assert holds[-1].threads <= holds[0].threads + POOL
    assert len({(each.files, each.decoders) for each in holds}) == 1
    said = log.read_bytes()[log_before:]
    assert b"Traceback" not in said
    assert b"internal-error" not in said


def wait_until_idle(client: httpx.Client, process: psutil.Process) -> Holdings:
    """Return what the server holds once whoever hung up is forgotten and no connection but ours is left."""

    def is_idle() -> bool:
        connections = [each for each in process.net_connections("tcp") if each.status != psutil.CONN_LISTEN]
        return "weapon_api_queue_length 0.0" in client.get("/metrics").text and len(connections) <= 1

    wait_until(is_idle, every_s=0.1)
    return holdings(process)
