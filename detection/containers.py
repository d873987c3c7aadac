"""What an image file holds, read from its bytes: JPEG scans, TIFF pages, AV1 frames, PNG rows.

No pixel is decoded and no library is asked, so that imaging.py can refuse before a decoder unpacks.
A header says how large a picture is; the parts read here say how much a decoder will unpack for it.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# --- JPEG -------------------------------------------------------------------------------------------

SOF_MARKERS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # ITU T.81, table B.1
HUFFMAN_SOFS = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive with Huffman coding
PROGRESSIVE_SOFS = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
SOS, EOI = 0xDA, 0xD9
# What may stand between two scans: tables, restart interval, number of lines, application data, comment.
BETWEEN_SCANS = frozenset({SOS, EOI, 0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})
# The end of a scan: any marker but a stuffed zero and the restarts, which belong to the scan's own data.
_SCAN_END = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class JpegParts:
    """What a JPEG file consists of, up to its own end: what is appended behind that is no JPEG.

    Attributes:
        sof: the marker that says how it is coded, 0xC0 to 0xCF; 0 where there is none.
        scans: how many.
        data_end: offset behind the last scan's data; the file's length where nothing ends them.
        covered: whether the scans together hold every coefficient of every component to the last bit.
    """

    sof: int
    scans: int
    data_end: int
    covered: bool


def read_jpeg(content: bytes, *, most_scans: int) -> JpegParts:
    """Walk a JPEG file's segments to its end marker, or to the first scan over most_scans."""
    sof, scans, at, data_end = 0, 0, 2, len(content)
    missing: dict[tuple[int, int], int] = {}  # (component, coefficient) -> 0 once its last bit is there
    while scans <= most_scans:
        at = content.find(b"\xff", at)
        if at < 0 or at + 4 > len(content):
            break
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == EOI or (scans and marker not in BETWEEN_SCANS):
            break
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        segment, at = content[at + 4 : at + 2 + length], at + 2 + length
        if marker in SOF_MARKERS and not sof:
            sof, missing = marker, {(component, k): 99 for component in segment[6::3] for k in range(64)}
        elif marker == SOS:
            scans += 1
            _cross_off(missing, segment, progressive=sof in PROGRESSIVE_SOFS)
            end = _SCAN_END.search(content, at)
            at = data_end = end.start() if end else len(content)
    return JpegParts(sof, scans, data_end, not any(missing.values()))


def _cross_off(missing: dict[tuple[int, int], int], scan_header: bytes, *, progressive: bool) -> None:
    """Note what one scan brings: some coefficients of some components, down to some bit."""
    count = scan_header[0] if scan_header else 0
    if len(scan_header) < 4 + 2 * count:
        return
    first, last, bits = scan_header[1 + 2 * count : 4 + 2 * count] if progressive else (0, 63, 0)
    for component in scan_header[1 : 1 + 2 * count : 2]:
        for k in range(first, last + 1):
            if (component, k) in missing:
                missing[component, k] = min(missing[component, k], bits & 15)


# --- TIFF -------------------------------------------------------------------------------------------

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = *range(254, 260), 262, 277
PLANAR, TILE_WIDTH, TILE_HEIGHT, SUB_DIRECTORIES, SAMPLE_FORMAT, DNG_VERSION = 284, 322, 323, 330, 339, 50706
_READ_TAGS = frozenset(
    {SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR}
    | {TILE_WIDTH, TILE_HEIGHT, SUB_DIRECTORIES, SAMPLE_FORMAT, DNG_VERSION}
)
_TYPE_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # BYTE, SHORT, LONG, IFD, LONG8, IFD8
MOST_PAGES = 16


