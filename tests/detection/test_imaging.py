"""The one way from bytes to network input: orientation, colour, depth, limits."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import (
    DISPLAY_P3,
    PROPHOTO,
    SRGB,
    announce,
    chunk,
    encode,
    icc_profile,
    photo,
    png,
    tiff_of,
    tiled_tiff,
)
from PIL import Image as PillowImage
from PIL import ImageCms

from detection import icc, imaging
from detection.containers import read_av1_sizes

RED, WHITE = (255, 0, 0), (255, 255, 255)


def flat(mode: str, colour, size_wh=(8, 6)) -> PillowImage.Image:
    return PillowImage.new(mode, size_wh, colour)


def half_transparent(mode: str, opaque, transparent) -> PillowImage.Image:
    """Return a picture whose lower half is transparent: that is where a test looks."""
    picture = flat(mode, (*opaque, 255))
    picture.paste(transparent, (0, 3, 8, 6))
    return picture


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
        (half_transparent("LA", (0,), (0, 0)), WHITE, "transparent grey shows the white behind it"),
        (half_transparent("RGBA", RED, (*RED, 0)), WHITE, "transparent red shows white"),
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
    picture.putpalette([10, 20, 30, *RED])
    picture.putpixel((7, 5), 1)
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


@pytest.mark.parametrize(
    ("image_format", "mode"),
    [("PNG", "RGBA"), ("PNG", "LA"), ("TIFF", "RGBA"), ("TIFF", "LA"), ("WEBP", "RGBA"), ("AVIF", "RGBA")],
)
def test_where_alpha_is_zero_throughout_the_colours_are_looked_at(image_format, mode):
    if image_format not in imaging.FORMATS:
        pytest.skip(f"this Pillow reads no {image_format}")
    picture = photo().convert("L") if mode == "LA" else photo()
    expected = np.asarray(picture.convert("RGB")).astype(int)
    picture.putalpha(0)
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    image = imaging.decode_image(encode(picture, image_format, **options))
    assert np.abs(image - expected).mean() < 3  # AVIF is lossy


def test_where_the_only_palette_colours_are_transparent_they_are_looked_at():
    picture = flat("P", 0)
    picture.putpalette([10, 20, 30])
    assert tuple(imaging.decode_image(encode(picture, transparency=0))[0, 0]) == (10, 20, 30)


# --- kinds of TIFF ----------------------------------------------------------------------------------

GREY = np.arange(40 * 48).reshape(40, 48) % 256
COLOURS = np.stack([GREY, 255 - GREY, GREY[::-1]], -1)
PLANES = np.moveaxis(COLOURS, -1, 0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("values", "photometric", "planar", "expected"),
    [
        (GREY.astype(np.uint8), 1, 1, GREY),
        (255 - GREY.astype(np.uint8), 0, 1, GREY),
        (COLOURS.astype(np.uint8), 2, 1, COLOURS),
        (PLANES.astype(np.uint8), 2, 2, COLOURS),
        (GREY.astype(np.uint16) * 257, 1, 1, GREY),
        (65535 - GREY.astype(np.uint16) * 257, 0, 1, GREY),
        (COLOURS.astype(np.uint16) * 257, 2, 1, COLOURS),
        (PLANES.astype(np.uint16) * 257, 2, 2, COLOURS),
        (GREY.astype(np.uint32) * 16843009, 1, 1, GREY),
        (GREY.astype(np.int8), 1, 1, GREY),
        (GREY.astype(np.int16) * 128, 1, 1, GREY),
        (GREY.astype(np.int32), 1, 1, GREY),
        (GREY.astype(np.float32) / 255, 1, 1, GREY),
        (1 - GREY.astype(np.float32) / 255, 0, 1, GREY),
        (GREY.astype(np.float64) / 255, 1, 1, GREY),
        (COLOURS.astype(np.float32) / 255, 2, 1, COLOURS),
    ],
)
def test_a_tiff_is_decoded_rightly_or_refused_by_its_kind(
    values, photometric, planar, expected, packed, order
):
    content = tiff_of(values, photometric=photometric, planar=planar, packed=packed, order=order)
    try:
        image = imaging.decode_image(content)
    except imaging.NotAnImage as error:
        image, refusal = None, str(error)
    if image is None:
        assert values.dtype != np.uint8, "every TIFF of whole bytes is read"
        kind = f"{1 if values.ndim == 2 else 3} x {values.dtype.itemsize * 8} bits"
        assert f"a TIFF of a kind that cannot be read here ({kind}" in refusal
    else:
        expected_rgb = expected if expected.ndim == 3 else expected[..., None]
        assert np.abs(image.astype(int) - expected_rgb).max() <= 1


def test_of_a_tiff_that_begins_with_a_thumbnail_the_full_page_is_taken():
    full = photo(160)
    content = encode(photo(40), "TIFF", save_all=True, append_images=[full], tiffinfo={254: 1})
    entry = struct.pack("<HHI", 254, 4, 1)  # both pages have it; the second is in full size
    second = content.rindex(entry) + len(entry)
    content = content[:second] + bytes(4) + content[second + 4 :]
    assert imaging.read_header(content).size_wh == full.size
    assert np.array_equal(imaging.decode_image(content), np.asarray(full))


@pytest.mark.parametrize("tag", [330, 50706], ids=["pages within", "DNG"])
def test_a_raw_photo_is_named_and_its_thumbnail_not_taken_for_it(tag):
    content = encode(photo(40), "TIFF", tiffinfo={254: 1, tag: (1, 4, 0, 0)})
    with pytest.raises(imaging.NotAnImage, match=r"a raw photo cannot be read here.*send a JPEG"):
        imaging.decode_image(content)


@pytest.mark.parametrize(
    ("beginning", "name"),
    [(b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"), (b"\0\0\0\x0cjP  ", "JPEG 2000")],
)
def test_a_format_that_is_taken_for_a_photo_is_named(beginning, name):
    with pytest.raises(imaging.NotAnImage, match=f"a {name} picture cannot be read here; save it as JPEG"):
        imaging.decode_image(beginning + bytes(100))


# --- colour profiles --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("primaries", "gamma", "colour", "expected"),
    [
        # Half of linear light is 188 of 255 in sRGB (IEC 61966-2-1: 1.055 * 0.5 ** (1 / 2.4) - 0.055).
        (SRGB, 1.0, (128, 128, 128), (188, 188, 188)),
        # Grey stays grey whatever the primaries: 0.5 ** 2.2 is 0.2176 of the light, which is 128 in sRGB.
        (DISPLAY_P3, 2.2, (128, 128, 128), (128, 128, 128)),
        # Display P3's green is more than sRGB has: no red or blue, all of the green.
        (DISPLAY_P3, 2.2, (0, 255, 0), (0, 255, 0)),
        (PROPHOTO, 1.8, (255, 255, 255), WHITE),
    ],
)
def test_a_profile_is_converted_to_srgb(primaries, gamma, colour, expected):
    content = encode(flat("RGB", colour), icc_profile=icc_profile(primaries, gamma))
    assert np.abs(imaging.decode_image(content)[0, 0].astype(int) - expected).max() <= 2


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_photo_in_another_colour_space_is_the_photo_again(image_format):
    """Written as ProPhoto would hold it, by the matrices of the two spaces and their exponents."""
    if image_format not in imaging.FORMATS:
        pytest.skip(f"this Pillow reads no {image_format}")
    photo_in_srgb = np.asarray(photo()).astype(float) / 255
    light = np.where(
        photo_in_srgb <= 0.04045, photo_in_srgb / 12.92, ((photo_in_srgb + 0.055) / 1.055) ** 2.4
    )
    wide = light @ np.array(SRGB) @ np.linalg.inv(np.array(PROPHOTO))
    stored = (wide.clip(0, 1) ** (1 / 1.8) * 255).round().astype(np.uint8)
    profile = icc_profile(PROPHOTO, 1.8)
    image = imaging.decode_image(encode(stored, image_format, icc_profile=profile, quality=95))
    assert np.abs(stored - photo_in_srgb * 255).mean() > 8, "the two differ, else this shows nothing"
    assert np.abs(image - photo_in_srgb * 255).mean() < 3


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        b"no profile " * 30,
        icc_profile(PROPHOTO, 1.8)[:300],
        icc_profile(((0, 0, 0),) * 3, 1.8),
        icc_profile(PROPHOTO, 1.8).replace(b"RGB XYZ ", b"CMYKXYZ "),
        icc_profile(PROPHOTO, 1.8) + bytes(icc.MAX_PROFILE_BYTES),
    ],
    ids=["sRGB", "no profile", "cut short", "black", "another mode's", "too large"],
)
def test_the_numbers_stay_as_they_are_under_srgb_or_a_damaged_profile(profile):
    picture = photo()
    image = imaging.decode_image(encode(picture, "TIFF", icc_profile=profile))
    assert np.array_equal(image, np.asarray(picture))


# --- pictures in which nothing can be seen ----------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (encode(photo()), ()),
        (encode(photo().point(lambda value: value // 10)), ("too-dark",)),
        (
            encode(PillowImage.fromarray(np.asarray(photo().convert("L")).astype(np.uint16) << 4)),
            ("too-dark",),
        ),
        (encode(flat("RGB", (0, 0, 0))), ("too-dark",)),
        (encode(flat("RGB", WHITE)), ("blank",)),
        (encode(flat("RGB", (120, 60, 60))), ("blank",)),
        (encode(flat("RGB", RED, (1, 1))), ("blank",)),
    ],
    ids=["photo", "a tenth of the light", "12 bits in 16", "black", "white", "one colour", "one pixel"],
)
def test_what_hides_everything_is_noted(content, notes):
    assert imaging.notes_on(imaging.decode_image(content)) == notes


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


@pytest.mark.parametrize(("width", "height"), [(8000, 8000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_before_decoding(width, height):
    with pytest.raises(imaging.ImageTooLarge, match="at most 40,000,000 pixels, got"):
        imaging.decode_image(png(width, height))


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


@pytest.mark.parametrize("appended", [1, 8, 15])
def test_what_a_phone_appends_to_its_photo_is_not_counted(appended):
    """A motion photo has a film behind it, in which chance puts a scan's marker every 64 kilobytes."""
    content = encode(photo(), "JPEG")
    film = np.random.default_rng(0).bytes(appended * 1_000_000)
    assert film.count(b"\xff\xda") > imaging.MAX_JPEG_SCANS or appended < 8
    assert np.array_equal(imaging.decode_image(content + film), imaging.decode_image(content))


