"""Files and requests made to do harm: a refusal or an answer, never a 500 or a crash, nothing left behind."""

import signal
import socket
import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch
from conftest import LONGEST_S, answers, free_port, running
from picture_files import announce, chunk, encode, icc_profile, photo, png, tiff, tiled_tiff
from PIL import Image as PillowImage
from PIL import PngImagePlugin

from detections import CLASS_NAMES
from detector import Detector, network_config
from schemas import ModelCard

ROOT = Path(__file__).parents[1]
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


def _packed_bmp(width: int, height: int, data: bytes) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + head + bytes(1024) + data


def corpus() -> dict[str, bytes]:
    ramp = np.arange(60 * 80 * 3, dtype=np.uint32).reshape(60, 80, 3).astype(np.uint8)
    good = {name: encode(ramp, name) for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")}
    progressive = encode(ramp, "JPEG", progressive=True)
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
        "JPEG with 3,000 scans behind its end": jpeg + progressive[scan:-2] * 3000,
        "JPEG without its end marker": jpeg[:-2],
        "JPEG of a quarter, with an end marker": jpeg[: len(jpeg) // 2] + b"\xff\xd9",
        "progressive JPEG in part, with an end marker": progressive[: len(progressive) * 3 // 4] + jpeg[-2:],
        "PNG of a quarter of its rows": png(60, 60, data=(b"\0" + bytes([9]) * 180) * 15),
        "BMP of packed jumps": _packed_bmp(60_000, 60, b"\0\2\xff\xff" * 5_000),
        "photo with a damaged profile": encode(
            ramp, "JPEG", icc_profile=icc_profile(((0, 0, 0),) * 3, 2.2)[:200] + bytes(range(256)) * 200
        ),
        "DNG": encode(photo(60), "TIFF", tiffinfo={254: 1, 50706: (1, 4, 0, 0)}),
        "one pixel": png(1, 1, data=bytes(4)),
        "one very long line": encode(np.zeros((1, 65_000, 3), np.uint8), "JPEG"),
        "one very tall line": encode(np.zeros((65_000, 1, 3), np.uint8), "JPEG"),
        "a line at the pixel limit": png(1, 4_000_000, data=bytes(16_000_000)),
    }  # fmt: skip
    for name, content in good.items():
        for part in (0.02, 0.3, 0.6, 0.95):
            files[f"{name} cut at {part:.0%}"] = content[: int(len(content) * part)]
        middle = len(content) // 2
        files[f"{name} with a hole"] = content[:middle] + bytes(200) + content[middle + 200 :]
    return files


CORPUS = corpus()


# --- a server of its own ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`python mlapi.py` with a real small network."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    network = network_config("fasterrcnn_mobilenet_v2_fpn", min_size=64, max_size=96, rpn_post_nms_top_n=20)
    Detector(ModelCard(network=network, class_names=CLASS_NAMES)).save_folder(folder)
    log, url = folder / "log", f"http://127.0.0.1:{free_port()}"
    variables = {
        "MODEL_DIR": str(folder),
        "API_PORT": url.rpartition(":")[2],
        "API_MAX_PIXELS": str(MAX_PIXELS),
        "API_DEADLINE_SECONDS": str(LONGEST_S),  # a busy machine refuses nothing
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
        ("JPEG cut at 60%", 415),
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
        ("PNG cut at 60%", 415),
    ],
)
def test_where_the_answer_is_certain_it_is_that(server, name, status):
    assert send(server[0], CORPUS[name]).status_code == status


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
        b"GET /static-offline-docs/..%2f..%2fgate.py HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
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
