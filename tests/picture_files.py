"""Picture files as other programs write them, and as nobody should: for the tests of what decodes them."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image as PillowImage

PHOTO = Path(__file__).parents[1] / "photos" / "01-pistol-in-a-hand.jpg"


def encode(array_or_picture, image_format: str = "PNG", **options) -> bytes:
    picture = array_or_picture
    if isinstance(picture, np.ndarray):
        picture = PillowImage.fromarray(picture)
    stream = io.BytesIO()
    picture.save(stream, image_format, **options)
    return stream.getvalue()


def photo(longer_side: int = 320) -> PillowImage.Image:
    """Return a rendered photo of the project's own, made smaller."""
    with PillowImage.open(PHOTO) as picture:
        picture.thumbnail((longer_side, longer_side))
        return picture.convert("RGB")


# --- PNG --------------------------------------------------------------------------------------------


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, data: bytes = bytes(100), colour: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    body = b"".join(chunks) + chunk(b"IDAT", zlib.compress(data, 9))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


# --- TIFF -------------------------------------------------------------------------------------------

NUMBERS = {"u": 1, "i": 2, "f": 3}  # numpy's kinds of numbers -> TIFF's SampleFormat


def tiff(*entries: tuple[int, int, int, int], next_ifd: int = 0) -> bytes:
    """Return a little-endian TIFF whose one directory has these (tag, type, count, value) entries."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    return head + packed + struct.pack("<I", next_ifd)


def tiff_of(
    values: np.ndarray,
    *,
    photometric: int,
    planar: int = 1,
    packed: bool = False,
    order: Literal["<", ">"] = "<",
) -> bytes:
    """Return a TIFF of these numbers as they are: (H, W), (H, W, C) or, with planar 2, (C, H, W)."""
    samples = {2: 1, 3: values.shape[0] if planar == 2 else values.shape[-1]}[values.ndim]
    height, width = values.shape[1:] if planar == 2 else values.shape[:2]
    numbers = values.astype(values.dtype.newbyteorder(order))
    strips = [plane.tobytes() for plane in numbers] if planar == 2 else [numbers.tobytes()]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    bits, kind = values.dtype.itemsize * 8, NUMBERS[values.dtype.kind]
    fields: list[tuple[int, str, Sequence[int]]] = [
        (256, "I", [width]), (257, "I", [height]), (258, "H", [bits] * samples),
        (259, "H", [8 if packed else 1]), (262, "H", [photometric]), (273, "I", [0] * len(strips)),
        (277, "H", [samples]), (278, "I", [height]), (279, "I", [len(strip) for strip in strips]),
        (284, "H", [planar]), (339, "H", [kind] * samples),
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(fields) + 4
    extra_bytes = sum(
        struct.calcsize(f"={len(given)}{code}")
        for _, code, given in fields
        if struct.calcsize(f"={len(given)}{code}") > 4
    )
    places, at = [], start + extra_bytes
    for strip in strips:
        places.append(at)
        at += len(strip)
    directory, extra = struct.pack(order + "H", len(fields)), b""
    for tag, code, given in fields:
        content = struct.pack(f"{order}{len(given)}{code}", *(places if tag == 273 else given))
        directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[code], len(given))
        if len(content) > 4:
            directory += struct.pack(order + "I", start + len(extra))
            extra += content
        else:
            directory += content.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + directory + bytes(4) + extra + b"".join(strips)


def tiled_tiff(
    size_wh: tuple[int, int], tile_wh: tuple[int, int], *twice: tuple[int, int, int, int]
) -> bytes:
    """Return a TIFF of grey tiles that all lie at the same place, packed to a thousandth.

    Args:
        size_wh: of the picture.
        tile_wh: of each tile; only what lies inside the picture is wanted, but all of it is unpacked.
        twice: further entries, for instance of tags that are there already.
    """
    packer = zlib.compressobj(9)
    row = bytes(tile_wh[0])
    tile = b"".join(packer.compress(row) for _ in range(tile_wh[1])) + packer.flush()
    tiles = -(-size_wh[0] // tile_wh[0]) * -(-size_wh[1] // tile_wh[1])
    entries = [
        (256, 4, 1, size_wh[0]), (257, 4, 1, size_wh[1]), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
        (277, 3, 1, 1), (322, 4, 1, tile_wh[0]), (323, 4, 1, tile_wh[1]), (324, 4, tiles, 0),
        (325, 4, tiles, 0), *twice,
    ]  # fmt: skip
    at = len(tiff(*entries))
    first = at + (8 * tiles if tiles > 1 else 0)
    places = {324: (at, first), 325: (at + 4 * tiles, len(tile))}
    entries = [
        (*entry[:3], places[entry[0]][0 if tiles > 1 else 1]) if entry[0] in places else entry
        for entry in entries
    ]
    tables = struct.pack(f"<{tiles}I", *[first] * tiles) + struct.pack(f"<{tiles}I", *[len(tile)] * tiles)
    return tiff(*entries) + (tables if tiles > 1 else b"") + tile


def striped_tiff(size_wh: tuple[int, int], rows: int, strip: bytes) -> bytes:
    """Return a TIFF of grey strips of so many rows that all are this one, packed as in zlib's files."""
    strips = -(-size_wh[1] // rows)
    fields = [
        (256, 4, 1, size_wh[0]), (257, 4, 1, size_wh[1]), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
        (273, 4, strips, 0), (277, 3, 1, 1), (278, 4, 1, rows), (279, 4, strips, 0),
    ]  # fmt: skip
    at = len(tiff(*fields))
    first = at + (8 * strips if strips > 1 else 0)
    where = {273: at if strips > 1 else first, 279: at + 4 * strips if strips > 1 else len(strip)}
    entries = [(*field[:3], where.get(field[0], field[3])) for field in fields]
    tables = struct.pack(f"<{strips}I", *[first] * strips) + struct.pack(
        f"<{strips}I", *[len(strip)] * strips
    )
    return tiff(*entries) + (tables if strips > 1 else b"") + strip


# --- headers that lie -------------------------------------------------------------------------------


def announce(content: bytes, width: int, height: int) -> bytes:
    """Return an AVIF or HEIC file whose boxes announce another size than its data have."""
    at = content.index(b"ispe") + 8
    return content[:at] + struct.pack(">II", width, height) + content[at + 8 :]


def say_size(content: bytes, width: int, height: int) -> bytes:
    """Return the picture with another size in its header, whatever the format; its data stay as they are."""
    if content[:2] == b"\xff\xd8":
        frame = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
        return _put(content, (frame + 5, struct.pack(">HH", height, width)))
    if content[:4] == b"\x89PNG":
        header = content[12:16] + struct.pack(">II", width, height) + content[24:29]
        return _put(content, (12, header + struct.pack(">I", zlib.crc32(header))))
    if content[12:16] == b"VP8 ":
        return _put(content, (26, struct.pack("<HH", width, height)))
    if content[12:16] == b"VP8L":
        bits = (width - 1) | (height - 1) << 14 | int.from_bytes(content[21:25], "little") >> 28 << 28
        return _put(content, (21, bits.to_bytes(4, "little")))
    if content[:3] == b"GIF":
        size = struct.pack("<HH", width, height)
        frame = content.index(b",\0\0\0\0" + content[6:10])
        return _put(content, (6, size), (frame + 5, size))
    if content[:2] == b"BM":
        return _put(content, (18, struct.pack("<ii", width, height)))
    if content[:2] == b"II":
        return _put(content, *_tiff_entries(content, {256: width, 257: height, 278: height}))
    return announce(content, width, height)


def _put(content: bytes, *pieces: tuple[int, bytes]) -> bytes:
    """Return content with these bytes at these places."""
    changed = bytearray(content)
    for at, piece in pieces:
        changed[at : at + len(piece)] = piece
    return bytes(changed)


def _tiff_entries(content: bytes, values: dict[int, int]) -> list[tuple[int, bytes]]:
    """Return where a little-endian TIFF has these tags, and the entries that say other values."""
    start = struct.unpack_from("<I", content, 4)[0]
    places = [start + 2 + 12 * i for i in range(struct.unpack_from("<H", content, start)[0])]
    tags = {at: struct.unpack_from("<H", content, at)[0] for at in places}
    return [(at, struct.pack("<HHII", tag, 4, 1, values[tag])) for at, tag in tags.items() if tag in values]


# --- colour profiles --------------------------------------------------------------------------------

# The colours of red, green and blue in XYZ under D50, as the profiles of these names have them.
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491))
D50 = (0.9642, 1.0, 0.8249)


def icc_profile(primaries: Sequence[Sequence[float]], gamma: float) -> bytes:
    """Return an ICC profile of version 2: three primaries and one exponent."""

    def xyz(values: Sequence[float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79), b"wtpt": xyz(D50)}
    tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(xyz, primaries), strict=True))
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve) | {b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    start, table, data = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = struct.pack(">I", start + len(data)) + b"none" + bytes([2, 32, 0, 0]) + b"mntrRGB XYZ "
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + xyz(D50)[8:]
    return head.ljust(128, b"\0") + table + data