class TiffPage(NamedTuple):
    """One directory of a TIFF: the tags that say what a decoder makes of it, each with its values.

    repeated is true if one of them stands there twice: libraries differ in which one they believe.
    """

    tags: dict[int, tuple[int, ...]]
    repeated: bool

    def value(self, tag: int, default: int) -> int:
        """Return a tag's first value."""
        return (self.tags.get(tag) or (default,))[0]

    @property
    def reduced(self) -> bool:
        """Whether the page is a smaller copy of another one."""
        return bool(self.value(SUBFILE, 0) & 1) or self.value(OLD_SUBFILE, 1) == 2

    @property
    def unpacked_pixels(self) -> int:
        """What its tiles hold together, those at the edges in full; without tiles the picture's size."""
        size = self.value(WIDTH, 0), self.value(HEIGHT, 0)
        tile = self.value(TILE_WIDTH, 0), self.value(TILE_HEIGHT, 0)
        if not any(tile):
            return size[0] * size[1]
        width, height = (-(-side // (step or 1)) * (step or 1) for side, step in zip(size, tile, strict=True))
        return width * height


def read_tiff(content: bytes) -> list[TiffPage]:
    """Return a TIFF's pages in order, at most MOST_PAGES; an empty list where the file is no TIFF."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    pages: list[TiffPage] = []
    if order is None:
        return pages
    try:
        version = struct.unpack_from(order + "H", content, 2)[0]
        offset_code, start = ("Q", 8) if version == 43 else ("I", 4)
        offset = struct.unpack_from(order + offset_code, content, start)[0]
        while offset and len(pages) < MOST_PAGES:
            page, offset = _tiff_page(content, offset, order, offset_code)
            pages.append(page)
    except struct.error:  # a directory beyond the end of the file: the decoder says so in its own words
        pass
    return pages


def _tiff_page(content: bytes, at: int, order: str, offset_code: str) -> tuple[TiffPage, int]:
    """Return the directory at an offset, and the offset of the next one."""
    big = offset_code == "Q"
    count_code, entry, inline = ("Q", 20, 8) if big else ("H", 12, 4)
    count = struct.unpack_from(order + count_code, content, at)[0]
    at += struct.calcsize(order + count_code)
    tags: dict[int, tuple[int, ...]] = {}
    repeated = False
    for i in range(min(count, (len(content) - at) // entry)):
        tag, kind, values = struct.unpack_from(order + "HH" + offset_code, content, at + i * entry)
        code = _TYPE_CODES.get(kind)
        if tag not in _READ_TAGS or code is None or not values:
            continue
        codes = order + code * min(values, 64)
        place = at + i * entry + entry - inline
        if values * struct.calcsize(order + code) > inline:
            place = struct.unpack_from(order + offset_code, content, place)[0]
        repeated |= tag in tags
        tags[tag] = struct.unpack_from(codes, content, place)
    return TiffPage(tags, repeated), struct.unpack_from(order + offset_code, content, at + count * entry)[0]


# --- AVIF -------------------------------------------------------------------------------------------

_CONTAINER_BOXES = frozenset({b"meta", b"moov", b"trak", b"mdia", b"minf", b"stbl"})


def read_av1_sizes(content: bytes) -> list[tuple[int, int]]:
    """Return the coded size, (width, height), of each AV1 picture in an AVIF file.

    They stand in the AV1 data themselves, whatever the file's boxes say. Of a track its first picture.

    Source:
        ISO/IEC 14496-12 (iloc, stco, co64); AV1 Bitstream Specification, 5.3 to 5.5.
    """
    sizes = []
    for kind, start, end in _boxes(content, 0, len(content)):
        try:
            if kind == b"iloc":
                offsets = list(_item_offsets(content, start, end))
            elif kind in (b"stco", b"co64"):
                offsets = list(struct.unpack_from(">I" if kind == b"stco" else ">Q", content, start + 8))
            else:
                continue
        except struct.error:  # cut short: the decoder says so in its own words
            continue
        sizes += [size for offset in offsets if (size := _sequence_size(content, offset))]
    return sizes


def _boxes(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each box's content, those inside containers too."""
    while at + 8 <= end:
        length, kind = struct.unpack_from(">I4s", content, at)
        head = 8
        if length == 1 and at + 16 <= end:
            length, head = struct.unpack_from(">Q", content, at + 8)[0], 16
        stop = end if length == 0 else min(at + length, end)
        if stop < at + head:
            return
        yield kind, at + head, stop
        if kind in _CONTAINER_BOXES:
            yield from _boxes(content, at + head + (4 if kind == b"meta" else 0), stop)
        at = stop


def _item_offsets(content: bytes, at: int, end: int) -> Iterator[int]:
    """Yield where each item of an iloc box begins in the file."""
    version, sizes = content[at], struct.unpack_from(">H", content, at + 4)[0]
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version in (1, 2) else 0
    id_size, at = (4 if version == 2 else 2), at + 6
    count, at = int.from_bytes(content[at : at + id_size], "big"), at + id_size
    for _ in range(min(count, (end - at) // (id_size + 4))):
        at += id_size + (2 if version in (1, 2) else 0) + 2
        base, at = int.from_bytes(content[at : at + base_size], "big"), at + base_size
        extents, at = struct.unpack_from(">H", content, at)[0], at + 2
        if extents:
            first = at + index_size
            yield base + int.from_bytes(content[first : first + offset_size], "big")
        at += extents * (index_size + offset_size + length_size)


def _sequence_size(content: bytes, at: int) -> tuple[int, int] | None:
    """Return the largest frame that the AV1 data at an offset may hold; None if they are no AV1 data."""
    for _ in range(4):  # a temporal delimiter or metadata may come first
        header = content[at : at + 1]
        if not header or header[0] & 0x81:  # the forbidden or the reserved bit
            return None
        kind, at = header[0] >> 3 & 15, at + (2 if header[0] & 4 else 1)
        length = 0
        for i in range(5 if header[0] & 2 else 0):  # leb128
            byte, at = content[at] if at < len(content) else 0, at + 1
            length |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                break
        if kind == 1:
            return _sequence_header(content[at : at + 200])
        at += length
    return None


class _Bits:
    """Bits of some bytes, the first one highest; zeros behind the end."""

    def __init__(self, content: bytes) -> None:
        self._value, self._left = int.from_bytes(content, "big"), 8 * len(content)

    def take(self, count: int) -> int:
        self._left -= count
        value = self._value >> self._left if self._left >= 0 else 0
        return value & ((1 << count) - 1)


def _sequence_header(content: bytes) -> tuple[int, int]:
    """Return max_frame_width and max_frame_height of an AV1 sequence header."""
    bits = _Bits(content)
    bits.take(4)  # profile and still_picture
    if bits.take(1):  # reduced_still_picture_header
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = decoder_model = 0
    if bits.take(1):  # timing_info_present_flag
        bits.take(64)
        if bits.take(1):  # equal_picture_interval: a number of as many bits as zeros come before it, and one
            zeros = 0
            while not bits.take(1) and zeros < 32:
                zeros += 1
            bits.take(zeros)
        decoder_model = bits.take(1)
        if decoder_model:
            delay_bits = bits.take(5) + 1
            bits.take(42)
    display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if decoder_model and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if display_delay and bits.take(1):
            bits.take(4)


# --- PNG --------------------------------------------------------------------------------------------

_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


def png_is_whole(content: bytes) -> bool:
    """Whether a PNG's data unpack to every row that its header announces.

    Unpacks all of them, some at a time: for pictures that look as if rows were missing.
    """
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    wanted = 0
    for x, y, step_x, step_y in passes:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0 and rows > 0:
            wanted += rows * (1 + -(-columns * depth * _PNG_SAMPLES[colour] // 8))
    unpacker, got = zlib.decompressobj(), 0
    for data in _png_data(content):
        while data and not unpacker.eof and got < wanted:
            got += len(unpacker.decompress(data, 1 << 20))
            data = unpacker.unconsumed_tail
    return got >= wanted


def _png_data(content: bytes) -> Iterator[bytes]:
    at = 8
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"IDAT":
            yield content[at + 8 : at + 8 + length]
        at += 12 + length
