"""Images in and out: bytes -> upright RGB array -> network input, and pixels -> bytes.

The only file that opens an image. numpy and Pillow, no torch. Training, evaluation, API, cameras and page all
pass through here, so that a photo gives the same pixels everywhere.

ImageError
  NotAnImage
  ImageTooLarge
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageFile, UnidentifiedImageError, features
from PIL import Image as PillowImage

from detection import containers, icc

try:  # iPhones write HEIC; the library for it is optional
    import pillow_heif
except ImportError:
    HAS_HEIF = False
else:
    pillow_heif.register_heif_opener()
    HAS_HEIF = True

Image = NDArray[np.uint8]  # (H, W, 3) RGB, upright

FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"),
    *(("AVIF",) if features.check("avif") else ()),
    *(("HEIF",) if HAS_HEIF else ()),
)
HEIC_BRANDS, AVIF_BRANDS = (b"heic", b"heix", b"mif1", b"msf1"), (b"avif", b"avis")  # follow "ftyp"
# What the names of pictures in those formats end with, in lower case; .mpo and .hif come from cameras.
SUFFIXES = frozenset(
    f".{ending}"
    for ending in "jpg jpeg jpe jfif mpo png bmp webp tif tiff gif avif heic heif hif".split()  # noqa: SIM905
)
MAX_PIXELS = 40_000_000  # a 40-megapixel photo decodes to 120 MB; phones make 12 to 50
LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # what the formats hold
WHITE = 255  # what 1.0 is in the network's input
MAX_JPEG_SCANS = 100  # a progressive JPEG has about 10; thousands make a small file take minutes
UNPACKED_SHARE = 2  # of max_pixels: tiles and blocks reach over the picture's edges, by less than that

# Files that people take for photos, by how they begin: JPEG XL twice, JPEG 2000, Photoshop.
FOREIGN_FORMATS = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"8BPS": "Photoshop",
}
TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# What Pillow's readers let through when a file is damaged, or made to do harm.
PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(AssertionError, EOFError, MemoryError, RuntimeError, struct.error, zlib.error),
)
# Pillow warns of odd metadata and of sizes below its own limit; whoever sent the picture never sees that.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(ValueError):
    """The bytes cannot be used as an image."""


class NotAnImage(ImageError):
    """The bytes are no image of a known format, or are cut short."""


class ImageTooLarge(ImageError):
    """The image has more pixels than allowed."""


class ImageHeader(NamedTuple):
    """What an image file says of itself before any pixel is decoded.

    size_wh is that of the upright picture. orientation is the EXIF one, 1 (as stored) to 8; from 5 on the
    stored picture lies on its side.
    """

    size_wh: tuple[int, int]
    orientation: int


def may_be_photo(path: Path) -> bool:
    """Say whether a file's name is a picture's, and not one that macOS leaves beside it."""
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return path.suffix.lower() in SUFFIXES and not hidden


def read_header(source: Path | bytes) -> ImageHeader:
    """Read the upright size and the EXIF orientation of an image file without decoding it.

    Raises:
        NotAnImage: the file is no image of a known format; the pixels themselves are not looked at.
        ImageTooLarge: the picture is too large for Pillow.
        OSError: the file cannot be read.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    picture = _open(content)
    orientation, (width, height) = _orientation(picture), picture.size
    on_its_side = orientation >= 5 and picture.format != "TIFF"  # of a TIFF Pillow gives the upright size
    return ImageHeader((height, width) if on_its_side else (width, height), orientation)


