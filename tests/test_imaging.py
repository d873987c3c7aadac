"""The one way from bytes to network input: orientation, colour, depth, limits."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

import imaging

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encode(picture: PillowImage.Image, image_format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, image_format, **options)
    return stream.getvalue()


def flat(mode: str, colour, size_wh=(8, 6)) -> PillowImage.Image:
    return PillowImage.new(mode, size_wh, colour)


def grey_16_bit(value: int) -> bytes:
    return encode(PillowImage.fromarray(np.full((6, 8), value, np.uint16)))


# --- formats and modes ------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_a_red_picture_is_red_in_every_format(image_format):
    if image_format not in imaging.FORMATS:
        pytest.skip(f"this Pillow reads no {image_format}")
    image = imaging.decode_image(encode(flat("RGB", RED, (64, 48)), image_format))
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert np.abs(image[24, 32].astype(int) - RED).max() <= 6  # lossy formats are off by a little


def test_heic_is_read_where_the_library_is():
    pytest.importorskip("pillow_heif")
    image = imaging.decode_image(encode(flat("RGB", RED, (64, 48)), "HEIF"))
    assert image.shape == (48, 64, 3)


def test_heic_without_the_library_is_named(monkeypatch):
    monkeypatch.setattr(imaging, "FORMATS", ("JPEG",))
    with pytest.raises(imaging.NotAnImage, match="HEIC picture cannot be read here; save it as JPEG"):
        imaging.decode_image(b"\0\0\0\x18ftypheic" + bytes(40))


@pytest.mark.parametrize(("brand", "kind", "name"), [(b"heic", "HEIF", "HEIC"), (b"avif", "AVIF", "AVIF")])
def test_a_damaged_heic_or_avif_is_called_damaged_where_the_library_is(brand, kind, name):
    if kind not in imaging.FORMATS:
        pytest.skip(f"this Pillow reads no {kind}")
    with pytest.raises(imaging.NotAnImage, match=f"the {name} picture is damaged or cut short"):
        imaging.decode_image(b"\0\0\0\x18ftyp" + brand + bytes(40))


@pytest.mark.parametrize(
    ("picture", "expected", "why"),
    [
        (flat("L", 100), (100, 100, 100), "grey"),
        (flat("1", 1), WHITE, "one bit"),
        (flat("LA", (0, 0)), WHITE, "transparent grey shows the white behind it"),
        (flat("RGBA", (255, 0, 0, 0)), WHITE, "fully transparent red shows white"),
        (flat("RGBA", (255, 0, 0, 255)), RED, "opaque red stays red"),
        (flat("RGBA", (0, 0, 0, 51)), (204, 204, 204), "a fifth black over white"),
        (flat("RGB", RED).quantize(4), RED, "palette"),
    ],
)
def test_every_mode_becomes_rgb(picture, expected, why):
    image = imaging.decode_image(encode(picture))
    assert image.shape == (6, 8, 3), why
    assert tuple(image[3, 4]) == expected, why


def test_cmyk_jpeg_becomes_rgb():
    image = imaging.decode_image(encode(flat("CMYK", (0, 255, 255, 0), (32, 32)), "JPEG"))
    red, green, blue = image[16, 16].astype(int)
    assert (red > 240, green < 15, blue < 15) == (True, True, True)


def test_transparent_palette_colour_shows_white():
    picture = flat("P", 0)
    picture.putpalette([10, 20, 30])
    assert tuple(imaging.decode_image(encode(picture, transparency=0))[0, 0]) == WHITE


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (65535, 255), (25700, 100), (257, 1)])
def test_16_bit_grey_is_scaled_not_cut(value, expected):
    assert tuple(imaging.decode_image(grey_16_bit(value))[0, 0]) == (expected,) * 3


def test_float_tiff_is_scaled_and_nan_is_black():
    values = np.array([[0.0, 0.5, 1.0, np.nan]], np.float32)
    image = imaging.decode_image(encode(PillowImage.fromarray(values), "TIFF"))
    assert image[0, :, 0].tolist() == [0, 128, 255, 0]


def test_of_an_animation_the_first_frame_is_taken():
    frames = [flat("RGB", RED), flat("RGB", (0, 0, 255))]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=40)
    assert tuple(imaging.decode_image(content)[0, 0]) == RED


# --- orientation ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "corner"),  # where the stored top left pixel belongs, (row, column) in a 6 x 8 picture
    [
        (1, (0, 0)),
        (2, (0, -1)),
        (3, (-1, -1)),
        (4, (-1, 0)),
        (5, (0, 0)),
        (6, (0, -1)),
        (7, (-1, -1)),
        (8, (-1, 0)),
    ],
)
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_every_exif_orientation_is_made_upright(orientation, corner, image_format):
    picture = flat("RGB", WHITE)
    picture.putpixel((0, 0), RED)
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if image_format == "TIFF" else {"exif": exif}
    content = encode(picture, image_format, **options)
    image = imaging.decode_image(content)
    assert image.shape == ((8, 6, 3) if orientation >= 5 else (6, 8, 3))
    assert tuple(image[corner]) == RED
    assert imaging.read_header(content) == (image.shape[1::-1], orientation)


@pytest.mark.parametrize("orientation", [0, 9, 77, 65535])
def test_nonsense_orientation_is_taken_as_upright(orientation):
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    assert imaging.decode_image(encode(flat("RGB", RED), exif=exif)).shape == (6, 8, 3)


def test_broken_exif_does_not_cost_the_picture():
    content = encode(flat("RGB", RED, (32, 32)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert imaging.decode_image(content).shape == (32, 32, 3)


# --- limits and damage ------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


@pytest.mark.parametrize(("width", "height"), [(8000, 8000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_before_decoding(width, height):
    with pytest.raises(imaging.ImageTooLarge, match="at most 40,000,000 pixels, got"):
        imaging.decode_image(png_header(width, height))


def test_the_limit_itself_is_allowed():
    content = encode(flat("RGB", RED, (8, 6)))
    assert imaging.decode_image(content, max_pixels=48).shape == (6, 8, 3)
    with pytest.raises(imaging.ImageTooLarge, match="at most 47 pixels, got 8 x 6"):
        imaging.decode_image(content, max_pixels=47)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"%PDF-1.7 not a picture", "something else"),
        (b"\x89PNG\r\n\x1a\n", "got something else|damaged"),
        (encode(flat("RGB", RED, (200, 200)), "JPEG")[:700], "cut short"),
        (encode(flat("RGB", RED, (200, 200)))[:200], "cut short"),
    ],
)
def test_what_is_no_picture_is_named(content, message):
    with pytest.raises(imaging.NotAnImage, match=message):
        imaging.decode_image(content)


def test_a_jpeg_of_thousands_of_scans_is_refused():
    content = encode(flat("RGB", RED, (64, 64)), "JPEG", progressive=True)
    start = content.index(b"\xff\xda")
    bomb = content[:start] + content[start:-2] * imaging.MAX_JPEG_SCANS + content[-2:]
    assert imaging.decode_image(content).shape == (64, 64, 3)
    with pytest.raises(imaging.NotAnImage, match="scans"):
        imaging.decode_image(bomb)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), image_format=st.sampled_from(imaging.FORMATS))
def test_a_damaged_file_is_a_picture_or_an_image_error(data, image_format):
    ramp = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)
    content = bytearray(encode(PillowImage.fromarray(ramp), image_format))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    try:
        image = imaging.decode_image(bytes(content), max_pixels=1_000_000)
    except imaging.ImageError:
        return
    assert image.ndim == 3
    assert image.shape[2] == 3


# --- network input ----------------------------------------------------------------------------------


def test_network_input_is_red_first_and_in_0_to_1():
    image = np.zeros((2, 3, 3), np.uint8)
    image[..., 0], image[..., 1] = 255, 51
    chw = imaging.to_chw(image)
    assert chw.shape == (3, 2, 3)
    assert chw.dtype == np.float32
    assert chw.flags.c_contiguous
    assert chw[:, 0, 0].tolist() == pytest.approx([1, 0.2, 0])


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)],
    ids=["float", "grey", "alpha"],
)
def test_network_input_refuses_anything_but_rgb_bytes(array):
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 RGB"):
        imaging.to_chw(array)