WHOLE = {
    "baseline": encode(photo(), "JPEG"),
    "progressive": encode(photo(), "JPEG", progressive=True),
    "grey": encode(photo().convert("L"), "JPEG"),
    "grey progressive": encode(photo().convert("L"), "JPEG", progressive=True),
    "fine": encode(photo(), "JPEG", quality=95, subsampling=0),
    "coarse": encode(photo(), "JPEG", quality=20),
    "CMYK": encode(photo().convert("CMYK"), "JPEG"),
    "with restarts": encode(photo(), "JPEG", restart_marker_rows=1),
    "flat": encode(flat("RGB", (128, 128, 128), (320, 240)), "JPEG"),
    "flat, progressive": encode(flat("RGB", (128, 128, 128), (320, 240)), "JPEG", progressive=True),
}
PARTS = [part / 100 for part in range(5, 100, 5)] + [0.98, 0.99]
ENDINGS = {
    "nothing": b"",
    "an end marker": b"\xff\xd9",
    "room never filled": bytes(5000),
    "half a marker": b"\xff",
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_part_of_a_jpeg_is_refused_however_it_ends(kind, ending):
    content = WHOLE[kind]
    for part in PARTS:
        cut = content[: int(len(content) * part)]
        if len(content) - len(cut) < 30:
            continue  # of a flat picture that is the last few blocks
        with pytest.raises(imaging.NotAnImage):
            imaging.decode_image(cut + ENDINGS[ending])


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("behind", [b"", b"\xff\xd9" + bytes(5000), b"\xff\xd9 \xff\xda\xff\xd8 more"])
def test_a_whole_jpeg_is_looked_at_whatever_stands_behind_it(kind, behind):
    content = WHOLE[kind]
    assert content.endswith(b"\xff\xd9")
    with PillowImage.open(io.BytesIO(content)) as picture:
        expected = np.asarray(picture.convert("RGB"))
    assert np.array_equal(imaging.decode_image(content[:-2] + behind), expected)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "AVIF", "HEIF", "GIF"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("filled_up", [False, True])
def test_a_part_of_a_picture_is_refused_in_every_packed_format(image_format, part, filled_up):
    if image_format not in imaging.FORMATS:
        pytest.skip(f"this Pillow reads no {image_format}")
    content = encode(photo(640), image_format)
    cut = content[: int(len(content) * part)]
    with pytest.raises(imaging.NotAnImage):
        imaging.decode_image(cut.ljust(len(content), b"\0") if filled_up else cut)


# Adam7's seven pictures of a 16 x 16 one: columns and rows (PNG, 8.2).
ADAM7 = [(2, 2), (2, 2), (4, 2), (4, 4), (8, 4), (8, 8), (16, 8)]


@pytest.mark.parametrize(
    ("interlaced", "passes", "whole"), [(0, [(16, 16)], True), (0, [(16, 4)], False), (1, ADAM7, True)]
    + [(1, ADAM7[:count], False) for count in range(1, 7)],
)  # fmt: skip
def test_a_png_of_fewer_rows_than_it_announces_is_refused(interlaced, passes, whole):
    noise = np.random.default_rng(0)
    rows = [b"\0" + noise.bytes(3 * columns) for columns, count in passes for _ in range(count)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, interlaced))
    content = (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    )
    if whole:
        assert imaging.decode_image(content).shape == (16, 16, 3)
        return
    with pytest.raises(imaging.NotAnImage, match="a part of it is missing"):
        imaging.decode_image(content)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "I;16"])