def decode_image(image_bytes: bytes, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image file into an upright RGB image.

    The EXIF orientation is applied; an embedded colour profile is converted to sRGB; alpha is composited on
    white, unless it is zero throughout; grey, palette and CMYK images become RGB; more than 8 bits are
    scaled to 8; of an animation the first frame is taken, of a TIFF the first page in full size.

    Args:
        image_bytes: the file's content, in one of FORMATS.
        max_pixels: width x height allowed, checked before any pixel is decoded. What a decoder would have to
            unpack for them is bounded with it.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        NotAnImage: the bytes are none of these formats, are damaged, or hold only a part of the picture.
        ImageTooLarge: the picture has more than max_pixels pixels, or unpacks to many more.
    """
    return np.asarray(decode_picture(image_bytes, max_pixels=max_pixels))


def decode_picture(image_bytes: bytes, *, max_pixels: int = MAX_PIXELS) -> PillowImage.Image:
    """Decode as decode_image does, into Pillow's picture of mode RGB."""
    picture = _open(image_bytes, max_pixels)
    _check_what_unpacks(picture, image_bytes, max_pixels)
    try:
        _load(picture, image_bytes)
        return _transpose(_to_rgb(picture), _orientation(picture))
    except PillowImage.DecompressionBombError as error:
        raise ImageTooLarge(f"the picture unpacks to too many pixels: {error}") from error
    except MemoryError as error:
        raise ImageTooLarge("the picture takes more memory to unpack than one picture may") from error
    except ImageError:
        raise
    except PILLOW_ERRORS as error:
        raise NotAnImage(f"the picture is damaged or cut short: {error}") from error


def _open(image_bytes: bytes, max_pixels: int = MAX_PIXELS) -> ImageFile.ImageFile:
    """Read a picture's header; max_pixels is for the message where there are too many for Pillow."""
    if not image_bytes:
        raise NotAnImage("expected a picture, got an empty file")
    try:
        picture = PillowImage.open(io.BytesIO(image_bytes), formats=FORMATS)
        if picture.format == "TIFF":
            _choose_page(picture, image_bytes)
    except PillowImage.DecompressionBombError as error:
        raise ImageTooLarge(f"expected at most {max_pixels:,} pixels, got several times as many") from error
    except UnidentifiedImageError as error:
        raise NotAnImage(_what_it_is(image_bytes)) from error
    except ImageError:
        raise
    except PILLOW_ERRORS as error:
        raise NotAnImage(f"the picture's header is damaged: {error}") from error
    return picture


def _what_it_is(image_bytes: bytes) -> str:
    """Return why these bytes, which no reader took, cannot be used."""
    brand = image_bytes[8:12] if image_bytes[4:8] == b"ftyp" else b""
    if brand in HEIC_BRANDS + AVIF_BRANDS:
        name, kind = ("AVIF", "AVIF") if brand in AVIF_BRANDS else ("HEIC", "HEIF")
        wrong = "is damaged or cut short" if kind in FORMATS else "cannot be read here; save it as JPEG"
        return f"the {name} picture {wrong}"
    if image_bytes.startswith(TIFF_BEGINNINGS):
        pages = containers.read_tiff(image_bytes)
        return f"{_tiff_kind(pages[0])}; save it as JPEG" if pages else "the TIFF is damaged or cut short"
    for beginning, name in FOREIGN_FORMATS.items():
        if image_bytes.startswith(beginning):
            return f"a {name} picture cannot be read here; save it as JPEG"
    return f"expected a picture ({', '.join(FORMATS)}), got something else"


def _check_what_unpacks(picture: ImageFile.ImageFile, image_bytes: bytes, max_pixels: int) -> None:
    """Raise ImageTooLarge if the file's parts hold many more pixels than the picture may have.

    A header can say less than a decoder has to unpack: a TIFF's tiles may be far larger than its picture,
    and an AVIF's boxes may announce another size than its data have.
    """
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageTooLarge(f"expected at most {max_pixels:,} pixels, got {width} x {height}")
    if picture.format == "TIFF":
        unpacked = containers.read_tiff(image_bytes)[picture.tell()].unpacked_pixels
    elif picture.format == "AVIF":
        unpacked = sum(width * height for width, height in containers.read_av1_sizes(image_bytes))
        unpacked //= 2  # colours and alpha are pictures of their own
    else:
        return
    if unpacked > UNPACKED_SHARE * max_pixels:
        most, got = f"{UNPACKED_SHARE * max_pixels:,}", f"{width} x {height} that unpack to {unpacked:,}"
        raise ImageTooLarge(f"expected a picture that unpacks to at most {most} pixels, got {got}")


def _choose_page(picture: ImageFile.ImageFile, image_bytes: bytes) -> None:
    """Go to a TIFF's first page that is no smaller copy of another, and see that it is read rightly."""
    pages = containers.read_tiff(image_bytes)
    full = [number for number, page in enumerate(pages) if not page.reduced]
    if not pages:
        raise NotAnImage("the TIFF is damaged or cut short")
    raw = any(tag in pages[0].tags for tag in (containers.DNG_VERSION, containers.SUB_DIRECTORIES))
    if not full and raw:
        raise NotAnImage("a raw photo cannot be read here: it shows a thumbnail only; send a JPEG")
    number = full[0] if full else 0
    if number:
        picture.seek(number)
    page = pages[number]
    if page.repeated:
        raise NotAnImage("the TIFF is damaged: it says two things of its size or kind")
    if not _is_read_rightly(page, swapped=image_bytes[:2] == b"MM"):
        raise NotAnImage(f"{_tiff_kind(page)}; save it as JPEG")


def _is_read_rightly(page: containers.TiffPage, *, swapped: bool) -> bool:
    """Whether Pillow makes of such a page the picture that is in it.

    It does of whole positive numbers up to 8 bits. Of 16 bits it takes planes for interleaved colours and
    white for black; of 32 bits it reads single floats in the processor's byte order, or not packed.
    """
    bits, samples = set(page.tags.get(containers.BITS, (1,))), page.value(containers.SAMPLES, 1)
    formats = set(page.tags.get(containers.SAMPLE_FORMAT, (1,)))
    interleaved = samples == 1 or page.value(containers.PLANAR, 1) == 1
    zero_is_black = page.value(containers.PHOTOMETRIC, 1) != 0
    if formats <= {1, 4}:
        return max(bits) <= 8 or (bits == {16} and interleaved and zero_is_black)
    packed = page.value(containers.COMPRESSION, 1) != 1
    return formats == {3} and bits == {32} and samples == 1 and zero_is_black and not (swapped and packed)


def _tiff_kind(page: containers.TiffPage) -> str:
    """Return what a TIFF that cannot be read is, in words."""
    bits, samples = page.value(containers.BITS, 1), page.value(containers.SAMPLES, 1)
    number = {2: "signed", 3: "floating point"}.get(page.value(containers.SAMPLE_FORMAT, 1), "whole")
    return f"a TIFF of a kind that cannot be read here ({samples} x {bits} bits, {number} numbers)"


# Offered behind a JPEG's own data, in place of the end marker: a decoder that has the whole picture passes
# over them, one that is still short of data takes them for a part of it. Any bytes but 0 and 255 do.
OFFERED = np.random.default_rng(0).integers(1, 255, 72, np.uint8).tobytes()
LOOKAHEAD = 8  # of them a decoder may ask for although it has the whole picture: its bit buffer
CUT_SHORT = "the picture is damaged or cut short: a part of it is missing"


def _load(picture: ImageFile.ImageFile, image_bytes: bytes) -> None:
    """Decode the pixels, and raise NotAnImage if the file holds only a part of them.

    Decoders fill up what is missing, with grey or black, and say nothing.
    """
    if picture.format in ("JPEG", "MPO"):
        _load_jpeg(picture, image_bytes)
        return
    picture.load()
    tail = max(256, len(image_bytes) // 50)  # what a broken transfer left empty, not what an encoder wrote
    if picture.format in ("WEBP", "AVIF", "HEIF") and image_bytes.endswith(bytes(tail)):
        raise NotAnImage(CUT_SHORT)
    if picture.format == "PNG" and _may_lack_rows(picture) and not containers.png_is_whole(image_bytes):
        raise NotAnImage(CUT_SHORT)


def _may_lack_rows(picture: ImageFile.ImageFile) -> bool:
    """Whether the row of a PNG that comes last is zero, as a decoder leaves it; interlaced, an odd one."""
    width, height = picture.size
    row = max(height - 1 - (height % 2 if picture.info.get("interlace") else 0), 0)
    return not any(picture.crop((0, row, width, row + 1)).tobytes())


def _load_jpeg(picture: ImageFile.ImageFile, image_bytes: bytes) -> None:
    """Decode a JPEG up to its own end, with an end marker or without one."""
    parts = containers.read_jpeg(image_bytes, most_scans=MAX_JPEG_SCANS)
    if parts.scans > MAX_JPEG_SCANS:
        raise NotAnImage(f"expected a JPEG of at most {MAX_JPEG_SCANS} scans, got more")
    if parts.sof not in containers.HUFFMAN_SOFS:  # arithmetic coding may leave zeros out at the end
        picture.load()
        return
    data = image_bytes[: parts.data_end]
    if parts.data_end == len(image_bytes) and data.endswith(bytes(16)):  # room that was never filled
        data = data.rstrip(b"\0")
    if not parts.covered or not _feed(picture, data.rstrip(b"\xff"), parts.scans):
        raise NotAnImage(CUT_SHORT)


def _feed(picture: ImageFile.ImageFile, data: bytes, scans: int) -> bool:
    """Decode a JPEG's data, without their end marker; False if the decoder was still short of them."""
    picture.load_prepare()
    name, extents, _, args = picture.tile[0]
    decoder = PillowImage._getdecoder(picture.mode, name, args, picture.decoderconfig)
    try:
        decoder.setimage(picture.im, extents)
        rest = data + OFFERED[:LOOKAHEAD]
        taken, error = decoder.decode(rest)
        if taken >= 0 and scans > 1:  # with several scans the decoder waits for the end marker in any case
            rest, hungry = rest[taken:], taken < len(rest)
            for i in range(LOOKAHEAD, len(OFFERED)):
                rest += OFFERED[i : i + 1]
                rest = rest[decoder.decode(rest)[0] :]
                hungry |= bool(rest)  # it keeps what is no whole block yet
            if hungry:
                return False
            taken, error = decoder.decode(rest + b"\xff\xd9")
    finally:
        decoder.cleanup()
    if error < 0:
        raise OSError("its data make no sense")
    picture.tile = []
    return taken < 0


def _orientation(picture: PillowImage.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where it is absent, unreadable or nonsense."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except PILLOW_ERRORS:  # odd EXIF or XMP is common, and no reason to refuse the picture
        return 1
    return int(orientation) if orientation in TRANSPOSES else 1


TRANSPOSES = {  # EXIF 2.32, 4.6.4.A: what makes a picture of that orientation upright
    1: None,
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}


def _transpose(picture: PillowImage.Image, orientation: int) -> PillowImage.Image:
    method = TRANSPOSES[orientation]
    return picture if method is None else picture.transpose(method)


def _to_rgb(picture: PillowImage.Image) -> PillowImage.Image:
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return icc.to_srgb(PillowImage.fromarray(_to_8_bits(np.asarray(picture))), profile)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return icc.to_srgb(_without_alpha(picture), profile)
    return icc.to_srgb(picture if picture.mode in ("L", "RGB", "CMYK") else picture.convert("RGB"), profile)


def _without_alpha(picture: PillowImage.Image) -> PillowImage.Image:
    """Return the colours over white; as they are where alpha is zero throughout and so says nothing."""
    rgba = picture if picture.mode == "RGBa" else picture.convert("RGBA")
    if rgba.getchannel(3).getextrema() == (0, 0):
        return PillowImage.merge("RGB", rgba.split()[:3])
    white = PillowImage.new("RGBA", rgba.size, (255, 255, 255, 255))
    return PillowImage.alpha_composite(white, rgba.convert("RGBA")).convert("RGB")


def _to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale grey values of more than 8 bits: Pillow's own conversion would cut everything above 255.

    Whole numbers are taken as 16 bits, floats as [0, 1]; values beyond that are scaled by the largest.
    """
    full = 65535.0 if np.issubdtype(values.dtype, np.integer) else 1.0
    finite = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=full, neginf=0.0).clip(min=0)
    return (finite / max(full, float(finite.max(initial=0))) * 255).round().astype(np.uint8)


TOO_DARK, BLANK, PARTLY_MISSING = "too-dark", "blank", "partly-missing"
DARKEST_SEEN, FEWEST_SHADES = 32, 4  # of 255; darker, the detector misses a third of its weapons and more
NOTED_SAMPLES = 100  # a side: pixels looked at for a note
FILLED_WITH, FILL_SPREAD = (
    128,
    4,
)  # what JPEG decoders put where data are missing, give or take a second coding
MISSING_PART = 8  # one in so many of the rows, at the bottom, where a transfer broke off


def notes_on(image: Image) -> tuple[str, ...]:
    """Return what makes an image hard to judge, for a detector as for a person, if anything does.

    Too dark: 99 of 100 pixels are below DARKEST_SEEN. Blank: they are all of one colour. Partly missing: the
    lowest rows are the grey that stands for lost data, as in a broken photo that another program has saved
    anew; a file that itself is broken is no image.
    """
    height, width = image.shape[:2]
    samples = image[:: max(1, height // NOTED_SAMPLES), :: max(1, width // NOTED_SAMPLES)]
    low, high = np.percentile(samples, (0.5, 99.5), axis=(0, 1))  # of each colour
    if high.max() < DARKEST_SEEN:
        return (TOO_DARK,)
    if (high - low).max() < FEWEST_SHADES:
        return (BLANK,)
    lowest = image[-max(1, height // MISSING_PART) :, :: max(1, width // NOTED_SAMPLES)].astype(int)
    return (PARTLY_MISSING,) if np.abs(lowest - FILLED_WITH).max() <= FILL_SPREAD else ()


def to_chw(image: Image) -> NDArray[np.float32]:
    """Turn an image into what the network takes: (3, H, W) float32 in [0, 1].

    Normalising and resizing happen inside the network and nowhere else.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"want an (H, W, 3) uint8 RGB image, got {image.shape} {image.dtype}")
    # One pass and one array: a 40-megapixel picture is 480 MB as float32.
    return np.divide(image.transpose(2, 0, 1), np.float32(WHITE), dtype=np.float32, order="C")


def encode_image(image: Image, image_format: str = "JPEG", *, quality: int = 90) -> bytes:
    """Encode an image as a file: JPEG or WEBP at the given quality (1 to 100), or PNG.

    Raises:
        ImageTooLarge: the format holds no picture of that width or height.
    """
    height, width = image.shape[:2]
    longest = LONGEST_SIDE.get(image_format, max(height, width))
    if max(height, width) > longest:
        got = f"{width} x {height}; take PNG"
        raise ImageTooLarge(f"expected at most {longest:,} pixels a side for a {image_format}, got {got}")
    stream = io.BytesIO()
    # Of a PNG, more compression than that takes several times as long for a tenth fewer bytes.
    PillowImage.fromarray(image).save(stream, image_format, quality=quality, compress_level=3)
    return stream.getvalue()


def shrink(image: Image, longer_side: int) -> Image:
    """Return image made smaller so that its longer side has at most longer_side pixels."""
    height, width = image.shape[:2]
    if max(height, width) <= longer_side:
        return image
    factor = longer_side / max(height, width)
    size_wh = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(
        PillowImage.fromarray(image).resize(size_wh, PillowImage.Resampling.LANCZOS, reducing_gap=3)
    )