@pytest.mark.parametrize("size_wh", [(1, 1), (1, 9), (7, 3), (40, 31)])
def test_a_whole_png_that_ends_black_is_looked_at(mode, size_wh):
    black = np.zeros(size_wh[::-1], np.uint16) if mode == "I;16" else None
    picture = PillowImage.fromarray(black) if black is not None else PillowImage.new(mode, size_wh)
    assert imaging.decode_image(encode(picture)).shape == (*size_wh[::-1], 3)


# --- headers that say less than there is to unpack --------------------------------------------------


@pytest.mark.parametrize(
    ("size_wh", "tile_wh"),
    [((16, 16), (10_000, 10_000)), ((80_000, 16), (2_000, 2_000)), ((16, 80_000), (1_008, 2_000))],
    ids=["one large tile", "many tiles in a row", "many tiles in a column"],
)
def test_tiles_are_counted_in_full(size_wh, tile_wh):
    began = time.perf_counter()
    with pytest.raises(imaging.ImageTooLarge, match="unpacks to at most 80,000,000 pixels"):
        imaging.decode_image(tiled_tiff(size_wh, tile_wh))
    assert time.perf_counter() - began < 120


def test_tiles_that_reach_over_the_edge_as_usual_are_read():
    assert imaging.decode_image(tiled_tiff((100, 60), (64, 64))).shape == (60, 100, 3)


def test_a_tiff_that_says_its_tile_size_twice_is_refused():
    content = tiled_tiff((16, 16), (4_000, 4_000), (322, 4, 1, 16), (323, 4, 1, 16))
    with pytest.raises(imaging.NotAnImage, match="it says two things of its size"):
        imaging.decode_image(content)


def test_an_avif_is_measured_by_its_data_not_by_its_boxes():
    if "AVIF" not in imaging.FORMATS:
        pytest.skip("this Pillow reads no AVIF")
    honest = encode(flat("RGB", RED, (400, 300)), "AVIF")
    assert imaging.decode_image(honest, max_pixels=120_000).shape == (300, 400, 3)
    with pytest.raises(imaging.ImageTooLarge, match="64 x 64 that unpack to 60,000"):
        imaging.decode_image(announce(honest, 64, 64), max_pixels=20_000)


@pytest.mark.parametrize("size_wh", [(64, 48), (1000, 701)])
def test_the_size_of_av1_data_is_found_in_pictures_with_alpha_and_in_films(size_wh):
    if "AVIF" not in imaging.FORMATS:
        pytest.skip("this Pillow reads no AVIF")
    frames = [flat("RGBA", (*RED, alpha), size_wh) for alpha in (9, 200)]
    assert read_av1_sizes(encode(frames[0], "AVIF")) == [size_wh] * 2  # its colours and its alpha
    film = encode(
        frames[0].convert("RGB"), "AVIF", save_all=True, append_images=[flat("RGB", WHITE, size_wh)]
    )
    assert set(read_av1_sizes(film)) == {size_wh}


@pytest.mark.parametrize("size_wh", [(64, 64), (4000, 3000), (40_000, 40_000)])
def test_a_heic_that_announces_another_size_is_refused(size_wh):
    pytest.importorskip("pillow_heif")
    with pytest.raises(imaging.ImageError):
        imaging.decode_image(announce(encode(photo(), "HEIF"), *size_wh))


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
